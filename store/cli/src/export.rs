// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store export`.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use jiff::Timestamp;
use trafstat_cli::output::{Format, to_stdout};
use trafstat_cli::{time, values};
use trafstat_store::account::Name;
use trafstat_store::export::{Exported, Form, export, to_file};
use trafstat_store::store::StoreError;
use trafstat_store::store::{Level, Selection};

use crate::settings::Settings;
use tracing::warn;
use trafstat_cli::progress::Progress;

/// Write records or sums out, as CSV (the default) or JSON.
///
/// Lines come account by account and in the order of time, as they are read. An account
/// that was made anew has sums of its own: those of one period may be several lines.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trafstat-store export --since 2026-01-01 --until 2026-02-01 --output january.csv.zst
  trafstat-store export service-day --account lan --format json | jq .sums[]
  trafstat-store export --restorable | ssh backup trafstat-store restore /dev/stdin")]
pub struct ExportOptions {
    /// What to write out, by the names of the views.
    #[arg(value_parser = values::level(), value_name = "WHAT", default_value = "flow")]
    level: Level,

    /// Only accounts of this name; may be given several times.
    #[arg(long, value_name = "NAME")]
    account: Vec<Name>,

    /// Only epochs whose middle is, or periods that begin, at this time or later.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<Timestamp>,

    /// Only epochs whose middle is, or periods that begin, before this time.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    until: Option<Timestamp>,

    /// Records as CSV that "restore" takes back, without loss and every epoch once.
    #[arg(long)]
    restorable: bool,

    /// File to write, which must not exist yet; compressed if it ends in .gz or .zst.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(options: &ExportOptions, format: Format, settings: &Settings) -> Result<ExitCode> {
    let form = match (options.restorable, format) {
        (true, Format::Json) => bail!("--restorable is CSV: leave --format out"),
        (true, _) if options.level != Level::Flow => {
            bail!("--restorable has records: their sums come back with them")
        }
        (true, _) => Form::Restorable,
        (false, Format::Json) => Form::Json,
        (false, Format::Csv | Format::Table) => Form::Csv,
    };
    let selection = Selection {
        accounts: options.account.clone(),
        since: options.since,
        until: options.until,
    };
    let mut store = settings.location.open_read_only()?;
    let progress = Progress::new("exporting");
    let mut write = |out: &mut dyn io::Write| {
        export(
            store.as_mut(),
            options.level,
            &selection,
            form,
            &progress,
            out,
        )
    };
    let exported = match &options.output {
        Some(path) => to_file(path, write)?,
        None => {
            let mut failed = None;
            let mut exported = Exported::default();
            to_stdout(|out| match write(out) {
                Ok(done) => {
                    exported = done;
                    Ok(())
                }
                Err(StoreError::Write(error)) => Err(error),
                Err(error) => {
                    failed = Some(error);
                    Ok(())
                }
            })
            .context("cannot write to standard output")?;
            if let Some(error) = failed {
                return Err(error.into());
            }
            exported
        }
    };
    progress.finish();
    if exported.without_records > 0 {
        warn!(
            "{} epochs are left out, since their records were deleted; \
             \"restore\" brings them back from their archives",
            exported.without_records
        );
    }
    Ok(ExitCode::SUCCESS)
}
