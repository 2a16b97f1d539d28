//! A closed epoch, as it is served to its reader.

use core::sync::atomic::Ordering::Relaxed;

use super::side::{Place, Side};
use super::{Identity, Limits};
use crate::flow_table::record::Record;
use crate::flow_table::totals::TotalsSum;
use crate::memory::Memory;

/// The epoch that waits to be acknowledged: nothing in it changes any more.
pub struct Closed<'a, M: Memory, const W: usize> {
    pub(super) identity: &'a Identity,
    pub(super) side: &'a Side<M, W>,
    pub(super) family: u8,
    pub(super) epoch: u64,
    pub(super) guard: &'a M::Guard,
}

impl<'a, M: Memory, const W: usize> Closed<'a, M, W> {
    /// The account.
    pub fn identity(&self) -> &'a Identity {
        self.identity
    }

    /// `NFPROTO_*`.
    pub fn family(&self) -> u8 {
        self.family
    }

    /// The epoch's number.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// When it was opened and closed, in nanoseconds since 1970.
    pub fn span_ns(&self) -> (u64, u64) {
        (
            self.side.opened_ns.load(Relaxed),
            self.side.closed_ns.load(Relaxed),
        )
    }

    /// The limits that were in force.
    pub fn limits(&self) -> Limits {
        self.side.limits()
    }

    /// The totals of all CPUs and records.
    pub fn totals(&self) -> TotalsSum {
        self.side.totals(self.guard)
    }

    /// Number of records.
    pub fn records(&self) -> u64 {
        self.side.records.load(Relaxed)
    }

    /// The record at `at`, or the next behind it; `at` is moved there.
    pub fn next(&self, at: &mut Place) -> Option<&'a Record<W>> {
        self.side.next(at, self.guard)
    }
}
