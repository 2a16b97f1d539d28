//! One operation on a flow table: find the flow and count, or insert it. Beside it, the
//! standard library's map on the same keys.

use std::collections::HashMap;
use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trafstat_bench::shuffle;
use trafstat_core::classify::{Direction, Family, FlowKey, Ipv4, rest_word};
use trafstat_core::flow_table::{Budgets, FlowTable, Observation};
use trafstat_core::hash::HashKey;
use trafstat_core::memory::StdMemory;
use trafstat_core::synthetic::flows;
use trafstat_core::wire::Volume;

type Table = FlowTable<StdMemory, 2>;

const HASH_KEY: HashKey = HashKey([0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 3, 4, 5, 6]);

fn keys(n: u32) -> Vec<FlowKey<2>> {
    let keys = flows(n).map(|flow| {
        let rest = rest_word(flow.local_port, flow.remote_port, flow.protocol, 0);
        Ipv4::key(flow.local, flow.remote, rest)
    });
    shuffle(keys.collect())
}

fn budgets() -> Budgets<StdMemory> {
    let budgets = Budgets::new(());
    budgets.flows.set(u32::MAX);
    budgets
}

fn count(table: &Table, budgets: &Budgets<StdMemory>, key: FlowKey<2>) {
    let volume = Volume {
        packets: 1,
        bytes: 100,
    };
    let hash = HASH_KEY.hash(&key);
    let seen = Observation {
        key,
        hash,
        direction: Direction::Sent,
        volume,
        syn: false,
    };
    if table.count(&seen, budgets, &(), |key| (key, hash)) {
        table.prepare(0, ());
    }
}

fn hit(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow_table/hit");
    for n in [1, 1_000, 100_000] {
        let keys = keys(n);
        group.throughput(Throughput::Elements(keys.len() as u64));
        let (table, budgets) = (Table::default(), budgets());
        keys.iter().for_each(|key| count(&table, &budgets, *key));
        group.bench_function(BenchmarkId::new("trafstat", n), |b| {
            b.iter(|| {
                keys.iter()
                    .for_each(|key| count(&table, &budgets, black_box(*key)))
            });
        });
        let mut map: HashMap<[u64; 2], [u64; 5]> = keys.iter().map(|key| (key.0, [0; 5])).collect();
        group.bench_function(BenchmarkId::new("std_hash_map", n), |b| {
            b.iter(|| {
                for key in &keys {
                    let counters = map.entry(black_box(key.0)).or_default();
                    counters[0] += 1;
                    counters[2] += 100;
                }
            });
        });
    }
    group.finish();
}

fn insert(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow_table/insert");
    for n in [1_000, 100_000] {
        let keys = keys(n);
        group.throughput(Throughput::Elements(keys.len() as u64));
        group.bench_function(BenchmarkId::new("trafstat", n), |b| {
            b.iter_batched(
                || (Table::default(), budgets()),
                |(table, budgets)| {
                    keys.iter().for_each(|key| count(&table, &budgets, *key));
                    table
                },
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new("std_hash_map", n), |b| {
            b.iter_batched(
                HashMap::<[u64; 2], [u64; 5]>::new,
                |mut map| {
                    keys.iter()
                        .for_each(|key| map.entry(key.0).or_default()[0] += 1);
                    map
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, hit, insert);
criterion_main!(benches);
