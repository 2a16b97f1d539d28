//! Finds a flow's record: open addressing over small entries, growing a little at each
//! insertion.
//!
//! An entry is the record's place in the chunks above the upper half of the flow's hash,
//! the tag; 0 is an empty one. Tags are spread evenly over the homes, and a flow's
//! entry stands at its home or less than [`PROBE`] entries behind. There are that many
//! entries past the last home, so nothing wraps around, and a power of two in all.
//!
//! Growth: once the index of twice the size has been allocated, each insertion moves the
//! entries of the next few homes there. Homes below the cursor are searched in the new
//! index, the others in the old one. Entries stay in the old index after they are moved,
//! so probing past them still works; their homes are never searched there again. What most
//! packets take, [`Index::first`], finds nothing meanwhile; each packet that has to look
//! further for that moves a few homes too, so it does not last. Whoever allocates the next
//! level late has it begin in the same way: flows that are all known insert nothing.

use super::chunks::Place;
use crate::memory::{Allocation, Memory, Slot};
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

/// An entry stands less than so many entries behind its home.
pub const PROBE: usize = if cfg!(loom) { 16 } else { 256 };

/// Entries of level 0, one page; each further level has twice as many.
const MIN_ENTRIES: u32 = if cfg!(loom) { 32 } else { 512 };
/// More than memory has room for; a power of two saves a comparison.
const LEVELS: usize = if cfg!(loom) { 4 } else { 32 };
/// A level that stays empty.
const GROWING: u32 = LEVELS as u32 - 1;
/// Homes moved at an insertion while the index grows: growth from 9/16 full ends before
/// the old index is 3/4 full, and from there before it is 7/8 full.
const MOVED_HOMES: u32 = 8;
/// The largest level that is asked for in the packet path: 32 KiB, beyond which contiguous
/// memory is hard to come by.
const MAX_ATOMIC_ENTRIES: u32 = 4096;

/// What [`Index::first`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// An entry with the tag.
    At(Place),
    /// No flow with such a hash.
    Absent,
    /// Not enough to tell.
    Unknown,
}

/// The index of one flow table, written by one CPU.
pub struct Index<M: Memory> {
    /// `levels[level]` is the one in use, `levels[level + 1]` the next while it grows.
    level: AtomicU32,
    /// `level`, or [`GROWING`] while it grows or is to begin.
    first_level: AtomicU32,
    /// Those of `level`.
    homes: AtomicU32,
    /// Homes below this one are in the next level.
    cursor: AtomicU32,
    /// The home at the cursor finds no room in the next level.
    is_stuck: AtomicBool,
    levels: [M::Slot<AtomicU64>; LEVELS],
}

impl<M: Memory> Default for Index<M> {
    fn default() -> Self {
        Self {
            level: AtomicU32::new(0),
            first_level: AtomicU32::new(0),
            homes: AtomicU32::new(homes(0)),
            cursor: AtomicU32::new(0),
            is_stuck: AtomicBool::new(false),
            levels: core::array::from_fn(|_| Default::default()),
        }
    }
}

#[inline]
fn entries(level: u32) -> u32 {
    MIN_ENTRIES.wrapping_shl(level)
}

#[inline]
fn homes(level: u32) -> u32 {
    entries(level).wrapping_sub(PROBE as u32)
}

#[inline]
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[inline]
fn home(tag: u32, homes: u32) -> u32 {
    ((u64::from(tag) * u64::from(homes)) >> 32) as u32
}

#[inline]
fn entry_tag(entry: u64) -> u32 {
    entry as u32
}

#[inline]
fn entry_place(entry: u64) -> Place {
    Place((entry >> 32) as u32)
}

impl<M: Memory> Index<M> {
    /// The level that has the home of a tag, and the home.
    #[inline]
    fn home<'a>(&'a self, tag: u32, guard: &'a M::Guard) -> Option<(&'a [AtomicU64], usize)> {
        let mut level = self.level.load(Relaxed);
        let mut at = home(tag, self.homes.load(Relaxed));
        if at < self.cursor.load(Relaxed) {
            level = level.wrapping_add(1);
            at = home(tag, homes(level));
        }
        let entries = self.levels.get(level as usize % LEVELS)?.slice(guard);
        Some((entries, at as usize))
    }

    /// How many entries a search for this hash looks at where nothing matches.
    #[cfg(any(test, feature = "std"))]
    pub fn probe_len(&self, hash: u64, guard: &M::Guard) -> usize {
        let Some((entries, home)) = self.home(tag(hash), guard) else {
            return 0;
        };
        let mut looked_at = 0;
        for entry in entries.iter().skip(home).take(PROBE) {
            looked_at += 1;
            if entry.load(Relaxed) == 0 {
                break;
            }
        }
        looked_at
    }

    /// The first entry with this hash's tag: nearly always the one that [`Index::find`] finds.
    #[inline]
    pub fn first(&self, hash: u64, guard: &M::Guard) -> First {
        let tag = tag(hash);
        let level = self.first_level.load(Relaxed) as usize % LEVELS;
        let entries = self.levels.get(level).map(|slot| slot.slice(guard));
        let entries = entries.unwrap_or_default();
        let home = home(tag, self.homes.load(Relaxed)) as usize;
        // All that a search may look at, with one check.
        let Some([entry, others @ ..]) = entries.get(home..home.wrapping_add(PROBE)) else {
            return First::Unknown;
        };
        let entry = entry.load(Relaxed);
        if entry_tag(entry) == tag {
            return First::At(entry_place(entry));
        }
        if entry == 0 {
            return First::Absent;
        }
        for entry in others {
            let entry = entry.load(Relaxed);
            if entry_tag(entry) == tag {
                return First::At(entry_place(entry));
            }
            if entry == 0 {
                return First::Absent;
            }
        }
        First::Unknown
    }

    /// The first place with this hash's tag for which `matches` returns something.
    #[inline]
    pub fn find<T>(
        &self,
        hash: u64,
        guard: &M::Guard,
        matches: impl Fn(Place) -> Option<T>,
    ) -> Option<T> {
        let tag = tag(hash);
        let (entries, home) = self.home(tag, guard)?;
        for entry in entries.get(home..)?.iter().take(PROBE) {
            let entry = entry.load(Relaxed);
            if entry == 0 {
                return None;
            }
            if entry_tag(entry) == tag {
                if let Some(found) = matches(entry_place(entry)) {
                    return Some(found);
                }
            }
        }
        None
    }

    /// An empty entry for this hash; `None` where the probe finds none.
    pub fn vacancy<'a>(&'a self, hash: u64, guard: &'a M::Guard) -> Option<Vacancy<'a>> {
        let tag = tag(hash);
        let (entries, home) = self.home(tag, guard)?;
        let entry = entries
            .get(home..)?
            .iter()
            .take(PROBE)
            .find(|entry| entry.load(Relaxed) == 0)?;
        Some(Vacancy { entry, tag })
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
        homes(level) / 16 * 9
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
                slot.retire();
            } else if at <= wanted {
                is_there &= slot.fill(entries(at) as usize, how, payer);
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
        if (len == 0 || len >= homes(level) / 4 * 3) && entries(late) <= MAX_ATOMIC_ENTRIES {
            if let Some(slot) = self.levels.get(late as usize) {
                slot.fill(entries(late) as usize, Allocation::Atomic, payer);
            }
        }
    }

    /// Moves the next few homes where the index is growing or should be. Called by the
    /// writer at an insertion and where [`Index::is_growing`], with the number of entries.
    pub fn grow(&self, len: u32, guard: &M::Guard) {
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
            if !move_home(current, next, at, level, &mut full) {
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
        if end == homes(level) {
            self.set_level(level + 1);
        } else {
            self.cursor.store(end, Relaxed);
        }
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

    /// Frees all. No writer is left.
    pub fn clear(&self) {
        for slot in &self.levels {
            slot.retire();
        }
        self.set_level(0);
    }

    fn set_level(&self, level: u32) {
        self.level.store(level, Relaxed);
        self.first_level.store(level, Relaxed);
        self.homes.store(homes(level), Relaxed);
        self.cursor.store(0, Relaxed);
        self.is_stuck.store(false, Relaxed);
    }
}

/// Entries of the next level that are known to be occupied: neighbours that move need not
/// each look at them again.
#[derive(Default)]
struct Full {
    start: usize,
    end: usize,
}

impl Full {
    /// The first empty entry at `home` or behind it.
    fn vacancy<'a>(&mut self, entries: &'a [AtomicU64], home: usize) -> Option<&'a AtomicU64> {
        if !(self.start..=self.end).contains(&home) {
            *self = Self {
                start: home,
                end: home,
            };
        }
        let limit = home.wrapping_add(PROBE);
        loop {
            let entry = entries.get(self.end).filter(|_| self.end < limit)?;
            if entry.load(Relaxed) == 0 {
                return Some(entry);
            }
            self.end = self.end.wrapping_add(1);
        }
    }
}

/// Copies the entries whose home is `at` into the next level, all or none of them in
/// effect: after a failure the cursor stays, and the copies are found by no search.
fn move_home(
    current: &[AtomicU64],
    next: &[AtomicU64],
    at: u32,
    level: u32,
    full: &mut Full,
) -> bool {
    let Some(from) = current.get(at as usize..) else {
        return false;
    };
    for entry in from.iter().take(PROBE) {
        let entry = entry.load(Relaxed);
        if entry == 0 {
            break;
        }
        let tag = entry_tag(entry);
        if home(tag, homes(level)) != at {
            continue;
        }
        match full.vacancy(next, home(tag, homes(level + 1)) as usize) {
            Some(vacant) => vacant.store(entry, Relaxed),
            None => return false,
        }
    }
    true
}

/// An empty entry, to be filled with a place.
pub struct Vacancy<'a> {
    entry: &'a AtomicU64,
    tag: u32,
}

impl Vacancy<'_> {
    /// Fills the entry.
    pub fn occupy(self, Place(place): Place) {
        self.entry
            .store(u64::from(place) << 32 | u64::from(self.tag), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::StdMemory;

    #[test]
    fn home_without_room_in_the_next_level_stays_and_is_found() {
        let index = Index::<StdMemory>::default();
        index.allocate_late(0, ());
        let hash = |number: u32| u64::from(number) << 56;
        let insert = |number| {
            let vacancy = index.vacancy(hash(number), &()).expect("room");
            vacancy.occupy(Place(number + 1));
        };
        (0..100).for_each(insert);
        let len = homes(0);
        assert!(index.prepare(len, 0, ()));
        let next = index.levels[1].slice(&());
        for entry in &next[15..600] {
            entry.store(u64::MAX, Relaxed);
        }
        for _ in 0..100 {
            index.grow(len, &());
        }
        assert!(index.is_growing() && index.is_stuck.load(Relaxed));
        for number in 0..100 {
            let found = index.find(hash(number), &(), Some);
            assert_eq!(found, Some(Place(number + 1)), "home {number}");
        }
        insert(3);
        insert(200);
        assert_eq!(index.find(hash(200), &(), Some), Some(Place(201)));
    }
}
