// SPDX-License-Identifier: GPL-2.0-or-later
//! The whole way of a packet: parse, classify, flow table. Known flows and new ones, as the
//! kernel counts them; traffic uniform, of Zipf's distribution, and as it was recorded.

use std::fs::File;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use trafstat_bench::{Counting, FLOWS, TRAFFIC, packets, sequence};
use trafstat_capture::file::CaptureFile;
use trafstat_capture::link::{Network, network};
use trafstat_core::parse::HEADER_BYTES;

/// Packets in a row that are timed as one.
const PACKETS: usize = 1 << 20;

/// Packets of flows that are known.
fn hit(c: &mut Criterion) {
    for (traffic, choose) in TRAFFIC {
        let mut group = c.benchmark_group(format!("hot_path/hit/{traffic}"));
        group.sample_size(20);
        for n in FLOWS {
            let known = packets(n);
            let sequence = sequence(&known, choose, PACKETS);
            let counting = Counting::new([10, 0, 0, 0], 8, 1);
            known
                .iter()
                .for_each(|packet| counting.count(0, packet, 1500));
            group.throughput(Throughput::Elements(PACKETS as u64));
            group.bench_function(BenchmarkId::new("ipv4", n), |b| {
                b.iter(|| {
                    sequence
                        .iter()
                        .for_each(|packet| counting.count(0, black_box(packet), 1500));
                });
            });
        }
        group.finish();
    }
}

/// The first packets of flows.
fn miss(c: &mut Criterion) {
    let mut group = c.benchmark_group("hot_path/miss");
    group.sample_size(10);
    for n in FLOWS {
        let new = packets(n);
        group.throughput(Throughput::Elements(n.into()));
        group.bench_function(BenchmarkId::new("ipv4", n), |b| {
            b.iter_batched(
                || Counting::new([10, 0, 0, 0], 8, 1),
                |counting| {
                    new.iter()
                        .for_each(|packet| counting.count(0, packet, 1500));
                    counting
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// Every IPv4 packet of the recorded captures, in their order.
fn captures(c: &mut Criterion) {
    let Some(folder) = captures_folder() else {
        println!("hot_path/captures skipped: there are none; TRAFSTAT_CAPTURES names their folder");
        return;
    };
    let packets = recorded(&folder);
    let counting = Counting::new([0; 4], 0, 1);
    let count_all = || {
        for (bytes, len) in &packets {
            counting.count(0, black_box(bytes), *len);
        }
    };
    count_all();
    let mut group: BenchmarkGroup<'_, WallTime> = c.benchmark_group("hot_path/captures");
    group.throughput(Throughput::Elements(packets.len() as u64));
    group.bench_function("ipv4", |b| b.iter(count_all));
    group.finish();
}

fn captures_folder() -> Option<PathBuf> {
    let folder = std::env::var_os("TRAFSTAT_CAPTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures"),
        PathBuf::from,
    );
    folder.is_dir().then_some(folder)
}

/// What the module sees of each IPv4 packet, and its length in layer-3 bytes.
fn recorded(folder: &Path) -> Vec<(Vec<u8>, u32)> {
    let mut paths: Vec<_> = folder
        .read_dir()
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    let mut packets = Vec::new();
    for path in paths {
        let file = File::open(&path).expect("a file that can be read");
        // What is no capture is none of the traffic; of a broken one, what comes before.
        let Ok(mut capture) = CaptureFile::open(file) else {
            continue;
        };
        while let Ok(Some(frame)) = capture.next_frame() {
            let Some(link) = frame.link else { continue };
            if let Network::Ipv4(packet) = network(link, frame.bytes, frame.wire_len) {
                let seen = packet.bytes.len().min(HEADER_BYTES);
                packets.push((packet.bytes[..seen].to_vec(), packet.len));
            }
        }
    }
    packets
}

criterion_group!(benches, hit, miss, captures);
criterion_main!(benches);
