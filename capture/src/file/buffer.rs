// SPDX-License-Identifier: GPL-2.0-or-later
//! A window over a stream that knows where in the stream it is.

use std::io::{self, Read};

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 18;

/// The part of a stream that is being looked at.
pub(super) struct Window<R> {
    stream: R,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Where in the stream `start` is.
    offset: u64,
    ended: bool,
}

impl<R: Read> Window<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream,
            bytes: vec![0; 2 * READ_BYTES],
            start: 0,
            end: 0,
            offset: 0,
            ended: false,
        }
    }

    /// Bytes of the stream before the window.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// What follows in the stream: `len` bytes or more, or fewer where it ends.
    #[inline]
    pub(super) fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.end - self.start < len && !self.ended {
            self.read(len)?;
        }
        Ok(&self.bytes[self.start..self.end])
    }

    /// Passes over bytes that [`Window::peek`] showed.
    #[inline]
    pub(super) fn pass(&mut self, len: usize) {
        let passed = len.min(self.end - self.start);
        self.start += passed;
        self.offset += passed as u64;
    }

    /// Passes over any number of bytes; gives how many there were.
    pub(super) fn skip(&mut self, len: u64) -> io::Result<u64> {
        let mut left = len;
        while left > 0 {
            let there = self.peek(1)?.len() as u64;
            if there == 0 {
                break;
            }
            let passed = left.min(there);
            self.pass(passed as usize);
            left -= passed;
        }
        Ok(len - left)
    }

    #[cold]
    fn read(&mut self, len: usize) -> io::Result<()> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.bytes.len() < len + READ_BYTES {
            self.bytes.resize(len + READ_BYTES, 0);
        }
        while self.end < len && !self.ended {
            match self.stream.read(&mut self.bytes[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
