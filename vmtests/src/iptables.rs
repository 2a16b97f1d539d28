// SPDX-License-Identifier: GPL-2.0-or-later
//! Rules of a namespace, through the system's own iptables and the plugin beside this program.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::process::{self, ProgramOutput};
use crate::topology::Netns;

/// Options that give every flow a record of its own.
pub const ALL_PORTS: &str = "--local-tcp-ports all --local-udp-ports all \
                             --remote-tcp-ports all --remote-udp-ports all";

/// How the rules come into the kernel, and what runs them there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// nftables, through nft_compat.
    Nft,
    /// x_tables.
    Legacy,
}

impl Backend {
    /// Those that this kernel has; some are built without x_tables' own tables, and it is said when
    /// this one is.
    ///
    /// # Errors
    ///
    /// There is no modprobe.
    pub fn all() -> Result<&'static [Self]> {
        let mut modprobe = Command::new("modprobe");
        let found = process::end(modprobe.args(["--dry-run", "--quiet", "iptable_filter"]))?;
        if found.code == Some(0) {
            // Once a namespace has legacy tables, iptables-nft warns of them.
            return Ok(&[Self::Nft, Self::Legacy]);
        }
        println!("this kernel has no legacy tables: no rule goes through iptables-legacy");
        Ok(&[Self::Nft])
    }
}

/// The version of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// The one that is built.
    This,
    /// An older one, with the target's oldest revision alone.
    Older,
    /// A newer one, with an option in every rule that nothing here knows.
    Newer,
}

/// iptables or ip6tables in one namespace.
pub struct Iptables<'a> {
    guest: &'a Guest,
    netns: &'a Netns,
    family: Family,
    /// The system's choice, where none is made.
    backend: Option<Backend>,
    plugin: Plugin,
}

/// What a rule's or several rules' counters say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCounters {
    /// Socket buffers.
    pub packets: u64,
    /// Layer-3 bytes of them.
    pub bytes: u64,
}

impl RuleCounters {
    /// Counts `other`, too.
    pub fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl<'a> Iptables<'a> {
    /// The rules of `netns` for `family`, through the backend that the system chooses.
    pub fn new(guest: &'a Guest, netns: &'a Netns, family: Family) -> Self {
        Self {
            guest,
            netns,
            family,
            backend: None,
            plugin: Plugin::This,
        }
    }

    /// The same, through `backend`.
    pub fn through(self, backend: Backend) -> Self {
        Self {
            backend: Some(backend),
            ..self
        }
    }

    /// The same with `plugin`.
    pub fn with_plugin(self, plugin: Plugin) -> Self {
        Self { plugin, ..self }
    }

    /// The program's name, such as `ip6tables-legacy`.
    pub fn program(&self) -> String {
        let family = match self.family {
            Family::Ipv4 => "iptables",
            Family::Ipv6 => "ip6tables",
        };
        let backend = match self.backend {
            None => "",
            Some(Backend::Nft) => "-nft",
            Some(Backend::Legacy) => "-legacy",
        };
        format!("{family}{backend}")
    }

    /// Counts everything that the local address receives and sends, as the manual says to.
    ///
    /// # Errors
    ///
    /// A rule is refused.
    pub fn count_local(&self, options: &str) -> Result<()> {
        let local = self.family.local();
        for end in ["INPUT -d", "OUTPUT -s"] {
            self.succeed(&format!(
                "-I {end} {local} -j TRAFSTAT --local-net {local} {options}"
            ))?;
        }
        Ok(())
    }

    /// Deletes all rules.
    ///
    /// # Errors
    ///
    /// iptables fails.
    pub fn flush(&self) -> Result<()> {
        self.succeed("-F")
    }

    /// Runs iptables with `arguments`, separated by spaces; it must exit with 0.
    ///
    /// # Errors
    ///
    /// It exits otherwise.
    pub fn succeed(&self, arguments: &str) -> Result<()> {
        self.netns
            .succeed(&mut self.command("", arguments))
            .map(drop)
    }

    /// A command for the namespace that counts what `end` is a rule of, such as `-A OUTPUT`.
    pub fn command_to_count(&self, local: IpAddr, end: &str) -> Command {
        self.command("", &format!("{end} -j TRAFSTAT --local-net {local}"))
    }

    /// Runs iptables with `arguments`, however it ends.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn end(&self, arguments: &str) -> Result<ProgramOutput> {
        self.netns.end(&mut self.command("", arguments))
    }

    /// What `iptables-save` prints, without comments and counters.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn save(&self) -> Result<String> {
        let saved = self.netns.succeed(&mut self.command("-save", ""))?;
        let rules = saved.lines().filter(|line| !line.starts_with('#'));
        Ok(rules
            // A chain's line ends with its policy's counters.
            .map(|line| match line.starts_with(':') {
                true => line.split(" [").next().unwrap_or(line),
                false => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect())
    }

    /// Replaces all rules by `rules`, as `iptables-save` prints them.
    ///
    /// # Errors
    ///
    /// A rule is refused.
    pub fn restore(&self, rules: &str) -> Result<()> {
        let ended = self.end_restore(rules)?;
        ensure!(
            ended.code == Some(0),
            "{}-restore: {ended:?}",
            self.program()
        );
        Ok(())
    }

    /// Like [`Self::restore`], however it ends.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn end_restore(&self, rules: &str) -> Result<ProgramOutput> {
        self.end_restore_with("", rules)
    }

    /// Like [`Self::end_restore`], beside the rules that are there.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn end_restore_more(&self, rules: &str) -> Result<ProgramOutput> {
        self.end_restore_with("--noflush", rules)
    }

    fn end_restore_with(&self, options: &str, rules: &str) -> Result<ProgramOutput> {
        let mut command = self.command("-restore", options);
        self.netns
            .enter(|| process::end_with_input(&mut command, rules))
    }

    /// What `iptables -nvxL` prints.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn list(&self) -> Result<String> {
        self.netns.succeed(&mut self.command("", "-nvxL"))
    }

    /// The counters of all TRAFSTAT rules together.
    ///
    /// # Errors
    ///
    /// iptables prints something unknown.
    pub fn counters(&self) -> Result<RuleCounters> {
        self.counters_of("TRAFSTAT")
    }

    /// The counters of all rules with `target` together.
    ///
    /// # Errors
    ///
    /// iptables prints something unknown.
    pub fn counters_of(&self, target: &str) -> Result<RuleCounters> {
        let mut sum = RuleCounters::default();
        // pkts bytes target ...
        for line in self.list()?.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [packets, bytes, found, ..] = fields[..] else {
                continue;
            };
            if found == target {
                sum.packets += packets.parse::<u64>().with_context(|| line.to_owned())?;
                sum.bytes += bytes.parse::<u64>().with_context(|| line.to_owned())?;
            }
        }
        Ok(sum)
    }

    /// The counters of the TRAFSTAT rules of all tables, by the name that each rule gives.
    ///
    /// # Errors
    ///
    /// iptables-save prints something unknown.
    pub fn counters_by_name(&self) -> Result<BTreeMap<String, RuleCounters>> {
        let saved = self.netns.succeed(&mut self.command("-save", "-c"))?;
        let mut sums = BTreeMap::<String, RuleCounters>::new();
        // [PACKETS:BYTES] -A CHAIN ... --name NAME
        for line in saved.lines().filter(|line| line.starts_with('[')) {
            let (counters, rule) = parse_counters(line).with_context(|| line.to_owned())?;
            if let Some((_, name)) = rule.split_once(" --name ") {
                sums.entry(name.trim_end().to_owned())
                    .or_default()
                    .add(counters);
            }
        }
        Ok(sums)
    }

    /// The program whose name goes on with `suffix`.
    fn command(&self, suffix: &str, arguments: &str) -> Command {
        let mut command = Command::new(self.program() + suffix);
        if suffix != "-save" {
            // For the lock that legacy ones have in common, whatever their namespace.
            command.arg("-w");
        }
        let acts_as = match self.plugin {
            Plugin::This => None,
            Plugin::Older => Some("older"),
            Plugin::Newer => Some("newer"),
        };
        match acts_as {
            None => command.env("XTABLES_LIBDIR", self.guest.plugin_path()),
            Some(version) => command
                .env("XTABLES_LIBDIR", self.guest.path_of_other_versions())
                .env("TRAFSTAT_TEST_PLUGIN", version),
        };
        command.args(arguments.split_whitespace());
        command
    }
}

fn parse_counters(line: &str) -> Option<(RuleCounters, &str)> {
    let (counters, rule) = line.strip_prefix('[')?.split_once(']')?;
    let (packets, bytes) = counters.split_once(':')?;
    let counters = RuleCounters {
        packets: packets.parse().ok()?,
        bytes: bytes.parse().ok()?,
    };
    Some((counters, rule))
}
