//! What a host has of the original xt_TRAFSTAT, and how this one takes its place.
//!
//! The original's rules are of another revision than this plugin's, which can neither print nor
//! delete them: while its module runs, iptables is told of its plugin, which the package's
//! installation laid aside.

use std::fs;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::step::is_loaded;
use crate::system::{Ended, System};

/// Where what is the original's lies aside.
const FOLDER: &str = "/var/lib/trafstat/original";
/// Rules that are taken away and not yet set again.
const PENDING: &str = "/var/lib/trafstat/original/rules.json";
/// That its tables and files are taken over.
const IMPORTED: &str = "/var/lib/trafstat/original/imported";
/// The login that its scripts use.
const MY_CNF: &str = "/root/.my.cnf";
const CRONTAB: &str = "/etc/crontab";
/// What its README tells to put into the crontab and into a folder of cron's.
const SCRIPTS: [&str; 2] = ["trafstat_dumper", "trafstat_rotater"];
const FILES: [&str; 6] = [
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

/// Whether there is anything of it.
///
/// # Errors
/// A file of the system cannot be read.
pub fn is_here(system: &dyn System) -> Result<bool> {
    Ok(is_running(system)
        || system.path(PENDING).exists()
        || !files(system).is_empty()
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

/// Lays its module, scripts and lines of the crontab aside and puts this module under its rules,
/// which stay where they are in their chains.
///
/// # Errors
/// The system's. Rules that were taken away are set by the next run.
pub fn replace(system: &dyn System, program: &str) -> Result<()> {
    // Nobody reads its counters from here on but this.
    switch_cron_lines(system, true)?;
    let pending = match system.read(PENDING)? {
        Some(text) => {
            serde_json::from_str(&text).with_context(|| format!("{PENDING} is damaged"))?
        }
        None => Vec::new(),
    };
    let rules = match is_running(system) {
        true => take_away(system, program, pending)?,
        false => pending,
    };
    for path in files(system) {
        system.rename(&path, &aside(&path))?;
    }
    system.succeed(&["depmod", "--all"], "")?;
    system
        .succeed(&["modprobe", "xt_TRAFSTAT"], "")
        .context("\"trafstat doctor\" says why")?;
    set_again(system, program, &rules)?;
    system.remove(PENDING)
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
    let command = ["trafstat-store", "import", "--format", "csv"];
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
    system.path("/sys/module/xt_TRAFSTAT").exists() && !is_loaded(system)
}

/// Reads its counters for the last time, deletes its rules and unloads it. Gives the rules, which
/// are written down before the first one goes.
fn take_away(
    system: &dyn System,
    program: &str,
    pending: Vec<PlacedRule>,
) -> Result<Vec<PlacedRule>> {
    let saved = run(system, &format!("{program}-save"), &["-t", "filter"], "")?;
    let standing = placed_rules(&saved);
    // Of an interrupted run, which deletes all in one transaction or none.
    let rules = match standing.is_empty() {
        true => pending,
        false => standing.clone(),
    };
    system.write(PENDING, &serde_json::to_string_pretty(&rules)?, 0o600)?;
    for name in names(system, "/proc/trafstat") {
        let counted = system
            .read(&format!("/proc/trafstat/{name}"))?
            .unwrap_or_default();
        if !counted.is_empty() {
            let path = format!("{FOLDER}/{name}");
            let before = system.read(&path)?.unwrap_or_default();
            system.write(&path, &(before + &counted), 0o600)?;
        }
    }
    if !standing.is_empty() {
        let deletions: String = standing
            .iter()
            .map(|rule| format!("-D {} {}\n", rule.chain, rule.words))
            .collect();
        let input = format!("*filter\n{deletions}COMMIT\n");
        run(
            system,
            &format!("{program}-restore"),
            &["--noflush", "--wait=60"],
            &input,
        )?;
    }
    system
        .succeed(&["rmmod", "xt_TRAFSTAT"], "")
        .context("rules outside the table filter, or another namespace's, may still use it")?;
    Ok(rules)
}

fn set_again(system: &dyn System, program: &str, rules: &[PlacedRule]) -> Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    let saved = system.succeed(&[&format!("{program}-save"), "-t", "filter"], "")?;
    let standing = placed_rules(&saved);
    let missing: String = rules
        .iter()
        .filter(|rule| {
            let same = |other: &&PlacedRule| other.chain == rule.chain && other.words == rule.words;
            standing.iter().find(same).is_none()
        })
        .map(|rule| format!("-I {} {} {}\n", rule.chain, rule.place, rule.words))
        .collect();
    if !missing.is_empty() {
        let input = format!("*filter\n{missing}COMMIT\n");
        let restore = format!("{program}-restore");
        system.succeed(&[&restore, "--noflush", "--wait=60"], &input)?;
    }
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

/// A program of iptables that finds the original's plugin before this one.
fn run(system: &dyn System, program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let folders = format!("XTABLES_LIBDIR={FOLDER}:{PLUGINS}");
    let words = [&["env", &folders, program], arguments].concat();
    let Ended {
        code,
        stdout,
        stderr,
    } = system.run(&words, input)?;
    if code != Some(0) {
        bail!(
            "{program} does not understand the original's rules: {}. Take them away with the \
             original's libxt_TRAFSTAT.so in place of this one, or reboot: the rules in \
             /etc/iptables are for both",
            stderr.trim()
        );
    }
    Ok(stdout)
}

/// Files of the original's that are where it put them.
fn files(system: &dyn System) -> Vec<String> {
    let mut files = candidates(system);
    files.retain(|path| system.path(path).exists());
    files
}

fn candidates(system: &dyn System) -> Vec<String> {
    let modules = names(system, "/lib/modules")
        .into_iter()
        .map(|kernel| format!("/lib/modules/{kernel}/kernel/net/netfilter/xt_TRAFSTAT.ko"));
    FILES
        .map(str::to_owned)
        .into_iter()
        .chain(modules)
        .collect()
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
    fn lines_of_the_crontab_are_switched_off_and_on() {
        let text = "SHELL=/bin/sh\n17 * * * * root run-parts /etc/cron.hourly\n\
                    */5 * * * * root /usr/local/bin/trafstat_dumper.sh >> /tmp/log\n# trafstat_dumper\n";
        let off = switched(text, true);
        assert!(off.contains("\n# trafstat setup: */5 * * * * root"));
        assert_eq!(switched(&off, true), off);
        assert_eq!(switched(&off, false), text);
    }
}
