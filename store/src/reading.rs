// SPDX-License-Identifier: GPL-2.0-or-later
//! A reading of the original's counters, and which of its rows a store lacks.
//!
//! The original gave a row no identity, so rows are known by what they say. All rows of one
//! account and time are one reading. Two copies of it, such as a table and its rotated file,
//! or a file before and after it grew, have the same rows as far as both go: a store keeps
//! each row as often as the copy that has it most often.
//!
//! Rows that the original served say no time. Then a file's rows are one reading, and a file
//! that begins with all rows of another is the same file, grown.

use std::collections::HashMap;

use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};
use trafstat_abi::RecordIpv4;
use zerocopy::{FromZeros, IntoBytes};

use crate::account::{Account, Family, Name};
use crate::origin::Origin;
use crate::snapshot::{Header, Record};

/// The rows that one reading of an account's counters gave.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The account that was counted into.
    pub account: Account,
    /// What the account of the original is known by: [`account_id`].
    pub account_id: [u8; 16],
    /// Its local net.
    pub local_net: Ipv4Net,
    /// When the counters were read, in nanoseconds since 1970.
    pub closed_ns: u64,
    /// Whether that time tells this reading from others; else its rows do.
    pub is_of_time: bool,
    /// The rows in their order.
    pub rows: Vec<Record>,
}

/// What of a reading was stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddedRows {
    /// Rows that the store lacked.
    pub rows: u64,
    /// Their packets, both directions.
    pub packets: u64,
    /// Their bytes, both directions.
    pub bytes: u64,
}

/// What an account of the original is known by: the host that counted, and its name.
pub fn account_id(origin: &Origin, account: &Name) -> [u8; 16] {
    let mut identity = Sha256::new();
    identity.update(b"original xt_TRAFSTAT\0");
    identity.update(origin.machine_id.as_bytes());
    identity.update(b"\0");
    identity.update(account.as_str().as_bytes());
    let digest: [u8; 32] = identity.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

impl Reading {
    /// A reading without rows yet.
    pub fn new(origin: &Origin, name: &Name, local_net: Ipv4Net) -> Self {
        Self {
            account: Account {
                family: Family::Ipv4,
                name: name.clone(),
            },
            account_id: account_id(origin, name),
            local_net,
            closed_ns: 0,
            is_of_time: false,
            rows: Vec::new(),
        }
    }

    /// The rows that are not among `stored`, in their order: of equal rows, as many as there
    /// are more of here.
    pub(crate) fn lacking(&self, stored: &[Record]) -> Vec<Record> {
        let mut unmatched: HashMap<Record, usize> = HashMap::new();
        for record in stored {
            *unmatched.entry(*record).or_default() += 1;
        }
        let is_new = |row: &&Record| match unmatched.get_mut(row) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        };
        self.rows.iter().filter(is_new).copied().collect()
    }

    /// The number of the epoch that brings the store's rows of this time to `all`.
    pub(crate) fn number_of_time(&self, mut all: Vec<Record>) -> u64 {
        // A table and a file may have the same rows in another order.
        all.sort_unstable();
        let mut content = Sha256::new();
        content.update(self.closed_ns.to_be_bytes());
        for row in &all {
            content.update(bytes(row).as_bytes());
        }
        number(content)
    }

    /// The number of the epoch that brings a file without times to each of its rows.
    pub(crate) fn numbers_of_rows(&self) -> Vec<u64> {
        let mut content = Sha256::new();
        let number_after = |row: &Record| {
            content.update(bytes(row).as_bytes());
            number(content.clone())
        };
        self.rows.iter().map(number_after).collect()
    }

    /// The number of the epoch that would have added `records` behind the first `known` rows.
    pub(crate) fn number_behind(&self, known: usize, records: &[Record]) -> u64 {
        let mut content = Sha256::new();
        for row in self.rows[..known].iter().chain(records) {
            content.update(bytes(row).as_bytes());
        }
        number(content)
    }

    /// The header of the epoch of this number, without rows yet.
    pub(crate) fn empty_header(&self, epoch: u64) -> Header {
        let account = self.account.clone();
        let mut header = Header::new(account, self.account_id, epoch, self.local_net.into());
        // The original says only when it was read.
        header.opened_ns = self.closed_ns;
        header.closed_ns = self.closed_ns;
        header
    }

    /// The header of the epoch of this number that has some of the rows; none where their sum
    /// is past 64 bits.
    pub(crate) fn header(&self, epoch: u64, rows: &[Record]) -> Option<Header> {
        let mut header = self.empty_header(epoch);
        header.records = rows.len() as u64;
        let recorded = &mut header.totals.recorded;
        for Record { counters, .. } in rows {
            let packets = counters
                .sent_packets
                .checked_add(counters.received_packets)?;
            let bytes = counters.sent_bytes.checked_add(counters.received_bytes)?;
            recorded.packets = recorded.packets.checked_add(packets)?;
            recorded.bytes = recorded.bytes.checked_add(bytes)?;
        }
        header.totals.seen = header.totals.recorded;
        Some(header)
    }
}

/// A row as the kernel would have served it.
fn bytes(row: &Record) -> RecordIpv4 {
    let octets = |ip| match ip {
        std::net::IpAddr::V4(ip) => ip.octets(),
        // The original counted no IPv6.
        std::net::IpAddr::V6(_) => [0; 4],
    };
    RecordIpv4 {
        protocol: row.protocol,
        local_ip: octets(row.local.ip),
        remote_ip: octets(row.remote.ip),
        local_port: row.local.port,
        remote_port: row.remote.port,
        flags: row.flags,
        sent_packets: row.counters.sent_packets,
        received_packets: row.counters.received_packets,
        sent_bytes: row.counters.sent_bytes,
        received_bytes: row.counters.received_bytes,
        syn_packets: row.counters.syn_packets,
        ..RecordIpv4::new_zeroed()
    }
}

/// Epochs count from 1, and a database's columns have 63 bits.
fn number(content: Sha256) -> u64 {
    let digest: [u8; 32] = content.finalize().into();
    let first = digest.first_chunk().copied().unwrap_or_default();
    (u64::from_be_bytes(first) >> 1).max(1)
}
