// SPDX-License-Identifier: GPL-2.0-or-later
//! The keyed hash of flows.
//!
//! Words are XORed with random key words and multiplied in pairs, upper half XORed onto
//! the lower one, and the result is multiplied once more: without that, addresses or ports
//! in sequence stay a sequence of a stride that the key chooses, and with one key in
//! twenty they crowd together. Whoever does not know the key cannot choose flows that
//! collide more often than random ones; whoever does meets the bounded probe.

use crate::classify::FlowKey;

/// 2^64 over the golden ratio, odd: spreads neighbouring numbers evenly.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Random words, drawn once for an account.
#[derive(Clone, Copy, Debug)]
pub struct HashKey(pub [u64; 6]);

/// Both halves of the product, one XORed onto the other.
#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

impl HashKey {
    /// Hashes a flow key of at most six words.
    #[inline]
    pub fn hash<const W: usize>(&self, FlowKey(words): &FlowKey<W>) -> u64 {
        const { assert!(W <= 6) };
        let pairs = words.chunks(2).zip(self.0.chunks_exact(2));
        let hash = pairs.fold(0, |hash, (words, keys)| match (words, keys) {
            ([a, b], [k, l]) => fold(hash ^ a ^ k, b ^ l),
            ([a], [k, l]) => fold(hash ^ a ^ k, *l),
            _ => hash,
        });
        hash.wrapping_mul(SPREAD)
    }
}
