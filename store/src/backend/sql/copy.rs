// SPDX-License-Identifier: GPL-2.0-or-later
//! Copies a whole database into an empty one.

use std::collections::HashMap;
use std::path::Path;

use super::bound::{self, Counted};
use super::owner;
use super::rollup::{ROLLUPS, Rollup};
use super::stored::{self, StoredSnapshot, read_whole, snapshots};
use super::{Access, COUNTERS, Database, SnapshotKey, Value, in_transaction, insert_rows, places};
use crate::account::Account;
use crate::backend::Sqlite;
use crate::store::{Store, StoreError};
use crate::whole_file::write_new_file;

/// The columns that hold text.
const TEXTS: [&str; 7] = [
    "machine_id",
    "hostname",
    "netns",
    "family",
    "name",
    "view_name",
    "level",
];

/// Copies everything as of one moment into a new SQLite database.
pub(in crate::backend) fn back_up<D: Database>(from: &mut D, to: &Path) -> Result<(), StoreError> {
    write_new_file(to, |path| {
        let mut copy = Sqlite::open(path)?;
        copy.migrate()?;
        in_transaction(from, Access::Read, |from| {
            in_transaction(&mut copy, Access::Write, |copy| copy_everything(from, copy))
        })?;
        copy.close_whole()
    })
}

/// Copies all tables into an empty database; gives how many snapshots.
pub(super) fn copy_everything<F: Database, T: Database>(
    from: &mut F,
    to: &mut T,
) -> Result<u64, StoreError> {
    copy_table(from, to, "host", &["id", "machine_id", "hostname"])?;
    copy_table(
        from,
        to,
        "account",
        &[
            "host_id",
            "id",
            "identity",
            "netns",
            "family",
            "name",
            "local_addr",
            "prefix_len",
            "view_name",
        ],
    )?;
    let keys = snapshots(from, "1 = 1", &[])?;
    let mut counted: HashMap<(i64, i64), (Account, Counted)> = HashMap::new();
    for &key in &keys {
        let StoredSnapshot {
            header, counted_ns, ..
        } = copy_with_records(from, to, key)?;
        let (_, sum) = counted
            .entry((key.host_id, key.account_id))
            .or_insert_with(|| (header.account.clone(), Counted::default()));
        // What an earlier version stored is added when it is counted anew.
        if counted_ns >= 0 {
            sum.add(&header);
        }
    }
    // Not copied, since databases of earlier versions have no such columns.
    for ((host_id, account_id), (account, sum)) in &counted {
        if let Some(host) = owner::lock(to, *host_id)? {
            bound::add(to, host.account(*account_id), account, sum)?;
        }
    }
    for rollup in ROLLUPS {
        copy_table(from, to, rollup.table, &rollup_columns(&rollup))?;
    }
    copy_table(
        from,
        to,
        "remote_part",
        &["host_id", "account_id", "month", "epoch", "part", "sums"],
    )?;
    copy_table(from, to, "kept", &["level", "since_ns"])?;
    Ok(keys.len() as u64)
}

fn rollup_columns(rollup: &Rollup) -> Vec<&'static str> {
    let mut columns = vec!["host_id", "account_id", rollup.period.column()];
    columns.extend(rollup.keys);
    columns.extend(COUNTERS);
    columns
}

fn copy_with_records<F: Database, T: Database>(
    from: &mut F,
    to: &mut T,
    key: SnapshotKey,
) -> Result<StoredSnapshot, StoreError> {
    let snapshot = StoredSnapshot::read(from, key)?;
    let first = to.next_record()?;
    if snapshot.first_record.is_some() {
        let mut next = first;
        read_whole(from, key, &snapshot.header, |records| {
            to.insert_records(key, next, records)?;
            next += records.len() as i64;
            Ok(())
        })?;
    }
    let first = match snapshot.first_record {
        Some(_) => Value::Integer(first),
        None => Value::Null,
    };
    let counted_ns = Some(snapshot.counted_ns);
    stored::insert_snapshot(to, &snapshot.header, key, first, counted_ns)?;
    Ok(snapshot)
}

fn copy_table<F: Database, T: Database>(
    from: &mut F,
    to: &mut T,
    table: &str,
    columns: &[&str],
) -> Result<(), StoreError> {
    let names = columns.join(", ");
    let insert = |rows| {
        format!(
            "INSERT INTO {table} ({names}) VALUES {}",
            places(rows, columns.len())
        )
    };
    let mut values = Vec::new();
    from.select(&format!("SELECT {names} FROM {table}"), &[], &mut |row| {
        values.extend(
            row.iter()
                .zip(columns)
                .map(|(value, column)| match (value, *column) {
                    // SQLite's strict columns tell text from bytes.
                    (Value::Bytes(text), _) if TEXTS.contains(column) => {
                        Value::Text(String::from_utf8_lossy(text).into_owned())
                    }
                    _ => value.clone(),
                }),
        );
        if values.len() >= T::DIALECT.rows_per_insert * columns.len() {
            insert_rows(to, &values, columns.len(), insert)?;
            values.clear();
        }
        Ok(())
    })?;
    insert_rows(to, &values, columns.len(), insert)
}
