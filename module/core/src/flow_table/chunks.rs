//! Records in chunks that never move, so that a reader needs no lock and growth no copy.
//!
//! Chunks grow with the table from 32 records to 131,072: each power of two of records is
//! cut into four, then all chunks are alike. Of a record's number plus [`BIAS`], the
//! position of the highest bit and the two bits below tell the chunk, the rest the record
//! within; its [`Place`] has that worked out for the packet path.

use crate::memory::{Allocation, Blank, Memory, Slot};

use super::record::Record;

/// Added to record numbers, so that the first chunk has 32 records.
const BIAS: u32 = 1 << BIAS_LOG2;
const BIAS_LOG2: u32 = if cfg!(loom) { 3 } else { 7 };
/// Of chunks from 1 on: any number of so many bits is that of a slot.
const SLOTS: usize = (1 << CHUNK_BITS) - 1;
const CHUNK_BITS: u32 = if cfg!(loom) { 4 } else { 7 };
/// Chunks of a power of two.
const PARTS: u32 = 1 << PARTS_LOG2;
const PARTS_LOG2: u32 = 2;
/// The largest chunks have so many records: all numbers that a place has for one.
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

/// Where a record lies: in the uppermost bits the record's number within its chunk, and below
/// them the number of the chunk, counted from 1, so that no place is 0. The other bits are 0
/// here and another's to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub u32);

const WITHIN_SHIFT: u32 = 32 - MAX_CHUNK_LOG2;
/// A slot has 16 bytes: so the chunk's number, where it stands, is its slot's offset.
const CHUNK_SHIFT: u32 = 4;
const CHUNK: u32 = (1 << CHUNK_BITS) - 1;

impl Place {
    /// The bits that neither number has.
    pub const SPARE: u32 = ((1 << WITHIN_SHIFT) - 1) & !(CHUNK << CHUNK_SHIFT);

    /// The place in what has other bits beside its two numbers.
    #[inline]
    pub fn of_entry(entry: u32) -> Self {
        Self(entry & !Self::SPARE)
    }

    /// The place of the record with this number, below [`MAX_RECORDS`].
    pub fn of(number: u32) -> Self {
        let (chunk, within) = locate(number.wrapping_add(BIAS));
        let chunk = (chunk as u32).wrapping_add(1);
        let within = (within as u32).wrapping_shl(WITHIN_SHIFT);
        Self(within | chunk.wrapping_shl(CHUNK_SHIFT))
    }
}

/// The largest chunk that is asked for in the packet path, in records.
const MAX_ATOMIC: usize = 512;

/// Chunks of one flow table.
pub struct Chunks<M: Memory, const W: usize> {
    /// The first one stays empty: places count chunks from 1.
    slots: [M::Slot<Record<W>>; SLOTS + 1],
}

#[inline]
fn locate(place: u32) -> (usize, usize) {
    let log2 = (place | 1).ilog2();
    let chunk_log2 = log2.wrapping_sub(PARTS_LOG2).min(MAX_CHUNK_LOG2);
    // The first of the smallest chunks would be that of number PARTS.
    let chunk = chunk_log2
        .wrapping_sub(BIAS_LOG2 - PARTS_LOG2)
        .wrapping_mul(PARTS)
        .wrapping_add(place.wrapping_shr(chunk_log2))
        .wrapping_sub(PARTS);
    let within = place & 1_u32.wrapping_shl(chunk_log2).wrapping_sub(1);
    (chunk as usize, within as usize)
}

const fn chunk_len(chunk: usize) -> usize {
    let log2 = BIAS_LOG2 - PARTS_LOG2 + chunk as u32 / PARTS;
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

    /// The record at a place, where its chunk exists.
    #[inline]
    pub fn get<'a>(&'a self, place: Place, guard: &'a M::Guard) -> Option<&'a Record<W>> {
        let chunk = place.0 >> CHUNK_SHIFT & CHUNK;
        let within = place.0 >> WITHIN_SHIFT;
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
    fn places_fill_the_chunks_one_after_the_other() {
        let mut expected = (0, 0);
        for place in BIAS..BIAS + 1_000_000 {
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
        for number in (0..1_000_000).chain(MAX_RECORDS - 100..MAX_RECORDS) {
            let Place(place) = Place::of(number);
            let parts = (place >> CHUNK_SHIFT & CHUNK, place >> WITHIN_SHIFT);
            let (chunk, within) = locate(number + BIAS);
            assert_eq!(parts, (chunk as u32 + 1, within as u32), "{number}");
        }
    }
}
