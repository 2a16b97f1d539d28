// SPDX-License-Identifier: GPL-2.0-or-later
//! Any bytes as a snapshot, in reads of any length: one that is taken to its end adds up,
//! and is the same however it is read.

use std::io::{self, Read};
use std::mem::offset_of;

use trafstat_abi::SnapshotHeader;
use trafstat_store::snapshot::{OpenEpoch, Snapshot};

/// Runs one input.
pub fn run(bytes: &[u8]) {
    let Some((&step, bytes)) = bytes.split_first() else {
        return;
    };
    // A live file has no totals to hold it to.
    let _ = OpenEpoch::read(bytes);
    let whole = taken(bytes);
    let in_steps = taken(Steps {
        bytes,
        step: usize::from(step) + 1,
    });
    assert_eq!(whole, in_steps);
    if whole.is_some() {
        check_header_sizes(bytes, whole);
    }
}

/// The later fields are known exactly where the header has them, and without them the rest is
/// the same.
fn check_header_sizes(bytes: &[u8], whole: Option<(u128, u128, u64)>) {
    let known = size_of::<SnapshotHeader>();
    let least = trafstat_abi::SNAPSHOT_HEADER_MIN as usize;
    let size_at = offset_of!(SnapshotHeader, header_size);
    let size = usize::from(u16::from_ne_bytes([bytes[size_at], bytes[size_at + 1]]));
    let growth_of = |bytes: &[u8]| {
        let snapshot = Snapshot::open(bytes).expect("it was read to its end");
        snapshot.header().growth
    };
    assert_eq!(growth_of(bytes).is_some(), size >= known);
    let mut old = [&bytes[..least], &bytes[size..]].concat();
    old[size_at..size_at + 2].copy_from_slice(&(least as u16).to_ne_bytes());
    assert_eq!(growth_of(&old), None);
    assert_eq!(taken(&old[..]), whole);
}

/// Packets and bytes of a snapshot, and its records; none where it is refused.
fn taken(reader: impl Read) -> Option<(u128, u128, u64)> {
    let mut snapshot = Snapshot::open(reader).ok()?;
    let (mut packets, mut bytes, mut records) = (0, 0, 0);
    while let Some(batch) = snapshot.next_batch().ok()? {
        for record in batch {
            let counters = &record.counters;
            packets += u128::from(counters.sent_packets) + u128::from(counters.received_packets);
            bytes += u128::from(counters.sent_bytes) + u128::from(counters.received_bytes);
            records += 1;
        }
    }
    let header = snapshot.header();
    let totals = &header.totals;
    assert_eq!(records, header.records);
    assert_eq!(packets, u128::from(totals.recorded.packets));
    assert_eq!(bytes, u128::from(totals.recorded.bytes));
    for (seen, extrapolated, recorded, outside, skipped) in [
        (
            totals.seen.packets,
            totals.extrapolated.packets,
            totals.recorded.packets,
            totals.outside.packets,
            totals.skipped.packets,
        ),
        (
            totals.seen.bytes,
            totals.extrapolated.bytes,
            totals.recorded.bytes,
            totals.outside.bytes,
            totals.skipped.bytes,
        ),
    ] {
        let [seen, extrapolated, recorded, outside, skipped] =
            [seen, extrapolated, recorded, outside, skipped].map(u128::from);
        assert_eq!(seen + extrapolated, recorded + outside + skipped);
    }
    Some((packets, bytes, records))
}

/// A reader that gives a few bytes at a time.
struct Steps<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl Read for Steps<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = into.len().min(self.step);
        self.bytes.read(&mut into[..len])
    }
}
