//! Records in chunks that never move, so that a reader needs no lock and growth no copy.
//!
//! Chunks grow with the table: each power of two of records is cut into eight, so that at
//! most an eighth of the memory is empty, at 32 records or more a chunk. Of a record's
//! number plus [`BIAS`], the position of the highest bit and the three bits below tell the
//! chunk, the rest the record within; its [`Place`] has that worked out for the packet
//! path.

use crate::memory::{Allocation, Memory, Slot};

use super::record::Record;

/// Added to record numbers, so that the first chunk has 32 records.
const BIAS: u32 = 1 << BIAS_LOG2;
const BIAS_LOG2: u32 = if cfg!(loom) { 4 } else { 8 };
/// Of chunks from 1 on: any number of so many bits is that of a slot.
const SLOTS: usize = (1 << CHUNK_BITS) - 1;
const CHUNK_BITS: u32 = if cfg!(loom) { 4 } else { 7 };
/// Chunks of a power of two.
const PARTS: u32 = 1 << PARTS_LOG2;
const PARTS_LOG2: u32 = 3;

/// Records of one table at most, 15 million.
pub const MAX_RECORDS: u32 = {
    let slots = SLOTS as u32;
    ((PARTS + slots % PARTS) << (BIAS_LOG2 - PARTS_LOG2 + slots / PARTS)) - BIAS
};

/// Where a record lies: above the record's number within its chunk, the number of the chunk,
/// counted from 1, so that no place is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub u32);

const WITHIN_BITS: u32 = 32 - CHUNK_BITS;
const WITHIN: u32 = (1 << WITHIN_BITS) - 1;

impl Place {
    /// The place of the record with this number, below [`MAX_RECORDS`].
    pub fn of(number: u32) -> Self {
        let (chunk, within) = locate(number.wrapping_add(BIAS));
        let chunk = (chunk as u32).wrapping_add(1);
        Self(chunk.wrapping_shl(WITHIN_BITS) | within as u32)
    }
}

/// The largest chunk that is asked for in the packet path, in records.
const MAX_ATOMIC: usize = 512;

/// Chunks of one flow table.
pub struct Chunks<M: Memory, const W: usize> {
    /// The first one stays empty: places count chunks from 1.
    slots: [M::Slot<Record<W>>; SLOTS + 1],
}

impl<M: Memory, const W: usize> Default for Chunks<M, W> {
    fn default() -> Self {
        Self {
            slots: core::array::from_fn(|_| Default::default()),
        }
    }
}

#[inline]
fn locate(place: u32) -> (usize, usize) {
    let log2 = (place | 1).ilog2();
    let part_log2 = log2.wrapping_sub(PARTS_LOG2);
    let part = place.wrapping_shr(part_log2) & (PARTS - 1);
    let chunk = log2
        .wrapping_sub(BIAS_LOG2)
        .wrapping_mul(PARTS)
        .wrapping_add(part);
    let within = place & 1_u32.wrapping_shl(part_log2).wrapping_sub(1);
    (chunk as usize, within as usize)
}

fn chunk_len(chunk: usize) -> usize {
    (1 << (BIAS_LOG2 - PARTS_LOG2)) << (chunk as u32 / PARTS)
}

impl<M: Memory, const W: usize> Chunks<M, W> {
    /// The record at a place, where its chunk exists.
    #[inline]
    pub fn get<'a>(&'a self, place: Place, guard: &'a M::Guard) -> Option<&'a Record<W>> {
        let chunk = place.0 >> WITHIN_BITS;
        let within = place.0 & WITHIN;
        self.slots
            .get(chunk as usize)?
            .slice(guard)
            .get(within as usize)
    }

    /// The record with this number, with its chunk allocated now if it is small enough for
    /// the packet path.
    pub fn get_or_allocate<'a>(
        &'a self,
        number: u32,
        payer: M::Payer,
        guard: &'a M::Guard,
    ) -> Option<&'a Record<W>> {
        let (chunk, within) = locate(number.wrapping_add(BIAS));
        let slot = self.chunks().get(chunk)?;
        if slot.get(guard).is_none() {
            let len = chunk_len(chunk);
            if len > MAX_ATOMIC || !slot.fill(len, Allocation::Atomic, payer) {
                return None;
            }
        }
        slot.get(guard)?.get(within)
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

    /// Frees all.
    pub fn clear(&self) {
        for slot in &self.slots {
            slot.retire();
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
    fn places_fill_the_chunks_one_after_the_other() {
        let mut expected = (0, 0);
        for place in BIAS..BIAS + 100_000 {
            assert_eq!(locate(place), expected);
            expected.1 += 1;
            if expected.1 == chunk_len(expected.0) {
                expected = (expected.0 + 1, 0);
            }
        }
        assert_eq!(locate(MAX_RECORDS + BIAS - 1).0, SLOTS - 1);
        assert_eq!(locate(MAX_RECORDS + BIAS).0, SLOTS);
    }

    #[test]
    fn place_has_chunk_and_record_within() {
        for number in (0..100_000).chain(MAX_RECORDS - 100..MAX_RECORDS) {
            let Place(place) = Place::of(number);
            let parts = (place >> WITHIN_BITS, place & WITHIN);
            let (chunk, within) = locate(number + BIAS);
            assert_eq!(parts, (chunk as u32 + 1, within as u32), "{number}");
        }
    }
}
