// SPDX-License-Identifier: GPL-2.0-or-later
//! The columns of lines, and their fields as text.

use std::fmt;
use std::io::{self, Write};

use jiff::Timestamp;

use crate::snapshot::{Counters, Record};

/// Nanoseconds since 1970 as RFC 3339, whole: what it says is read back the same.
pub(in crate::export) fn time(nanoseconds: u64) -> io::Result<Timestamp> {
    Timestamp::from_nanosecond(nanoseconds.into()).map_err(io::Error::other)
}

/// The account and epoch that a line belongs to.
pub(in crate::export) const EPOCH_COLUMNS: [&str; 6] =
    ["host", "netns", "family", "account", "epoch", "closed"];

/// What a record is.
pub(in crate::export) const RECORD_COLUMNS: [&str; 11] = [
    "protocol",
    "local_ip",
    "local_port",
    "remote_ip",
    "remote_port",
    "flags",
    "sent_packets",
    "received_packets",
    "sent_bytes",
    "received_bytes",
    "syn_packets",
];

/// Writes fields to a line of CSV.
pub(in crate::export) struct Fields<W: Write> {
    csv: csv::Writer<W>,
    text: String,
}

impl<W: Write> Fields<W> {
    pub(in crate::export) fn new(writer: W) -> Self {
        Self {
            csv: csv::Writer::from_writer(writer),
            text: String::new(),
        }
    }

    pub(in crate::export) fn add(&mut self, value: impl fmt::Display) -> io::Result<()> {
        use fmt::Write as _;

        self.text.clear();
        write!(self.text, "{value}").map_err(io::Error::other)?;
        Ok(self.csv.write_field(&self.text)?)
    }

    pub(in crate::export) fn end_line(&mut self) -> io::Result<()> {
        Ok(self.csv.write_record(None::<&[u8]>)?)
    }

    pub(in crate::export) fn add_record(&mut self, record: &Record) -> io::Result<()> {
        self.add(record.protocol)?;
        for side in [&record.local, &record.remote] {
            self.add(side.ip)?;
            self.add(side.port)?;
        }
        self.add(record.flags)?;
        self.add_counters(&record.counters)
    }

    pub(in crate::export) fn add_counters(&mut self, counters: &Counters) -> io::Result<()> {
        for (_, counter) in counters.columns() {
            self.add(counter)?;
        }
        Ok(())
    }

    pub(in crate::export) fn flush(&mut self) -> io::Result<()> {
        self.csv.flush()
    }
}
