// SPDX-License-Identifier: GPL-2.0-or-later
//! IPv4 (RFC 791).

use super::transport::{self, TransportHeader};
use super::{FastPathHeader, ParseError, Tuple};

/// RFC 791 section 3.1: a header without options.
const MIN_HEADER: usize = 20;
/// RFC 791 section 3.1: offset of the first data byte, in units of 8 bytes.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// RFC 791 section 3.1: version 4, a header without options and the fragment offset, in
/// the first eight bytes.
const FAST_PATH_MASK: u64 = u64::from_ne_bytes([0xff, 0, 0, 0, 0, 0, 0x1f, 0xff]);
const FAST_PATH_BITS: u64 = u64::from_ne_bytes([0x45, 0, 0, 0, 0, 0, 0, 0]);
const FAST_PATH_BYTES: usize = MIN_HEADER + transport::FAST_PATH_BYTES;

/// Reads a packet without options that is no later fragment; `None` where it is anything else or
/// shorter than a TCP header's flags.
#[inline]
pub fn parse_fast(bytes: &[u8]) -> Option<FastPathHeader<'_, u64>> {
    let bytes = bytes.first_chunk::<FAST_PATH_BYTES>()?;
    let (first, rest) = bytes.split_first_chunk::<8>()?;
    if u64::from_ne_bytes(*first) & FAST_PATH_MASK != FAST_PATH_BITS {
        return None;
    }
    let [_, protocol, _, _, addresses @ ..] = rest else {
        return None;
    };
    Some(FastPathHeader {
        addresses: u64::from_le_bytes(*addresses.first_chunk()?),
        protocol: *protocol,
        transport: rest.last_chunk()?,
    })
}

/// Reads addresses, protocol and ports from the first bytes of an IPv4 packet.
///
/// `bytes` starts at the IPv4 header and `packet_len` is the length of the whole packet
/// in bytes. A packet with a fixed header but a wrong header length, a cut transport
/// header or a later fragment has ports 0.
///
/// # Errors
/// [`ParseError::NeedMore`] where `bytes` is too short and the packet is not;
/// [`ParseError::Malformed`] where it is no IPv4.
#[inline]
pub fn parse(bytes: &[u8], packet_len: usize) -> Result<Tuple<[u8; 4]>, ParseError> {
    let Some(header) = bytes.first_chunk::<MIN_HEADER>() else {
        return Err(if bytes.len() < packet_len && packet_len >= MIN_HEADER {
            ParseError::NeedMore
        } else {
            ParseError::Malformed
        });
    };
    let [
        version_ihl,
        _,
        _,
        _,
        _,
        _,
        frag_hi,
        frag_lo,
        _,
        protocol,
        _,
        _,
        addresses @ ..,
    ] = *header;
    let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
    if version_ihl >> 4 != 4 {
        return Err(ParseError::Malformed);
    }
    let header_len = usize::from(version_ihl & 0xf) * 4;
    let later_fragment = u16::from_be_bytes([frag_hi, frag_lo]) & FRAGMENT_OFFSET != 0;
    let (transport, ports) = if later_fragment || header_len < MIN_HEADER {
        (0, TransportHeader::NONE)
    } else {
        let ports = transport::parse(protocol, bytes, header_len, packet_len)?;
        (header_len as u16, ports)
    };
    let TransportHeader {
        src_port,
        dst_port,
        syn,
    } = ports;
    Ok(Tuple {
        src: [s0, s1, s2, s3],
        dst: [d0, d1, d2, d3],
        src_port,
        dst_port,
        protocol,
        syn,
        transport,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: u8, frag: u16, transport: &[u8]) -> std::vec::Vec<u8> {
        let mut bytes = std::vec![0; MIN_HEADER];
        bytes[0] = 0x45;
        bytes[6..8].copy_from_slice(&frag.to_be_bytes());
        bytes[9] = protocol;
        bytes[12..20].copy_from_slice(&[192, 0, 2, 1, 198, 51, 100, 7]);
        bytes.extend_from_slice(transport);
        bytes
    }

    const TCP_SYN: [u8; 20] = [
        1, 187, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
    ];

    #[test]
    fn first_fragment_has_ports() {
        let bytes = packet(6, 0x2000, &TCP_SYN);
        let tuple = parse(&bytes, bytes.len()).unwrap();
        assert_eq!(
            (tuple.src_port, tuple.dst_port, tuple.syn),
            (443, 51200, true)
        );
        assert_eq!((tuple.src, tuple.dst), ([192, 0, 2, 1], [198, 51, 100, 7]));
    }

    #[test]
    fn later_fragment_has_no_ports() {
        let bytes = packet(6, 0x0001, &TCP_SYN);
        let tuple = parse(&bytes, bytes.len()).unwrap();
        assert_eq!((tuple.src_port, tuple.dst_port, tuple.syn), (0, 0, false));
    }

    #[test]
    fn syn_with_ack_is_not_counted_as_syn() {
        let mut bytes = packet(6, 0, &TCP_SYN);
        bytes[33] = 0x12;
        assert!(!parse(&bytes, bytes.len()).unwrap().syn);
    }

    #[test]
    fn short_linear_part_asks_for_more() {
        let bytes = packet(6, 0, &TCP_SYN);
        for len in 0..34 {
            assert_eq!(
                parse(&bytes[..len], bytes.len()),
                Err(ParseError::NeedMore),
                "{len}"
            );
        }
        assert!(parse(&bytes[..34], bytes.len()).is_ok());
    }

    #[test]
    fn cut_transport_header_has_no_ports() {
        let bytes = packet(17, 0, &[0, 53, 0]);
        let tuple = parse(&bytes, bytes.len()).unwrap();
        assert_eq!((tuple.src_port, tuple.dst_port), (0, 0));
    }

    #[test]
    fn options_move_the_ports() {
        let mut bytes = packet(17, 0, &[0; 40]);
        bytes[0] = 0x4f;
        bytes.extend_from_slice(&[0, 53, 1, 2, 0, 8, 0, 0]);
        let tuple = parse(&bytes, bytes.len()).unwrap();
        assert_eq!((tuple.src_port, tuple.dst_port), (53, 258));
    }

    #[test]
    fn header_length_below_five_words_has_no_ports() {
        let mut bytes = packet(17, 0, &[0, 53, 0, 54, 0, 8, 0, 0]);
        bytes[0] = 0x44;
        assert_eq!(parse(&bytes, bytes.len()).unwrap().src_port, 0);
    }

    #[test]
    fn other_versions_are_malformed() {
        let mut bytes = packet(17, 0, &[0; 8]);
        bytes[0] = 0x65;
        assert_eq!(parse(&bytes, bytes.len()), Err(ParseError::Malformed));
        assert_eq!(parse(&bytes[..10], 10), Err(ParseError::Malformed));
    }
}
