//! Tells a person at a terminal that work goes on.

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use trafstat_store::collect::Watch;

/// A line on standard error from when the work takes more than two seconds until this is
/// dropped; nothing where standard error is no terminal.
pub struct Progress {
    showing: Cell<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl Progress {
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

const SILENCE: Duration = Duration::from_secs(2);
