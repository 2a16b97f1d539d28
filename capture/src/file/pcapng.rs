//! The pcapng file format (draft-ietf-opsawg-pcapng): blocks, which this module frames
//! and whose inside the parser reads.

use std::io::Read;

use pcap_parser::OptionCode;
use pcap_parser::pcapng::{
    InterfaceDescriptionBlock, parse_enhancedpacketblock_be, parse_enhancedpacketblock_le,
    parse_interfacedescriptionblock_be, parse_interfacedescriptionblock_le,
};

use super::{CaptureError, MAX_PACKET_BYTES, Window, whole};
use crate::Frame;
use crate::link::LinkType;

/// A section header block, which reads the same in both byte orders.
pub(super) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const INTERFACE_DESCRIPTION: u32 = 1;
/// What enhanced packet blocks replaced.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// Type and length before the block's body, the length again behind it.
const FRAMING_BYTES: u32 = 12;
/// The longest block that is read as a whole: a packet, its headers and its options.
const MAX_BLOCK_BYTES: u32 = MAX_PACKET_BYTES + (1 << 20);
/// Interfaces that one section may describe.
const MAX_INTERFACES: usize = 1 << 16;

/// Where in a pcapng file its reader is.
#[derive(Default)]
pub(super) struct PcapNg {
    big_endian: bool,
    interfaces: Vec<Interface>,
}

/// What a section says of the packets of one interface.
struct Interface {
    link: Option<LinkType>,
    snap_len: u32,
    resolution: Resolution,
    offset_secs: i64,
}

/// How many ticks of the timestamps make a second.
#[derive(Clone, Copy)]
enum Resolution {
    /// 10 to the power of so many.
    Decimal(u8),
    /// 2 to the power of so many.
    Binary(u8),
}

/// Which block holds the next packet, and how long it is.
struct PacketBlock {
    kind: u32,
    len: usize,
}

impl PcapNg {
    pub(super) fn next<'a, R: Read>(
        &mut self,
        window: &'a mut Window<R>,
        given: &mut usize,
    ) -> Result<Option<Frame<'a>>, CaptureError> {
        let Some(block) = self.find_packet(window)? else {
            return Ok(None);
        };
        let offset = window.offset();
        let bytes = whole(window, block.len, "block")?;
        let frame = self
            .frame(block.kind, bytes)
            .map_err(|reason| CaptureError::Corrupt { offset, reason })?;
        *given = block.len;
        Ok(Some(frame))
    }

    /// Reads on to the next block with a packet in it.
    fn find_packet<R: Read>(
        &mut self,
        window: &mut Window<R>,
    ) -> Result<Option<PacketBlock>, CaptureError> {
        loop {
            let offset = window.offset();
            let unread = |source| CaptureError::Read { offset, source };
            if window.peek(1).map_err(unread)?.is_empty() {
                return Ok(None);
            }
            let corrupt = |reason: String| CaptureError::Corrupt { offset, reason };
            let head = whole(window, FRAMING_BYTES as usize, "block")?;
            if head.starts_with(&MAGIC) {
                self.begin_section(head).map_err(corrupt)?;
            }
            let kind = self.u32_at(head, 0);
            let len = self.u32_at(head, 4);
            if len < FRAMING_BYTES || len % 4 != 0 {
                return Err(corrupt(format!("a block of {len} bytes")));
            }
            match kind {
                PACKET | SIMPLE_PACKET | ENHANCED_PACKET => {
                    if len > MAX_BLOCK_BYTES {
                        return Err(corrupt(format!("a packet block of {len} bytes")));
                    }
                    return Ok(Some(PacketBlock {
                        kind,
                        len: len as usize,
                    }));
                }
                INTERFACE_DESCRIPTION => {
                    if len > MAX_BLOCK_BYTES || self.interfaces.len() == MAX_INTERFACES {
                        return Err(corrupt("too long or one too many interfaces".to_owned()));
                    }
                    let bytes = whole(window, len as usize, "block")?;
                    let interface = self.interface(bytes).map_err(corrupt)?;
                    self.interfaces.push(interface);
                    window.pass(len as usize);
                }
                _ => {
                    let passed = window.skip(u64::from(len)).map_err(unread)?;
                    if passed < u64::from(len) {
                        return Err(CaptureError::Truncated {
                            offset,
                            missing: u64::from(len) - passed,
                            what: "block",
                        });
                    }
                }
            }
        }
    }

    /// A section has a byte order and interfaces of its own.
    fn begin_section(&mut self, head: &[u8]) -> Result<(), String> {
        let magic = head.last_chunk::<4>().copied().unwrap_or_default();
        self.big_endian = match BYTE_ORDER_MAGIC {
            order if u32::from_le_bytes(magic) == order => false,
            order if u32::from_be_bytes(magic) == order => true,
            _ => return Err("a section whose byte order cannot be told".to_owned()),
        };
        self.interfaces.clear();
        Ok(())
    }

    fn interface(&self, bytes: &[u8]) -> Result<Interface, String> {
        let parsed = if self.big_endian {
            parse_interfacedescriptionblock_be(bytes)
        } else {
            parse_interfacedescriptionblock_le(bytes)
        };
        let Ok((_, block)) = parsed else {
            return Err("an interface description that cannot be read".to_owned());
        };
        Ok(Interface {
            link: LinkType::of_number(block.linktype.0 as u32),
            snap_len: block.snaplen,
            resolution: resolution(&block),
            offset_secs: self.offset_secs(&block),
        })
    }

    /// `if_tsoffset`, which the parser reads as little-endian in every section.
    fn offset_secs(&self, block: &InterfaceDescriptionBlock<'_>) -> i64 {
        let option = block
            .options
            .iter()
            .find(|option| option.code == OptionCode::IfTsoffset);
        let value = option.and_then(|option| option.value.first_chunk::<8>().copied());
        match value {
            Some(value) if self.big_endian => i64::from_be_bytes(value),
            Some(value) => i64::from_le_bytes(value),
            None => 0,
        }
    }

    fn frame<'a>(&self, kind: u32, bytes: &'a [u8]) -> Result<Frame<'a>, String> {
        match kind {
            ENHANCED_PACKET => self.enhanced(bytes),
            PACKET => self.obsolete(bytes),
            _ => self.simple(bytes),
        }
    }

    fn enhanced<'a>(&self, bytes: &'a [u8]) -> Result<Frame<'a>, String> {
        // The parser takes the fixed part for granted.
        self.checked_body(bytes, 20)?;
        let parsed = if self.big_endian {
            parse_enhancedpacketblock_be(bytes)
        } else {
            parse_enhancedpacketblock_le(bytes)
        };
        let Ok((_, block)) = parsed else {
            return Err("a packet block that cannot be read".to_owned());
        };
        let interface = self.described(block.if_id)?;
        let captured = captured(block.data, block.caplen)?;
        Ok(Frame {
            link: interface.link,
            time_ns: Some(interface.time_ns(block.ts_high, block.ts_low)),
            bytes: captured,
            wire_len: block.origlen,
            segments: None,
        })
    }

    fn obsolete<'a>(&self, bytes: &'a [u8]) -> Result<Frame<'a>, String> {
        let body = self.checked_body(bytes, 20)?;
        let id = match body {
            [a, b, ..] if self.big_endian => u16::from_be_bytes([*a, *b]),
            [a, b, ..] => u16::from_le_bytes([*a, *b]),
            _ => 0,
        };
        let interface = self.described(u32::from(id))?;
        let data = body.get(20..).unwrap_or_default();
        Ok(Frame {
            link: interface.link,
            time_ns: Some(interface.time_ns(self.u32_at(body, 4), self.u32_at(body, 8))),
            bytes: captured(data, self.u32_at(body, 12))?,
            wire_len: self.u32_at(body, 16),
            segments: None,
        })
    }

    fn simple<'a>(&self, bytes: &'a [u8]) -> Result<Frame<'a>, String> {
        let body = self.checked_body(bytes, 4)?;
        let wire_len = self.u32_at(body, 0);
        let interface = self.described(0)?;
        let snap_len = match interface.snap_len {
            0 => u32::MAX,
            snap_len => snap_len,
        };
        let data = body.get(4..).unwrap_or_default();
        Ok(Frame {
            link: interface.link,
            time_ns: None,
            bytes: captured(data, wire_len.min(snap_len))?,
            wire_len,
            segments: None,
        })
    }

    /// The body of a block that has at least `least` bytes of it and whose two lengths
    /// agree.
    fn checked_body<'a>(&self, bytes: &'a [u8], least: usize) -> Result<&'a [u8], String> {
        let end = bytes.len() - 4;
        if self.u32_at(bytes, 4) != self.u32_at(bytes, end) {
            return Err("a block whose length at its end is another than at its start".to_owned());
        }
        bytes
            .get(8..end)
            .filter(|body| body.len() >= least)
            .ok_or_else(|| format!("a packet block of {} bytes", bytes.len()))
    }

    fn described(&self, id: u32) -> Result<&Interface, String> {
        self.interfaces
            .get(id as usize)
            .ok_or_else(|| format!("a packet of interface {id}, which was not described"))
    }

    fn u32_at(&self, bytes: &[u8], offset: usize) -> u32 {
        let field = bytes.get(offset..).and_then(|rest| rest.first_chunk::<4>());
        match field {
            Some(field) if self.big_endian => u32::from_be_bytes(*field),
            Some(field) => u32::from_le_bytes(*field),
            None => 0,
        }
    }
}

impl Interface {
    /// Nanoseconds since 1970, as far as they can be told apart from absurd ones.
    fn time_ns(&self, high: u32, low: u32) -> u64 {
        const NANOSECONDS: i128 = 1_000_000_000;
        let ticks = i128::from(high) << 32 | i128::from(low);
        let since = match self.resolution {
            Resolution::Decimal(exponent) => ticks * NANOSECONDS / 10_i128.pow(u32::from(exponent)),
            Resolution::Binary(exponent) => (ticks * NANOSECONDS) >> exponent,
        };
        let absolute = since + i128::from(self.offset_secs) * NANOSECONDS;
        absolute.clamp(0, i128::from(i64::MAX)) as u64
    }
}

/// `if_tsresol`; a resolution that no 64-bit timestamp can have reads as the default.
fn resolution(block: &InterfaceDescriptionBlock<'_>) -> Resolution {
    const DEFAULT: Resolution = Resolution::Decimal(6);
    match block.if_tsresol {
        exponent @ 0..=19 => Resolution::Decimal(exponent),
        binary @ 0x80..=0xbf => Resolution::Binary(binary & 0x7f),
        _ => DEFAULT,
    }
}

fn captured(bytes: &[u8], len: u32) -> Result<&[u8], String> {
    if len > MAX_PACKET_BYTES {
        return Err(format!("a packet of {len} bytes"));
    }
    bytes
        .get(..len as usize)
        .ok_or_else(|| format!("a packet of {len} bytes in a block that has not so many"))
}
