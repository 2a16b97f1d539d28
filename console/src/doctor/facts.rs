// SPDX-License-Identifier: GPL-2.0-or-later
//! What doctor and status look at, gathered from the host.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use serde::Serialize;
use trafstat_cli::output::with_causes;
use trafstat_cli::store::StoreOptions;
use trafstat_store::collect::{Spool, SpoolError, SpoolPlace, SpoolState};
use trafstat_store::query::{Field, Filter, Order, Query};
use trafstat_store::store::Store;

use super::module::{self, Build};
use crate::kernel_accounts::{self, KernelAccount};
use crate::kernel_module::is_loaded;
use crate::quota::{self, Usage};
use crate::setup::{Host, other_program};
use crate::system::System;

/// The collector's timer, and two runs that a busy host may have missed.
pub const COLLECTED_WITHIN_MINUTES: i64 = 16;

/// Facts about counting and collecting on a host.
#[derive(Debug)]
pub struct Facts {
    /// The kernel's release.
    pub kernel: String,
    /// Why the module is not loaded; none if it is.
    pub load_failure: Option<LoadFailure>,
    /// The module that is loaded.
    pub loaded_module: Option<Build>,
    /// The module that modprobe would load.
    pub installed_module: Option<Build>,
    /// Installed kernels for which there is no module.
    pub kernels_without_module: Vec<String>,
    /// iptables speaks to nftables, and the kernel has no nft_compat.
    pub nft_compat_missing: bool,
    /// What iptables-save -c and ip6tables-save -c print, with the program's name.
    pub saved_rules: Vec<(String, String)>,
    /// The same of the programs that are not in use: rules of both variants are in force.
    pub other_saved_rules: Vec<(String, String)>,
    /// Files that a firewall loads at boot and that name the module's target.
    pub firewall_files: Vec<String>,
    /// What `nft list ruleset` prints, if there is nft.
    pub nft_ruleset: String,
    /// TCP ports that listen.
    pub tcp_ports: BTreeSet<u16>,
    /// UDP ports that listen.
    pub udp_ports: BTreeSet<u16>,
    /// The kernel's accounts.
    pub accounts: Vec<KernelAccount>,
    /// What is wrong with the configuration file; without it, nothing else of the store is known.
    pub configuration_error: Option<String>,
    /// Epochs collected within the last minutes, or why the store cannot be asked.
    pub recent_epochs: Result<u64, String>,
    /// Epochs in the store that closed later than now.
    pub future_epochs: u64,
    /// How many epochs are in the spool, or why that is unknown.
    pub spool: Result<SpoolCounts, String>,
    /// Free and all bytes of the store's file system, where it is a file here.
    pub store_space: Option<(u64, u64)>,
    /// Units of trafstat that are enabled, where systemd runs.
    pub units: Option<Vec<String>>,
    /// How much of each quota is used, or why that cannot be told.
    pub quotas: Result<Vec<Usage>, String>,
    /// At how many percent of a quota to warn.
    pub warn_at: Vec<u32>,
}

/// Files from which netfilter-persistent, ufw and nftables set a firewall at boot.
const FIREWALL_FILES: [&str; 9] = [
    "/etc/iptables/rules.v4",
    "/etc/iptables/rules.v6",
    "/etc/ufw/before.rules",
    "/etc/ufw/before6.rules",
    "/etc/ufw/after.rules",
    "/etc/ufw/after6.rules",
    "/etc/ufw/user.rules",
    "/etc/ufw/user6.rules",
    "/etc/nftables.conf",
];

/// How many epochs are in the spool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SpoolCounts {
    /// Those that wait for the database.
    pub waiting: u64,
    /// Those that are set aside, since the database refuses them.
    pub refused: u64,
}

/// Why the module does not load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadFailure {
    /// It was not tried.
    NotTried,
    /// There is none for this kernel.
    NotBuilt,
    /// The kernel takes signed modules only, and does not know this signature.
    SignatureRefused,
    /// Anything else, in modprobe's words.
    Other(String),
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            kernel: String::new(),
            load_failure: None,
            loaded_module: None,
            installed_module: None,
            kernels_without_module: Vec::new(),
            nft_compat_missing: false,
            saved_rules: Vec::new(),
            other_saved_rules: Vec::new(),
            firewall_files: Vec::new(),
            nft_ruleset: String::new(),
            tcp_ports: BTreeSet::new(),
            udp_ports: BTreeSet::new(),
            accounts: Vec::new(),
            configuration_error: None,
            recent_epochs: Ok(0),
            future_epochs: 0,
            spool: Ok(SpoolCounts::default()),
            store_space: None,
            units: None,
            quotas: Ok(Vec::new()),
            warn_at: Vec::new(),
        }
    }
}

impl Facts {
    /// Gathers them. With `tries_module`, a module that is not loaded is tried to be: there is no
    /// other way to learn what the kernel thinks of it.
    ///
    /// # Errors
    /// A file of the system cannot be read.
    pub fn of(system: &dyn System, options: &StoreOptions, tries_module: bool) -> Result<Self> {
        let host = Host::of(system)?;
        let kernel = system
            .read("/proc/sys/kernel/osrelease")?
            .unwrap_or_default()
            .trim()
            .to_owned();
        let load_failure = match tries_module || is_loaded(system) {
            true => load_failure(system)?,
            false => Some(LoadFailure::NotTried),
        };
        let (mut saved_rules, mut other_saved_rules) = (Vec::new(), Vec::new());
        for program in [&host.iptables, &host.ip6tables].into_iter().flatten() {
            saved_rules.push(saved(system, program)?);
            if let Some(other) = other_program(system, program)? {
                other_saved_rules.push(saved(system, &other)?);
            }
        }
        let nft_ruleset = match system.has_program("nft") {
            true => system.run(&["nft", "list", "ruleset"], "")?.stdout,
            false => String::new(),
        };
        let mut facts = Self {
            kernel,
            load_failure,
            loaded_module: Build::loaded(system)?,
            installed_module: Build::installed(system)?,
            kernels_without_module: module::kernels_without(system)?,
            nft_compat_missing: nft_compat_missing(system, &host)?,
            saved_rules,
            other_saved_rules,
            firewall_files: firewall_files(system)?,
            nft_ruleset,
            tcp_ports: host.tcp_ports,
            udp_ports: host.udp_ports,
            accounts: kernel_accounts::read(system)?.unwrap_or_default(),
            units: enabled_units(system, host.systemd)?,
            ..Self::default()
        };
        facts.ask(options);
        facts.ask_quotas_and_spool(options);
        facts.store_space = space(&system.path("/var/lib/trafstat"));
        Ok(facts)
    }

    fn ask_quotas_and_spool(&mut self, options: &StoreOptions) {
        self.quotas = match options.config() {
            Ok(config) => {
                self.spool = SpoolCounts::of(&config.collect.spool_place())
                    .map_err(|error| error.to_string());
                self.warn_at.clone_from(&config.quota.warn_at);
                quota::used(&config, options, &ZonedDateTime::now())
                    .map_err(|error| with_causes(&error))
            }
            Err(error) => {
                self.configuration_error = Some(error.to_string());
                Err(error.to_string())
            }
        };
    }

    fn ask(&mut self, options: &StoreOptions) {
        let mut store = match options.open_read_only() {
            Ok(store) => store,
            Err(error) => {
                self.recent_epochs = Err(error.to_string());
                return;
            }
        };
        let now = Timestamp::now();
        let recent = now - SignedDuration::from_mins(COLLECTED_WITHIN_MINUTES);
        self.recent_epochs = epochs_since(store.as_mut(), recent);
        // The collector and this may read the clock in another order.
        let future = now + SignedDuration::from_mins(1);
        self.future_epochs = epochs_since(store.as_mut(), future).unwrap_or_default();
    }
}

/// Those of the firewalls' files that name the target.
fn firewall_files(system: &dyn System) -> Result<Vec<String>> {
    let names_target =
        |line: &str| !line.trim_start().starts_with('#') && line.contains("TRAFSTAT");
    let mut found = Vec::new();
    for path in FIREWALL_FILES {
        let text = system.read(path)?.unwrap_or_default();
        if text.lines().any(names_target) {
            found.push(path.to_owned());
        }
    }
    Ok(found)
}

impl SpoolCounts {
    fn of(place: &SpoolPlace) -> Result<Self, SpoolError> {
        let Some(spool) = Spool::open_existing(place)? else {
            return Ok(Self::default());
        };
        Ok(Self {
            waiting: spool.count(SpoolState::Waiting)?,
            refused: spool.count(SpoolState::Refused)?,
        })
    }
}

/// A program of iptables, and what its rules are saved as.
fn saved(system: &dyn System, program: &str) -> Result<(String, String)> {
    let saved = system.run(&[&format!("{program}-save"), "-c"], "")?;
    Ok((program.to_owned(), saved.stdout))
}

fn epochs_since(store: &mut dyn Store, since: Timestamp) -> Result<u64, String> {
    let query = Query {
        by: vec![Field::Protocol],
        filter: Filter {
            since: Some(since),
            ..Filter::default()
        },
        order: Order::Bytes,
        limit: Some(1),
        ..Query::default()
    };
    match store.query(&query) {
        Ok(answer) => Ok(answer.epochs),
        Err(error) => Err(error.to_string()),
    }
}

fn load_failure(system: &dyn System) -> Result<Option<LoadFailure>> {
    if is_loaded(system) {
        return Ok(None);
    }
    let ended = system.run(&["modprobe", "xt_TRAFSTAT"], "")?;
    if ended.code == Some(0) {
        return Ok(None);
    }
    Ok(Some(LoadFailure::of(&ended.stderr)))
}

impl LoadFailure {
    /// What modprobe's words mean.
    fn of(words: &str) -> Self {
        // ENOKEY, EKEYREJECTED, and EPERM, which lockdown says.
        let refused = [
            "Required key not available",
            "Key was rejected by service",
            "Operation not permitted",
        ];
        // The second is said of a module that only modprobe's own configuration names.
        let not_built = ["not found in directory", "could not find module by name"];
        if not_built.iter().any(|reason| words.contains(reason)) {
            Self::NotBuilt
        } else if refused.iter().any(|reason| words.contains(reason)) {
            Self::SignatureRefused
        } else {
            Self::Other(words.trim().to_owned())
        }
    }
}

fn nft_compat_missing(system: &dyn System, host: &Host) -> Result<bool> {
    let Some(program) = &host.iptables else {
        return Ok(false);
    };
    let speaks_nft = system
        .run(&[program, "-V"], "")?
        .stdout
        .contains("nf_tables");
    let found = system.run(&["modprobe", "--dry-run", "--quiet", "nft_compat"], "")?;
    Ok(speaks_nft && found.code != Some(0) && !system.path("/sys/module/nft_compat").exists())
}

fn enabled_units(system: &dyn System, systemd: bool) -> Result<Option<Vec<String>>> {
    if !systemd {
        return Ok(None);
    }
    let listed = system.run(
        &[
            "systemctl",
            "list-unit-files",
            "--no-legend",
            "--no-pager",
            "--state=enabled",
            "trafstat*",
        ],
        "",
    )?;
    Ok(Some(
        listed
            .stdout
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect(),
    ))
}

fn space(folder: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some((
        found.f_bavail * found.f_frsize,
        found.f_blocks * found.f_frsize,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::FakeHost;

    #[test]
    fn rules_of_both_variants_are_read() {
        let mut host = FakeHost::new();
        for program in ["iptables", "iptables-legacy"] {
            host.file(&format!("/usr/sbin/{program}"), "");
        }
        host.file("/proc/net/ip_tables_names", "nat\n");
        let nat = "*nat\n[1:1] -A PREROUTING -j TRAFSTAT --local-net 192.0.2.1\nCOMMIT\n";
        host.says("iptables -V", "iptables v1.8.9 (nf_tables)\n");
        host.says("iptables-save -c", "*filter\nCOMMIT\n");
        host.says("iptables-legacy-save -c", nat);
        host.says("ip -o -4 address show scope global", "");
        let facts = Facts::of(&host, &StoreOptions::default(), true).unwrap();
        let programs = |rules: &[(String, String)]| {
            let mut programs = rules.iter().map(|(program, _)| program.clone());
            (programs.next(), programs.next())
        };
        assert_eq!(
            programs(&facts.saved_rules),
            (Some("iptables".to_owned()), None)
        );
        assert_eq!(
            facts.other_saved_rules,
            [("iptables-legacy".to_owned(), nat.to_owned())]
        );
        // Asking for them would make the tables of a variant that has none.
        host.file("/proc/net/ip_tables_names", "");
        let facts = Facts::of(&host, &StoreOptions::default(), true).unwrap();
        assert_eq!(facts.other_saved_rules, []);
    }

    #[test]
    fn firewalls_files_that_name_the_target_are_found() {
        let host = FakeHost::new();
        host.file(
            "/etc/iptables/rules.v4",
            "-A INPUT -j TRAFSTAT --local-net 192.0.2.1\n",
        );
        host.file(
            "/etc/iptables/rules.v6",
            "# no -j TRAFSTAT here\n-A INPUT -j DROP\n",
        );
        host.file(
            "/etc/ufw/before.rules",
            "[1:2] -A ufw-before -j TRAFSTAT --local-net 192.0.2.1\n",
        );
        assert_eq!(
            firewall_files(&host).unwrap(),
            ["/etc/iptables/rules.v4", "/etc/ufw/before.rules"]
        );
    }

    #[test]
    fn modprobe_says_why_in_words_that_are_understood() {
        let of = LoadFailure::of;
        assert_eq!(
            of("modprobe: FATAL: Module xt_TRAFSTAT not found in directory /lib/modules/6.1\n"),
            LoadFailure::NotBuilt
        );
        assert_eq!(
            of(
                "modprobe: ERROR: ../libkmod/libkmod-module.c:895 kmod_module_insert_module() could \
                 not find module by name='xt_TRAFSTAT'\nmodprobe: ERROR: could not insert \
                 'xt_TRAFSTAT': Unknown symbol in module, or unknown parameter (see dmesg)\n"
            ),
            LoadFailure::NotBuilt
        );
        for reason in [
            "Key was rejected by service",
            "Required key not available",
            "Operation not permitted",
        ] {
            assert_eq!(
                of(&format!(
                    "modprobe: ERROR: could not insert 'xt_TRAFSTAT': {reason}\n"
                )),
                LoadFailure::SignatureRefused
            );
        }
        assert_eq!(
            of("modprobe: ERROR: could not insert 'xt_TRAFSTAT': Cannot allocate memory\n"),
            LoadFailure::Other(
                "modprobe: ERROR: could not insert 'xt_TRAFSTAT': Cannot allocate memory"
                    .to_owned()
            )
        );
    }
}
