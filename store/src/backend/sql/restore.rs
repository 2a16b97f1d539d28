// SPDX-License-Identifier: GPL-2.0-or-later
//! Adds what backups, archives and restorable exports have.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use trafstat_capture::unpacked;

use super::append::Appending;
use super::copy::copy_everything;
use super::proof::{EachBatch, read_epoch};
use super::stored::{self, StoredSnapshot, read_whole, snapshots};
use super::{Access, Database, Value, in_transaction, one_integer, recount, schema};
use crate::backend::Sqlite;
use crate::export::EpochReader;
use crate::origin::Origin;
use crate::snapshot::Header;
use crate::store::{Restored, StoreError};
use crate::whole_file::system_error;

/// How a SQLite database begins (https://sqlite.org/fileformat.html).
const SQLITE_FILE: &[u8] = b"SQLite format 3\0";

/// Adds what a file has; every snapshot by its identity.
pub(in crate::backend) fn restore<D: Database>(
    to: &mut D,
    path: &Path,
) -> Result<Restored, StoreError> {
    let named = |error| system_error(path, error);
    let mut file = File::open(path).map_err(named)?;
    let mut begin = Vec::new();
    // A pipe, which cannot be read twice, is none of a database.
    (&mut file)
        .take(SQLITE_FILE.len() as u64)
        .read_to_end(&mut begin)
        .map_err(named)?;
    if begin == SQLITE_FILE {
        return restore_database(to, &mut Sqlite::open_copy(path)?);
    }
    let text = unpacked(Cursor::new(begin).chain(file)).map_err(named)?;
    let mut reader = EpochReader::new(path, text)?;
    let mut restored = Restored::default();
    while let Some((origin, header)) = reader.next_epoch()? {
        restore_snapshot(to, &origin, &header, true, &mut restored, |each| {
            read_epoch(&mut reader, &header, each).map(|_| ())
        })?;
    }
    Ok(restored)
}

fn restore_database<D: Database>(to: &mut D, from: &mut Sqlite) -> Result<Restored, StoreError> {
    let mut restored = Restored::default();
    if in_transaction(to, Access::Write, |to| {
        let empty = one_integer(to, "SELECT COUNT(*) FROM host", &[])? == 0;
        if empty {
            restored.epochs = copy_everything(from, to)?;
        }
        Ok(empty)
    })? {
        // An earlier version's epochs count anew.
        recount(to)?;
        for view in account_views(from)? {
            to.ensure_account_view(&view)?;
        }
        return Ok(restored);
    }
    for key in snapshots(from, "1 = 1", &[])? {
        let StoredSnapshot {
            origin,
            header,
            first_record,
            ..
        } = StoredSnapshot::read(from, key)?;
        let there = first_record.is_some();
        restore_snapshot(to, &origin, &header, there, &mut restored, |each| {
            read_whole(from, key, &header, each).map(|_| ())
        })?;
    }
    Ok(restored)
}

/// Adds what is missing of a snapshot; `read` shows its records, if they are `there`, and
/// proves them.
fn restore_snapshot<D: Database>(
    to: &mut D,
    origin: &Origin,
    header: &Header,
    there: bool,
    restored: &mut Restored,
    read: impl FnOnce(EachBatch<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if let Some(view) = schema::account_view(&header.account) {
        to.ensure_account_view(&view)?;
    }
    in_transaction(to, Access::Write, |to| {
        match (stored::find(to, origin, header)?, there) {
            (Some((_, Some(_))), _) | (Some((_, None)), false) => restored.known += 1,
            (None, false) => restored.without_records += 1,
            (Some((key, None)), true) => {
                // Its sums were never deleted with its records, so only these come back.
                let first = to.next_record()?;
                let mut next = first;
                read(&mut |records| {
                    to.insert_records(key, next, records)?;
                    next += records.len() as i64;
                    Ok(())
                })?;
                let mut values = vec![Value::from(first)];
                values.extend(key.values());
                to.execute(
                    "UPDATE snapshot SET first_record = ?
                     WHERE host_id = ? AND account_id = ? AND epoch = ?",
                    &values,
                )?;
                restored.epochs += 1;
            }
            (None, true) => {
                let mut appending = Appending::begin(to, origin, header)?;
                read(&mut |records| appending.add(records))?;
                appending.finish()?;
                restored.epochs += 1;
            }
        }
        Ok(())
    })
}

fn account_views<D: Database>(database: &mut D) -> Result<Vec<String>, StoreError> {
    let mut views = Vec::new();
    for key in snapshots(database, "epoch > 0", &[])? {
        let snapshot = StoredSnapshot::read(database, key)?;
        if let Some(view) = schema::account_view(&snapshot.header.account)
            && !views.contains(&view)
        {
            views.push(view);
        }
    }
    Ok(views)
}
