//! `trafstat-store hosts`.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use trafstat_cli::output::{Format, to_stdout};
use trafstat_store::host::KnownHost;

use crate::settings::Settings;

pub fn run(format: Format, settings: &Settings) -> Result<ExitCode> {
    let hosts = settings.location.open_read_only()?.hosts()?;
    to_stdout(|writer| write(&hosts, format, writer)).context("cannot write to standard output")?;
    for warning in hosts.iter().flat_map(KnownHost::warnings) {
        eprintln!("trafstat-store: {warning}");
    }
    Ok(ExitCode::SUCCESS)
}

fn write(hosts: &[KnownHost], format: Format, mut writer: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Table => {
            let mut table = Table::new();
            table.load_preset(presets::NOTHING);
            table.set_header(COLUMNS.map(|column| column.to_uppercase().replace('_', " ")));
            for host in hosts {
                table.add_row(cells(host).map(|cell| match cell.is_empty() {
                    true => "-".to_owned(),
                    false => cell,
                }));
            }
            if let Some(column) = table.column_mut(3) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            writeln!(writer, "{}", table.trim_fmt())
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(writer);
            csv.write_record(COLUMNS)?;
            for host in hosts {
                csv.write_record(cells(host))?;
            }
            csv.flush()
        }
        Format::Json => {
            serde_json::to_writer(&mut writer, &serde_json::json!({ "hosts": hosts }))?;
            writeln!(writer)
        }
    }
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
