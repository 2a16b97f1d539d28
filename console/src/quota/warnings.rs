// SPDX-License-Identifier: GPL-2.0-or-later
//! Warnings, each given once: which ones were, and the program that gives them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tracing::error;
use trafstat_cli::output::with_causes;

use super::usage::Usage;
use crate::system::{System, ThisHost};

/// Where it is kept which warnings were given.
pub const DEFAULT_STATE: &str = "/var/lib/trafstat/quota.json";
/// The lock of root's runs, in a folder that only root may enter.
const ROOTS_LOCK: &str = "/run/trafstat/quota.lock";
/// The template of the unit that runs the command.
const ACTION_UNIT: &str = "--template=trafstat-quota-action@.service";

/// Which warnings were given, by the quota's name.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct GivenWarnings(BTreeMap<String, PeriodWarnings>);

/// The warnings of one period.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PeriodWarnings {
    /// When it began, RFC 3339.
    begin: String,
    percent: BTreeSet<u32>,
}

/// Gives the warnings that are due and were not given yet.
///
/// One that fails is due again the next time.
///
/// # Errors
/// What failed, when all were tried.
pub fn give(
    usages: &[Usage],
    warn_at: &[u32],
    state: &Path,
    act: &dyn Fn(&Usage, u32) -> Result<()>,
) -> Result<()> {
    let _only_one = lock(state)?;
    let mut given = read(state)?;
    // What is no longer limited is forgotten.
    given
        .0
        .retain(|name, _| usages.iter().any(|usage| usage.name == *name));
    let mut failed = None;
    for usage in usages {
        let of_period = given.0.entry(usage.name.clone()).or_default();
        let begin = usage.begin.to_string();
        if of_period.begin != begin {
            *of_period = PeriodWarnings {
                begin,
                ..PeriodWarnings::default()
            };
        }
        for percent in usage.reached(warn_at) {
            if given.has(usage, percent) {
                continue;
            }
            match act(usage, percent) {
                // Kept at once: what comes after may fail or be killed.
                Ok(()) => {
                    given.insert(usage, percent);
                    write(state, &given)?;
                }
                Err(error) => {
                    error!("{}", with_causes(&error));
                    failed = Some(error);
                }
            }
        }
    }
    write(state, &given)?;
    match failed {
        None => Ok(()),
        Some(_) => bail!("not every warning could be given; the next run tries again"),
    }
}

impl GivenWarnings {
    fn has(&self, usage: &Usage, percent: u32) -> bool {
        let of_period = self.0.get(&usage.name);
        of_period.is_some_and(|of_period| of_period.percent.contains(&percent))
    }

    fn insert(&mut self, usage: &Usage, percent: u32) {
        if let Some(of_period) = self.0.get_mut(&usage.name) {
            of_period.percent.insert(percent);
        }
    }
}

/// Runs the command of the configuration for a percentage of a quota, and waits for its end.
///
/// # Errors
/// There is none, or it fails.
pub fn run(command: &[String], usage: &Usage, percent: u32) -> Result<()> {
    let [program, arguments @ ..] = command else {
        bail!("the configuration names no command for warnings under [quota]");
    };
    let status = Command::new(program)
        .args(arguments)
        .env("TRAFSTAT_QUOTA_NAME", &usage.name)
        .env("TRAFSTAT_QUOTA_PERCENT", percent.to_string())
        .env("TRAFSTAT_QUOTA_USED_BYTES", usage.used_bytes.to_string())
        .env("TRAFSTAT_QUOTA_LIMIT_BYTES", usage.limit_bytes.to_string())
        .env("TRAFSTAT_QUOTA_BEGIN", usage.begin.to_string())
        .env("TRAFSTAT_QUOTA_END", usage.end.to_string())
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!(
            "{program}, run for {percent} % of {:?}, failed: {status}",
            usage.name
        );
    }
    Ok(())
}

/// Has systemd run the command, in a unit of its own, and waits for its end: the command is the
/// administrator's, and may need what the unit of this process has not.
///
/// # Errors
/// The unit fails.
pub fn run_by_unit(usage: &Usage, percent: u32) -> Result<()> {
    let instance = format!("{percent}:{}", usage.name);
    let unit = ThisHost.succeed(&["systemd-escape", ACTION_UNIT, &instance], "")?;
    let unit = unit.trim();
    ThisHost
        .succeed(&["systemctl", "start", unit], "")
        .map(drop)
        .with_context(|| {
            format!(
                "the command for {percent} % of {:?} failed; see journalctl -u \"{unit}\"",
                usage.name
            )
        })
}

/// The percentage and the quota that [`run_by_unit`] names to its unit.
///
/// # Errors
/// The text is neither.
pub fn parse_instance(text: &str) -> Result<(u32, String), String> {
    let parsed = text.split_once(':').and_then(|(percent, name)| {
        let percent = percent.parse().ok()?;
        Some((percent, name.to_owned()))
    });
    parsed.ok_or_else(|| "expected a percentage and a quota, such as 80:office".to_owned())
}

/// Two runs at once would both find a warning not given. The lock is out of others' reach: one who
/// may open a file may hold its lock.
fn lock(state: &Path) -> Result<File> {
    let path = match rustix::process::geteuid().is_root() {
        true => PathBuf::from(ROOTS_LOCK),
        false => {
            let mut path = state.as_os_str().to_owned();
            path.push(".lock");
            PathBuf::from(path)
        }
    };
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn read(state: &Path) -> Result<GivenWarnings> {
    match ThisHost.read(&state.to_string_lossy())? {
        None => Ok(GivenWarnings::default()),
        Some(text) => serde_json::from_str(&text).with_context(|| {
            format!(
                "cannot understand {}: delete it, and warnings of this period are given again",
                state.display()
            )
        }),
    }
}

fn write(state: &Path, given: &GivenWarnings) -> Result<()> {
    let text = serde_json::to_string_pretty(given)? + "\n";
    ThisHost.write(&state.to_string_lossy(), &text, 0o640)
}

#[cfg(test)]
mod tests {
    use super::parse_instance;

    #[test]
    fn quota_of_any_name_is_told_to_its_unit() {
        assert_eq!(
            parse_instance("80:a:b c").unwrap(),
            (80, "a:b c".to_owned())
        );
        assert!(parse_instance("office").is_err());
        assert!(parse_instance("x:office").is_err());
    }
}
