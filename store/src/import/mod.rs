// SPDX-License-Identifier: GPL-2.0-or-later
//! Takes over what the original xt_TRAFSTAT's users have: its CSV files and its tables.
//!
//! The original kept no epochs. Rows that one reading of its counters stored have one
//! timestamp, and become one epoch that closed then. The epoch's number is taken from a
//! hash of its rows and its time, so that the same rows again are the same epoch: an
//! import may be repeated, and what a table and its rotated file both have counts once.
//! Each epoch becomes a snapshot, and is stored as one, with the same proof of its totals.

mod file;
mod tables;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;
use trafstat_abi::{RecordIpv4, SnapshotHeader};
use zerocopy::{FromZeros, IntoBytes};

pub use file::{FileError, original_account, rows, rows_of_file};
pub use tables::OriginalTables;

use crate::account::Name;
use crate::collect::{CollectError, State, append};
use crate::origin::Origin;
use crate::snapshot::Snapshot;
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
    /// Epochs that were stored already.
    pub known_epochs: u64,
    /// Rows read, those of known epochs included.
    pub rows: u64,
    /// Rows that are stored now.
    pub records: u64,
    /// Packets that are stored now, both directions.
    pub packets: u64,
    /// Bytes that are stored now, both directions.
    pub bytes: u64,
}

/// Why an import stopped; what was stored until then stays, and is known when it is
/// repeated.
#[derive(Debug, Error)]
pub enum ImportError<E: std::error::Error + 'static> {
    /// The rows cannot be read.
    #[error(transparent)]
    Rows(E),
    /// An epoch could not be stored.
    #[error(transparent)]
    Store(StoreError),
    /// An epoch could not be stored for another reason.
    #[error("{0}")]
    Refused(String),
}

/// Stores rows in the order in which they come; `closed` stands for the time of rows that
/// have none.
///
/// # Errors
/// The rows' or the store's.
pub fn import<E: std::error::Error + 'static>(
    store: &mut dyn Store,
    origin: &Origin,
    account: &OriginalAccount,
    rows: impl Iterator<Item = Result<Row, E>>,
    closed: ClosedAt,
    watch: &dyn Watch,
) -> Result<Imported, ImportError<E>> {
    let mut imported = Imported::default();
    let mut group = Group::default();
    let mut rows = rows.peekable();
    while let Some(row) = rows.next() {
        let row = row.map_err(ImportError::Rows)?;
        imported.rows += 1;
        group.stored = row.stored;
        group.records.push(row.record);
        let goes_on = matches!(rows.peek(), Some(Ok(next)) if next.stored == group.stored);
        if goes_on || matches!(rows.peek(), Some(Err(_))) {
            continue;
        }
        watch.alive();
        let whole = std::mem::take(&mut group);
        let bytes = whole.snapshot(origin, account, closed);
        let appended = Snapshot::open(&bytes[..])
            .map_err(CollectError::from)
            .and_then(|mut snapshot| {
                let state = append(store, origin, &mut snapshot)?;
                Ok((state, snapshot.header().clone()))
            });
        match appended {
            Ok((State::AlreadyStored, _)) => imported.known_epochs += 1,
            Ok((State::Stored | State::Spooled, header)) => {
                imported.epochs += 1;
                imported.records += header.records;
                imported.packets += header.totals.recorded.packets;
                imported.bytes += header.totals.recorded.bytes;
            }
            // The rows are the same, a copy of the file had another time.
            Err(CollectError::Store(StoreError::Conflict { .. }))
                if whole.stored.is_none() && matches!(closed, ClosedAt::Guessed(_)) =>
            {
                imported.known_epochs += 1;
            }
            Err(CollectError::Store(error)) => return Err(ImportError::Store(error)),
            Err(error) => return Err(ImportError::Refused(error.to_string())),
        }
    }
    Ok(imported)
}

/// When rows without a time were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedAt {
    /// The user says so: it tells equal files of two times apart.
    Said(Timestamp),
    /// A guess, such as a file's time, which a copy does not keep: it does not.
    Guessed(Timestamp),
}

impl ClosedAt {
    fn time(self) -> Timestamp {
        match self {
            Self::Said(time) | Self::Guessed(time) => time,
        }
    }
}

/// Rows that one reading stored.
#[derive(Default)]
struct Group {
    stored: Option<Timestamp>,
    records: Vec<RecordIpv4>,
}

impl Group {
    /// The rows as the kernel would have served them.
    fn snapshot(&self, origin: &Origin, account: &OriginalAccount, closed: ClosedAt) -> Vec<u8> {
        let records = self.records.as_bytes();
        let mut content = Sha256::new();
        match (self.stored, closed) {
            (Some(time), _) | (None, ClosedAt::Said(time)) => {
                content.update(nanoseconds(time).to_be_bytes());
            }
            (None, ClosedAt::Guessed(_)) => {}
        }
        content.update(records);
        let mut identity = Sha256::new();
        identity.update(b"original xt_TRAFSTAT\0");
        identity.update(origin.machine_id.as_bytes());
        identity.update(b"\0");
        identity.update(account.name.as_str().as_bytes());

        let closed_ns = nanoseconds(self.stored.unwrap_or(closed.time()));
        let sum = |of: fn(&RecordIpv4) -> u64| self.records.iter().map(of).sum::<u64>();
        let packets = sum(|record| record.sent_packets + record.received_packets);
        let bytes = sum(|record| record.sent_bytes + record.received_bytes);
        let mut header = SnapshotHeader {
            magic: first(trafstat_abi::SNAPSHOT_MAGIC),
            version: trafstat_abi::SNAPSHOT_VERSION as u16,
            // The original tells nothing of what the later fields are about.
            header_size: HEADER_SIZE as u16,
            record_size: size_of::<RecordIpv4>() as u16,
            family: trafstat_abi::FAMILY_IPV4 as u8,
            prefix_len: account.local_net.prefix_len(),
            account_id: first(&identity.finalize()),
            // Epochs count from 1, and a database's columns have 63 bits.
            epoch: (u64::from_be_bytes(first(&content.finalize())) >> 1).max(1),
            records: self.records.len() as u64,
            // The original says only when it was read.
            opened_ns: closed_ns,
            closed_ns,
            seen_packets: packets,
            seen_bytes: bytes,
            recorded_packets: packets,
            recorded_bytes: bytes,
            ..SnapshotHeader::new_zeroed()
        };
        header.local_addr[..4].copy_from_slice(&account.local_net.addr().octets());
        for (character, byte) in header.name.iter_mut().zip(account.name.as_str().bytes()) {
            *character = byte as _;
        }
        [&header.as_bytes()[..HEADER_SIZE], records].concat()
    }
}

/// The size of a header without the fields that came later.
const HEADER_SIZE: usize = trafstat_abi::SNAPSHOT_HEADER_MIN as usize;

/// The first bytes of a longer text or hash.
fn first<const N: usize>(longer: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&longer[..N]);
    bytes
}

fn nanoseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or(0)
}
