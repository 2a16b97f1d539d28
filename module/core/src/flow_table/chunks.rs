// SPDX-License-Identifier: GPL-2.0-or-later
//! Records in chunks that never move, so that a reader needs no lock and growth no copy.
//!
//! Chunks grow with the table from 32 records to 131,072: each power of two of records is
//! cut into four, then all chunks are alike. Let n be a record's number plus `BIAS`. Its highest
//! set bit and the two bits below select the chunk, the others are the offset in it:
//!
//! ```text
//!  31        log2(n)                             0
//! +---------+---+--------+------------------------+
//! | 0 ... 0 | 1 | 2 bits | offset in the chunk    |
//! +---------+---+--------+------------------------+
//! ```
//!
//! In the largest chunks the offset has 17 bits, and all bits above select the chunk. A
//! [`RecordRef`] has both numbers computed, for the packet path.

use crate::memory::{Allocation, Blank, Memory, Slot};

use super::record::Record;

/// Added to record numbers, so that the first chunk has 32 records.
const BIAS: u32 = 1 << BIAS_LOG2;
const BIAS_LOG2: u32 = if cfg!(loom) { 3 } else { 7 };
/// Of chunks from 1 on: any number of so many bits is that of a slot.
const SLOTS: usize = (1 << CHUNK_BITS) - 1;
const CHUNK_BITS: u32 = if cfg!(loom) { 4 } else { 7 };
/// Chunks for each doubling of the number of records.
const CHUNKS_PER_DOUBLING: u32 = 1 << CHUNKS_PER_DOUBLING_LOG2;
const CHUNKS_PER_DOUBLING_LOG2: u32 = 2;
/// The largest chunks have 2^17 records: a [`RecordRef`] has 17 bits for the offset.
const MAX_CHUNK_LOG2: u32 = 17;

/// Records of one table at most, 10.8 million.
pub const MAX_RECORDS: u32 = {
    let mut records = 0;
    let mut chunk = 0;
    while chunk < SLOTS {
        records += chunk_len(chunk);
        chunk += 1;
    }
    records as u32
};

/// The largest chunk that the packet path allocates, in records.
const MAX_ATOMIC: usize = 512;

/// The position of the offset in a [`RecordRef`].
const OFFSET_SHIFT: u32 = 32 - MAX_CHUNK_LOG2;
/// The position of the chunk's number in a [`RecordRef`]. A slot has 16 bytes, so the number in
/// this position is also the offset of the chunk's slot in bytes.
const CHUNK_SHIFT: u32 = 4;
const CHUNK: u32 = (1 << CHUNK_BITS) - 1;

/// A reference to a record: the number of its chunk and the record's offset in it.
///
/// ```text
///  31                  15 14  11 10                 4 3     0
/// +----------------------+------+--------------------+-------+
/// | offset in the chunk  |  0   | chunk, from 1 on   |   0   |
/// +----------------------+------+--------------------+-------+
/// ```
///
/// Chunks are numbered from 1, so that no reference is 0. The other bits, [`RecordRef::SPARE`],
/// are free for the user; an entry of the index keeps the tag there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef(pub u32);

impl RecordRef {
    /// The bits that are free for the user.
    pub const SPARE: u32 = ((1 << OFFSET_SHIFT) - 1) & !(CHUNK << CHUNK_SHIFT);

    /// The reference in a word that uses the spare bits.
    #[inline]
    pub fn of_entry(entry: u32) -> Self {
        Self(entry & !Self::SPARE)
    }

    /// The reference to the record with this number, below [`MAX_RECORDS`].
    pub fn of(number: u32) -> Self {
        let (chunk, offset) = locate(number.wrapping_add(BIAS));
        let chunk = (chunk as u32).wrapping_add(1);
        let offset = (offset as u32).wrapping_shl(OFFSET_SHIFT);
        Self(offset | chunk.wrapping_shl(CHUNK_SHIFT))
    }
}

/// Chunks of one flow table.
pub struct Chunks<M: Memory, const W: usize> {
    /// The first one stays empty: chunks are numbered from 1.
    slots: [M::Slot<Record<W>>; SLOTS + 1],
}

/// The chunk, from 0 on, and the offset in it of the record whose number plus [`BIAS`] is `biased`.
#[inline]
fn locate(biased: u32) -> (usize, usize) {
    let log2 = (biased | 1).ilog2();
    let chunk_log2 = log2
        .wrapping_sub(CHUNKS_PER_DOUBLING_LOG2)
        .min(MAX_CHUNK_LOG2);
    // The first of the smallest chunks would be that of number CHUNKS_PER_DOUBLING.
    let chunk = chunk_log2
        .wrapping_sub(BIAS_LOG2 - CHUNKS_PER_DOUBLING_LOG2)
        .wrapping_mul(CHUNKS_PER_DOUBLING)
        .wrapping_add(biased.wrapping_shr(chunk_log2))
        .wrapping_sub(CHUNKS_PER_DOUBLING);
    let offset = biased & 1_u32.wrapping_shl(chunk_log2).wrapping_sub(1);
    (chunk as usize, offset as usize)
}

const fn chunk_len(chunk: usize) -> usize {
    let log2 = BIAS_LOG2 - CHUNKS_PER_DOUBLING_LOG2 + chunk as u32 / CHUNKS_PER_DOUBLING;
    1 << if log2 < MAX_CHUNK_LOG2 {
        log2
    } else {
        MAX_CHUNK_LOG2
    }
}

impl<M: Memory, const W: usize> Chunks<M, W> {
    /// No chunks.
    pub(super) const BLANK: Self = Self {
        slots: [const { Blank::BLANK }; SLOTS + 1],
    };

    /// The record that a reference names, where its chunk exists.
    #[inline]
    pub fn get<'a>(&'a self, record_ref: RecordRef, guard: &'a M::Guard) -> Option<&'a Record<W>> {
        let chunk = record_ref.0 >> CHUNK_SHIFT & CHUNK;
        let offset = record_ref.0 >> OFFSET_SHIFT;
        self.slots
            .get(chunk as usize)?
            .slice(guard)
            .get(offset as usize)
    }

    /// The record with this number, with its chunk allocated now if it is small enough for
    /// the packet path.
    pub fn get_or_allocate<'a>(
        &'a self,
        number: u32,
        payer: M::Payer,
        guard: &'a M::Guard,
    ) -> Option<&'a Record<W>> {
        let (chunk, offset) = locate(number.wrapping_add(BIAS));
        let slot = self.chunks().get(chunk)?;
        if slot.get(guard).is_none() {
            let len = chunk_len(chunk);
            if len > MAX_ATOMIC || !slot.fill(len, Allocation::Atomic, payer) {
                return None;
            }
        }
        slot.get(guard)?.get(offset)
    }

    /// Allocates the chunks of the first `len` records, and says whether all are there.
    pub fn prepare(&self, len: u32, cpu: u32, payer: M::Payer) -> bool {
        let (last, _) = locate(len.min(MAX_RECORDS - 1).wrapping_add(BIAS));
        let how = Allocation::Sleeping { cpu };
        (0..=last)
            .zip(self.chunks())
            .all(|(chunk, slot)| slot.fill(chunk_len(chunk), how, payer))
    }

    /// The first `len` records.
    pub fn iter<'a>(
        &'a self,
        len: u32,
        guard: &'a M::Guard,
    ) -> impl Iterator<Item = &'a Record<W>> {
        let chunks = self.chunks().iter().map_while(move |slot| slot.get(guard));
        chunks.flatten().take(len as usize)
    }

    fn chunks(&self) -> &[M::Slot<Record<W>>] {
        let [_, chunks @ ..] = &self.slots;
        chunks
    }

    /// Frees all, as [`Slot::retire`] does.
    pub fn clear(&self, payer: Option<M::Payer>) {
        for slot in &self.slots {
            slot.retire(payer);
        }
    }

    /// Bytes that the chunks hold.
    pub fn bytes(&self) -> usize {
        self.slots
            .iter()
            .map(|slot| slot.bytes())
            .fold(0, usize::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fill_the_chunks_one_after_the_other() {
        let mut expected = (0, 0);
        for biased in BIAS..BIAS + 1_000_000 {
            assert_eq!(locate(biased), expected);
            expected.1 += 1;
            if expected.1 == chunk_len(expected.0) {
                expected = (expected.0 + 1, 0);
            }
        }
        assert_eq!(locate(MAX_RECORDS + BIAS - 1).0, SLOTS - 1);
        assert_eq!(locate(MAX_RECORDS + BIAS).0, SLOTS);
    }

    #[test]
    fn reference_has_chunk_and_offset() {
        for number in (0..1_000_000).chain(MAX_RECORDS - 100..MAX_RECORDS) {
            let RecordRef(record_ref) = RecordRef::of(number);
            let parts = (
                record_ref >> CHUNK_SHIFT & CHUNK,
                record_ref >> OFFSET_SHIFT,
            );
            let (chunk, offset) = locate(number + BIAS);
            assert_eq!(parts, (chunk as u32 + 1, offset as u32), "{number}");
        }
    }
}
