//! What setup does, as steps that each can be looked at, taken and taken back.
//!
//! Taking a step that is taken already changes nothing, and so does taking it back twice: a setup
//! that was interrupted anywhere is simply run again.

use std::fmt;

use anyhow::{Context, Result, bail};
use jiff::ZonedDateTime;
use serde::{Deserialize, Serialize};

use super::rules::{self, Rule};
use crate::system::System;

/// Where copies of files lie that were there before setup changed them.
const BACKUPS: &str = "/var/lib/trafstat/backups";

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The kernel module is loaded.
    Module,
    /// The rules stand in the kernel, set by this program of iptables.
    Rules {
        /// `iptables`, `ip6tables`, or one with `-nft` or `-legacy`.
        program: String,
        /// All that setup wants of this program.
        rules: Vec<Rule>,
    },
    /// A file that netfilter-persistent restores has the rules.
    SavedRules {
        /// The file.
        path: String,
        /// All that setup wants in it.
        rules: Vec<Rule>,
    },
    /// A file of setup's own has this text.
    File {
        /// The file.
        path: String,
        /// All of it.
        text: String,
    },
    /// A unit of systemd is enabled and runs.
    Unit {
        /// Its name.
        name: String,
    },
}

/// What there was before a step was taken for the first time: what taking it back restores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Before {
    /// Nothing of it.
    Nothing,
    /// All of it, by somebody else, whose it stays.
    Everything,
    /// Another file, of which this is the copy.
    Copied(String),
}

impl Step {
    /// What the step is about: two steps of one key replace each other.
    pub fn key(&self) -> String {
        match self {
            Self::Module => "module".to_owned(),
            Self::Rules { program, .. } => format!("rules {program}"),
            Self::SavedRules { path, .. } | Self::File { path, .. } => format!("file {path}"),
            Self::Unit { name } => format!("unit {name}"),
        }
    }

    /// Whether the host is as the step wants it.
    ///
    /// # Errors
    /// That this cannot be found out.
    pub fn is_taken(&self, system: &dyn System) -> Result<bool> {
        Ok(match self {
            Self::Module => is_loaded(system),
            Self::Rules { program, rules } => {
                rules::transaction(&standing(system, program)?, rules).is_none()
            }
            Self::SavedRules { path, rules } => {
                let text = system.read(path)?.unwrap_or_default();
                rules::edit_saved(&text, rules) == text
            }
            Self::File { path, text } => system.read(path)?.as_ref() == Some(text),
            Self::Unit { name } => {
                system.run(&["systemctl", "is-enabled", name], "")?.code == Some(0)
                    && system.run(&["systemctl", "is-active", name], "")?.code == Some(0)
            }
        })
    }

    /// Looks at what there is, before the step is taken for the first time; files are copied away.
    ///
    /// # Errors
    /// The system's.
    pub fn before(&self, system: &dyn System) -> Result<Before> {
        match self {
            Self::File { path, .. } | Self::SavedRules { path, .. } => {
                let Some(text) = system.read(path)? else {
                    return Ok(Before::Nothing);
                };
                let name = path.trim_start_matches('/').replace('/', "-");
                let time = ZonedDateTime::now().strftime("%Y%m%dT%H%M%S");
                let copy = format!("{BACKUPS}/{name}.{time}");
                system.write(&copy, &text, 0o600)?;
                Ok(Before::Copied(copy))
            }
            // Rules with setup's mark are setup's.
            Self::Rules { .. } => Ok(Before::Nothing),
            Self::Module | Self::Unit { .. } => Ok(match self.is_taken(system)? {
                true => Before::Everything,
                false => Before::Nothing,
            }),
        }
    }

    /// Makes the host as the step wants it.
    ///
    /// # Errors
    /// The system's; the step is then taken as a whole or not at all.
    pub fn take(&self, system: &dyn System) -> Result<()> {
        match self {
            Self::Module => {
                let ended = system.run(&["modprobe", "xt_TRAFSTAT"], "")?;
                if ended.code != Some(0) {
                    bail!(
                        "the module cannot be loaded: {}; \"trafstat doctor\" says why",
                        ended.stderr.trim()
                    );
                }
                Ok(())
            }
            Self::Rules { program, rules } => replace(system, program, rules),
            Self::SavedRules { path, rules } => {
                let text = system.read(path)?.unwrap_or_default();
                system.write(path, &rules::edit_saved(&text, rules), 0o640)
            }
            Self::File { path, text } => system.write(path, text, 0o644),
            Self::Unit { name } => system
                .succeed(&["systemctl", "enable", "--now", name], "")
                .map(drop),
        }
    }

    /// Makes the host as it was before.
    ///
    /// # Errors
    /// The system's.
    pub fn take_back(&self, before: &Before, system: &dyn System) -> Result<()> {
        if *before == Before::Everything {
            return Ok(());
        }
        match self {
            Self::Module => unload(system),
            Self::Rules { program, .. } => replace(system, program, &[]),
            Self::SavedRules { path, .. } => {
                // What others have changed in it meanwhile stays.
                let Some(text) = system.read(path)? else {
                    return Ok(());
                };
                let text = rules::edit_saved(&text, &[]);
                if *before == Before::Nothing && rules::is_empty(&text) {
                    return system.remove(path);
                }
                system.write(path, &text, 0o640)
            }
            Self::File { path, .. } => match before {
                Before::Copied(copy) => match system.read(copy)? {
                    Some(text) => system.write(path, &text, 0o644),
                    None => bail!("the copy of {path} is gone: {copy}"),
                },
                _ => system.remove(path),
            },
            Self::Unit { name } => system
                .succeed(&["systemctl", "disable", "--now", name], "")
                .map(drop),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module => f.write_str("load the module xt_TRAFSTAT"),
            Self::Rules { program, rules } => {
                write!(f, "set rules")?;
                for rule in rules {
                    write!(f, "\n    {program} -I {} {}", rule.chain, rule.words)?;
                }
                Ok(())
            }
            Self::SavedRules { path, .. } => write!(f, "put the rules into {path}"),
            Self::File { path, .. } => write!(f, "write {path}"),
            Self::Unit { name } => write!(f, "enable and start {name}"),
        }
    }
}

/// Whether the kernel has the module.
pub fn is_loaded(system: &dyn System) -> bool {
    system.path("/proc/net/trafstat").exists()
}

/// Sets the rules of one program: all of setup's and nothing but them, in one transaction.
///
/// # Errors
/// iptables fails.
pub fn replace(system: &dyn System, program: &str, wanted: &[Rule]) -> Result<()> {
    if let Some(transaction) = rules::transaction(&standing(system, program)?, wanted) {
        let restore = format!("{program}-restore");
        system
            .succeed(&[&restore, "--noflush", "--wait=60"], &transaction)
            .context("the rules are as they were")?;
    }
    Ok(())
}

fn standing(system: &dyn System, program: &str) -> Result<Vec<Rule>> {
    let save = format!("{program}-save");
    let saved = system.succeed(&[&save, "-t", "filter"], "")?;
    Ok(rules::made_by_setup(&saved))
}

/// Unloads the module once what it counted is stored. Where others' rules use it, it stays.
fn unload(system: &dyn System) -> Result<()> {
    if !is_loaded(system) {
        return Ok(());
    }
    let collected = system.run(&["trafstat-store", "--once", "--format", "csv"], "")?;
    // 3: in the spool, since the database is away, and as safe there.
    if !matches!(collected.code, Some(0 | 3)) {
        bail!(
            "what was counted is not stored, so the module stays: {}",
            collected.stderr.trim()
        );
    }
    let ended = system.run(&["modprobe", "-r", "xt_TRAFSTAT"], "")?;
    if ended.code != Some(0) {
        eprintln!("trafstat: the module stays loaded: {}", ended.stderr.trim());
    }
    Ok(())
}
