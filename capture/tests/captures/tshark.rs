// SPDX-License-Identifier: GPL-2.0-or-later
//! The flows of a file as tshark's fields make them.
//!
//! Nothing is reassembled, and of each field the first value counts, which is that of
//! the outermost header. What differs by design is counted by its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::counted::{Flow, Flows};

const FIELDS: [&str; 23] = [
    "_ws.malformed",
    "frame.protocols",
    "ip.src",
    "ip.dst",
    "ip.len",
    "ip.proto",
    "ip.frag_offset",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.plen",
    "ipv6.nxt",
    "ipv6.hopopts.nxt",
    "ipv6.routing.nxt",
    "ipv6.fraghdr.nxt",
    "ipv6.dstopts.nxt",
    "ah.next_header",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.flags",
    "udp.srcport",
    "udp.dstport",
    "sctp.srcport",
    "sctp.dstport",
];

/// Why tshark's words for a packet are not taken as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ByDesign {
    /// tshark gives up at an option that is longer than its extension header and reads no
    /// ports; this goes by the header's own length, as the kernel does. Such packets are
    /// compared without their ports.
    OptionBeyondItsHeader,
}

/// A protocol and two addresses.
type Pair = (u8, [IpAddr; 2]);

/// A packet as tshark sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub src: IpAddr,
    pub dst: IpAddr,
    protocol: u8,
    src_port: u16,
    dst_port: u16,
    syn: bool,
    bytes: u64,
    option_beyond_header: bool,
}

/// What tshark sees in a file.
#[derive(Default)]
pub struct Packets {
    pub ip: Vec<Seen>,
    /// Frames without IP.
    pub other: u64,
    pub by_design: BTreeMap<ByDesign, u64>,
}

/// Runs tshark on a file.
pub fn packets(path: &Path) -> Packets {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(path);
    for preference in [
        "ip.defragment:FALSE",
        "ipv6.defragment:FALSE",
        "tcp.desegment_tcp_streams:FALSE",
        "sctp.reassembly:FALSE",
    ] {
        command.args(["-o", preference]);
    }
    command.args(["-T", "fields", "-E", "separator=/t", "-E", "aggregator=,"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "tshark {}: {words}",
        path.display()
    );
    let mut packets = Packets::default();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        packets.add(line);
    }
    packets
}

impl Packets {
    /// The flows that these packets make for local nets.
    pub fn flows(&self, is_local: impl Fn(IpAddr) -> bool) -> Flows {
        let mut flows = Flows::new();
        for packet in &self.ip {
            let sent = is_local(packet.src);
            if !sent && !is_local(packet.dst) {
                continue;
            }
            let (local, remote) = match sent {
                true => ((packet.src, packet.src_port), (packet.dst, packet.dst_port)),
                false => ((packet.dst, packet.dst_port), (packet.src, packet.src_port)),
            };
            let counters = flows
                .entry(Flow {
                    protocol: packet.protocol,
                    local: local.0,
                    remote: remote.0,
                    local_port: local.1,
                    remote_port: remote.1,
                })
                .or_default();
            let direction = usize::from(!sent);
            counters[direction] += 1;
            counters[2 + direction] += packet.bytes;
            counters[4] += u64::from(packet.syn);
        }
        flows
    }

    /// Flows with those put together that cannot be told apart by tshark's ports.
    pub fn comparable(&self, flows: &Flows) -> Flows {
        let pairs: BTreeSet<Pair> = self
            .ip
            .iter()
            .filter(|packet| packet.option_beyond_header)
            .map(|packet| pair(packet.protocol, packet.src, packet.dst))
            .collect();
        let mut comparable = Flows::new();
        for (flow, counters) in flows {
            let mut flow = *flow;
            if pairs.contains(&pair(flow.protocol, flow.local, flow.remote)) {
                (flow.local_port, flow.remote_port) = (0, 0);
            }
            let present = comparable.entry(flow).or_default();
            for (into, counter) in present.iter_mut().zip(counters) {
                *into += counter;
            }
        }
        comparable
    }

    fn add(&mut self, line: &str) {
        let mut fields = Fields::of(line);
        match fields.outermost() {
            Some("ip") => {
                let protocol = fields.first("ip.proto").unwrap();
                let later = fields.first::<u16>("ip.frag_offset").unwrap_or(0) != 0;
                let bytes = fields.first("ip.len").unwrap();
                let sides = (
                    fields.first("ip.src").unwrap(),
                    fields.first("ip.dst").unwrap(),
                );
                self.add_packet(&fields, sides, protocol, bytes, later);
            }
            Some(_) => {
                let protocol = fields.last_next_header();
                let bytes = 40 + fields.first::<u64>("ipv6.plen").unwrap();
                let sides = (
                    fields.first("ipv6.src").unwrap(),
                    fields.first("ipv6.dst").unwrap(),
                );
                self.add_packet(&fields, sides, protocol, bytes, false);
            }
            None => self.other += 1,
        }
    }

    fn add_packet(
        &mut self,
        fields: &Fields<'_>,
        (src, dst): (IpAddr, IpAddr),
        protocol: u8,
        bytes: u64,
        later_fragment: bool,
    ) {
        let names = match protocol {
            6 => Some(("tcp.srcport", "tcp.dstport")),
            17 | 136 => Some(("udp.srcport", "udp.dstport")),
            132 => Some(("sctp.srcport", "sctp.dstport")),
            _ => None,
        };
        let flags = fields.first::<String>("tcp.flags");
        let (src_port, dst_port) = names
            .filter(|_| !later_fragment)
            .and_then(|(src, dst)| Some((fields.first(src)?, fields.first(dst)?)))
            .unwrap_or_default();
        let option_beyond_header = src.is_ipv6()
            && fields.has("_ws.malformed")
            && names.is_some_and(|(src, _)| !fields.has(src));
        if option_beyond_header {
            *self
                .by_design
                .entry(ByDesign::OptionBeyondItsHeader)
                .or_default() += 1;
        }
        let flags = flags
            .filter(|_| protocol == 6 && !later_fragment)
            .and_then(|flags| u16::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
        self.ip.push(Seen {
            src,
            dst,
            protocol,
            src_port,
            dst_port,
            syn: flags.is_some_and(|flags| flags & 0x12 == 0x02),
            bytes,
            option_beyond_header,
        });
    }
}

fn pair(protocol: u8, a: IpAddr, b: IpAddr) -> Pair {
    (protocol, [a.min(b), a.max(b)])
}

/// The values of a line, all of each field, separated by commas.
struct Fields<'a> {
    values: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    fn of(line: &'a str) -> Self {
        let values: Vec<&str> = line.split('\t').collect();
        assert_eq!(values.len(), FIELDS.len(), "{line}");
        Self { values }
    }

    fn value(&self, name: &str) -> &'a str {
        let index = FIELDS.iter().position(|field| *field == name).unwrap();
        self.values[index]
    }

    fn has(&self, name: &str) -> bool {
        !self.value(name).is_empty()
    }

    fn first<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.value(name).split(',').next()?.parse().ok()
    }

    /// The first IP in the frame.
    fn outermost(&self) -> Option<&'a str> {
        let mut protocols = self.value("frame.protocols").split(':');
        protocols.find(|name| ["ip", "ipv6"].contains(name))
    }

    /// The protocol behind the extension headers, each of which names the next.
    fn last_next_header(&mut self) -> u8 {
        let mut protocol: u8 = self.first("ipv6.nxt").unwrap();
        let mut left: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for (number, name) in [
            (0, "ipv6.hopopts.nxt"),
            (43, "ipv6.routing.nxt"),
            (44, "ipv6.fraghdr.nxt"),
            (60, "ipv6.dstopts.nxt"),
            (51, "ah.next_header"),
        ] {
            let values = self.value(name).split(',').rev();
            left.insert(number, values.filter_map(|v| v.parse().ok()).collect());
        }
        while let Some(next) = left.get_mut(&protocol).and_then(Vec::pop) {
            protocol = next;
        }
        protocol
    }
}
