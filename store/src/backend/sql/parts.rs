// SPDX-License-Identifier: GPL-2.0-or-later
//! Sums by remote address, packed, until they are added to their table.
//!
//! A part is a sequence of sums in ascending order of their addresses, IPv4 before IPv6:
//! one byte, 4 or 16, the address in network order, then sent packets, received packets,
//! sent bytes, received bytes and SYN packets, each as LEB128: seven bits a byte from the
//! lowest, the top bit set on all bytes but the last.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

use super::conditions::Conditions;
use super::owner::{self, LockedOwner};
use super::rollup::{self, Owner, REMOTE_MONTHLY, SECOND_NS, Sums, drain_sorted, plus};
use super::{Access, Database, ROWS_AT_ONCE, Value, first_row, in_transaction};
use crate::snapshot::Counters;
use crate::store::StoreError;

/// How many bytes of parts an account may have before they are added to the table.
const PENDING_BYTES: i64 = 16 << 20;

/// The one part of a key.
const OF_KEY: &str = "host_id = ? AND account_id = ? AND month = ? AND epoch = ? AND part = ?";

/// The sums of a part, from its bytes.
#[derive(Debug)]
pub(super) struct Part<'a> {
    bytes: &'a [u8],
}

/// The most bytes of one sum: an IPv6 address and its length, and five counters of 64 bits.
const LARGEST_SUM: usize = 1 + 16 + 5 * 10;

/// How many sums fit into a part of at most this many bytes.
pub(super) fn sums_within(bytes: usize) -> usize {
    (bytes / LARGEST_SUM).max(1)
}

/// Packs sums, which are in order.
pub(super) fn pack(sums: &[(IpAddr, Counters)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(sums.len() * 16);
    for (ip, counters) in sums {
        match ip {
            IpAddr::V4(ip) => {
                bytes.push(4);
                bytes.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes.push(16);
                bytes.extend(ip.octets());
            }
        }
        for counter in [
            counters.sent_packets,
            counters.received_packets,
            counters.sent_bytes,
            counters.received_bytes,
            counters.syn_packets,
        ] {
            push_leb128(&mut bytes, counter);
        }
    }
    bytes
}

impl<'a> Part<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    fn take(&mut self) -> Option<(IpAddr, Counters)> {
        let ip = match self.byte()? {
            4 => IpAddr::from(*self.octets::<4>()?),
            16 => IpAddr::from(*self.octets::<16>()?),
            _ => return None,
        };
        let counters = Counters {
            sent_packets: self.leb128()?,
            received_packets: self.leb128()?,
            sent_bytes: self.leb128()?,
            received_bytes: self.leb128()?,
            syn_packets: self.leb128()?,
        };
        Some((ip, counters))
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(byte)
    }

    fn octets<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (octets, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(octets)
    }

    fn leb128(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

impl Iterator for Part<'_> {
    type Item = Result<(IpAddr, Counters), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let sum = self.take();
        if sum.is_none() {
            self.bytes = &[];
        }
        Some(sum.ok_or_else(|| {
            StoreError::Corrupt("remote_part has sums that cannot be read".to_owned())
        }))
    }
}

fn push_leb128(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Whether an account has many parts, or some of a month that is over.
pub(super) fn are_due<D: Database>(
    database: &mut D,
    owner: Owner,
    month: i64,
) -> Result<bool, StoreError> {
    let pending = first_row(
        database,
        "SELECT COALESCE(SUM(LENGTH(sums)), 0), COALESCE(MIN(month), 0) FROM remote_part
         WHERE host_id = ? AND account_id = ?",
        &[owner.host_id.into(), owner.account_id.into()],
    )?;
    let Some([bytes, oldest]) = pending.as_deref() else {
        return Ok(false);
    };
    let (bytes, oldest) = (bytes.integer()?, oldest.integer()?);
    Ok(bytes > PENDING_BYTES || (bytes > 0 && oldest < month))
}

/// The parts of a month.
pub(super) struct MonthParts {
    /// The second at which it begins.
    pub(super) month: i64,
    pub(super) parts: Vec<Vec<u8>>,
}

/// The parts of an account by their month, those of a time in nanoseconds since 1970.
pub(super) fn of_months<D: Database>(
    database: &mut D,
    owner: Owner,
    time: (i64, i64),
) -> Result<Vec<MonthParts>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.owner(owner);
    conditions.within_time("month", SECOND_NS, time);
    let mut months = Vec::<MonthParts>::new();
    database.select(
        &format!(
            "SELECT month, sums FROM remote_part WHERE 1 = 1{} ORDER BY month",
            conditions.sql
        ),
        &conditions.parameters,
        &mut |row| {
            let (month, sums) = (row[0].integer()?, row[1].bytes()?.to_vec());
            match months.last_mut() {
                Some(last) if last.month == month => last.parts.push(sums),
                _ => months.push(MonthParts {
                    month,
                    parts: vec![sums],
                }),
            }
            Ok(())
        },
    )?;
    Ok(months)
}

/// What a part is known by within its account: month, epoch and part.
type PartKey = [i64; 3];

/// Adds all parts of an account to the table, in transactions of their own.
pub(super) fn add_all<D: Database>(database: &mut D, owner: Owner) -> Result<(), StoreError> {
    while in_transaction(database, Access::Write, |database| {
        match owner::lock(database, owner.host_id)? {
            Some(host) => add_some(database, host.account(owner.account_id)),
            None => Ok(false),
        }
    })? {}
    Ok(())
}

/// Adds as many parts of an account as one transaction may, the oldest first; whether it had any.
pub(super) fn add_some<D: Database>(
    database: &mut D,
    owner: LockedOwner,
) -> Result<bool, StoreError> {
    let keys = keys(database, owner, None)?;
    add(database, owner, &keys)?;
    Ok(!keys.is_empty())
}

/// Adds all parts of an epoch to the table.
pub(super) fn add_of_epoch<D: Database>(
    database: &mut D,
    owner: LockedOwner,
    epoch: i64,
) -> Result<(), StoreError> {
    let mut keys = &keys(database, owner, Some(epoch))?[..];
    while !keys.is_empty() {
        keys = &keys[add(database, owner, keys)?..];
    }
    Ok(())
}

fn keys<D: Database>(
    database: &mut D,
    owner: LockedOwner,
    epoch: Option<i64>,
) -> Result<Vec<PartKey>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.owner(*owner);
    if let Some(epoch) = epoch {
        conditions.and("epoch = ?");
        conditions.parameters.push(epoch.into());
    }
    let mut keys = Vec::new();
    database.select(
        &format!(
            "SELECT month, epoch, part FROM remote_part WHERE 1 = 1{} ORDER BY month, epoch, part",
            conditions.sql
        ),
        &conditions.parameters,
        &mut |row| {
            keys.push([row[0].integer()?, row[1].integer()?, row[2].integer()?]);
            Ok(())
        },
    )?;
    Ok(keys)
}

/// Adds the first of these parts, and as many more of its month as one transaction may, to the
/// table, and deletes exactly these; gives how many they were.
fn add<D: Database>(
    database: &mut D,
    owner: LockedOwner,
    keys: &[PartKey],
) -> Result<usize, StoreError> {
    let Some(&[month, ..]) = keys.first() else {
        return Ok(0);
    };
    let mut sums = Sums::<IpAddr>::default();
    let mut added = 0;
    for key in keys.iter().filter(|key| key[0] == month) {
        let part = read(database, owner, key)?;
        let new = part.iter().filter(|(ip, _)| !sums.contains_key(ip)).count();
        if added > 0 && sums.len() + new > ROWS_AT_ONCE as usize {
            break;
        }
        for (ip, counters) in part {
            let sum = sums.entry(ip).or_default();
            *sum = plus(sum, &counters);
        }
        added += 1;
    }
    let sorted = drain_sorted(&mut sums);
    rollup::add_to_table(
        database,
        &REMOTE_MONTHLY,
        owner,
        month,
        sorted.into_iter().map(Ok),
    )?;
    for key in &keys[..added] {
        database.execute(
            &format!("DELETE FROM remote_part WHERE {OF_KEY}"),
            &of_key(owner, key),
        )?;
    }
    Ok(added)
}

fn read<D: Database>(
    database: &mut D,
    owner: LockedOwner,
    key: &PartKey,
) -> Result<Vec<(IpAddr, Counters)>, StoreError> {
    let mut sums = Vec::new();
    database.select(
        &format!("SELECT sums FROM remote_part WHERE {OF_KEY}"),
        &of_key(owner, key),
        &mut |row| {
            for sum in Part::new(row[0].bytes()?) {
                sums.push(sum?);
            }
            Ok(())
        },
    )?;
    Ok(sums)
}

fn of_key(owner: LockedOwner, [month, epoch, part]: &PartKey) -> [Value; 5] {
    [owner.host_id, owner.account_id, *month, *epoch, *part].map(Value::from)
}

/// The sums of several parts in one order, equal addresses summed up.
pub(super) struct Merged<'a> {
    parts: Vec<Part<'a>>,
    /// The next sum of each part that has one.
    heads: BinaryHeap<Reverse<(IpAddr, usize, Counters)>>,
}

impl<'a> Merged<'a> {
    pub(super) fn new(parts: &'a [Vec<u8>]) -> Result<Self, StoreError> {
        let mut merged = Self {
            parts: parts.iter().map(|bytes| Part::new(bytes)).collect(),
            heads: BinaryHeap::with_capacity(parts.len()),
        };
        for part in 0..parts.len() {
            merged.advance(part)?;
        }
        Ok(merged)
    }

    fn advance(&mut self, part: usize) -> Result<(), StoreError> {
        if let Some((ip, counters)) = self.parts[part].next().transpose()? {
            self.heads.push(Reverse((ip, part, counters)));
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Option<(IpAddr, Counters)>, StoreError> {
        let Some(Reverse((ip, part, mut sum))) = self.heads.pop() else {
            return Ok(None);
        };
        self.advance(part)?;
        while let Some(&Reverse((next, part, more))) = self.heads.peek() {
            if next != ip {
                break;
            }
            self.heads.pop();
            self.advance(part)?;
            sum = plus(&sum, &more);
        }
        Ok(Some((ip, sum)))
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<(IpAddr, Counters), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(ip: &str, packets: u64) -> (IpAddr, Counters) {
        let counters = Counters {
            sent_packets: packets,
            received_packets: u64::MAX,
            sent_bytes: 0,
            received_bytes: 128,
            syn_packets: 127,
        };
        (ip.parse().unwrap(), counters)
    }

    #[test]
    fn packed_sums_read_as_they_were() {
        let sums = [
            sum("0.0.0.0", 1),
            sum("203.0.113.7", 300),
            sum("2001:db8::1", 0),
        ];
        let bytes = pack(&sums);
        let read: Vec<_> = Part::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(read, sums);
    }

    #[test]
    fn as_many_sums_as_are_said_to_fit_do() {
        let mut largest = sum("2001:db8::1", u64::MAX);
        largest.1 = Counters {
            sent_packets: u64::MAX,
            received_packets: u64::MAX,
            sent_bytes: u64::MAX,
            received_bytes: u64::MAX,
            syn_packets: u64::MAX,
        };
        for bytes in [1000, 1 << 20] {
            let sums = vec![largest; sums_within(bytes)];
            assert!(pack(&sums).len() <= bytes);
        }
        assert_eq!(sums_within(0), 1);
    }

    #[test]
    fn damaged_part_is_an_error_and_an_end() {
        let bytes = pack(&[sum("203.0.113.7", 300)]);
        for length in 1..bytes.len() {
            let mut part = Part::new(&bytes[..length]);
            assert!(part.next().unwrap().is_err(), "{length}");
            assert!(part.next().is_none(), "{length}");
        }
        let mut unknown = bytes;
        unknown[0] = 5;
        assert!(Part::new(&unknown).next().unwrap().is_err());
    }

    #[test]
    fn merged_parts_have_each_address_once() {
        let mut few = sum("10.0.0.1", 1);
        few.1.received_packets = 1;
        let parts = [
            pack(&[few, sum("10.0.0.3", 1)]),
            pack(&[]),
            pack(&[few, sum("2001:db8::1", 5)]),
            pack(&[few]),
        ];
        let merged: Vec<_> = Merged::new(&parts).unwrap().map(Result::unwrap).collect();
        let mut summed = few;
        summed.1 = plus(&plus(&few.1, &few.1), &few.1);
        assert_eq!(summed.1.sent_packets, 3);
        assert_eq!(merged, [summed, sum("10.0.0.3", 1), sum("2001:db8::1", 5)]);
    }
}
