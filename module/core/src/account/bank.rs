// SPDX-License-Identifier: GPL-2.0-or-later
//! One of an account's two banks of flow tables, which its epochs use in turn.

use super::merge::{GaveUp, Scratch, merge};
use super::{Environment, Limits, Timestamp};
use crate::classify::{Family, FlowKey};
use crate::flow_table::record::Record;
use crate::flow_table::samples::Sample;
use crate::flow_table::totals::{Totals, VolumeCounter};
use crate::flow_table::{Budgets, FlowTable};
use crate::hash::HashKey;
use crate::memory::{Allocation, Blank, Memory, Slot};
use crate::sampling::SampleClass;
use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::wire::Volume;

/// Records that are looked at between two offers to let others run.
const STEPS: u32 = 1024;

/// The flow tables of all CPUs for one epoch.
pub(super) struct Bank<M: Memory, const W: usize> {
    /// By CPU id; ids without a CPU have an empty slot.
    pub tables: M::Slot<M::Slot<FlowTable<M, W>>>,
    /// Flows that lost their remote side to min-pkt-spoof.
    spoofed: M::Slot<FlowTable<M, W>>,
    pub budgets: Budgets<M>,
    max_entries: AtomicU32,
    min_pkt_spoof: AtomicU32,
    opened: Clocks,
    closed: Clocks,
    /// Records to be served, and their sum; known once closed.
    pub records: AtomicU64,
    recorded: VolumeCounter,
}

/// When something happened, by both clocks; 0 for never.
struct Clocks {
    wall_ns: AtomicU64,
    boot_ns: AtomicU64,
}

impl Clocks {
    const fn never() -> Self {
        Self {
            wall_ns: AtomicU64::new(0),
            boot_ns: AtomicU64::new(0),
        }
    }

    fn store(&self, Timestamp { wall_ns, boot_ns }: Timestamp) {
        self.wall_ns.store(wall_ns, Relaxed);
        self.boot_ns.store(boot_ns, Relaxed);
    }

    fn load(&self) -> Timestamp {
        Timestamp {
            wall_ns: self.wall_ns.load(Relaxed),
            boot_ns: self.boot_ns.load(Relaxed),
        }
    }
}

/// A reader's position among the records of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RecordPosition {
    /// The number of the flow table: a CPU id, or the number of CPU ids for spoofed flows.
    pub table: u32,
    /// The number of the record in the table; the table's last record follows all others.
    pub record: u32,
}

impl<M: Memory, const W: usize> Bank<M, W> {
    /// A bank without flow tables, whose memory `payer` pays for.
    pub fn new(payer: M::Payer) -> Self {
        Self {
            tables: Blank::BLANK,
            spoofed: Blank::BLANK,
            budgets: Budgets::new(payer),
            max_entries: Default::default(),
            min_pkt_spoof: Default::default(),
            opened: Clocks::never(),
            closed: Clocks::never(),
            records: Default::default(),
            recorded: Default::default(),
        }
    }

    /// Makes the bank, which is empty, ready to count. `folds` records may be taken for
    /// flows that find no room.
    pub fn open(&self, limits: Limits, folds: u32, now: Timestamp) {
        self.max_entries.store(limits.max_entries, Relaxed);
        self.min_pkt_spoof.store(limits.min_pkt_spoof, Relaxed);
        self.budgets.flows.set(limits.max_entries);
        self.budgets.folds.set(folds);
        self.opened.store(now);
        self.closed.store(Timestamp::default());
    }

    /// Notes that the epoch began at another time than that at which it was opened.
    pub fn begin_at(&self, now: Timestamp) {
        self.opened.store(now);
    }

    /// Notes when the epoch ended. No packet counts in it any more.
    pub fn end(&self, now: Timestamp) {
        self.closed.store(now);
    }

    /// Makes what the CPUs counted ready to be read. No writer is left.
    ///
    /// # Errors
    /// [`GaveUp`] where the environment says so; called again, it goes on to the same end.
    pub fn make_ready<F: Family<W>>(
        &self,
        hash_key: &HashKey,
        scratch: &Scratch<M>,
        environment: &impl Environment,
        guard: &M::Guard,
    ) -> Result<(), GaveUp> {
        merge(self, scratch, environment, guard)?;
        self.spoof::<F>(hash_key, environment, guard)?;
        self.sum_up(environment, guard)
    }

    /// Makes the bank empty and frees its memory.
    pub fn clear(&self, guard: &M::Guard) {
        let payer = Some(self.budgets.payer);
        self.tables(guard).for_each(|table| table.clear(payer));
        if let Some([spoofed]) = self.spoofed.get(guard) {
            spoofed.clear(payer);
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

    /// The flow tables in which something was recorded, each with its CPU's id.
    pub fn tables_by_cpu<'a>(
        &'a self,
        guard: &'a M::Guard,
    ) -> impl Iterator<Item = (u32, &'a FlowTable<M, W>)> {
        let tables = self.tables.get(guard).unwrap_or_default();
        let tables = (0..).zip(tables);
        tables
            .filter_map(|(cpu, table)| Some((cpu, table.get(guard)?.first()?)))
            .filter(|(_, table)| !table.is_empty())
    }

    /// When the epoch opened and when it closed.
    pub fn span(&self) -> (Timestamp, Timestamp) {
        (self.opened.load(), self.closed.load())
    }

    /// The totals of all CPUs; `recorded` is 0 before the epoch can be read.
    pub fn totals(&self, guard: &M::Guard) -> Totals {
        let mut sum = Totals {
            recorded: self.recorded.load(),
            ..Default::default()
        };
        for table in self.tables(guard) {
            sum.add(&table.totals);
            let last = table.last();
            if !last.is_moved() {
                sum.unattributed = sum.unattributed.plus(last.counters().volume());
            }
        }
        sum
    }

    /// The samples of each class, over all CPUs.
    pub fn samples(&self, guard: &M::Guard) -> [Sample; SampleClass::COUNT] {
        let mut sum = [Sample::default(); SampleClass::COUNT];
        for table in self.tables(guard) {
            let samples = table.samples.load();
            let pairs = sum.iter_mut().zip(&samples);
            pairs.for_each(|(sum, sample)| sum.merge(sample));
        }
        sum
    }

    /// The first record at `at` or behind it that is to be served; `at` is moved there.
    pub fn next<'a>(&'a self, at: &mut RecordPosition, guard: &'a M::Guard) -> Next<'a, W> {
        let Some(cpus) = self.tables.get(guard) else {
            return Next::End;
        };
        let mut steps = STEPS;
        while let Some(slot) = cpus.get(at.table as usize) {
            match served(slot.slice(guard), at, &mut steps, guard) {
                Next::End => {
                    *at = RecordPosition {
                        table: at.table.wrapping_add(1),
                        record: 0,
                    };
                }
                found => return found,
            }
        }
        if at.table as usize == cpus.len() {
            served(self.spoofed.slice(guard), at, &mut steps, guard)
        } else {
            Next::End
        }
    }

    /// Takes the remote side from flows that received fewer packets than min-pkt-spoof.
    fn spoof<F: Family<W>>(
        &self,
        hash_key: &HashKey,
        environment: &impl Environment,
        guard: &M::Guard,
    ) -> Result<(), GaveUp> {
        let min_packets = u64::from(self.min_pkt_spoof.load(Relaxed));
        let how = Allocation::Sleeping { cpu: 0 };
        if min_packets == 0 || !self.spoofed.fill(1, how, self.budgets.payer) {
            return Ok(());
        }
        let Some([spoofed]) = self.spoofed.get(guard) else {
            return Ok(());
        };
        // A flow may have such a key by itself, with remote address and port 0. These come
        // first, so that those without their remote side find them in one place.
        let mut has_memory = true;
        for takes_all in [false, true] {
            self.each_record(environment, guard, |record| {
                let key = record.key();
                let local = F::local_side(key);
                let [_, received] = record.counters().packets;
                let is_taken = key == local || takes_all && received < min_packets;
                if has_memory && is_taken && !key.is_folded() {
                    has_memory = self.spoof_record(spoofed, record, &local, hash_key, guard);
                }
            })?;
        }
        Ok(())
    }

    /// Adds a record to that of its local side; false without memory for it.
    fn spoof_record(
        &self,
        spoofed: &FlowTable<M, W>,
        record: &Record<W>,
        local: &FlowKey<W>,
        hash_key: &HashKey,
        guard: &M::Guard,
    ) -> bool {
        let hash = hash_key.hash(local);
        let payer = self.budgets.payer;
        let target = spoofed
            .find(local, hash, guard)
            .or_else(|| spoofed.insert_sleeping(local, hash, payer, guard));
        if let Some(target) = target {
            target.take_from(record);
        }
        target.is_some()
    }

    /// Calls `visit` with every record of the CPUs that was not moved.
    fn each_record(
        &self,
        environment: &impl Environment,
        guard: &M::Guard,
        mut visit: impl FnMut(&Record<W>),
    ) -> Result<(), GaveUp> {
        for table in self.tables(guard) {
            for (record, number) in table.records(guard).zip(0_u32..) {
                if number % STEPS == 0 && !environment.go_on() {
                    return Err(GaveUp);
                }
                if !record.is_moved() {
                    visit(record);
                }
            }
        }
        Ok(())
    }

    /// Counts the records to be served and their volume.
    fn sum_up(&self, environment: &impl Environment, guard: &M::Guard) -> Result<(), GaveUp> {
        let mut records = 0_u64;
        let mut volume = Volume::default();
        let mut at = RecordPosition::default();
        loop {
            match self.next(&mut at, guard) {
                Next::Record(record) => {
                    volume = volume.plus(record.counters().volume());
                    records = records.wrapping_add(1);
                    at.record = at.record.wrapping_add(1);
                    if records % u64::from(STEPS) != 0 {
                        continue;
                    }
                }
                Next::Yield => {}
                Next::End => break,
            }
            if !environment.go_on() {
                return Err(GaveUp);
            }
        }
        self.records.store(records, Relaxed);
        self.recorded.clear();
        self.recorded.add(volume);
        Ok(())
    }
}

/// The record at a position, or why there is none.
#[derive(Debug)]
pub enum Next<'a, const W: usize> {
    /// The record at the position.
    Record(&'a Record<W>),
    /// Nothing but moved records up to the position: the caller should yield before it goes on.
    Yield,
    /// No more records.
    End,
}

/// The first record of one table at `at` or behind it that is to be served, within `steps`.
fn served<'a, M: Memory, const W: usize>(
    table: &'a [FlowTable<M, W>],
    at: &mut RecordPosition,
    steps: &mut u32,
    guard: &'a M::Guard,
) -> Next<'a, W> {
    let Some(table) = table.first() else {
        return Next::End;
    };
    while let Some(record) = table.record(at.record, guard) {
        if !record.is_moved() {
            return Next::Record(record);
        }
        let Some(left) = steps.checked_sub(1) else {
            return Next::Yield;
        };
        *steps = left;
        at.record = at.record.wrapping_add(1);
    }
    let last = table.last();
    let is_served = at.record == table.len() && !last.is_moved();
    if is_served && last.counters().volume().packets != 0 {
        Next::Record(last)
    } else {
        Next::End
    }
}
