// SPDX-License-Identifier: GPL-2.0-or-later
//! Ports of the transport protocols that have them: two 16-bit numbers, source first,
//! at the start of the header.

use super::ParseError;

/// RFC 9293.
pub const TCP: u8 = 6;
/// RFC 768.
pub const UDP: u8 = 17;
/// RFC 4340.
pub const DCCP: u8 = 33;
/// RFC 9260.
pub const SCTP: u8 = 132;
/// RFC 3828.
pub const UDP_LITE: u8 = 136;

/// RFC 9293 section 3.1: offset of the control bits, and two of them.
const TCP_FLAGS: usize = 13;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// Bytes of a TCP header up to its flags, or of a UDP packet with some payload.
pub const FAST_PATH_BYTES: usize = TCP_FLAGS + 1;

/// Which of a rule's port lists a protocol goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortClass {
    /// TCP, SCTP and DCCP.
    Tcp,
    /// UDP and UDP-Lite.
    Udp,
    /// No ports.
    None,
}

/// The port class of an IANA protocol number.
#[inline]
pub fn port_class(protocol: u8) -> PortClass {
    match protocol {
        TCP | SCTP | DCCP => PortClass::Tcp,
        UDP | UDP_LITE => PortClass::Udp,
        _ => PortClass::None,
    }
}

/// What is read of a transport header, ports in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportHeader {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// TCP with SYN and without ACK.
    pub syn: bool,
}

impl TransportHeader {
    /// A packet without ports.
    pub const NONE: Self = Self {
        src_port: 0,
        dst_port: 0,
        syn: false,
    };
}

/// The ports, source above destination.
#[inline]
pub fn packed_ports(&[s0, s1, d0, d1, ..]: &[u8; FAST_PATH_BYTES]) -> u32 {
    u32::from_be_bytes([s0, s1, d0, d1])
}

/// Whether a TCP header has SYN and not ACK.
#[inline]
pub fn is_syn([.., flags]: &[u8; FAST_PATH_BYTES]) -> bool {
    flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

/// Reads the ports at `offset` of `bytes`, the start of a packet of `packet_len` bytes.
///
/// A header that the packet itself cuts short has what there is of it: no ports, or no flags.
///
/// # Errors
/// [`ParseError::NeedMore`] where `bytes` ends before the header does and the packet
/// does not.
#[inline]
pub fn parse(
    protocol: u8,
    bytes: &[u8],
    offset: usize,
    packet_len: usize,
) -> Result<TransportHeader, ParseError> {
    let needed = match protocol {
        TCP => TCP_FLAGS + 1,
        UDP | DCCP | SCTP | UDP_LITE => 4,
        _ => return Ok(TransportHeader::NONE),
    };
    let header = bytes.get(offset..).unwrap_or_default();
    if header.len() < needed.min(packet_len.saturating_sub(offset)) {
        return Err(ParseError::NeedMore);
    }
    let Some(&[s0, s1, d0, d1]) = header.first_chunk::<4>() else {
        return Ok(TransportHeader::NONE);
    };
    let syn = protocol == TCP
        && header
            .get(TCP_FLAGS)
            .is_some_and(|flags| flags & (TCP_SYN | TCP_ACK) == TCP_SYN);
    Ok(TransportHeader {
        src_port: u16::from_be_bytes([s0, s1]),
        dst_port: u16::from_be_bytes([d0, d1]),
        syn,
    })
}
