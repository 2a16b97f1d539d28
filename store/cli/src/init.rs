// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store init` and `trafstat-store migrate`.

use std::process::ExitCode;

use anyhow::Result;
use trafstat_store::store::StoreError;

use crate::settings::{Settings, say};

pub fn init(settings: &Settings) -> Result<ExitCode> {
    settings.location.open()?;
    say(&format!("{} is ready", settings.location))
}

pub fn migrate(settings: &Settings) -> Result<ExitCode> {
    // A database that is not there is a mistyped path, not one to create.
    match settings.location.open_read_only() {
        Ok(_) | Err(StoreError::TooOld { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    settings.location.open()?;
    say(&format!(
        "{} has the schema of this program",
        settings.location
    ))
}
