//! Tells what became of each account: as a table, CSV or JSON.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use trafstat_cli::output::Format;
use trafstat_store::account::Family;
use trafstat_store::collect::{Outcome, State};

/// The outcome of a collection, one line an account.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    accounts: Vec<Line<'a>>,
}

impl<'a> Report<'a> {
    /// The report of these outcomes, in their order.
    pub fn new(outcomes: &'a [Outcome]) -> Self {
        Self {
            accounts: outcomes.iter().map(Line::new).collect(),
        }
    }

    /// Writes the report.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, format: Format, mut writer: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Table => writeln!(writer, "{}", self.table().trim_fmt()),
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(writer);
                csv.write_record(COLUMNS)?;
                for line in &self.accounts {
                    csv.write_record(line.cells())?;
                }
                csv.flush()
            }
            Format::Json => {
                serde_json::to_writer(&mut writer, self)?;
                writeln!(writer)
            }
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(COLUMNS.map(str::to_uppercase));
        for line in &self.accounts {
            table.add_row(line.cells().map(|cell| match cell.is_empty() {
                true => "-".to_owned(),
                false => cell,
            }));
        }
        for column in table.column_iter_mut().skip(3).take(4) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

const COLUMNS: [&str; 8] = [
    "netns", "account", "family", "epoch", "records", "packets", "bytes", "state",
];

/// One account; the figures are those of its records.
#[derive(Debug, Serialize)]
struct Line<'a> {
    netns: &'a str,
    account: &'a str,
    family: Family,
    epoch: Option<u64>,
    records: Option<u64>,
    packets: Option<u64>,
    bytes: Option<u64>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl<'a> Line<'a> {
    fn new(outcome: &'a Outcome) -> Self {
        let header = outcome.header.as_ref();
        Self {
            netns: &outcome.origin.netns,
            account: outcome.account.name.as_str(),
            family: outcome.account.family,
            epoch: header.map(|header| header.epoch),
            records: header.map(|header| header.records),
            packets: header.map(|header| header.totals.recorded.packets),
            bytes: header.map(|header| header.totals.recorded.bytes),
            state: match outcome.result {
                Ok(State::Stored) => "stored",
                Ok(State::AlreadyStored) => "already stored",
                Ok(State::Spooled) => "spooled",
                Err(_) => "failed",
            },
            error: outcome.result.as_ref().err().map(ToString::to_string),
        }
    }

    fn cells(&self) -> [String; 8] {
        let figure = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        [
            self.netns.to_owned(),
            self.account.to_owned(),
            self.family.to_string(),
            figure(self.epoch),
            figure(self.records),
            figure(self.packets),
            figure(self.bytes),
            self.state.to_owned(),
        ]
    }
}
