// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store rotate`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use trafstat_store::options::config::{KeepFor, parse_keep_for};
use trafstat_store::store::{Archive, ArchiveForm, Retention};

use crate::retention::delete;
use crate::settings::{Settings, say};
use trafstat_cli::progress::Progress;
use trafstat_cli::values;

const DEFAULT_ARCHIVE: &str = "/var/lib/trafstat/archive";

/// For how long the timer keeps records where the configuration says nothing.
const SCHEDULED_DAYS: i64 = 400;

/// Archive and delete what is older than it is to be kept, level by level.
///
/// Records are written to the archive and read back before they are deleted; sums are kept
/// for as long as they are to be. A level of which nothing is said is kept. Times count back
/// from the newest epoch, or from the database server's clock if that is earlier.
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

    /// Where nothing says how long to keep what, keep records for 400 days and write no archive,
    /// as the timer does.
    #[arg(long)]
    scheduled: bool,

    /// Delete even more than half of a level.
    #[arg(long)]
    force: bool,
}

pub fn run(options: &RotateOptions, settings: &Settings) -> Result<ExitCode> {
    let config = &settings.config.retention;
    let mut records = options.keep_records.or(config.keep_records);
    let quarterly = options.keep_quarterly.or(config.keep_quarterly);
    let hourly = options.keep_hourly.or(config.keep_hourly);
    let daily = options.keep_daily.or(config.keep_daily);
    let monthly = options.keep_monthly.or(config.keep_monthly);
    let sums = quarterly.or(hourly).or(daily).or(monthly);
    let says_nothing = records.or(sums).is_none();
    if says_nothing && options.scheduled {
        records = Some(KeepFor(Span::new().days(SCHEDULED_DAYS)));
    } else if says_nothing {
        bail!(
            "nothing says how long to keep what: see --keep-records, or [retention] in the \
               configuration"
        );
    }
    let no_archive = options.no_archive || says_nothing;
    let folder = (!no_archive).then(|| {
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
    let mut store = settings.location.open()?;
    let Some(now) = store.retention_time()? else {
        return say("there is no epoch to delete anything of");
    };
    let retention = Retention {
        records_before: cut_off(now, records)?,
        quarterly_before: cut_off(now, quarterly)?,
        hourly_before: cut_off(now, hourly)?,
        daily_before: cut_off(now, daily)?,
        monthly_before: cut_off(now, monthly)?,
        even_most: options.force,
    };
    let rotated = delete(&retention, |retention| {
        let progress = Progress::new("rotating");
        let rotated = store.rotate(retention, archive);
        progress.finish();
        rotated
    })?;
    let Some(rotated) = rotated else {
        return Ok(ExitCode::SUCCESS);
    };
    for file in &rotated.archives {
        say(&format!("wrote {}", file.display()))?;
    }
    say(&format!(
        "deleted {} records of {} epochs, and {} sums",
        rotated.records, rotated.epochs, rotated.sums
    ))
}

fn cut_off(now: Timestamp, keep: Option<KeepFor>) -> Result<Option<Timestamp>> {
    let Some(keep) = keep else {
        return Ok(None);
    };
    now.to_zoned_datetime(TimeZone::system())
        .checked_sub(keep.0)
        .map(|time| Some(time.timestamp()))
        .context("a time to keep is longer than the calendar")
}
