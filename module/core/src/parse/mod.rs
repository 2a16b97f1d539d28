// SPDX-License-Identifier: GPL-2.0-or-later
//! From the bytes of a packet to its [`Tuple`].
//!
//! Not looked into: IP in IP and other tunnels (the outermost header counts), and what
//! ESP hides. Later fragments have no ports.
//!
//! ```
//! use trafstat_core::parse::{ParseError, ipv4};
//!
//! let bytes = [
//!     0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, // IPv4, 40 bytes, TCP
//!     192, 0, 2, 1, 198, 51, 100, 7, // addresses
//!     0x9c, 0x40, 1, 187, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0, // a SYN
//! ];
//! let tuple = ipv4::parse(&bytes, 40).unwrap();
//! assert_eq!((tuple.src, tuple.src_port), ([192, 0, 2, 1], 40_000));
//! assert_eq!((tuple.dst, tuple.dst_port), ([198, 51, 100, 7], 443));
//! assert!(tuple.syn);
//!
//! // A packet of 40 bytes, of which the first 20 are at hand.
//! assert_eq!(ipv4::parse(&bytes[..20], 40), Err(ParseError::NeedMore));
//! ```

pub mod ipv4;
pub mod ipv6;
pub mod transport;

/// Parse never asks for more of a packet than its first so many bytes: an IPv6 header,
/// the extension headers that are walked, and the ports and flags of TCP.
pub const HEADER_BYTES: usize = 576;

const _: () = assert!(40 + ipv6::MAX_EXTENSION_BYTES + 14 <= HEADER_BYTES);

/// Addresses, ports and protocol as a packet carries them.
///
/// `A` is the address in network byte order, as loaded from the packet: `[u8; 4]`
/// for IPv4, `[u8; 16]` for IPv6. Ports are in host byte order, 0 where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// TCP with SYN and without ACK.
    pub syn: bool,
    /// Bytes from the network header to the transport header; 0 where this packet has none
    /// or it is too far to be looked for.
    pub transport: u16,
}

/// The headers of a packet that may take the fast path: an IP header without options or extension
/// headers, and as much of the transport header as is read.
///
/// The protocol may still be another than TCP and UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastPathHeader<'a, A> {
    /// Source and destination.
    pub addresses: A,
    /// IANA protocol number.
    pub protocol: u8,
    /// The first bytes behind the IP header.
    pub transport: &'a [u8; transport::FAST_PATH_BYTES],
}

/// Why a packet has no [`Tuple`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The bytes given end before those that parse needs, and the packet goes on:
    /// parse again with its first [`HEADER_BYTES`].
    NeedMore,
    /// Not a header of this protocol version, or shorter than one.
    Malformed,
}
