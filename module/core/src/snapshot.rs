// SPDX-License-Identifier: GPL-2.0-or-later
//! An epoch as bytes: a header and records, or lines of text, served from any
//! offset and always the same.

use zerocopy::IntoBytes;

use trafstat_abi::SnapshotHeader;

use crate::account::{Epoch, Next, RecordPosition};
use crate::flow_table::record::{FlowCounters, Record};
use crate::flow_table::samples::Sample;
use crate::memory::Memory;
use crate::wire::Volume;

/// Pieces that one read passes over or copies at most.
const STEPS: u32 = 1024;

const LIVE: u32 = trafstat_abi::SNAPSHOT_LIVE;

/// The counters of a record, behind its key.
const COUNTERS: usize = 5;

/// Of the longest record, that of IPv6: five words of a key, and the counters.
const RECORD_BYTES: usize = (5 + COUNTERS) * size_of::<u64>();

/// Where a reader stands. Zero is the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Cursor {
    /// Bytes before the next one to be read.
    offset: u64,
    /// Bytes of the piece at `position` that were read already.
    within: u32,
    /// Whether the header was read.
    past_head: u32,
    position: RecordPosition,
}

impl Cursor {
    /// Where the next byte stands that follows what was read.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// The bytes of one header or record, `N` at most.
#[derive(Clone, Copy, Debug)]
pub struct Piece<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

/// What comes before the records: the snapshot's header, or nothing.
pub type Head = Piece<{ size_of::<SnapshotHeader>() }>;

impl<const N: usize> Piece<N> {
    /// A piece with nothing in it.
    pub const EMPTY: Self = Self {
        bytes: [0; N],
        len: 0,
    };

    /// Appends a byte; a full piece stays as it is.
    #[inline]
    pub fn push(&mut self, byte: u8) {
        if let Some(free) = self.bytes.get_mut(self.len) {
            *free = byte;
            self.len += 1;
        }
    }

    /// Appends bytes.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        let free = self.bytes.get_mut(self.len..).unwrap_or_default();
        let copied = bytes.len().min(free.len());
        for (to, from) in free.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.len += copied;
    }
}

/// What was appended.
impl<const N: usize> AsRef<[u8]> for Piece<N> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// How an epoch is written.
pub trait Format<const W: usize> {
    /// The bytes of one record.
    type Record: AsRef<[u8]>;

    /// What comes before the records.
    fn head<M: Memory>(&self, epoch: &Epoch<'_, M, W>) -> Head;

    /// One record.
    fn record(&self, record: &Record<W>) -> Self::Record;
}

/// A read that copied nothing yet and is to be called again, once others had a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Yield;

/// Copies what stands at `offset` into `out` and returns the number of bytes, 0 at the end.
///
/// A cursor that stands elsewhere begins again, so any offset works and reading on costs
/// nothing.
///
/// # Errors
/// [`Yield`] where many records were passed over and the caller should yield the CPU: the
/// cursor has come nearer, and the same call goes on.
pub fn read<M: Memory, const W: usize>(
    epoch: &Epoch<'_, M, W>,
    format: &impl Format<W>,
    cursor: &mut Cursor,
    offset: u64,
    out: &mut [u8],
) -> Result<usize, Yield> {
    if offset < cursor.offset {
        *cursor = Cursor::default();
    }
    let mut destination = Destination {
        skip: offset - cursor.offset,
        out,
        filled: 0,
    };
    if cursor.past_head == 0 && destination.take(cursor, format.head(epoch).as_ref()) {
        cursor.past_head = 1;
    }
    let mut steps = 0..STEPS;
    while cursor.past_head != 0 && destination.has_room() {
        let record = match (epoch.next(&mut cursor.position), steps.next()) {
            (Next::End, _) => break,
            (Next::Record(record), Some(_)) => record,
            _ if destination.filled == 0 => return Err(Yield),
            _ => break,
        };
        if destination.take(cursor, format.record(record).as_ref()) {
            cursor.position.record = cursor.position.record.wrapping_add(1);
        }
    }
    Ok(destination.filled)
}

/// Where a read puts what it finds.
struct Destination<'a> {
    /// Bytes between the cursor and what is asked for.
    skip: u64,
    out: &'a mut [u8],
    filled: usize,
}

impl Destination<'_> {
    fn has_room(&self) -> bool {
        self.filled < self.out.len()
    }

    /// Copies what is left of a piece, as far as there is room; true where that is all of it.
    #[inline]
    fn take(&mut self, cursor: &mut Cursor, piece: &[u8]) -> bool {
        let free = self.out.get_mut(self.filled..).unwrap_or_default();
        // Nearly all pieces go as a whole, whose length the compiler knows.
        if let (0, 0, Some(free)) = (self.skip, cursor.within, free.get_mut(..piece.len())) {
            for (to, from) in free.iter_mut().zip(piece) {
                *to = *from;
            }
            self.filled += piece.len();
            cursor.offset += piece.len() as u64;
            return true;
        }
        let left = piece.get(cursor.within as usize..).unwrap_or_default();
        let skipped = left
            .len()
            .min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        let wanted = left.get(skipped..).unwrap_or_default();
        let copied = wanted.len().min(free.len());
        for (to, from) in free.iter_mut().zip(wanted) {
            *to = *from;
        }
        self.filled += copied;
        self.skip -= skipped as u64;
        cursor.offset += (skipped + copied) as u64;
        let is_whole = copied == wanted.len();
        cursor.within = match is_whole {
            true => 0,
            false => cursor.within + (skipped + copied) as u32,
        };
        is_whole
    }
}

/// `struct xt_trafstat_sample`.
fn sample(sample: Sample) -> trafstat_abi::Sample {
    let halves = |sum: u128| [sum as u64, (sum >> 64) as u64];
    trafstat_abi::Sample {
        packets: sample.packets,
        packet_variance: halves(sample.packet_variance),
        byte_variance: halves(sample.byte_variance),
        highest_rate: sample.highest_rate,
        reserved: 0,
    }
}

/// `struct xt_trafstat_snapshot_header`, then `struct xt_trafstat_record_ipv4` or
/// `xt_trafstat_record_ipv6` for each record (`uapi/xt_TRAFSTAT.h`).
#[derive(Debug)]
pub struct Binary;

impl<const W: usize> Format<W> for Binary {
    type Record = Piece<RECORD_BYTES>;

    fn head<M: Memory>(&self, epoch: &Epoch<'_, M, W>) -> Head {
        let identity = epoch.identity();
        let (opened, closed) = epoch.span();
        let totals = epoch.totals();
        let limits = epoch.limits();
        let mut magic = [0; 8];
        for (to, from) in magic.iter_mut().zip(trafstat_abi::SNAPSHOT_MAGIC) {
            *to = *from;
        }
        let Volume {
            packets: seen_packets,
            bytes: seen_bytes,
        } = totals.seen;
        let Volume {
            packets: extrapolated_packets,
            bytes: extrapolated_bytes,
        } = totals.extrapolated;
        let Volume {
            packets: recorded_packets,
            bytes: recorded_bytes,
        } = totals.recorded;
        let Volume {
            packets: outside_packets,
            bytes: outside_bytes,
        } = totals.outside;
        let Volume {
            packets: skipped_packets,
            bytes: skipped_bytes,
        } = totals.skipped;
        let Volume {
            packets: gso_extra_packets,
            bytes: gso_extra_bytes,
        } = totals.gso_extra;
        let Volume {
            packets: folded_packets,
            bytes: folded_bytes,
        } = totals.folded;
        let Volume {
            packets: unattributed_packets,
            bytes: unattributed_bytes,
        } = totals.unattributed;
        let header = SnapshotHeader {
            magic,
            version: trafstat_abi::SNAPSHOT_VERSION as u16,
            header_size: size_of::<SnapshotHeader>() as u16,
            record_size: ((W + COUNTERS) * size_of::<u64>()) as u16,
            family: epoch.family(),
            prefix_len: identity.prefix_len,
            account_id: identity.id,
            epoch: epoch.number(),
            records: epoch.records(),
            opened_ns: opened.wall_ns,
            closed_ns: closed.wall_ns,
            seen_packets,
            seen_bytes,
            extrapolated_packets,
            extrapolated_bytes,
            recorded_packets,
            recorded_bytes,
            outside_packets,
            outside_bytes,
            skipped_packets,
            skipped_bytes,
            gso_extra_packets,
            gso_extra_bytes,
            folded_packets,
            folded_bytes,
            max_entries: u64::from(limits.max_entries),
            min_pkt_spoof: limits.min_pkt_spoof,
            flags: if epoch.is_open() { LIVE } else { 0 },
            local_addr: identity.local_addr,
            name: identity.name.map(|byte| byte as core::ffi::c_char),
            duration_ns: closed.boot_ns.saturating_sub(opened.boot_ns),
            unattributed_packets,
            unattributed_bytes,
            sample: epoch.samples().map(sample),
        };
        let mut piece = Head::EMPTY;
        piece.extend(header.as_bytes());
        piece
    }

    #[inline]
    fn record(&self, record: &Record<W>) -> Self::Record {
        let FlowCounters {
            packets: [sent_packets, received_packets],
            bytes,
            syn_packets,
        } = record.counters();
        let [sent_bytes, received_bytes] = bytes;
        let mut piece = Piece::EMPTY;
        let counters = [
            sent_packets,
            received_packets,
            sent_bytes,
            received_bytes,
            syn_packets,
        ];
        for word in record.key().0.iter().chain(&counters) {
            piece.extend(&word.to_ne_bytes());
        }
        piece
    }
}
