// SPDX-License-Identifier: GPL-2.0-or-later
//! What every subcommand needs: which store, and a line that says what was done.

use std::process::ExitCode;

use anyhow::{Context, Result};
use trafstat_cli::output::to_stdout;
use trafstat_cli::store::{OptionsError, StoreOptions};
use trafstat_store::options::Location;
use trafstat_store::options::config::Config;

/// As clap ends the program.
pub const WRONG_USAGE: u8 = 2;

/// What the command line and the configuration come to.
pub struct Settings {
    pub config: Config,
    pub location: Location,
}

impl Settings {
    pub fn new(options: &StoreOptions) -> Result<Self, OptionsError> {
        let config = options.config()?;
        let location = options.location(&config.store)?;
        Ok(Self { config, location })
    }
}

/// Says what was done.
pub fn say(line: &str) -> Result<ExitCode> {
    to_stdout(|writer| writeln!(writer, "{line}")).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}
