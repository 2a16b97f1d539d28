// SPDX-License-Identifier: GPL-2.0-or-later
//! What one CPU's rules saw in an epoch, by what became of it.

use super::record::add;
use crate::memory::Blank;
use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::wire::Volume;

/// Packets and bytes that one CPU writes and any may read.
#[derive(Debug, Default)]
pub struct VolumeCounter {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl VolumeCounter {
    /// Zero packets and bytes.
    #[expect(clippy::declare_interior_mutable_const, reason = "each use is a copy")]
    pub const BLANK: Self = Self {
        packets: AtomicU64::BLANK,
        bytes: AtomicU64::BLANK,
    };

    /// Adds to both.
    #[inline]
    pub fn add(&self, volume: Volume) {
        add(&self.packets, volume.packets);
        add(&self.bytes, volume.bytes);
    }

    /// Sets both to 0.
    pub fn clear(&self) {
        self.packets.blank();
        self.bytes.blank();
    }

    /// The counts as they are now.
    pub fn load(&self) -> Volume {
        Volume {
            packets: self.packets.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }
}

/// The totals of one flow table as its CPU counts them; see [`Totals`] for their meaning.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "named as in Totals")]
pub struct TotalsCounter {
    pub seen: VolumeCounter,
    pub extrapolated: VolumeCounter,
    pub outside: VolumeCounter,
    pub skipped: VolumeCounter,
    pub gso_extra: VolumeCounter,
    pub folded: VolumeCounter,
}

impl TotalsCounter {
    /// Nothing was seen.
    #[expect(clippy::declare_interior_mutable_const, reason = "each use is a copy")]
    pub(super) const BLANK: Self = Self {
        seen: VolumeCounter::BLANK,
        extrapolated: VolumeCounter::BLANK,
        outside: VolumeCounter::BLANK,
        skipped: VolumeCounter::BLANK,
        gso_extra: VolumeCounter::BLANK,
        folded: VolumeCounter::BLANK,
    };

    pub(super) fn clear(&self) {
        let Self {
            seen,
            extrapolated,
            outside,
            skipped,
            gso_extra,
            folded,
        } = self;
        for counter in [seen, extrapolated, outside, skipped, gso_extra, folded] {
            counter.clear();
        }
    }

    /// Adds a sum of other tables.
    pub fn add(&self, sum: &Totals) {
        self.seen.add(sum.seen);
        self.extrapolated.add(sum.extrapolated);
        self.outside.add(sum.outside);
        self.skipped.add(sum.skipped);
        self.gso_extra.add(sum.gso_extra);
        self.folded.add(sum.folded);
    }
}

/// The totals of one flow table or of many:
/// seen + extrapolated = recorded + outside + skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// What the rules saw, in wire packets.
    pub seen: Volume,
    /// What sampling's multiplication added.
    pub extrapolated: Volume,
    /// The sum over the records.
    pub recorded: Volume,
    /// Packets with neither side in the local net.
    pub outside: Volume,
    /// Packets left out by sampling.
    pub skipped: Volume,
    /// Wire packets less socket buffers.
    pub gso_extra: Volume,
    /// The part of `recorded` that was folded.
    pub folded: Volume,
    /// The part of `folded` that lost its local address too.
    pub unattributed: Volume,
}

impl Totals {
    /// Adds one table's totals, which know neither `recorded` nor `unattributed`.
    pub fn add(&mut self, totals: &TotalsCounter) {
        self.merge(&Self {
            seen: totals.seen.load(),
            extrapolated: totals.extrapolated.load(),
            recorded: Volume::default(),
            outside: totals.outside.load(),
            skipped: totals.skipped.load(),
            gso_extra: totals.gso_extra.load(),
            folded: totals.folded.load(),
            unattributed: Volume::default(),
        });
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        self.seen = self.seen.plus(other.seen);
        self.extrapolated = self.extrapolated.plus(other.extrapolated);
        self.recorded = self.recorded.plus(other.recorded);
        self.outside = self.outside.plus(other.outside);
        self.skipped = self.skipped.plus(other.skipped);
        self.gso_extra = self.gso_extra.plus(other.gso_extra);
        self.folded = self.folded.plus(other.folded);
        self.unattributed = self.unattributed.plus(other.unattributed);
    }

    /// Whether nothing that was seen is missing from the sum.
    pub fn is_conserved(&self) -> bool {
        self.seen.plus(self.extrapolated) == self.recorded.plus(self.outside).plus(self.skipped)
    }
}
