// SPDX-License-Identifier: GPL-2.0-or-later
//! Captures: the module's core in this process, over recorded frames.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use thiserror::Error;
use trafstat_abi::RuleInfo;
use trafstat_capture::Frame;
use trafstat_capture::engine::{Engine, Interfaces, Rules, Served, Tally};
use trafstat_capture::file::{CaptureError, CaptureFile};
use trafstat_capture::steady::Steady;

use crate::account::{Account, Family};

/// Where a capture is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureName {
    /// A capture file.
    File(PathBuf),
    /// A capture on standard input.
    Stdin,
}

/// The rules to count by, one for each address family that has a local net.
#[derive(Debug, Default)]
pub struct OwnedRules {
    /// Of packets of IPv4.
    pub ipv4: Option<Box<RuleInfo>>,
    /// Of packets of IPv6.
    pub ipv6: Option<Box<RuleInfo>>,
}

impl OwnedRules {
    /// The rules, as the engine takes them.
    pub fn as_rules(&self) -> Rules<'_> {
        Rules {
            ipv4: self.ipv4.as_deref(),
            ipv6: self.ipv6.as_deref(),
        }
    }
}

/// What of a capture to count, and how.
#[derive(Default)]
pub struct CaptureRequest<'a> {
    /// The rules to count by.
    pub rules: Rules<'a>,
    /// How long an epoch is; none makes the whole capture one.
    pub epoch: Option<Duration>,
    /// The one interface to count, by the name or the index that the capture has for it.
    pub interface: Option<&'a str>,
    /// Whether a packet that several interfaces saw counts once.
    pub once: bool,
}

/// How far a capture was read.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// What became of its frames.
    pub tally: &'a Tally,
    /// Bytes of the file, as it is compressed or not.
    pub bytes: u64,
    /// How many bytes it has, where that is known.
    pub of: Option<u64>,
}

/// Who watches a capture being read.
pub trait Progress {
    /// The reading got on; called every [`FRAMES`] frames.
    fn show(&mut self, reading: &Reading<'_>);

    /// The reading is over.
    fn clear(&mut self);
}

/// Frames from one call of [`Progress::show`] to the next.
pub const FRAMES: u64 = 1 << 16;

/// A capture, counted epoch by epoch.
pub struct Capture {
    label: String,
    file: CaptureFile<'static>,
    engine: Engine,
    steady: Steady,
    /// Whether the file was read to its end, or as far as it can be.
    is_read: bool,
    progress: Box<dyn Progress>,
    /// Bytes that were read of the file.
    read: Rc<Cell<u64>>,
    /// Bytes that the file has.
    of: Option<u64>,
    /// The interface that was asked for.
    interface: Option<String>,
    /// Packets of the closed epochs that were on neither side.
    outside: u64,
    /// Why the capture ended before its end.
    broken: Option<CaptureError>,
}

/// Why a capture cannot be counted, or not to its end.
#[derive(Debug, Error)]
pub enum CaptureFailure {
    /// The file cannot be opened.
    #[error("cannot open {}: {reason}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        reason: io::Error,
    },
    /// It is no capture.
    #[error("{label}: {reason}")]
    NoCapture {
        /// The file.
        label: String,
        /// What is wrong with it.
        reason: CaptureError,
    },
    /// It is one only so far.
    #[error("{label}: {reason}. The {frames} packets before it are counted")]
    Broken {
        /// The file.
        label: String,
        /// What is wrong with it.
        reason: CaptureError,
        /// Frames that were read.
        frames: u64,
    },
    /// No packet was of the interface that was asked for.
    #[error("{label}: no packet is of interface {interface}{}", instead(.others))]
    NoSuchInterface {
        /// The file.
        label: String,
        /// The interface.
        interface: String,
        /// Other interfaces, as the file names them.
        others: Vec<String>,
    },
    /// It holds packets whose link layer is not known.
    #[error(
        "{label}: {frames} packets are of interfaces whose link type is not supported and \
         are not counted"
    )]
    UnknownLink {
        /// The file.
        label: String,
        /// How many.
        frames: u64,
    },
}

impl Capture {
    /// Opens a capture to be counted.
    ///
    /// # Errors
    /// That it cannot be opened or is no capture.
    pub fn open(
        name: &CaptureName,
        request: &CaptureRequest<'_>,
        progress: Box<dyn Progress>,
    ) -> Result<Self, CaptureFailure> {
        let (stream, label, of): (Box<dyn Read>, _, _) = match name {
            CaptureName::Stdin => (Box::new(io::stdin()), "standard input".to_owned(), None),
            CaptureName::File(path) => {
                let (file, bytes) = open_file(path).map_err(|reason| CaptureFailure::Open {
                    path: path.clone(),
                    reason,
                })?;
                (Box::new(file), path.display().to_string(), bytes)
            }
        };
        let read = Rc::new(Cell::new(0));
        let metered = Metered {
            stream,
            read: Rc::clone(&read),
        };
        let mut file = CaptureFile::open(metered).map_err(|reason| CaptureFailure::NoCapture {
            label: label.clone(),
            reason,
        })?;
        let interfaces = Interfaces {
            only: request.interface.map(|text| file.interface(text)),
            once: request.once,
        };
        Ok(Self {
            label,
            file,
            engine: Engine::new(request.rules, request.epoch).with_interfaces(interfaces),
            steady: Steady::default(),
            is_read: false,
            progress,
            read,
            of,
            interface: request.interface.map(str::to_owned),
            outside: 0,
            broken: None,
        })
    }

    /// Counts on until an epoch closes; false once the last one did.
    pub fn advance(&mut self) -> bool {
        loop {
            while let Some(frame) = self.steady.next_ready() {
                if count(&mut self.engine, &frame.as_frame()) {
                    return true;
                }
            }
            if self.is_read {
                break;
            }
            match self.file.next_frame() {
                // Not moved out: what was just written in parts would be read as a whole.
                Ok(Some(ref frame)) => {
                    if self.steady.passes(frame) && count(&mut self.engine, frame) {
                        return true;
                    }
                }
                end => {
                    self.broken = end.err();
                    self.is_read = true;
                    self.steady.end();
                }
            }
            if self.engine.tally().frames.is_multiple_of(FRAMES) {
                self.progress.show(&Reading {
                    tally: self.engine.tally(),
                    bytes: self.read.get(),
                    of: self.of,
                });
            }
        }
        self.engine.close_last();
        self.progress.clear();
        false
    }

    /// Frames whose time was far from their neighbours', which count at theirs.
    pub fn astray(&self) -> u64 {
        self.steady.astray()
    }

    /// The closed epochs. Names are those that the rule's options let through.
    pub fn closed(&self) -> Vec<(Account, Served)> {
        let named = |served: Served| Some((account_named(served.family(), served.name())?, served));
        self.engine.closed().filter_map(named).collect()
    }

    /// What became of the frames.
    pub fn tally(&self) -> &Tally {
        self.engine.tally()
    }

    /// Ends the showing of its progress.
    pub fn stop(&mut self) {
        self.progress.clear();
    }

    /// Adds packets of a closed epoch that were on neither side of a local net.
    pub fn add_outside(&mut self, packets: u64) {
        self.outside += packets;
    }

    /// The packets that were on neither side of a local net, of the epochs that are closed.
    pub fn outside(&self) -> u64 {
        self.outside
    }

    /// The local nets that the capture's first packets suggest.
    pub fn likely_local_nets(&self) -> Vec<String> {
        self.engine.likely_local_nets()
    }

    /// The capture's name, for people.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether the capture ended before its end.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Whether all of the capture was read.
    ///
    /// # Errors
    /// Why not, and how far.
    pub fn finish(&mut self) -> Result<(), CaptureFailure> {
        let frames = self.tally().frames;
        let label = self.label.clone();
        if let Some(reason) = self.broken.take() {
            return Err(CaptureFailure::Broken {
                label,
                reason,
                frames,
            });
        }
        if let Some(interface) = self.interface.take()
            && frames > 0
            && frames == self.tally().other_interface
        {
            let others: Vec<_> = self.engine.left_out().collect();
            let others = others.into_iter();
            return Err(CaptureFailure::NoSuchInterface {
                label,
                interface,
                others: others
                    .filter_map(|interface| self.file.interface_name(interface))
                    .collect(),
            });
        }
        match self.tally().unknown_link {
            0 => Ok(()),
            frames => Err(CaptureFailure::UnknownLink { label, frames }),
        }
    }
}

/// Counts a frame; true if the open epoch closed before it.
#[inline]
fn count(engine: &mut Engine, frame: &Frame<'_>) -> bool {
    let closes = engine.is_past_epoch(frame);
    if closes {
        engine.close(frame.time_ns.unwrap_or_default());
    }
    engine.count(frame);
    closes
}

/// The interfaces that a capture has instead of the one that was asked for.
fn instead(names: &[String]) -> String {
    match names {
        [] => "; it does not tell its interfaces apart".to_owned(),
        names => format!("; it has {}", names.join(", ")),
    }
}

/// A stream that tells how much was read of it.
struct Metered<R> {
    stream: R,
    read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(bytes)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

/// The account of a family (`NFPROTO_*`) and a name.
pub(super) fn account_named(family: u8, name: &[u8]) -> Option<Account> {
    let family = match u32::from(family) {
        trafstat_abi::FAMILY_IPV4 => Family::Ipv4,
        _ => Family::Ipv6,
    };
    let name = std::str::from_utf8(name).ok()?.parse().ok()?;
    Some(Account { family, name })
}

fn open_file(path: &PathBuf) -> io::Result<(File, Option<u64>)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata.is_file().then_some(metadata.len())))
}
