// SPDX-License-Identifier: GPL-2.0-or-later
//! How programs write what they found.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::ops::Range;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::hint::hint;
use crate::text::{csv_cell, printable};

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
    to_pipe(io::stdout().lock(), write)
}

/// Prints a line of progress to standard output, while something is done that goes on to its end
/// whether or not anybody reads on.
pub fn say(line: impl Display) {
    let written = to_stdout(|writer| writeln!(writer, "{line}"));
    if let Err(error) = written {
        eprintln!("{line} (standard output: {error})");
    }
}

fn to_pipe(
    pipe: impl Write,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffered = BufWriter::new(Pipe {
        pipe,
        is_closed: false,
    });
    let written = write(&mut buffered).and_then(|()| buffered.flush());
    // What was not taken is not tried again.
    let (pipe, _) = buffered.into_parts();
    match pipe.is_closed {
        true => Ok(()),
        false => written,
    }
}

/// A stream that remembers that its reader is gone: an error of another kind may be made of it on
/// its way through a format's library.
struct Pipe<W> {
    pipe: W,
    is_closed: bool,
}

impl<W> Pipe<W> {
    fn remember<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.is_closed |=
            matches!(&result, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
        result
    }
}

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.pipe.write(bytes);
        self.remember(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.pipe.flush();
        self.remember(flushed)
    }
}

/// Rows under named columns, and the same as JSON has them.
pub struct Listing<'a, J, const N: usize> {
    /// The columns, as CSV names them.
    pub columns: [&'static str; N],
    /// Which columns have numbers.
    pub numbers: Range<usize>,
    /// A line for each; an empty cell is one that is not known.
    pub rows: Vec<[String; N]>,
    /// All of it as JSON.
    pub json: &'a J,
}

impl<J: Serialize, const N: usize> Listing<'_, J, N> {
    /// Writes the listing.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, format: Format, mut writer: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Table => writeln!(writer, "{}", self.table().trim_fmt()),
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(writer);
                csv.write_record(self.columns)?;
                for row in &self.rows {
                    let cells = row.iter().enumerate();
                    csv.write_record(cells.map(|(column, cell)| {
                        match self.numbers.contains(&column) {
                            true => Cow::Borrowed(cell.as_str()),
                            false => csv_cell(cell),
                        }
                        .into_owned()
                    }))?;
                }
                csv.flush()
            }
            Format::Json => {
                serde_json::to_writer(&mut writer, self.json)?;
                writeln!(writer)
            }
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(
            self.columns
                .map(|column| column.to_uppercase().replace('_', " ")),
        );
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| match cell.as_str() {
                "" => Cow::Borrowed("-"),
                known => printable(known),
            }));
        }
        let numbers = self.numbers.clone();
        for column in table
            .column_iter_mut()
            .take(numbers.end)
            .skip(numbers.start)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
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

    /// A pipe whose reader takes so many bytes.
    struct Closing(usize);

    impl Write for Closing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn closed_pipe_is_no_error_in_any_disguise() {
        for takes in [0, 100, 10_000] {
            let long = "x".repeat(1 << 16);
            to_pipe(Closing(takes), |writer| writer.write_all(long.as_bytes())).unwrap();
            let disguised = |writer: &mut dyn Write| {
                let written = writer.write_all(long.as_bytes());
                written.map_err(|error| io::Error::other(error.to_string()))
            };
            to_pipe(Closing(takes), disguised).unwrap();
        }
        let error = to_pipe(Closing(100), |_| Err(io::Error::other("no space left")));
        assert_eq!(error.unwrap_err().to_string(), "no space left");
    }

    #[test]
    fn listing_shows_nobodys_control_characters_or_formulas() {
        let listing = Listing {
            columns: ["host", "ahead"],
            numbers: 1..2,
            rows: vec![["=\x1b[31mred".to_owned(), "-0.5".to_owned()]],
            json: &(),
        };
        let written = |format| {
            let mut text = Vec::new();
            listing.write(format, &mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        let csv = "host,ahead\n'=\\u{1b}[31mred,-0.5\n";
        assert_eq!(written(Format::Csv), csv);
        let table = written(Format::Table);
        assert!(table.contains("=\\u{1b}[31mred"), "{table}");
    }

    #[test]
    fn listing_is_the_same_in_every_format() {
        let listing = Listing {
            columns: ["host", "clock_ahead"],
            numbers: 1..2,
            rows: vec![
                ["a".to_owned(), "10".to_owned()],
                ["b".to_owned(), String::new()],
            ],
            json: &["a", "b"],
        };
        let written = |format| {
            let mut text = Vec::new();
            listing.write(format, &mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        let table = " HOST  CLOCK AHEAD\n a              10\n b               -\n";
        assert_eq!(written(Format::Table), table);
        assert_eq!(written(Format::Csv), "host,clock_ahead\na,10\nb,\n");
        assert_eq!(written(Format::Json), "[\"a\",\"b\"]\n");
    }

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
