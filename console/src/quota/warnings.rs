// SPDX-License-Identifier: GPL-2.0-or-later
//! Warnings, each given once: which ones were, and the program that gives them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
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
pub fn give(usages: &[Usage], warn_at: &[u32], command: &[String], state: &Path) -> Result<()> {
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
            match run(command, usage, percent) {
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

fn run(command: &[String], usage: &Usage, percent: u32) -> Result<()> {
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

/// Two runs at once would both find a warning not given.
fn lock(state: &Path) -> Result<File> {
    let mut path = state.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
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
