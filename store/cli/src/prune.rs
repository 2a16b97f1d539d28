// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store prune`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use jiff::tz::TimeZone;
use trafstat_cli::time;
use trafstat_store::store::Retention;

use crate::retention::delete;
use crate::settings::{Settings, say};

/// Delete the records of epochs that count before a time.
///
/// A length of time counts back from the newest epoch, or from the database server's clock if
/// that is earlier. The file keeps its size: what is freed is used again.
#[derive(Debug, Args)]
pub struct PruneOptions {
    /// Time such as "2026-01-31 12:00", or so long ago, such as 400d.
    #[arg(long, value_name = "TIME", value_parser = checked)]
    before: String,

    /// Delete the records even of more than half of the epochs.
    #[arg(long)]
    force: bool,
}

pub fn run(options: &PruneOptions, settings: &Settings) -> Result<ExitCode> {
    // A database that is not there is a mistyped path, not one to create.
    settings.location.open_read_only()?;
    let mut store = settings.location.open()?;
    let Some(now) = store.retention_time()? else {
        return say("there is no epoch to delete records of");
    };
    let before = match time::parse_at(&options.before, &now.to_zoned_datetime(TimeZone::system())) {
        Ok(before) => before,
        Err(wrong) => bail!(wrong),
    };
    let retention = Retention {
        records_before: Some(before),
        even_most: options.force,
        ..Retention::default()
    };
    let Some(pruned) = delete(&retention, |retention| store.rotate(retention, None))? else {
        return Ok(ExitCode::SUCCESS);
    };
    say(&format!(
        "deleted {} records of {} epochs",
        pruned.records, pruned.epochs
    ))
}

/// A time as it was written, which means one only once the store is asked.
fn checked(text: &str) -> Result<String, String> {
    time::parse(text).map(|_| text.to_owned())
}
