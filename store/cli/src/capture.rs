// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store collect --source ...`: counts without the kernel module.

use std::process::ExitCode;

use anyhow::{Context, Result};
use tracing::{error, warn};
use trafstat_cli::capture::{CaptureOptions, remarks};
use trafstat_cli::output::{Format, to_stdout};
use trafstat_store::collect::collect_capture;
use trafstat_store::origin::Origin;
use trafstat_store::source::capture::CaptureName;

use crate::report::Report;
use crate::settings::{Settings, WRONG_USAGE};

/// Counts a capture to its end, into the store.
pub fn run(
    name: &CaptureName,
    options: &CaptureOptions,
    once: bool,
    format: Format,
    settings: &Settings,
) -> Result<ExitCode> {
    let rules = match options.rules() {
        Ok(rules) => rules,
        Err(reason) => {
            error!("{reason}");
            return Ok(ExitCode::from(WRONG_USAGE));
        }
    };
    let mut capture = options.open(name, &rules, once)?;
    let origin = Origin::of_this_process()?;
    let mut store = settings.location.open()?;
    let outcomes = collect_capture(&mut capture, store.as_mut(), &origin);
    for outcome in &outcomes {
        if let Err(error) = &outcome.result {
            error!(account = %outcome.account, "account {}: {error}", outcome.account);
        }
    }
    if !outcomes.is_empty() || format != Format::Table {
        let report = Report::new(&outcomes);
        to_stdout(|writer| report.write(format, writer)).context("cannot write the report")?;
    }
    for remark in remarks(&capture, once) {
        warn!("{remark}");
    }
    capture.finish()?;
    Ok(
        match outcomes.iter().all(|outcome| outcome.result.is_ok()) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        },
    )
}
