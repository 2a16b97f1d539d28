//! How far a long capture was read, on a terminal's standard error.

use std::cell::Cell;
use std::io::{self, IsTerminal, Read};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use trafstat_capture::engine::Tally;

/// Nothing is shown of what takes less.
const QUIET: Duration = Duration::from_secs(2);
/// Frames between two looks at the clock.
pub(super) const FRAMES: u64 = 1 << 16;

/// A line that tells packets and bytes per second.
pub(super) struct Progress {
    started: Instant,
    input: Rc<Cell<u64>>,
    input_bytes: Option<u64>,
    bar: Option<ProgressBar>,
    is_terminal: bool,
}

/// A stream that tells how much was read of it.
pub(super) struct Metered<R> {
    pub stream: R,
    pub read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(bytes)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

impl Progress {
    /// The progress of an input of which `input` was read.
    pub(super) fn new(input: Rc<Cell<u64>>, input_bytes: Option<u64>) -> Self {
        Self {
            started: Instant::now(),
            input,
            input_bytes,
            bar: None,
            is_terminal: io::stderr().is_terminal(),
        }
    }

    /// Shows how far it is.
    pub(super) fn show(&mut self, tally: &Tally) {
        let elapsed = self.started.elapsed();
        if !self.is_terminal || elapsed < QUIET {
            return;
        }
        let length = self.input_bytes;
        let bar = self.bar.get_or_insert_with(|| bar(length));
        let per_second = |count: u64| (count as f64 / elapsed.as_secs_f64()) as u64;
        bar.set_message(format!(
            "{} packets, {} packets/s, {}/s",
            tally.frames,
            per_second(tally.frames),
            ByteSize::b(per_second(tally.bytes)).display().iec()
        ));
        bar.set_position(self.input.get());
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{wide_bar} {percent}%  {msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}"),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    // A template that does not parse would show indicatif's own line.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
