// SPDX-License-Identifier: GPL-2.0-or-later
//! The outcomes of the fast path.
//!
//! What the slow path needs is passed in registers and in tail position, so that the fast path
//! keeps nothing on the stack.

use crate::classify::Direction;
use crate::flow_table::FlowTable;
use crate::memory::Memory;

/// Bits of [`PackedPacket`]:
///
/// ```text
///  63        34   33      32      31                      0
/// +------------+-----+----------+-------------------------+
/// |      0     | SYN | RECEIVED | length in layer-3 bytes |
/// +------------+-----+----------+-------------------------+
/// ```
const RECEIVED: u64 = 1 << 32;
const SYN: u64 = 1 << 33;

/// What the fast path did with a packet.
pub enum FastPath<'a, M: Memory, const W: usize> {
    /// The packet is counted.
    Counted,
    /// The packet is eligible, but its flow's record, if there is one, is not the likeliest of
    /// its home bucket: [`Account::count_slow`](super::Account::count_slow) counts it.
    SlowPath(SlowPathPacket<'a, M, W>),
    /// The packet is not eligible and nothing was counted:
    /// [`Account::count`](super::Account::count) counts it.
    NotEligible,
}

/// A packet that is in the totals and in no record yet. Its key is the table's pending key.
pub struct SlowPathPacket<'a, M: Memory, const W: usize> {
    /// The flow table that the packet counts in.
    pub table: &'a FlowTable<M, W>,
    /// The packet's length, direction and SYN.
    pub packed: PackedPacket,
}

/// A packet's length, direction and SYN in one word.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct PackedPacket(u64);

impl PackedPacket {
    #[inline]
    pub(super) fn new(len: u32, direction: Direction, syn: bool) -> Self {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        Self(u64::from(len) | bit(direction == Direction::Received, RECEIVED) | bit(syn, SYN))
    }

    pub(super) fn len(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn direction(self) -> Direction {
        if self.0 & RECEIVED == 0 {
            Direction::Sent
        } else {
            Direction::Received
        }
    }

    pub(super) fn syn(self) -> bool {
        self.0 & SYN != 0
    }
}
