// SPDX-License-Identifier: GPL-2.0-or-later
//! Snapshots as the kernel would serve them, and a folder that serves them.

// Every test program uses its own part of this.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use trafstat_abi::{RecordIpv4, SAMPLE_TCP_ANY, Sample, SnapshotHeader};
use zerocopy::{FromZeros, IntoBytes};

/// 2026-01-31T12:00:00Z in nanoseconds.
pub const NOON_NS: u64 = 1_769_860_800_000_000_000;

pub const HOUR_NS: u64 = 3_600_000_000_000;

/// A snapshot whose parts a test may set, before it becomes bytes.
#[derive(Clone)]
pub struct SnapshotBuilder {
    pub header: SnapshotHeader,
    pub records: Vec<RecordIpv4>,
    /// What a later version appended to the header and to each record.
    pub header_growth: Vec<u8>,
    pub record_growth: Vec<u8>,
}

impl SnapshotBuilder {
    /// A snapshot whose totals hold, of an account that also saw foreign traffic.
    pub fn new(name: &str, epoch: u64, records: Vec<RecordIpv4>) -> Self {
        let packets = records
            .iter()
            .map(|record| record.sent_packets + record.received_packets)
            .sum();
        let bytes = records
            .iter()
            .map(|record| record.sent_bytes + record.received_bytes)
            .sum();
        let mut account_id = [0xa5; 16];
        for (byte, character) in account_id.iter_mut().zip(name.bytes()) {
            *byte = character;
        }
        let mut header = SnapshotHeader {
            magic: *b"TRAFSTAT",
            version: 1,
            header_size: size_of::<SnapshotHeader>() as u16,
            record_size: size_of::<RecordIpv4>() as u16,
            family: 2,
            prefix_len: 24,
            account_id,
            epoch,
            records: records.len() as u64,
            opened_ns: NOON_NS + (epoch - 1) * HOUR_NS,
            closed_ns: NOON_NS + epoch * HOUR_NS,
            recorded_packets: packets,
            recorded_bytes: bytes,
            outside_packets: 3,
            outside_bytes: 180,
            skipped_packets: 2,
            skipped_bytes: 120,
            extrapolated_packets: 1,
            extrapolated_bytes: 60,
            seen_packets: packets + 4,
            seen_bytes: bytes + 240,
            max_entries: 1_000_000,
            local_addr: [192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            duration_ns: HOUR_NS,
            ..SnapshotHeader::new_zeroed()
        };
        for (character, byte) in header.name.iter_mut().zip(name.bytes()) {
            *character = byte as _;
        }
        Self {
            header,
            records,
            header_growth: Vec::new(),
            record_growth: Vec::new(),
        }
    }

    /// The snapshot of an account that samples other TCP at one in `rate`, with variances that
    /// a double holds.
    pub fn sampled(mut self, rate: u32) -> Self {
        let factor = u64::from(rate) * u64::from(rate - 1);
        self.header.sample[SAMPLE_TCP_ANY as usize] = Sample {
            packets: 5,
            packet_variance: [5 * factor, 0],
            byte_variance: [4096 * factor, 0],
            highest_rate: rate,
            reserved: 0,
        };
        self
    }

    /// The snapshot as a module from before 0.2.0 has it, or with a header of another size.
    pub fn with_header_size(mut self, size: u16) -> Self {
        self.header.header_size = size;
        self
    }

    /// The snapshot as it reads from the kernel.
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = self.header;
        header.header_size += self.header_growth.len() as u16;
        header.record_size += self.record_growth.len() as u16;
        let known = usize::from(self.header.header_size);
        let mut bytes = header.as_bytes()[..known].to_vec();
        bytes.extend(&self.header_growth);
        for record in &self.records {
            bytes.extend(record.as_bytes());
            bytes.extend(&self.record_growth);
        }
        bytes
    }
}

/// One flow's record; the numbers only make flows differ.
pub fn record(local: u8, remote: u8, protocol: u8, local_port: u16, packets: u64) -> RecordIpv4 {
    RecordIpv4 {
        local_ip: [192, 0, 2, local],
        remote_ip: [198, 51, 100, remote],
        local_port,
        remote_port: 0,
        protocol,
        flags: 0,
        reserved: 0,
        sent_packets: packets,
        received_packets: packets * 2,
        sent_bytes: packets * 100,
        received_bytes: packets * 1500,
        syn_packets: u64::from(protocol == 6),
    }
}

/// Two flows of the account `lan` in one epoch.
pub fn lan(epoch: u64) -> SnapshotBuilder {
    SnapshotBuilder::new(
        "lan",
        epoch,
        vec![record(1, 1, 6, 22, 10), record(2, 1, 17, 53, 20)],
    )
}

/// A folder laid out as `/proc/net/trafstat`, of ordinary files: what a collector
/// writes to a snapshot stands after it.
pub struct ProcFolder {
    folder: TempDir,
}

impl ProcFolder {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("snapshot/ipv4")).unwrap();
        fs::write(folder.path().join("accounts"), "family name epoch\n").unwrap();
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Serves these snapshots, one for each account.
    pub fn serve(&self, snapshots: &[(&str, &SnapshotBuilder)]) {
        let mut accounts = "family name epoch\n".to_owned();
        for (name, snapshot) in snapshots {
            accounts.push_str(&format!("ipv4 {name} {}\n", snapshot.header.epoch));
            self.replace(&self.snapshot_path(name), snapshot.bytes());
        }
        self.replace(&self.folder.path().join("accounts"), accounts);
    }

    /// In one step: a collector may be reading.
    fn replace(&self, path: &Path, content: impl AsRef<[u8]>) {
        let new = self.folder.path().join("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// What was written to the account's snapshot.
    pub fn commands(&self, name: &str, snapshot: &SnapshotBuilder) -> String {
        let bytes = fs::read(self.snapshot_path(name)).unwrap();
        let written = bytes.strip_prefix(&snapshot.bytes()[..]).unwrap();
        String::from_utf8(written.to_vec()).unwrap()
    }

    pub fn snapshot_path(&self, name: &str) -> PathBuf {
        self.folder.path().join("snapshot/ipv4").join(name)
    }
}
