//! `trafstat-store check`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use trafstat_store::output::to_stdout;

use super::progress::Progress;
use super::{Settings, say};

pub(super) fn run(settings: &Settings) -> Result<ExitCode> {
    let progress = Progress::new("checking");
    let wrong = settings.location.open_read_only()?.check()?;
    progress.finish();
    if wrong.is_empty() {
        return say(&format!("{} is whole", settings.location));
    }
    to_stdout(|writer| wrong.iter().try_for_each(|line| writeln!(writer, "{line}")))
        .context("cannot write to standard output")?;
    Ok(ExitCode::FAILURE)
}
