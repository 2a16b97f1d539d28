// SPDX-License-Identifier: GPL-2.0-or-later
//! Snapshots, read and decoded.

use std::collections::BTreeMap;

use trafstat_abi::{RecordIpv4, SnapshotHeader};
use trafstat_core::memory::Memory;
use trafstat_core::snapshot::{self, Binary, Cursor};
use trafstat_core::synthetic::{Flow, Ipv4Account, close_alone};
use zerocopy::FromBytes;

/// Sent and received packets, sent and received bytes, SYN packets.
pub type Counts = [u64; 5];

#[derive(Debug)]
pub struct Snapshot {
    pub header: SnapshotHeader,
    pub records: Vec<RecordIpv4>,
}

impl Snapshot {
    pub fn close_and_read<M: Memory<Guard = ()>>(account: &Ipv4Account<M>) -> Self {
        close_alone(account);
        Self::decode(&read_all(account, 4096))
    }

    pub fn decode(bytes: &[u8]) -> Self {
        let (header, rest) = SnapshotHeader::read_from_prefix(bytes).expect("a header");
        assert_eq!(usize::from(header.header_size), size_of::<SnapshotHeader>());
        let records: Vec<_> = rest
            .chunks(usize::from(header.record_size))
            .map(|bytes| RecordIpv4::read_from_bytes(bytes).expect("a whole record"))
            .collect();
        assert_eq!(header.records, records.len() as u64);
        Self { header, records }
    }

    /// Every record once, by flow; FOLDED ones have a flow of their own.
    pub fn by_flow(&self) -> BTreeMap<(Flow, u8), Counts> {
        let mut flows = BTreeMap::new();
        for r in &self.records {
            let flow = Flow {
                protocol: r.protocol,
                local: r.local_ip,
                remote: r.remote_ip,
                local_port: r.local_port,
                remote_port: r.remote_port,
            };
            let counts = [
                r.sent_packets,
                r.received_packets,
                r.sent_bytes,
                r.received_bytes,
                r.syn_packets,
            ];
            assert_eq!(
                flows.insert((flow, r.flags), counts),
                None,
                "{flow:?} twice"
            );
        }
        flows
    }

    pub fn assert_conserved(&self) {
        let h = &self.header;
        let sum = |f: fn(&RecordIpv4) -> u64| self.records.iter().map(f).sum::<u64>();
        assert_eq!(
            h.recorded_packets,
            sum(|r| r.sent_packets + r.received_packets)
        );
        assert_eq!(h.recorded_bytes, sum(|r| r.sent_bytes + r.received_bytes));
        assert_eq!(
            h.seen_packets + h.extrapolated_packets,
            h.recorded_packets + h.outside_packets + h.skipped_packets
        );
        assert_eq!(
            h.seen_bytes + h.extrapolated_bytes,
            h.recorded_bytes + h.outside_bytes + h.skipped_bytes
        );
    }
}

/// The closed epoch, read by `step` bytes at a time.
pub fn read_all<M: Memory<Guard = ()>>(account: &Ipv4Account<M>, step: usize) -> Vec<u8> {
    let closed = account.closed(&()).expect("a closed epoch");
    let mut cursor = Cursor::default();
    let mut bytes = Vec::new();
    let mut buffer = vec![0; step];
    loop {
        let offset = bytes.len() as u64;
        let Ok(n) = snapshot::read(&closed, &Binary, &mut cursor, offset, &mut buffer) else {
            continue;
        };
        if n == 0 {
            return bytes;
        }
        bytes.extend_from_slice(&buffer[..n]);
    }
}
