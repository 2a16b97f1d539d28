// SPDX-License-Identifier: GPL-2.0-or-later
//! What the benches have in common: flows, in fixed orders that look random.

use fastrand::Rng;
use trafstat_core::account::{Account, Identity, Limits, Timestamp};
use trafstat_core::hash::HashKey;
use trafstat_core::memory::StdMemory;
use trafstat_core::rule::Rule;
use trafstat_core::sampling::Sampling;
use trafstat_core::synthetic::{self, Flow, Ipv4Account, flows, header, rule};

/// How many flows a table has: in the fastest cache, in all caches, in none.
pub const FLOWS: [u32; 4] = [1, 1_000, 100_000, 4_000_000];

/// How flows' packets mix, by name.
pub const TRAFFIC: [(&str, Choice); 2] = [
    ("uniform", |random, n| random.u32(0..n)),
    ("zipf", |random, n| zipf(random, n.into()).min(n) - 1),
];

/// The benches' hash key.
pub const HASH_KEY: HashKey = HashKey([0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 3, 4, 5, 6]);

/// Random numbers, the same in each run.
pub fn random() -> Rng {
    Rng::with_seed(0x7261_6674)
}

/// A rank from 1 to `n`, of which each is as frequent as its inverse: Zipf's distribution.
pub fn zipf(random: &mut Rng, n: f64) -> u32 {
    (n + 1.0).powf(random.f64()) as u32
}

/// Chooses one of so many flows.
pub type Choice = fn(&mut Rng, u32) -> u32;

/// `len` times one of the flows that `known` has something of each of.
pub fn sequence<T: Copy>(known: &[T], choose: Choice, len: usize) -> Vec<T> {
    let mut random = random();
    let n = known.len() as u32;
    (0..len)
        .map(|_| known[choose(&mut random, n) as usize])
        .collect()
}

/// An account and a rule that tells all ports apart.
pub struct Counting {
    /// The account.
    pub account: Ipv4Account,
    rule: Rule<StdMemory>,
}

impl Counting {
    /// For the local net `local`/`prefix_len`, on CPUs 0 to `cpus` - 1.
    ///
    /// # Panics
    /// Without memory.
    pub fn new(local: [u8; 4], prefix_len: u8, cpus: u32) -> Self {
        let mut local_addr = [0; 16];
        local_addr[..4].copy_from_slice(&local);
        let identity = Identity {
            id: [7; 16],
            name: [b'a'; 32],
            local_addr,
            prefix_len,
        };
        let limits = Limits {
            max_entries: u32::MAX,
            min_pkt_spoof: 0,
        };
        let account = Account::new(
            identity,
            HASH_KEY.into(),
            limits,
            (),
            Timestamp::of_one_clock(1),
        );
        assert!(account.allocate(cpus, |_| true, &()), "memory");
        let rule = rule(Sampling::default(), ()).expect("memory");
        Self { account, rule }
    }

    /// Counts a packet of `len` layer-3 bytes as the kernel does; the worker runs as soon as
    /// it is asked for.
    #[inline]
    pub fn count(&self, cpu: u32, bytes: &[u8], len: u32) {
        if synthetic::count(&self.account, &self.rule, cpu, bytes, len) {
            assert!(self.account.prepare(&()), "memory");
        }
    }
}

/// First packets of `n` flows, in an order without locality.
pub fn packets(n: u32) -> Vec<[u8; 40]> {
    let mut flows: Vec<Flow> = flows(n).collect();
    random().shuffle(&mut flows);
    flows.iter().map(|flow| header(flow, true, false)).collect()
}
