//! Tells a person at a terminal that work goes on.

use std::cell::OnceCell;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use trafstat_store::collect::Watch;

/// A line on standard error once the work takes more than two seconds; nothing where
/// standard error is no terminal.
#[derive(Debug)]
pub(super) struct Progress {
    what: &'static str,
    started: Instant,
    at_terminal: bool,
    bar: OnceCell<ProgressBar>,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            started: Instant::now(),
            at_terminal: stderr().is_terminal(),
            bar: OnceCell::new(),
        }
    }

    /// Takes the line away.
    pub(super) fn finish(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Progress {
    fn alive(&self) {
        if self.at_terminal && self.started.elapsed() > SILENCE {
            let bar = self.bar.get_or_init(|| {
                let bar = ProgressBar::new_spinner().with_message(self.what);
                bar.enable_steady_tick(Duration::from_millis(100));
                bar
            });
            bar.set_message(format!(
                "{} since {} s",
                self.what,
                self.started.elapsed().as_secs()
            ));
        }
    }

    fn stopping(&self) -> bool {
        false
    }

    fn wait(&self, pause: Duration) {
        self.alive();
        std::thread::sleep(pause);
    }
}

const SILENCE: Duration = Duration::from_secs(2);
