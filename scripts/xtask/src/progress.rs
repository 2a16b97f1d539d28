// SPDX-License-Identifier: GPL-2.0-or-later
//! What is being done, on standard error: a moving line on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The moving lines of what is done side by side, one below the other.
static SPINNERS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// One thing that takes time; ends with a line that says how long it took.
pub struct Step {
    what: String,
    started: Instant,
    spinner: Option<ProgressBar>,
}

impl Step {
    /// Says that `what` begins.
    pub fn begin(what: impl Into<String>) -> Self {
        let what = what.into();
        let spinner = stderr().is_terminal().then(|| spinner(&what));
        if spinner.is_none() {
            eprintln!("{what} ...");
        }
        Self {
            what,
            started: Instant::now(),
            spinner,
        }
    }

    /// What is being done.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Shows the newest line of a long output, on a terminal only.
    pub fn detail(&self, line: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(line.trim().to_owned());
        }
    }

    /// Prints `line` on standard output, above the moving lines where there are any.
    pub fn print(&self, line: &str) {
        above(|| println!("{line}"));
    }

    /// Prints `line` as [`Step::print`] does, on standard error.
    pub fn note(&self, line: &str) {
        above(|| eprintln!("{line}"));
    }

    /// Says that the step ended well.
    pub fn done(self) {
        let seconds = self.started.elapsed().as_secs_f32();
        self.clear();
        above(|| eprintln!("{} ... done in {seconds:.1} s", self.what));
    }

    fn clear(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
            SPINNERS.remove(spinner);
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Prints above the moving lines where there are any.
pub fn above(print: impl FnOnce()) {
    SPINNERS.suspend(print);
}

fn spinner(what: &str) -> ProgressBar {
    let spinner = SPINNERS.add(ProgressBar::new_spinner());
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
    {
        spinner.set_style(style);
    }
    spinner.set_prefix(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}
