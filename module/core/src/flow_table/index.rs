// SPDX-License-Identifier: GPL-2.0-or-later
//! Finds a flow's record: open addressing over buckets of two small entries, growing a
//! little at each insertion.
//!
//! An entry is a [`RecordRef`] with some bits of the flow's hash, the tag, in its spare bits;
//! 0 is an empty entry. The uppermost bits of the
//! hash tell the flow's home, one of the buckets, and its entry stands there or less than
//! `PROBE_BUCKETS` behind, before any empty entry; behind the last bucket comes the first.
//!
//! Nearly all flows stand in their home: with growth from half an entry a home, 24 of
//! 25 and more. So what most packets take, [`Index::first`], reads one bucket and chooses
//! between its two entries without a branch, which no predictor could learn; the record's
//! key tells whether the choice was right.
//!
//! Growth: once the index of twice the size has been allocated, each insertion moves the
//! entries of the next few homes there, by the hashes that their records keep. Homes below
//! the cursor are searched in the new index, the others in the old one. Entries stay in the
//! old index after they are moved, so probing past them still works; their homes are never
//! searched there again. [`Index::first`] finds nothing meanwhile; each packet that has to
//! look further for that moves a few homes too, so it does not last. Whoever allocates the
//! next level late has it begin in the same way: flows that are all known insert nothing.

use super::chunks::RecordRef;
use crate::memory::{Allocation, Blank, Memory, Slot};
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

/// So many entries may stand in a flow's home and behind it for the flow's to be found.
pub const PROBE: usize = if cfg!(loom) { 16 } else { 256 };
const PROBE_BUCKETS: usize = PROBE / 2;

/// Buckets of level 0, one page; each further level has twice as many.
const MIN_BUCKETS: u32 = 1 << MIN_BUCKETS_LOG2;
const MIN_BUCKETS_LOG2: u32 = if cfg!(loom) { 5 } else { 9 };
/// More than memory has room for; a power of two saves a comparison.
const LEVELS: usize = if cfg!(loom) { 4 } else { 32 };
/// A level that stays empty.
const GROWING: u32 = LEVELS as u32 - 1;
/// Homes moved at an insertion while the index grows: growth from 1/2 of an entry a home
/// ends before there is 5/8 of one, and from there before there is 7/8.
const MOVED_HOMES: u32 = 8;
/// The largest level that is asked for in the packet path: 32 KiB, beyond which contiguous
/// memory is hard to come by.
const MAX_ATOMIC_BUCKETS: u32 = 4096;

/// The hashes whose uppermost bits are one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashPart {
    /// How many bits, fewer than 64.
    bits: u32,
    number: u64,
}

impl HashPart {
    /// All hashes.
    pub fn all() -> Self {
        Self { bits: 0, number: 0 }
    }

    /// The first part of those into which this one is cut so that each has `most` of its
    /// `hashes` at most, on average.
    pub fn cut_to(self, hashes: u64, most: u64) -> Self {
        let mut part = self;
        while hashes >> (part.bits - self.bits) > most.max(1) && part.bits < u64::BITS / 2 {
            part = part.first_half();
        }
        part
    }

    /// The number of bits that all its hashes share.
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// The lower half.
    pub fn first_half(self) -> Self {
        Self {
            bits: (self.bits + 1).min(u64::BITS - 1),
            number: self.number << 1,
        }
    }

    /// The part behind it, as large as may be while all its hashes share `least_bits` at
    /// least; `None` behind the last.
    pub fn next(self, least_bits: u32) -> Option<Self> {
        let Self {
            mut bits,
            mut number,
        } = self;
        number += 1;
        while bits > least_bits && number & 1 == 0 {
            bits -= 1;
            number >>= 1;
        }
        (number >> bits == 0).then_some(Self { bits, number })
    }

    /// Whether it has this hash.
    fn has(self, hash: u64) -> bool {
        // A shift by all 64 bits is none.
        self.bits == 0 || hash >> (u64::BITS - self.bits) == self.number
    }

    /// The homes of its hashes among 2^`log2` of them: the first and the one behind the last.
    fn homes(self, log2: u32) -> (usize, usize) {
        let (first, end) = match log2.checked_sub(self.bits) {
            Some(finer) => (self.number << finer, (self.number + 1) << finer),
            None => {
                let home = self.number >> (self.bits - log2);
                (home, home + 1)
            }
        };
        (first as usize, end as usize)
    }
}

/// Two entries, read and written as one; the first is filled first.
#[derive(Clone, Copy, Debug)]
struct Bucket(u64);

impl Bucket {
    #[inline]
    fn entries(self) -> [u32; 2] {
        [self.0 as u32, (self.0 >> 32) as u32]
    }

    /// The reference of the first entry with this hash's tag; without one, any other reference
    /// or none.
    #[inline]
    fn likely(self, hash: u64) -> RecordRef {
        let [first, second] = self.entries();
        RecordRef::of_entry(select_unpredictable(has_tag(first, hash), first, second))
    }
}

/// The index of one flow table, written by one CPU.
pub struct Index<M: Memory> {
    /// `levels[level]` is the one in use, `levels[level + 1]` the next while it grows.
    level: AtomicU32,
    /// `level`, or [`GROWING`] while it grows or is to begin.
    first_level: AtomicU32,
    /// Of a hash, to the home in `level`.
    shift: AtomicU32,
    /// Homes below this one are in the next level.
    cursor: AtomicU32,
    /// The home at the cursor finds no room in the next level.
    is_stuck: AtomicBool,
    levels: [M::Slot<AtomicU64>; LEVELS],
}

#[inline]
fn buckets(level: u32) -> u32 {
    MIN_BUCKETS.wrapping_shl(level)
}

#[inline]
const fn shift(level: u32) -> u32 {
    (u64::BITS - MIN_BUCKETS_LOG2).wrapping_sub(level)
}

#[inline]
fn home(hash: u64, shift: u32) -> usize {
    hash.wrapping_shr(shift) as usize
}

/// The buckets that an entry with this home may stand in.
#[inline]
fn probe(buckets: &[AtomicU64], home: usize) -> impl Iterator<Item = &AtomicU64> {
    let last = buckets.len().wrapping_sub(1);
    (home..home.wrapping_add(PROBE_BUCKETS)).map_while(move |at| buckets.get(at & last))
}

/// The tag has the same bits in the entry as in the lower half of the hash.
#[inline]
fn has_tag(entry: u32, hash: u64) -> bool {
    (entry ^ hash as u32) & RecordRef::SPARE == 0
}

/// One of two values by a condition that no branch predictor could learn.
#[inline]
fn select_unpredictable(condition: bool, a: u32, b: u32) -> u32 {
    if condition { a } else { b }
}

impl<M: Memory> Index<M> {
    /// An index without entries.
    #[expect(clippy::declare_interior_mutable_const, reason = "each use is a copy")]
    pub(super) const BLANK: Self = Self {
        level: AtomicU32::new(0),
        first_level: AtomicU32::new(0),
        shift: AtomicU32::new(shift(0)),
        cursor: AtomicU32::new(0),
        is_stuck: AtomicBool::new(false),
        levels: [const { Blank::BLANK }; LEVELS],
    };

    /// The buckets that the entry of this hash may stand in.
    #[inline]
    fn probe<'a>(&'a self, hash: u64, guard: &'a M::Guard) -> impl Iterator<Item = &'a AtomicU64> {
        let mut level = self.level.load(Relaxed);
        let mut home = home(hash, self.shift.load(Relaxed));
        if home < self.cursor.load(Relaxed) as usize {
            level = level.wrapping_add(1);
            home = self::home(hash, shift(level));
        }
        let slot = self.levels.get(level as usize % LEVELS);
        let buckets = slot.map(|slot| slot.slice(guard)).unwrap_or_default();
        probe(buckets, home)
    }

    /// How many entries a search for this hash looks at where nothing matches.
    #[cfg(any(test, feature = "std"))]
    pub fn probe_len(&self, hash: u64, guard: &M::Guard) -> usize {
        let mut looked_at = 0;
        for bucket in self.probe(hash, guard) {
            for entry in Bucket(bucket.load(Relaxed)).entries() {
                looked_at += 1;
                if entry == 0 {
                    return looked_at;
                }
            }
        }
        looked_at
    }

    /// The likeliest reference for this hash, if any; [`Index::find`] tries all.
    #[inline]
    pub fn first(&self, hash: u64, guard: &M::Guard) -> Option<RecordRef> {
        let level = self.first_level.load(Relaxed) as usize % LEVELS;
        let buckets = self.levels.get(level)?.slice(guard);
        let home = home(hash, self.shift.load(Relaxed));
        let bucket = Bucket(buckets.get(home)?.load(Relaxed));
        Some(bucket.likely(hash))
    }

    /// The first reference with this hash's tag for which `matches` returns something.
    #[inline]
    pub fn find<T>(
        &self,
        hash: u64,
        guard: &M::Guard,
        matches: impl Fn(RecordRef) -> Option<T>,
    ) -> Option<T> {
        for bucket in self.probe(hash, guard) {
            for entry in Bucket(bucket.load(Relaxed)).entries() {
                if entry == 0 {
                    return None;
                }
                if has_tag(entry, hash) {
                    if let Some(found) = matches(RecordRef::of_entry(entry)) {
                        return Some(found);
                    }
                }
            }
        }
        None
    }

    /// An empty entry for this hash; `None` where the probe finds none.
    pub fn vacancy<'a>(&'a self, hash: u64, guard: &'a M::Guard) -> Option<Vacancy<'a>> {
        let bucket = self.probe(hash, guard).find(|bucket| has_room(bucket))?;
        Some(Vacancy { bucket, hash })
    }

    /// Whether an index with `len` entries should have its next level allocated.
    pub fn wants_next(&self, len: u32) -> bool {
        len >= Self::growth_len(self.level.load(Relaxed))
    }

    /// The number of entries from which [`Index::wants_next`] holds.
    pub fn next_growth(&self) -> u32 {
        Self::growth_len(self.level.load(Relaxed))
    }

    fn growth_len(level: u32) -> u32 {
        buckets(level) / 2
    }

    /// Allocates what an index of `len` entries needs and frees what growth left behind;
    /// says whether all is there. Called in process context, while the writer goes on.
    pub fn prepare(&self, len: u32, cpu: u32, payer: M::Payer) -> bool {
        let how = Allocation::Sleeping { cpu };
        let level = self.level.load(Relaxed);
        let wanted = if len == 0 {
            level
        } else {
            level + u32::from(self.wants_next(len))
        };
        let mut is_there = true;
        for (at, slot) in (0..GROWING).zip(&self.levels) {
            if at < level {
                slot.retire(Some(payer));
            } else if at <= wanted {
                is_there &= slot.fill(buckets(at) as usize, how, payer);
            }
        }
        if is_there && wanted > level {
            // The writer may have grown past this level by now: it then undoes this.
            self.first_level.store(GROWING, Release);
        }
        is_there
    }

    /// Allocates what an insertion after `len` entries needs and no worker has prepared,
    /// where it is small enough for the packet path. Called by the writer.
    pub fn allocate_late(&self, len: u32, payer: M::Payer) {
        let level = self.level.load(Relaxed);
        let late = if len == 0 { level } else { level + 1 };
        if (len == 0 || len >= buckets(level) / 4 * 3) && buckets(late) <= MAX_ATOMIC_BUCKETS {
            if let Some(slot) = self.levels.get(late as usize) {
                slot.fill(buckets(late) as usize, Allocation::Atomic, payer);
            }
        }
    }

    /// Moves the next few homes where the index is growing or should be. Called by the
    /// writer at an insertion and where [`Index::is_growing`], with the number of entries.
    /// `hash_of` returns the hash of the record that a reference names.
    pub fn grow(&self, len: u32, guard: &M::Guard, hash_of: impl Fn(RecordRef) -> Option<u64>) {
        let level = self.level.load(Relaxed);
        let cursor = self.cursor.load(Relaxed);
        // Whoever sees that growth is to begin sees the level that it begins with.
        let is_growing = self.first_level.load(Acquire) == GROWING;
        let next = self
            .levels
            .get(level as usize + 1)
            .filter(|_| level + 1 < GROWING && !self.is_stuck.load(Relaxed))
            .filter(|_| cursor != 0 || self.wants_next(len))
            .and_then(|slot| slot.get(guard));
        let current = self
            .levels
            .get(level as usize)
            .and_then(|slot| slot.get(guard));
        let (Some(current), Some(next)) = (current, next) else {
            if is_growing && cursor == 0 {
                self.first_level.store(level, Relaxed);
            }
            return;
        };
        self.first_level.store(GROWING, Relaxed);
        let end = cursor + MOVED_HOMES;
        let mut full = Full::default();
        for at in cursor..end {
            if move_home([current, next], at, level, &mut full, &hash_of).is_none() {
                // Only flows that are chosen by the hash's key come to this. They stay
                // where they are and are not tried again; the rest is folded.
                self.is_stuck.store(true, Relaxed);
                self.cursor.store(at, Relaxed);
                if at == 0 {
                    self.first_level.store(level, Relaxed);
                }
                return;
            }
        }
        if end == buckets(level) {
            self.set_level(level + 1);
        } else {
            self.cursor.store(end, Relaxed);
        }
    }

    /// Calls `visit` with the reference of each entry whose hash is in this part, until it
    /// returns false; returns the last result, or true. `hash_of` returns the hash of the
    /// record that a reference names. No writer is left.
    pub fn each_of(
        &self,
        part: HashPart,
        guard: &M::Guard,
        hash_of: impl Fn(RecordRef) -> Option<u64>,
        mut visit: impl FnMut(RecordRef) -> bool,
    ) -> bool {
        let level = self.level.load(Relaxed);
        let cursor = self.cursor.load(Relaxed) as usize;
        let buckets = |level: u32| {
            self.levels
                .get(level as usize)
                .map(|slot| slot.slice(guard))
        };
        let (first, end) = part.homes(MIN_BUCKETS_LOG2 + level);
        // Homes below the cursor were moved to the next level, where each is two; copies
        // stay behind, and some may stand there that were moved too early.
        let moved = buckets(level + 1).unwrap_or_default();
        let rest = buckets(level).unwrap_or_default();
        let ways = [
            (moved, first * 2, end.min(cursor) * 2, true),
            (rest, first.max(cursor), end, false),
        ];
        for (buckets, first, end, is_moved) in ways {
            let mut at = first;
            let mut goes_on = first < end;
            while goes_on {
                let Some(bucket) = buckets.get(at & buckets.len().wrapping_sub(1)) else {
                    break;
                };
                for entry in Bucket(bucket.load(Relaxed)).entries() {
                    if entry == 0 {
                        break;
                    }
                    let record_ref = RecordRef::of_entry(entry);
                    let is_here = hash_of(record_ref).is_some_and(|hash| {
                        part.has(hash) && (home(hash, shift(level)) < cursor) == is_moved
                    });
                    if is_here && !visit(record_ref) {
                        return false;
                    }
                }
                at += 1;
                // Entries of the last homes stand behind them, before any empty one.
                let is_behind = at < end + PROBE_BUCKETS && !has_room(bucket);
                goes_on = (at < end || is_behind) && at < first + buckets.len();
            }
        }
        true
    }

    /// Whether entries are on their way to the next level, or should be.
    pub fn is_growing(&self) -> bool {
        self.first_level.load(Relaxed) == GROWING
    }

    /// Bytes that the index holds.
    pub fn bytes(&self) -> usize {
        self.levels
            .iter()
            .map(|slot| slot.bytes())
            .fold(0, usize::wrapping_add)
    }

    /// Frees all, as [`Slot::retire`] does. No writer is left.
    pub fn clear(&self, payer: Option<M::Payer>) {
        for slot in &self.levels {
            slot.retire(payer);
        }
        self.set_level(0);
    }

    fn set_level(&self, level: u32) {
        self.level.store(level, Relaxed);
        self.first_level.store(level, Relaxed);
        self.shift.store(shift(level), Relaxed);
        self.cursor.store(0, Relaxed);
        self.is_stuck.store(false, Relaxed);
    }
}

fn has_room(bucket: &AtomicU64) -> bool {
    let [_, second] = Bucket(bucket.load(Relaxed)).entries();
    second == 0
}

/// Buckets of the next level that are known to be full: neighbours that move need not each
/// look at them again.
#[derive(Default)]
struct Full {
    start: usize,
    end: usize,
}

impl Full {
    /// The first bucket with room at `home` or behind it.
    fn vacancy<'a>(
        &mut self,
        buckets: &'a [AtomicU64],
        home: usize,
        hash: u64,
    ) -> Option<Vacancy<'a>> {
        if !(self.start..=self.end).contains(&home) {
            *self = Self {
                start: home,
                end: home,
            };
        }
        let limit = home.wrapping_add(PROBE_BUCKETS);
        loop {
            let at = self.end & buckets.len().wrapping_sub(1);
            let bucket = buckets.get(at).filter(|_| self.end < limit)?;
            if has_room(bucket) {
                return Some(Vacancy { bucket, hash });
            }
            self.end = self.end.wrapping_add(1);
        }
    }
}

/// Copies the entries whose home is `at` into the next level, all or, with `None`, none of
/// them in effect: after a failure the cursor stays, and the copies are found by no search.
fn move_home(
    [current, next]: [&[AtomicU64]; 2],
    at: u32,
    level: u32,
    full: &mut Full,
    hash_of: impl Fn(RecordRef) -> Option<u64>,
) -> Option<()> {
    for bucket in probe(current, at as usize) {
        for entry in Bucket(bucket.load(Relaxed)).entries() {
            if entry == 0 {
                return Some(());
            }
            let record_ref = RecordRef::of_entry(entry);
            let hash = hash_of(record_ref)?;
            if home(hash, shift(level)) == at as usize {
                let new_home = home(hash, shift(level + 1));
                full.vacancy(next, new_home, hash)?.occupy(record_ref);
            }
        }
    }
    Some(())
}

/// A bucket with room for an entry.
pub struct Vacancy<'a> {
    bucket: &'a AtomicU64,
    hash: u64,
}

impl Vacancy<'_> {
    /// Fills the bucket's first empty entry.
    pub fn occupy(self, RecordRef(record_ref): RecordRef) {
        let entry = u64::from(record_ref | self.hash as u32 & RecordRef::SPARE);
        let occupied = self.bucket.load(Relaxed);
        let is_second = occupied != 0;
        let entry = if is_second { entry << 32 } else { entry };
        self.bucket.store(occupied | entry, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::StdMemory;

    const MAX_NUMBER: u32 = 256;

    #[test]
    fn home_without_room_in_the_next_level_stays_and_is_found() {
        let index = Index::<StdMemory>::BLANK;
        index.allocate_late(0, ());
        let hash = |number: u32| u64::from(number) << 56;
        let number_at =
            |record_ref| (0..MAX_NUMBER).find(|number| RecordRef::of(*number) == record_ref);
        let hash_of = |record_ref| number_at(record_ref).map(hash);
        let insert = |number| {
            let vacancy = index.vacancy(hash(number), &()).expect("room");
            vacancy.occupy(RecordRef::of(number));
        };
        (0..100).for_each(insert);
        let len = buckets(0);
        assert!(index.prepare(len, 0, ()));
        let next = index.levels[1].slice(&());
        for entry in &next[15..600] {
            entry.store(u64::MAX, Relaxed);
        }
        for _ in 0..100 {
            index.grow(len, &(), hash_of);
        }
        assert!(index.is_growing() && index.is_stuck.load(Relaxed));
        for number in 0..100 {
            let found = index.find(hash(number), &(), number_at);
            assert_eq!(found, Some(number), "home {number}");
        }
        insert(3);
        insert(200);
        assert_eq!(index.find(hash(200), &(), number_at), Some(200));
    }
}
