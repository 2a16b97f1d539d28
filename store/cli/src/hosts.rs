// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store hosts`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use tracing::warn;
use trafstat_cli::output::{Format, Listing, to_stdout};
use trafstat_store::host::KnownHost;

use crate::settings::Settings;

pub fn run(format: Format, settings: &Settings) -> Result<ExitCode> {
    let hosts = settings.location.open_read_only()?.hosts()?;
    let listing = Listing {
        columns: COLUMNS,
        numbers: 3..4,
        rows: hosts.iter().map(cells).collect(),
        json: &serde_json::json!({ "hosts": hosts }),
    };
    to_stdout(|writer| listing.write(format, writer)).context("cannot write to standard output")?;
    for warning in hosts.iter().flat_map(KnownHost::warnings) {
        warn!("{warning}");
    }
    Ok(ExitCode::SUCCESS)
}

const COLUMNS: [&str; 5] = [
    "host",
    "machine_id",
    "seen",
    "clock_ahead_seconds",
    "shares_machine_id",
];

fn cells(host: &KnownHost) -> [String; 5] {
    let seen = host.seen.map(|seen| seen.strftime("%FT%TZ").to_string());
    let ahead = host
        .clock_ahead
        .map(|ahead| format!("{:.3}", ahead.as_secs_f64()));
    let shares = if host.shares_machine_id { "yes" } else { "no" };
    [
        host.hostname.clone(),
        host.machine_id.clone(),
        seen.unwrap_or_default(),
        ahead.unwrap_or_default(),
        shares.to_owned(),
    ]
}
