// SPDX-License-Identifier: GPL-2.0-or-later
//! From a packet's [`Tuple`] to the flow that it belongs to: which side is local, which
//! ports keep their number.

use crate::parse::ipv6::words;
use crate::parse::{self, FastPathHeader, ParseError, Tuple};
use crate::rule::{PortFilter, Side};

/// Flag of a record that stands for flows which found no room.
pub const FOLDED: u8 = trafstat_abi::RECORD_FOLDED as u8;

/// The last word of a flow's key:
///
/// ```text
///  63      48 47     40 39        32 31         16 15          0
/// +----------+---------+------------+-------------+-------------+
/// |    0     |  flags  |  protocol  | remote port | local port  |
/// +----------+---------+------------+-------------+-------------+
/// ```
const PROTOCOL_SHIFT: u32 = 32;
const FLAGS_SHIFT: u32 = 40;
const LOCAL_PORT_MASK: u64 = 0xffff;
const PROTOCOL_MASK: u64 = 0xff << PROTOCOL_SHIFT;

/// A flow within one account, as `W` words that compare and hash as a whole.
///
/// The words before the last have the local address, then the remote one, as in the packet. The
/// last word has ports, protocol and flags. In memory on a little-endian machine these are the
/// first bytes of the record in `uapi/xt_TRAFSTAT.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey<const W: usize>(pub [u64; W]);

impl<const W: usize> FlowKey<W> {
    /// Whether the key stands for flows that found no room.
    pub fn is_folded(&self) -> bool {
        self.0
            .last()
            .is_some_and(|rest| rest >> FLAGS_SHIFT & u64::from(FOLDED) != 0)
    }
}

/// Which way a packet goes, seen from the local net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The source is local, the destination may be too.
    Sent,
    /// Only the destination is local.
    Received,
}

/// What differs between IPv4 and IPv6 on the way from bytes to a flow.
pub trait Family<const W: usize>: 'static {
    /// `NFPROTO_*`.
    const NUMBER: u8;
    /// Bits of one address, the longest prefix.
    const ADDRESS_BITS: u8;
    /// An address in network byte order.
    type Address: Copy;
    /// A packet's source and destination, side by side as in its header.
    type Addresses: Copy;
    /// A network that addresses are compared with.
    type Net: Copy + Sync;

    /// The network of the first `prefix_len` bits of `address`; host bits do not matter
    /// and bits past the address length are ignored.
    fn net(address: &[u8; 16], prefix_len: u8) -> Self::Net;

    /// Puts source and destination side by side.
    fn addresses(src: Self::Address, dst: Self::Address) -> Self::Addresses;

    /// Whether the network holds the source, and whether it holds the destination.
    fn contains(net: &Self::Net, addresses: Self::Addresses) -> (bool, bool);

    /// Reads the tuple from the first bytes of a packet of `packet_len` bytes.
    ///
    /// # Errors
    /// See [`ParseError`].
    fn parse(bytes: &[u8], packet_len: usize) -> Result<Tuple<Self::Address>, ParseError>;

    /// Reads the headers of a packet that may take the fast path; `None` for any other.
    fn parse_fast(bytes: &[u8]) -> Option<FastPathHeader<'_, Self::Addresses>>;

    /// Puts the key of a packet together that goes this way; `rest` is the last word.
    fn key(addresses: Self::Addresses, direction: Direction, rest: u64) -> FlowKey<W>;

    /// The key that flows of this protocol and local address are folded into.
    fn folded(key: FlowKey<W>) -> FlowKey<W>;

    /// The key of the local side alone: protocol, local address and local port.
    fn local_side(key: FlowKey<W>) -> FlowKey<W>;
}

/// The last word of a key.
#[inline]
pub const fn rest_word(local_port: u16, remote_port: u16, protocol: u8, flags: u8) -> u64 {
    local_port as u64
        | (remote_port as u64) << 16
        | (protocol as u64) << PROTOCOL_SHIFT
        | (flags as u64) << FLAGS_SHIFT
}

/// IPv4.
#[derive(Debug)]
pub struct Ipv4;

/// An IPv4 network: address and mask as loaded from the packet, each twice, so that both of a
/// packet's addresses are compared at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Net {
    networks: u64,
    masks: u64,
}

impl Family<2> for Ipv4 {
    const NUMBER: u8 = trafstat_abi::FAMILY_IPV4 as u8;
    const ADDRESS_BITS: u8 = 32;
    type Address = [u8; 4];
    /// The source in the lower half.
    type Addresses = u64;
    type Net = Ipv4Net;

    fn net(address: &[u8; 16], prefix_len: u8) -> Ipv4Net {
        let [a, b, c, d, ..] = *address;
        let host_bits = 32_u32.saturating_sub(u32::from(prefix_len));
        let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0).to_be_bytes();
        Ipv4Net {
            networks: Self::addresses([a, b, c, d], [a, b, c, d]),
            masks: Self::addresses(mask, mask),
        }
    }

    #[inline]
    fn addresses([a, b, c, d]: [u8; 4], [e, f, g, h]: [u8; 4]) -> u64 {
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    #[inline]
    fn contains(net: &Ipv4Net, addresses: u64) -> (bool, bool) {
        let differing = (addresses ^ net.networks) & net.masks;
        (differing as u32 == 0, differing >> 32 == 0)
    }

    #[inline]
    fn parse(bytes: &[u8], packet_len: usize) -> Result<Tuple<[u8; 4]>, ParseError> {
        parse::ipv4::parse(bytes, packet_len)
    }

    #[inline]
    fn parse_fast(bytes: &[u8]) -> Option<FastPathHeader<'_, u64>> {
        parse::ipv4::parse_fast(bytes)
    }

    #[inline]
    fn key(addresses: u64, direction: Direction, rest: u64) -> FlowKey<2> {
        let local_first = match direction {
            Direction::Sent => addresses,
            Direction::Received => addresses.rotate_left(32),
        };
        FlowKey([local_first, rest])
    }

    fn folded(FlowKey([addresses, rest]): FlowKey<2>) -> FlowKey<2> {
        let folded = u64::from(FOLDED) << FLAGS_SHIFT;
        FlowKey([
            addresses & u64::from(u32::MAX),
            rest & PROTOCOL_MASK | folded,
        ])
    }

    fn local_side(FlowKey([addresses, rest]): FlowKey<2>) -> FlowKey<2> {
        FlowKey([
            addresses & u64::from(u32::MAX),
            rest & (PROTOCOL_MASK | LOCAL_PORT_MASK),
        ])
    }
}

/// IPv6.
#[derive(Debug)]
pub struct Ipv6;

/// An IPv6 network: address and mask as loaded from the packet, each twice, so that a packet's
/// addresses are compared with operands in memory and take all the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Net {
    networks: [u64; 4],
    masks: [u64; 4],
}

impl Family<5> for Ipv6 {
    const NUMBER: u8 = trafstat_abi::FAMILY_IPV6 as u8;
    const ADDRESS_BITS: u8 = 128;
    type Address = [u8; 16];
    type Addresses = [u64; 4];
    type Net = Ipv6Net;

    fn net(address: &[u8; 16], prefix_len: u8) -> Ipv6Net {
        let host_bits = 128_u32.saturating_sub(u32::from(prefix_len));
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0).to_be_bytes();
        Ipv6Net {
            networks: Self::addresses(*address, *address),
            masks: Self::addresses(mask, mask),
        }
    }

    #[inline]
    fn addresses(src: [u8; 16], dst: [u8; 16]) -> [u64; 4] {
        let ([a, b], [c, d]) = (words(src), words(dst));
        [a, b, c, d]
    }

    #[inline]
    fn contains(net: &Ipv6Net, [a, b, c, d]: [u64; 4]) -> (bool, bool) {
        let ([w, x, y, z], [k, l, m, n]) = (net.networks, net.masks);
        (
            (a ^ w) & k | (b ^ x) & l == 0,
            (c ^ y) & m | (d ^ z) & n == 0,
        )
    }

    #[inline]
    fn parse(bytes: &[u8], packet_len: usize) -> Result<Tuple<[u8; 16]>, ParseError> {
        parse::ipv6::parse(bytes, packet_len)
    }

    #[inline]
    fn parse_fast(bytes: &[u8]) -> Option<FastPathHeader<'_, [u64; 4]>> {
        parse::ipv6::parse_fast(bytes)
    }

    #[inline]
    fn key([a, b, c, d]: [u64; 4], direction: Direction, rest: u64) -> FlowKey<5> {
        FlowKey(match direction {
            Direction::Sent => [a, b, c, d, rest],
            Direction::Received => [c, d, a, b, rest],
        })
    }

    fn folded(FlowKey([a, b, _, _, rest]): FlowKey<5>) -> FlowKey<5> {
        let folded = u64::from(FOLDED) << FLAGS_SHIFT;
        FlowKey([a, b, 0, 0, rest & PROTOCOL_MASK | folded])
    }

    fn local_side(FlowKey([a, b, _, _, rest]): FlowKey<5>) -> FlowKey<5> {
        FlowKey([a, b, 0, 0, rest & (PROTOCOL_MASK | LOCAL_PORT_MASK)])
    }
}

/// The flow of a packet and its direction, or `None` where neither side is local.
#[inline]
pub fn classify<F: Family<W>, const W: usize>(
    net: &F::Net,
    ports: &impl PortFilter,
    tuple: &Tuple<F::Address>,
) -> Option<(FlowKey<W>, Direction)> {
    let Tuple {
        src,
        dst,
        src_port,
        dst_port,
        protocol,
        ..
    } = *tuple;
    let addresses = F::addresses(src, dst);
    let (direction, local_port, remote_port) = match F::contains(net, addresses) {
        (true, _) => (Direction::Sent, src_port, dst_port),
        (false, true) => (Direction::Received, dst_port, src_port),
        (false, false) => return None,
    };
    let local_port = ports.keep(Side::Local, protocol, local_port);
    let remote_port = ports.keep(Side::Remote, protocol, remote_port);
    let rest = rest_word(local_port, remote_port, protocol, 0);
    Some((F::key(addresses, direction, rest), direction))
}

/// The last word of a key, of both ports, the local one below the remote one.
#[inline]
pub fn rest_of_ports(ports: u32, protocol: u8) -> u64 {
    u64::from(ports) | u64::from(protocol) << PROTOCOL_SHIFT
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct AllPorts;
    impl PortFilter for AllPorts {
        fn keep(&self, _: Side, _: u8, port: u16) -> u16 {
            port
        }
    }

    fn net(address: [u8; 4], prefix_len: u8) -> Ipv4Net {
        let mut padded = [0; 16];
        padded[..4].copy_from_slice(&address);
        Ipv4::net(&padded, prefix_len)
    }

    fn ipv4_key(local: [u8; 4], remote: [u8; 4], rest: u64) -> FlowKey<2> {
        Ipv4::key(Ipv4::addresses(local, remote), Direction::Sent, rest)
    }

    fn tuple(src: [u8; 4], dst: [u8; 4]) -> Tuple<[u8; 4]> {
        Tuple {
            src,
            dst,
            src_port: 1,
            dst_port: 2,
            protocol: 6,
            syn: false,
            transport: 20,
        }
    }

    fn direction(net: Ipv4Net, src: [u8; 4], dst: [u8; 4]) -> Option<Direction> {
        classify::<Ipv4, 2>(&net, &AllPorts, &tuple(src, dst)).map(|(_, direction)| direction)
    }

    proptest! {
        #[test]
        fn prefixes_compare_bit_by_bit(a: u32, b: u32, c: u32, prefix_len in 0_u8..=32) {
            let expected = |other: u32| {
                (0..u32::from(prefix_len)).all(|bit| (a ^ other) >> (31 - bit) & 1 == 0)
            };
            let net = net(a.to_be_bytes(), prefix_len);
            let addresses = Ipv4::addresses(b.to_be_bytes(), c.to_be_bytes());
            let found = Ipv4::contains(&net, addresses);
            prop_assert_eq!(found, (expected(b), expected(c)));
        }
    }

    proptest! {
        #[test]
        fn ipv6_prefixes_compare_bit_by_bit(
            a: u128,
            flips: [u8; 2],
            prefix_len in 0_u8..=128,
        ) {
            let [src, dst] = flips.map(|bit| a ^ 1_u128.checked_shl(bit.into()).unwrap_or(0));
            let expected = |other: u128| {
                (a ^ other).checked_shr(128 - u32::from(prefix_len)).unwrap_or(0) == 0
            };
            let net = Ipv6::net(&a.to_be_bytes(), prefix_len);
            let addresses = Ipv6::addresses(src.to_be_bytes(), dst.to_be_bytes());
            let found = Ipv6::contains(&net, addresses);
            prop_assert_eq!(found, (expected(src), expected(dst)));
        }
    }

    #[test]
    fn both_sides_local_is_sent() {
        let net = net([10, 0, 0, 9], 8);
        assert_eq!(
            direction(net, [10, 1, 1, 1], [10, 2, 2, 2]),
            Some(Direction::Sent)
        );
        assert_eq!(
            direction(net, [10, 1, 1, 1], [11, 2, 2, 2]),
            Some(Direction::Sent)
        );
        assert_eq!(
            direction(net, [11, 1, 1, 1], [10, 2, 2, 2]),
            Some(Direction::Received)
        );
        assert_eq!(direction(net, [11, 1, 1, 1], [12, 2, 2, 2]), None);
    }

    #[test]
    fn local_side_comes_first_in_both_directions() {
        let net = net([192, 0, 2, 1], 32);
        let sent = tuple([192, 0, 2, 1], [198, 51, 100, 7]);
        let received = Tuple {
            src: sent.dst,
            dst: sent.src,
            src_port: 2,
            dst_port: 1,
            ..sent
        };
        let key = |tuple| classify::<Ipv4, 2>(&net, &AllPorts, &tuple).map(|(key, _)| key);
        assert_eq!(key(sent), key(received));
        assert_eq!(
            key(sent),
            Some(ipv4_key(
                [192, 0, 2, 1],
                [198, 51, 100, 7],
                rest_word(1, 2, 6, 0)
            ))
        );
    }

    #[test]
    fn folding_keeps_protocol_and_local_address() {
        let key = ipv4_key([1, 2, 3, 4], [5, 6, 7, 8], rest_word(22, 4000, 6, 0));
        let folded = ipv4_key([1, 2, 3, 4], [0; 4], rest_word(0, 0, 6, FOLDED));
        assert_eq!(Ipv4::folded(key), folded);
        let local = ipv4_key([1, 2, 3, 4], [0; 4], rest_word(22, 0, 6, 0));
        assert_eq!(Ipv4::local_side(key), local);
    }
}
