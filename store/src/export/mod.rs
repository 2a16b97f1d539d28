// SPDX-License-Identifier: GPL-2.0-or-later
//! Writes out what a store has: lines for other programs, and files that can be restored.
//!
//! - [`Form::Csv`] and [`Form::Json`] have one line for each record or sum.
//! - [`Form::Restorable`] is the CSV of records with the epochs' own lines between them:
//!   all that [`Store::restore`] needs. Archives have this form too.

mod compression;
mod epochs;
mod fields;
mod lines;

use std::io::{self, Read, Write};
use std::path::Path;

pub(crate) use compression::Packer;
pub(crate) use epochs::{EpochReader, EpochWriter};

use crate::origin::Origin;
use crate::snapshot::{Header, Record, Snapshot};
use crate::store::{Epochs, Level, Selection, Store, StoreError};
use crate::watch::Watch;
use crate::whole_file::{create_file, system_error, write_new_file};
use lines::{CsvLines, JsonLines, Lines};

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

/// Writes one snapshot so that [`Store::restore`] takes it back.
///
/// # Errors
/// [`StoreError::Write`], a snapshot that does not add up included.
pub fn export_snapshot<R: Read>(
    origin: &Origin,
    snapshot: &mut Snapshot<R>,
    out: &mut dyn Write,
) -> Result<(), StoreError> {
    let wrong = |error| StoreError::Write(io::Error::other(error));
    let mut writer = EpochWriter::new(out)?;
    writer.begin(origin, snapshot.header())?;
    while let Some(records) = snapshot.next_batch().map_err(wrong)? {
        writer.add(records)?;
    }
    writer.finish()
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
