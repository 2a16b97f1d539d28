// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store restore`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::settings::{Settings, say};
use trafstat_cli::progress::Progress;

/// Add what backups, archives and restorable exports have, every epoch once.
///
/// May be repeated: what the database has already is not added again.
#[derive(Debug, Args)]
pub struct RestoreOptions {
    /// Files that "backup", "rotate" or "export --restorable" wrote.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub fn run(options: &RestoreOptions, settings: &Settings) -> Result<ExitCode> {
    let mut store = settings.location.open()?;
    for file in &options.files {
        let progress = Progress::new("restoring");
        let restored = store
            .restore(file)
            .with_context(|| format!("cannot restore {}", file.display()))?;
        progress.finish();
        say(&format!(
            "{}: {} epochs added, {} known already",
            file.display(),
            restored.epochs,
            restored.known
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
