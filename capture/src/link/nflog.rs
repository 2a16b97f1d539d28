// SPDX-License-Identifier: GPL-2.0-or-later
//! Netfilter's log: attributes, one of which is the packet from its IP header on.
//!
//! ```text
//! | family 1 | version 1 | group 2 | length 2 | type 2 | value, padded to 4 | length 2 | ...
//! ```
//!
//! The group is big-endian. Lengths and types have the byte order of the host that captured,
//! which the attributes themselves tell: only in one order do they add up.

use super::{IPV6_HEADER, MIN_IPV4_HEADER, Network, Packet};

const HEADER: usize = 4;
const VERSION: u8 = 0;
const ATTRIBUTE_HEADER: usize = 4;
const ALIGNMENT: usize = 4;
/// Flags stand above these bits of a type.
const TYPE_BITS: u16 = 0x3fff;
/// NFULA_PAYLOAD.
const PAYLOAD: u16 = 9;

/// NFPROTO_IPV4 and NFPROTO_IPV6.
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// The packet in a message of netfilter's log.
pub(super) fn network(bytes: &[u8]) -> Network<'_> {
    let &[family, VERSION, _, _, ..] = bytes else {
        return Network::Other;
    };
    let payload = payload(bytes, u16::from_le_bytes).or_else(|| payload(bytes, u16::from_be_bytes));
    let Some((offset, payload)) = payload else {
        return Network::Other;
    };
    // A rule may log less than the packet has: its own header tells how long it was.
    match (family, payload) {
        (IPV4, [_, _, high, low, ..]) => {
            let len = u32::from(u16::from_be_bytes([*high, *low]));
            Network::Ipv4(packet(payload, len, MIN_IPV4_HEADER, offset))
        }
        (IPV6, [_, _, _, _, high, low, ..]) => {
            let len = IPV6_HEADER + u32::from(u16::from_be_bytes([*high, *low]));
            Network::Ipv6(packet(payload, len, IPV6_HEADER, offset))
        }
        _ => Network::Other,
    }
}

fn packet(payload: &[u8], len: u32, least: u32, offset: usize) -> Packet<'_> {
    let logged = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    // Offloading may leave the field open.
    let is_told = len > least || (len == least && logged <= least);
    Packet::new(payload, if is_told { len } else { logged }, offset)
}

/// The payload and where it begins, where the attributes add up with lengths read so.
fn payload(bytes: &[u8], number: fn([u8; 2]) -> u16) -> Option<(usize, &[u8])> {
    let mut offset = HEADER;
    loop {
        let rest = bytes.get(offset..)?;
        let [a, b, c, d] = *rest.first_chunk::<ATTRIBUTE_HEADER>()?;
        let (len, kind) = (usize::from(number([a, b])), number([c, d]) & TYPE_BITS);
        if len < ATTRIBUTE_HEADER {
            return None;
        }
        if kind == PAYLOAD {
            // The capture may have cut it off.
            let value = rest.get(ATTRIBUTE_HEADER..len.min(rest.len()))?;
            return Some((offset + ATTRIBUTE_HEADER, value));
        }
        offset += len.next_multiple_of(ALIGNMENT);
    }
}

#[cfg(test)]
mod tests {
    use super::super::LinkType;
    use super::super::tests::{ipv4, ipv6, of};

    /// A message with a prefix and a payload.
    fn message(family: u8, packet: &[u8], bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let prefix = b"in: \0";
        let mut message = vec![family, 0, 0, 5];
        for (kind, value) in [(10, &prefix[..]), (9, packet)] {
            message.extend(bytes(value.len() as u16 + 4));
            message.extend(bytes(kind));
            message.extend(value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        message
    }

    #[test]
    fn payload_is_found_behind_a_prefix_in_both_byte_orders() {
        for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            let logged = message(2, &ipv4(41, 41), bytes);
            assert_eq!(of(LinkType::Nflog, &logged), Some((4, 41, 41)));
            let logged = message(10, &ipv6(9, 17, 49), bytes);
            assert_eq!(of(LinkType::Nflog, &logged), Some((6, 49, 49)));
        }
    }

    #[test]
    fn payload_that_the_rule_cut_keeps_its_length() {
        let logged = message(2, &ipv4(1500, 40), u16::to_le_bytes);
        assert_eq!(of(LinkType::Nflog, &logged), Some((4, 1500, 40)));
        let logged = message(10, &ipv6(1460, 17, 48), u16::to_le_bytes);
        assert_eq!(of(LinkType::Nflog, &logged), Some((6, 1500, 48)));
    }

    #[test]
    fn length_that_offload_left_open_is_the_payloads() {
        let logged = message(2, &ipv4(0, 3000), u16::to_le_bytes);
        assert_eq!(of(LinkType::Nflog, &logged), Some((4, 3000, 3000)));
    }

    #[test]
    fn message_without_a_payload_has_no_packet() {
        for logged in [
            &[2, 0][..],
            &[2, 0, 0, 5],
            &[2, 1, 0, 5, 44, 0, 9, 0, 0x45],
            &[2, 0, 0, 5, 0, 0, 9, 0],
            &[2, 0, 0, 5, 8, 0, 10, 0, 1, 2, 3, 4],
            &[7, 0, 0, 5, 5, 0, 9, 0, 0x45],
        ] {
            assert_eq!(of(LinkType::Nflog, logged), None, "{logged:x?}");
        }
    }
}
