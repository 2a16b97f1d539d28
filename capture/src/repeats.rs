// SPDX-License-Identifier: GPL-2.0-or-later
//! The same packet on several interfaces: a bridge's port, the bridge and the uplink all see it.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use trafstat_core::parse::transport;

use crate::interface::InterfaceId;
use crate::link::Network;

/// The longest time between two sightings of one packet: a millisecond.
const WINDOW_NS: u64 = 1_000_000;

/// The bytes of a packet, from its IP header on, that tell it from others.
const COMPARED_BYTES: usize = 256;

/// Packets that are remembered at most, whatever their timestamps say.
const MAX_REMEMBERED: usize = 1 << 16;

/// Offsets of bytes that routers change, which the comparison leaves out: type of service, time to
/// live and checksum of IPv4; traffic class, flow label and hop limit of IPv6.
const IPV4_CHANGES: &[usize] = &[1, 8, 10, 11];
const IPV6_CHANGES: &[usize] = &[0, 1, 2, 3, 7];
/// Offloading leaves these checksums to the network card, which fills them in on the wire alone.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

const IPV6_HEADER: usize = 40;

/// The packets that were seen within the last millisecond.
#[derive(Default)]
pub struct Repeats {
    hasher: RandomState,
    sightings: HashMap<u64, Sighting, RandomState>,
    /// When each of them is forgotten, the oldest first.
    order: VecDeque<(u64, u64)>,
}

/// Where and when a packet was first seen.
#[derive(Clone, Copy)]
struct Sighting {
    time_ns: u64,
    interface: InterfaceId,
}

impl Repeats {
    /// Whether another interface saw this packet within the millisecond before; remembers it.
    ///
    /// One that comes again on the interface that saw it first is another packet.
    pub fn is_repeat(
        &mut self,
        network: &Network<'_>,
        time_ns: u64,
        interface: InterfaceId,
    ) -> bool {
        let Some(hash) = self.hash(network) else {
            return false;
        };
        self.forget(time_ns);
        let now = Sighting { time_ns, interface };
        match self.sightings.get_mut(&hash) {
            Some(first) if first.interface != interface && first.is_near(time_ns) => true,
            Some(first) => {
                *first = now;
                self.order.push_back((time_ns, hash));
                false
            }
            None => {
                self.sightings.insert(hash, now);
                self.order.push_back((time_ns, hash));
                false
            }
        }
    }

    fn hash(&self, network: &Network<'_>) -> Option<u64> {
        let (packet, changes) = match network {
            Network::Ipv4(packet) => (packet, IPV4_CHANGES),
            Network::Ipv6(packet) => (packet, IPV6_CHANGES),
            Network::Other => return None,
        };
        let mut bytes = [0; COMPARED_BYTES];
        let len = packet.bytes.len().min(COMPARED_BYTES);
        let compared = bytes.get_mut(..len)?;
        compared.copy_from_slice(packet.bytes.get(..len)?);
        let transport = match network {
            Network::Ipv4(_) => {
                let header = usize::from(*compared.first()? & 0x0f) * 4;
                let fragment = u16::from_be_bytes([*compared.get(6)?, *compared.get(7)?]) & 0x1fff;
                (fragment == 0).then_some((*compared.get(9)?, header))
            }
            _ => Some((*compared.get(6)?, IPV6_HEADER)),
        };
        let checksum = match transport {
            Some((transport::TCP, header)) => Some(header + TCP_CHECKSUM),
            Some((transport::UDP, header)) => Some(header + UDP_CHECKSUM),
            _ => None,
        };
        let checksum = checksum.into_iter().flat_map(|offset| [offset, offset + 1]);
        for offset in changes.iter().copied().chain(checksum) {
            if let Some(byte) = compared.get_mut(offset) {
                *byte = 0;
            }
        }
        Some(self.hasher.hash_one((packet.len, compared)))
    }

    /// Forgets what was seen too long ago, and the oldest where there are too many.
    fn forget(&mut self, now_ns: u64) {
        while let Some(&(time_ns, hash)) = self.order.front() {
            let is_near = now_ns.abs_diff(time_ns) <= WINDOW_NS;
            if is_near && self.order.len() < MAX_REMEMBERED {
                break;
            }
            self.order.pop_front();
            if self
                .sightings
                .get(&hash)
                .is_some_and(|sighting| sighting.time_ns == time_ns)
            {
                self.sightings.remove(&hash);
            }
        }
    }
}

impl Sighting {
    /// Interfaces' frames may be written in another order than they were seen.
    fn is_near(&self, time_ns: u64) -> bool {
        self.time_ns.abs_diff(time_ns) <= WINDOW_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{LinkType, network};

    const UPLINK: InterfaceId = InterfaceId::Index(2);
    const BRIDGE: InterfaceId = InterfaceId::Index(3);
    const PORT: InterfaceId = InterfaceId::Index(4);
    const MICROSECOND: u64 = 1000;

    /// A UDP packet with a number of its own.
    fn packet(id: u16, ttl: u8, checksum: u16) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 32];
        bytes.extend(id.to_be_bytes());
        bytes.extend([0, 0, ttl, 17, ttl, ttl, 10, 0, 0, 1, 192, 0, 2, 1]);
        bytes.extend([0x9c, 0x40, 0, 53, 0, 12]);
        bytes.extend(checksum.to_be_bytes());
        bytes.extend(b"data");
        bytes
    }

    fn see(repeats: &mut Repeats, bytes: &[u8], time_ns: u64, interface: InterfaceId) -> bool {
        let network = network(LinkType::Raw, bytes, bytes.len() as u32);
        repeats.is_repeat(&network, time_ns, interface)
    }

    #[test]
    fn packet_on_its_way_through_interfaces_is_one() {
        let mut repeats = Repeats::default();
        assert!(!see(&mut repeats, &packet(1, 64, 7), 0, PORT));
        assert!(see(&mut repeats, &packet(1, 64, 7), MICROSECOND, BRIDGE));
        // Forwarded, its checksum filled in.
        assert!(see(
            &mut repeats,
            &packet(1, 63, 0xbeef),
            2 * MICROSECOND,
            UPLINK
        ));
        assert!(!see(
            &mut repeats,
            &packet(2, 64, 7),
            3 * MICROSECOND,
            BRIDGE
        ));
    }

    #[test]
    fn packet_that_comes_again_on_its_interface_is_another() {
        let mut repeats = Repeats::default();
        for round in 0..3 {
            let at = round * 10 * MICROSECOND;
            assert!(!see(&mut repeats, &packet(1, 64, 7), at, PORT), "{round}");
            assert!(see(&mut repeats, &packet(1, 64, 7), at + 1, BRIDGE));
        }
    }

    #[test]
    fn packet_that_comes_after_a_millisecond_is_another() {
        let mut repeats = Repeats::default();
        assert!(!see(&mut repeats, &packet(1, 64, 7), 0, PORT));
        assert!(see(&mut repeats, &packet(1, 64, 7), WINDOW_NS, BRIDGE));
        assert!(!see(&mut repeats, &packet(1, 64, 7), WINDOW_NS + 1, UPLINK));
    }

    #[test]
    fn packets_of_one_moment_do_not_fill_memory() {
        let mut repeats = Repeats::default();
        for id in 0..=u16::MAX {
            for interface in 0..2 {
                let first = packet(id, 64, 7);
                assert_eq!(
                    see(&mut repeats, &first, 0, InterfaceId::Index(interface)),
                    interface == 1
                );
            }
        }
        for id in 0..1000 {
            let mut other = packet(id, 64, 7);
            other[19] = 9;
            see(&mut repeats, &other, 0, PORT);
        }
        assert!(repeats.order.len() <= MAX_REMEMBERED);
        assert!(repeats.sightings.len() <= MAX_REMEMBERED);
    }
}
