// SPDX-License-Identifier: GPL-2.0-or-later
//! The frames in a block of the ring.
//!
//! A block begins with `struct tpacket_block_desc`, which says how many frames it has and
//! where the first is. A frame begins with `struct tpacket3_hdr`, which says where the next
//! is, then has `struct sockaddr_ll`, `struct virtio_net_hdr` and the frame itself. All
//! numbers are in the machine's order, but for the protocol.

use std::mem::{offset_of, size_of};

use libc::{sockaddr_ll, tpacket_block_desc, tpacket_hdr_v1, tpacket3_hdr};

use crate::link::LinkType;
use crate::{Frame, Segments};

const COUNT: usize = offset_of!(tpacket_block_desc, hdr) + offset_of!(tpacket_hdr_v1, num_pkts);
const FIRST: usize =
    offset_of!(tpacket_block_desc, hdr) + offset_of!(tpacket_hdr_v1, offset_to_first_pkt);
/// `TPACKET_ALIGN(sizeof(struct tpacket3_hdr))`.
const ADDRESS: usize = size_of::<tpacket3_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);

/// The frames that a block has for this host, or from it.
pub(super) struct Frames<'a> {
    block: &'a [u8],
    left: u32,
    offset: usize,
}

/// VIRTIO 1.2 section 5.1.6, of a version without the number of buffers.
mod virtio {
    pub(super) const BYTES: usize = 10;
    pub(super) const FLAGS: usize = 0;
    pub(super) const GSO_TYPE: usize = 1;
    pub(super) const GSO_SIZE: usize = 4;
    pub(super) const CHECKSUM_START: usize = 6;
    pub(super) const NEEDS_CHECKSUM: u8 = 1;
    pub(super) const GSO_NONE: u8 = 0;
    /// Fragments of UDP, each of which repeats the IP header alone.
    pub(super) const GSO_UDP: u8 = 3;
    pub(super) const GSO_UDP_L4: u8 = 5;
    /// A flag beside the type.
    pub(super) const GSO_ECN: u8 = 0x80;
}

const UDP_HEADER: u16 = 8;
const IPV6_HEADER: u16 = 40;

impl<'a> Frames<'a> {
    pub(super) fn of(block: &'a [u8]) -> Self {
        Self {
            block,
            left: u32_at(block, COUNT).unwrap_or_default(),
            offset: u32_at(block, FIRST).unwrap_or_default() as usize,
        }
    }

    /// The frame that begins here; none where it is not all there, and within that none for a
    /// frame that is not this host's.
    fn here(&self) -> Option<Option<Frame<'a>>> {
        let here = self.block.get(self.offset..)?;
        let field = |offset| u32_at(here, offset);
        let kept = field(offset_of!(tpacket3_hdr, tp_snaplen))? as usize;
        let wire_len = field(offset_of!(tpacket3_hdr, tp_len))?;
        let link = usize::from(u16_at(here, offset_of!(tpacket3_hdr, tp_mac))?);
        let network = usize::from(u16_at(here, offset_of!(tpacket3_hdr, tp_net))?);
        let address = here.get(ADDRESS..)?;
        let protocol = u16_at(address, offset_of!(sockaddr_ll, sll_protocol))?;
        let hardware = u16_at(address, offset_of!(sockaddr_ll, sll_hatype))?;
        let packet_type = *address.get(offset_of!(sockaddr_ll, sll_pkttype))?;
        let bytes = here.get(link..)?.get(..kept)?;
        let offload = here.get(link.checked_sub(virtio::BYTES)?..link)?;
        if !is_counted(packet_type, hardware) {
            return Some(None);
        }
        let network = network.saturating_sub(link);
        let segments = segments(offload, bytes, network);
        let frame = Frame {
            link: Some(LinkType::Ethernet),
            interface: None,
            time_ns: None,
            bytes,
            wire_len,
            segments,
        };
        if [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(&hardware) {
            return Some(Some(frame));
        }
        // What the header is, if there is one, does not matter: the kernel has passed it.
        let behind = |header_len: u16| header_len.saturating_sub(network as u16);
        Some(Some(Frame {
            link: match i32::from(u16::from_be(protocol)) {
                libc::ETH_P_IP => Some(LinkType::Ipv4),
                libc::ETH_P_IPV6 => Some(LinkType::Ipv6),
                _ => None,
            },
            bytes: bytes.get(network..).unwrap_or_default(),
            wire_len: wire_len.saturating_sub(network as u32),
            segments: segments.map(|segments| Segments {
                header_len: behind(segments.header_len),
                ..segments
            }),
            ..frame
        }))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        while self.left > 0 {
            let found = self.here()?;
            self.left -= 1;
            let step = u32_at(self.block.get(self.offset..)?, 0).unwrap_or_default() as usize;
            self.offset = self.offset.checked_add(step)?;
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

/// As the module's rules see a host's packets: not those for other hosts, which an interface
/// shows when somebody made it promiscuous, and those of the loopback interface once.
fn is_counted(packet_type: u8, hardware: u16) -> bool {
    match packet_type {
        libc::PACKET_OTHERHOST => false,
        libc::PACKET_OUTGOING => hardware != libc::ARPHRD_LOOPBACK,
        _ => true,
    }
}

/// What offloading makes of the frame, or has made it of. How long the headers are stands in
/// them: the kernel's own field says how much of the frame it holds in one piece.
fn segments(offload: &[u8], bytes: &[u8], network: usize) -> Option<Segments> {
    let kind = offload.get(virtio::GSO_TYPE)? & !virtio::GSO_ECN;
    if kind == virtio::GSO_NONE {
        return None;
    }
    let needs_checksum = offload.get(virtio::FLAGS)? & virtio::NEEDS_CHECKSUM != 0;
    let transport = match needs_checksum {
        true => u16_at(offload, virtio::CHECKSUM_START)?,
        false => behind_network(bytes, network)?,
    };
    let header_len = match kind {
        virtio::GSO_UDP => 0,
        virtio::GSO_UDP_L4 => UDP_HEADER,
        // RFC 9293 section 3.1: the data offset, in words of 32 bits.
        _ => u16::from(bytes.get(usize::from(transport) + 12)? >> 4) * 4,
    };
    Some(Segments {
        size: u16_at(offload, virtio::GSO_SIZE)?,
        header_len: transport.saturating_add(header_len),
    })
}

/// Where the network header ends that begins at `network`.
fn behind_network(bytes: &[u8], network: usize) -> Option<u16> {
    let first = *bytes.get(network)?;
    let len = match first >> 4 {
        4 => u16::from(first & 0xf) * 4,
        _ => IPV6_HEADER,
    };
    u16::try_from(network).ok()?.checked_add(len)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*field))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a frame in a block is made of.
    struct Captured {
        hardware: u16,
        packet_type: u8,
        protocol: i32,
        offload: [u8; virtio::BYTES],
        network: usize,
        bytes: Vec<u8>,
        wire_len: u32,
    }

    impl Captured {
        fn ethernet(bytes: &[u8]) -> Self {
            Self {
                hardware: libc::ARPHRD_ETHER,
                packet_type: libc::PACKET_HOST,
                protocol: libc::ETH_P_IP,
                offload: [0; virtio::BYTES],
                network: 14,
                bytes: bytes.to_vec(),
                wire_len: bytes.len() as u32,
            }
        }
    }

    /// A block as the kernel lays it out.
    fn block(captured: &[Captured]) -> Vec<u8> {
        let mut block = vec![0; size_of::<tpacket_block_desc>()];
        put(&mut block, COUNT, &(captured.len() as u32).to_ne_bytes());
        let first = block.len() as u32;
        put(&mut block, FIRST, &first.to_ne_bytes());
        for one in captured {
            let link = ADDRESS + size_of::<sockaddr_ll>() + virtio::BYTES;
            let mut frame = vec![0; link];
            let len = (link + one.bytes.len()).next_multiple_of(8);
            for (offset, number) in [
                (0, len as u32),
                (offset_of!(tpacket3_hdr, tp_snaplen), one.bytes.len() as u32),
                (offset_of!(tpacket3_hdr, tp_len), one.wire_len),
            ] {
                put(&mut frame, offset, &number.to_ne_bytes());
            }
            let at = |field| ADDRESS + field;
            for (offset, number) in [
                (offset_of!(tpacket3_hdr, tp_mac), link as u16),
                (
                    offset_of!(tpacket3_hdr, tp_net),
                    (link + one.network) as u16,
                ),
                (
                    at(offset_of!(sockaddr_ll, sll_protocol)),
                    (one.protocol as u16).to_be(),
                ),
                (at(offset_of!(sockaddr_ll, sll_hatype)), one.hardware),
            ] {
                put(&mut frame, offset, &number.to_ne_bytes());
            }
            put(
                &mut frame,
                at(offset_of!(sockaddr_ll, sll_pkttype)),
                &[one.packet_type],
            );
            put(&mut frame, link - virtio::BYTES, &one.offload);
            frame.extend(&one.bytes);
            frame.resize(len, 0);
            block.extend(frame);
        }
        block
    }

    fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    }

    /// Ethernet, IPv4 of 20 bytes and TCP of 32.
    fn tcp() -> Vec<u8> {
        let mut bytes = vec![0; 14 + 20 + 32];
        bytes[12] = 8;
        bytes[14] = 0x45;
        bytes[14 + 20 + 12] = 0x80;
        bytes
    }

    fn offload(flags: u8, kind: u8, size: u16, checksum_start: u16) -> [u8; virtio::BYTES] {
        let mut offload = [0; virtio::BYTES];
        put(&mut offload, virtio::FLAGS, &[flags]);
        put(&mut offload, virtio::GSO_TYPE, &[kind]);
        put(&mut offload, virtio::GSO_SIZE, &size.to_ne_bytes());
        put(
            &mut offload,
            virtio::CHECKSUM_START,
            &checksum_start.to_ne_bytes(),
        );
        offload
    }

    #[test]
    fn frames_of_a_block_come_in_their_order() {
        let frames = [&[1; 20][..], &[2; 33], &[3; 60]];
        let block = block(&frames.map(Captured::ethernet));
        let found: Vec<&[u8]> = Frames::of(&block).map(|frame| frame.bytes).collect();
        assert_eq!(found, frames);
    }

    #[test]
    fn headers_of_segments_end_where_their_payload_begins() {
        const TCPV4: u8 = 1;
        for (offload, header_len) in [
            (offload(1, TCPV4, 1448, 34), 14 + 20 + 32),
            (offload(0, TCPV4, 1448, 0), 14 + 20 + 32),
            (offload(1, TCPV4 | virtio::GSO_ECN, 1448, 34), 14 + 20 + 32),
            (offload(1, virtio::GSO_UDP_L4, 1448, 34), 14 + 20 + 8),
            (offload(0, virtio::GSO_UDP, 1448, 0), 14 + 20),
        ] {
            let block = block(&[Captured {
                offload,
                wire_len: 40_000,
                ..Captured::ethernet(&tcp())
            }]);
            let frame = Frames::of(&block).next().unwrap();
            let size = 1448;
            assert_eq!(frame.segments, Some(Segments { size, header_len }));
            assert_eq!(frame.wire_len, 40_000);
        }
        let block = block(&[Captured::ethernet(&tcp())]);
        assert_eq!(Frames::of(&block).next().unwrap().segments, None);
    }

    #[test]
    fn interface_without_ethernet_shows_its_ip_packets() {
        let inner = &tcp()[14..];
        let of = |network: usize, protocol| Captured {
            hardware: libc::ARPHRD_NONE,
            network,
            protocol,
            offload: offload(1, 1, 1448, network as u16 + 20),
            bytes: [&vec![0xff; network][..], inner].concat(),
            wire_len: 3000,
            ..Captured::ethernet(&[])
        };
        for network in [0, 4] {
            let block = block(&[of(network, libc::ETH_P_IP), of(network, libc::ETH_P_ARP)]);
            let found: Vec<Frame<'_>> = Frames::of(&block).collect();
            assert_eq!(found[0].link, Some(LinkType::Ipv4));
            assert_eq!(found[0].bytes, inner);
            assert_eq!(found[0].wire_len, 3000 - network as u32);
            assert_eq!(found[0].segments.unwrap().header_len, 52);
            assert_eq!(found[1].link, None);
        }
    }

    #[test]
    fn other_hosts_frames_and_the_loopbacks_outgoing_ones_are_left_out() {
        let of = |hardware, packet_type| {
            let block = block(&[Captured {
                hardware,
                packet_type,
                ..Captured::ethernet(&tcp())
            }]);
            Frames::of(&block).count()
        };
        assert_eq!(of(libc::ARPHRD_ETHER, libc::PACKET_OTHERHOST), 0);
        assert_eq!(of(libc::ARPHRD_ETHER, libc::PACKET_OUTGOING), 1);
        assert_eq!(of(libc::ARPHRD_LOOPBACK, libc::PACKET_OUTGOING), 0);
        assert_eq!(of(libc::ARPHRD_LOOPBACK, libc::PACKET_HOST), 1);
        assert_eq!(of(libc::ARPHRD_ETHER, libc::PACKET_MULTICAST), 1);
    }

    #[test]
    fn block_that_ends_within_a_frame_has_the_frames_before_it() {
        let block = block(&[Captured::ethernet(&[1; 20]), Captured::ethernet(&[2; 33])]);
        for end in 0..block.len() - 7 {
            assert!(Frames::of(&block[..end]).count() < 2, "{end}");
        }
        assert_eq!(Frames::of(&block).count(), 2);
    }
}
