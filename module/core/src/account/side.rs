//! One of the two places that an account's epochs take turns in.

use super::{Limits, Surroundings};
use crate::classify::Family;
use crate::flow_table::record::Record;
use crate::flow_table::totals::{TotalsSum, VolumeCounter};
use crate::flow_table::{Budgets, FlowTable};
use crate::hash::HashKey;
use crate::memory::{Allocation, Memory, Slot};
use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::wire::Volume;

/// Fold records may be so many times fewer than flows.
const FOLD_SHARE: u32 = 16;
/// Records between two offers to let others run.
const RESCHEDULE_EVERY: u32 = 1024;

/// The flow tables of all CPUs for one epoch.
pub(super) struct Side<M: Memory, const W: usize> {
    /// By CPU id; ids without a CPU have an empty slot.
    pub tables: M::Slot<M::Slot<FlowTable<M, W>>>,
    /// Flows that lost their remote side to min-pkt-spoof.
    spoofed: M::Slot<FlowTable<M, W>>,
    pub budgets: Budgets<M>,
    max_entries: AtomicU32,
    min_pkt_spoof: AtomicU32,
    pub opened_ns: AtomicU64,
    pub closed_ns: AtomicU64,
    /// Records to be served, and their sum; known once closed.
    pub records: AtomicU64,
    recorded: VolumeCounter,
}

/// A record's place on a side: the table's number and the record's within.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Place {
    /// CPU id, or the number of CPU ids for spoofed flows.
    pub table: u32,
    /// Number within the table, whose last record comes behind all others.
    pub record: u32,
}

impl<M: Memory, const W: usize> Side<M, W> {
    /// A side without flow tables, whose memory `payer` pays for.
    pub fn new(payer: M::Payer) -> Self {
        Self {
            tables: Default::default(),
            spoofed: Default::default(),
            budgets: Budgets::new(payer),
            max_entries: Default::default(),
            min_pkt_spoof: Default::default(),
            opened_ns: Default::default(),
            closed_ns: Default::default(),
            records: Default::default(),
            recorded: Default::default(),
        }
    }

    /// Makes the side, which is empty, ready to count.
    pub fn open(&self, limits: Limits, now_ns: u64) {
        self.max_entries.store(limits.max_entries, Relaxed);
        self.min_pkt_spoof.store(limits.min_pkt_spoof, Relaxed);
        self.budgets.flows.set(limits.max_entries);
        self.budgets.folds.set(limits.max_entries / FOLD_SHARE);
        self.opened_ns.store(now_ns, Relaxed);
        self.closed_ns.store(0, Relaxed);
    }

    /// Merges what the CPUs counted. No writer is left.
    pub fn close<F: Family<W>>(
        &self,
        now_ns: u64,
        hash_key: &HashKey,
        around: &impl Surroundings,
        guard: &M::Guard,
    ) {
        self.closed_ns.store(now_ns, Relaxed);
        self.merge(around, guard);
        self.spoof::<F>(hash_key, around, guard);
        self.sum_up(around, guard);
    }

    /// Makes the side empty and frees its memory.
    pub fn clear(&self, guard: &M::Guard) {
        self.tables(guard).for_each(FlowTable::clear);
        if let Some([spoofed]) = self.spoofed.get(guard) {
            spoofed.clear();
        }
        self.records.store(0, Relaxed);
        self.recorded.clear();
    }

    pub fn limits(&self) -> Limits {
        Limits {
            max_entries: self.max_entries.load(Relaxed),
            min_pkt_spoof: self.min_pkt_spoof.load(Relaxed),
        }
    }

    /// The flow table of one CPU.
    #[inline]
    pub fn table<'a>(&'a self, cpu: u32, guard: &'a M::Guard) -> Option<&'a FlowTable<M, W>> {
        self.tables
            .get(guard)?
            .get(cpu as usize)?
            .get(guard)?
            .first()
    }

    /// The flow tables of all CPUs.
    pub fn tables<'a>(
        &'a self,
        guard: &'a M::Guard,
    ) -> impl Iterator<Item = &'a FlowTable<M, W>> + Clone {
        let tables = self.tables.get(guard).unwrap_or_default();
        tables.iter().filter_map(|table| table.get(guard)?.first())
    }

    /// The totals of all CPUs; `recorded` is 0 before the epoch is closed.
    pub fn totals(&self, guard: &M::Guard) -> TotalsSum {
        let mut sum = TotalsSum {
            recorded: self.recorded.load(),
            ..Default::default()
        };
        self.tables(guard).for_each(|table| sum.add(&table.totals));
        sum
    }

    /// The first record at `at` or behind it that is to be served; `at` is moved there.
    pub fn next<'a>(&'a self, at: &mut Place, guard: &'a M::Guard) -> Option<&'a Record<W>> {
        let cpus = self.tables.get(guard)?;
        while let Some(slot) = cpus.get(at.table as usize) {
            if let Some(record) = slot.get(guard).and_then(|table| served(table, at, guard)) {
                return Some(record);
            }
            *at = Place {
                table: at.table.wrapping_add(1),
                record: 0,
            };
        }
        let is_spoofed = at.table as usize == cpus.len();
        self.spoofed
            .get(guard)
            .filter(|_| is_spoofed)
            .and_then(|table| served(table, at, guard))
    }

    /// Moves what several CPUs counted for one flow into the first CPU's record.
    fn merge(&self, around: &impl Surroundings, guard: &M::Guard) {
        let filled = self.tables(guard).filter(|table| !table.is_empty());
        for (before, table) in filled.clone().enumerate() {
            for (record, number) in table.records(guard).zip(0_u32..) {
                if number % RESCHEDULE_EVERY == 0 {
                    around.reschedule();
                }
                let mut earlier = filled.clone().take(before);
                let target = earlier.find_map(|t| t.find(&record.key(), record.hash(), guard));
                if let Some(target) = target {
                    target.take_from(record);
                }
            }
        }
        let mut tables = self.tables(guard);
        if let Some(first) = tables.next() {
            tables.for_each(|table| first.last().take_from(table.last()));
        }
    }

    /// Takes the remote side from flows that received fewer packets than min-pkt-spoof.
    fn spoof<F: Family<W>>(
        &self,
        hash_key: &HashKey,
        around: &impl Surroundings,
        guard: &M::Guard,
    ) {
        let min_packets = u64::from(self.min_pkt_spoof.load(Relaxed));
        let payer = self.budgets.payer;
        let how = Allocation::Sleeping { cpu: 0 };
        if min_packets == 0 || !self.spoofed.fill(1, how, payer) {
            return;
        }
        let Some([spoofed]) = self.spoofed.get(guard) else {
            return;
        };
        for table in self.tables(guard) {
            for (record, number) in table.records(guard).zip(0_u32..) {
                if number % RESCHEDULE_EVERY == 0 {
                    around.reschedule();
                }
                let key = record.key();
                let local = F::local_side(key);
                let [_, received] = record.stats().packets;
                if record.is_moved() || key.is_folded() || key == local || received >= min_packets {
                    continue;
                }
                // A flow may have this key by itself, with remote address and port 0.
                let hash = hash_key.hash(&local);
                let present = self
                    .tables(guard)
                    .chain([spoofed])
                    .find_map(|table| table.find(&local, hash, guard));
                let target =
                    present.or_else(|| spoofed.insert_sleeping(&local, hash, payer, guard));
                if let Some(target) = target {
                    target.take_from(record);
                }
            }
        }
    }

    /// Counts the records to be served and their volume.
    fn sum_up(&self, around: &impl Surroundings, guard: &M::Guard) {
        let mut records = 0_u64;
        let mut volume = Volume::default();
        let mut at = Place::default();
        while let Some(record) = self.next(&mut at, guard) {
            if records % u64::from(RESCHEDULE_EVERY) == 0 {
                around.reschedule();
            }
            volume = volume.plus(record.stats().volume());
            records = records.wrapping_add(1);
            at.record = at.record.wrapping_add(1);
        }
        self.records.store(records, Relaxed);
        self.recorded.add(volume);
    }
}

fn served<'a, M: Memory, const W: usize>(
    table: &'a [FlowTable<M, W>],
    at: &mut Place,
    guard: &'a M::Guard,
) -> Option<&'a Record<W>> {
    let table = table.first()?;
    while let Some(record) = table.record(at.record, guard) {
        if !record.is_moved() {
            return Some(record);
        }
        at.record = at.record.wrapping_add(1);
    }
    let last = table.last();
    let is_served = at.record == table.len() && !last.is_moved();
    (is_served && last.stats().volume().packets != 0).then_some(last)
}
