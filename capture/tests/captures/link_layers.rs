// SPDX-License-Identifier: GPL-2.0-or-later
//! Every link layer, what may stand between it and IP, both families, cut at every place that
//! matters: a capture of several hundred interfaces, flow by flow what tshark says.
//!
//! Left out, because tshark reads nothing of them: what pppd writes (link type 166), and messages of
//! netfilter's log whose payload the capture cut. Here the rule cuts it, as `--nflog-size` does.

use std::collections::BTreeMap;

use crate::files;
use crate::well_formed;

/// What a frame has before its IP packet.
struct Layer {
    name: &'static str,
    link: u16,
    /// The bytes, given the IP packet's length and whether it is IPv6.
    before: fn(u16, bool) -> Vec<u8>,
}

const MACS: [u8; 12] = [2; 12];
const TAG: [u8; 4] = [0x81, 0, 0, 7];
const TWO_TAGS: [u8; 8] = [0x88, 0xa8, 0, 7, 0x81, 0, 0, 9];

fn ethertype(is_ipv6: bool) -> [u8; 2] {
    if is_ipv6 { [0x86, 0xdd] } else { [8, 0] }
}

fn ppp_number(is_ipv6: bool) -> [u8; 2] {
    if is_ipv6 { [0, 0x57] } else { [0, 0x21] }
}

fn pppoe(len: u16, is_ipv6: bool) -> Vec<u8> {
    let len = (len + 2).to_be_bytes();
    [&[0x11, 0, 0, 9][..], &len, &ppp_number(is_ipv6)].concat()
}

fn ethernet(tags: &[u8], is_ipv6: bool) -> Vec<u8> {
    [&MACS, tags, &ethertype(is_ipv6)].concat()
}

fn ethernet_pppoe(tags: &[u8], len: u16, is_ipv6: bool) -> Vec<u8> {
    [&MACS, tags, &[0x88, 0x64], &pppoe(len, is_ipv6)].concat()
}

fn sll(ethertype: [u8; 2]) -> Vec<u8> {
    [&[0, 0, 0, 1, 0, 6][..], &[2; 6], &[0; 2], &ethertype].concat()
}

fn sll2(ethertype: [u8; 2]) -> Vec<u8> {
    [&ethertype[..], &[0, 0, 0, 0, 0, 2, 0, 1, 0, 6], &[2; 8]].concat()
}

fn nflog(prefix: &[u8], len: u16, is_ipv6: bool) -> Vec<u8> {
    let mut bytes = vec![if is_ipv6 { 10 } else { 2 }, 0, 0, 5];
    if !prefix.is_empty() {
        bytes.extend((prefix.len() as u16 + 4).to_le_bytes());
        bytes.extend([10, 0]);
        bytes.extend(prefix);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes.extend((len + 4).to_le_bytes());
    bytes.extend([9, 0]);
    bytes
}

const LAYERS: &[Layer] = &[
    Layer {
        name: "Ethernet",
        link: 1,
        before: |_, v6| ethernet(&[], v6),
    },
    Layer {
        name: "Ethernet, tag",
        link: 1,
        before: |_, v6| ethernet(&TAG, v6),
    },
    Layer {
        name: "Ethernet, two tags",
        link: 1,
        before: |_, v6| ethernet(&TWO_TAGS, v6),
    },
    Layer {
        name: "Ethernet, PPPoE",
        link: 1,
        before: |len, v6| ethernet_pppoe(&[], len, v6),
    },
    Layer {
        name: "Ethernet, tag, PPPoE",
        link: 1,
        before: |len, v6| ethernet_pppoe(&TAG, len, v6),
    },
    Layer {
        name: "Ethernet, two tags, PPPoE",
        link: 1,
        before: |len, v6| ethernet_pppoe(&TWO_TAGS, len, v6),
    },
    Layer {
        name: "cooked",
        link: 113,
        before: |_, v6| sll(ethertype(v6)),
    },
    Layer {
        name: "cooked, PPPoE",
        link: 113,
        before: |len, v6| [sll([0x88, 0x64]), pppoe(len, v6)].concat(),
    },
    Layer {
        name: "cooked 2",
        link: 276,
        before: |_, v6| sll2(ethertype(v6)),
    },
    Layer {
        name: "cooked 2, PPPoE",
        link: 276,
        before: |len, v6| [sll2([0x88, 0x64]), pppoe(len, v6)].concat(),
    },
    Layer {
        name: "raw",
        link: 101,
        before: |_, _| Vec::new(),
    },
    Layer {
        name: "NULL",
        link: 0,
        before: |_, v6| vec![if v6 { 24 } else { 2 }, 0, 0, 0],
    },
    Layer {
        name: "LOOP",
        link: 108,
        before: |_, v6| vec![0, 0, 0, if v6 { 24 } else { 2 }],
    },
    Layer {
        name: "PPP",
        link: 9,
        before: |_, v6| [&[0xff, 3][..], &ppp_number(v6)].concat(),
    },
    Layer {
        name: "PPP without address",
        link: 9,
        before: |_, v6| ppp_number(v6).to_vec(),
    },
    Layer {
        name: "PPP, short number",
        link: 9,
        before: |_, v6| vec![0xff, 3, ppp_number(v6)[1]],
    },
    Layer {
        name: "PPP, serial line",
        link: 50,
        before: |_, v6| [&[0xff, 3][..], &ppp_number(v6)].concat(),
    },
    Layer {
        name: "Cisco HDLC, serial line",
        link: 50,
        before: |_, v6| [&[0x0f, 0][..], &ethertype(v6)].concat(),
    },
    Layer {
        name: "PPPoE alone",
        link: 51,
        before: |len, v6| pppoe(len, v6),
    },
    Layer {
        name: "Cisco HDLC",
        link: 104,
        before: |_, v6| [&[0x8f, 0][..], &ethertype(v6)].concat(),
    },
    Layer {
        name: "PPP with direction",
        link: 204,
        before: |_, v6| [&[0, 0xff, 3][..], &ppp_number(v6)].concat(),
    },
    Layer {
        name: "netfilter's log",
        link: NFLOG,
        before: |len, v6| nflog(&[], len, v6),
    },
    Layer {
        name: "netfilter's log, prefix",
        link: NFLOG,
        before: |len, v6| nflog(b"in: \0", len, v6),
    },
    Layer {
        name: "PPI, Ethernet",
        link: 192,
        before: |_, v6| [&[0, 0, 8, 0, 1, 0, 0, 0][..], &ethernet(&[], v6)].concat(),
    },
    Layer {
        name: "PPI, tag",
        link: 192,
        before: |_, v6| [&[0, 0, 8, 0, 1, 0, 0, 0][..], &ethernet(&TAG, v6)].concat(),
    },
];

/// Bytes that are kept behind the IP header; the last keeps all. From 14 on there are the flags of
/// TCP, which tshark tells of only where the window follows.
const KEPT: [usize; 8] = [0, 2, 4, 8, 12, 13, 16, 1 << 16];

const NFLOG: u16 = 239;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// An IP packet to an address and with ports of its own, and its header's length.
fn packet(is_ipv6: bool, protocol: u8, number: u16) -> (Vec<u8>, usize) {
    let mut body = Vec::new();
    // No dissector of an application claims these.
    body.extend((40_000 + number).to_be_bytes());
    body.extend((50_000 + number % 7).to_be_bytes());
    match protocol {
        TCP => {
            body.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02]);
            body.extend([1, 0, 0, 0, 0, 0]);
        }
        _ => body.extend([0, 28, 0, 0]),
    }
    body.extend([0xaa; 20]);
    if is_ipv6 {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend([protocol, 64]);
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(number.to_be_bytes());
        return ([bytes, body].concat(), 40);
    }
    let mut bytes = vec![0x45, 0];
    bytes.extend((20 + body.len() as u16).to_be_bytes());
    bytes.extend([0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 198, 18]);
    bytes.extend(number.to_be_bytes());
    ([bytes, body].concat(), 20)
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padding = body.len().next_multiple_of(4) - body.len();
    let len = ((body.len() + padding + 12) as u32).to_le_bytes();
    [&kind.to_le_bytes()[..], &len, body, &vec![0; padding], &len].concat()
}

#[test]
fn every_link_layer_cut_anywhere_counts_as_tshark_reads_it() {
    if !files::is_installed("tshark") {
        return;
    }
    let version = [
        &0x1a2b_3c4d_u32.to_le_bytes()[..],
        &[1, 0, 0, 0],
        &[0xff; 8],
    ]
    .concat();
    let mut interfaces = block(0x0a0d_0d0a, &version);
    let mut frames = Vec::new();
    let mut number = 0_u16;
    for layer in LAYERS {
        for is_ipv6 in [false, true] {
            for kept in KEPT {
                let described = [&layer.link.to_le_bytes()[..], &[0; 6]].concat();
                // Named, and something behind the end of its options.
                let name = [
                    &[2, 0, 4, 0][..],
                    b"port",
                    &[0; 4],
                    &[9, 0, 1, 0, 3, 0, 0, 0],
                ]
                .concat();
                interfaces.extend(block(1, &[described, name].concat()));
                for protocol in [TCP, UDP] {
                    let (mut packet, header) = packet(is_ipv6, protocol, number);
                    if layer.link == NFLOG {
                        packet.truncate(header + kept);
                    }
                    let before = (layer.before)(packet.len() as u16, is_ipv6);
                    let frame = [&before[..], &packet].concat();
                    let captured = frame.len().min(before.len() + header + kept);
                    let time = 1_769_860_800_000_000 + u64::from(number);
                    let mut body = Vec::new();
                    for value in [
                        u32::from(number),
                        (time >> 32) as u32,
                        time as u32,
                        captured as u32,
                        frame.len() as u32,
                    ] {
                        body.extend(value.to_le_bytes());
                    }
                    body.extend(&frame[..captured]);
                    frames.extend(block(6, &body));
                }
                number += 1;
            }
        }
    }
    assert!(number >= 400, "{number} captures");
    println!(
        "{number} captures of {} link layers: {:?}",
        LAYERS.len(),
        LAYERS.iter().map(|layer| layer.name).collect::<Vec<_>>()
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("link-layers.pcapng");
    std::fs::write(&path, [interfaces, frames].concat()).unwrap();
    let mut by_design = BTreeMap::new();
    well_formed::check(&path, &mut by_design);
}
