// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store rotate`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use jiff::{Timestamp, ZonedDateTime};
use trafstat_store::options::config::{KeepFor, parse_keep_for};
use trafstat_store::store::{Archive, ArchiveForm, Retention};

use crate::settings::{Settings, say};
use trafstat_cli::progress::Progress;
use trafstat_cli::values;

/// Archive and delete what is older than it is to be kept, level by level.
///
/// Records are written to the archive and read back before they are deleted; sums are kept
/// for as long as they are to be. A level of which nothing is said is kept.
#[derive(Debug, Args)]
pub struct RotateOptions {
    /// How long records are kept, such as 90d.
    #[arg(long, value_name = "TIME", value_parser = parse_keep_for)]
    keep_records: Option<KeepFor>,

    /// How long sums of 15 minutes are kept; days of time zones that are not whole hours from UTC
    /// are exact as long as these are there.
    #[arg(long, value_name = "TIME", value_parser = parse_keep_for)]
    keep_quarterly: Option<KeepFor>,

    /// How long hourly sums are kept, such as 2y.
    #[arg(long, value_name = "TIME", value_parser = parse_keep_for)]
    keep_hourly: Option<KeepFor>,

    /// How long daily sums are kept.
    #[arg(long, value_name = "TIME", value_parser = parse_keep_for)]
    keep_daily: Option<KeepFor>,

    /// How long monthly sums are kept.
    #[arg(long, value_name = "TIME", value_parser = parse_keep_for)]
    keep_monthly: Option<KeepFor>,

    /// Folder for what is written out [default: /var/lib/trafstat/archive].
    #[arg(long, value_name = "FOLDER", conflicts_with = "no_archive")]
    archive: Option<PathBuf>,

    /// What the files in it are [default: sqlite].
    #[arg(long, value_name = "FORM", value_parser = values::archive_form(), conflicts_with = "no_archive")]
    archive_form: Option<ArchiveForm>,

    /// Delete records without writing them out.
    #[arg(long)]
    no_archive: bool,
}

pub fn run(options: &RotateOptions, settings: &Settings) -> Result<ExitCode> {
    let config = &settings.config.retention;
    let before = |said: Option<KeepFor>, configured: Option<KeepFor>| {
        said.or(configured).map(time_before_now).transpose()
    };
    let retention = Retention {
        records_before: before(options.keep_records, config.keep_records)?,
        quarterly_before: before(options.keep_quarterly, config.keep_quarterly)?,
        hourly_before: before(options.keep_hourly, config.keep_hourly)?,
        daily_before: before(options.keep_daily, config.keep_daily)?,
        monthly_before: before(options.keep_monthly, config.keep_monthly)?,
    };
    if retention == Retention::default() {
        bail!(
            "nothing says how long to keep what: see --keep-records, or [retention] in the \
               configuration"
        );
    }
    let folder = (!options.no_archive).then(|| {
        options
            .archive
            .clone()
            .or_else(|| config.archive.clone())
            .unwrap_or_else(|| PathBuf::from(DEFAULT_ARCHIVE))
    });
    let archive = folder.as_deref().map(|folder| Archive {
        folder,
        form: options
            .archive_form
            .or(config.archive_form)
            .unwrap_or_default(),
    });
    // A database that is not there is a mistyped path, not one to create.
    settings.location.open_read_only()?;
    let progress = Progress::new("rotating");
    let rotated = settings.location.open()?.rotate(&retention, archive)?;
    progress.finish();
    for file in &rotated.archives {
        say(&format!("wrote {}", file.display()))?;
    }
    say(&format!(
        "deleted {} records of {} epochs, and {} sums",
        rotated.records, rotated.epochs, rotated.sums
    ))
}

const DEFAULT_ARCHIVE: &str = "/var/lib/trafstat/archive";

fn time_before_now(keep: KeepFor) -> Result<Timestamp> {
    ZonedDateTime::now()
        .checked_sub(keep.0)
        .map(|time| time.timestamp())
        .context("a time to keep is longer than the calendar")
}
