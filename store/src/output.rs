//! How programs write what they found.

use std::io::{self, BufWriter, Write};

use clap::ValueEnum;

/// The form in which a program writes what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// Comma-separated values with a line of column names.
    Csv,
    /// One JSON object.
    Json,
}

/// Lets `write` write to standard output.
///
/// A reader that has seen enough and closed the pipe, such as head(1), is no failure.
///
/// # Errors
/// Any other that `write` or standard output has.
pub fn to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// An error and its causes in one line, each once: most errors' texts have their cause already.
pub fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn cause_is_told_once() {
        let error = anyhow!("no such table").context("the database failed: no such table");
        let error = error.context("cannot query");
        let told = "cannot query: the database failed: no such table";
        assert_eq!(with_causes(&error), told);
    }
}
