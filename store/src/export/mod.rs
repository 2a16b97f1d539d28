//! Writes out what a store has: lines for other programs, and files that can be restored.
//!
//! - [`Form::Csv`] and [`Form::Json`] have one line for each record or sum.
//! - [`Form::Restorable`] is the CSV of records with the epochs' own lines between them:
//!   all that [`Store::restore`] needs. Archives have this form too.

mod compression;
mod epochs;
mod lines;

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;

pub(crate) use compression::Packer;
pub(crate) use epochs::{EpochReader, EpochWriter};

use crate::account::{Account, Name};
use crate::backend::file::{create_file, system_error, write_new_file};
use crate::backend::{Store, StoreError};
use crate::collect::Watch;
use crate::origin::Origin;
use crate::query::{Field, Value};
use crate::snapshot::{Counters, Header, Record};
use lines::{CsvLines, JsonLines, Lines};

/// What is written out, by the names of the views that show the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Every record.
    Flow,
    /// Hourly sums by local address.
    LocalHour,
    /// Daily sums by local address.
    LocalDay,
    /// Hourly sums by protocol and local port.
    ServiceHour,
    /// Daily sums by protocol and local port.
    ServiceDay,
    /// Monthly sums by remote address.
    RemoteMonth,
}

/// Which part of a level is written out.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Names of accounts; all if none.
    pub accounts: Vec<Name>,
    /// Epochs that closed, or sums whose period begins, at this time or later.
    pub since: Option<Timestamp>,
    /// Epochs that closed, or sums whose period begins, before this time.
    pub until: Option<Timestamp>,
}

/// The form in which it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Comma-separated values with a line of column names.
    Csv,
    /// One JSON object, a line for each of its elements.
    Json,
    /// CSV that [`Store::restore`] takes back; of records only.
    Restorable,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// Lines of records or of sums.
    pub lines: u64,
    /// Epochs that were left out, since their records were deleted.
    pub without_records: u64,
}

/// Where a store shows its epochs: each is begun, then come its records.
pub trait Epochs {
    /// An epoch of the store begins.
    ///
    /// # Errors
    /// That it cannot be written.
    fn begin(&mut self, origin: &Origin, header: &Header) -> Result<(), StoreError>;

    /// Some more of its records, in their order.
    ///
    /// # Errors
    /// That they cannot be written.
    fn add(&mut self, records: &[Record]) -> Result<(), StoreError>;

    /// An epoch that has no records any more.
    fn left_out(&mut self);
}

/// A sum of a rollup.
#[derive(Debug)]
pub struct Sum<'a> {
    /// Where it was counted.
    pub origin: &'a Origin,
    /// The account.
    pub account: &'a Account,
    /// When its hour, day or month begins.
    pub begin: Timestamp,
    /// What it is the sum by: the level's fields in their order.
    pub key: &'a [Value],
    /// What was counted.
    pub counters: Counters,
}

impl Level {
    /// Every one, in the order in which help lists them.
    pub const ALL: [Self; 6] = [
        Self::Flow,
        Self::LocalHour,
        Self::LocalDay,
        Self::ServiceHour,
        Self::ServiceDay,
        Self::RemoteMonth,
    ];

    /// What its sums are by; of no use for records.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Self::Flow => &[],
            Self::LocalHour | Self::LocalDay => &[Field::LocalIp],
            Self::ServiceHour | Self::ServiceDay => &[Field::Protocol, Field::LocalPort],
            Self::RemoteMonth => &[Field::RemoteIp],
        }
    }

    /// The column that has the begin of its periods.
    pub fn period(self) -> &'static str {
        match self {
            Self::Flow => "closed",
            Self::LocalHour | Self::ServiceHour => "hour",
            Self::LocalDay | Self::ServiceDay => "day",
            Self::RemoteMonth => "month",
        }
    }
}

/// Writes a level out, account by account and in the order of time.
///
/// # Errors
/// The store's, or [`StoreError::Write`].
pub fn export(
    store: &mut dyn Store,
    level: Level,
    selection: &Selection,
    form: Form,
    watch: &dyn Watch,
    out: &mut dyn Write,
) -> Result<Exported, StoreError> {
    let lines: &mut dyn Lines = match form {
        Form::Restorable => {
            let mut writer = Counted::new(EpochWriter::new(out)?, watch);
            store.export_records(selection, &mut writer)?;
            writer.to.finish()?;
            return Ok(writer.exported);
        }
        Form::Csv => &mut CsvLines::new(out, level)?,
        Form::Json => &mut JsonLines::new(out, level)?,
    };
    let exported = match level {
        Level::Flow => {
            let mut records = Counted::new(lines::Flows::new(&mut *lines), watch);
            store.export_records(selection, &mut records)?;
            records.exported
        }
        sums => {
            let mut exported = Exported::default();
            store.export_sums(sums, selection, &mut |sum| {
                watch.alive();
                exported.lines += 1;
                lines.sum(sum).map_err(StoreError::Write)
            })?;
            exported
        }
    };
    lines.finish().map_err(StoreError::Write)?;
    Ok(exported)
}

/// Writes to a file that is not there yet: whole and durable, or not at all. Its ending,
/// `.gz` or `.zst`, says how it is compressed.
///
/// # Errors
/// [`StoreError::Exists`], that the file cannot be written, or what `write` says.
pub fn to_file<T>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    write_new_file(path, |partial| {
        let file = create_file(partial).map_err(|error| system_error(partial, error))?;
        let named = |error| system_error(path, error);
        let mut packer = Packer::for_path(path, file).map_err(named)?;
        let done = write(&mut packer)?;
        let file = packer.finish().map_err(named)?;
        file.sync_all().map_err(named)?;
        Ok(done)
    })
}

/// Counts what passes through.
struct Counted<'a, E> {
    to: E,
    watch: &'a dyn Watch,
    exported: Exported,
}

impl<'a, E> Counted<'a, E> {
    fn new(to: E, watch: &'a dyn Watch) -> Self {
        Self {
            to,
            watch,
            exported: Exported::default(),
        }
    }
}

impl<E: Epochs> Epochs for Counted<'_, E> {
    fn begin(&mut self, origin: &Origin, header: &Header) -> Result<(), StoreError> {
        self.watch.alive();
        self.to.begin(origin, header)
    }

    fn add(&mut self, records: &[Record]) -> Result<(), StoreError> {
        self.exported.lines += records.len() as u64;
        self.to.add(records)
    }

    fn left_out(&mut self) {
        self.exported.without_records += 1;
    }
}

/// Nanoseconds since 1970 as RFC 3339, whole: what it says is read back the same.
fn time(nanoseconds: u64) -> io::Result<Timestamp> {
    Timestamp::from_nanosecond(nanoseconds.into()).map_err(io::Error::other)
}

/// The account and epoch that a line belongs to.
const EPOCH_COLUMNS: [&str; 6] = ["host", "netns", "family", "account", "epoch", "closed"];

/// What a record is.
const RECORD_COLUMNS: [&str; 11] = [
    "protocol",
    "local_ip",
    "local_port",
    "remote_ip",
    "remote_port",
    "flags",
    "sent_packets",
    "received_packets",
    "sent_bytes",
    "received_bytes",
    "syn_packets",
];

/// Writes fields to a line of CSV.
struct Fields<W: Write> {
    csv: csv::Writer<W>,
    text: String,
}

impl<W: Write> Fields<W> {
    fn new(writer: W) -> Self {
        Self {
            csv: csv::Writer::from_writer(writer),
            text: String::new(),
        }
    }

    fn add(&mut self, value: impl fmt::Display) -> io::Result<()> {
        use fmt::Write as _;

        self.text.clear();
        write!(self.text, "{value}").map_err(io::Error::other)?;
        Ok(self.csv.write_field(&self.text)?)
    }

    fn end_line(&mut self) -> io::Result<()> {
        Ok(self.csv.write_record(None::<&[u8]>)?)
    }

    fn add_record(&mut self, record: &Record) -> io::Result<()> {
        self.add(record.protocol)?;
        for side in [&record.local, &record.remote] {
            self.add(side.ip)?;
            self.add(side.port)?;
        }
        self.add(record.flags)?;
        self.add_counters(&record.counters)
    }

    fn add_counters(&mut self, counters: &Counters) -> io::Result<()> {
        for (_, counter) in counters.columns() {
            self.add(counter)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.csv.flush()
    }
}
