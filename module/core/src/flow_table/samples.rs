// SPDX-License-Identifier: GPL-2.0-or-later
//! What sampling took, by class: from this come the standard errors of what it counted.

use crate::memory::Blank;
use crate::sampling::SampleClass;
use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::wire::Volume;

use super::record::add;

/// A sum of 128 bits, the lower half first. One CPU writes it; another may see one half of
/// an addition while the epoch is open.
#[derive(Debug)]
struct WideCounter([AtomicU64; 2]);

impl WideCounter {
    #[expect(clippy::declare_interior_mutable_const, reason = "each use is a copy")]
    const BLANK: Self = Self([AtomicU64::BLANK, AtomicU64::BLANK]);

    fn load(&self) -> u128 {
        let Self([low, high]) = self;
        u128::from(low.load(Relaxed)) | u128::from(high.load(Relaxed)) << 64
    }

    fn store(&self, value: u128) {
        let Self([low, high]) = self;
        low.store(value as u64, Relaxed);
        high.store((value >> 64) as u64, Relaxed);
    }
}

/// What one CPU's sampling of one class took.
#[derive(Debug)]
struct SampleCounter {
    packets: AtomicU64,
    packet_variance: WideCounter,
    byte_variance: WideCounter,
    highest_rate: AtomicU32,
}

impl SampleCounter {
    #[expect(clippy::declare_interior_mutable_const, reason = "each use is a copy")]
    const BLANK: Self = Self {
        packets: AtomicU64::BLANK,
        packet_variance: WideCounter::BLANK,
        byte_variance: WideCounter::BLANK,
        highest_rate: AtomicU32::new(0),
    };

    fn load(&self) -> Sample {
        Sample {
            packets: self.packets.load(Relaxed),
            packet_variance: self.packet_variance.load(),
            byte_variance: self.byte_variance.load(),
            highest_rate: self.highest_rate.load(Relaxed),
        }
    }
}

/// What sampling took of one class; see `struct xt_trafstat_sample`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Packets that were taken, before multiplication.
    pub packets: u64,
    /// The sum of N (N - 1) packets² over the buffers taken.
    pub packet_variance: u128,
    /// The sum of N (N - 1) bytes² over the buffers taken.
    pub byte_variance: u128,
    /// The largest N that a packet met; 0 where none met one.
    pub highest_rate: u32,
}

impl Sample {
    /// Adds what another CPU took.
    pub fn merge(&mut self, other: &Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.packet_variance = self.packet_variance.saturating_add(other.packet_variance);
        self.byte_variance = self.byte_variance.saturating_add(other.byte_variance);
        self.highest_rate = self.highest_rate.max(other.highest_rate);
    }
}

/// What one CPU's sampling took.
#[derive(Debug)]
pub struct Samples([SampleCounter; SampleClass::COUNT]);

impl Samples {
    /// Nothing was sampled.
    #[expect(clippy::declare_interior_mutable_const, reason = "each use is a copy")]
    pub(super) const BLANK: Self = Self([const { SampleCounter::BLANK }; SampleClass::COUNT]);

    /// Notes that a buffer met sampling of one in `rate`, and whether it was taken.
    pub fn add(&self, class: SampleClass, rate: u32, volume: Volume, is_taken: bool) {
        let Self(counters) = self;
        let Some(counter) = counters.get(class as usize) else {
            return;
        };
        if rate > counter.highest_rate.load(Relaxed) {
            counter.highest_rate.store(rate, Relaxed);
        }
        if !is_taken {
            return;
        }
        add(&counter.packets, volume.packets);
        let rate = u128::from(rate);
        let weight = rate * rate.saturating_sub(1);
        for (counter, value) in [
            (&counter.packet_variance, volume.packets),
            (&counter.byte_variance, volume.bytes),
        ] {
            let value = u128::from(value);
            let squared = value.saturating_mul(value).saturating_mul(weight);
            counter.store(counter.load().saturating_add(squared));
        }
    }

    /// What was taken of each class until now.
    pub fn load(&self) -> [Sample; SampleClass::COUNT] {
        let Self(counters) = self;
        core::array::from_fn(|class| {
            counters
                .get(class)
                .map(SampleCounter::load)
                .unwrap_or_default()
        })
    }

    pub(super) fn clear(&self) {
        let Self(counters) = self;
        for counter in counters {
            counter.packets.blank();
            counter.packet_variance.store(0);
            counter.byte_variance.store(0);
            counter.highest_rate.store(0, Relaxed);
        }
    }
}
