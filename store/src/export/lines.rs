// SPDX-License-Identifier: GPL-2.0-or-later
//! One line for each record or sum, as CSV or as JSON.

use std::io::{self, Write};
use std::net::IpAddr;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::fields::{EPOCH_COLUMNS, Fields, RECORD_COLUMNS, time};
use crate::account::Family;
use crate::origin::Origin;
use crate::snapshot::{Header, Record};
use crate::store::{Epochs, Level, StoreError, Sum};

/// Writes lines of one form.
pub(super) trait Lines {
    fn record(&mut self, epoch: &Epoch, record: &Record) -> io::Result<()>;
    fn sum(&mut self, sum: &Sum<'_>) -> io::Result<()>;
    fn finish(&mut self) -> io::Result<()>;
}

/// What the lines of an epoch's records have in common.
#[derive(Serialize)]
pub(super) struct Epoch {
    host: String,
    netns: String,
    family: Family,
    account: String,
    epoch: u64,
    closed: String,
}

/// Records of all epochs as lines.
pub(super) struct Flows<'a> {
    lines: &'a mut dyn Lines,
    epoch: Option<Epoch>,
}

impl<'a> Flows<'a> {
    pub(super) fn new(lines: &'a mut dyn Lines) -> Self {
        Self { lines, epoch: None }
    }
}

impl Epochs for Flows<'_> {
    fn begin(&mut self, origin: &Origin, header: &Header) -> Result<(), StoreError> {
        self.epoch = Some(Epoch {
            host: origin.hostname.clone(),
            netns: origin.netns.clone(),
            family: header.account.family,
            account: header.account.name.to_string(),
            epoch: header.epoch,
            closed: time(header.closed_ns)
                .map_err(StoreError::Write)?
                .to_string(),
        });
        Ok(())
    }

    fn add(&mut self, records: &[Record]) -> Result<(), StoreError> {
        if let Some(epoch) = &self.epoch {
            for record in records {
                self.lines
                    .record(epoch, record)
                    .map_err(StoreError::Write)?;
            }
        }
        Ok(())
    }

    fn left_out(&mut self) {}
}

/// Comma-separated values.
pub(super) struct CsvLines<'a> {
    fields: Fields<&'a mut dyn Write>,
}

impl<'a> CsvLines<'a> {
    pub(super) fn new(out: &'a mut dyn Write, level: Level) -> Result<Self, StoreError> {
        let mut lines = Self {
            fields: Fields::new(out),
        };
        lines.names(level).map_err(StoreError::Write)?;
        Ok(lines)
    }

    fn names(&mut self, level: Level) -> io::Result<()> {
        let fields = &mut self.fields;
        match level {
            Level::Flow => {
                for name in EPOCH_COLUMNS.iter().chain(&RECORD_COLUMNS) {
                    fields.add(name)?;
                }
            }
            sums => {
                for name in ["host", "netns", "family", "account", sums.period()] {
                    fields.add(name)?;
                }
                for field in sums.fields() {
                    fields.add(field.column())?;
                }
                for name in &RECORD_COLUMNS[6..] {
                    fields.add(name)?;
                }
            }
        }
        fields.end_line()
    }
}

impl Lines for CsvLines<'_> {
    fn record(&mut self, epoch: &Epoch, record: &Record) -> io::Result<()> {
        let fields = &mut self.fields;
        fields.add(&epoch.host)?;
        fields.add(&epoch.netns)?;
        fields.add(epoch.family)?;
        fields.add(&epoch.account)?;
        fields.add(epoch.epoch)?;
        fields.add(&epoch.closed)?;
        fields.add_record(record)?;
        fields.end_line()
    }

    fn sum(&mut self, sum: &Sum<'_>) -> io::Result<()> {
        let fields = &mut self.fields;
        fields.add(&sum.origin.hostname)?;
        fields.add(&sum.origin.netns)?;
        fields.add(sum.account.family)?;
        fields.add(&sum.account.name)?;
        fields.add(sum.begin)?;
        for value in sum.key {
            fields.add(value)?;
        }
        fields.add_counters(&sum.counters)?;
        fields.end_line()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.fields.flush()
    }
}

/// `{"records":[...]}` or `{"sums":[...]}`, an element a line.
pub(super) struct JsonLines<'a> {
    out: &'a mut dyn Write,
    level: Level,
    any: bool,
}

#[derive(Serialize)]
struct RecordLine<'a> {
    #[serde(flatten)]
    epoch: &'a Epoch,
    protocol: u8,
    local_ip: IpAddr,
    local_port: u16,
    remote_ip: IpAddr,
    remote_port: u16,
    flags: u8,
    sent_packets: u64,
    received_packets: u64,
    sent_bytes: u64,
    received_bytes: u64,
    syn_packets: u64,
}

struct SumLine<'a> {
    level: Level,
    sum: &'a Sum<'a>,
}

impl Serialize for SumLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { level, sum } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("host", &sum.origin.hostname)?;
        map.serialize_entry("netns", &sum.origin.netns)?;
        map.serialize_entry("family", &sum.account.family)?;
        map.serialize_entry("account", &sum.account.name)?;
        map.serialize_entry(level.period(), &sum.begin.to_string())?;
        for (field, value) in level.fields().iter().zip(sum.key) {
            map.serialize_entry(field.column(), value)?;
        }
        for (column, counter) in sum.counters.columns() {
            map.serialize_entry(column, &counter)?;
        }
        map.end()
    }
}

impl<'a> JsonLines<'a> {
    pub(super) fn new(out: &'a mut dyn Write, level: Level) -> Result<Self, StoreError> {
        let name = match level {
            Level::Flow => "records",
            _ => "sums",
        };
        write!(out, "{{\"{name}\":[").map_err(StoreError::Write)?;
        Ok(Self {
            out,
            level,
            any: false,
        })
    }

    fn element(&mut self, element: &impl Serialize) -> io::Result<()> {
        let separator = if self.any { ",\n" } else { "\n" };
        self.any = true;
        self.out.write_all(separator.as_bytes())?;
        Ok(serde_json::to_writer(&mut *self.out, element)?)
    }
}

impl Lines for JsonLines<'_> {
    fn record(&mut self, epoch: &Epoch, record: &Record) -> io::Result<()> {
        let counters = record.counters;
        self.element(&RecordLine {
            epoch,
            protocol: record.protocol,
            local_ip: record.local.ip,
            local_port: record.local.port,
            remote_ip: record.remote.ip,
            remote_port: record.remote.port,
            flags: record.flags,
            sent_packets: counters.sent_packets,
            received_packets: counters.received_packets,
            sent_bytes: counters.sent_bytes,
            received_bytes: counters.received_bytes,
            syn_packets: counters.syn_packets,
        })
    }

    fn sum(&mut self, sum: &Sum<'_>) -> io::Result<()> {
        let level = self.level;
        self.element(&SumLine { level, sum })
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.write_all(b"\n]}\n")?;
        self.out.flush()
    }
}
