// SPDX-License-Identifier: GPL-2.0-or-later
//! Reads a source, and remembers what was read for the spool.

use std::io::{self, Read};

use crate::watch::Watch;

/// A reader that may remember its bytes until they are forgotten.
pub(super) struct Recorder<'a, R> {
    reader: R,
    recording: bool,
    bytes: Vec<u8>,
    watch: &'a dyn Watch,
}

impl<'a, R> Recorder<'a, R> {
    pub(super) fn new(reader: R, recording: bool, watch: &'a dyn Watch) -> Self {
        Self {
            reader,
            recording,
            bytes: Vec::new(),
            watch,
        }
    }

    /// What was read since it was forgotten.
    pub(super) fn recorded(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn forget(&mut self) {
        self.bytes.clear();
    }

    pub(super) fn inner_mut(&mut self) -> &mut R {
        &mut self.reader
    }
}

impl<R: Read> Read for Recorder<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.watch.alive();
        let count = self.reader.read(bytes)?;
        if self.recording {
            self.bytes.extend_from_slice(&bytes[..count]);
        }
        Ok(count)
    }
}
