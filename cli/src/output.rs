//! How programs write what they found.

use std::io::{self, BufWriter, Write};

use clap::ValueEnum;

use crate::hint::hint;

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

/// An error and its causes in one line, each once, and what to do about it.
///
/// Most errors' texts have their cause already.
pub fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let hints = error.chain().filter_map(hint).map(str::to_owned);
    for cause in error.chain().map(ToString::to_string).chain(hints) {
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
    use trafstat_store::store::StoreError;

    use super::*;
    use crate::store::OpenError;

    #[test]
    fn hint_stands_at_the_end() {
        let missing = || StoreError::Missing("a.db".into());
        let told = "there is no database a.db: \"trafstat-store\" creates it with the first \
                    collection, --db names another";
        assert_eq!(with_causes(&missing().into()), told);
        assert_eq!(with_causes(&OpenError::from(missing()).into()), told);
        let error = anyhow::Error::from(missing()).context("cannot query");
        assert_eq!(with_causes(&error), format!("cannot query: {told}"));
    }

    #[test]
    fn cause_is_told_once() {
        let error = anyhow!("no such table").context("the database failed: no such table");
        let error = error.context("cannot query");
        let told = "cannot query: the database failed: no such table";
        assert_eq!(with_causes(&error), told);
    }
}
