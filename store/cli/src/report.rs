// SPDX-License-Identifier: GPL-2.0-or-later
//! Tells what became of each account: as a table, CSV or JSON.

use std::io::{self, Write};

use serde::Serialize;

use trafstat_cli::output::{Format, Listing};
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
    pub fn write(&self, format: Format, writer: &mut dyn Write) -> io::Result<()> {
        let listing = Listing {
            columns: COLUMNS,
            numbers: 3..10,
            rows: self.accounts.iter().map(Line::cells).collect(),
            json: self,
        };
        listing.write(format, writer)
    }
}

const COLUMNS: [&str; 11] = [
    "netns", "account", "family", "epoch", "records", "packets", "bytes", "outside", "skipped",
    "folded", "state",
];

/// One account. Packets and bytes are those of its records; packets outside had neither side in
/// the local net, skipped ones were left out by sampling, and folded ones lost their remote side.
#[derive(Debug, Serialize)]
struct Line<'a> {
    netns: &'a str,
    account: &'a str,
    family: Family,
    epoch: Option<u64>,
    records: Option<u64>,
    packets: Option<u64>,
    bytes: Option<u64>,
    outside: Option<u64>,
    skipped: Option<u64>,
    folded: Option<u64>,
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
            outside: header.map(|header| header.totals.outside.packets),
            skipped: header.map(|header| header.totals.skipped.packets),
            folded: header.map(|header| header.totals.folded.packets),
            state: match outcome.result {
                Ok(State::Stored) => "stored",
                Ok(State::AlreadyStored) => "already stored",
                Ok(State::Spooled) => "spooled",
                Err(_) => "failed",
            },
            error: outcome.result.as_ref().err().map(ToString::to_string),
        }
    }

    fn cells(&self) -> [String; 11] {
        let figure = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        [
            self.netns.to_owned(),
            self.account.to_owned(),
            self.family.to_string(),
            figure(self.epoch),
            figure(self.records),
            figure(self.packets),
            figure(self.bytes),
            figure(self.outside),
            figure(self.skipped),
            figure(self.folded),
            self.state.to_owned(),
        ]
    }
}
