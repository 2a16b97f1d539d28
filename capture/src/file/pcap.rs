// SPDX-License-Identifier: GPL-2.0-or-later
//! The pcap file format (draft-ietf-opsawg-pcap) and its variants: a header, then packets.
//!
//! ```text
//! | magic 4 | version 2 + 2 | 0 | 0 | longest packet 4 | link type 4 | then, packet after packet:
//! | seconds 4 | fraction 4 | captured 4 | on the wire 4 | what a variant adds | bytes ...
//! ```
//!
//! All of it has the byte order of the host that captured, which the magic tells.

use std::io::Read;

use super::{CaptureError, MAX_PACKET_BYTES, Window, whole};
use crate::Frame;
use crate::link::{self, LinkType};

const HEADER_BYTES: usize = 24;

/// The lower bits of the link type field; above them may stand the length of the frame
/// check sequence.
const LINK_TYPE_BITS: u32 = 0x03ff_ffff;

/// Seconds, fractions of one, captured bytes and bytes on the wire; 32 bits each.
const PACKET_HEADER_BYTES: usize = 16;
/// Longer packet headers that patched libpcaps wrote under one magic: with interface, protocol
/// and type, and with two bytes about the CPU besides.
const MODIFIED_PACKET_HEADER_BYTES: [usize; 2] = [24, 28];
/// Packets that are followed to find out which of them a file has.
const PACKETS_TO_TELL: usize = 4;
/// Bytes that are read ahead to find that out.
const BYTES_TO_TELL: usize = 1 << 16;

/// A variant of the format.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Microseconds,
    Nanoseconds,
    /// Longer packet headers.
    Modified,
    /// As Ixia's testers write it: nanoseconds, and the size of the records behind the header.
    Ixia,
}

const VARIANTS: [(u32, Variant); 5] = [
    (0xa1b2_c3d4, Variant::Microseconds),
    (0xa1b2_3c4d, Variant::Nanoseconds),
    (0xa1b2_cd34, Variant::Modified),
    (0x1c00_01ab, Variant::Ixia),
    (0x1c00_01ac, Variant::Ixia),
];
const IXIA_SIZE_BYTES: usize = 4;

/// The properties of all packets, from the file's header.
pub(super) struct Pcap {
    link: LinkType,
    big_endian: bool,
    packet_header_bytes: usize,
    /// Nanoseconds of the fractions.
    unit_ns: u64,
}

/// Whether a file that begins so is a pcap file.
pub(super) fn is_magic(bytes: [u8; 4]) -> bool {
    variant(bytes).is_some()
}

/// The variant that a magic names, and whether its file is big-endian.
fn variant(magic: [u8; 4]) -> Option<(Variant, bool)> {
    VARIANTS.iter().find_map(|(number, variant)| match magic {
        _ if magic == number.to_le_bytes() => Some((*variant, false)),
        _ if magic == number.to_be_bytes() => Some((*variant, true)),
        _ => None,
    })
}

impl Pcap {
    pub(super) fn open<R: Read>(window: &mut Window<R>) -> Result<Self, CaptureError> {
        let bytes = whole(window, HEADER_BYTES, "file header")?;
        let foreign = || CaptureError::Foreign(bytes.to_vec());
        let magic = bytes.first_chunk().copied().ok_or_else(foreign)?;
        let (variant, big_endian) = variant(magic).ok_or_else(foreign)?;
        let field = bytes.last_chunk().copied().ok_or_else(foreign)?;
        let number = LINK_TYPE_BITS
            & match big_endian {
                true => u32::from_be_bytes(field),
                false => u32::from_le_bytes(field),
            };
        let mut pcap = Self {
            link: LinkType::of_number(number).ok_or(CaptureError::LinkType(number))?,
            big_endian,
            packet_header_bytes: PACKET_HEADER_BYTES,
            unit_ns: match variant {
                Variant::Microseconds | Variant::Modified => 1_000,
                Variant::Nanoseconds | Variant::Ixia => 1,
            },
        };
        window.pass(HEADER_BYTES);
        match variant {
            Variant::Microseconds | Variant::Nanoseconds => {}
            Variant::Modified => pcap.packet_header_bytes = pcap.modified_header_bytes(window)?,
            Variant::Ixia => {
                whole(window, IXIA_SIZE_BYTES, "file header")?;
                window.pass(IXIA_SIZE_BYTES);
            }
        }
        Ok(pcap)
    }

    /// The length of a modified file's packet headers: that by which its first packets follow
    /// each other.
    fn modified_header_bytes<R: Read>(
        &self,
        window: &mut Window<R>,
    ) -> Result<usize, CaptureError> {
        let offset = window.offset();
        let bytes = window
            .peek(BYTES_TO_TELL)
            .map_err(|source| CaptureError::Read { offset, source })?;
        let [first, ..] = MODIFIED_PACKET_HEADER_BYTES;
        Ok(MODIFIED_PACKET_HEADER_BYTES
            .into_iter()
            .find(|header_bytes| self.packets_follow(bytes, *header_bytes))
            .unwrap_or(first))
    }

    /// Whether packets with headers of this length follow each other in `bytes`.
    fn packets_follow(&self, mut bytes: &[u8], header_bytes: usize) -> bool {
        for _ in 0..PACKETS_TO_TELL {
            let Some(header) = bytes.first_chunk() else {
                return true;
            };
            let [_, fraction, captured, wire_len] = self.words(header);
            let is_possible =
                captured <= MAX_PACKET_BYTES && captured <= wire_len && fraction < 1_000_000;
            if !is_possible {
                return false;
            }
            bytes = bytes
                .get(header_bytes + captured as usize..)
                .unwrap_or_default();
        }
        true
    }

    #[inline]
    pub(super) fn next<'a, R: Read>(
        &self,
        window: &'a mut Window<R>,
        given: &mut usize,
    ) -> Result<Option<Frame<'a>>, CaptureError> {
        let header_bytes = self.packet_header_bytes;
        let offset = window.offset();
        let there = window
            .peek(header_bytes)
            .map_err(|source| CaptureError::Read { offset, source })?;
        if there.is_empty() {
            return Ok(None);
        }
        let Some(header) = there.first_chunk().filter(|_| there.len() >= header_bytes) else {
            return whole(window, header_bytes, "packet header").map(|_| None);
        };
        let [seconds, fraction, captured, wire_len] = self.words(header);
        if captured > MAX_PACKET_BYTES {
            return Err(CaptureError::Corrupt {
                offset,
                reason: format!(
                    "a packet of {captured} bytes, more than the {MAX_PACKET_BYTES} that a \
                     packet can have"
                ),
            });
        }
        let len = header_bytes + captured as usize;
        let bytes = whole(window, len, "packet")?;
        *given = len;
        let bytes = bytes.get(header_bytes..).unwrap_or_default();
        Ok(Some(Frame {
            link: Some(self.link),
            interface: link::interface(self.link, bytes),
            time_ns: Some(u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.unit_ns),
            bytes,
            wire_len,
            segments: None,
        }))
    }

    #[inline]
    fn words(&self, header: &[u8; PACKET_HEADER_BYTES]) -> [u32; 4] {
        std::array::from_fn(|n| {
            let bytes = std::array::from_fn(|i| header[4 * n + i]);
            match self.big_endian {
                true => u32::from_be_bytes(bytes),
                false => u32::from_le_bytes(bytes),
            }
        })
    }
}
