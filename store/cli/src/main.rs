// SPDX-License-Identifier: GPL-2.0-or-later
//! Collects what xt_TRAFSTAT counted into a database; a file a subcommand.

mod backup;
mod capture;
mod check;
mod collect;
mod export;
mod hosts;
mod import;
mod init;
mod live;
mod prune;
mod report;
mod restore;
mod retention;
mod rotate;
mod settings;
mod spool;
mod user;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use tracing::error;
use trafstat_cli::capture::SourceName;
use trafstat_cli::log;
use trafstat_cli::manual::{ManualOptions, write_configuration_page};
use trafstat_cli::output::with_causes;
use trafstat_cli::store::{OptionsError, StoreOptions};

use crate::settings::{Settings, WRONG_USAGE};

/// Collects what xt_TRAFSTAT counted into a database, exactly once.
///
/// Every account's closed epoch is stored in one transaction and only then given up
/// by the kernel: a collector killed at any moment loses nothing and counts nothing
/// twice.
#[derive(Debug, Parser)]
#[command(
    name = "trafstat-store",
    version,
    after_help = "Examples:
  trafstat-store                         collect once, as a timer does
  trafstat-store --format json           collect and report as JSON
  trafstat-store --every 5m              collect as a service, at :00, :05, :10, ...
  trafstat-store --netns all             collect from every network namespace
  trafstat-store --url mysql://trafstat@db1,db2/trafstat
                                         collect into MySQL, password in ~/.my.cnf
  trafstat-store --source pcap:day.pcap.gz --local-net 192.0.2.0/24 --epoch 5m
                                         count a capture, as the module would have
  trafstat-store --source live:eth0 --local-net 192.0.2.0/24 --every 5m
                                         count an interface, without the module
  trafstat-store rotate --keep-records 90d --keep-hourly 2y
                                         archive and delete what is older
  trafstat-store backup /mnt/trafstat.db copy the database while it is in use
  trafstat-store export local-day --since 30d
                                         write daily sums by local address as CSV
  trafstat-store hosts --format json     who collects into it, and whose clock is off
  trafstat-store spool list              what waits for the database, and what it refuses

While the database is away, epochs wait in the spool on this host; the next collection
stores them. An epoch that the database refuses is set aside there; nothing else waits
for it. SIGHUP makes the service read the configuration again.

Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 nothing is lost, but
epochs wait in the spool for the database."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    collect: collect::CollectOptions,

    #[command(flatten)]
    store: StoreOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Store every account's epoch (the default).
    Collect,
    /// Create the database's schema, so that the first collection finds it.
    Init,
    /// Bring the database's schema to this program's version.
    Migrate,
    CreateUser(user::CreateUserOptions),
    DropUser(user::DropUserOptions),
    Rotate(rotate::RotateOptions),
    Prune(prune::PruneOptions),
    Backup(backup::BackupOptions),
    Restore(restore::RestoreOptions),
    /// Check that the database is whole and that every total in it adds up.
    Check,
    Export(export::ExportOptions),
    /// List the hosts that collect into the database, when each last did, and how far its
    /// clock was ahead of the server's.
    Hosts,
    Import(import::ImportOptions),
    Spool(spool::SpoolOptions),
    /// Write the manual page and shell completions.
    #[command(hide = true)]
    Manual(ManualOptions),
}

fn main() -> ExitCode {
    log::init("trafstat-store");
    let cli = Cli::parse();
    execute(&cli).unwrap_or_else(|error| {
        if let Some(wrong) = error.downcast_ref::<OptionsError>() {
            error!("{wrong}");
            return ExitCode::from(WRONG_USAGE);
        }
        error!("{}", with_causes(&error));
        ExitCode::FAILURE
    })
}

fn execute(cli: &Cli) -> Result<ExitCode> {
    let settings = || Settings::new(&cli.store);
    match &cli.command {
        None | Some(Command::Collect) => collect(cli, settings()?),
        Some(Command::Prune(options)) => prune::run(options, &settings()?),
        Some(Command::Init) => init::init(&settings()?),
        Some(Command::Migrate) => init::migrate(&settings()?),
        Some(Command::CreateUser(options)) => user::create(options, &settings()?),
        Some(Command::DropUser(options)) => user::drop(options, &settings()?),
        Some(Command::Rotate(options)) => rotate::run(options, &settings()?),
        Some(Command::Restore(options)) => restore::run(options, &settings()?),
        Some(Command::Check) => check::run(&settings()?),
        Some(Command::Hosts) => hosts::run(cli.collect.format(), &settings()?),
        Some(Command::Backup(options)) => backup::run(options, &settings()?),
        Some(Command::Export(options)) => export::run(options, cli.collect.format(), &settings()?),
        Some(Command::Import(options)) => import::run(options, cli.collect.format(), &settings()?),
        Some(Command::Spool(options)) => spool::run(options, &cli.collect, &cli.store),
        Some(Command::Manual(options)) => {
            options
                .write(Cli::command())
                .and_then(|()| write_configuration_page(options))
                .context("cannot write the manual")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Collects from where the command line says.
fn collect(cli: &Cli, settings: Settings) -> Result<ExitCode> {
    let (options, capture) = (&cli.collect, &cli.collect.capture);
    match &capture.source {
        Some(SourceName::Capture(name)) => {
            let once = options.is_once();
            capture::run(name, capture, once, options.format(), &settings)
        }
        Some(SourceName::Live(interface)) => live::run(interface, options, &cli.store, settings),
        None => collect::run(options, &cli.store, settings),
    }
}
