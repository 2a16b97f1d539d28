// SPDX-License-Identifier: GPL-2.0-or-later
//! Packets made by hand: any protocol, IPv4 options, and IPv6 extension headers in any order.
//!
//! ```text
//!   IPv4:  header, options          | ports and other payload
//!   IPv6:  header | extension ...   | ports and other payload
//! ```

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::family::Family;
use crate::proc::Tuple;
use crate::topology::{Netns, Topology};

/// IANA protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const GRE: u8 = 47;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;
const EXPERIMENT: u8 = 253;

const PROTOCOLS: [u8; 7] = [TCP, UDP, DCCP, SCTP, UDP_LITE, GRE, EXPERIMENT];

/// Of the chain of extension headers, so many are walked, and so many bytes.
const WALKED_HEADERS: usize = 8;
const WALKED_BYTES: usize = 512;

/// No socket of the kernel takes a port of these by itself (net.ipv4.ip_local_port_range).
const UNUSED_PORTS: std::ops::RangeInclusive<u16> = 61_000..=65_535;

/// RFC 791 section 3.1: no operation, end of options.
const IPV4_NOP: u8 = 1;
const MORE_FRAGMENTS: u16 = 0x2000;
const TTL: u8 = 64;

/// RFC 4727 section 3: an option for experiments; those who do not know it skip it.
const EXPERIMENTAL_OPTION: u8 = 0x1e;

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug)]
enum Extension {
    /// RFC 8200 section 4.3; only in front of all others. Length in bytes.
    HopByHop(usize),
    /// RFC 8200 section 4.4, without segments left. Length in bytes.
    Routing(usize),
    /// RFC 8200 section 4.5. Offset in units of eight bytes; whether more follow.
    Fragment(u16, bool),
    /// RFC 4302. Length in bytes.
    Authentication(usize),
    /// RFC 8200 section 4.6. Length in bytes.
    DestinationOptions(usize),
}

/// A packet from one of the hosts to the other.
#[derive(Debug)]
pub struct Packet {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    ports: [u16; 2],
    /// In units of eight bytes; whether more follow. IPv4's own field, an extension in IPv6.
    fragment: Option<(u16, bool)>,
    /// IPv4 only, four bytes each.
    option_words: usize,
    /// IPv6 only.
    extensions: Vec<Extension>,
    payload_len: usize,
}

impl Packet {
    /// A random packet from `from` to `to`.
    pub fn draw(from: IpAddr, to: IpAddr, rng: &mut Rng) -> Self {
        let fragment = (rng.u8(..4) == 0).then(|| (*pick(&[0, 1, 64], rng), rng.bool()));
        let mut packet = Self {
            from,
            to,
            protocol: *pick(&PROTOCOLS, rng),
            ports: [rng.u16(UNUSED_PORTS), rng.u16(UNUSED_PORTS)],
            fragment,
            option_words: 0,
            extensions: Vec::new(),
            // Fragments but the last have a multiple of eight bytes.
            payload_len: rng.usize(1..=40) * 8,
        };
        if from.is_ipv4() {
            packet.option_words = rng.usize(..=10);
        } else {
            packet.extensions = draw_extensions(fragment, rng);
        }
        packet
    }

    /// Layer-3 bytes.
    pub fn len(&self) -> usize {
        let header = match self.from {
            IpAddr::V4(_) => 20 + 4 * self.option_words,
            IpAddr::V6(_) => 40 + self.extensions.iter().map(|e| e.len()).sum::<usize>(),
        };
        header + self.payload_len
    }

    /// What must be recorded of it for `local`, where all ports are told apart.
    pub fn tuple(&self, local: IpAddr) -> Tuple {
        let [mut local_port, mut remote_port] = match self.reached() {
            (protocol, true) if self.payload_len >= ports_end(protocol) => self.ports,
            _ => [0, 0],
        };
        let (mut local_ip, mut remote_ip) = (self.from, self.to);
        if self.from != local {
            (local_ip, remote_ip) = (remote_ip, local_ip);
            (local_port, remote_port) = (remote_port, local_port);
        }
        Tuple {
            protocol: self.reached().0,
            local_ip,
            remote_ip,
            local_port,
            remote_port,
        }
    }

    /// The protocol that counting reaches, and whether its header lies within reach.
    fn reached(&self) -> (u8, bool) {
        let is_later = |offset| offset > 0;
        if self.from.is_ipv4() {
            let later = self.fragment.is_some_and(|(offset, _)| is_later(offset));
            return (self.protocol, !later);
        }
        let mut bytes = 0;
        for (index, extension) in self.extensions.iter().enumerate() {
            if index == WALKED_HEADERS {
                return (extension.number(), false);
            }
            bytes += extension.len();
            let next = self
                .extensions
                .get(index + 1)
                .map_or(self.protocol, |next| next.number());
            let later = matches!(extension, Extension::Fragment(offset, _) if is_later(*offset));
            if later || bytes > WALKED_BYTES {
                return (next, false);
            }
        }
        (self.protocol, true)
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let (offset, more) = self.fragment.unwrap_or_default();
                let fragment = offset | if more { MORE_FRAGMENTS } else { 0 };
                let words = u8::try_from(5 + self.option_words)?;
                // The kernel fills in length, identification and checksum (raw(7)).
                let mut header = vec![0x40 | words, 0, 0, 0, 0, 0];
                header.extend(fragment.to_be_bytes());
                header.extend([TTL, self.protocol, 0, 0]);
                header.extend(from.octets());
                header.extend(to.octets());
                header.resize(header.len() + 4 * self.option_words, IPV4_NOP);
                header
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut numbers: Vec<u8> = self.extensions.iter().map(|e| e.number()).collect();
                numbers.push(self.protocol);
                let after_header = u16::try_from(self.len() - 40)?;
                let mut header = vec![0x60, 0, 0, 0];
                header.extend(after_header.to_be_bytes());
                header.extend([numbers[0], TTL]);
                header.extend(from.octets());
                header.extend(to.octets());
                for (extension, next) in self.extensions.iter().zip(&numbers[1..]) {
                    header.extend(extension.bytes(*next)?);
                }
                header
            }
            _ => anyhow::bail!("{self:?} has addresses of both families"),
        };
        let payload = bytes.len();
        for port in self.ports {
            bytes.extend(port.to_be_bytes());
        }
        bytes.resize(payload + self.payload_len, 0);
        ensure!(bytes.len() == self.len(), "{self:?}: {} bytes", bytes.len());
        Ok(bytes)
    }
}

impl Extension {
    fn number(self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Routing(_) => 43,
            Self::Fragment(..) => 44,
            Self::Authentication(_) => 51,
            Self::DestinationOptions(_) => 60,
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Fragment(..) => 8,
            Self::HopByHop(len)
            | Self::Routing(len)
            | Self::Authentication(len)
            | Self::DestinationOptions(len) => len,
        }
    }

    fn bytes(self, next: u8) -> Result<Vec<u8>> {
        let len = self.len();
        // Lengths are in units of eight bytes without the first eight, but RFC 4302 counts in units
        // of four without the first two.
        let length = match self {
            Self::Fragment(..) => 0,
            Self::Authentication(_) => len / 4 - 2,
            _ => len / 8 - 1,
        };
        let mut bytes = vec![next, u8::try_from(length)?];
        match self {
            Self::Fragment(offset, more) => {
                bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
            }
            Self::HopByHop(_) | Self::DestinationOptions(_) => {
                let mut left = len - 2;
                while left > 0 {
                    // An option has at most 255 bytes behind its type and length; no single byte
                    // may be left, which would be none.
                    let option = match left {
                        258 => 255,
                        _ => left.min(257),
                    };
                    bytes.extend([EXPERIMENTAL_OPTION, u8::try_from(option - 2)?]);
                    bytes.resize(bytes.len() + option - 2, 0);
                    left -= option;
                }
            }
            Self::Routing(_) | Self::Authentication(_) => (),
        }
        bytes.resize(len, 0);
        Ok(bytes)
    }
}

/// Sends `packets` from `netns`, where they go through the rules of OUTPUT.
///
/// # Errors
///
/// The kernel takes no packets made by hand, or not this one.
pub fn send(topology: &Topology, netns: &Netns, packets: &[Packet]) -> Result<()> {
    let family = match topology.family {
        Family::Ipv4 => AddressFamily::INET,
        Family::Ipv6 => AddressFamily::INET6,
    };
    netns.enter(|| {
        let socket = socket(family, SocketType::RAW, Some(ipproto::RAW))?;
        for packet in packets {
            let to = SocketAddr::new(packet.to, 0);
            sendto(&socket, &packet.bytes()?, SendFlags::empty(), &to)
                .with_context(|| format!("cannot send {packet:?}"))?;
        }
        Ok(())
    })
}

/// Bytes of a header that must be there for its ports to count.
fn ports_end(protocol: u8) -> usize {
    match protocol {
        TCP | UDP | DCCP | SCTP | UDP_LITE => 4,
        _ => usize::MAX,
    }
}

fn draw_extensions(fragment: Option<(u16, bool)>, rng: &mut Rng) -> Vec<Extension> {
    let mut extensions = Vec::new();
    if rng.bool() {
        extensions.push(Extension::HopByHop(8 * rng.usize(1..=8)));
    }
    // Some chains are longer than what is walked, in headers or in bytes.
    let longest = *pick(&[1, 4, 33], rng);
    for _ in 0..rng.usize(..=9) {
        let len = 8 * rng.usize(1..=longest);
        extensions.push(match rng.u8(..3) {
            0 => Extension::Routing(len),
            1 => Extension::Authentication(len.max(16)),
            _ => Extension::DestinationOptions(len),
        });
        if extensions.iter().map(|e| e.len()).sum::<usize>() > WALKED_BYTES {
            break;
        }
    }
    if let Some((offset, more)) = fragment {
        let place = rng.usize(usize::from(!extensions.is_empty())..=extensions.len());
        extensions.insert(place, Extension::Fragment(offset, more));
    }
    extensions
}

fn pick<'a, T>(choices: &'a [T], rng: &mut Rng) -> &'a T {
    &choices[rng.usize(..choices.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_packets_have_the_length_that_they_say() {
        let mut rng = Rng::with_seed(1);
        for family in [Family::Ipv4, Family::Ipv6] {
            for _ in 0..2000 {
                let packet = Packet::draw(family.remote(), family.local(), &mut rng);
                assert_eq!(packet.bytes().unwrap().len(), packet.len());
                // What a device of Ethernet takes in one frame.
                assert!(packet.len() <= 1500, "{packet:?}");
            }
        }
    }

    #[test]
    fn chain_is_reached_through_to_its_bounds() {
        let mut packet = Packet {
            from: Family::Ipv6.remote(),
            to: Family::Ipv6.local(),
            protocol: UDP,
            ports: [1, 2],
            fragment: None,
            option_words: 0,
            extensions: vec![Extension::Routing(64); 8],
            payload_len: 8,
        };
        assert_eq!(packet.reached(), (UDP, true));
        packet.extensions.push(Extension::DestinationOptions(8));
        assert_eq!(packet.reached(), (60, false));
        packet.extensions = vec![Extension::Routing(520)];
        assert_eq!(packet.reached(), (UDP, false));
        packet.extensions = vec![Extension::Fragment(1, false), Extension::Routing(8)];
        assert_eq!(packet.reached(), (43, false));
    }
}
