// SPDX-License-Identifier: GPL-2.0-or-later
//! The pcapng file format (draft-ietf-opsawg-pcapng): sections of blocks.
//!
//! ```text
//! | type 4 | length 4 | body, padded to 4 | length 4 |
//! ```
//!
//! All of it has the byte order that the section's header tells.

use std::io::Read;

use super::{CaptureError, MAX_PACKET_BYTES, Window, whole};
use crate::Frame;
use crate::interface::{InterfaceId, InterfaceNames};
use crate::link::{self, LinkType};

/// A section header block, which reads the same in both byte orders.
pub(super) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Interface, two words of time, captured bytes and bytes on the wire; 32 bits each.
const PACKET_BYTES: usize = 20;

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

/// Link type, reserved, longest packet; then options.
const INTERFACE_BYTES: usize = 8;
/// Code and length, then the value, padded to 4.
const OPTION_HEADER_BYTES: usize = 4;
const END_OF_OPTIONS: u16 = 0;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;

/// Where in a pcapng file its reader is.
#[derive(Default)]
pub(super) struct PcapNg {
    big_endian: bool,
    /// Those of the open section.
    interfaces: Vec<Interface>,
    /// The names of all sections' interfaces.
    names: InterfaceNames,
}

/// What a section says of the packets of one interface.
struct Interface {
    /// Its number in [`InterfaceNames`].
    number: u32,
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
    pub(super) fn interface_names(&mut self) -> &mut InterfaceNames {
        &mut self.names
    }

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
            if len < FRAMING_BYTES || !len.is_multiple_of(4) {
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

    fn interface(&mut self, bytes: &[u8]) -> Result<Interface, String> {
        let body = self.checked_body(bytes, INTERFACE_BYTES)?;
        let mut interface = Interface {
            number: 0,
            link: LinkType::of_number(u32::from(self.u16_at(body, 0))),
            snap_len: self.u32_at(body, 4),
            resolution: Resolution::DEFAULT,
            offset_secs: 0,
        };
        let mut name = None;
        let mut options = body.get(INTERFACE_BYTES..).unwrap_or_default();
        while options.len() >= OPTION_HEADER_BYTES {
            let (code, len) = (self.u16_at(options, 0), self.u16_at(options, 2));
            let value = options
                .get(OPTION_HEADER_BYTES..OPTION_HEADER_BYTES + usize::from(len))
                .ok_or("an interface description with an option that is longer than it")?;
            match (code, value) {
                // Bytes behind it are no options.
                (END_OF_OPTIONS, _) => break,
                (IF_NAME, text) => name = Some(String::from_utf8_lossy(text).into_owned()),
                (IF_TSRESOL, [exponent, ..]) => interface.resolution = Resolution::new(*exponent),
                (IF_TSOFFSET, _) => {
                    interface.offset_secs = match value.first_chunk().copied() {
                        Some(seconds) if self.big_endian => i64::from_be_bytes(seconds),
                        Some(seconds) => i64::from_le_bytes(seconds),
                        None => 0,
                    };
                }
                _ => {}
            }
            let end = OPTION_HEADER_BYTES + usize::from(len).next_multiple_of(4);
            options = options.get(end..).unwrap_or_default();
        }
        interface.number = self.names.number(name);
        Ok(interface)
    }

    fn frame<'a>(&self, kind: u32, bytes: &'a [u8]) -> Result<Frame<'a>, String> {
        match kind {
            ENHANCED_PACKET => self.enhanced(bytes),
            PACKET => self.obsolete(bytes),
            _ => self.simple(bytes),
        }
    }

    fn enhanced<'a>(&self, bytes: &'a [u8]) -> Result<Frame<'a>, String> {
        let body = self.checked_body(bytes, PACKET_BYTES)?;
        self.packet(self.u32_at(body, 0), body)
    }

    fn obsolete<'a>(&self, bytes: &'a [u8]) -> Result<Frame<'a>, String> {
        let body = self.checked_body(bytes, PACKET_BYTES)?;
        // Where the other has the upper half of the interface, this has a number of drops.
        self.packet(u32::from(self.u16_at(body, 0)), body)
    }

    /// A packet with its interface, two words of time, two lengths and its bytes.
    fn packet<'a>(&self, id: u32, body: &'a [u8]) -> Result<Frame<'a>, String> {
        let interface = self.described(id)?;
        let data = body.get(PACKET_BYTES..).unwrap_or_default();
        let bytes = captured(data, self.u32_at(body, 12))?;
        Ok(Frame {
            link: interface.link,
            interface: self.interface_of(interface, bytes),
            time_ns: Some(interface.time_ns(self.u32_at(body, 4), self.u32_at(body, 8))),
            bytes,
            wire_len: self.u32_at(body, 16),
            segments: None,
        })
    }

    /// The interface, where the file has several; a cooked one stands for several itself.
    fn interface_of(&self, interface: &Interface, bytes: &[u8]) -> Option<InterfaceId> {
        let cooked = interface.link.and_then(|link| link::interface(link, bytes));
        cooked.or_else(|| {
            let described = InterfaceId::Described(interface.number);
            self.names.has_several().then_some(described)
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
        let bytes = captured(data, wire_len.min(snap_len))?;
        Ok(Frame {
            link: interface.link,
            interface: self.interface_of(interface, bytes),
            time_ns: None,
            bytes,
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

    fn u16_at(&self, bytes: &[u8], offset: usize) -> u16 {
        let field = bytes.get(offset..).and_then(|rest| rest.first_chunk::<2>());
        match field {
            Some(field) if self.big_endian => u16::from_be_bytes(*field),
            Some(field) => u16::from_le_bytes(*field),
            None => 0,
        }
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

impl Resolution {
    const DEFAULT: Self = Self::Decimal(6);

    /// `if_tsresol`; a resolution that no 64-bit timestamp can have reads as the default.
    fn new(exponent: u8) -> Self {
        match exponent {
            decimal @ 0..=19 => Self::Decimal(decimal),
            binary @ 0x80..=0xbf => Self::Binary(binary & 0x7f),
            _ => Self::DEFAULT,
        }
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
