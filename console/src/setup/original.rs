// SPDX-License-Identifier: GPL-2.0-or-later
//! What a host has of the original xt_TRAFSTAT, and how this one takes its place.
//!
//! The original's module goes by a reboot only. When a rule of its own is deleted, it walks on from
//! tree nodes that it has freed, and the kernel may fault; so nothing here deletes one.

use std::fs;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tracing::warn;
use trafstat_store::origin::Origin;

use crate::kernel_module::{self, is_loaded};
use crate::system::System;

/// Where what is the original's lies aside.
const FOLDER: &str = "/var/lib/trafstat/original";
/// The rules that it counted for, until this module does.
const RULES: &str = "/var/lib/trafstat/original/rules.json";
/// That its tables and files are taken over.
const IMPORTED: &str = "/var/lib/trafstat/original/imported";
/// The login that its scripts use.
const MY_CNF: &str = "/root/.my.cnf";
const CRONTAB: &str = "/etc/crontab";
/// What its README tells to put into the crontab and into a folder of cron's.
const SCRIPTS: [&str; 2] = ["trafstat_dumper", "trafstat_rotater"];
const SCRIPT_FILES: [&str; 6] = [
    "/etc/cron.weekly/trafstat_rotater",
    "/etc/cron.weekly/trafstat_rotater.sh",
    "/usr/local/bin/trafstat_dumper.sh",
    "/usr/local/bin/trafstat_rotater.sh",
    "/usr/local/bin/trafstat_show.sh",
    "/usr/local/sbin/trafstat_dumper.sh",
];
const OFF: &str = "# trafstat setup: ";
const PLUGINS: &str = "/usr/lib/x86_64-linux-gnu/xtables";

/// A rule and its number in its chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlacedRule {
    chain: String,
    place: usize,
    words: String,
}

impl PlacedRule {
    /// Whether both count the same packets for the same local network; the other options are
    /// printed as the plugin has them.
    fn counts_the_same(&self, other: &Self) -> bool {
        let counted = |words: &str| -> Option<(String, String)> {
            let (matches, options) = words.split_once("-j TRAFSTAT")?;
            let (_, local_net) = options.split_once("--local-net ")?;
            let local_net = local_net.split(' ').next()?;
            Some((matches.to_owned(), local_net.to_owned()))
        };
        self.chain == other.chain && counted(&self.words) == counted(&other.words)
    }
}

/// Whether there is anything of it.
///
/// # Errors
/// A file of the system cannot be read.
pub fn is_here(system: &dyn System) -> Result<bool> {
    Ok(is_running(system)
        || system.path(RULES).exists()
        || candidates(system)
            .iter()
            .any(|path| system.path(path).exists())
        || has_cron_lines(system)?)
}

/// Where its tables are, by its README: in the database that its scripts name, if they have a login.
pub fn tables(system: &dyn System) -> Option<String> {
    let has_login = system.path(MY_CNF).exists();
    has_login.then(|| "mysql://localhost/trafstat".to_owned())
}

/// Whether its rules, its module, its scripts and its lines of the crontab have given way.
///
/// # Errors
/// A file of the system cannot be read.
pub fn is_replaced(system: &dyn System) -> Result<bool> {
    Ok(!is_here(system)? && is_loaded(system))
}

/// Lays its module aside and, once that runs no more, its scripts and its lines of the crontab, and
/// puts this module under its rules, which stay where they are in their chains.
///
/// # Errors
/// It runs: the next run goes on after a reboot, until which its scripts go on. Or the system's.
pub fn replace(system: &dyn System, program: &str) -> Result<()> {
    if is_running(system) {
        write_rules_down(system, program)?;
        lay_aside(system, modules(system))?;
        system.succeed(&["depmod", "--all"], "")?;
        read_counters(system)?;
        bail!(
            "the original's module uses memory that it has freed when its \
             rules are deleted, and the kernel may fault. All is prepared, and what it has counted \
             is kept; reboot now, and then run this again"
        );
    }
    switch_cron_lines(system, true)?;
    lay_aside(system, candidates(system))?;
    system.succeed(&["depmod", "--all"], "")?;
    system
        .succeed(&["modprobe", "xt_TRAFSTAT"], "")
        .context("\"trafstat doctor\" says why")?;
    set_rules_again(system, program)?;
    system.remove(RULES)
}

/// Puts its scripts, its modules and its lines of the crontab back where they were.
///
/// # Errors
/// The system's.
pub fn put_back(system: &dyn System) -> Result<()> {
    for path in candidates(system) {
        if system.path(&aside(&path)).exists() {
            system.rename(&aside(&path), &path)?;
        }
    }
    system.succeed(&["depmod", "--all"], "")?;
    system.remove(RULES)?;
    switch_cron_lines(system, false)
}

/// Whether its statistics are in the store.
pub fn is_imported(system: &dyn System) -> bool {
    system.path(IMPORTED).exists()
}

/// Takes over its tables, what its rotation wrote, and what was not read yet.
///
/// # Errors
/// The import's.
pub fn import(system: &dyn System, url: Option<&str>) -> Result<()> {
    let mut paths = Vec::new();
    for (folder, begin) in [(FOLDER, ""), ("/var/trafstat", "trafstat_")] {
        paths.extend(
            names(system, folder)
                .into_iter()
                .filter(|name| trafstat_store::import::original_account(name).is_some())
                .filter(|name| name.starts_with(begin))
                .map(|name| format!("{folder}/{name}")),
        );
    }
    // This host counted, and the original's collector stores nothing any more.
    let origin = Origin::of_this_process()?.machine_id;
    let command = [
        "trafstat-store",
        "import",
        "--format",
        "csv",
        "--whole",
        "--origin",
        &origin,
    ];
    if !paths.is_empty() {
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        system.succeed(&[&command[..], &paths].concat(), "")?;
    }
    if let Some(url) = url {
        let mut words = [&command[..], &["--from-url", url]].concat();
        if system.path(MY_CNF).exists() {
            words.extend(["--from-defaults-file", MY_CNF]);
        }
        system.succeed(&words, "")?;
    }
    system.write(IMPORTED, "", 0o644)
}

/// Forgets that the statistics were taken over; the store keeps them.
///
/// # Errors
/// The system's.
pub fn forget_import(system: &dyn System) -> Result<()> {
    system.remove(IMPORTED)
}

/// Its module, and not this one, is loaded.
fn is_running(system: &dyn System) -> bool {
    system.path(kernel_module::SYS).exists() && !is_loaded(system)
}

/// Keeps the rules for a host where nothing restores them at boot.
fn write_rules_down(system: &dyn System, program: &str) -> Result<()> {
    // They are of another revision than this plugin's, which cannot print them; the package's
    // installation laid the original's plugin aside.
    let folders = format!("XTABLES_LIBDIR={FOLDER}:{PLUGINS}");
    let save = format!("{program}-save");
    let saved = system
        .succeed(&["env", &folders, &save, "-t", "filter"], "")
        .with_context(|| {
            format!(
                "the original's rules cannot be read without its libxt_TRAFSTAT.so in {FOLDER}: \
                 put it there; or, where they are restored at boot, reboot, and run this again"
            )
        })?;
    let rules = serde_json::to_string_pretty(&placed_rules(&saved))?;
    system.write(RULES, &rules, 0o600)
}

/// Keeps what the module has counted since it was last read, and will not have after the reboot.
fn read_counters(system: &dyn System) -> Result<()> {
    for name in names(system, "/proc/trafstat") {
        let counted = system
            .read(&format!("/proc/trafstat/{name}"))?
            .unwrap_or_default();
        if !counted.is_empty() {
            // Behind what an earlier set-up kept and imported: then only these rows are new.
            let path = format!("{FOLDER}/{name}");
            let before = system.read(&path)?.unwrap_or_default();
            system.write(&path, &(before + &counted), 0o600)?;
        }
    }
    Ok(())
}

/// Sets those of the rules written down that did not come back at boot.
fn set_rules_again(system: &dyn System, program: &str) -> Result<()> {
    let Some(text) = system.read(RULES)? else {
        return Ok(());
    };
    let rules: Vec<PlacedRule> =
        serde_json::from_str(&text).with_context(|| format!("{RULES} is damaged"))?;
    let saved = system.succeed(&[&format!("{program}-save"), "-t", "filter"], "")?;
    let standing = placed_rules(&saved);
    let missing: String = rules
        .iter()
        .filter(|rule| !standing.iter().any(|other| other.counts_the_same(rule)))
        .map(|rule| format!("-I {} {} {}\n", rule.chain, rule.place, rule.words))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let input = format!("*filter\n{missing}COMMIT\n");
    let restore = format!("{program}-restore");
    system.succeed(&[&restore, "--noflush", "--wait=60"], &input)?;
    warn!(
        "not all of the original's rules had been restored at boot: save them, with \
         netfilter-persistent or as this host does it, or the next reboot loses them"
    );
    Ok(())
}

/// The rules that count, with their numbers, from what iptables-save prints.
fn placed_rules(saved: &str) -> Vec<PlacedRule> {
    let mut last: std::collections::BTreeMap<&str, usize> = Default::default();
    let mut rules = Vec::new();
    for line in saved.lines() {
        let Some((chain, words)) = line
            .strip_prefix("-A ")
            .and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let place = last.entry(chain).or_default();
        *place += 1;
        if words.contains("-j TRAFSTAT") {
            rules.push(PlacedRule {
                chain: chain.to_owned(),
                place: *place,
                words: words.to_owned(),
            });
        }
    }
    rules
}

/// Where its scripts and its modules may be.
fn candidates(system: &dyn System) -> Vec<String> {
    let mut paths = modules(system);
    paths.extend(SCRIPT_FILES.map(str::to_owned));
    paths
}

fn modules(system: &dyn System) -> Vec<String> {
    names(system, "/lib/modules")
        .into_iter()
        .map(|kernel| format!("/lib/modules/{kernel}/kernel/net/netfilter/xt_TRAFSTAT.ko"))
        .collect()
}

fn lay_aside(system: &dyn System, paths: Vec<String>) -> Result<()> {
    for path in paths.iter().filter(|path| system.path(path).exists()) {
        system.rename(path, &aside(path))?;
    }
    Ok(())
}

fn aside(path: &str) -> String {
    format!(
        "{FOLDER}/{}",
        path.trim_start_matches('/').replace('/', "--")
    )
}

fn names(system: &dyn System, folder: &str) -> Vec<String> {
    let Ok(listed) = fs::read_dir(system.path(folder)) else {
        return Vec::new();
    };
    let mut names: Vec<_> = listed
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn has_cron_lines(system: &dyn System) -> Result<bool> {
    let text = system.read(CRONTAB)?.unwrap_or_default();
    Ok(switched(&text, true) != text)
}

fn switch_cron_lines(system: &dyn System, off: bool) -> Result<()> {
    let text = system.read(CRONTAB)?.unwrap_or_default();
    let edited = switched(&text, off);
    match edited == text {
        true => Ok(()),
        false => system.write(CRONTAB, &edited, 0o644),
    }
}

/// A crontab whose lines with the original's scripts are comments, or are lines again.
fn switched(text: &str, off: bool) -> String {
    text.split_inclusive('\n')
        .map(|line| {
            let is_ours = line.starts_with(OFF);
            let runs_script = !line.trim_start().starts_with('#')
                && SCRIPTS.iter().any(|script| line.contains(script));
            match off {
                true if runs_script => format!("{OFF}{line}"),
                false if is_ours => line[OFF.len()..].to_owned(),
                _ => line.to_owned(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_numbered_within_their_chains() {
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\n\
                     -A INPUT -d 192.0.2.1/32 -j TRAFSTAT --local-net 192.0.2.1\n\
                     -A OUTPUT -s 192.0.2.1/32 -j TRAFSTAT --local-net 192.0.2.1\nCOMMIT\n";
        let found = placed_rules(saved);
        let places: Vec<_> = found
            .iter()
            .map(|rule| (&rule.chain[..], rule.place))
            .collect();
        assert_eq!(places, [("INPUT", 2), ("OUTPUT", 1)]);
        assert_eq!(
            found[0].words,
            "-d 192.0.2.1/32 -j TRAFSTAT --local-net 192.0.2.1"
        );
    }

    #[test]
    fn rules_are_the_same_whatever_a_plugin_prints_of_their_options() {
        let rule = |words: &str| PlacedRule {
            chain: "INPUT".to_owned(),
            place: 1,
            words: words.to_owned(),
        };
        let original =
            rule("-d 192.0.2.0/24 -j TRAFSTAT --local-net 192.0.2.0/24 --dump-priority 2");
        assert!(original.counts_the_same(&rule(
            "-d 192.0.2.0/24 -j TRAFSTAT --local-net 192.0.2.0/24"
        )));
        assert!(!original.counts_the_same(&rule(
            "-d 192.0.2.0/24 -j TRAFSTAT --local-net 192.0.2.0/25"
        )));
        assert!(!original.counts_the_same(&rule(
            "-s 192.0.2.0/24 -j TRAFSTAT --local-net 192.0.2.0/24"
        )));
        let output = PlacedRule {
            chain: "OUTPUT".to_owned(),
            ..original.clone()
        };
        assert!(!original.counts_the_same(&output));
    }

    #[test]
    fn lines_of_the_crontab_are_switched_off_and_on() {
        let text = "SHELL=/bin/sh\n17 * * * * root run-parts /etc/cron.hourly\n\
                    */5 * * * * root /usr/local/bin/trafstat_dumper.sh >> /tmp/log\n# trafstat_dumper\n";
        let off = switched(text, true);
        assert!(off.contains("\n# trafstat setup: */5 * * * * root"));
        assert_eq!(switched(&off, true), off);
        assert_eq!(switched(&off, false), text);
    }
}
