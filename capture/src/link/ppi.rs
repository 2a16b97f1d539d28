// SPDX-License-Identifier: GPL-2.0-or-later
//! Per-Packet Information (CACE): a header of any length, then a frame of the link type that it
//! names. All of it is little-endian.
//!
//! ```text
//! | version 1 | flags 1 | header's length 2 | link type 4 | fields ... | frame ...
//! ```

use super::{LinkType, Network, Packet};

const HEADER: usize = 8;

/// The packet in the frame behind the header.
pub(super) fn network(bytes: &[u8], wire_len: u32) -> Network<'_> {
    let Some(&[0, _, low, high, l0, l1, l2, l3]) = bytes.first_chunk::<HEADER>() else {
        return Network::Other;
    };
    let len = u16::from_le_bytes([low, high]);
    let link = LinkType::of_number(u32::from_le_bytes([l0, l1, l2, l3]));
    let (Some(link), Some(frame)) = (link, bytes.get(usize::from(len)..)) else {
        return Network::Other;
    };
    // One such header in another says nothing that the first did not.
    if usize::from(len) < HEADER || link == LinkType::Ppi {
        return Network::Other;
    }
    match super::network(link, frame, wire_len.saturating_sub(u32::from(len))) {
        Network::Ipv4(packet) => Network::Ipv4(packet.behind(len)),
        Network::Ipv6(packet) => Network::Ipv6(packet.behind(len)),
        Network::Other => Network::Other,
    }
}

impl Packet<'_> {
    /// The packet of a frame that begins behind `len` other bytes.
    fn behind(self, len: u16) -> Self {
        Self {
            offset: self.offset + u32::from(len),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ethernet, ipv4, of};
    use super::*;

    fn ppi(len: u16, link: u32, fields: &[u8], frame: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0];
        bytes.extend(len.to_le_bytes());
        bytes.extend(link.to_le_bytes());
        [&bytes, fields, frame].concat()
    }

    #[test]
    fn frame_is_found_behind_a_header_of_any_length() {
        let frame = ethernet(&[8, 0], &ipv4(28, 46));
        for fields in [&[][..], &[2, 0, 4, 0, 1, 2, 3, 4]] {
            let bytes = ppi(8 + fields.len() as u16, 1, fields, &frame);
            assert_eq!(of(LinkType::Ppi, &bytes), Some((4, 28, 28)));
        }
    }

    #[test]
    fn header_that_cannot_be_has_no_packet() {
        let frame = ethernet(&[8, 0], &ipv4(28, 46));
        for bytes in [
            ppi(8, 192, &[], &ppi(8, 1, &[], &frame)),
            ppi(7, 1, &[], &frame),
            ppi(900, 1, &[], &frame),
            ppi(8, 105, &[], &frame),
            vec![0; 7],
        ] {
            assert_eq!(of(LinkType::Ppi, &bytes), None);
        }
    }
}
