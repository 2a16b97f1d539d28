// SPDX-License-Identifier: GPL-2.0-or-later
//! An epoch as it is served: closed to its reader, or still open to whoever looks.

use super::bank::{Bank, Next, RecordPosition};
use super::{Identity, Limits, Timestamp};
#[cfg(any(test, feature = "std", loom))]
use crate::flow_table::record::Record;
use crate::flow_table::samples::Sample;
use crate::flow_table::totals::Totals;
use crate::memory::Memory;
use crate::sampling::SampleClass;
use crate::sync::Ordering::Relaxed;

/// One epoch of an account. In a closed one nothing changes any more.
pub struct Epoch<'a, M: Memory, const W: usize> {
    pub(super) identity: &'a Identity,
    pub(super) bank: &'a Bank<M, W>,
    pub(super) family: u8,
    pub(super) number: u64,
    pub(super) is_open: bool,
    pub(super) guard: &'a M::Guard,
}

impl<'a, M: Memory, const W: usize> Epoch<'a, M, W> {
    /// The account.
    pub fn identity(&self) -> &'a Identity {
        self.identity
    }

    /// `NFPROTO_*`.
    pub fn family(&self) -> u8 {
        self.family
    }

    /// The epoch's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether packets still count in it.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// When it opened and when it closed; the latter is 0 while it is open.
    pub fn span(&self) -> (Timestamp, Timestamp) {
        self.bank.span()
    }

    /// The limits that were in force.
    pub fn limits(&self) -> Limits {
        self.bank.limits()
    }

    /// The totals of all CPUs; `recorded` is 0 while it is open.
    pub fn totals(&self) -> Totals {
        self.bank.totals(self.guard)
    }

    /// The samples of each class, over all CPUs.
    pub fn samples(&self) -> [Sample; SampleClass::COUNT] {
        self.bank.samples(self.guard)
    }

    /// Number of records, 0 while it is open.
    pub fn records(&self) -> u64 {
        self.bank.records.load(Relaxed)
    }

    /// All records, in the order in which they are served.
    #[cfg(any(test, feature = "std", loom))]
    pub fn iter(&self) -> impl Iterator<Item = &'a Record<W>> + '_ {
        let mut at = RecordPosition::default();
        core::iter::from_fn(move || {
            loop {
                match self.next(&mut at) {
                    Next::Record(record) => {
                        at.record = at.record.wrapping_add(1);
                        return Some(record);
                    }
                    Next::Yield => {}
                    Next::End => return None,
                }
            }
        })
    }

    /// The record at `at`, or the next behind it; `at` is moved there.
    pub fn next(&self, at: &mut RecordPosition) -> Next<'a, W> {
        self.bank.next(at, self.guard)
    }
}
