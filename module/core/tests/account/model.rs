// SPDX-License-Identifier: GPL-2.0-or-later
//! An account against a `BTreeMap`: through growth, folding, epochs and several CPUs,
//! whether the worker keeps up or not.

use std::collections::BTreeMap;

use proptest::prelude::*;
use trafstat_core::account::{Limits, Timestamp};
use trafstat_core::memory::StdMemory;
use trafstat_core::rule::Rule;
use trafstat_core::sampling::{SampleClass, Sampling};
use trafstat_core::synthetic::{self, Flow, SingleThread, account, flows, header};

use crate::support::{Counts, Snapshot, read_all};

fn rule(sampling: Sampling) -> Rule<StdMemory> {
    synthetic::rule(sampling, ()).expect("memory")
}

#[derive(Clone, Debug)]
enum Step {
    Packet {
        cpu: u32,
        flow: Flow,
        sent: bool,
        syn: bool,
        len: u32,
    },
    Outside {
        cpu: u32,
        len: u32,
    },
    Worker,
    Epoch,
}

fn flow(hosts: u8, ports: u16) -> impl Strategy<Value = Flow> {
    let protocol = prop_oneof![Just(6), Just(17), Just(1)];
    (protocol, 0..hosts, 0..hosts, 0..ports, 0..ports).prop_map(
        |(protocol, local, remote, local_port, remote_port)| {
            let has_ports = protocol != 1;
            Flow {
                protocol,
                local: [10, 0, 0, local],
                remote: [192, 0, 2, remote],
                local_port: if has_ports { local_port } else { 0 },
                remote_port: if has_ports { remote_port } else { 0 },
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let packet = (
        0..3_u32,
        flow(4, 40),
        any::<bool>(),
        any::<bool>(),
        40..1500_u32,
    );
    prop_oneof![
        200 => packet.prop_map(|(cpu, flow, sent, syn, len)| Step::Packet {
            cpu, flow, sent, syn, len
        }),
        5 => (0..3_u32, 40..1500_u32).prop_map(|(cpu, len)| Step::Outside { cpu, len }),
        2 => Just(Step::Worker),
        1 => Just(Step::Epoch),
    ]
}

#[derive(Default)]
struct Model {
    flows: BTreeMap<Flow, Counts>,
    seen: [u64; 2],
    outside: [u64; 2],
}

impl Model {
    fn count(&mut self, flow: Flow, sent: bool, syn: bool, len: u32) {
        let counts = self.flows.entry(flow).or_default();
        let direction = usize::from(!sent);
        counts[direction] += 1;
        counts[2 + direction] += u64::from(len);
        counts[4] += u64::from(syn && flow.protocol == 6);
        self.seen[0] += 1;
        self.seen[1] += u64::from(len);
    }

    /// The sums by protocol and local address, which folding keeps.
    fn by_local<'a>(
        flows: impl Iterator<Item = (&'a Flow, &'a Counts)>,
    ) -> BTreeMap<(u8, [u8; 4]), Counts> {
        let mut sums = BTreeMap::<_, Counts>::new();
        for (flow, counts) in flows {
            let sum = sums.entry((flow.protocol, flow.local)).or_default();
            sum.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        }
        sums
    }
}

fn check(snapshot: &Snapshot, model: &Model) {
    snapshot.assert_conserved();
    let header = &snapshot.header;
    assert_eq!([header.seen_packets, header.seen_bytes], model.seen);
    assert_eq!(
        [header.outside_packets, header.outside_bytes],
        model.outside
    );
    let records = snapshot.by_flow();
    if header.folded_packets == 0 {
        let records: BTreeMap<_, _> = records
            .into_iter()
            .map(|((flow, _), n)| (flow, n))
            .collect();
        assert_eq!(records, model.flows);
        return;
    }
    // Some flows were folded. The others are exact or have lost packets to a fold record
    // of their protocol and local address; without a last record those sums are exact.
    for ((flow, flags), counts) in &records {
        if *flags == 0 {
            let whole = &model.flows[flow];
            assert!(
                counts.iter().zip(whole).all(|(n, whole)| n <= whole),
                "{flow:?}"
            );
        }
    }
    let last = Flow {
        protocol: 0,
        local: [0; 4],
        remote: [0; 4],
        local_port: 0,
        remote_port: 0,
    };
    if !records.contains_key(&(last, 1)) {
        let served = Model::by_local(records.iter().map(|((flow, _), counts)| (flow, counts)));
        assert_eq!(served, Model::by_local(model.flows.iter()));
    }
}

fn run(steps: Vec<Step>, max_entries: u32) {
    let account = account(
        Limits {
            max_entries,
            min_pkt_spoof: 0,
        },
        3,
    );
    let rule = rule(Sampling::default());
    let mut model = Model::default();
    for step in steps.into_iter().chain([Step::Epoch, Step::Epoch]) {
        match step {
            Step::Packet {
                cpu,
                flow,
                sent,
                syn,
                len,
            } => {
                let bytes = header(&flow, sent, syn);
                synthetic::count(&account, &rule, cpu, &bytes, len);
                model.count(flow, sent, syn, len);
            }
            Step::Outside { cpu, len } => {
                let mut bytes = [0; 40];
                bytes[0] = 0x45;
                synthetic::count(&account, &rule, cpu, &bytes, len);
                for totals in [&mut model.seen, &mut model.outside] {
                    totals[0] += 1;
                    totals[1] += u64::from(len);
                }
            }
            Step::Worker => assert!(account.prepare(&())),
            Step::Epoch => {
                let snapshot = Snapshot::close_and_read(&account);
                check(&snapshot, &model);
                account
                    .acknowledge(snapshot.header.epoch, &())
                    .expect("this epoch");
                model = Model::default();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

    #[test]
    fn epochs_equal_the_model(steps in proptest::collection::vec(step(), 1..3000)) {
        run(steps, 1_000_000);
    }

    #[test]
    fn what_finds_no_room_is_folded(
        steps in proptest::collection::vec(step(), 1..3000),
        max_entries in 1_u32..300,
    ) {
        run(steps, max_entries);
    }
}

#[test]
fn growth_loses_no_flow() {
    let account = account(
        Limits {
            max_entries: 1_000_000,
            min_pkt_spoof: 0,
        },
        2,
    );
    let rule = rule(Sampling::default());
    for round in 0..2_u32 {
        for (i, flow) in flows(200_000).enumerate() {
            let bytes = header(&flow, true, false);
            // A quarter of the flows is seen on both CPUs.
            let cpu = if i % 4 == 0 { round } else { 0 };
            if synthetic::count(&account, &rule, cpu, &bytes, 100) {
                assert!(account.prepare(&()));
            }
        }
    }
    let snapshot = Snapshot::close_and_read(&account);
    snapshot.assert_conserved();
    assert_eq!(snapshot.header.folded_packets, 0);
    let records = snapshot.by_flow();
    assert_eq!(records.len(), 200_000);
    for flow in flows(200_000) {
        assert_eq!(records[&(flow, 0)], [2, 0, 200, 0, 0], "{flow:?}");
    }
}

/// One packet each of so many flows, faster than the worker wakes up.
fn burst(packets: u32) -> Snapshot {
    let account = account(
        Limits {
            max_entries: 1_000_000,
            min_pkt_spoof: 0,
        },
        1,
    );
    let rule = rule(Sampling::default());
    for flow in flows(packets) {
        let bytes = header(&flow, false, false);
        synthetic::count(&account, &rule, 0, &bytes, 60);
    }
    let snapshot = Snapshot::close_and_read(&account);
    snapshot.assert_conserved();
    assert_eq!(snapshot.header.seen_packets, u64::from(packets));
    snapshot
}

#[test]
fn without_the_worker_flows_are_folded_and_none_is_lost() {
    assert!(burst(50_000).header.folded_packets > 0);
}

#[test]
fn burst_that_outruns_the_worker_is_recorded() {
    let snapshot = burst(3_000);
    assert_eq!(snapshot.header.folded_packets, 0);
    assert_eq!(snapshot.by_flow().len(), 3_000);
}

#[test]
fn an_epoch_is_served_again_until_acknowledged() {
    let account = account(
        Limits {
            max_entries: 1000,
            min_pkt_spoof: 0,
        },
        2,
    );
    let rule = rule(Sampling::default());
    let count = |n| {
        for flow in flows(n) {
            let bytes = header(&flow, true, true);
            synthetic::count(&account, &rule, n & 1, &bytes, 40);
        }
    };
    count(100);
    let close_at = |ns| account.close(Timestamp::of_one_clock(ns), &SingleThread, &());
    assert_eq!(close_at(5), Ok(1));
    let first = read_all(&account, 1000);
    count(101);
    assert_eq!(close_at(6), Ok(1), "the same epoch again");
    for step in [1, 7, 240, 241, 4096] {
        assert_eq!(read_all(&account, step), first, "by {step} bytes");
    }
    account
        .acknowledge(2, &())
        .expect_err("not the closed epoch");
    assert_eq!(read_all(&account, 999), first);
    account.acknowledge(1, &()).expect("the closed epoch");
    account.acknowledge(1, &()).expect_err("twice");
    assert!(account.closed(&()).is_none());
    assert!(!account.is_idle(&()), "101 packets are in the open epoch");
    let second = Snapshot::close_and_read(&account);
    assert_eq!((second.header.epoch, second.header.seen_packets), (2, 101));
    assert_eq!(second.header.opened_ns, 5, "epochs meet without a gap");
}

#[test]
fn sampled_packets_count_for_the_skipped_ones() {
    let account = account(
        Limits {
            max_entries: 1000,
            min_pkt_spoof: 0,
        },
        1,
    );
    let rule = rule(Sampling {
        tcp_syn: 0,
        tcp_any: 0,
        udp_any: 10,
    });
    let flow = flows(1).next().expect("one");
    assert_eq!(flow.protocol, 17);
    let bytes = header(&flow, true, false);
    for _ in 0..95 {
        synthetic::count(&account, &rule, 0, &bytes, 100);
    }
    let snapshot = Snapshot::close_and_read(&account);
    snapshot.assert_conserved();
    let header = snapshot.header;
    let sample = header.sample[SampleClass::UdpAny as usize];
    let taken = sample.packets;
    assert!((1..30).contains(&taken), "{taken} of 95, one in 10");
    assert_eq!(
        (header.seen_packets, header.skipped_packets),
        (95, 95 - taken)
    );
    assert_eq!(
        (header.recorded_packets, header.extrapolated_packets),
        (10 * taken, 9 * taken)
    );
    assert_eq!(header.recorded_bytes, 1000 * taken);
    assert_eq!(sample.packet_variance, [90 * taken, 0]);
    assert_eq!(sample.byte_variance, [90 * 100 * 100 * taken, 0]);
    assert_eq!(sample.highest_rate, 10);
}

#[test]
fn flows_below_min_pkt_spoof_keep_their_local_side() {
    let account = account(
        Limits {
            max_entries: 1000,
            min_pkt_spoof: 3,
        },
        2,
    );
    let rule = rule(Sampling::default());
    let flow = |remote, local_port| Flow {
        protocol: 6,
        local: [10, 0, 0, 1],
        remote: [192, 0, 2, remote],
        local_port,
        remote_port: 4000,
    };
    let count = |flow: Flow, n| {
        for cpu in (0..n).map(|i| i & 1) {
            synthetic::count(&account, &rule, cpu, &header(&flow, false, false), 40);
        }
    };
    count(flow(1, 80), 3);
    count(flow(2, 80), 2);
    count(flow(3, 80), 1);
    count(flow(3, 22), 2);
    let snapshot = Snapshot::close_and_read(&account);
    snapshot.assert_conserved();
    let aggregated = |local_port| Flow {
        remote: [0; 4],
        remote_port: 0,
        ..flow(0, local_port)
    };
    let expected = BTreeMap::from([
        ((flow(1, 80), 0), [0, 3, 0, 120, 0]),
        ((aggregated(80), 0), [0, 3, 0, 120, 0]),
        ((aggregated(22), 0), [0, 2, 0, 80, 0]),
    ]);
    assert_eq!(snapshot.by_flow(), expected);
}
