// SPDX-License-Identifier: GPL-2.0-or-later
//! The flows that one CPU has seen in one epoch, with their counters.
//!
//! One CPU writes, never two at once; others may read at any time. Records lie in
//! [`chunks`] that never move and are found through an [`index`] of small entries. Memory
//! is prepared by a worker ahead of need; where it lags, small chunks and levels of the
//! index are allocated on the spot, which does for some three thousand flows. Past that a
//! packet is folded: it counts in the record of its protocol and local address, and if
//! there is no room for that one, in the table's one [`last`](FlowTable::last) record. So
//! no packet is left out.

pub mod chunks;
pub mod index;
pub mod record;
pub mod samples;
pub mod totals;

use crate::classify::{Direction, FlowKey};
#[cfg(doc)]
use crate::memory::Slot;
use crate::memory::{Blank, Memory};
use crate::sync::{
    AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, zeros,
};
use crate::wire::Volume;

use chunks::{Chunks, MAX_RECORDS, RecordRef};
use index::{HashPart, Index};
use record::Record;
use samples::Samples;
use totals::TotalsCounter;

/// Records that a table takes from its account's budget at a time.
const BUDGET_STEP: u32 = 16;

/// How many records the CPUs' flow tables of one epoch may still take, in common.
#[derive(Debug, Default)]
pub struct Budget {
    left: AtomicU32,
}

impl Budget {
    /// Sets what may be taken.
    pub fn set(&self, records: u32) {
        self.left.store(records, Relaxed);
    }

    /// Takes up to [`BUDGET_STEP`] records.
    fn take(&self) -> u32 {
        let mut left = self.left.load(Relaxed);
        loop {
            let taken = left.min(BUDGET_STEP);
            if taken == 0 {
                return 0;
            }
            match self
                .left
                .compare_exchange_weak(left, left - taken, Relaxed, Relaxed)
            {
                Ok(_) => return taken,
                Err(current) => left = current,
            }
        }
    }
}

/// The budgets of an epoch: flows, and the records that flows are folded into.
pub struct Budgets<M: Memory> {
    /// Records of flows.
    pub flows: Budget,
    /// Fold records, in room of their own.
    pub folds: Budget,
    /// Who pays for all of them.
    pub payer: M::Payer,
}

impl<M: Memory> Budgets<M> {
    /// No record yet, at `payer`'s expense.
    pub fn new(payer: M::Payer) -> Self {
        Self {
            flows: Budget::default(),
            folds: Budget::default(),
            payer,
        }
    }
}

/// A flow and what a packet adds to it.
#[derive(Clone, Copy, Debug)]
pub struct Observation<const W: usize> {
    /// The flow.
    pub key: FlowKey<W>,
    /// The key's hash.
    pub hash: u64,
    /// Sent or received.
    pub direction: Direction,
    /// Packets and bytes.
    pub volume: Volume,
    /// TCP with SYN and without ACK.
    pub syn: bool,
}

/// The flow table of one CPU and one epoch.
pub struct FlowTable<M: Memory, const W: usize> {
    /// Packets and bytes of the rules, by what became of them.
    pub totals: TotalsCounter,
    /// The parity of the epochs that the table is for.
    parity: AtomicU32,
    /// Records that are complete, so that a reader may look at them.
    len: AtomicU32,
    /// The number of records from which the worker is to be called.
    watermark: AtomicU32,
    flow_credit: AtomicU32,
    fold_credit: AtomicU32,
    /// A hint: the reference to the record that was folded into last, checked before it is used.
    last_fold: AtomicU32,
    index: Index<M>,
    chunks: Chunks<M, W>,
    last: Record<W>,
    /// The key of the writer's packet, from the fast path to the slow path.
    pending_key: [AtomicU64; W],
    /// What sampling took.
    pub samples: Samples,
}

impl<M: Memory, const W: usize> Blank for FlowTable<M, W> {
    const BLANK: Self = Self {
        totals: TotalsCounter::BLANK,
        parity: AtomicU32::new(0),
        len: AtomicU32::new(0),
        watermark: AtomicU32::new(0),
        flow_credit: AtomicU32::new(0),
        fold_credit: AtomicU32::new(0),
        last_fold: AtomicU32::new(0),
        index: Index::BLANK,
        chunks: Chunks::BLANK,
        last: Record::LAST,
        pending_key: zeros(),
        samples: Samples::BLANK,
    };

    fn blank(&self) {
        self.clear(None);
    }
}

impl<M: Memory, const W: usize> FlowTable<M, W> {
    /// The parity of the epochs that the table is for.
    pub fn parity(&self) -> u32 {
        self.parity.load(Relaxed)
    }

    /// Sets the parity of the epochs that the table is for, before the first packet.
    pub fn set_parity(&self, parity: u32) {
        self.parity.store(parity, Relaxed);
    }

    /// Stores the key of the packet that the writer counts on the slow path.
    #[inline]
    pub fn set_pending_key(&self, key: &FlowKey<W>) {
        for (word, value) in self.pending_key.iter().zip(&key.0) {
            word.store(*value, Relaxed);
        }
    }

    /// The key of the packet that the writer counts on the slow path.
    pub fn pending_key(&self) -> FlowKey<W> {
        FlowKey(core::array::from_fn(|word| {
            self.pending_key.get(word).map_or(0, |w| w.load(Relaxed))
        }))
    }

    /// Counts a packet in its flow's record, folded where there is no room for it. `fold`
    /// makes the key of the record to fold into, and what makes its hash.
    ///
    /// Called by the one writer. Returns whether the worker should be called to prepare
    /// memory.
    #[inline]
    pub fn count<H: FnOnce() -> u64>(
        &self,
        seen: &Observation<W>,
        budgets: &Budgets<M>,
        guard: &M::Guard,
        fold: impl FnOnce(FlowKey<W>) -> (FlowKey<W>, H),
    ) -> bool {
        let Observation {
            key,
            hash,
            direction,
            volume,
            syn,
        } = *seen;
        if self.index.is_growing() {
            self.grow_index(self.len.load(Relaxed), guard);
        }
        if let Some(record) = self.find(&key, hash, guard) {
            record.count(direction, volume, syn);
            return false;
        }
        let flows = (&budgets.flows, &self.flow_credit);
        let record = self
            .insert(&key, hash, flows, budgets.payer, guard)
            .unwrap_or_else(|| {
                self.totals.folded.add(volume);
                let (key, hash) = fold(key);
                let last = RecordRef(self.last_fold.load(Relaxed));
                self.chunks
                    .get(last, guard)
                    .filter(|record| record.has_key(&key))
                    .unwrap_or_else(|| self.fold_record(&key, hash(), budgets, guard))
            });
        record.count(direction, volume, syn);
        self.len.load(Relaxed) >= self.watermark.load(Relaxed)
    }

    /// The record that flows are folded into under this key.
    #[inline(never)]
    fn fold_record<'a>(
        &'a self,
        key: &FlowKey<W>,
        hash: u64,
        budgets: &Budgets<M>,
        guard: &'a M::Guard,
    ) -> &'a Record<W> {
        // A key of protocol 0 and an address of zeros is the last record's own.
        if self.last.has_key(key) {
            return &self.last;
        }
        let found = self.index.find(hash, guard, |record_ref| {
            let record = self.chunks.get(record_ref, guard)?;
            record.has_key(key).then_some((record_ref, record))
        });
        let (record_ref, record) = found
            .or_else(|| {
                let folds = (&budgets.folds, &self.fold_credit);
                let record = self.insert(key, hash, folds, budgets.payer, guard)?;
                Some((RecordRef::of(self.len.load(Relaxed) - 1), record))
            })
            .unwrap_or((RecordRef(0), &self.last));
        self.last_fold.store(record_ref.0, Relaxed);
        record
    }

    /// The record of a flow where the first look finds it, as nearly always.
    // Its size would have user space call it.
    #[inline(always)]
    pub fn find_first<'a>(
        &'a self,
        key: &FlowKey<W>,
        hash: u64,
        guard: &'a M::Guard,
    ) -> Option<&'a Record<W>> {
        let record_ref = self.index.first(hash, guard)?;
        let record = self.chunks.get(record_ref, guard)?;
        record.has_key(key).then_some(record)
    }

    /// The record of a flow.
    #[inline]
    pub fn find<'a>(
        &'a self,
        key: &FlowKey<W>,
        hash: u64,
        guard: &'a M::Guard,
    ) -> Option<&'a Record<W>> {
        self.index.find(hash, guard, |record_ref| {
            self.chunks
                .get(record_ref, guard)
                .filter(|record| record.has_key(key))
        })
    }

    fn grow_index(&self, len: u32, guard: &M::Guard) {
        self.index.grow(len, guard, |record_ref| {
            self.chunks.get(record_ref, guard).map(Record::hash)
        });
    }

    #[inline]
    fn insert<'a>(
        &'a self,
        key: &FlowKey<W>,
        hash: u64,
        (budget, credit): (&Budget, &AtomicU32),
        payer: M::Payer,
        guard: &'a M::Guard,
    ) -> Option<&'a Record<W>> {
        let mut left = credit.load(Relaxed);
        if left == 0 {
            left = budget.take();
            credit.store(left, Relaxed);
        }
        let left = left.checked_sub(1)?;
        let record = self.insert_within_budget(key, hash, payer, guard)?;
        credit.store(left, Relaxed);
        Some(record)
    }

    #[inline(never)]
    fn insert_within_budget<'a>(
        &'a self,
        key: &FlowKey<W>,
        hash: u64,
        payer: M::Payer,
        guard: &'a M::Guard,
    ) -> Option<&'a Record<W>> {
        let len = self.len.load(Relaxed);
        if len >= MAX_RECORDS {
            return None;
        }
        self.index.allocate_late(len, payer);
        self.grow_index(len, guard);
        let record = self.chunks.get_or_allocate(len, payer, guard)?;
        let vacancy = self.index.vacancy(hash, guard)?;
        record.set_key(key, hash);
        vacancy.occupy(RecordRef::of(len));
        self.len.store(len + 1, Release);
        Some(record)
    }

    /// Inserts a flow outside the packet path, sleeping for memory; `None` without it.
    pub fn insert_sleeping<'a>(
        &'a self,
        key: &FlowKey<W>,
        hash: u64,
        payer: M::Payer,
        guard: &'a M::Guard,
    ) -> Option<&'a Record<W>> {
        if self.len() >= self.watermark.load(Relaxed) {
            self.prepare(0, payer);
        }
        let plenty = Budget::default();
        plenty.set(1);
        self.insert(key, hash, (&plenty, &AtomicU32::new(0)), payer, guard)
    }

    /// Allocates ahead what the table will need soon and frees what growth left behind;
    /// says whether there was memory. Called in process context, by one caller at a time,
    /// while the writer goes on.
    pub fn prepare(&self, cpu: u32, payer: M::Payer) -> bool {
        let len = self.len.load(Acquire);
        if len == 0 && self.totals.folded.load().packets == 0 {
            return true;
        }
        // Half as much again while the table is small and a burst soon outgrows it, an
        // eighth later; and called again half way there.
        let headroom = (len.min(1 << 16) / 2).max(len / 8) + 128;
        let wanted = len.saturating_add(headroom);
        let has_chunks = self.chunks.prepare(wanted, cpu, payer);
        let has_index = self.index.prepare(len, cpu, payer);
        if !(has_chunks && has_index) {
            // The table may never grow as far as the next watermark: ask again.
            self.watermark.store(len, Relaxed);
            return false;
        }
        let growth = self.index.next_growth();
        let half_way = len.saturating_add(headroom / 2);
        self.watermark.store(
            if growth > len {
                growth.min(half_way)
            } else {
                half_way
            },
            Relaxed,
        );
        true
    }

    /// How many index entries a search for this hash looks at where nothing matches.
    #[cfg(any(test, feature = "std"))]
    pub fn probe_len(&self, hash: u64, guard: &M::Guard) -> usize {
        self.index.probe_len(hash, guard)
    }

    /// Records, without the last one.
    pub fn len(&self) -> u32 {
        self.len.load(Acquire)
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All complete records, without the last one, in the order of their first packets.
    pub fn records<'a>(&'a self, guard: &'a M::Guard) -> impl Iterator<Item = &'a Record<W>> {
        self.chunks.iter(self.len(), guard)
    }

    /// The record with this number.
    pub fn record<'a>(&'a self, number: u32, guard: &'a M::Guard) -> Option<&'a Record<W>> {
        if number >= self.len() {
            None
        } else {
            self.chunks.get(RecordRef::of(number), guard)
        }
    }

    /// The record that a reference names.
    pub fn at<'a>(&'a self, record_ref: RecordRef, guard: &'a M::Guard) -> Option<&'a Record<W>> {
        self.chunks.get(record_ref, guard)
    }

    /// Calls `visit` with each record whose hash is in this part and that was not moved,
    /// until it says false; returns what it said last, or true. No writer is left.
    pub fn each_record_of(
        &self,
        part: HashPart,
        guard: &M::Guard,
        mut visit: impl FnMut(RecordRef, &Record<W>) -> bool,
    ) -> bool {
        let record = |record_ref| self.chunks.get(record_ref, guard);
        self.index.each_of(
            part,
            guard,
            |record_ref| record(record_ref).map(Record::hash),
            |record_ref| match record(record_ref) {
                Some(record) if !record.is_moved() => visit(record_ref, record),
                _ => true,
            },
        )
    }

    /// The record that takes what found no room elsewhere.
    pub fn last(&self) -> &Record<W> {
        &self.last
    }

    /// Makes the table empty and frees its memory, as [`Slot::retire`] does. No writer is
    /// left.
    pub fn clear(&self, payer: Option<M::Payer>) {
        self.len.store(0, Release);
        for number in [&self.watermark, &self.flow_credit, &self.fold_credit] {
            number.store(0, Relaxed);
        }
        self.totals.clear();
        self.samples.clear();
        self.index.clear(payer);
        self.chunks.clear(payer);
        self.last.blank();
        self.last.set_folded();
    }

    /// Bytes of the table with its index and records.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            .wrapping_add(self.index.bytes())
            .wrapping_add(self.chunks.bytes())
    }
}
