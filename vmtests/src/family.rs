// SPDX-License-Identifier: GPL-2.0-or-later
//! The address families: what differs between IPv4 and IPv6 on the way of a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::iptables::RuleCounters;
use crate::proc::{ACCOUNT, AccountKey};

/// Payload of an Ethernet frame.
const MTU: u64 = 1500;
const UDP_HEADER: u64 = 8;
const TCP_HEADER: u64 = 20;
const ECHO_HEADER: u64 = 8;
/// ICMP and ICMPv6 (IANA).
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// RFC 791, counted by iptables.
    Ipv4,
    /// RFC 8200, counted by ip6tables.
    Ipv6,
}

impl Family {
    /// The address that is counted for.
    pub fn local(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(192, 0, 2, 1).into(),
            Self::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    /// The address that it talks to.
    pub fn remote(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(192, 0, 2, 2).into(),
            Self::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into(),
        }
    }

    /// The address of a router between the two, on both its sides.
    pub fn router(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(192, 0, 2, 254).into(),
            Self::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe).into(),
        }
    }

    /// An address of another network, which nothing is sent to.
    pub fn elsewhere(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(198, 51, 100, 7).into(),
            Self::Ipv6 => Ipv6Addr::new(0xfd00, 0, 0, 7, 0, 0, 0, 7).into(),
        }
    }

    /// Bits of the subnet that both addresses are in.
    pub fn subnet_len(self) -> u8 {
        match self {
            Self::Ipv4 => 24,
            Self::Ipv6 => 64,
        }
    }

    /// Bits of an address.
    pub fn address_len(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }

    /// The account that rules for the local address count into by default.
    pub fn account(self) -> AccountKey<'static> {
        match self {
            Self::Ipv4 => ACCOUNT,
            Self::Ipv6 => AccountKey {
                family: self,
                name: "2001:db8::1_128",
            },
        }
    }

    /// The family's folder below the module's, and its word in the list of accounts.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }

    /// The IANA number of the protocol that ping speaks.
    pub fn icmp(self) -> u8 {
        match self {
            Self::Ipv4 => ICMP,
            Self::Ipv6 => ICMPV6,
        }
    }

    /// Layer-3 bytes of a datagram with so much payload.
    pub fn datagram_bytes(self, payload: u64) -> u64 {
        self.header() + UDP_HEADER + payload
    }

    /// Layer-3 bytes of a TCP packet without options and payload.
    pub fn tcp_bytes(self) -> u64 {
        self.header() + TCP_HEADER
    }

    /// Layer-3 bytes of an echo request or reply with so much payload, in one piece.
    pub fn echo_bytes(self, payload: u64) -> u64 {
        self.header() + ECHO_HEADER + payload
    }

    /// What fragmentation adds to an echo with so much payload on its way to the link.
    pub fn echo_fragmentation(self, payload: u64) -> RuleCounters {
        let transport = ECHO_HEADER + payload;
        if self.header() + transport <= MTU {
            return RuleCounters::default();
        }
        // All fragments but the last have a multiple of eight bytes (RFC 791, RFC 8200 section 4.5).
        let headers = match self {
            Self::Ipv4 => self.header(),
            Self::Ipv6 => self.header() + 8,
        };
        let fragments = transport.div_ceil((MTU - headers) / 8 * 8);
        RuleCounters {
            packets: fragments - 1,
            bytes: fragments * headers - self.header(),
        }
    }

    fn header(self) -> u64 {
        match self {
            Self::Ipv4 => 20,
            Self::Ipv6 => 40,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_that_fits_is_not_fragmented() {
        assert_eq!(Family::Ipv4.echo_fragmentation(1472).packets, 0);
        assert_eq!(Family::Ipv6.echo_fragmentation(1452).packets, 0);
        assert_eq!(Family::Ipv6.echo_fragmentation(1453).packets, 1);
    }

    #[test]
    fn every_fragment_repeats_the_headers() {
        let ipv4 = Family::Ipv4.echo_fragmentation(3000);
        assert_eq!((ipv4.packets, ipv4.bytes), (2, 2 * 20));
        let ipv6 = Family::Ipv6.echo_fragmentation(3000);
        assert_eq!((ipv6.packets, ipv6.bytes), (2, 2 * 40 + 3 * 8));
    }
}
