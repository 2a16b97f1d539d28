// SPDX-License-Identifier: GPL-2.0-or-later
//! One flow's counters, in one cache line for IPv4.

use crate::classify::{Direction, FOLDED, FlowKey, rest_word};
use crate::memory::Blank;
use crate::sync::{AtomicU64, Ordering::Relaxed, zeros};
use crate::wire::Volume;

/// In the key's last word, above [`FOLDED`]: the record's counts were moved into another
/// CPU's record of the same key. Never leaves the kernel.
const MOVED: u64 = 1 << 47;

const _: () = assert!(FOLDED as u64 != MOVED >> 40);
#[cfg(not(loom))]
const _: () = assert!(size_of::<Record<2>>() == 64);

/// What was counted for one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounters {
    /// Sent, then received packets.
    pub packets: [u64; 2],
    /// Sent, then received layer-3 bytes.
    pub bytes: [u64; 2],
    /// TCP packets with SYN and without ACK, both ways.
    pub syn_packets: u64,
}

impl FlowCounters {
    /// Both directions together.
    pub fn volume(&self) -> Volume {
        let [sent_packets, received_packets] = self.packets;
        let [sent_bytes, received_bytes] = self.bytes;
        Volume {
            packets: sent_packets.wrapping_add(received_packets),
            bytes: sent_bytes.wrapping_add(received_bytes),
        }
    }
}

/// A flow's key and counters.
///
/// One CPU writes a record, any may read it meanwhile. A load, an addition and a store,
/// all relaxed, compile to the plain addition that one writer needs.
///
/// The key and the counters lie as in `struct xt_trafstat_record_*`, so that a snapshot's
/// record is the start of this one.
#[derive(Debug)]
#[repr(C, align(32))]
pub struct Record<const W: usize> {
    key: [AtomicU64; W],
    sent_packets: AtomicU64,
    received_packets: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    syn_packets: AtomicU64,
    hash: AtomicU64,
}

impl<const W: usize> Blank for Record<W> {
    const BLANK: Self = Self {
        key: zeros(),
        sent_packets: AtomicU64::new(0),
        received_packets: AtomicU64::new(0),
        sent_bytes: AtomicU64::new(0),
        received_bytes: AtomicU64::new(0),
        syn_packets: AtomicU64::new(0),
        hash: AtomicU64::new(0),
    };

    fn blank(&self) {
        self.set_key(&FlowKey([0; W]), 0);
        let Self {
            sent_packets,
            received_packets,
            sent_bytes,
            received_bytes,
            ..
        } = self;
        for counter in [sent_packets, received_packets, sent_bytes, received_bytes] {
            counter.blank();
        }
        self.syn_packets.blank();
    }
}

#[inline]
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

impl<const W: usize> Record<W> {
    /// The flow that the record counts.
    #[inline]
    pub fn key(&self) -> FlowKey<W> {
        FlowKey(core::array::from_fn(|word| {
            self.key.get(word).map_or(0, |w| w.load(Relaxed))
        }))
    }

    /// The key's hash under the account's random key.
    pub fn hash(&self) -> u64 {
        self.hash.load(Relaxed)
    }

    /// The counters as they are now.
    pub fn counters(&self) -> FlowCounters {
        FlowCounters {
            packets: [
                self.sent_packets.load(Relaxed),
                self.received_packets.load(Relaxed),
            ],
            bytes: [
                self.sent_bytes.load(Relaxed),
                self.received_bytes.load(Relaxed),
            ],
            syn_packets: self.syn_packets.load(Relaxed),
        }
    }

    /// Whether the counts were moved into another CPU's record.
    pub fn is_moved(&self) -> bool {
        self.key
            .last()
            .is_some_and(|word| word.load(Relaxed) & MOVED != 0)
    }

    #[inline]
    pub(super) fn has_key(&self, key: &FlowKey<W>) -> bool {
        let mut words = self.key.iter().zip(&key.0);
        words.all(|(a, b)| a.load(Relaxed) == *b)
    }

    pub(super) fn set_key(&self, key: &FlowKey<W>, hash: u64) {
        for (word, value) in self.key.iter().zip(&key.0) {
            word.store(*value, Relaxed);
        }
        self.hash.store(hash, Relaxed);
    }

    /// The record that takes what found no room elsewhere: its key has nothing but the
    /// FOLDED flag.
    #[expect(clippy::forget_non_drop, reason = "loom's atomics have destructors")]
    #[expect(clippy::declare_interior_mutable_const, reason = "each use is a copy")]
    pub(super) const LAST: Self = {
        let mut record = Self::BLANK;
        let rest = AtomicU64::new(rest_word(0, 0, 0, FOLDED));
        // Constants run no destructor.
        core::mem::forget(core::mem::replace(&mut record.key[W - 1], rest));
        record
    };

    pub(super) fn set_folded(&self) {
        if let Some(word) = self.key.last() {
            word.store(rest_word(0, 0, 0, FOLDED), Relaxed);
        }
    }

    /// Counts packets of one direction.
    #[inline]
    pub fn count(&self, direction: Direction, volume: Volume, syn: bool) {
        let (packets, bytes) = match direction {
            Direction::Sent => (&self.sent_packets, &self.sent_bytes),
            Direction::Received => (&self.received_packets, &self.received_bytes),
        };
        add(packets, volume.packets);
        add(bytes, volume.bytes);
        if syn {
            add(&self.syn_packets, volume.packets);
        }
    }

    /// Takes over what `other` counted and marks it as moved. Neither has a writer.
    pub fn take_from(&self, other: &Self) {
        let FlowCounters {
            packets,
            bytes,
            syn_packets,
        } = other.counters();
        let [sent_packets, received_packets] = packets;
        let [sent_bytes, received_bytes] = bytes;
        add(&self.sent_packets, sent_packets);
        add(&self.received_packets, received_packets);
        add(&self.sent_bytes, sent_bytes);
        add(&self.received_bytes, received_bytes);
        add(&self.syn_packets, syn_packets);
        if let Some(word) = other.key.last() {
            word.store(word.load(Relaxed) | MOVED, Relaxed);
        }
    }
}
