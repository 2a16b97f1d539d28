// SPDX-License-Identifier: GPL-2.0-or-later
//! Merges what several CPUs counted for one flow into one record, once the epoch is closed.
//!
//! The hashes of all flows are cut into parts of equal width, by their uppermost bits, so
//! small that the flows of one part have room in a small hash table, the scratch. For each
//! part in turn every CPU's index yields its records of the part, which lie next to each other
//! there: the first record of a flow goes into the scratch, and those of other CPUs are
//! added to it. A part has at least as many records as there are CPUs, so the work is
//! proportional to the records, however many CPUs there are.
//!
//! ```text
//! hashes   0 ............................................................ 2^64
//! parts    |   0   |   1   |   2   |   3   |   4   |   5   |   6   |   7   |
//! CPU 0    r  r     r       r r      r        r      r r      r       r
//! CPU 1      r      r   r     r     r         r        r        r     r  r
//!                  '-------'
//!                   scratch: record of CPU 0, record of CPU 1
//! ```
//!
//! A record that was added to another is marked as moved in the same step, so the work can
//! be given up after any record and begun again: nothing is added twice.

use super::Environment;
use super::bank::Bank;
use crate::flow_table::FlowTable;
use crate::flow_table::chunks::RecordRef;
use crate::flow_table::index::HashPart;
use crate::flow_table::record::Record;
use crate::memory::{Allocation, Memory, Slot};
use crate::sync::{AtomicU64, Ordering::Relaxed};

/// Entries of the scratch for each CPU, and at least.
const SCRATCH_PER_CPU: u32 = 16;
const MIN_SCRATCH: u32 = if cfg!(loom) { 64 } else { 512 };
/// A part that is too full for the scratch is cut in two, and each half again; after so
/// many cuts its flows must have been chosen by the hash's key, and are compared one by one.
const MAX_CUTS: u32 = 16;

/// The work was given up and may be begun again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaveUp;

/// Where the records of one part are found by hash while they are merged.
pub struct Scratch<M: Memory> {
    /// Each entry has the CPU's id in its upper half and the record's [`RecordRef`] in its lower
    /// one; 0 is an empty one.
    entries: M::Slot<AtomicU64>,
}

impl<M: Memory> Scratch<M> {
    /// A scratch without memory.
    pub const fn new() -> Self {
        use crate::memory::Blank;
        Self {
            entries: Blank::BLANK,
        }
    }

    /// Allocates it for that many CPUs. Returns whether there was memory.
    pub fn allocate(&self, cpus: u32, payer: M::Payer) -> bool {
        let entries = cpus
            .saturating_mul(SCRATCH_PER_CPU)
            .clamp(MIN_SCRATCH, 1 << 20)
            .next_power_of_two();
        let how = Allocation::Sleeping { cpu: 0 };
        self.entries.fill(entries as usize, how, payer)
    }
}

/// Merges the records of a closed bank.
///
/// # Errors
/// [`GaveUp`] where the environment says so.
pub fn merge<M: Memory, const W: usize>(
    bank: &Bank<M, W>,
    scratch: &Scratch<M>,
    environment: &impl Environment,
    guard: &M::Guard,
) -> Result<(), GaveUp> {
    let filled = bank.tables(guard).filter(|table| !table.is_empty());
    if filled.clone().nth(1).is_some() {
        let records = filled.map(|table| u64::from(table.len())).sum();
        let entries = scratch.entries.slice(guard);
        // Half full on average at most.
        let part = HashPart::all().cut_to(records, entries.len() as u64 / 2);
        merge_parts(bank, entries, part, environment, guard)?;
    }
    let mut tables = bank.tables(guard);
    if let Some(first) = tables.next() {
        let last_records = tables.map(FlowTable::last).filter(|last| !last.is_moved());
        last_records.for_each(|last| first.last().take_from(last));
    }
    Ok(())
}

fn merge_parts<M: Memory, const W: usize>(
    bank: &Bank<M, W>,
    scratch: &[AtomicU64],
    first: HashPart,
    environment: &impl Environment,
    guard: &M::Guard,
) -> Result<(), GaveUp> {
    let mut next = Some(first);
    while let Some(part) = next {
        if !environment.go_on() {
            return Err(GaveUp);
        }
        scratch.iter().for_each(|entry| entry.store(0, Relaxed));
        let merged = if part.bits() < first.bits() + MAX_CUTS {
            merge_part(bank, scratch, part, guard)
        } else {
            compare_part(bank, part, guard);
            true
        };
        next = if merged {
            part.next(first.bits())
        } else {
            Some(part.first_half())
        };
    }
    Ok(())
}

/// Merges the records of one part; false where the scratch has no room for its flows.
fn merge_part<M: Memory, const W: usize>(
    bank: &Bank<M, W>,
    scratch: &[AtomicU64],
    part: HashPart,
    guard: &M::Guard,
) -> bool {
    // Never full, so that each search ends at an empty entry.
    let mut room = scratch.len() / 4 * 3;
    for (cpu, table) in bank.tables_by_cpu(guard) {
        let fits = table.each_record_of(part, guard, |record_ref, record| {
            let entry = u64::from(cpu) << 32 | u64::from(record_ref.0);
            match find(bank, scratch, record, guard) {
                Found::Flow(first) => first.take_from(record),
                Found::Vacancy(vacancy) if room > 0 => {
                    room -= 1;
                    vacancy.store(entry, Relaxed);
                }
                Found::Vacancy(_) | Found::Nothing => return false,
            }
            true
        });
        if !fits {
            return false;
        }
    }
    true
}

/// The outcome of a search in the scratch.
enum Found<'a, const W: usize> {
    /// Another CPU's record of the same flow.
    Flow(&'a Record<W>),
    /// No record of the flow yet.
    Vacancy(&'a AtomicU64),
    /// No room.
    Nothing,
}

fn find<'a, M: Memory, const W: usize>(
    bank: &'a Bank<M, W>,
    scratch: &'a [AtomicU64],
    record: &Record<W>,
    guard: &'a M::Guard,
) -> Found<'a, W> {
    let mask = scratch.len().wrapping_sub(1);
    // All hashes of a part have the same uppermost bits.
    let home = record.hash() as usize;
    for at in home..home.saturating_add(scratch.len()) {
        let Some(entry) = scratch.get(at & mask) else {
            return Found::Nothing;
        };
        let value = entry.load(Relaxed);
        if value == 0 {
            return Found::Vacancy(entry);
        }
        let (cpu, record_ref) = ((value >> 32) as u32, RecordRef(value as u32));
        let other = bank.table(cpu, guard).and_then(|t| t.at(record_ref, guard));
        if let Some(other) = other.filter(|other| is_same_flow(other, record)) {
            return Found::Flow(other);
        }
    }
    Found::Nothing
}

/// Whether two records are different ones of the same flow.
fn is_same_flow<const W: usize>(a: &Record<W>, b: &Record<W>) -> bool {
    a.hash() == b.hash() && a.key() == b.key() && !core::ptr::eq(a, b)
}

/// Merges the records of a part by a search in the tables of all CPUs before each one's.
fn compare_part<M: Memory, const W: usize>(bank: &Bank<M, W>, part: HashPart, guard: &M::Guard) {
    for (cpu, table) in bank.tables_by_cpu(guard) {
        table.each_record_of(part, guard, |_, record| {
            let before = bank
                .tables_by_cpu(guard)
                .take_while(|(other, _)| *other < cpu);
            let key = record.key();
            let first = before
                .map(|(_, table)| table)
                .find_map(|table| table.find(&key, record.hash(), guard));
            if let Some(first) = first {
                first.take_from(record);
            }
            true
        });
    }
}
