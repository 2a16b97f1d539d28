//! Collects what xt_TRAFSTAT counted into a database.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use trafstat_store::collect::{Outcome, Report, collect};
use trafstat_store::options::StoreOptions;
use trafstat_store::origin::Origin;
use trafstat_store::output::{Format, to_stdout};
use trafstat_store::source::{PROC_ROOT, Proc, Source};
use trafstat_store::time;

/// Collects what xt_TRAFSTAT counted into a database, exactly once.
///
/// Every account's closed epoch is stored in one transaction and only then given up
/// by the kernel: a collector killed at any moment loses nothing and counts nothing
/// twice.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  trafstat-store                         collect once, as a timer does
  trafstat-store --format json           collect and report as JSON
  trafstat-store prune --before 400d     delete what is older
  trafstat-store backup /mnt/trafstat.db copy the database while it is in use

Exit status: 0 done, 1 failed, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    collect: CollectOptions,

    #[command(flatten)]
    store: StoreOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Store every account's epoch once (the default).
    Collect,
    /// Delete the records of epochs that closed before a time.
    ///
    /// The file keeps its size: what is freed is used again.
    Prune {
        /// Time such as "2026-01-31 12:00", or so long ago, such as 400d.
        #[arg(long, value_name = "TIME", value_parser = time::parse)]
        before: Timestamp,
    },
    /// Copy the database, which may be in use, to a new file.
    Backup {
        /// File to write; it must not exist yet.
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
struct CollectOptions {
    /// How to report what became of each account.
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    format: Format,

    /// Where the kernel module shows its accounts.
    #[arg(long, value_name = "PATH", default_value = PROC_ROOT, hide = true, global = true)]
    proc_root: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        None | Some(Command::Collect) => run_collect(&cli),
        Some(Command::Prune { before }) => run_prune(&cli.store, *before),
        Some(Command::Backup { path }) => run_backup(&cli.store, path),
    };
    done.unwrap_or_else(|error| {
        eprintln!("trafstat-store: {error:#}");
        ExitCode::FAILURE
    })
}

fn run_collect(cli: &Cli) -> Result<ExitCode> {
    let mut source = Proc::new(&cli.collect.proc_root);
    // Without the module there is nothing to make a database for.
    if source.accounts()?.is_empty() {
        eprintln!(
            "trafstat-store: there is no account yet: a rule makes one, such as \
             \"iptables -A INPUT -j TRAFSTAT --local-net 192.0.2.0/24\""
        );
    }
    let origin = Origin::of_this_process()?;
    let mut store = cli.store.open()?;
    let outcomes = collect(&mut source, store.as_mut(), &origin)?;
    for Outcome {
        account,
        header,
        result,
    } in &outcomes
    {
        if let Err(error) = result {
            let epoch = header
                .as_ref()
                .map(|header| format!(", epoch {}", header.epoch))
                .unwrap_or_default();
            eprintln!("trafstat-store: account {account}{epoch}: {error}");
        }
    }
    if !outcomes.is_empty() || cli.collect.format != Format::Table {
        let report = Report::new(&outcomes);
        to_stdout(|writer| report.write(cli.collect.format, writer))
            .context("cannot write the report")?;
    }
    Ok(
        match outcomes.iter().all(|outcome| outcome.result.is_ok()) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        },
    )
}

fn run_prune(options: &StoreOptions, before: Timestamp) -> Result<ExitCode> {
    // A database that is not there is a mistyped path, not one to create.
    options.open_read_only()?;
    let pruned = options.open()?.prune(before)?;
    say(&format!(
        "deleted {} records of {} epochs",
        pruned.records, pruned.epochs
    ))
}

fn run_backup(options: &StoreOptions, path: &Path) -> Result<ExitCode> {
    options.open_read_only()?.back_up(path)?;
    say(&format!(
        "copied {} to {}",
        options.location().display(),
        path.display()
    ))
}

fn say(line: &str) -> Result<ExitCode> {
    to_stdout(|writer| writeln!(writer, "{line}")).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}
