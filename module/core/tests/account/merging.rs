// SPDX-License-Identifier: GPL-2.0-or-later
//! Records of several CPUs become one for each flow, however many CPUs there are and
//! however often the work is given up and begun again.

use std::cell::Cell;

use proptest::prelude::*;
use trafstat_core::account::{Environment, GaveUp, Limits, Timestamp};
use trafstat_core::sampling::Sampling;
use trafstat_core::synthetic::{Ipv4Account, account, count, flows, header, rule};

use crate::support::{Snapshot, read_all};

/// Gives up after so many turns.
struct Impatient {
    turns: Cell<u32>,
}

impl Environment for Impatient {
    fn wait_for_writers(&self) {}

    fn go_on(&self) -> bool {
        let left = self.turns.get();
        self.turns.set(left.saturating_sub(1));
        left != 0
    }
}

fn close(account: &Ipv4Account, turns: u32) -> Result<u64, GaveUp> {
    let turns = Cell::new(turns);
    account.close(Timestamp::of_one_clock(2), &Impatient { turns }, &())
}

/// An account in which each flow was seen on the CPUs that `is_on` says.
fn spread(
    cpus: u32,
    flow_count: u32,
    min_pkt_spoof: u32,
    is_on: impl Fn(u32, u32) -> bool,
) -> Ipv4Account {
    let limits = Limits {
        max_entries: u32::MAX,
        min_pkt_spoof,
    };
    let account = account(limits, cpus);
    let rule = rule(Sampling::default(), ()).expect("memory");
    for (flow, number) in flows(flow_count).zip(0..) {
        for cpu in (0..cpus).filter(|cpu| is_on(*cpu, number)) {
            let bytes = header(&flow, number % 3 == 0, false);
            for _ in 0..1 + cpu % 2 {
                if count(&account, &rule, cpu, &bytes, 100 + cpu) {
                    assert!(account.prepare(&()));
                }
            }
        }
    }
    account
}

fn check(account: &Ipv4Account, cpus: u32, flow_count: u32, is_on: impl Fn(u32, u32) -> bool) {
    let snapshot = Snapshot::close_and_read(account);
    snapshot.assert_conserved();
    let by_flow = snapshot.by_flow();
    let mut expected = 0;
    for (flow, number) in flows(flow_count).zip(0..) {
        let on: Vec<_> = (0..cpus).filter(|cpu| is_on(*cpu, number)).collect();
        let packets: u64 = on.iter().map(|cpu| u64::from(1 + cpu % 2)).sum();
        if packets == 0 {
            continue;
        }
        expected += 1;
        let [sent, received, ..] = by_flow[&(flow, 0)];
        assert_eq!(sent + received, packets, "flow {number} on {on:?}");
    }
    assert_eq!(by_flow.len(), expected);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of flows")]
fn all_cpus_have_the_same_flows() {
    for (cpus, flow_count) in [(2, 50_000), (5, 20_000), (128, 2_000), (300, 300)] {
        let account = spread(cpus, flow_count, 0, |_, _| true);
        check(&account, cpus, flow_count, |_, _| true);
    }
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of thousands of flows")]
fn each_cpu_has_flows_of_its_own() {
    for (cpus, flow_count) in [(2, 50_000), (128, 100_000)] {
        let is_on = |cpu, number| number % cpus == cpu;
        let account = spread(cpus, flow_count, 0, is_on);
        check(&account, cpus, flow_count, is_on);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..Default::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "thousands of flows")]
    fn flows_are_one_record_each_wherever_they_were_seen(
        cpus in 1_u32..40,
        flow_count in 1_u32..6000,
        seed: u64,
        share in 1_u64..5,
    ) {
        let is_on = |cpu: u32, number: u32| {
            let mixed = (u64::from(cpu) << 32 | u64::from(number)) ^ seed;
            mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 3 < share
        };
        let account = spread(cpus, flow_count, 0, is_on);
        check(&account, cpus, flow_count, is_on);
    }
}

#[test]
#[cfg_attr(miri, ignore = "thousands of flows")]
fn work_that_was_given_up_goes_on_to_the_same_bytes() {
    let is_on = |cpu: u32, number: u32| (number + cpu) % 3 != 0;
    for min_pkt_spoof in [0, 3] {
        let whole = spread(6, 9000, min_pkt_spoof, is_on);
        assert_eq!(close(&whole, u32::MAX), Ok(1));
        let expected = read_all(&whole, 4096);

        let interrupted = spread(6, 9000, min_pkt_spoof, is_on);
        let mut turns = 0;
        while close(&interrupted, turns) == Err(GaveUp) {
            assert!(
                interrupted.closed(&()).is_none(),
                "served before it is ready"
            );
            assert!(!interrupted.is_idle(&()));
            turns += 1;
        }
        assert!(turns > 10, "given up {turns} times");
        assert!(read_all(&interrupted, 4096) == expected, "other bytes");
        assert_eq!(interrupted.acknowledge(1, &()), Ok(()));
    }
}

#[test]
fn packets_count_in_the_next_epoch_while_the_closed_one_waits_to_be_merged() {
    let account = spread(3, 5000, 0, |_, _| true);
    let seen = account.stats(&()).totals.seen.packets;
    assert_eq!(close(&account, 1), Err(GaveUp));
    let rule = rule(Sampling::default(), ()).expect("memory");
    for flow in flows(10) {
        count(&account, &rule, 1, &header(&flow, true, false), 100);
    }
    assert_eq!(close(&account, u32::MAX), Ok(1));
    let snapshot = Snapshot::decode(&read_all(&account, 4096));
    snapshot.assert_conserved();
    assert_eq!(snapshot.header.seen_packets, seen);
    assert_eq!(account.acknowledge(1, &()), Ok(()));
    let next = Snapshot::close_and_read(&account);
    assert_eq!((next.header.epoch, next.header.seen_packets), (2, 10));
}
