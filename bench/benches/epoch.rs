// SPDX-License-Identifier: GPL-2.0-or-later
//! What becomes of an epoch: its CPUs' flow tables are merged, and it is read as a snapshot
//! or as the original's CSV.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trafstat_bench::{Counting, packets};
use trafstat_core::csv::Csv;
use trafstat_core::snapshot::{Binary, Cursor, Format, read};
use trafstat_core::synthetic::close_alone;

/// Records that are read.
const RECORDS: u32 = 20_000;

/// As much as one read() of the collector takes.
const BUFFER: usize = 1 << 20;

/// Records that are merged, on however many CPUs.
const MERGED: u32 = 1 << 19;

/// An account that saw each flow on one CPU.
fn counted() -> Counting {
    let counting = Counting::new([10, 0, 0, 0], 8, 1);
    for packet in &packets(RECORDS) {
        counting.count(0, packet, 1500);
    }
    counting
}

/// An account with [`MERGED`] records, in which all CPUs have the same flows or each has its
/// own.
fn spread(cpus: u32, has_same: bool) -> Counting {
    let counting = Counting::new([10, 0, 0, 0], 8, cpus);
    let all = packets(if has_same { MERGED / cpus } else { MERGED });
    for (packet, number) in all.iter().zip(0..) {
        if has_same {
            (0..cpus).for_each(|cpu| counting.count(cpu, packet, 1500));
        } else {
            counting.count(number % cpus, packet, 1500);
        }
    }
    counting
}

fn merge(c: &mut Criterion) {
    let mut group = c.benchmark_group("epoch/merge");
    group.sample_size(10);
    group.throughput(Throughput::Elements(MERGED.into()));
    let cases = [("same_flows", true), ("own_flows", false)];
    for ((name, has_same), cpus) in cases
        .into_iter()
        .flat_map(|case| [4, 128].map(|n| (case, n)))
    {
        group.bench_function(BenchmarkId::new(name, cpus), |b| {
            b.iter_batched(
                || spread(cpus, has_same),
                |counting| {
                    close_alone(&counting.account);
                    counting
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let counting = counted();
    close_alone(&counting.account);
    let mut group = c.benchmark_group("epoch/encode");
    group.throughput(Throughput::Elements(RECORDS.into()));
    group.bench_function("binary", |b| b.iter(|| read_all(&counting, &Binary)));
    group.bench_function("csv", |b| b.iter(|| read_all(&counting, &Csv)));
    group.finish();
}

fn read_all(counting: &Counting, format: &impl Format<2>) -> u64 {
    let epoch = counting.account.closed(&()).expect("closed above");
    let mut buffer = vec![0; BUFFER];
    let mut cursor = Cursor::default();
    let mut offset = 0;
    loop {
        let Ok(filled) = read(&epoch, format, &mut cursor, offset, &mut buffer) else {
            continue;
        };
        if filled == 0 {
            return offset;
        }
        offset += filled as u64;
    }
}

criterion_group!(benches, merge, encode);
criterion_main!(benches);
