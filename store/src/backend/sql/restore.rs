// SPDX-License-Identifier: GPL-2.0-or-later
//! Adds what backups, archives and restorable exports have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use trafstat_capture::unpacked;

use super::adopt::{self, Meeting};
use super::append::{Appending, add_due_parts};
use super::proof::{EachBatch, read_epoch};
use super::rollup::Owner;
use super::stored::{self, StoredSnapshot, read_whole, snapshots};
use super::{
    Access, Database, SnapshotKey, Value, deletion, in_transaction, owner, recount, schema,
};
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
        return in_transaction(&mut Sqlite::open_copy(path)?, Access::Read, |from| {
            restore_database(to, from, path)
        });
    }
    let text = unpacked(Cursor::new(begin).chain(file)).map_err(named)?;
    let mut reader = EpochReader::new(path, text)?;
    let mut restored = Restored::default();
    while let Some((origin, header)) = reader.next_epoch()? {
        restore_snapshot(to, &origin, &header, &mut restored, |each| {
            read_epoch(&mut reader, &header, each).map(|_| ())
        })?;
    }
    Ok(restored)
}

fn restore_database<D: Database>(
    to: &mut D,
    from: &mut Sqlite,
    path: &Path,
) -> Result<Restored, StoreError> {
    let keys = snapshots(from, "1 = 1", &[])?;
    let mut accounts = BTreeMap::<(i64, i64), Vec<SnapshotKey>>::new();
    for &key in &keys {
        let account = accounts.entry((key.host_id, key.account_id)).or_default();
        account.push(key);
    }
    // Before anything is changed, all of it is known to be possible.
    let mut whole = BTreeSet::new();
    let mut views = BTreeSet::new();
    for (&(host_id, account_id), keys) in &accounts {
        let Some(&first) = keys.first() else {
            continue;
        };
        let first = StoredSnapshot::read(from, first)?;
        views.extend(schema::account_view(&first.header.account));
        let theirs = Owner {
            host_id,
            account_id,
        };
        match adopt::meet(from, to, theirs, &first)? {
            Meeting::ByEpoch => {}
            Meeting::Whole => {
                whole.insert((host_id, account_id));
            }
            Meeting::Entangled(epochs) => {
                return Err(StoreError::Entangled {
                    path: path.to_path_buf(),
                    account: first.header.account,
                    epochs,
                });
            }
        }
    }
    for view in views {
        to.ensure_account_view(&view)?;
    }
    for &(host_id, account_id) in &whole {
        let theirs = Owner {
            host_id,
            account_id,
        };
        let keys = &accounts[&(host_id, account_id)];
        adopt::adopt(from, to, theirs, keys)?;
    }
    let mut restored = Restored::default();
    for key in keys {
        let StoredSnapshot {
            origin,
            header,
            first_record,
            ..
        } = StoredSnapshot::read(from, key)?;
        if first_record.is_some() {
            restore_snapshot(to, &origin, &header, &mut restored, |each| {
                read_whole(from, key, &header, each).map(|_| ())
            })?;
        } else if whole.contains(&(key.host_id, key.account_id)) {
            restored.epochs += 1;
        } else {
            restored.known += 1;
        }
    }
    // An earlier version's epochs count anew.
    recount(to)?;
    Ok(restored)
}

/// Adds what is missing of a snapshot; `read` shows its records and proves them.
fn restore_snapshot<D: Database>(
    to: &mut D,
    origin: &Origin,
    header: &Header,
    restored: &mut Restored,
    read: impl FnOnce(EachBatch<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if let Some(view) = schema::account_view(&header.account) {
        to.ensure_account_view(&view)?;
    }
    add_due_parts(to, origin, header)?;
    match stored::find(to, origin, header)? {
        Some((_, Some(_))) => {
            restored.known += 1;
            return Ok(());
        }
        // Or records would come to what is left of the same ones.
        Some((key, None)) => {
            deletion::finish(to, key)?;
        }
        None => {}
    }
    in_transaction(to, Access::Write, |to| {
        owner::lock_or_insert(to, &origin.machine_id, &origin.hostname)?;
        match stored::find(to, origin, header)? {
            Some((_, Some(_))) => restored.known += 1,
            Some((key, None)) => {
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
            None => {
                let mut appending = Appending::begin(to, origin, header)?;
                read(&mut |records| appending.add(records))?;
                appending.finish()?;
                restored.epochs += 1;
            }
        }
        Ok(())
    })
}
