// SPDX-License-Identifier: GPL-2.0-or-later
//! Tells a person at a terminal that work goes on.

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use trafstat_store::source::capture::{self, Reading};
use trafstat_store::watch::Watch;

/// Nothing is shown of what takes less.
const SILENCE: Duration = Duration::from_secs(2);

/// A line on standard error from when the work takes more than two seconds until this is
/// dropped; nothing where standard error is no terminal.
pub struct Progress {
    showing: Cell<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl Progress {
    /// The line says `what` is being done.
    pub fn new(what: &'static str) -> Self {
        let showing = stderr().is_terminal().then(|| {
            let (end, ended) = channel();
            let thread = thread::spawn(move || {
                if ended.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
                    let line = ProgressBar::new_spinner()
                        .with_message(what)
                        .with_elapsed(SILENCE);
                    if let Ok(style) =
                        ProgressStyle::with_template("{spinner} {msg} since {elapsed}")
                    {
                        line.set_style(style);
                    }
                    line.enable_steady_tick(Duration::from_millis(100));
                    let _ = ended.recv();
                    line.finish_and_clear();
                }
            });
            (end, thread)
        });
        Self {
            showing: Cell::new(showing),
        }
    }

    /// Takes the line away.
    pub fn finish(&self) {
        if let Some((end, thread)) = self.showing.take() {
            drop(end);
            // It has nothing that could fail but the terminal.
            let _ = thread.join();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Watch for Progress {
    fn alive(&self) {}

    fn stopping(&self) -> bool {
        false
    }

    fn wait(&self, pause: Duration) {
        thread::sleep(pause);
    }
}

/// A line that tells how far a long capture was read, with packets and bytes per second.
pub struct CaptureProgress {
    started: Instant,
    bar: Option<ProgressBar>,
    is_terminal: bool,
}

impl CaptureProgress {
    /// The progress of a capture that is being opened.
    #[expect(clippy::new_without_default, reason = "it begins now")]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            bar: None,
            is_terminal: stderr().is_terminal(),
        }
    }
}

impl capture::Progress for CaptureProgress {
    fn show(&mut self, reading: &Reading<'_>) {
        let elapsed = self.started.elapsed();
        if !self.is_terminal || elapsed < SILENCE {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| bar(reading.of));
        let per_second = |count: u64| (count as f64 / elapsed.as_secs_f64()) as u64;
        bar.set_message(format!(
            "{} packets, {} packets/s, {}/s",
            reading.tally.frames,
            per_second(reading.tally.frames),
            ByteSize::b(per_second(reading.tally.bytes)).display().iec()
        ));
        bar.set_position(reading.bytes);
    }

    fn clear(&mut self) {
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
