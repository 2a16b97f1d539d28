// SPDX-License-Identifier: GPL-2.0-or-later
//! From a frame to the outermost IP packet in it.

mod nflog;
mod ppi;
mod ppp;

use crate::interface::InterfaceId;

/// IEEE 802 numbers: the EtherTypes that lead to IP.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// IEEE 802.1Q, IEEE 802.1ad, and what switches used before it.
const VLAN_TAGS: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
/// RFC 2516: a session's packets.
const PPPOE_SESSION: u16 = 0x8864;
/// RFC 5332.
const MPLS: [u16; 2] = [0x8847, 0x8848];
/// IEEE 802.3: below, the field is a length and LLC follows.
const MIN_ETHERTYPE: u16 = 0x0600;
/// RFC 1042: LLC and SNAP before an EtherType.
const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0];

/// Address families of the BSDs, macOS and Linux.
const AF_INET: u32 = 2;
const AF_INET6: [u32; 4] = [10, 24, 28, 30];

/// RFC 791 section 3.1.
const MIN_IPV4_HEADER: u32 = 20;
/// RFC 8200 section 3.
const IPV6_HEADER: u32 = 40;
const MAX_IPV6_LEN: u32 = IPV6_HEADER + u16::MAX as u32;
const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// Address family in the capturing machine's byte order.
    Null,
    /// Ethernet, with tags and MPLS labels.
    Ethernet,
    /// The IP header itself, of either version.
    Raw,
    /// Address family in network byte order.
    Loop,
    /// Linux cooked capture.
    LinuxSll,
    /// Linux cooked capture, version 2.
    LinuxSll2,
    /// The IPv4 header itself.
    Ipv4,
    /// The IPv6 header itself.
    Ipv6,
    /// PPP, with or without an HDLC-like address and control field.
    Ppp,
    /// One byte for the direction, then PPP.
    PppWithDirection,
    /// A PPPoE session's header, then PPP.
    Pppoe,
    /// Cisco HDLC.
    CiscoHdlc,
    /// Attributes of netfilter's log.
    Nflog,
    /// A header that tells the link type of what follows it.
    Ppi,
}

/// The IP packet in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network<'a> {
    /// IPv4.
    Ipv4(Packet<'a>),
    /// IPv6.
    Ipv6(Packet<'a>),
    /// No IP, or not to be found.
    Other,
}

/// An IP packet without what the link layer put before and behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What was captured of it.
    pub bytes: &'a [u8],
    /// Its length on the wire, in layer-3 bytes.
    pub len: u32,
    /// Bytes of the frame before it.
    pub offset: u32,
}

impl LinkType {
    /// The link type of a number in a capture file
    /// (<https://www.tcpdump.org/linktypes.html>).
    pub fn of_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Null,
            1 => Self::Ethernet,
            // What some systems have written for 101.
            12 | 14 | 101 => Self::Raw,
            // PPP, PPP in HDLC-like framing, and what pppd writes, whose first byte tells the
            // direction in place of the address.
            9 | 50 | 166 => Self::Ppp,
            51 => Self::Pppoe,
            104 => Self::CiscoHdlc,
            108 => Self::Loop,
            113 => Self::LinuxSll,
            192 => Self::Ppi,
            204 => Self::PppWithDirection,
            228 => Self::Ipv4,
            229 => Self::Ipv6,
            239 => Self::Nflog,
            276 => Self::LinuxSll2,
            _ => return None,
        })
    }
}

/// The IP packet in a frame of `wire_len` bytes, of which `bytes` were captured.
#[inline]
pub fn network(link: LinkType, bytes: &[u8], wire_len: u32) -> Network<'_> {
    // A frame is at least as long as what was captured of it, whatever the file says.
    let wire_len = wire_len.max(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    let frame = WholeFrame { bytes, wire_len };
    match link {
        LinkType::Ethernet => match frame.u16_at(12) {
            Some(ethertype) => frame.behind(ethertype, 14),
            None => Network::Other,
        },
        LinkType::Raw => frame.by_version(0),
        LinkType::Ipv4 => frame.ipv4(0),
        LinkType::Ipv6 => frame.ipv6(0),
        LinkType::LinuxSll => match frame.u16_at(14) {
            Some(ethertype) => frame.behind(ethertype, 16),
            None => Network::Other,
        },
        LinkType::LinuxSll2 => match frame.u16_at(0) {
            Some(ethertype) => frame.behind(ethertype, 20),
            None => Network::Other,
        },
        LinkType::Loop => frame.of_family(u32::from_be_bytes),
        LinkType::Null => frame.of_family(|bytes| {
            // Families are small numbers, so the order of the bytes shows.
            u32::from_le_bytes(bytes).min(u32::from_be_bytes(bytes))
        }),
        _ => frame.rare(link),
    }
}

/// The interface that a cooked header tells of: its index, or in version 1, which has none, all
/// that the header says of the link layer.
///
/// ```text
/// version 1: | packet type 2 | hardware 2 | address length 2 | address 8 | EtherType 2 |
/// version 2: | EtherType 2 | 0 | index 4 | hardware 2 | packet type 1 | length 1 | address 8 |
/// ```
#[inline]
pub fn interface(link: LinkType, bytes: &[u8]) -> Option<InterfaceId> {
    match link {
        LinkType::LinuxSll => {
            let header: &[u8; 14] = bytes.first_chunk()?;
            Some(InterfaceId::of_header(header))
        }
        LinkType::LinuxSll2 => {
            let index = *bytes.get(4..)?.first_chunk()?;
            Some(InterfaceId::Index(u32::from_be_bytes(index)))
        }
        _ => None,
    }
}

#[derive(Clone, Copy)]
struct WholeFrame<'a> {
    bytes: &'a [u8],
    wire_len: u32,
}

impl<'a> WholeFrame<'a> {
    /// What follows the header of a link type that few captures have.
    #[cold]
    fn rare(self, link: LinkType) -> Network<'a> {
        match link {
            LinkType::Ppp => self.behind_hdlc(0),
            LinkType::PppWithDirection => self.behind_hdlc(1),
            LinkType::Pppoe => self.behind_pppoe(0),
            LinkType::CiscoHdlc => self.behind_cisco_hdlc(0),
            LinkType::Nflog => nflog::network(self.bytes),
            LinkType::Ppi => ppi::network(self.bytes, self.wire_len),
            _ => Network::Other,
        }
    }

    #[inline]
    fn u16_at(&self, offset: usize) -> Option<u16> {
        let field = self.bytes.get(offset..)?.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*field))
    }

    /// What follows an EtherType, through tags and labels; each is some bytes long, so
    /// the walk ends with the frame.
    #[inline]
    fn behind(&self, ethertype: u16, offset: usize) -> Network<'a> {
        match ethertype {
            IPV4 => self.ipv4(offset),
            IPV6 => self.ipv6(offset),
            _ => self.behind_others(ethertype, offset),
        }
    }

    #[cold]
    fn behind_others(&self, mut ethertype: u16, mut offset: usize) -> Network<'a> {
        loop {
            let next = match ethertype {
                IPV4 => return self.ipv4(offset),
                IPV6 => return self.ipv6(offset),
                PPPOE_SESSION => return self.behind_pppoe(offset),
                _ if MPLS.contains(&ethertype) => return self.behind_labels(offset),
                _ if VLAN_TAGS.contains(&ethertype) => offset + 2,
                _ if ethertype < MIN_ETHERTYPE && self.has_snap(offset) => offset + SNAP.len(),
                _ => return Network::Other,
            };
            match self.u16_at(next) {
                Some(found) => (ethertype, offset) = (found, next + 2),
                None => return Network::Other,
            }
        }
    }

    fn has_snap(&self, offset: usize) -> bool {
        let rest = self.bytes.get(offset..).unwrap_or_default();
        rest.starts_with(&SNAP)
    }

    /// RFC 3032: labels of four bytes, the last of which has the bottom bit. What follows
    /// is told by its first four bits, as routers do.
    fn behind_labels(&self, mut offset: usize) -> Network<'a> {
        loop {
            let Some(&[_, _, bottom, _]) = self
                .bytes
                .get(offset..)
                .and_then(|rest| rest.first_chunk::<4>())
            else {
                return Network::Other;
            };
            offset += 4;
            if bottom & 1 != 0 {
                return self.by_version(offset);
            }
        }
    }

    fn by_version(&self, offset: usize) -> Network<'a> {
        match self.bytes.get(offset).map(|byte| byte >> 4) {
            Some(4) => self.ipv4(offset),
            Some(6) => self.ipv6(offset),
            _ => Network::Other,
        }
    }

    fn of_family(&self, number: impl Fn([u8; 4]) -> u32) -> Network<'a> {
        match self.bytes.first_chunk::<4>().map(|bytes| number(*bytes)) {
            Some(AF_INET) => self.ipv4(4),
            Some(family) if AF_INET6.contains(&family) => self.ipv6(4),
            _ => Network::Other,
        }
    }

    /// RFC 791: the header's total length, where that can be. 0 is what segmentation
    /// offload leaves to the network card; more than there is on the wire is wrong.
    #[inline]
    fn ipv4(&self, offset: usize) -> Network<'a> {
        let (bytes, on_wire) = self.from(offset);
        let total = match bytes {
            [_, _, high, low, ..] => u32::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        };
        let is_possible = (MIN_IPV4_HEADER..=on_wire).contains(&total);
        let len = if is_possible { total } else { on_wire };
        Network::Ipv4(Packet::new(bytes, len, offset))
    }

    /// RFC 8200: the header and its payload length, where that can be. It is 0 in
    /// jumbograms, and in what segmentation offload makes of TCP beyond 64 KiB; in a frame that
    /// the field could tell the length of, it is that of a packet without payload.
    #[inline]
    fn ipv6(&self, offset: usize) -> Network<'a> {
        let (bytes, on_wire) = self.from(offset);
        let len = match bytes {
            [_, _, _, _, 0, 0, HOP_BY_HOP | TCP, ..] if on_wire > MAX_IPV6_LEN => on_wire,
            [_, _, _, _, high, low, ..] => {
                let len = IPV6_HEADER + u32::from(u16::from_be_bytes([*high, *low]));
                len.min(on_wire)
            }
            _ => on_wire,
        };
        Network::Ipv6(Packet::new(bytes, len, offset))
    }

    #[inline]
    fn from(&self, offset: usize) -> (&'a [u8], u32) {
        let bytes = self.bytes.get(offset..).unwrap_or_default();
        (bytes, self.wire_len.saturating_sub(offset as u32))
    }
}

impl<'a> Packet<'a> {
    #[inline]
    fn new(bytes: &'a [u8], len: u32, offset: usize) -> Self {
        let captured = bytes.len().min(len as usize);
        Self {
            bytes: bytes.get(..captured).unwrap_or_default(),
            len,
            offset: offset as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: [u8; 12] = [2; 12];

    pub(super) fn ipv4(total_len: u16, captured: usize) -> Vec<u8> {
        let mut bytes = vec![0; captured];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&total_len.to_be_bytes());
        bytes
    }

    pub(super) fn ipv6(payload_len: u16, next_header: u8, captured: usize) -> Vec<u8> {
        let mut bytes = vec![0; captured];
        bytes[0] = 0x60;
        bytes[4..6].copy_from_slice(&payload_len.to_be_bytes());
        bytes[6] = next_header;
        bytes
    }

    pub(super) fn ethernet(between: &[u8], packet: &[u8]) -> Vec<u8> {
        [&MACS, between, packet].concat()
    }

    fn len(network: Network<'_>) -> Option<(u8, u32, usize)> {
        match network {
            Network::Ipv4(packet) => Some((4, packet.len, packet.bytes.len())),
            Network::Ipv6(packet) => Some((6, packet.len, packet.bytes.len())),
            Network::Other => None,
        }
    }

    pub(super) fn of(link: LinkType, bytes: &[u8]) -> Option<(u8, u32, usize)> {
        len(network(link, bytes, bytes.len() as u32))
    }

    #[test]
    fn padding_of_short_ethernet_frames_is_no_part_of_the_packet() {
        let frame = ethernet(&[8, 0], &ipv4(28, 46));
        assert_eq!(of(LinkType::Ethernet, &frame), Some((4, 28, 28)));
        let frame = ethernet(&[0x86, 0xdd], &ipv6(0, 59, 46));
        assert_eq!(of(LinkType::Ethernet, &frame), Some((6, 40, 40)));
    }

    #[test]
    fn tags_and_labels_are_passed_over() {
        let packet = ipv4(40, 40);
        let v6 = ipv6(8, 17, 48);
        for between in [
            &[0x81, 0, 0, 7, 8, 0][..],
            &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9, 8, 0],
            &[0x91, 0, 0, 7, 0x81, 0, 0, 9, 8, 0],
            &[0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64],
            &[0x81, 0, 0, 7, 0x88, 0x47, 0, 2, 1, 64],
            &[0, 48, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0],
        ] {
            let frame = ethernet(between, &packet);
            assert_eq!(
                of(LinkType::Ethernet, &frame),
                Some((4, 40, 40)),
                "{between:x?}"
            );
        }
        let frame = ethernet(&[0x88, 0x48, 0, 2, 1, 64], &v6);
        assert_eq!(of(LinkType::Ethernet, &frame), Some((6, 48, 48)));
    }

    #[test]
    fn frame_that_ends_in_its_tags_has_no_packet() {
        for between in [
            &[][..],
            &[8],
            &[0x81, 0],
            &[0x81, 0, 0, 7, 8],
            &[0x88, 0x47, 0, 1, 0],
            &[0x88, 0x47, 0, 1, 0, 64],
            &[8, 6],
            &[0, 48, 0xaa, 0xaa, 3, 0, 0, 0, 8],
        ] {
            let frame = ethernet(between, &[]);
            assert_eq!(of(LinkType::Ethernet, &frame), None, "{between:x?}");
        }
    }

    #[test]
    fn every_link_type_leads_to_its_packet() {
        let packet = ipv4(40, 40);
        let behind = |header: &[u8]| [header, &packet].concat();
        let mut sll = [0; 16];
        sll[14] = 8;
        let mut sll2 = [0; 20];
        sll2[0] = 8;
        for (link, frame) in [
            (LinkType::Raw, packet.clone()),
            (LinkType::Ipv4, packet.clone()),
            (LinkType::LinuxSll, behind(&sll)),
            (LinkType::LinuxSll2, behind(&sll2)),
            (LinkType::Loop, behind(&[0, 0, 0, 2])),
            (LinkType::Null, behind(&[2, 0, 0, 0])),
            (LinkType::Null, behind(&[0, 0, 0, 2])),
        ] {
            assert_eq!(of(link, &frame), Some((4, 40, 40)), "{link:?}");
        }
        let packet = ipv6(8, 17, 48);
        for family in [10, 24, 28, 30] {
            let frame = [&[family, 0, 0, 0], &packet[..]].concat();
            assert_eq!(of(LinkType::Null, &frame), Some((6, 48, 48)), "{family}");
        }
        assert_eq!(of(LinkType::Raw, &packet), Some((6, 48, 48)));
        assert_eq!(of(LinkType::Ipv6, &packet), Some((6, 48, 48)));
    }

    #[test]
    fn length_that_offload_left_open_is_the_frames() {
        assert_eq!(of(LinkType::Raw, &ipv4(0, 3000)), Some((4, 3000, 3000)));
        for next_header in [6, 0] {
            assert_eq!(
                of(LinkType::Raw, &ipv6(0, next_header, 70_000)),
                Some((6, 70_000, 70_000))
            );
        }
    }

    #[test]
    fn length_beyond_the_wire_is_the_wires() {
        assert_eq!(of(LinkType::Raw, &ipv4(9000, 60)), Some((4, 60, 60)));
        assert_eq!(of(LinkType::Raw, &ipv6(9000, 17, 60)), Some((6, 60, 60)));
    }

    #[test]
    fn cut_frame_keeps_its_length_on_the_wire() {
        let packet = ipv4(1500, 40);
        assert_eq!(
            len(network(LinkType::Raw, &packet, 1500)),
            Some((4, 1500, 40))
        );
    }
}
