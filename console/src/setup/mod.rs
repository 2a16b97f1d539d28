// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat setup`: from a host with the package installed to one whose traffic is counted,
//! collected and kept, and back.

mod configuration;
mod host;
mod journal;
mod login;
mod original;
mod plan;
mod report;
mod rules;
mod step;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use ipnet::IpNet;
use rustix::fs::FlockOperation;
use trafstat_cli::output::{Format, say};
use trafstat_store::options::mysql::{MysqlUrl, MysqlUrlError};

pub use host::{Host, other_program};

use crate::system::{System, ThisHost};
use journal::Journal;
use login::{Login, SslMode};
use plan::{Original, PortChoice, RULES_PATH, RuleSet, SetupRequest};
use report::{Report, State};
use step::{Server, Step};

const DEFAULT_URL: &str = "mysql://trafstat@localhost/trafstat";

/// What to set up.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trafstat setup --dry-run                       say what would be done
  trafstat setup                                 count this host's own traffic
  trafstat setup --ports 22,443,8000:8099        tell these local ports apart
  trafstat setup --router --local-net 10.0.0.0/24
                                                 count what is forwarded for a net
  trafstat setup --backend mysql                 store on this host's MySQL or MariaDB
  trafstat setup --backend mysql --url mysql://collector@db.example.net/trafstat \\
      --password-file /root/password --ssl-mode verify_identity
                                                 store as a user that is there
  trafstat setup --from-original                 take the place of the original xt_TRAFSTAT
  trafstat setup --undo                          take all of it away again

Setup loads the module, sets rules at the beginning of their chains, has a unit of its own set
them again at boot, after the firewall, and starts the collector. It puts no rule into a file that
a firewall loads: without the module, nothing of such a file would be loaded. Rules that were saved
with the firewall (netfilter-persistent save) are taken out by the next setup; trafstat doctor
reports them. Run again it changes what has to be changed; interrupted, it is simply run again. The
database stays whatever it does.

With --backend mysql, the administrator whom ~/.my.cnf names, or root of a server on this host,
makes the database and a user with rights on it alone; its password is in /etc/trafstat/my.cnf.

With --from-original the rules of the original stay where they are and setup sets none of its own;
its module, its scripts and their lines in /etc/crontab are laid aside, and its files and tables
imported. While its module runs, it is only prepared for the next boot: setup asks for a reboot and
to be run again after it, since the kernel may fault when rules of the original are deleted.

Exit status: 0 done, 1 failed or refused, 2 wrong usage.")]
pub struct SetupOptions {
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,

    /// Take away what setup did, all of it and nothing else.
    #[arg(
        long,
        conflicts_with_all = ["local_net", "router", "ports", "backend", "from_original", "restore"]
    )]
    undo: bool,

    /// Take the place of the original xt_TRAFSTAT: keep its rules, import what it stored.
    #[arg(long, conflicts_with_all = ["local_net", "router", "ports"])]
    from_original: bool,

    /// The server and database of the original's tables, or none
    /// [default: mysql://localhost/trafstat where its scripts have their /root/.my.cnf].
    #[arg(long, value_name = "URL", requires = "from_original", value_parser = parse_original_url)]
    original_url: Option<String>,

    /// The local nets, separated by commas [default: this host's addresses].
    #[arg(long, value_name = "ADDRESS[/PREFIX]", value_delimiter = ',', value_parser = crate::show::parse_net)]
    local_net: Vec<IpNet>,

    /// Count what this host forwards for the local nets.
    #[arg(long)]
    router: bool,

    /// Local ports that are told apart: auto (those that listen), all, none, or ports and ranges.
    #[arg(long, value_name = "PORTS", default_value = "auto", value_parser = parse_ports)]
    ports: PortChoice,

    /// Where to store: sqlite, or mysql, which is MariaDB too [default: as set up or configured].
    #[arg(long, value_name = "KIND", value_parser = ["sqlite", "mysql"])]
    backend: Option<String>,

    /// The server, user and database to make (default: mysql://trafstat@localhost/trafstat).
    #[arg(long, value_name = "URL", requires = "backend", value_parser = parse_url)]
    url: Option<String>,

    /// Read the MySQL administrator's login from this option file, not from ~/.my.cnf.
    #[arg(long, value_name = "FILE", requires = "backend")]
    admin_defaults_file: Option<PathBuf>,

    /// Take a user and a database of the server that are there, with the password in this file;
    /// setup then makes neither, and needs no administrator.
    #[arg(long, value_name = "FILE", requires = "url", conflicts_with = "admin_defaults_file",
        value_parser = login::parse_file)]
    password_file: Option<PathBuf>,

    /// How that user's connections use TLS [default: as the server and the client agree].
    #[arg(long, value_name = "MODE", requires = "password_file", value_enum)]
    ssl_mode: Option<SslMode>,

    /// The certificates of the authorities that the server's certificate is checked by.
    #[arg(long, value_name = "FILE", requires = "password_file", value_parser = login::parse_file)]
    ssl_ca: Option<PathBuf>,

    /// How to write what is done, or would be.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// Set the rules that setup wrote down, as at boot.
    #[arg(long, hide = true)]
    restore: bool,

    /// Delete the rules that setup set, until they are restored.
    #[arg(long, hide = true)]
    drop_rules: bool,

    /// Bring what an earlier version set up to where this one would, after an upgrade.
    #[arg(long, hide = true)]
    upgrade: bool,
}

impl SetupOptions {
    /// Does it, or says what would be done.
    ///
    /// # Errors
    /// Not root, the host cannot be served, or a step failed.
    pub fn run(self) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            bail!("setup needs root: run it with sudo");
        }
        let system = ThisHost;
        // The unit that does this is started by setup, which holds the lock.
        if self.restore {
            return restore(&system);
        }
        if self.drop_rules {
            return drop_rules(&system);
        }
        let _lock = lock()?;
        if self.upgrade {
            return upgrade(&system, &Host::of(&system)?);
        }
        let mut report = Report::new(self.format);
        if self.undo {
            let undone = undo(&system, self.dry_run, &mut report);
            report.finish(self.dry_run, undone.as_ref().err())?;
            return undone;
        }
        let dry_run = self.dry_run;
        let done = self.set_up(&system, &mut report);
        report.finish(dry_run, done.as_ref().err())?;
        done
    }

    fn set_up(self, system: &dyn System, report: &mut Report) -> Result<()> {
        let host = Host::of(system)?;
        let mut journal = Journal::read(system)?;
        let original = match self.from_original || journal.is_from_original() {
            true => Some(self.original(system, &journal)?),
            false => None,
        };
        let server = match self.backend.as_deref() {
            None => journal.server(),
            Some("mysql") => Some(Server {
                url: self.url.unwrap_or_else(|| DEFAULT_URL.to_owned()),
                administrator: self.admin_defaults_file,
                login: self.password_file.map(|password_file| Login {
                    password_file,
                    ssl_mode: self.ssl_mode,
                    ssl_ca: self.ssl_ca,
                }),
            }),
            Some(_) => None,
        };
        let request = SetupRequest {
            original,
            local_nets: self.local_net,
            router: self.router,
            ports: self.ports,
            server,
        };
        let steps = plan::steps(&host, &request)?;
        if self.dry_run {
            for step in &steps {
                report.add(
                    step,
                    match step.is_taken(system)? {
                        true => State::DoneAlready,
                        false => State::WouldDo,
                    },
                );
            }
            return Ok(());
        }
        journal.bring_about(&steps, system, |step, did| {
            report.add(
                step,
                match did {
                    true => State::Done,
                    false => State::DoneAlready,
                },
            );
        })?;
        report
            .say("Traffic is counted. In five minutes, trafstat show tells what used the network.");
        Ok(())
    }

    /// The original that is here, and where its tables are.
    fn original(&self, system: &dyn System, journal: &Journal) -> Result<Original> {
        if !journal.is_from_original() && !original::is_here(system)? {
            bail!(
                "there is nothing of the original xt_TRAFSTAT here: no module of it, no script \
                 and no line in /etc/crontab; trafstat setup alone sets rules of its own"
            );
        }
        let tables = match self.original_url.as_deref() {
            Some("none") => None,
            Some(url) => Some(url.to_owned()),
            None => original::tables(system),
        };
        Ok(Original { tables })
    }
}

fn undo(system: &dyn System, dry_run: bool, report: &mut Report) -> Result<()> {
    let mut journal = Journal::read(system)?;
    if journal.is_empty() {
        report.say("Setup has done nothing here that could be undone.");
        return Ok(());
    }
    if dry_run {
        for step in journal.steps() {
            report.add(step, State::WouldUndo);
        }
        return Ok(());
    }
    journal.undo(system, |step| report.add(step, State::Undone))
}

/// Sets the rules again, after whatever else sets rules at boot.
fn restore(system: &dyn System) -> Result<()> {
    let sets = rules_to_restore(system)?;
    if !sets.is_empty() {
        Step::Module.take(system)?;
    }
    for RuleSet { program, rules } in sets {
        step::replace(system, &program, &rules)?;
    }
    Ok(())
}

/// Deletes the rules that stand, and keeps what restores them.
fn drop_rules(system: &dyn System) -> Result<()> {
    for RuleSet { program, .. } in rules_to_restore(system)? {
        step::replace(system, &program, &[])?;
    }
    Ok(())
}

/// The rules that setup wrote down.
fn rules_to_restore(system: &dyn System) -> Result<Vec<RuleSet>> {
    match system.read(RULES_PATH)? {
        Some(text) => {
            serde_json::from_str(&text).with_context(|| format!("{RULES_PATH} is damaged"))
        }
        None => Ok(Vec::new()),
    }
}

/// Takes the rules out of files that a firewall loads, and has the unit of their own set them.
fn upgrade(system: &dyn System, host: &Host) -> Result<()> {
    let mut journal = Journal::read(system)?;
    let sets = journal.rules_in_firewall_files(system)?;
    if sets.is_empty() {
        return Ok(());
    }
    // The files may be there though what loads them is not.
    let host = Host {
        netfilter_persistent: true,
        ..host.clone()
    };
    let steps = plan::persistence(&host, &sets)?;
    journal.take_all(&steps, system, |step, did| {
        if did {
            say(format_args!("done: {step}"));
        }
    })
}

/// One setup at a time.
fn lock() -> Result<File> {
    let path = "/run/trafstat";
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let folder = File::open(path)?;
    rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)
        .context("another setup is running")?;
    Ok(folder)
}

/// A URL that is written into a file which everybody may read.
fn parse_url(text: &str) -> Result<String, String> {
    let url: MysqlUrl = text
        .parse()
        .map_err(|error: MysqlUrlError| error.to_string())?;
    if url.0.password.is_some() || text.contains(['"', '\\']) {
        return Err("a password has no place here: setup makes one up".to_owned());
    }
    Ok(text.to_owned())
}

/// A URL, or none.
fn parse_original_url(text: &str) -> Result<String, String> {
    match text {
        "none" => Ok(text.to_owned()),
        _ => parse_url(text).map_err(|error| match error.starts_with("a password") {
            true => "a password has no place here: it comes from /root/.my.cnf".to_owned(),
            false => error,
        }),
    }
}

fn parse_ports(text: &str) -> Result<PortChoice, String> {
    match text {
        "auto" => return Ok(PortChoice::Auto),
        "all" => return Ok(PortChoice::All),
        "none" => return Ok(PortChoice::None),
        _ => {}
    }
    let wrong =
        || "expected auto, all, none, or ports and ranges such as 22,443,8000:8099".to_owned();
    let port = |text: &str| match text.parse() {
        Ok(port @ 1..=u16::MAX) => Ok(port),
        _ => Err(wrong()),
    };
    let mut ports = Vec::new();
    for element in text.split(',') {
        let (first, last) = element.split_once(':').unwrap_or((element, element));
        let range = port(first)?..=port(last)?;
        if range.is_empty() {
            return Err(wrong());
        }
        ports.extend(range);
    }
    Ok(PortChoice::Listed(ports))
}

#[cfg(test)]
mod tests;
