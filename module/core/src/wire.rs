//! From socket buffers to the packets that the wire carries.
//!
//! Segmentation offload (GSO) and its inverse (GRO) hand many wire packets through the
//! stack as one buffer; each of them repeats the headers on the wire.

use core::num::NonZeroU32;

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
    /// Bytes from the network header to the payload, repeated in each packet.
    pub header_len: u16,
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

    #[test]
    fn each_segment_repeats_the_headers() {
        let gso = Gso {
            size: 1448,
            segs: 0,
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
            header_len: 20,
        };
        assert_eq!(gso.extra(220, 0).packets, 1);
        let by_frags = Gso {
            size: Gso::BY_FRAGS,
            segs: 5,
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
    fn header_longer_than_the_buffer_is_cut() {
        assert_eq!(
            Gso {
                size: 1,
                segs: 0,
                header_len: 60000
            }
            .extra(40, 0),
            Volume::default()
        );
    }
}
