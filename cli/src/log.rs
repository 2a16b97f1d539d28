// SPDX-License-Identifier: GPL-2.0-or-later
//! Where the programs' messages go: to systemd's journal, with priority and fields, where standard
//! error leads there, and otherwise to standard error, a line each.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::fd::AsFd;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Set by systemd to the device and inode of the stream that it reads.
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// Of the names of events' fields in the journal, such as TRAFSTAT_ACCOUNT.
const FIELD_PREFIX: &str = "TRAFSTAT";

/// The field that an event's text stands in.
const MESSAGE: &str = "message";

/// Takes the messages of this program and its libraries from now on.
pub fn init(program: &'static str) {
    let journal = leads_to_journal(&std::env::var(JOURNAL_STREAM).unwrap_or_default())
        .then(|| tracing_journald::layer().ok())
        .flatten()
        .map(|layer| {
            layer
                .with_syslog_identifier(program.to_owned())
                .with_field_prefix(Some(FIELD_PREFIX.to_owned()))
        });
    let lines = journal.is_none().then_some(Lines { program });
    // Another subscriber is there only in tests that share a process.
    let _ = tracing_subscriber::registry()
        .with(journal)
        .with(lines)
        .with(LevelFilter::from_level(Level::INFO))
        .try_init();
}

/// Whether standard error is the stream `DEVICE:INODE`.
fn leads_to_journal(stream: &str) -> bool {
    let Ok(stderr) = rustix::fs::fstat(io::stderr().as_fd()) else {
        return false;
    };
    stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}

/// Writes a line for each event, without its fields: the text has what people need.
struct Lines {
    program: &'static str,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        // There is nowhere to tell that standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{}: {}", self.program, text.0);
    }
}

/// An event's text.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == MESSAGE {
            // Writing to a string does not fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_error_is_the_journal_only_by_device_and_inode() {
        let stderr = rustix::fs::fstat(io::stderr().as_fd()).unwrap();
        let (device, inode) = (stderr.st_dev, stderr.st_ino);
        assert!(leads_to_journal(&format!("{device}:{inode}")));
        for other in [
            String::new(),
            "8".to_owned(),
            format!("{device}:{}", inode + 1),
        ] {
            assert!(!leads_to_journal(&other), "{other}");
        }
    }
}
