// SPDX-License-Identifier: GPL-2.0-or-later
//! Captures made here: every link layer, file format and compression, extension headers,
//! fragments, padding and cut packets.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use fastrand::Rng;
use lzma_rust2::{XzOptions, XzWriter};
use trafstat_capture::engine::Rules;
use trafstat_capture::file::CaptureError;
use trafstat_rule::local_net::{Ipv4, Ipv6};

use crate::counted::{Counted, all_ports, count, rule};
use crate::files;
use crate::well_formed;

const NOON_NS: u64 = 1_769_860_800_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// A frame to be written.
#[derive(Clone)]
struct Frame {
    time_ns: u64,
    bytes: Vec<u8>,
    /// Bytes that the capture cut off.
    cut: u32,
}

/// Link types and what stands before IP in them.
fn before(link: u16, is_ipv6: bool, rng: &mut Rng) -> Vec<u8> {
    let ethertype: [u8; 2] = if is_ipv6 { [0x86, 0xdd] } else { [8, 0] };
    match link {
        0 => vec![if is_ipv6 { 24 } else { 2 }, 0, 0, 0],
        108 => vec![0, 0, 0, if is_ipv6 { 24 } else { 2 }],
        1 => {
            let mut bytes = vec![2; 12];
            match rng.u8(..5) {
                0 => bytes.extend([0x81, 0, 0, 7]),
                1 => bytes.extend([0x88, 0xa8, 0, 7, 0x81, 0, 0, 9]),
                2 => {
                    bytes.extend([0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64]);
                    return bytes;
                }
                _ => {}
            }
            bytes.extend(ethertype);
            bytes
        }
        113 => [&[0, 0, 0, 1, 0, 6][..], &[2; 6], &[0; 2], &ethertype].concat(),
        276 => [&ethertype[..], &[0, 0, 0, 0, 0, 2, 0, 1, 0, 6], &[2; 8]].concat(),
        _ => Vec::new(),
    }
}

/// A transport header and some payload.
fn transport(protocol: u8, rng: &mut Rng) -> Vec<u8> {
    // Ports that no dissector of an application claims.
    let ports = [rng.u16(40_000..40_004), rng.u16(41_000..41_004)];
    let mut bytes: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
    let payload = rng.usize(..64);
    match protocol {
        6 => {
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50]);
            bytes.push([0x02, 0x12, 0x10, 0x18][rng.usize(..4)]);
            bytes.extend([1, 0, 0, 0, 0, 0]);
        }
        17 => {
            bytes.extend((8 + payload as u16).to_be_bytes());
            bytes.extend([0, 0]);
        }
        132 => {
            bytes.extend([0, 0, 0, 9, 0, 0, 0, 0]);
            // A data chunk as long as the payload.
            bytes.extend([0, 3]);
            bytes.extend((16 + payload as u16).to_be_bytes());
            bytes.extend([0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0]);
        }
        _ => bytes = vec![8, 0, 0, 0, 0, 1, 0, 1],
    }
    bytes.extend(std::iter::repeat_n(0xaa, payload));
    bytes
}

fn ipv4(rng: &mut Rng) -> Vec<u8> {
    let protocol = [6, 17, 132, 1, 47][rng.usize(..5)];
    let body = match protocol {
        47 => vec![0, 0, 0x88, 0xb5, 1, 2, 3, 4],
        _ => transport(protocol, rng),
    };
    let options = 4 * rng.usize(..3);
    let fragment: u16 = [0, 0, 0x2000, 0x2005, 0x0007][rng.usize(..5)];
    let len = 20 + options + body.len();
    let mut bytes = vec![0x45 + (options / 4) as u8, 0];
    bytes.extend((len as u16).to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0, 10, 0, 0, rng.u8(1..4)]);
    bytes.extend([192, 0, 2, rng.u8(1..4)]);
    if rng.bool() {
        let [a, b, c, d, e, f, g, h] = bytes[12..20].try_into().unwrap();
        bytes[12..20].copy_from_slice(&[e, f, g, h, a, b, c, d]);
    }
    bytes.extend(std::iter::repeat_n(1, options));
    bytes.extend(body);
    bytes
}

fn ipv6(rng: &mut Rng) -> Vec<u8> {
    let protocol = [6, 17, 132, 58, 59][rng.usize(..5)];
    let mut body = match protocol {
        58 => vec![128, 0, 0, 0, 0, 1, 0, 1],
        59 => Vec::new(),
        _ => transport(protocol, rng),
    };
    let mut next = protocol;
    for _ in 0..rng.usize(..4) {
        let (kind, header): (u8, Vec<u8>) = match rng.u8(..4) {
            0 => (60, vec![next, 0, 1, 4, 0, 0, 0, 0]),
            1 => (
                43,
                vec![
                    next, 2, 4, 0, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                    9,
                ],
            ),
            2 => (
                51,
                vec![
                    next, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                ],
            ),
            // First or only fragment; a later one has nothing behind it to tell.
            _ => (44, vec![next, 0, 0, rng.u8(..2), 0, 0, 0, 1]),
        };
        body = [header, body].concat();
        next = kind;
    }
    if rng.u8(..4) == 0 {
        body = [vec![next, 0, 1, 4, 0, 0, 0, 0], body].concat();
        next = 0;
    }
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend([next, 64]);
    let address = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let mut sides = [address(rng.u8(1..4)), address(rng.u8(16..20))];
    if rng.bool() {
        sides.reverse();
    }
    bytes.extend(sides.concat());
    bytes.extend(body);
    bytes
}

fn frames(link: u16, count: usize, seed: u64) -> Vec<Frame> {
    let mut rng = Rng::with_seed(seed);
    (0..count as u64)
        .map(|number| {
            let is_ipv6 = rng.bool();
            let mut bytes = before(link, is_ipv6, &mut rng);
            bytes.extend(if is_ipv6 {
                ipv6(&mut rng)
            } else {
                ipv4(&mut rng)
            });
            if link == 1 {
                // Ethernet pads what is shorter.
                bytes.resize(bytes.len().max(60), 0);
            }
            Frame {
                time_ns: NOON_NS + number * SECOND_NS,
                bytes,
                cut: 0,
            }
        })
        .collect()
}

/// The pcap file of these frames.
fn pcap(link: u16, frames: &[Frame], big_endian: bool, nanoseconds: bool) -> Vec<u8> {
    let order = |value: u32| match big_endian {
        true => value.to_be_bytes(),
        false => value.to_le_bytes(),
    };
    let magic = if nanoseconds {
        0xa1b2_3c4d
    } else {
        0xa1b2_c3d4
    };
    let mut bytes = order(magic).to_vec();
    bytes.extend(match big_endian {
        true => [0, 2, 0, 4],
        false => [2, 0, 4, 0],
    });
    for value in [0, 0, 262_144, u32::from(link)] {
        bytes.extend(order(value));
    }
    for frame in frames {
        let fraction = frame.time_ns % SECOND_NS / if nanoseconds { 1 } else { 1000 };
        let captured = frame.bytes.len() as u32 - frame.cut;
        for value in [
            (frame.time_ns / SECOND_NS) as u32,
            fraction as u32,
            captured,
            frame.bytes.len() as u32,
        ] {
            bytes.extend(order(value));
        }
        bytes.extend(&frame.bytes[..captured as usize]);
    }
    bytes
}

fn block(order: impl Fn(u32) -> [u8; 4], kind: u32, body: &[u8]) -> Vec<u8> {
    let padding = body.len().next_multiple_of(4) - body.len();
    let len = order((body.len() + padding + 12) as u32);
    [&order(kind)[..], &len, body, &vec![0; padding], &len].concat()
}

/// The pcapng file of these frames, on two interfaces, with blocks between that are to
/// be passed over.
fn pcapng(link: u16, frames: &[Frame], big_endian: bool) -> Vec<u8> {
    let order = move |value: u32| match big_endian {
        true => value.to_be_bytes(),
        false => value.to_le_bytes(),
    };
    let short = move |value: u16| match big_endian {
        true => value.to_be_bytes(),
        false => value.to_le_bytes(),
    };
    let version = [
        order(0x1a2b_3c4d),
        [short(1), short(0)].concat().try_into().unwrap(),
    ];
    let mut bytes = block(
        order,
        0x0a0d_0d0a,
        &[&version.concat()[..], &[0xff; 8]].concat(),
    );
    let described = [short(link), [0, 0], [0, 0], [0, 0]].concat();
    // Interface 0 has microseconds, interface 1 nanoseconds and an offset of an hour.
    bytes.extend(block(order, 1, &described));
    let offset = match big_endian {
        true => 3600_i64.to_be_bytes(),
        false => 3600_i64.to_le_bytes(),
    };
    let resolution = [&short(9)[..], &short(1), &[9, 0, 0, 0]].concat();
    let offset = [&short(14)[..], &short(8), &offset].concat();
    bytes.extend(block(
        order,
        1,
        &[described, resolution, offset, vec![0; 4]].concat(),
    ));
    for (number, frame) in frames.iter().enumerate() {
        let id = number as u32 % 2;
        let ticks = match id {
            0 => frame.time_ns / 1000,
            _ => frame.time_ns - 3600 * SECOND_NS,
        };
        let mut body = Vec::new();
        let len = frame.bytes.len() as u32;
        for value in [id, (ticks >> 32) as u32, ticks as u32, len - frame.cut, len] {
            body.extend(order(value));
        }
        body.extend(&frame.bytes[..(len - frame.cut) as usize]);
        bytes.extend(block(order, 6, &body));
        if number % 7 == 0 {
            // Names of addresses, none of them.
            bytes.extend(block(order, 4, &[0; 4]));
        }
    }
    bytes
}

fn count_bytes(bytes: &[u8]) -> Counted {
    let (ipv4, ipv6) = (all_ports::<Ipv4>("10.0.0.0/8"), all_ports::<Ipv6>("::/0"));
    let rules = Rules {
        ipv4: Some(&ipv4),
        ipv6: Some(&ipv6),
    };
    count(bytes, rules, None)
}

#[test]
fn generated_captures_count_as_tshark_reads_them() {
    if !files::is_installed("tshark") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut by_design = BTreeMap::new();
    for link in [0, 1, 101, 108, 113, 276] {
        let frames = frames(link, 500, u64::from(link));
        // NULL's family is in the file's byte order.
        let mut swapped = frames.clone();
        if link == 0 {
            for frame in &mut swapped {
                frame.bytes[..4].reverse();
            }
        }
        for (name, bytes) in [
            ("le.pcap", pcap(link, &frames, false, false)),
            ("be.pcapng", pcapng(link, &swapped, true)),
        ] {
            let path = folder.path().join(format!("link-{link}-{name}"));
            std::fs::write(&path, bytes).unwrap();
            well_formed::check(&path, &mut by_design);
        }
    }
    println!("differences by design: {by_design:?}");
}

#[test]
fn every_format_and_compression_has_the_same_flows() {
    let frames = frames(1, 300, 7);
    let expected = count_bytes(&pcap(1, &frames, false, true));
    assert!(expected.error.is_none());
    assert_eq!(expected.tally.frames, 300);
    let plain = pcap(1, &frames, false, true);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    // Two members, as of files that were put together.
    let (first, second) = plain.split_at(1000);
    let members = [first, second].map(|part| zstd::encode_all(part, 1).unwrap());
    let mut xz = XzWriter::new(Vec::new(), XzOptions::with_preset(1)).unwrap();
    xz.write_all(&plain).unwrap();
    for (name, bytes) in [
        ("big-endian pcap", pcap(1, &frames, true, true)),
        ("pcap in microseconds", pcap(1, &frames, false, false)),
        ("pcapng", pcapng(1, &frames, false)),
        ("big-endian pcapng", pcapng(1, &frames, true)),
        ("gzip", gzip.finish().unwrap()),
        ("zstd of two frames", members.concat()),
        ("xz", xz.finish().unwrap()),
    ] {
        let counted = count_bytes(&bytes);
        assert!(counted.error.is_none(), "{name}: {:?}", counted.error);
        assert_eq!(counted.flows, expected.flows, "{name}");
        let identity = |counted: &Counted| {
            let headers = counted.headers.iter();
            headers
                .map(|header| {
                    (
                        header.account_id,
                        header.epoch,
                        header.opened_ns,
                        header.closed_ns,
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(identity(&counted), identity(&expected), "{name}");
    }
}

#[test]
fn zeros_behind_a_compressed_capture_are_passed_over() {
    let plain = pcap(1, &frames(1, 40, 12), false, false);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut xz = XzWriter::new(Vec::new(), XzOptions::with_preset(1)).unwrap();
    xz.write_all(&plain).unwrap();
    for (name, packed) in [
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd::encode_all(&plain[..], 1).unwrap()),
        ("xz", xz.finish().unwrap()),
    ] {
        for zeros in [1, 512, 1 << 18] {
            let counted = count_bytes(&[&packed[..], &vec![0; zeros]].concat());
            assert!(counted.error.is_none(), "{name}: {:?}", counted.error);
            assert_eq!(counted.tally.frames, 40, "{name}");
        }
        let counted = count_bytes(&[&packed[..], b"\0\0garbage"].concat());
        assert!(counted.error.is_some(), "{name}");
        assert_eq!(counted.tally.frames, 40, "{name}");
    }
}

#[test]
fn modified_pcap_formats_count_as_tshark_reads_them() {
    if !files::is_installed("tshark") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let frames = frames(1, 50, 13);
    let mut by_design = BTreeMap::new();
    for big_endian in [false, true] {
        // Longer packet headers, of both lengths, and Ixia's size of all records.
        for (magic, behind_header, behind_packet_header) in [
            (0xa1b2_cd34_u32, 0, 8),
            (0xa1b2_cd34, 0, 12),
            (0x1c00_01ab, 4, 0),
            (0x1c00_01ac, 4, 0),
        ] {
            let plain = pcap(1, &frames, big_endian, magic < 0x2000_0000);
            let mut bytes = match big_endian {
                true => magic.to_be_bytes().to_vec(),
                false => magic.to_le_bytes().to_vec(),
            };
            bytes.extend(&plain[4..24]);
            bytes.extend(vec![0; behind_header]);
            let mut records = &plain[24..];
            for frame in &frames {
                let (header, rest) = records.split_at(16);
                let (packet, next) = rest.split_at(frame.bytes.len());
                bytes.extend(header);
                bytes.extend(vec![0; behind_packet_header]);
                bytes.extend(packet);
                records = next;
            }
            let path = folder
                .path()
                .join(format!("{magic:x}-{behind_packet_header}-{big_endian}"));
            std::fs::write(&path, &bytes).unwrap();
            well_formed::check(&path, &mut by_design);
        }
    }
}

#[test]
fn capture_cut_anywhere_gives_what_came_before_and_says_where() {
    let frames = frames(1, 3, 3);
    for whole in [pcap(1, &frames, false, false), pcapng(1, &frames, false)] {
        for end in 0..whole.len() {
            let counted = count_bytes(&whole[..end]);
            let Some(error) = &counted.error else {
                // Between two packets nothing is missing.
                assert!(count_bytes(&whole[..end]).tally.frames <= 3);
                continue;
            };
            match error {
                CaptureError::Truncated {
                    offset, missing, ..
                } => {
                    assert!(*offset <= end as u64 && *missing > 0, "{error}");
                }
                CaptureError::Empty => assert_eq!(end, 0),
                CaptureError::Foreign(_) => assert!(end < 4),
                other => panic!("cut at {end}: {other}"),
            }
        }
        assert!(count_bytes(&whole).error.is_none());
    }
}

#[test]
fn corrupt_packet_length_ends_the_capture_with_its_offset() {
    let frames = frames(1, 3, 4);
    let mut bytes = pcap(1, &frames, false, false);
    let second = 24 + 16 + frames[0].bytes.len();
    bytes[second + 8..second + 12].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    let counted = count_bytes(&bytes);
    assert_eq!(counted.tally.frames, 1);
    let error = counted.error.unwrap().to_string();
    assert!(
        error.starts_with(&format!("it is corrupt at byte {second}: ")),
        "{error}"
    );
}

#[test]
fn corrupt_compression_gives_what_came_before() {
    let frames = frames(1, 2000, 5);
    let plain = pcap(1, &frames, false, false);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    for packed in [gzip, zstd] {
        let counted = count_bytes(&packed[..packed.len() / 2]);
        let error = counted.error.unwrap();
        assert!(matches!(error, CaptureError::Read { .. }), "{error}");
        assert!(counted.tally.frames < 2000);
    }
}

#[test]
fn packet_cut_before_its_ports_counts_whole_and_without_them() {
    let mut rng = Rng::with_seed(1);
    let udp = transport(17, &mut rng);
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 192, 0, 2, 1,
    ];
    packet.extend(&udp);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    let frame = Frame {
        time_ns: NOON_NS,
        cut: udp.len() as u32 - 2,
        bytes: packet,
    };
    let counted = count_bytes(&pcap(101, &[frame], false, false));
    let (flow, counters) = counted.flows.iter().next().unwrap();
    assert_eq!((flow.local_port, flow.remote_port), (0, 0));
    assert_eq!(*counters, [1, 0, u64::from(len), 0, 0]);
}

#[test]
fn epochs_close_at_multiples_of_their_length_by_the_captures_clock() {
    let frames = frames(101, 200, 6);
    let bytes = pcap(101, &frames, false, false);
    let ipv4 = all_ports::<Ipv4>("0.0.0.0/0");
    let rules = Rules {
        ipv4: Some(&ipv4),
        ipv6: None,
    };
    let whole = count(&bytes[..], rules, None);
    let cut = count(&bytes[..], rules, Some(Duration::from_secs(60)));
    assert_eq!(cut.flows, whole.flows);
    assert_eq!(cut.tally.ipv6_without_rule, whole.tally.ipv6_without_rule);
    let times: Vec<_> = cut
        .headers
        .iter()
        .map(|header| (header.epoch, header.opened_ns, header.closed_ns))
        .collect();
    let at = |secs: u64| NOON_NS + secs * SECOND_NS;
    // Noon is a whole minute; the last epoch closes with the last packet.
    assert_eq!(
        times,
        [
            (1, at(0), at(60)),
            (2, at(60), at(120)),
            (3, at(120), at(180)),
            (4, at(180), at(199)),
        ]
    );
}

#[test]
fn account_is_the_same_whatever_ports_are_kept_and_another_under_another_name() {
    let bytes = pcap(101, &frames(101, 20, 8), false, false);
    let id = |info: &trafstat_abi::RuleInfo| {
        let rules = Rules {
            ipv4: Some(info),
            ipv6: None,
        };
        count(&bytes[..], rules, None).headers[0].account_id
    };
    let all = all_ports::<Ipv4>("10.0.0.0/8");
    let none = rule::<Ipv4>(&[("local-net", "10.0.0.0/8"), ("name", "captured")]);
    let other = rule::<Ipv4>(&[("local-net", "10.0.0.0/8"), ("name", "other")]);
    assert_eq!(id(&all), id(&none));
    assert_ne!(id(&all), id(&other));
}

#[test]
fn sampled_capture_that_is_counted_again_gives_the_same_figures() {
    let frames = frames(1, 3000, 11);
    let rule = |options: &[(&'static str, &'static str)]| {
        let net = [("local-net", "0.0.0.0/0"), ("name", "sampled")];
        rule::<Ipv4>(&[&net[..], options].concat())
    };
    let sampled = rule(&[("sample-tcp-any", "5"), ("sample-udp-any", "3")]);
    let bytes = pcap(1, &frames, false, true);
    let once = || {
        let rules = Rules {
            ipv4: Some(&sampled),
            ipv6: None,
        };
        count(bytes.as_slice(), rules, Some(Duration::from_secs(60)))
    };
    let (first, again) = (once(), once());
    assert_eq!(first.flows, again.flows);
    let figures = |counted: &Counted| -> Vec<_> {
        let headers = counted.headers.iter();
        headers
            .map(|header| (header.account_id, header.skipped_packets))
            .collect()
    };
    assert_eq!(figures(&first), figures(&again));
    assert!(
        first
            .headers
            .iter()
            .any(|header| header.skipped_packets > 0)
    );
}

#[test]
fn sampling_and_folding_keep_every_packet_accounted_for() {
    let bytes = pcap(1, &frames(1, 4000, 9), false, false);
    let info = rule::<Ipv4>(&[
        ("local-net", "10.0.0.0/8"),
        ("local-tcp-ports", "all"),
        ("remote-udp-ports", "all"),
        ("sample-udp-any", "3"),
        ("sample-tcp-any", "2"),
        ("min-pkt-spoof", "2"),
    ]);
    let rules = Rules {
        ipv4: Some(&info),
        ipv6: None,
    };
    let counted = count(&bytes[..], rules, None);
    let header = &counted.headers[0];
    assert_eq!(header.seen_packets, counted.tally.ipv4);
    assert!(header.skipped_packets > 0 && header.extrapolated_packets > 0);
}
