// SPDX-License-Identifier: GPL-2.0-or-later
//! What the engine counts of a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use trafstat_abi::{RecordIpv4, RecordIpv6, RuleInfo, SnapshotHeader};
use trafstat_capture::engine::{Engine, Rules, Tally};
use trafstat_capture::file::{CaptureError, CaptureFile};
use trafstat_rule::local_net::{Family, Ipv4, Ipv6};
use trafstat_rule::options::{self, RuleOption};
use zerocopy::FromBytes;

/// What makes a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    pub protocol: u8,
    pub local: IpAddr,
    pub remote: IpAddr,
    pub local_port: u16,
    pub remote_port: u16,
}

/// Sent and received packets, sent and received bytes, SYN packets.
pub type Counters = [u64; 5];

pub type Flows = BTreeMap<Flow, Counters>;

/// A capture after it was counted.
#[derive(Default)]
pub struct Counted {
    pub flows: Flows,
    pub headers: Vec<SnapshotHeader>,
    pub tally: Tally,
    /// Why it was not read to its end.
    pub error: Option<CaptureError>,
}

/// A rule with these options, by their names.
pub fn rule<F: Family>(given: &[(&str, &str)]) -> RuleInfo {
    let mut info = options::empty();
    for (name, value) in given {
        let option = RuleOption::find(name).unwrap();
        options::parse::<F>(&mut info, option, value, false, |_, _| None).unwrap();
    }
    options::complete::<F>(&mut info).unwrap();
    info
}

/// A rule that keeps all ports.
pub fn all_ports<F: Family>(local_net: &str) -> RuleInfo {
    rule::<F>(&[
        ("local-net", local_net),
        ("name", "captured"),
        ("local-tcp-ports", "all"),
        ("local-udp-ports", "all"),
        ("remote-tcp-ports", "all"),
        ("remote-udp-ports", "all"),
    ])
}

/// Counts a file with all ports and these local nets.
pub fn count_file(path: &Path, ipv4: &str, ipv6: &str) -> Counted {
    let (ipv4, ipv6) = (all_ports::<Ipv4>(ipv4), all_ports::<Ipv6>(ipv6));
    let rules = Rules {
        ipv4: Some(&ipv4),
        ipv6: Some(&ipv6),
    };
    count(File::open(path).unwrap(), rules, None)
}

/// Counts a capture.
pub fn count(stream: impl Read, rules: Rules<'_>, epoch: Option<Duration>) -> Counted {
    let mut file = match CaptureFile::open(stream) {
        Ok(file) => file,
        Err(error) => {
            return Counted {
                error: Some(error),
                ..Counted::default()
            };
        }
    };
    let mut counted = Counted::default();
    let mut engine = Engine::new(rules, epoch);
    counted.error = loop {
        match file.next_frame() {
            Ok(Some(frame)) => {
                if engine.is_past_epoch(&frame) {
                    engine.close(frame.time_ns.unwrap());
                    engine.count(&frame);
                    collect(&engine, &mut counted);
                } else {
                    engine.count(&frame);
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    engine.close_last();
    collect(&engine, &mut counted);
    counted.tally = *engine.tally();
    counted
}

fn collect(engine: &Engine, counted: &mut Counted) {
    for mut served in engine.closed() {
        let mut bytes = Vec::new();
        served.read_to_end(&mut bytes).unwrap();
        let (header, rest) = SnapshotHeader::read_from_prefix(&bytes).unwrap();
        let records = rest.chunks_exact(usize::from(header.record_size));
        assert_eq!(records.len() as u64, header.records);
        let mut sum = (0, 0);
        for record in records {
            let (flow, counters) = match u32::from(header.family) {
                trafstat_abi::FAMILY_IPV4 => ipv4(record),
                _ => ipv6(record),
            };
            let [sent, received, sent_bytes, received_bytes, _] = counters;
            sum = (sum.0 + sent + received, sum.1 + sent_bytes + received_bytes);
            let present = counted.flows.entry(flow).or_default();
            for (into, counter) in present.iter_mut().zip(counters) {
                *into += counter;
            }
        }
        assert_eq!(sum, (header.recorded_packets, header.recorded_bytes));
        assert_eq!(
            header.seen_packets + header.extrapolated_packets,
            header.recorded_packets + header.outside_packets + header.skipped_packets
        );
        assert_eq!(
            header.seen_bytes + header.extrapolated_bytes,
            header.recorded_bytes + header.outside_bytes + header.skipped_bytes
        );
        served.acknowledge(header.epoch).unwrap();
        counted.headers.push(header);
    }
}

fn ipv4(bytes: &[u8]) -> (Flow, Counters) {
    let record = RecordIpv4::read_from_bytes(bytes).unwrap();
    let flow = Flow {
        protocol: record.protocol,
        local: record.local_ip.into(),
        remote: record.remote_ip.into(),
        local_port: record.local_port,
        remote_port: record.remote_port,
    };
    let counters = [
        record.sent_packets,
        record.received_packets,
        record.sent_bytes,
        record.received_bytes,
        record.syn_packets,
    ];
    (flow, counters)
}

fn ipv6(bytes: &[u8]) -> (Flow, Counters) {
    let record = RecordIpv6::read_from_bytes(bytes).unwrap();
    let flow = Flow {
        protocol: record.protocol,
        local: record.local_ip.into(),
        remote: record.remote_ip.into(),
        local_port: record.local_port,
        remote_port: record.remote_port,
    };
    let counters = [
        record.sent_packets,
        record.received_packets,
        record.sent_bytes,
        record.received_bytes,
        record.syn_packets,
    ];
    (flow, counters)
}
