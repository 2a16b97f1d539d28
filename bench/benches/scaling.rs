// SPDX-License-Identifier: GPL-2.0-or-later
//! Two CPUs count at once, each in its own flow table: a packet costs what it costs one
//! alone, as far as they have caches of their own.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trafstat_bench::{Counting, TRAFFIC, packets, sequence};

/// Few enough for the caches nearest to a CPU.
const FLOWS: u32 = 1_000;
const PACKETS: usize = 1 << 16;

fn scaling(c: &mut Criterion) {
    let mut group = c.benchmark_group("scaling");
    let known = packets(FLOWS);
    let [(_, uniform), _] = TRAFFIC;
    let sequence = sequence(&known, uniform, PACKETS);
    for cpus in [1, 2] {
        let counting = Counting::new([10, 0, 0, 0], 8, cpus);
        for cpu in 0..cpus {
            known
                .iter()
                .for_each(|packet| counting.count(cpu, packet, 1500));
        }
        // Packets of one CPU: were the way shared, it would be as long again with two.
        group.throughput(Throughput::Elements(PACKETS as u64));
        group.bench_function(BenchmarkId::new("cpus", cpus), |b| {
            b.iter_custom(|rounds| {
                let start = Barrier::new(cpus as usize);
                let slowest = thread::scope(|scope| {
                    let all: Vec<_> = (0..cpus)
                        .map(|cpu| {
                            let (counting, sequence, start) = (&counting, &sequence, &start);
                            scope.spawn(move || {
                                start.wait();
                                let begin = Instant::now();
                                for _ in 0..rounds {
                                    sequence
                                        .iter()
                                        .for_each(|packet| counting.count(cpu, packet, 1500));
                                }
                                begin.elapsed()
                            })
                        })
                        .collect();
                    all.into_iter()
                        .map(|one| one.join().expect("it counts"))
                        .max()
                });
                slowest.unwrap_or(Duration::ZERO)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, scaling);
criterion_main!(benches);
