// SPDX-License-Identifier: GPL-2.0-or-later
//! Recorded captures: flow by flow what tshark says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use crate::counted::{Flows, count_file};
use crate::files;
use crate::tshark::{self, ByDesign, Packets};

#[test]
fn recorded_captures_count_as_tshark_reads_them() {
    if !files::is_installed("tshark") {
        return;
    }
    let mut by_design = BTreeMap::new();
    for path in files::recorded("") {
        check(&path, &mut by_design);
    }
    println!("differences by design: {by_design:?}");
}

/// Compares a file flow by flow, for every address as the local side, and for the one
/// that most packets have.
pub fn check(path: &Path, by_design: &mut BTreeMap<ByDesign, u64>) {
    let packets = tshark::packets(path);
    for (reason, count) in &packets.by_design {
        *by_design.entry(*reason).or_default() += count;
    }
    let (ipv4, ipv6) = (
        busiest(&packets, IpAddr::is_ipv4).unwrap_or("192.0.2.1".parse().unwrap()),
        busiest(&packets, IpAddr::is_ipv6).unwrap_or("2001:db8::1".parse().unwrap()),
    );
    let everything = count_file(path, "0.0.0.0/0", "::/0");
    assert!(
        everything.error.is_none(),
        "{}: {:?}",
        path.display(),
        everything.error
    );
    let compare = |counted: &Flows, expected: &Flows| {
        compare(
            path,
            &packets.comparable(counted),
            &packets.comparable(expected),
        );
    };
    compare(&everything.flows, &packets.flows(|_| true));
    let host = count_file(path, &ipv4.to_string(), &ipv6.to_string());
    let is_local = |ip| ip == ipv4 || ip == ipv6;
    compare(&host.flows, &packets.flows(is_local));
    let tally = everything.tally;
    assert_eq!(tally.ipv4 + tally.ipv6, packets.ip.len() as u64);
    assert_eq!(tally.other, packets.other, "{}", path.display());
    println!(
        "{}: {} packets of {} flows, {} other frames",
        path.display(),
        packets.ip.len(),
        everything.flows.len(),
        packets.other
    );
}

fn compare(path: &Path, counted: &Flows, expected: &Flows) {
    for (flow, counters) in expected {
        assert_eq!(
            counted.get(flow),
            Some(counters),
            "{}: tshark has {flow:?}",
            path.display()
        );
    }
    for flow in counted.keys() {
        assert!(
            expected.contains_key(flow),
            "{}: tshark has no {flow:?}: {:?}",
            path.display(),
            counted[flow]
        );
    }
}

fn busiest(packets: &Packets, of_family: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let mut packets_of = BTreeMap::new();
    for packet in &packets.ip {
        for ip in [packet.src, packet.dst] {
            *packets_of.entry(ip).or_insert(0) += 1;
        }
    }
    packets_of
        .into_iter()
        .filter(|(ip, _)| of_family(ip))
        .max_by_key(|(_, count)| *count)
        .map(|(ip, _)| ip)
}
