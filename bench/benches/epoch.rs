//! What becomes of an epoch: its CPUs' flow tables are merged, and it is read as a snapshot
//! or as the original's CSV.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trafstat_bench::{Counting, packets};
use trafstat_core::csv::Csv;
use trafstat_core::snapshot::{Binary, Cursor, Format, read};
use trafstat_core::synthetic::Alone;

/// Records of one CPU.
const RECORDS: u32 = 20_000;

/// As much as one read() of the collector takes.
const BUFFER: usize = 1 << 20;

/// An account that saw each of the flows on all CPUs.
fn counted(cpus: u32) -> Counting {
    let counting = Counting::new([10, 0, 0, 0], 8, cpus);
    for packet in &packets(RECORDS) {
        (0..cpus).for_each(|cpu| counting.count(cpu, packet, 1500));
    }
    counting
}

fn merge(c: &mut Criterion) {
    let mut group = c.benchmark_group("epoch/merge");
    group.sample_size(10);
    for cpus in [1, 4, 64] {
        group.throughput(Throughput::Elements((RECORDS * cpus).into()));
        group.bench_function(BenchmarkId::new("cpus", cpus), |b| {
            b.iter_batched(
                || counted(cpus),
                |counting| {
                    counting.account.close(2, &Alone, &());
                    counting
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let counting = counted(1);
    counting.account.close(2, &Alone, &());
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
        let filled = read(&epoch, format, &mut cursor, offset, &mut buffer);
        if filled == 0 {
            return offset;
        }
        offset += filled as u64;
    }
}

criterion_group!(benches, merge, encode);
criterion_main!(benches);
