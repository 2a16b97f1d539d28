//! Records in chunks that never move, so that a reader needs no lock and growth no copy.
//!
//! Chunks grow with the table: each power of two of records is cut into four, so that at
//! most a quarter of the memory is empty, at 64 records or more a chunk. A record's place
//! is its number plus [`BIAS`]: the position of its highest bit and the two bits below
//! tell the chunk, the rest the record within.

use crate::memory::{Allocation, Memory, Slot};

use super::record::Record;

/// Added to record numbers, so that the first chunk has 64 records and no place is 0.
pub const BIAS: u32 = 1 << BIAS_LOG2;
const BIAS_LOG2: u32 = 8;
const MAX_LOG2: u32 = 26;
const SLOTS: usize = ((MAX_LOG2 - BIAS_LOG2) * 4) as usize;

/// Records of one table at most.
pub const MAX_RECORDS: u32 = (1 << MAX_LOG2) - BIAS;

/// The largest chunk that is asked for in the packet path, in records.
const MAX_ATOMIC: usize = 512;

/// Chunks of one flow table.
pub struct Chunks<M: Memory, const W: usize> {
    slots: [M::Slot<Record<W>>; SLOTS],
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
    let quarter_log2 = log2.wrapping_sub(2);
    let quarter = place.wrapping_shr(quarter_log2);
    let chunk = log2
        .wrapping_sub(BIAS_LOG2)
        .wrapping_mul(4)
        .wrapping_add(quarter & 3);
    let within = place & 1_u32.wrapping_shl(quarter_log2).wrapping_sub(1);
    (chunk as usize, within as usize)
}

fn chunk_len(chunk: usize) -> usize {
    (1 << (BIAS_LOG2 - 2)) << (chunk / 4)
}

impl<M: Memory, const W: usize> Chunks<M, W> {
    /// The record at a place, where its chunk exists.
    #[inline]
    pub fn get<'a>(&'a self, place: u32, guard: &'a M::Guard) -> Option<&'a Record<W>> {
        let (chunk, within) = locate(place);
        self.slots.get(chunk)?.get(guard)?.get(within)
    }

    /// The record at a place, with its chunk allocated now if it is small enough for the
    /// packet path.
    pub fn get_or_allocate<'a>(
        &'a self,
        place: u32,
        payer: M::Payer,
        guard: &'a M::Guard,
    ) -> Option<&'a Record<W>> {
        let (chunk, within) = locate(place);
        let slot = self.slots.get(chunk)?;
        if slot.get(guard).is_none() {
            let len = chunk_len(chunk);
            if len > MAX_ATOMIC || !slot.fill(len, Allocation::Atomic, payer) {
                return None;
            }
        }
        slot.get(guard)?.get(within)
    }

    /// Allocates the chunks up to that of `place`, and says whether all are there.
    pub fn prepare(&self, place: u32, cpu: u32, payer: M::Payer) -> bool {
        let (last, _) = locate(place.min(MAX_RECORDS + BIAS - 1));
        let how = Allocation::Sleeping { cpu };
        (0..=last)
            .zip(&self.slots)
            .all(|(chunk, slot)| slot.fill(chunk_len(chunk), how, payer))
    }

    /// The first `len` records.
    pub fn iter<'a>(
        &'a self,
        len: u32,
        guard: &'a M::Guard,
    ) -> impl Iterator<Item = &'a Record<W>> {
        let chunks = self.slots.iter().map_while(move |slot| slot.get(guard));
        chunks.flatten().take(len as usize)
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
    fn place_zero_has_no_chunk() {
        assert!(locate(0).0 >= SLOTS);
    }
}
