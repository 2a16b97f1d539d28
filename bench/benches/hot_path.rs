//! The whole way of a packet: parse, classify, flow table.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trafstat_bench::shuffled_packets;
use trafstat_core::account::Limits;
use trafstat_core::rule::Sampling;
use trafstat_core::synthetic::{account, packet, rule};

fn hot_path(c: &mut Criterion) {
    let mut group = c.benchmark_group("hot_path");
    let rule = rule(Sampling::default(), ()).expect("memory");
    for n in [1, 1_000, 100_000] {
        let account = account(
            Limits {
                max_entries: n * 2,
                min_pkt_spoof: 0,
            },
            1,
        );
        let packets = shuffled_packets(n);
        let count_all = || {
            for bytes in &packets {
                if account.count(&rule, 0, packet(black_box(bytes), 1500), &()) == Ok(true) {
                    assert!(account.prepare(&()));
                }
            }
        };
        count_all();
        group.throughput(Throughput::Elements(packets.len() as u64));
        group.bench_function(BenchmarkId::new("ipv4", n), |b| b.iter(count_all));
    }
    group.finish();
}

criterion_group!(benches, hot_path);
criterion_main!(benches);
