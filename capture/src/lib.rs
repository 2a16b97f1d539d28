// SPDX-License-Identifier: GPL-2.0-or-later
//! The module's core over frames that user space has: of a capture file, or live.
//!
//! ```text
//! file ─┐
//!       ├─▶ Frame ─ link ─▶ IP packet ─ engine ─▶ core's account ─▶ snapshot
//! live ─┘
//! ```
//!
//! - [`mod@file`] reads pcap and pcapng, compressed too.
//! - [`link`] finds the outermost IP header behind the link layer's.
//! - [`live`] has an interface's frames from the kernel, and counts them as they come.
//! - [`interface`] tells interfaces apart, and `repeats` a packet that several of them saw.
//! - `addresses` finds out which network is likely the local one.
//! - [`steady`] keeps one wrong time from taking other frames along.
//! - [`engine`] counts into accounts and closes their epochs by the frames' clock.

mod addresses;
pub mod engine;
pub mod file;
pub mod interface;
pub mod link;
pub mod live;
mod repeats;
pub mod steady;

pub use file::unpacked;
use interface::InterfaceId;
use link::LinkType;

/// A frame as it was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What its first header is; none where this crate does not know it.
    pub link: Option<LinkType>,
    /// Which interface it was captured on, where the capture may have several.
    pub interface: Option<InterfaceId>,
    /// Nanoseconds since 1970, where the capture says.
    pub time_ns: Option<u64>,
    /// What was captured of it, from the link layer's header on.
    pub bytes: &'a [u8],
    /// Its length on the wire, in bytes.
    pub wire_len: u32,
    /// Where it stands for several.
    pub segments: Option<Segments>,
}

/// What is known of a frame that offloading made of several or will make several of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Payload bytes of each but the last.
    pub size: u16,
    /// Bytes from the link layer's header to the payload, repeated in each.
    pub header_len: u16,
}
