// SPDX-License-Identifier: GPL-2.0-or-later
//! Capture files: pcap and pcapng, of either byte order, compressed with gzip, zstd or
//! xz, from a file or a pipe.

mod buffer;
mod compression;
mod pcap;
mod pcapng;

use std::io::{self, Read};

use thiserror::Error;

use crate::Frame;
use crate::interface::{InterfaceId, InterfaceNames, Wanted};
use buffer::Window;
pub use compression::unpacked;
use pcap::Pcap;
use pcapng::PcapNg;

/// The longest packet that is believed: what libpcap and Wireshark read too. A longer
/// one is a length field that something else was written over.
const MAX_PACKET_BYTES: u32 = 262_144;

/// A capture being read.
pub struct CaptureFile<'a> {
    window: Window<Box<dyn Read + 'a>>,
    format: Format,
    /// Bytes of the frame that was given last.
    given: usize,
}

enum Format {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

/// Why a capture gives no more frames. Offsets are in the capture as it was before it
/// was compressed.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// It has no bytes.
    #[error("it is empty; a capture begins with a header")]
    Empty,
    /// It is something else.
    #[error(
        "it is no capture: it begins with {}, and neither pcap, pcapng nor one of them \
         compressed with gzip, zstd or xz does",
        hex(.0)
    )]
    Foreign(Vec<u8>),
    /// All of its frames begin with a header that this crate does not know.
    #[error(
        "its link type {0} is not supported; Ethernet, raw IP, Linux cooked (v1, v2), PPP, PPPoE, \
         Cisco HDLC, netfilter's log, PPI, NULL and LOOP are (1, 12, 14, 101, 228, 229, 113, 276, \
         9, 50, 166, 204, 51, 104, 239, 192, 0, 108)"
    )]
    LinkType(u32),
    /// It ends within something.
    #[error("it is cut off at byte {offset}, {missing} bytes before the end of the {what} there")]
    Truncated {
        /// Where the unfinished thing begins.
        offset: u64,
        /// How many bytes of it are missing at least.
        missing: u64,
        /// Header, packet or block.
        what: &'static str,
    },
    /// It goes on with something that cannot be.
    #[error("it is corrupt at byte {offset}: {reason}")]
    Corrupt {
        /// Where the wrong thing begins.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// It cannot be read or unpacked.
    #[error("it cannot be read beyond byte {offset}: {source}")]
    Read {
        /// How far it was read.
        offset: u64,
        /// The system's or the decompressor's error.
        source: io::Error,
    },
}

impl<'a> CaptureFile<'a> {
    /// Reads the header of a capture.
    ///
    /// # Errors
    /// That it is none, or of a link type that is not supported.
    pub fn open(stream: impl Read + 'a) -> Result<Self, CaptureError> {
        let unread = |source| CaptureError::Read { offset: 0, source };
        let mut window = Window::new(compression::unpacked(stream).map_err(unread)?);
        let first = window.peek(4).map_err(unread)?;
        let magic = first.first_chunk::<4>().copied();
        let format = match magic {
            None if first.is_empty() => return Err(CaptureError::Empty),
            None => return Err(CaptureError::Foreign(first.to_vec())),
            Some(pcapng::MAGIC) => Format::PcapNg(PcapNg::default()),
            Some(magic) if pcap::is_magic(magic) => Format::Pcap(Pcap::open(&mut window)?),
            Some(magic) => return Err(CaptureError::Foreign(magic.to_vec())),
        };
        Ok(Self {
            window,
            format,
            given: 0,
        })
    }

    /// The next frame; none after the last.
    ///
    /// # Errors
    /// That the capture does not go on as a capture does. What was given before stands;
    /// asking again gives the same error.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        self.window.pass(std::mem::take(&mut self.given));
        match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.window, &mut self.given),
            Format::PcapNg(pcapng) => pcapng.next(&mut self.window, &mut self.given),
        }
    }

    /// The interface that `text` names: as pcapng describes it, or by the index that frames of
    /// Linux cooked capture, version 2, have.
    pub fn interface(&mut self, text: &str) -> Wanted {
        match &mut self.format {
            Format::Pcap(_) => InterfaceNames::default().wanted(text),
            Format::PcapNg(pcapng) => pcapng.interface_names().wanted(text),
        }
    }

    /// The name of an interface in the capture, or its index.
    pub fn interface_name(&mut self, interface: InterfaceId) -> Option<String> {
        match (&mut self.format, interface) {
            (_, InterfaceId::Index(index)) => Some(index.to_string()),
            (Format::Pcap(_), _) => None,
            (Format::PcapNg(pcapng), _) => {
                pcapng.interface_names().get(interface).map(str::to_owned)
            }
        }
    }

    /// How far the capture was read, in bytes as before it was compressed.
    pub fn offset(&self) -> u64 {
        self.window.offset()
    }
}

/// `len` bytes of a window, or the error that they are not all there.
fn whole<'a, R: Read>(
    window: &'a mut Window<R>,
    len: usize,
    what: &'static str,
) -> Result<&'a [u8], CaptureError> {
    let offset = window.offset();
    let bytes = window
        .peek(len)
        .map_err(|source| CaptureError::Read { offset, source })?;
    bytes.get(..len).ok_or_else(|| CaptureError::Truncated {
        offset,
        missing: (len - bytes.len()) as u64,
        what,
    })
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}
