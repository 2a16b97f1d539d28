// SPDX-License-Identifier: GPL-2.0-or-later
//! Takes over what the original xt_TRAFSTAT's users have: its CSV files and its tables.
//!
//! The original kept no epochs. Rows that one reading of its counters stored have one
//! timestamp, and become one epoch that closed then. A store adds only the rows that it
//! lacks of that time ([`crate::reading`]): an import may be repeated, and what a table and
//! its rotated file both have counts once.
//!
//! The last reading of a file or table that still grows may not be whole yet. It is held
//! back, and the next import takes it.

mod file;
mod local_time;
mod tables;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;
use trafstat_abi::RecordIpv4;
use zerocopy::FromZeros;

pub use file::{FileError, original_account, rows, rows_of_file};
pub use tables::OriginalTables;

use crate::account::Name;
use crate::origin::Origin;
use crate::reading::Reading;
use crate::snapshot::{Counters, Endpoint, Record};
use crate::store::{Store, StoreError};
use crate::watch::Watch;

/// An account of the original: what its rows say nothing about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalAccount {
    /// The name of its file under `/proc/trafstat`, `A.B.C.D_X`.
    pub name: Name,
    /// Its local net.
    pub local_net: Ipv4Net,
}

/// A row of the original, and when it was stored.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// When it was stored; none in files as they come from `/proc/trafstat`.
    pub stored: Option<Timestamp>,
    /// What it counts.
    pub record: RecordIpv4,
}

/// What a row counts, by the names of the original's columns.
const COLUMNS: [&str; 10] = [
    "protocol",
    "local_ip",
    "remote_ip",
    "local_port",
    "remote_port",
    "local_pkt",
    "remote_pkt",
    "local_data",
    "remote_data",
    "syn_count",
];

impl Row {
    /// A row of [`COLUMNS`]; the error names the one that is wrong.
    fn new(columns: [u64; COLUMNS.len()], stored: Option<Timestamp>) -> Result<Self, String> {
        let number = |at: usize, limit: u64| match columns[at] {
            number if number <= limit => Ok(number),
            number => Err(format!("{} is {number}, more than {limit}", COLUMNS[at])),
        };
        let address = |at| Ok::<_, String>((number(at, u64::from(u32::MAX))? as u32).to_be_bytes());
        let port = |at| Ok::<_, String>(number(at, u64::from(u16::MAX))? as u16);
        // So that no sum overflows.
        let count = |at| number(at, 1 << 48);
        Ok(Self {
            stored,
            record: RecordIpv4 {
                protocol: number(0, u64::from(u8::MAX))? as u8,
                local_ip: address(1)?,
                remote_ip: address(2)?,
                local_port: port(3)?,
                remote_port: port(4)?,
                sent_packets: count(5)?,
                received_packets: count(6)?,
                sent_bytes: count(7)?,
                received_bytes: count(8)?,
                syn_packets: count(9)?,
                ..RecordIpv4::new_zeroed()
            },
        })
    }
}

/// What an import added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Epochs that are stored now.
    pub epochs: u64,
    /// Readings of which all rows were stored already.
    pub known_epochs: u64,
    /// Rows read, known and held back ones included.
    pub rows: u64,
    /// Rows that are stored now.
    pub records: u64,
    /// Packets that are stored now, both directions.
    pub packets: u64,
    /// Bytes that are stored now, both directions.
    pub bytes: u64,
    /// Rows of the last reading, which may not be whole yet.
    pub held_back: u64,
}

/// Why an import stopped; what was stored until then stays, and is known when it is
/// repeated.
#[derive(Debug, Error)]
pub enum ImportError<E: std::error::Error + 'static> {
    /// The rows cannot be read.
    #[error(transparent)]
    Rows(E),
    /// A reading could not be stored.
    #[error(transparent)]
    Store(StoreError),
}

/// When readings were made, and which of them are whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Stands for the time of rows that have none.
    pub closed: ClosedAt,
    /// A last reading that was made after this may still get rows; none takes all.
    pub whole_until: Option<Timestamp>,
}

/// When rows without a time were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedAt {
    /// The user says so: it tells equal files of two times apart.
    Said(Timestamp),
    /// A guess, such as a file's time, which a copy does not keep: it does not.
    Guessed(Timestamp),
}

/// Stores rows in the order in which they come.
///
/// # Errors
/// The rows' or the store's.
pub fn import<E: std::error::Error + 'static>(
    store: &mut dyn Store,
    origin: &Origin,
    account: &OriginalAccount,
    rows: impl Iterator<Item = Result<Row, E>>,
    times: Times,
    watch: &dyn Watch,
) -> Result<Imported, ImportError<E>> {
    let mut imported = Imported::default();
    let mut reading = Reading::new(origin, &account.name, account.local_net);
    let mut rows = rows.peekable();
    while let Some(row) = rows.next() {
        let row = row.map_err(ImportError::Rows)?;
        imported.rows += 1;
        reading.rows.push(record(&row.record));
        match rows.peek() {
            Some(Ok(next)) if next.stored == row.stored => continue,
            // The error comes next, and the reading may go on behind it.
            Some(Err(_)) => continue,
            None if times.may_go_on(row.stored) => {
                imported.held_back = reading.rows.len() as u64;
                continue;
            }
            _ => {}
        }
        watch.alive();
        let (closed_ns, is_of_time) = times.of(row.stored);
        reading.closed_ns = closed_ns;
        reading.is_of_time = is_of_time;
        let added = store
            .add_reading(origin, &reading)
            .map_err(ImportError::Store)?;
        reading.rows.clear();
        match added.rows {
            0 => imported.known_epochs += 1,
            rows => {
                imported.epochs += 1;
                imported.records += rows;
                imported.packets += added.packets;
                imported.bytes += added.bytes;
            }
        }
    }
    Ok(imported)
}

impl Times {
    /// Whether the last reading may get more rows.
    fn may_go_on(&self, stored: Option<Timestamp>) -> bool {
        matches!((stored, self.whole_until), (Some(stored), Some(until)) if stored > until)
    }

    /// The time of a reading in nanoseconds since 1970, and whether that tells it from others.
    fn of(&self, stored: Option<Timestamp>) -> (u64, bool) {
        let (time, is_known) = match (stored, self.closed) {
            (Some(time), _) | (None, ClosedAt::Said(time)) => (time, true),
            (None, ClosedAt::Guessed(time)) => (time, false),
        };
        (u64::try_from(time.as_nanosecond()).unwrap_or(0), is_known)
    }
}

/// What a row says, as a store keeps it.
fn record(row: &RecordIpv4) -> Record {
    let side = |ip: [u8; 4], port| Endpoint {
        ip: ip.into(),
        port,
    };
    Record {
        protocol: row.protocol,
        local: side(row.local_ip, row.local_port),
        remote: side(row.remote_ip, row.remote_port),
        flags: row.flags,
        counters: Counters {
            sent_packets: row.sent_packets,
            received_packets: row.received_packets,
            sent_bytes: row.sent_bytes,
            received_bytes: row.received_bytes,
            syn_packets: row.syn_packets,
        },
    }
}
