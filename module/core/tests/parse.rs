// SPDX-License-Identifier: GPL-2.0-or-later
//! Parsing against packets that an independent crate builds, and against anything.

use etherparse::{
    IpAuthHeader, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6Extensions,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, PacketBuilder,
};
use proptest::prelude::*;
use trafstat_core::classify::{Family, Ipv4, Ipv6};
use trafstat_core::parse::{
    FastPathHeader, HEADER_BYTES, ParseError, Tuple, ipv4, ipv6, transport,
};

/// Hop-by-hop, routing, fragment, authentication and destination options: behind one of them the
/// protocol is another, and the fast path does not look for it.
const IPV6_EXTENSIONS: [u8; 5] = [0, 43, 44, 51, 60];

fn cut(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(HEADER_BYTES)]
}

/// What is read of TCP and UDP, where the packet is one of them.
fn same_transport<A, B>(
    header: &FastPathHeader<'_, A>,
    tuple: &Tuple<B>,
) -> Result<(), TestCaseError> {
    if [transport::TCP, transport::UDP].contains(&header.protocol) {
        let ports = u32::from(tuple.src_port) << 16 | u32::from(tuple.dst_port);
        prop_assert_eq!(transport::packed_ports(header.transport), ports);
    }
    if header.protocol == transport::TCP {
        prop_assert_eq!(transport::is_syn(header.transport), tuple.syn);
    }
    Ok(())
}

proptest! {
    #[test]
    fn tcp_and_udp_are_read_as_built(
        src: [u8; 4], dst: [u8; 4], src_port: u16, dst_port: u16,
        syn: bool, ack: bool, udp: bool, payload in proptest::collection::vec(any::<u8>(), 0..200),
        options in 0_usize..=10,
    ) {
        let mut header = Ipv4Header::new(0, 64, IpNumber::TCP, src, dst).expect("short payload");
        header.options = Ipv4Options::try_from(&vec![1; options * 4][..]).expect("up to 40 bytes");
        let builder = PacketBuilder::ip(etherparse::IpHeaders::Ipv4(header, Default::default()));
        let mut bytes = Vec::new();
        if udp {
            builder.udp(src_port, dst_port).write(&mut bytes, &payload).expect("a vector");
        } else {
            let mut tcp = builder.tcp(src_port, dst_port, 1, 1000);
            if syn { tcp = tcp.syn(); }
            if ack { tcp = tcp.ack(1); }
            tcp.write(&mut bytes, &payload).expect("a vector");
        }
        let tuple = ipv4::parse(cut(&bytes), bytes.len()).expect("well formed");
        prop_assert_eq!((tuple.src, tuple.dst), (src, dst));
        prop_assert_eq!((tuple.src_port, tuple.dst_port), (src_port, dst_port));
        prop_assert_eq!(tuple.protocol, if udp { 17 } else { 6 });
        prop_assert_eq!(tuple.syn, syn && !ack && !udp);
    }

    #[test]
    fn later_fragments_have_no_ports(offset in 1_u16..8192, protocol: u8, payload: [u8; 32]) {
        let mut header = Ipv4Header::new(32, 64, IpNumber(protocol), [1; 4], [2; 4]).expect("short");
        header.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(&payload);
        let tuple = ipv4::parse(&bytes, bytes.len()).expect("well formed");
        prop_assert_eq!((tuple.src_port, tuple.dst_port, tuple.protocol), (0, 0, protocol));
    }

    #[test]
    fn anything_is_parsed_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..HEADER_BYTES + 20),
        version: bool,
        more in 0_usize..70000,
    ) {
        let mut bytes = bytes;
        if let (true, Some(first)) = (version, bytes.first_mut()) {
            *first = 0x40 | *first & 0xf;
        }
        match ipv4::parse(&bytes, bytes.len() + more) {
            Err(ParseError::NeedMore) => {
                prop_assert!(more > 0, "the whole packet was given");
                prop_assert!(bytes.len() < HEADER_BYTES, "no more is ever given");
            }
            Err(ParseError::Malformed) => prop_assert!(bytes.len() < 20 || bytes[0] >> 4 != 4),
            Ok(tuple) => prop_assert_eq!(tuple.protocol, bytes[9]),
        }
    }

    #[test]
    fn fast_path_reads_headers_as_the_slow_path_does(
        bytes in proptest::collection::vec(any::<u8>(), 20..80),
        is_ipv6: bool,
        protocol in prop_oneof![
            Just(6_u8), Just(17), proptest::sample::select(&IPV6_EXTENSIONS), any::<u8>(),
        ],
        first in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()],
        fragment in prop_oneof![Just(0_u8), any::<u8>()],
    ) {
        let mut bytes = bytes;
        bytes[0] = first;
        if is_ipv6 {
            bytes[6] = protocol;
            if let Some(header) = ipv6::parse_fast(&bytes) {
                let tuple = ipv6::parse(&bytes, bytes.len()).expect("eligible");
                prop_assert_eq!(header.addresses, Ipv6::addresses(tuple.src, tuple.dst));
                prop_assert_eq!(header.protocol, protocol);
                if !IPV6_EXTENSIONS.contains(&protocol) {
                    prop_assert_eq!(header.protocol, tuple.protocol);
                    same_transport(&header, &tuple)?;
                }
            }
        } else {
            bytes[9] = protocol;
            bytes[6] &= 0xe0;
            bytes[7] = fragment;
            if let Some(header) = ipv4::parse_fast(&bytes) {
                let tuple = ipv4::parse(&bytes, bytes.len()).expect("eligible");
                prop_assert_eq!(header.addresses, Ipv4::addresses(tuple.src, tuple.dst));
                prop_assert_eq!(header.protocol, tuple.protocol);
                same_transport(&header, &tuple)?;
            }
        }
    }

    #[test]
    fn ipv6_ports_are_read_as_built(
        src: [u8; 16], dst: [u8; 16], src_port: u16, dst_port: u16, udp: bool, fragment: bool,
        options in proptest::option::of(0_usize..50), auth in proptest::option::of(0_usize..18),
    ) {
        let mut extensions = Ipv6Extensions::default();
        let raw = |number, len: usize| {
            Ipv6RawExtHeader::new_raw(number, &vec![0; 6 + len * 8]).expect("a multiple of 8")
        };
        extensions.hop_by_hop_options = options.map(|len| raw(IpNumber::UDP, len));
        extensions.fragment = fragment.then(|| {
            Ipv6FragmentHeader::new(IpNumber::UDP, IpFragOffset::ZERO, true, 9)
        });
        extensions.auth = auth.map(|len| {
            IpAuthHeader::new(IpNumber::UDP, 1, 2, &vec![0; len * 4]).expect("a multiple of 4")
        });
        let header = Ipv6Header { source: src, destination: dst, hop_limit: 1, ..Default::default() };
        let builder = PacketBuilder::ip(etherparse::IpHeaders::Ipv6(header, extensions));
        let mut bytes = Vec::new();
        if udp {
            builder.udp(src_port, dst_port).write(&mut bytes, &[7; 9]).expect("a vector");
        } else {
            builder.tcp(src_port, dst_port, 1, 1).syn().write(&mut bytes, &[]).expect("a vector");
        }
        let tuple = ipv6::parse(cut(&bytes), bytes.len()).expect("well formed");
        prop_assert_eq!((tuple.src, tuple.dst), (src, dst));
        prop_assert_eq!((tuple.src_port, tuple.dst_port), (src_port, dst_port));
        prop_assert_eq!((tuple.protocol, tuple.syn), if udp { (17, false) } else { (6, true) });
    }

    #[test]
    fn anything_ipv6_is_parsed_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..HEADER_BYTES + 20),
        next_headers in proptest::collection::vec(
            prop_oneof![Just(0_u8), Just(43), Just(44), Just(51), Just(60), any::<u8>()], 1..12),
        lengths in 0_u8..12,
        more in 0_usize..70000,
    ) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = 0x60;
        }
        // A chain of extension headers, until it runs into the random bytes.
        let mut at = 6;
        for (i, next) in next_headers.into_iter().enumerate() {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = next;
            }
            at = if i == 0 { 40 } else { at + (usize::from(lengths) + 1) * 8 };
            if let Some(byte) = bytes.get_mut(at + 1) {
                *byte = lengths;
            }
        }
        match ipv6::parse(&bytes, bytes.len() + more) {
            Err(ParseError::NeedMore) => {
                prop_assert!(more > 0, "the whole packet was given");
                prop_assert!(bytes.len() < HEADER_BYTES, "no more is ever given");
            }
            Err(ParseError::Malformed) => prop_assert!(bytes.len() < 40),
            Ok(tuple) => prop_assert_eq!(&tuple.src[..], &bytes[8..24]),
        }
    }
}
