// SPDX-License-Identifier: GPL-2.0-or-later
//! IPv6 (RFC 8200) and the extension headers between it and the transport protocol.
//!
//! At most [`MAX_EXTENSIONS`] headers of together at most [`MAX_EXTENSION_BYTES`] are
//! walked; a packet with more counts with the protocol reached so far and without ports.
//! Mobility and HIP headers are what they carry nothing behind, so they count as
//! protocols; ESP hides what follows.

use super::transport::{self, TransportHeader};
use super::{FastPathHeader, ParseError, Tuple};

/// RFC 8200 section 3.
const HEADER: usize = 40;
/// Extension headers that are walked.
pub const MAX_EXTENSIONS: usize = 8;
/// Bytes of extension headers that are walked.
pub const MAX_EXTENSION_BYTES: usize = 512;

/// RFC 8200 section 4.3.
const HOP_BY_HOP: u8 = 0;
/// RFC 8200 section 4.4.
const ROUTING: u8 = 43;
/// RFC 8200 section 4.5.
const FRAGMENT: u8 = 44;
/// RFC 4302.
const AUTHENTICATION: u8 = 51;
/// RFC 8200 section 4.6.
const DESTINATION_OPTIONS: u8 = 60;

/// RFC 8200 section 4.5: offset of the first data byte in its upper 13 bits.
const FRAGMENT_OFFSET: u16 = 0xfff8;

/// RFC 8200 section 3: the version, in the upper half of the first byte.
const VERSION: u8 = 0x60;
const FAST_PATH_BYTES: usize = HEADER + transport::FAST_PATH_BYTES;

/// Reads a packet whose protocol follows the header; `None` where it is no IPv6 or shorter than a
/// TCP header's flags.
#[inline]
pub fn parse_fast(bytes: &[u8]) -> Option<FastPathHeader<'_, [u64; 4]>> {
    let bytes = bytes.first_chunk::<FAST_PATH_BYTES>()?;
    let (header, transport) = bytes.split_first_chunk::<HEADER>()?;
    let [version_class, _, _, _, _, _, protocol, _, addresses @ ..] = header;
    if version_class & 0xf0 != VERSION {
        return None;
    }
    let [a, b] = words(*addresses.first_chunk()?);
    let [c, d] = words(*addresses.last_chunk()?);
    Some(FastPathHeader {
        addresses: [a, b, c, d],
        protocol: *protocol,
        transport: transport.first_chunk()?,
    })
}

/// An address as loaded from the packet.
#[inline]
pub fn words([a, b, c, d, e, f, g, h, rest @ ..]: [u8; 16]) -> [u64; 2] {
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes(rest),
    ]
}

/// Reads addresses, protocol and ports from the first bytes of an IPv6 packet.
///
/// `bytes` starts at the IPv6 header and `packet_len` is the length of the whole packet in
/// bytes, also where the header's own length is 0 (RFC 2675 and what the kernel builds
/// for large segments). The protocol is the one behind the extension headers.
///
/// # Errors
/// [`ParseError::NeedMore`] where `bytes` is too short and the packet is not;
/// [`ParseError::Malformed`] where it is no IPv6.
#[inline]
pub fn parse(bytes: &[u8], packet_len: usize) -> Result<Tuple<[u8; 16]>, ParseError> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Err(if bytes.len() < packet_len && packet_len >= HEADER {
            ParseError::NeedMore
        } else {
            ParseError::Malformed
        });
    };
    let [version_class, _, _, _, _, _, next_header, _, addresses @ ..] = header;
    if version_class >> 4 != 6 {
        return Err(ParseError::Malformed);
    }
    let (Some(src), Some(dst)) = (addresses.first_chunk::<16>(), addresses.last_chunk::<16>())
    else {
        return Err(ParseError::Malformed);
    };
    let reached = if is_extension(*next_header) {
        walk(*next_header, bytes, packet_len)?
    } else {
        Reached {
            protocol: *next_header,
            transport: Some(HEADER),
        }
    };
    let TransportHeader {
        src_port,
        dst_port,
        syn,
    } = match reached.transport {
        Some(offset) => transport::parse(reached.protocol, bytes, offset, packet_len)?,
        None => TransportHeader::NONE,
    };
    Ok(Tuple {
        src: *src,
        dst: *dst,
        src_port,
        dst_port,
        protocol: reached.protocol,
        syn,
        transport: reached.transport.unwrap_or(0) as u16,
    })
}

/// Where the walk over the extension headers ended.
struct Reached {
    protocol: u8,
    /// Offset of the transport header; `None` where it is not in this packet or too far.
    transport: Option<usize>,
}

#[inline]
fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
    )
}

#[cold]
fn walk(first: u8, bytes: &[u8], packet_len: usize) -> Result<Reached, ParseError> {
    let mut protocol = first;
    let mut offset = HEADER;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(protocol) {
            return Ok(Reached {
                protocol,
                transport: Some(offset),
            });
        }
        // Each has at least 8 bytes, the first two of which say what follows and where.
        let Some(extension) = bytes.get(offset..).and_then(|rest| rest.first_chunk::<8>()) else {
            let packet_has_it = packet_len >= offset + 8;
            let cut = Reached {
                protocol,
                transport: None,
            };
            return if packet_has_it {
                Err(ParseError::NeedMore)
            } else {
                Ok(cut)
            };
        };
        let [next_header, length, fragment_hi, fragment_lo, ..] = *extension;
        let len = match protocol {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        let later_fragment = protocol == FRAGMENT
            && u16::from_be_bytes([fragment_hi, fragment_lo]) & FRAGMENT_OFFSET != 0;
        protocol = next_header;
        offset += len;
        if later_fragment || offset > HEADER + MAX_EXTENSION_BYTES {
            return Ok(Reached {
                protocol,
                transport: None,
            });
        }
    }
    let transport = (!is_extension(protocol)).then_some(offset);
    Ok(Reached {
        protocol,
        transport,
    })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const UDP: [u8; 8] = [0, 53, 2, 0, 0, 8, 0, 0];

    fn packet(next_header: u8, rest: &[&[u8]]) -> Vec<u8> {
        let mut bytes = std::vec![0; HEADER];
        bytes[0] = 0x60;
        bytes[6] = next_header;
        bytes[8] = 0x20;
        bytes[39] = 1;
        rest.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }

    fn ports(bytes: &[u8]) -> (u8, u16, u16) {
        let tuple = parse(bytes, bytes.len()).unwrap();
        (tuple.protocol, tuple.src_port, tuple.dst_port)
    }

    /// An extension header of `len` bytes.
    fn extension(next_header: u8, len: usize) -> Vec<u8> {
        let mut bytes = std::vec![0; len];
        bytes[0] = next_header;
        bytes[1] = (len / 8 - 1) as u8;
        bytes
    }

    #[test]
    fn addresses_are_those_of_the_header() {
        let tuple = parse(&packet(17, &[&UDP]), 48).unwrap();
        assert_eq!((tuple.src[0], tuple.dst[15]), (0x20, 1));
        assert_eq!(
            (tuple.protocol, tuple.src_port, tuple.dst_port),
            (17, 53, 512)
        );
    }

    #[test]
    fn extension_headers_are_walked() {
        let chain = [
            &extension(43, 16)[..],
            &extension(60, 24),
            &extension(17, 8),
            &UDP,
        ];
        assert_eq!(ports(&packet(0, &chain)), (17, 53, 512));
    }

    #[test]
    fn authentication_header_counts_in_words_of_four() {
        let mut auth = std::vec![0; 24];
        auth[0] = 17;
        auth[1] = 4;
        assert_eq!(ports(&packet(51, &[&auth, &UDP])), (17, 53, 512));
    }

    #[test]
    fn first_fragment_has_ports_and_later_ones_have_none() {
        let fragment = |offset: u16| {
            let [hi, lo] = (offset << 3 | 1).to_be_bytes();
            [17, 0, hi, lo, 0, 0, 0, 1]
        };
        assert_eq!(ports(&packet(44, &[&fragment(0), &UDP])), (17, 53, 512));
        assert_eq!(ports(&packet(44, &[&fragment(1), &UDP])), (17, 0, 0));
    }

    #[test]
    fn walk_is_bounded_in_headers_and_bytes() {
        let eight: Vec<_> = (0..8)
            .map(|i| extension(if i == 7 { 17 } else { 60 }, 8))
            .collect();
        let mut parts: Vec<&[u8]> = eight.iter().map(|part| &part[..]).collect();
        parts.push(&UDP);
        assert_eq!(ports(&packet(60, &parts)), (17, 53, 512));

        let nine: Vec<_> = (0..9)
            .map(|i| extension(if i == 8 { 17 } else { 60 }, 8))
            .collect();
        let mut parts: Vec<&[u8]> = nine.iter().map(|part| &part[..]).collect();
        parts.push(&UDP);
        assert_eq!(ports(&packet(60, &parts)), (60, 0, 0));

        assert_eq!(
            ports(&packet(60, &[&extension(17, 512), &UDP])),
            (17, 53, 512)
        );
        assert_eq!(ports(&packet(60, &[&extension(17, 520), &UDP])), (17, 0, 0));
    }

    #[test]
    fn what_the_packet_cuts_short_has_no_ports_and_what_the_buffer_does_asks_for_more() {
        let bytes = packet(0, &[&extension(17, 8), &UDP]);
        assert_eq!(parse(&bytes[..44], 44).unwrap().protocol, 0);
        for len in 0..52 {
            assert_eq!(
                parse(&bytes[..len], bytes.len()),
                Err(ParseError::NeedMore),
                "{len}"
            );
        }
        assert_eq!(ports(&bytes), (17, 53, 512));
        assert_eq!(parse(&bytes[..20], 20), Err(ParseError::Malformed));
    }

    #[test]
    fn esp_and_no_next_header_end_the_walk() {
        assert_eq!(ports(&packet(50, &[&UDP])), (50, 0, 0));
        assert_eq!(ports(&packet(59, &[&UDP])), (59, 0, 0));
    }
}
