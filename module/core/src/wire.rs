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

    /// What a buffer of `len` layer-3 bytes adds on the wire to one packet of that length.
    ///
    /// The kernel counts `segs` itself for what it builds, but a packet from a virtual
    /// machine may carry any value; the sizes are what segmentation goes by.
    pub fn extra(self, len: u32) -> Volume {
        let header_len = u32::from(self.header_len).min(len);
        let size = NonZeroU32::new(u32::from(self.size)).filter(|_| self.size != Self::BY_FRAGS);
        let packets = match size {
            None => u32::from(self.segs),
            Some(size) => (len - header_len).saturating_add(size.get() - 1) / size,
        };
        let extra = u64::from(packets.saturating_sub(1));
        Volume {
            packets: extra,
            bytes: extra * u64::from(header_len),
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
            gso.extra(52 + 1448 * 3 + 1),
            Volume {
                packets: 3,
                bytes: 156
            }
        );
        assert_eq!(
            gso.extra(52 + 1448 * 3),
            Volume {
                packets: 2,
                bytes: 104
            }
        );
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
                .extra(120),
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
        assert_eq!(gso.extra(220).packets, 1);
        let by_frags = Gso {
            size: Gso::BY_FRAGS,
            segs: 5,
            header_len: 32,
        };
        assert_eq!(
            by_frags.extra(5000),
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
            .extra(40),
            Volume::default()
        );
    }
}
