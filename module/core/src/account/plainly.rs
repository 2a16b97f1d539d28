//! What the shortest way of a packet leaves to another.
//!
//! Whoever goes on is called with all that there is to know in registers, and last, so that
//! the shortest way has nothing on the stack.

use crate::classify::Direction;
use crate::flow_table::FlowTable;
use crate::memory::Memory;

/// What became of a packet.
pub enum Plainly<'a, M: Memory, const W: usize> {
    /// It is counted.
    Counted,
    /// It is plain, and its flow's record, if there is one, is not the first that is found.
    Further(Further<'a, M, W>),
    /// It is not plain.
    Other,
}

/// A plain packet that was seen and is in no record yet; its key is the one that is under
/// way in the table.
pub struct Further<'a, M: Memory, const W: usize> {
    /// Where it counts.
    pub table: &'a FlowTable<M, W>,
    /// All else.
    pub rest: Rest,
}

/// A packet's length, direction and SYN in one word.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Rest(u64);

const RECEIVED: u64 = 1 << 32;
const SYN: u64 = 1 << 33;

impl Rest {
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
