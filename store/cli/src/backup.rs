// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store backup`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::settings::{Settings, say};
use trafstat_cli::progress::Progress;

/// Copy the database, which may be in use, to a new file.
#[derive(Debug, Args)]
pub struct BackupOptions {
    /// File to write; it must not exist yet.
    path: PathBuf,
}

pub fn run(options: &BackupOptions, settings: &Settings) -> Result<ExitCode> {
    let progress = Progress::new("copying");
    settings.location.open_read_only()?.back_up(&options.path)?;
    progress.finish();
    say(&format!(
        "copied {} to {}",
        settings.location,
        options.path.display()
    ))
}
