// SPDX-License-Identifier: GPL-2.0-or-later
//! Which network is likely the local one, by the addresses of a capture's first packets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;

use crate::link::Network;

/// Packets whose addresses are looked at.
const PACKETS: u32 = 4096;

/// The prefixes that are suggested: what a local network of either family usually has.
const IPV4_PREFIX: u32 = 24;
const IPV6_PREFIX: u32 = 64;

/// Where the addresses stand in their headers.
const IPV4_SOURCE: usize = 12;
const IPV6_SOURCE: usize = 8;

/// How many of the first packets each address has.
pub(crate) struct Addresses {
    packets: HashMap<IpAddr, u32, RandomState>,
    left: u32,
}

impl Default for Addresses {
    fn default() -> Self {
        Self {
            packets: HashMap::default(),
            left: PACKETS,
        }
    }
}

impl Addresses {
    #[inline]
    pub(crate) fn see(&mut self, network: &Network<'_>) {
        if self.left > 0 {
            self.add(network);
        }
    }

    #[cold]
    fn add(&mut self, network: &Network<'_>) {
        let addresses = match network {
            Network::Ipv4(packet) => two(packet.bytes, IPV4_SOURCE)
                .map(|both: [[u8; 4]; 2]| both.map(|address| Ipv4Addr::from(address).into())),
            Network::Ipv6(packet) => two(packet.bytes, IPV6_SOURCE)
                .map(|both: [[u8; 16]; 2]| both.map(|address| Ipv6Addr::from(address).into())),
            Network::Other => None,
        };
        for address in addresses.into_iter().flatten() {
            *self.packets.entry(address).or_default() += 1;
        }
        self.left -= 1;
    }

    /// For each family the network of the address that most packets have, private ones first.
    pub(crate) fn likely_local_nets(&self) -> Vec<String> {
        let likeliest = |is_of_family: fn(&IpAddr) -> bool| {
            let of_family = self.packets.iter().filter(|(address, _)| {
                is_of_family(address) && !address.is_multicast() && !address.is_unspecified()
            });
            of_family.max_by_key(|(address, packets)| (is_private(address), **packets, **address))
        };
        let families: [fn(&IpAddr) -> bool; 2] = [IpAddr::is_ipv4, IpAddr::is_ipv6];
        let nets = families.into_iter().filter_map(likeliest);
        nets.map(|(address, _)| net_of(address)).collect()
    }
}

fn two<const LEN: usize>(bytes: &[u8], offset: usize) -> Option<[[u8; LEN]; 2]> {
    let (source, rest) = bytes.get(offset..)?.split_first_chunk()?;
    Some([*source, *rest.first_chunk()?])
}

fn is_private(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => address.is_unique_local(),
    }
}

fn net_of(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let net = u32::from(*address) & (u32::MAX << (32 - IPV4_PREFIX));
            format!("{}/{IPV4_PREFIX}", Ipv4Addr::from(net))
        }
        IpAddr::V6(address) => {
            let net = u128::from(*address) & (u128::MAX << (128 - IPV6_PREFIX));
            format!("{}/{IPV6_PREFIX}", Ipv6Addr::from(net))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{LinkType, network};

    fn see(addresses: &mut Addresses, source: &str, destination: &str) {
        let (source, destination): (IpAddr, IpAddr) =
            (source.parse().unwrap(), destination.parse().unwrap());
        let bytes = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                [&[0x45; 12][..], &source.octets(), &destination.octets()].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                [&[0x60; 8][..], &source.octets(), &destination.octets()].concat()
            }
            _ => panic!("two families"),
        };
        addresses.see(&network(LinkType::Raw, &bytes, bytes.len() as u32));
    }

    #[test]
    fn network_of_the_private_side_is_the_likely_one() {
        let mut addresses = Addresses::default();
        see(&mut addresses, "198.51.100.1", "10.1.2.3");
        see(&mut addresses, "10.1.2.4", "198.51.100.1");
        see(&mut addresses, "198.51.100.1", "10.1.2.4");
        see(&mut addresses, "2001:db8::1", "fd00:0:0:7::1");
        assert_eq!(
            addresses.likely_local_nets(),
            ["10.1.2.0/24", "fd00:0:0:7::/64"]
        );
    }

    #[test]
    fn without_private_addresses_it_is_that_of_most_packets() {
        let mut addresses = Addresses::default();
        for remote in 1..10 {
            see(
                &mut addresses,
                "203.0.113.9",
                &format!("198.51.100.{remote}"),
            );
            see(&mut addresses, &format!("192.0.2.{remote}"), "239.1.1.1");
        }
        assert_eq!(addresses.likely_local_nets(), ["203.0.113.0/24"]);
    }

    #[test]
    fn no_more_than_the_first_packets_are_looked_at() {
        let mut addresses = Addresses::default();
        for _ in 0..PACKETS {
            see(&mut addresses, "10.0.0.1", "192.0.2.1");
        }
        for _ in 0..2 * PACKETS {
            see(&mut addresses, "10.9.9.9", "192.0.2.1");
        }
        assert_eq!(addresses.likely_local_nets(), ["10.0.0.0/24"]);
    }
}
