// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store prune`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use trafstat_cli::time;

use crate::settings::{Settings, say};

/// Delete the records of epochs that closed before a time.
///
/// The file keeps its size: what is freed is used again.
#[derive(Debug, Args)]
pub struct PruneOptions {
    /// Time such as "2026-01-31 12:00", or so long ago, such as 400d.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    before: Timestamp,
}

pub fn run(options: &PruneOptions, settings: &Settings) -> Result<ExitCode> {
    // A database that is not there is a mistyped path, not one to create.
    settings.location.open_read_only()?;
    let pruned = settings.location.open()?.prune(options.before)?;
    say(&format!(
        "deleted {} records of {} epochs",
        pruned.records, pruned.epochs
    ))
}
