//! The pcap file format (draft-ietf-opsawg-pcap): a header, then packets.

use std::io::Read;

use pcap_parser::pcap::parse_pcap_header;

use super::{CaptureError, MAX_PACKET_BYTES, Window, whole};
use crate::Frame;
use crate::link::LinkType;

const HEADER_BYTES: usize = 24;

/// The lower bits of the link type field; above them may stand the length of the frame
/// check sequence.
const LINK_TYPE_BITS: u32 = 0x03ff_ffff;

/// Seconds, fractions of one, captured bytes and bytes on the wire; 32 bits each.
const PACKET_HEADER_BYTES: usize = 16;
/// As a patched libpcap wrote them, with interface, protocol and type behind.
const MODIFIED_PACKET_HEADER_BYTES: usize = 24;

/// What the header says of the packets.
pub(super) struct Pcap {
    link: LinkType,
    big_endian: bool,
    packet_header_bytes: usize,
    /// Nanoseconds of the fractions.
    unit_ns: u64,
}

/// Whether a file that begins so is a pcap file.
pub(super) fn is_magic(bytes: [u8; 4]) -> bool {
    let known = [0xa1b2_c3d4, 0xa1b2_3c4d];
    known.contains(&u32::from_le_bytes(bytes))
        || known.contains(&u32::from_be_bytes(bytes))
        || u32::from_le_bytes(bytes) == 0xa1b2_cd34
}

impl Pcap {
    pub(super) fn open<R: Read>(window: &mut Window<R>) -> Result<Self, CaptureError> {
        let bytes = whole(window, HEADER_BYTES, "file header")?;
        let (_, header) = parse_pcap_header(bytes).map_err(|error| CaptureError::Corrupt {
            offset: 0,
            reason: format!("the file header is wrong ({error})"),
        })?;
        window.pass(HEADER_BYTES);
        let number = header.network.0 as u32 & LINK_TYPE_BITS;
        Ok(Self {
            link: LinkType::of_number(number).ok_or(CaptureError::LinkType(number))?,
            big_endian: header.is_bigendian(),
            packet_header_bytes: match header.is_modified_format() {
                true => MODIFIED_PACKET_HEADER_BYTES,
                false => PACKET_HEADER_BYTES,
            },
            unit_ns: match header.is_nanosecond_precision() {
                true => 1,
                false => 1_000,
            },
        })
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
        Ok(Some(Frame {
            link: Some(self.link),
            time_ns: Some(u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.unit_ns),
            bytes: bytes.get(header_bytes..).unwrap_or_default(),
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
