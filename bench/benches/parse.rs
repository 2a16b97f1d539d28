// SPDX-License-Identifier: GPL-2.0-or-later
//! From the bytes of a packet to its tuple.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use trafstat_bench::packets;
use trafstat_core::parse::ipv4;

fn parse(c: &mut Criterion) {
    let packets = packets(1_000);
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(packets.len() as u64));
    group.bench_function("ipv4_tcp_and_udp", |b| {
        b.iter(|| {
            for packet in &packets {
                let _ = black_box(ipv4::parse(black_box(packet), 1500));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
