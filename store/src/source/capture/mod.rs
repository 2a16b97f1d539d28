//! Captures: the module's core in this process, over recorded frames.

mod options;
mod progress;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::rc::Rc;

use thiserror::Error;
use trafstat_capture::engine::{Engine, Served, Tally};
use trafstat_capture::file::{CaptureError, CaptureFile};

pub use options::{CaptureName, CaptureOptions, OwnedRules, SourceName};

use super::SourceError;
use crate::account::{Account, Family};
use crate::backend::{Store, StoreError};
use crate::collect::{CollectError, Outcome, append};
use crate::origin::Origin;
use crate::query::Accumulator;
use crate::snapshot::Snapshot;
use progress::{FRAMES, Metered, Progress};

/// A capture, counted epoch by epoch.
pub struct Capture {
    label: String,
    file: CaptureFile<'static>,
    engine: Engine,
    progress: Progress,
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
    /// Opens a capture to be counted by these rules.
    ///
    /// # Errors
    /// That it cannot be opened or is no capture.
    pub fn open(
        name: &CaptureName,
        rules: &OwnedRules,
        options: &CaptureOptions,
    ) -> Result<Self, CaptureFailure> {
        let (stream, label, input_bytes): (Box<dyn Read>, _, _) = match name {
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
        let progress = Progress::new(Rc::clone(&read), input_bytes);
        let file = CaptureFile::open(Metered { stream, read }).map_err(|reason| {
            CaptureFailure::NoCapture {
                label: label.clone(),
                reason,
            }
        })?;
        Ok(Self {
            label,
            file,
            engine: Engine::new(rules.as_rules(), options.epoch),
            progress,
            broken: None,
        })
    }

    /// Counts on until an epoch closes; false once the last one did.
    pub fn advance(&mut self) -> bool {
        loop {
            match self.file.next_frame() {
                // Not moved out: what was just written in parts would be read as a whole.
                Ok(Some(ref frame)) => {
                    if self.engine.is_past_epoch(frame) {
                        self.engine.close(frame.time_ns.unwrap_or_default());
                        self.engine.count(frame);
                        return true;
                    }
                    self.engine.count(frame);
                }
                Ok(None) => break,
                Err(error) => {
                    self.broken = Some(error);
                    break;
                }
            }
            if self.engine.tally().frames % FRAMES == 0 {
                self.progress.show(self.engine.tally());
            }
        }
        self.engine.close_last();
        self.progress.clear();
        false
    }

    /// Counts the capture to its end and takes every epoch of it into the store, each
    /// exactly once, however often the capture is collected.
    ///
    /// An epoch that is stored with other totals, as that of a capture which has grown
    /// since, is left out as failed; another failure ends it.
    pub fn collect(&mut self, store: &mut dyn Store, origin: &Origin) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        loop {
            let goes_on = self.advance();
            for (account, served) in self.closed() {
                let outcome = take(store, origin, account, served);
                let stops = outcome
                    .result
                    .as_ref()
                    .is_err_and(|error| !is_refusal(error));
                outcomes.push(outcome);
                if stops {
                    self.progress.clear();
                    return outcomes;
                }
            }
            if !goes_on {
                return outcomes;
            }
        }
    }

    /// Counts the capture to its end and adds every epoch of it to what a query asks for.
    ///
    /// # Errors
    /// That an epoch does not add up, which none does.
    pub fn sum_up(
        &mut self,
        origin: &Origin,
        sums: &mut Accumulator<'_>,
    ) -> Result<(), CollectError> {
        loop {
            let goes_on = self.advance();
            for (account, served) in self.closed() {
                let mut snapshot = Snapshot::open(served)?;
                sums.begin(origin, snapshot.header());
                while let Some(records) = snapshot.next_batch()? {
                    sums.add(records);
                }
                acknowledge(&account, &mut snapshot)?;
            }
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// The closed epochs. Names are those that the rule's options let through.
    fn closed(&self) -> Vec<(Account, Served)> {
        let named = |served: Served| Some((account_named(served.family(), served.name())?, served));
        self.engine.closed().filter_map(named).collect()
    }

    /// What became of the frames.
    pub fn tally(&self) -> &Tally {
        self.engine.tally()
    }

    /// What the user should know of frames that no account has; empty where there is
    /// nothing.
    pub fn remarks(&self) -> Vec<String> {
        let tally = self.tally();
        let mut remarks = Vec::new();
        if tally.frames == 0 && self.broken.is_none() {
            remarks.push(format!("{}: there are no packets in it", self.label));
        }
        for (count, family) in [
            (tally.ipv4_without_rule, "IPv4"),
            (tally.ipv6_without_rule, "IPv6"),
        ] {
            if count > 0 {
                remarks.push(format!(
                    "{}: {count} {family} packets are not counted; --local-net has no {family} \
                     net",
                    self.label
                ));
            }
        }
        if tally.other > 0 {
            remarks.push(format!(
                "{}: {} packets are not IP and not counted",
                self.label, tally.other
            ));
        }
        remarks
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
        match self.tally().unknown_link {
            0 => Ok(()),
            frames => Err(CaptureFailure::UnknownLink { label, frames }),
        }
    }
}

/// Takes an account's closed epoch into the store. One that the store refuses is given up
/// too, for the capture still has it.
fn take(store: &mut dyn Store, origin: &Origin, account: Account, served: Served) -> Outcome {
    let mut snapshot = match Snapshot::open(served) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            return Outcome {
                origin: origin.clone(),
                account,
                header: None,
                result: Err(error.into()),
            };
        }
    };
    let header = snapshot.header().clone();
    let mut result = append(store, origin, &mut snapshot);
    let is_over = match &result {
        Ok(_) => true,
        Err(error) => is_refusal(error),
    };
    if is_over {
        if let Err(error) = acknowledge(&account, &mut snapshot) {
            result = Err(error.into());
        }
    }
    Outcome {
        origin: origin.clone(),
        account,
        header: Some(header),
        result,
    }
}

/// Gives an epoch up.
fn acknowledge(account: &Account, snapshot: &mut Snapshot<Served>) -> Result<(), SourceError> {
    let epoch = snapshot.header().epoch;
    let acknowledged = snapshot.reader_mut().acknowledge(epoch);
    acknowledged.map_err(|_| SourceError::Stale {
        path: account.to_string().into(),
        epoch,
    })
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

/// Whether the store has the epoch with other totals.
fn is_refusal(error: &CollectError) -> bool {
    matches!(error, CollectError::Store(StoreError::Conflict { .. }))
}

fn open_file(path: &PathBuf) -> io::Result<(File, Option<u64>)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata.is_file().then_some(metadata.len())))
}
