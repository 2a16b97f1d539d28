// SPDX-License-Identifier: GPL-2.0-or-later
//! Adds what an epoch of a capture grew by since it was stored.
//!
//! A capture that goes on has the same epochs as before, but that the last one may count more.
//! The difference is stored as an epoch of its own, which opens when the stored one closed. Its
//! number follows from both totals, so that it is stored once; it is [`FIRST_NUMBER`] or above,
//! where no account counts to.

use std::collections::HashMap;

use jiff::SignedDuration;
use sha2::{Digest, Sha256};

use super::append::{self, Appending};
use super::stored::{StoredSnapshot, check_same, read_whole, stored_figures};
use super::{Access, Database, SnapshotKey, Value, first_row, in_transaction};
use crate::origin::Origin;
use crate::snapshot::{Counters, Endpoint, Growth, Header, Record, Volume};
use crate::store::{Grown, StoreError, StoredLength};
use crate::time::timestamp;

/// The least number of an epoch that has a difference.
const FIRST_NUMBER: i64 = 1 << 62;

/// Records that are appended at once.
const BATCH: usize = 4096;

/// Lengths that epochs usually have, in seconds.
const USUAL_LENGTHS: [i64; 21] = [
    1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10_800, 14_400,
    21_600, 43_200, 86_400,
];

/// An epoch as it is stored, with the differences that were added to it.
struct Whole {
    /// Its first header, with the sums of all, and the last time at which one closed.
    header: Header,
    /// The keys of all of them.
    keys: Vec<SnapshotKey>,
    /// Whether all their records are there.
    has_records: bool,
    /// Whether a later epoch is stored.
    is_followed: bool,
}

/// What makes two records one flow's.
type Flow = (u8, Endpoint, Endpoint, u8);

/// Adds what an epoch has more than it had when it was stored; with `is_last` its capture ends
/// with it, and may be an earlier copy.
pub(in crate::backend) fn add<D: Database>(
    database: &mut D,
    origin: &Origin,
    header: &Header,
    records: &[Record],
    is_last: bool,
) -> Result<Grown, StoreError> {
    append::prepare(database, origin, header)?;
    in_transaction(database, Access::Write, |database| {
        let (_, key) = append::key(database, origin, header)?;
        let whole = Whole::read(database, key)?;
        let stored = &whole.header;
        if figures(stored) == figures(header) {
            return Ok(Grown::Known);
        }
        let began_alike = stored.opened_ns == header.opened_ns;
        let grew = began_alike && !whole.is_followed && stored.closed_ns <= header.closed_ns;
        let shrank = began_alike && is_last && header.closed_ns <= stored.closed_ns;
        if (grew || shrank) && !whole.has_records {
            return Err(StoreError::RowsDeleted {
                account: header.account.clone(),
                closed: timestamp(stored.closed_ns),
            });
        }
        if grew || shrank {
            let before = whole.flows(database)?;
            let now = flows(records);
            if grew
                && let Some(difference) = difference(stored, header)
                && let Some(records) = more(&before, &now, records)
            {
                return append_difference(database, origin, difference, &records);
            }
            if shrank && more(&now, &before, &[]).is_some() {
                return Ok(Grown::Known);
            }
        }
        if stored.closed_ns != header.closed_ns {
            return Err(StoreError::OtherEpochs {
                account: header.account.clone(),
                stored: stored_length(database, key)?,
            });
        }
        // In the words of the first figure that differs.
        if let Some(stored) = stored_figures(database, key)? {
            check_same(header, &stored)?;
        }
        Ok(Grown::Known)
    })
}

fn append_difference<D: Database>(
    database: &mut D,
    origin: &Origin,
    mut header: Header,
    records: &[Record],
) -> Result<Grown, StoreError> {
    header.records = records.len() as u64;
    let mut appending = Appending::begin(database, origin, &header)?;
    for batch in records.chunks(BATCH) {
        appending.add(batch)?;
    }
    appending.finish()?;
    Ok(Grown::Added(Box::new(header)))
}

impl Whole {
    fn read<D: Database>(database: &mut D, key: SnapshotKey) -> Result<Self, StoreError> {
        let StoredSnapshot {
            mut header,
            first_record,
            ..
        } = StoredSnapshot::read(database, key)?;
        let mut parameters = key.values().to_vec();
        parameters.push(FIRST_NUMBER.into());
        let next_ns = first_row(
            database,
            "SELECT MIN(opened_ns) FROM snapshot
             WHERE host_id = ? AND account_id = ? AND epoch > ? AND epoch < ?",
            &parameters,
        )?;
        let next_ns = match next_ns.as_deref() {
            Some([Value::Integer(next_ns), ..]) => Some(*next_ns),
            _ => None,
        };
        let mut parameters = key.values()[..2].to_vec();
        parameters.extend([
            FIRST_NUMBER.into(),
            (header.closed_ns as i64).into(),
            next_ns.unwrap_or(i64::MAX).into(),
        ]);
        let mut keys = vec![key];
        database.select(
            "SELECT epoch FROM snapshot WHERE host_id = ? AND account_id = ? AND epoch >= ?
                 AND opened_ns >= ? AND opened_ns < ?",
            &parameters,
            &mut |row| {
                let epoch = row[0].integer()?;
                keys.push(SnapshotKey { epoch, ..key });
                Ok(())
            },
        )?;
        let mut has_records = first_record.is_some();
        for &key in &keys[1..] {
            let more = StoredSnapshot::read(database, key)?;
            has_records &= more.first_record.is_some();
            add_to(&mut header, &more.header);
        }
        Ok(Self {
            header,
            keys,
            has_records,
            is_followed: next_ns.is_some(),
        })
    }

    /// What each flow counted.
    fn flows<D: Database>(&self, database: &mut D) -> Result<HashMap<Flow, Counters>, StoreError> {
        let mut all = HashMap::new();
        for &key in &self.keys {
            let header = StoredSnapshot::read(database, key)?.header;
            read_whole(database, key, &header, |batch| {
                add_flows(&mut all, batch);
                Ok(())
            })?;
        }
        Ok(all)
    }
}

/// What must be the same for an epoch to be stored already. The records' number is not: a flow
/// of two parts has two.
fn figures(header: &Header) -> (u64, u64, [Volume; 7]) {
    (header.opened_ns, header.closed_ns, volumes(header))
}

fn volumes(header: &Header) -> [Volume; 7] {
    let totals = header.totals;
    [
        totals.seen,
        totals.extrapolated,
        totals.recorded,
        totals.outside,
        totals.skipped,
        totals.gso_extra,
        totals.folded,
    ]
}

fn set_volumes(header: &mut Header, volumes: [Volume; 7]) {
    let totals = &mut header.totals;
    [
        totals.seen,
        totals.extrapolated,
        totals.recorded,
        totals.outside,
        totals.skipped,
        totals.gso_extra,
        totals.folded,
    ] = volumes;
}

/// Adds what a difference has.
fn add_to(header: &mut Header, more: &Header) {
    let mut sums = volumes(header);
    for (sum, more) in sums.iter_mut().zip(volumes(more)) {
        sum.packets += more.packets;
        sum.bytes += more.bytes;
    }
    set_volumes(header, sums);
    header.closed_ns = header.closed_ns.max(more.closed_ns);
    header.records += more.records;
    header.growth = header.growth.zip(more.growth).map(|(mut growth, more)| {
        growth.duration_ns += more.duration_ns;
        growth.unattributed.packets += more.unattributed.packets;
        growth.unattributed.bytes += more.unattributed.bytes;
        for (sample, more) in growth.samples.iter_mut().zip(more.samples) {
            sample.packets += more.packets;
            sample.packet_variance = sample.packet_variance.saturating_add(more.packet_variance);
            sample.byte_variance = sample.byte_variance.saturating_add(more.byte_variance);
        }
        growth
    });
}

/// The header of what `header` has more than `stored`; none where some figure is less.
fn difference(stored: &Header, header: &Header) -> Option<Header> {
    let mut difference = header.clone();
    let mut rest = volumes(header);
    for (rest, stored) in rest.iter_mut().zip(volumes(stored)) {
        rest.packets = rest.packets.checked_sub(stored.packets)?;
        rest.bytes = rest.bytes.checked_sub(stored.bytes)?;
    }
    set_volumes(&mut difference, rest);
    difference.opened_ns = stored.closed_ns;
    difference.growth = stored.growth.zip(header.growth).map(|(stored, growth)| {
        let mut rest = Growth {
            duration_ns: growth.duration_ns.saturating_sub(stored.duration_ns),
            ..growth
        };
        let lost = &mut rest.unattributed;
        lost.packets = lost.packets.saturating_sub(stored.unattributed.packets);
        lost.bytes = lost.bytes.saturating_sub(stored.unattributed.bytes);
        for (sample, stored) in rest.samples.iter_mut().zip(stored.samples) {
            sample.packets = sample.packets.saturating_sub(stored.packets);
            // The database keeps 53 bits of a variance.
            sample.packet_variance = sample
                .packet_variance
                .saturating_sub(stored.packet_variance);
            sample.byte_variance = sample.byte_variance.saturating_sub(stored.byte_variance);
        }
        rest
    });
    difference.epoch = number(stored, header);
    Some(difference)
}

/// The number of the epoch that has the difference of two totals.
fn number(stored: &Header, header: &Header) -> u64 {
    let mut both = Sha256::new();
    both.update(header.epoch.to_be_bytes());
    for header in [stored, header] {
        let (opened_ns, closed_ns, volumes) = figures(header);
        both.update(opened_ns.to_be_bytes());
        both.update(closed_ns.to_be_bytes());
        for volume in volumes {
            both.update(volume.packets.to_be_bytes());
            both.update(volume.bytes.to_be_bytes());
        }
    }
    let digest: [u8; 32] = both.finalize().into();
    let first = digest.first_chunk().copied().unwrap_or_default();
    FIRST_NUMBER as u64 | u64::from_be_bytes(first) >> 2
}

fn flows(records: &[Record]) -> HashMap<Flow, Counters> {
    let mut flows = HashMap::with_capacity(records.len());
    add_flows(&mut flows, records);
    flows
}

fn add_flows(flows: &mut HashMap<Flow, Counters>, records: &[Record]) {
    for record in records {
        *flows.entry(flow(record)).or_default() += &record.counters;
    }
}

fn flow(record: &Record) -> Flow {
    (record.protocol, record.local, record.remote, record.flags)
}

/// What the flows of `records`, whose sums `now` has, count more than `before`; none where a
/// flow counts less.
fn more(
    before: &HashMap<Flow, Counters>,
    now: &HashMap<Flow, Counters>,
    records: &[Record],
) -> Option<Vec<Record>> {
    for (flow, before) in before {
        minus(now.get(flow)?, before)?;
    }
    let mut more = Vec::new();
    for record in records {
        let none = Counters::default();
        let counters = minus(&record.counters, before.get(&flow(record)).unwrap_or(&none))?;
        if counters != none {
            more.push(Record {
                counters,
                ..*record
            });
        }
    }
    Some(more)
}

fn minus(now: &Counters, before: &Counters) -> Option<Counters> {
    Some(Counters {
        sent_packets: now.sent_packets.checked_sub(before.sent_packets)?,
        received_packets: now.received_packets.checked_sub(before.received_packets)?,
        sent_bytes: now.sent_bytes.checked_sub(before.sent_bytes)?,
        received_bytes: now.received_bytes.checked_sub(before.received_bytes)?,
        syn_packets: now.syn_packets.checked_sub(before.syn_packets)?,
    })
}

/// How long an account's stored epochs are, as far as their times tell: all but the last close
/// at multiples of it.
fn stored_length<D: Database>(
    database: &mut D,
    key: SnapshotKey,
) -> Result<StoredLength, StoreError> {
    let mut parameters = key.values()[..2].to_vec();
    parameters.push(FIRST_NUMBER.into());
    let mut times: Vec<(i64, i64)> = Vec::new();
    database.select(
        "SELECT opened_ns, closed_ns FROM snapshot
         WHERE host_id = ? AND account_id = ? AND epoch < ? ORDER BY epoch",
        &parameters,
        &mut |row| {
            times.push((row[0].integer()?, row[1].integer()?));
            Ok(())
        },
    )?;
    Ok(length(&times))
}

/// The length of epochs that opened and closed at these times.
fn length(times: &[(i64, i64)]) -> StoredLength {
    let Some((&(last_opened, last_closed), closed)) = times.split_last() else {
        return StoredLength::Whole;
    };
    let Some(&(first_opened, first_closed)) = closed.first() else {
        return StoredLength::Whole;
    };
    // None is shorter than what the first one shows, or longer than the time between two.
    let least = (first_closed - first_opened).max(if closed.len() == 1 {
        last_closed - last_opened
    } else {
        0
    });
    let steps = closed.windows(2).map(|pair| pair[1].1 - pair[0].1);
    let most = steps.min().unwrap_or(i64::MAX);
    let fits = |&&seconds: &&i64| {
        let length = seconds * 1_000_000_000;
        (least..=most).contains(&length) && closed.iter().all(|(_, closed)| closed % length == 0)
    };
    let usual = match closed.len() {
        1 => USUAL_LENGTHS.iter().find(fits),
        _ => USUAL_LENGTHS.iter().rfind(fits),
    };
    usual.map_or(StoredLength::Unknown, |&seconds| {
        StoredLength::Every(SignedDuration::from_secs(seconds))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_of_stored_epochs_is_told_by_their_times() {
        const MINUTE: i64 = 60_000_000_000;
        // 12:03 is the first packet's time.
        let noon = 1_769_860_800_000_000_000;
        let at = |minutes: i64| noon + minutes * MINUTE;
        let every = |minutes| StoredLength::Every(SignedDuration::from_mins(minutes));
        assert_eq!(length(&[(at(3), at(8))]), StoredLength::Whole);
        assert_eq!(length(&[(at(3), at(5)), (at(5), at(9))]), every(5));
        let five = [
            (at(3), at(5)),
            (at(5), at(10)),
            (at(10), at(20)),
            (at(20), at(21)),
        ];
        assert_eq!(length(&five), every(5));
        let hours = [(at(3), at(60)), (at(60), at(120)), (at(120), at(125))];
        assert_eq!(length(&hours), every(60));
        let odd = [(at(3), at(3) + 1), (at(3) + 1, at(4))];
        assert_eq!(length(&odd), StoredLength::Unknown);
    }
}
