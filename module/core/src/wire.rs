// SPDX-License-Identifier: GPL-2.0-or-later
//! From socket buffers to the packets that the wire carries.
//!
//! Segmentation offload (GSO) and its inverse (GRO) hand many wire packets through the
//! stack as one buffer; each of them repeats the headers on the wire.

use core::num::NonZeroU32;

use crate::parse::Tuple;
use crate::parse::transport::{SCTP, TCP, UDP};

/// Bytes of a header that a UDP packet begins with (RFC 768).
const UDP_HEADER: u16 = 8;
/// Bytes of the header that an SCTP packet begins with (RFC 9260 section 3.1).
const SCTP_HEADER: u16 = 12;
/// RFC 9293 section 3.1: offset of the byte with the header's length, in words of four
/// bytes, in its upper half.
const TCP_DATA_OFFSET: usize = 12;

/// What the kernel knows of a buffer that stands for several packets
/// (`struct skb_shared_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Gso {
    /// Payload bytes of each packet but the last; 0 unknown, [`Gso::BY_FRAGS`] where the
    /// packets differ in size.
    pub size: u16,
    /// Number of packets where `size` does not tell it; 0 unknown.
    pub segs: u16,
    /// Bytes that each packet repeats, from the network header to the payload, where
    /// another knows them: of a tunnel, whose inner headers count too. 0: they are those of
    /// the packet's own headers.
    pub header_len: u16,
    /// Whether each packet has a transport header; fragments do not. 1 or 0.
    pub has_transport: u16,
}

/// Bytes from the start of `bytes`, the network header, to the payload. `transport` is the
/// offset of the transport header of this protocol; 0 where it is not known.
fn header_len(bytes: &[u8], protocol: u8, transport: u16) -> u16 {
    let len = match protocol {
        _ if transport == 0 => 0,
        TCP => bytes
            .get(usize::from(transport) + TCP_DATA_OFFSET)
            .map_or(0, |byte| u16::from(byte >> 4) * 4),
        UDP => UDP_HEADER,
        SCTP => SCTP_HEADER,
        _ => 0,
    };
    transport.saturating_add(len)
}

/// Bytes of a header that the buffer has and its packets on the wire do not.
///
/// Kernels up to 6.19 mark an IPv6 buffer beyond 65,535 bytes (BIG TCP) with a hop-by-hop
/// header of the jumbo payload option (RFC 2675 section 2) and nothing else, and take it
/// away when they cut the buffer into packets. `bytes` starts at the network header; the
/// payload length of such a packet is 0.
pub fn jumbo_header_len(bytes: &[u8]) -> u16 {
    /// Eight bytes in all, then type and length of the option.
    const JUMBO: [u8; 3] = [0, 0xc2, 4];
    const HOP_BY_HOP: u8 = 0;
    let is_jumbo = bytes.first_chunk::<44>().is_some_and(|header| {
        let [
            version,
            _,
            _,
            _,
            len_hi,
            len_lo,
            next,
            ..,
            ext_len,
            kind,
            option_len,
        ] = *header;
        version >> 4 == 6
            && [len_hi, len_lo] == [0, 0]
            && next == HOP_BY_HOP
            && [ext_len, kind, option_len] == JUMBO
    });
    if is_jumbo { 8 } else { 0 }
}

/// Packets and bytes, layer 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Number of packets.
    pub packets: u64,
    /// Layer-3 bytes.
    pub bytes: u64,
}

impl Volume {
    /// The sum of two.
    #[inline]
    pub fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }

    /// `n` times as much.
    pub fn times(self, n: u32) -> Self {
        let n = u64::from(n);
        Self {
            packets: self.packets.wrapping_mul(n),
            bytes: self.bytes.wrapping_mul(n),
        }
    }
}

impl Gso {
    /// `GSO_BY_FRAGS` of the kernel.
    pub const BY_FRAGS: u16 = 0xffff;

    /// The same with the length of the headers, which the packet's own tell where it is
    /// not known yet. `bytes` starts at the network header.
    pub fn with_headers_of<A>(self, bytes: &[u8], tuple: Option<&Tuple<A>>) -> Self {
        let header_len = match tuple {
            _ if self.header_len != 0 => self.header_len,
            Some(tuple) if self.has_transport != 0 => {
                header_len(bytes, tuple.protocol, tuple.transport)
            }
            Some(tuple) => tuple.transport,
            None => 0,
        };
        Self { header_len, ..self }
    }

    /// What a buffer of `len` layer-3 bytes, `jumbo_len` of them of a header that the wire
    /// does not have ([`jumbo_header_len`]), adds on the wire to one packet of that length.
    ///
    /// The kernel counts `segs` itself for what it builds, but a packet from a virtual
    /// machine may carry any value; the sizes are what segmentation goes by.
    pub fn extra(self, len: u32, jumbo_len: u16) -> Volume {
        let header_len = u32::from(self.header_len).min(len);
        let size = NonZeroU32::new(u32::from(self.size)).filter(|_| self.size != Self::BY_FRAGS);
        let packets = match size {
            None => u32::from(self.segs),
            Some(size) => (len - header_len).saturating_add(size.get() - 1) / size,
        };
        let extra = u64::from(packets.saturating_sub(1));
        Volume {
            packets: extra,
            bytes: (extra * u64::from(header_len.saturating_sub(jumbo_len.into())))
                .saturating_sub(jumbo_len.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[test]
    fn each_segment_repeats_the_headers() {
        let gso = Gso {
            size: 1448,
            segs: 0,
            has_transport: 1,
            header_len: 52,
        };
        assert_eq!(
            gso.extra(52 + 1448 * 3 + 1, 0),
            Volume {
                packets: 3,
                bytes: 156
            }
        );
        assert_eq!(
            gso.extra(52 + 1448 * 3, 0),
            Volume {
                packets: 2,
                bytes: 104
            }
        );
    }

    #[test]
    fn jumbo_header_is_not_on_the_wire() {
        let gso = Gso {
            size: 1428,
            segs: 0,
            has_transport: 1,
            header_len: 40 + 8 + 32,
        };
        let segments = 70_u32;
        let len = 80 + segments * 1428;
        let on_the_wire = u64::from(segments) * (72 + 1428);
        let extra = gso.extra(len, 8);
        assert_eq!(extra.packets, u64::from(segments) - 1);
        assert_eq!(u64::from(len) + extra.bytes, on_the_wire);
    }

    #[test]
    fn only_the_jumbo_option_alone_is_a_jumbo_header() {
        let mut bytes = [0; 48];
        bytes[0] = 0x60;
        bytes[40..48].copy_from_slice(&[6, 0, 0xc2, 4, 0, 1, 2, 3]);
        assert_eq!(jumbo_header_len(&bytes), 8);
        for (at, value) in [(0, 0x45), (5, 1), (6, 60), (41, 1), (42, 5), (43, 0)] {
            let mut other = bytes;
            other[at] = value;
            assert_eq!(jumbo_header_len(&other), 0, "byte {at}");
        }
        assert_eq!(jumbo_header_len(&bytes[..43]), 0);
    }

    #[test]
    fn one_segment_adds_nothing() {
        for size in [0, 100, 1448, Gso::BY_FRAGS] {
            assert_eq!(
                Gso {
                    size,
                    segs: 1,
                    has_transport: 1,
                    header_len: 40
                }
                .extra(120, 0),
                Volume::default()
            );
        }
    }

    #[test]
    fn sizes_are_believed_before_counts() {
        let gso = Gso {
            size: 100,
            segs: 60000,
            has_transport: 1,
            header_len: 20,
        };
        assert_eq!(gso.extra(220, 0).packets, 1);
        let by_frags = Gso {
            size: Gso::BY_FRAGS,
            segs: 5,
            has_transport: 1,
            header_len: 32,
        };
        assert_eq!(
            by_frags.extra(5000, 0),
            Volume {
                packets: 4,
                bytes: 128
            }
        );
    }

    #[test]
    fn headers_behind_ipv6_extensions_are_repeated_too() {
        const DESTINATION_OPTIONS: u8 = 60;
        let mut bytes = [0; 40 + 16 + 24];
        bytes[0] = 0x60;
        bytes[6] = DESTINATION_OPTIONS;
        bytes[40] = TCP;
        bytes[41] = 1;
        bytes[40 + 16 + TCP_DATA_OFFSET] = 6 << 4;
        let tuple = parse::ipv6::parse(&bytes, 5000).expect("a packet");
        let gso = Gso {
            size: 1000,
            segs: 0,
            header_len: 0,
            has_transport: 1,
        };
        let known = gso.with_headers_of(&bytes, Some(&tuple));
        assert_eq!(known.header_len, 40 + 16 + 24);
        let fragments = Gso {
            has_transport: 0,
            ..gso
        };
        let known = fragments.with_headers_of(&bytes, Some(&tuple));
        assert_eq!(known.header_len, 40 + 16);
        let tunnel = Gso {
            header_len: 123,
            ..gso
        };
        assert_eq!(tunnel.with_headers_of(&bytes, Some(&tuple)).header_len, 123);
    }

    #[test]
    fn header_longer_than_the_buffer_is_cut() {
        assert_eq!(
            Gso {
                size: 1,
                segs: 0,
                has_transport: 1,
                header_len: 60000
            }
            .extra(40, 0),
            Volume::default()
        );
    }
}
