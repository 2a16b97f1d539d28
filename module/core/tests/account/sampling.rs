// SPDX-License-Identifier: GPL-2.0-or-later
//! Sampled figures are estimates without bias, with the standard errors that the snapshot
//! reports, whatever the traffic and the rules.

use trafstat_abi::SnapshotHeader;
use trafstat_core::account::{Keys, Limits};
use trafstat_core::hash::HashKey;
use trafstat_core::rule::Rule;
use trafstat_core::sampling::{SampleClass, Sampling, SamplingKey};
use trafstat_core::synthetic::{Flow, Ipv4Account, account_on, count, header, rule};
use zerocopy::IntoBytes;

use crate::support::Snapshot;

const RUNS: u64 = 200;
/// Expected samples of each class.
const SAMPLES: u32 = 1000;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// One packet: the number of the rule that sees it, and what it is.
struct Seen {
    rule: usize,
    class: SampleClass,
    sent: bool,
    bytes: u32,
}

/// What was counted or seen of one class: packets, bytes.
type Figures = [f64; 2];

fn flow(class: SampleClass) -> Flow {
    Flow {
        protocol: if class == SampleClass::UdpAny {
            UDP
        } else {
            TCP
        },
        local: [10, 0, 0, 1],
        remote: [192, 0, 2, 7],
        local_port: class as u16 + 1,
        remote_port: 9,
    }
}

fn account_of_run(run: u64) -> Ipv4Account {
    let limits = Limits {
        max_entries: 1000,
        min_pkt_spoof: 0,
    };
    let keys = Keys {
        hash: HashKey([1, 2, 3, 4, 5, 6]),
        sampling: SamplingKey([run.wrapping_mul(0x9e37_79b9_7f4a_7c15), run << 32 | 77]),
    };
    account_on(limits, keys, (), 1, |_| true)
}

/// The records' figures of a class and direction.
fn estimate(snapshot: &Snapshot, class: SampleClass, sent: bool) -> Figures {
    let records = snapshot.records.iter();
    let of_class = records.filter(|record| record.local_port == class as u16 + 1);
    of_class.fold([0.0, 0.0], |[packets, bytes], record| {
        let (more_packets, more_bytes) = if sent {
            (record.sent_packets, record.sent_bytes)
        } else {
            (record.received_packets, record.received_bytes)
        };
        [packets + more_packets as f64, bytes + more_bytes as f64]
    })
}

/// The variances that a snapshot reports for a class.
fn variances(header: &SnapshotHeader, class: SampleClass) -> Figures {
    let sample = &header.sample[class as usize];
    [sample.packet_variance, sample.byte_variance]
        .map(|[low, high]| low as f64 + high as f64 * 2_f64.powi(64))
}

/// Counts the same packets in many accounts of different keys; in each class and in both
/// directions the mean must be the truth, and the deviations as large as reported.
fn check(rates: &[Sampling], traffic: impl Fn() -> Vec<Seen>) {
    let rules: Vec<Rule<_>> = rates
        .iter()
        .map(|sampling| rule(*sampling, ()).expect("memory"))
        .collect();
    let packets = traffic();
    for class in [
        SampleClass::TcpSyn,
        SampleClass::TcpAny,
        SampleClass::UdpAny,
    ] {
        let of_class: Vec<_> = packets.iter().filter(|seen| seen.class == class).collect();
        if of_class.is_empty() {
            continue;
        }
        let truth = [true, false].map(|sent| {
            let seen = of_class.iter().filter(|seen| seen.sent == sent);
            seen.fold([0.0, 0.0], |[packets, bytes], seen| {
                [packets + 1.0, bytes + f64::from(seen.bytes)]
            })
        });
        let syn = class == SampleClass::TcpSyn;
        let headers = [false, true].map(|sent| header(&flow(class), sent, syn));
        // Of both directions: the sum of errors and of their squares, and of variances.
        let mut errors = [[0.0; 2]; 3];
        let mut squares = [[0.0; 2]; 3];
        let mut reported = [0.0; 2];
        for run in 0..RUNS {
            let account = account_of_run(run);
            for seen in &of_class {
                let bytes = &headers[usize::from(seen.sent)];
                count(&account, &rules[seen.rule], 0, bytes, seen.bytes);
            }
            let snapshot = Snapshot::close_and_read(&account);
            snapshot.assert_conserved();
            let [sent, received] = [true, false].map(|sent| estimate(&snapshot, class, sent));
            let variance = variances(&snapshot.header, class);
            for figure in 0..2 {
                let error = [
                    sent[figure] - truth[0][figure],
                    received[figure] - truth[1][figure],
                ];
                for (at, error) in [error[0], error[1], error[0] + error[1]]
                    .into_iter()
                    .enumerate()
                {
                    errors[at][figure] += error;
                    squares[at][figure] += error * error;
                }
                reported[figure] += variance[figure];
            }
        }
        let runs = RUNS as f64;
        for figure in 0..2 {
            let what = ["packets", "bytes"][figure];
            for at in 0..3 {
                let deviation = (squares[at][figure] / runs).sqrt();
                let mean = errors[at][figure] / runs;
                assert!(
                    mean.abs() <= 4.0 * deviation / runs.sqrt(),
                    "{class:?} {what} [{at}]: off by {mean} with a deviation of {deviation}"
                );
            }
            let deviation = (squares[2][figure] / runs).sqrt();
            let standard_error = (reported[figure] / runs).sqrt();
            assert!(
                (0.8..1.2).contains(&(deviation / standard_error)),
                "{class:?} {what}: deviates by {deviation}, {standard_error} reported"
            );
        }
    }
}

fn all_classes(rate: u32) -> Sampling {
    Sampling {
        tcp_syn: rate,
        tcp_any: rate,
        udp_any: rate,
    }
}

#[test]
fn unsampled_packets_have_no_error() {
    let account = account_of_run(1);
    let rule = rule(all_classes(1), ()).expect("memory");
    for _ in 0..100 {
        let bytes = header(&flow(SampleClass::UdpAny), true, false);
        count(&account, &rule, 0, &bytes, 100);
    }
    let snapshot = Snapshot::close_and_read(&account);
    assert_eq!(snapshot.header.recorded_packets, 100);
    let nothing = [trafstat_abi::Sample::default(); 3];
    assert_eq!(snapshot.header.sample.as_bytes(), nothing.as_bytes());
}

#[test]
#[cfg_attr(miri, ignore = "millions of packets")]
fn request_and_answer_on_one_cpu_are_each_estimated() {
    for rate in [2, 10, 100] {
        check(&[all_classes(rate)], || {
            let packets = (0..SAMPLES * rate).flat_map(|number| {
                let class = [SampleClass::TcpAny, SampleClass::UdpAny][number as usize & 1];
                [(true, 220), (false, 48)].map(|(sent, bytes)| Seen {
                    rule: 0,
                    class,
                    sent,
                    bytes,
                })
            });
            packets.collect()
        });
    }
}

#[test]
#[cfg_attr(miri, ignore = "millions of packets")]
fn one_in_a_thousand_is_estimated() {
    check(&[all_classes(1000)], || {
        let packets = (0..SAMPLES * 1000).map(|number| Seen {
            rule: 0,
            class: SampleClass::TcpAny,
            sent: number & 1 == 0,
            bytes: 40 + number % 1460,
        });
        packets.collect()
    });
}

#[test]
#[cfg_attr(miri, ignore = "millions of packets")]
fn rules_of_different_rates_in_one_account_do_not_disturb_each_other() {
    check(&[all_classes(2), all_classes(50)], || {
        let packets = (0..SAMPLES * 50).flat_map(|_| {
            [(0, true), (1, false)].map(|(rule, sent)| Seen {
                rule,
                class: SampleClass::UdpAny,
                sent,
                bytes: 48,
            })
        });
        packets.collect()
    });
}

#[test]
#[cfg_attr(miri, ignore = "millions of packets")]
fn bursts_in_step_with_the_rate_are_estimated() {
    const RATE: u32 = 20;
    check(&[all_classes(RATE)], || {
        let packets = (0..SAMPLES * RATE).map(|number| {
            let is_first = number % RATE == 0;
            Seen {
                rule: 0,
                class: if number % 3 == 0 {
                    SampleClass::TcpSyn
                } else {
                    SampleClass::TcpAny
                },
                sent: is_first,
                bytes: if is_first { 1500 } else { 40 },
            }
        });
        packets.collect()
    });
}

#[test]
fn same_key_epoch_and_packets_give_the_same_figures() {
    let once = || {
        let account = account_of_run(5);
        let rule = rule(all_classes(7), ()).expect("memory");
        for number in 0..1000 {
            let bytes = header(&flow(SampleClass::UdpAny), number % 2 == 0, false);
            count(&account, &rule, 0, &bytes, 100);
        }
        Snapshot::close_and_read(&account).by_flow()
    };
    assert_eq!(once(), once());
}
