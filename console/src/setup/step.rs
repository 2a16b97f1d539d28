// SPDX-License-Identifier: GPL-2.0-or-later
//! What setup does, as steps that each can be looked at, taken and taken back.
//!
//! Taking a step that is taken already changes nothing, and so does taking it back twice: a setup
//! that was interrupted anywhere is simply run again.

use std::path::PathBuf;
use std::{fmt, fs, io};

use anyhow::{Context, Result, bail};
use jiff::ZonedDateTime;
use serde::{Deserialize, Serialize};
use tracing::warn;
use trafstat_store::options::config::DEFAULT_CONFIG_PATH;

use super::configuration::{self, PASSWORD_PATH};
use super::login::Login;
use super::original;
use super::rules::{self, Rule, is_empty};
use crate::kernel_module::is_loaded;
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
    /// A file that a firewall loads has none of setup's rules: without the module it would not be
    /// loaded at all. Versions before 0.3 put them there, and saving the standing rules still does.
    SavedRules {
        /// The file.
        path: String,
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
    /// System V's init has a script of setup's own and runs it when its header says.
    InitScript {
        /// Its name in `/etc/init.d`.
        name: String,
        /// All of it.
        text: String,
    },
    /// There is a password for the store's user.
    Password,
    /// The configuration names the store's server.
    Configuration {
        /// Server, user and database.
        url: String,
    },
    /// The login of a user that is there is where the collector looks for it.
    Login(Login),
    /// The server has the schema, in a database of a user that is there.
    Schema(Server),
    /// The server has the database, its schema and its user.
    Database(Server),
    /// This module counts for the rules of the original, which is laid aside.
    Original {
        /// What its rules were set with.
        program: String,
    },
    /// The store has the original's statistics.
    Import {
        /// The server and database of its tables, if it has any.
        url: Option<String>,
    },
}

/// A MySQL server, and who makes the store on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Server, user and database.
    pub url: String,
    /// Option file with the administrator's login, if not the usual ones.
    pub administrator: Option<PathBuf>,
    /// The login of a user that is there; without one, setup makes database and user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
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
            Self::SavedRules { path } | Self::File { path, .. } => format!("file {path}"),
            Self::Unit { name } => format!("unit {name}"),
            Self::InitScript { name, .. } => format!("init script {name}"),
            Self::Password => "password".to_owned(),
            Self::Configuration { .. } => "configuration".to_owned(),
            Self::Login(_) => "login".to_owned(),
            Self::Schema(server) => format!("schema {}", server.url),
            // Another user of another server is to be taken away, not to be forgotten.
            Self::Database(server) => format!("database {}", server.url),
            Self::Original { .. } => "original".to_owned(),
            Self::Import { .. } => "import".to_owned(),
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
            Self::SavedRules { path } => {
                let text = system.read(path)?.unwrap_or_default();
                rules::without_made(&text) == text
            }
            Self::File { path, text } => system.read(path)?.as_ref() == Some(text),
            Self::Unit { name } => {
                system.run(&["systemctl", "is-enabled", name], "")?.code == Some(0)
                    && system.run(&["systemctl", "is-active", name], "")?.code == Some(0)
            }
            Self::InitScript { name, text } => {
                system.read(&init_script(name))?.as_ref() == Some(text) && is_linked(system, name)?
            }
            Self::Password => system.path(PASSWORD_PATH).exists(),
            Self::Configuration { url } => {
                let text = system.read(DEFAULT_CONFIG_PATH)?.unwrap_or_default();
                configuration::with_server(&text, url)? == text
            }
            Self::Login(login) => match login.option_file()? {
                Some(text) => system.read(PASSWORD_PATH)?.as_ref() == Some(&text),
                None => system.path(PASSWORD_PATH).exists(),
            },
            // Asks as the user, of every table.
            Self::Database(server) | Self::Schema(server) => {
                let asked = system.run(&server.store(&["hosts", "--format", "csv"]), "")?;
                asked.code == Some(0)
            }
            Self::Original { .. } => original::is_replaced(system)?,
            Self::Import { .. } => original::is_imported(system),
        })
    }

    /// Looks at what there is, before the step is taken for the first time; files are copied away.
    ///
    /// # Errors
    /// The system's.
    pub fn before(&self, system: &dyn System) -> Result<Before> {
        match self {
            Self::File { path, .. } => back_up(system, path),
            Self::InitScript { name, .. } => back_up(system, &init_script(name)),
            Self::Configuration { .. } => back_up(system, DEFAULT_CONFIG_PATH),
            Self::Login(_) => back_up(system, PASSWORD_PATH),
            // The database stays whatever setup does.
            Self::Schema(_) => Ok(Before::Everything),
            // Rules with setup's mark are setup's.
            Self::Rules { .. } | Self::Original { .. } | Self::Import { .. } => Ok(Before::Nothing),
            // The file is its owner's, whatever was in it.
            Self::SavedRules { .. } => Ok(Before::Everything),
            Self::Module | Self::Unit { .. } | Self::Password | Self::Database(_) => {
                Ok(match self.is_taken(system)? {
                    true => Before::Everything,
                    false => Before::Nothing,
                })
            }
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
            Self::SavedRules { path } => take_out(system, path).map(drop),
            Self::File { path, text } => system.write(path, text, 0o644),
            Self::Unit { name } => system
                .succeed(&["systemctl", "enable", "--now", name], "")
                .map(drop),
            Self::InitScript { name, text } => {
                system.write(&init_script(name), text, 0o755)?;
                system
                    .succeed(&["update-rc.d", name, "defaults"], "")
                    .map(drop)
            }
            Self::Password => {
                let text = format!("[client]\npassword={}\n", password(system)?);
                match system.write_new(PASSWORD_PATH, &text, 0o600)? {
                    true => Ok(()),
                    false => bail!("somebody else made {PASSWORD_PATH} meanwhile; run setup again"),
                }
            }
            Self::Configuration { url } => {
                let text = system.read(DEFAULT_CONFIG_PATH)?.unwrap_or_default();
                let text = configuration::with_server(&text, url)?;
                system.write(DEFAULT_CONFIG_PATH, &text, 0o644)
            }
            Self::Login(login) => {
                let text = login
                    .option_file()?
                    .with_context(|| format!("{} is gone", login.password_file.display()))?;
                // A file that is there may be open to others.
                system.remove(PASSWORD_PATH)?;
                match system.write_new(PASSWORD_PATH, &text, 0o600)? {
                    true => Ok(()),
                    false => bail!("somebody else made {PASSWORD_PATH} meanwhile; run setup again"),
                }
            }
            Self::Schema(server) => {
                let ended = system.run(&server.store(&["init"]), "")?;
                match ended.code {
                    Some(0) => Ok(()),
                    _ => bail!("{}", ended.stderr.trim()),
                }
            }
            Self::Database(server) => {
                let ended = system.run(&server.administer("create-user"), "")?;
                match ended.code {
                    Some(0) => Ok(()),
                    _ => bail!("{}", ended.stderr.trim()),
                }
            }
            Self::Original { program } => original::replace(system, program),
            Self::Import { url } => original::import(system, url.as_deref()),
        }
    }

    /// Makes the host as it was before.
    ///
    /// # Errors
    /// The system's.
    pub fn take_back(&self, before: &Before, system: &dyn System) -> Result<()> {
        if let Self::SavedRules { path } = self {
            let rest = take_out(system, path)?;
            // A version before 0.3 made the file.
            return match *before == Before::Nothing && rest.is_some_and(|rest| is_empty(&rest)) {
                true => system.remove(path),
                false => Ok(()),
            };
        }
        if *before == Before::Everything {
            return Ok(());
        }
        match self {
            Self::Module => unload(system),
            Self::Rules { program, .. } => replace(system, program, &[]),
            Self::SavedRules { .. } => Ok(()),
            Self::File { path, .. } => restore(system, path, before, 0o644),
            Self::Unit { name } => system
                .succeed(&["systemctl", "disable", "--now", name], "")
                .map(drop),
            Self::InitScript { name, .. } => {
                system.succeed(&["update-rc.d", "-f", name, "remove"], "")?;
                restore(system, &init_script(name), before, 0o755)
            }
            Self::Password => system.remove(PASSWORD_PATH),
            Self::Login(_) => restore(system, PASSWORD_PATH, before, 0o600),
            Self::Schema(_) => Ok(()),
            Self::Configuration { .. } => {
                // What others have changed in it meanwhile stays.
                let text = system.read(DEFAULT_CONFIG_PATH)?.unwrap_or_default();
                let text = configuration::without_server(&text);
                match *before == Before::Nothing && text.is_empty() {
                    true => system.remove(DEFAULT_CONFIG_PATH),
                    false => system.write(DEFAULT_CONFIG_PATH, &text, 0o644),
                }
            }
            Self::Database(server) => {
                let ended = system.run(&server.administer("drop-user"), "")?;
                if ended.code != Some(0) {
                    // A server that is gone must not keep the rest from being undone.
                    warn!("the server's user stays: {}", ended.stderr.trim());
                }
                Ok(())
            }
            // The rules were the administrator's before, and are.
            Self::Original { .. } => original::put_back(system),
            Self::Import { .. } => original::forget_import(system),
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
            Self::SavedRules { path } => write!(f, "keep the rules out of {path}"),
            Self::File { path, .. } => write!(f, "write {path}"),
            Self::Unit { name } => write!(f, "enable and start {name}"),
            Self::InitScript { name, .. } => {
                write!(f, "write {} and have init run it", init_script(name))
            }
            Self::Password => write!(f, "make up a password in {PASSWORD_PATH}"),
            Self::Configuration { url } => {
                write!(f, "name {url} as the store in {DEFAULT_CONFIG_PATH}")
            }
            Self::Login(_) => write!(f, "put the given password into {PASSWORD_PATH}"),
            Self::Schema(server) => write!(f, "make the schema in {}", server.url),
            Self::Database(server) => {
                write!(f, "make the database and the user of {}", server.url)
            }
            Self::Original { .. } => {
                f.write_str("put this module in the place of the original's, by way of a reboot ")?;
                f.write_str("where that one runs")
            }
            Self::Import { url: None } => f.write_str("take over the original's files"),
            Self::Import { url: Some(url) } => {
                write!(f, "take over the original's files, and its tables in {url}")
            }
        }
    }
}

impl Server {
    /// `trafstat-store` with these arguments, as the store's user.
    fn store<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let login = ["--url", &self.url, "--defaults-file", PASSWORD_PATH];
        [&["trafstat-store"], arguments, &login].concat()
    }

    /// A command of `trafstat-store`, as the administrator.
    fn administer<'a>(&'a self, command: &'a str) -> Vec<&'a str> {
        let mut words = self.store(&[command]);
        if let Some(path) = self.administrator.as_ref().and_then(|path| path.to_str()) {
            words.extend(["--admin-defaults-file", path]);
        }
        words
    }
}

/// Copies a file away, if there is one.
fn back_up(system: &dyn System, path: &str) -> Result<Before> {
    let Some(text) = system.read(path)? else {
        return Ok(Before::Nothing);
    };
    let name = path.trim_start_matches('/').replace('/', "-");
    let time = ZonedDateTime::now().strftime("%Y%m%dT%H%M%S");
    let mut copy = format!("{BACKUPS}/{name}.{time}");
    for number in 2.. {
        let is_new = system.write_new(&copy, &text, 0o600)?;
        // A setup that was interrupted may have made the same copy.
        if is_new || system.read(&copy)?.as_ref() == Some(&text) {
            break;
        }
        copy = format!("{BACKUPS}/{name}.{time}.{number}");
    }
    Ok(Before::Copied(copy))
}

/// Takes setup's rules out of a file that a firewall loads, once that is copied away; gives what is
/// left of it, none if there is no such file.
///
/// # Errors
/// The system's; the file is then as it was.
pub fn take_out(system: &dyn System, path: &str) -> Result<Option<String>> {
    let Some(text) = system.read(path)? else {
        return Ok(None);
    };
    let rest = rules::without_made(&text);
    if rest != text {
        back_up(system, path)?;
        system.write(path, &rest, 0o640)?;
    }
    Ok(Some(rest))
}

/// Puts the file back that was there before, or removes setup's own.
fn restore(system: &dyn System, path: &str, before: &Before, mode: u32) -> Result<()> {
    match before {
        Before::Copied(copy) => match system.read(copy)? {
            Some(text) => system.write(path, &text, mode),
            None => bail!("the copy of {path} is gone: {copy}"),
        },
        _ => system.remove(path),
    }
}

fn init_script(name: &str) -> String {
    format!("/etc/init.d/{name}")
}

/// Whether init runs the script when the host halts.
fn is_linked(system: &dyn System, name: &str) -> Result<bool> {
    let links = match fs::read_dir(system.path("/etc/rc0.d")) {
        Ok(links) => links,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).context("cannot read /etc/rc0.d"),
    };
    for link in links {
        let link = link?.file_name();
        // K and two digits before the script's name.
        if link.to_str().and_then(|link| link.get(3..)) == Some(name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// 122 random bits of the kernel's, in a form that servers which judge passwords take: with a
/// capital, a small letter, a figure and another sign.
fn password(system: &dyn System) -> Result<String> {
    const SOURCE: &str = "/proc/sys/kernel/random/uuid";
    let uuid = system.read(SOURCE)?.unwrap_or_default();
    // A version 4 UUID (RFC 9562 section 5.4).
    if uuid.trim().len() != 36 {
        bail!("{SOURCE} gives no random number");
    }
    Ok(format!("Tr-{}", uuid.trim()))
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
        warn!("the module stays loaded: {}", ended.stderr.trim());
    }
    Ok(())
}
