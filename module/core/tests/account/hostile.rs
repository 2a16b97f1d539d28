// SPDX-License-Identifier: GPL-2.0-or-later
//! Flows that are chosen to collide.

use trafstat_core::account::Limits;
use trafstat_core::classify::{Direction, FlowKey};
use trafstat_core::flow_table::index::PROBE;
use trafstat_core::flow_table::{Budgets, FlowTable, Observation};
use trafstat_core::hash::HashKey;
use trafstat_core::memory::{Blank, StdMemory};
use trafstat_core::sampling::Sampling;
use trafstat_core::synthetic::{Flow, Ipv4Account, account_on, header, packet, rule};
use trafstat_core::wire::Volume;

use crate::support::Snapshot;

const FLOWS: u64 = 20_000;

/// What whoever does not know the account's key can know.
const ANOTHER_KEY: HashKey = HashKey([0x0102_a8c0_0100_000a, 99, 0xfeed, 1, 2, 3]);

/// The numbers that splitmix64 draws from a seed.
fn random(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[derive(Debug, Default)]
struct Probes {
    sum: usize,
    longest: usize,
    folded: u64,
}

/// Counts a packet of each key, and how many index entries searching for it looks at.
fn probes<const W: usize>(key: &HashKey, keys: impl Iterator<Item = FlowKey<W>> + Clone) -> Probes {
    let table = FlowTable::<StdMemory, W>::BLANK;
    let budgets = Budgets::new(());
    budgets.flows.set(u32::MAX);
    budgets.folds.set(u32::MAX);
    for flow in keys.clone() {
        let seen = Observation {
            key: flow,
            hash: key.hash(&flow),
            direction: Direction::Sent,
            volume: Volume {
                packets: 1,
                bytes: 60,
            },
            syn: false,
        };
        let fold = |_| (FlowKey([0; W]), || key.hash(&FlowKey([0; W])));
        if table.count(&seen, &budgets, &(), fold) {
            assert!(table.prepare(0, ()));
        }
    }
    let mut probes = Probes {
        folded: table.totals.folded.load().packets,
        ..Probes::default()
    };
    for flow in keys {
        let looked_at = table.probe_len(key.hash(&flow), &());
        probes.sum += looked_at;
        probes.longest = probes.longest.max(looked_at);
    }
    probes
}

/// Flows in sequence, flows in which one bit at a time differs, and flows that all have
/// one hash under a key that the account does not have.
fn chosen<const W: usize>() -> Vec<(&'static str, Vec<FlowKey<W>>)> {
    let key = |words: &dyn Fn(usize) -> u64| FlowKey(core::array::from_fn(words));
    let base: [u64; 2] = [0x0a00_0001_c000_0201, 0x0000_0600_5000_1234];
    let with = |at: usize, value: u64| {
        key(&|word| base[word.min(1)].wrapping_add(if word == at { value } else { 0 }))
    };
    let grid = |i: u64| {
        key(&|word| match word {
            0 => base[0] ^ (i & 0xff) << 32 ^ (i >> 8 & 0xff),
            1 => base[1] ^ i >> 16,
            _ => base[1],
        })
    };
    let sparse = |i: u64| {
        // Three bits of the first words.
        let bits = [i % 27, i / 27 % 27, i / 729 % 28].map(|bit| 1_u64 << (bit * 2));
        key(&|word| match word {
            0 => base[0] ^ bits[0] ^ bits[1],
            1 => base[1] ^ bits[2],
            _ => base[1],
        })
    };
    let colliding = |i: u64| {
        let FlowKey(mut words) = with(1, i);
        words[0] = ANOTHER_KEY.0[0];
        FlowKey(words)
    };
    let distinct = |keys: Vec<FlowKey<W>>| {
        let mut words: Vec<_> = keys.into_iter().map(|FlowKey(words)| words).collect();
        words.sort_unstable();
        words.dedup();
        words.into_iter().map(FlowKey).collect()
    };
    vec![
        (
            "first word counts up",
            (0..FLOWS).map(|i| with(0, i)).collect(),
        ),
        (
            "addresses count up in network order",
            (0..FLOWS).map(|i| with(0, i.swap_bytes())).collect(),
        ),
        (
            "last words count up",
            (0..FLOWS).map(|i| with(1, i)).collect(),
        ),
        (
            "host numbers count up",
            (0..FLOWS).map(|i| with(0, i << 16)).collect(),
        ),
        (
            "ports count up on both sides",
            (0..FLOWS)
                .map(|i| with(1, i & 0xff | i >> 8 << 16))
                .collect(),
        ),
        ("a grid of addresses", (0..FLOWS).map(grid).collect()),
        ("single bits", distinct((0..FLOWS).map(sparse).collect())),
        (
            "one hash under another key",
            (0..FLOWS).map(colliding).collect(),
        ),
    ]
}

fn chosen_flows_probe_like_random_ones<const W: usize>() {
    for seed in 1..9 {
        let mut draw = random(seed);
        let key = HashKey(core::array::from_fn(|_| draw()));
        for (what, keys) in chosen::<W>() {
            let drawn: Vec<_> = keys
                .iter()
                .map(|_| FlowKey::<W>(core::array::from_fn(|_| draw())))
                .collect();
            let by_chance = probes(&key, drawn.into_iter());
            let by_choice = probes(&key, keys.into_iter());
            assert_eq!(by_choice.folded, 0, "{what}");
            assert!(
                by_choice.sum < by_chance.sum * 2 && by_choice.longest < by_chance.longest * 3,
                "seed {seed}, {W} words, {what}: {by_choice:?}, by chance {by_chance:?}"
            );
        }
    }
}

#[test]
fn chosen_ipv4_flows_probe_like_random_ones() {
    chosen_flows_probe_like_random_ones::<2>();
}

#[test]
fn chosen_ipv6_flows_probe_like_random_ones() {
    chosen_flows_probe_like_random_ones::<5>();
}

#[test]
fn flows_chosen_by_the_key_are_probed_within_bounds() {
    // Other flows grow the index meanwhile; those with one hash stay together in it.
    let key = ANOTHER_KEY;
    let colliding = (0..5000_u64).map(|i| FlowKey([key.0[0], i]));
    let others = (0..5000_u64).map(|i| FlowKey([i, i.wrapping_mul(0x9e37_79b9_7f4a_7c15)]));
    let probes = probes(&key, colliding.zip(others).flat_map(|(a, b)| [a, b]));
    assert_eq!(probes.longest, PROBE);
    assert!(
        (5000 - PROBE as u64..5100).contains(&probes.folded),
        "{probes:?}"
    );
}

#[test]
fn flows_chosen_by_the_key_are_folded_and_none_is_lost() {
    let flow = |remote_port| Flow {
        protocol: 17,
        local: [10, 0, 0, 1],
        remote: [192, 168, 2, 1],
        local_port: 53,
        remote_port,
    };
    // The first word of the key is that of the flows: their hash is 0, whatever the ports.
    let addresses = u64::from_ne_bytes([10, 0, 0, 1, 192, 168, 2, 1]);
    let key = HashKey([addresses, 0x1234_5678_9abc_def1, 3, 4, 5, 6]);
    let limits = Limits {
        max_entries: 1_000_000,
        min_pkt_spoof: 0,
    };
    let account: Ipv4Account = account_on(limits, key, (), 1, |_| true);
    let rule = rule(Sampling::default(), ()).expect("memory");
    for round in 0..2 {
        for remote_port in 1..5000 {
            let bytes = header(&flow(remote_port), false, false);
            let asked = account.count(&rule, 0, packet(&bytes, 60), &());
            if asked.expect("enough bytes") && round == 0 {
                assert!(account.prepare(&()));
            }
        }
    }
    let snapshot = Snapshot::close_and_read(&account);
    snapshot.assert_conserved();
    assert_eq!(snapshot.header.seen_packets, 2 * 4999);
    let records = snapshot.by_flow();
    // So many found an entry within the probe, the others are in the record of their
    // protocol and local address.
    assert_eq!(records.len(), PROBE + 1);
    let folded = Flow {
        remote: [0; 4],
        local_port: 0,
        remote_port: 0,
        ..flow(0)
    };
    let packets = 2 * (4999 - PROBE as u64);
    assert_eq!(records[&(folded, 1)], [0, packets, 0, 60 * packets, 0]);
}
