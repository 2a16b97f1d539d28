// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store check`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use trafstat_cli::output::to_stdout;
use trafstat_store::host::KnownHost;

use crate::settings::{Settings, say};
use tracing::warn;
use trafstat_cli::progress::Progress;

pub fn run(settings: &Settings) -> Result<ExitCode> {
    let progress = Progress::new("checking");
    let mut store = settings.location.open_read_only()?;
    let wrong = store.check()?;
    progress.finish();
    // The database is no less whole for these.
    for warning in store.hosts()?.iter().flat_map(KnownHost::warnings) {
        warn!("{warning}");
    }
    if wrong.is_empty() {
        return say(&format!("{} is whole", settings.location));
    }
    to_stdout(|writer| wrong.iter().try_for_each(|line| writeln!(writer, "{line}")))
        .context("cannot write to standard output")?;
    Ok(ExitCode::FAILURE)
}
