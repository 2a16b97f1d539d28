// SPDX-License-Identifier: GPL-2.0-or-later
//! One operation on a flow table, find the flow and count or insert it, beside what else
//! finds the same keys: see [`contenders`].

mod contenders;
mod leaked;

use std::hint::black_box;

use contenders::{Contender, Floor, HashBrown, RedBlackTree, StdHashMap, Trafstat};
use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use leaked::Leaked;
use trafstat_bench::{Choice, FLOWS, TRAFFIC, random, sequence};
use trafstat_core::classify::{Direction, Family, FlowKey, Ipv4, rest_word};
use trafstat_core::memory::StdMemory;
use trafstat_core::synthetic::flows;

/// Operations in a row that are timed as one: enough for a Zipf distribution to show, and
/// to leave the caches' contents to chance.
const OPERATIONS: usize = 1 << 20;

fn keys(n: u32) -> Vec<FlowKey<2>> {
    let mut keys: Vec<_> = flows(n)
        .map(|flow| {
            let rest = rest_word(flow.local_port, flow.remote_port, flow.protocol, 0);
            Ipv4::key(
                Ipv4::addresses(flow.local, flow.remote),
                Direction::Sent,
                rest,
            )
        })
        .collect();
    random().shuffle(&mut keys);
    keys
}

/// Counts packets of flows that are known, each once the one before is counted: between the
/// packets of a host lie thousands of instructions, so that the processor is never at work on
/// two of them.
fn hit(c: &mut Criterion) {
    for (traffic, choose) in TRAFFIC {
        let group = c.benchmark_group(format!("flow_table/hit/{traffic}"));
        hit_all::<true>(group, choose);
    }
}

/// Counts packets of flows that are known, as many at a time as the processor looks ahead for.
fn hit_overlapping(c: &mut Criterion) {
    for (traffic, choose) in TRAFFIC {
        let group = c.benchmark_group(format!("flow_table/hit_overlapping/{traffic}"));
        hit_all::<false>(group, choose);
    }
}

fn hit_all<const ONE_BY_ONE: bool>(mut group: BenchmarkGroup<'_, WallTime>, choose: Choice) {
    group.sample_size(20);
    group.throughput(Throughput::Elements(OPERATIONS as u64));
    for n in FLOWS {
        let known = keys(n);
        let sequence = sequence(&known, choose, OPERATIONS);
        hit_one::<Trafstat<Leaked>, ONE_BY_ONE>(&mut group, n, &known, &sequence);
        hit_one::<HashBrown, ONE_BY_ONE>(&mut group, n, &known, &sequence);
        hit_one::<StdHashMap, ONE_BY_ONE>(&mut group, n, &known, &sequence);
        hit_one::<RedBlackTree, ONE_BY_ONE>(&mut group, n, &known, &sequence);
        hit_one::<Floor, ONE_BY_ONE>(&mut group, n, &known, &sequence);
    }
    group.finish();
}

fn hit_one<C: Contender, const ONE_BY_ONE: bool>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    n: u32,
    known: &[FlowKey<2>],
    sequence: &[FlowKey<2>],
) {
    // Filled only once it is asked for: a filter may leave it out.
    let mut filled = None;
    group.bench_function(BenchmarkId::new(C::NAME, n), |b| {
        let contender = filled.get_or_insert_with(|| {
            let mut contender = C::new(n);
            count_all::<C, false>(&mut contender, known);
            contender
        });
        b.iter(|| count_all::<C, ONE_BY_ONE>(contender, sequence));
    });
}

fn count_all<C: Contender, const ONE_BY_ONE: bool>(contender: &mut C, keys: &[FlowKey<2>]) {
    // A zero that neither compiler nor processor knows as one.
    let zero = black_box(0);
    let mut found = 0;
    for FlowKey([first, second]) in keys {
        let awaited = if ONE_BY_ONE { found & zero } else { 0 };
        found = contender.count(black_box(&FlowKey([first ^ awaited, *second])));
    }
}

/// Counts the first packets of flows, from nothing.
fn insert(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow_table/insert");
    group.sample_size(10);
    for n in FLOWS.into_iter().filter(|&n| n > 1) {
        let new = keys(n);
        group.throughput(Throughput::Elements(n.into()));
        insert_all::<Trafstat<StdMemory>>(&mut group, n, &new);
        insert_all::<HashBrown>(&mut group, n, &new);
        insert_all::<StdHashMap>(&mut group, n, &new);
        insert_all::<RedBlackTree>(&mut group, n, &new);
    }
    group.finish();
}

fn insert_all<C: Contender>(group: &mut BenchmarkGroup<'_, WallTime>, n: u32, new: &[FlowKey<2>]) {
    group.bench_function(BenchmarkId::new(C::NAME, n), |b| {
        b.iter_batched(
            || C::new(0),
            |mut contender| {
                count_all::<C, false>(&mut contender, new);
                contender
            },
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, hit, hit_overlapping, insert);
criterion_main!(benches);
