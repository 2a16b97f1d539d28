//! The pcap file format (draft-ietf-opsawg-pcap): a header, then packets.

use std::io::Read;

use pcap_parser::pcap::{
    LegacyPcapBlock, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified,
    parse_pcap_header,
};

use super::{CaptureError, MAX_PACKET_BYTES, Window, whole};
use crate::Frame;
use crate::link::LinkType;

const HEADER_BYTES: usize = 24;

/// The lower bits of the link type field; above them may stand the length of the frame
/// check sequence.
const LINK_TYPE_BITS: u32 = 0x03ff_ffff;

/// What the header says of the packets.
pub(super) struct Pcap {
    link: LinkType,
    big_endian: bool,
    /// Packet headers have eight more bytes, as a patched libpcap wrote them.
    modified: bool,
    nanoseconds: bool,
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
            modified: header.is_modified_format(),
            nanoseconds: header.is_nanosecond_precision(),
        })
    }

    #[inline]
    pub(super) fn next<'a, R: Read>(
        &self,
        window: &'a mut Window<R>,
        given: &mut usize,
    ) -> Result<Option<Frame<'a>>, CaptureError> {
        let offset = window.offset();
        let header_len = if self.modified { 24 } else { 16 };
        let there = window
            .peek(header_len)
            .map_err(|source| CaptureError::Read { offset, source })?;
        if there.is_empty() {
            return Ok(None);
        }
        let header = whole(window, header_len, "packet header")?;
        let captured = match header {
            [_, _, _, _, _, _, _, _, a, b, c, d, ..] if self.big_endian => {
                u32::from_be_bytes([*a, *b, *c, *d])
            }
            [_, _, _, _, _, _, _, _, a, b, c, d, ..] => u32::from_le_bytes([*a, *b, *c, *d]),
            _ => 0,
        };
        if captured > MAX_PACKET_BYTES {
            return Err(CaptureError::Corrupt {
                offset,
                reason: format!(
                    "a packet of {captured} bytes, more than the {MAX_PACKET_BYTES} that a \
                     packet can have"
                ),
            });
        }
        let len = header_len + captured as usize;
        let bytes = whole(window, len, "packet")?;
        let parsed = match (self.big_endian, self.modified) {
            (true, _) => parse_pcap_frame_be(bytes),
            (_, true) => parse_pcap_frame_modified(bytes),
            _ => parse_pcap_frame(bytes),
        };
        let Ok((_, block)) = parsed else {
            return Err(CaptureError::Corrupt {
                offset,
                reason: "a packet header that cannot be read".to_owned(),
            });
        };
        *given = len;
        Ok(Some(Frame {
            link: Some(self.link),
            time_ns: Some(self.time_ns(&block)),
            bytes: block.data,
            wire_len: block.origlen,
            segments: None,
        }))
    }

    #[inline]
    fn time_ns(&self, block: &LegacyPcapBlock<'_>) -> u64 {
        let fraction = u64::from(block.ts_usec);
        let nanoseconds = if self.nanoseconds {
            fraction
        } else {
            fraction * 1_000
        };
        u64::from(block.ts_sec) * 1_000_000_000 + nanoseconds
    }
}
