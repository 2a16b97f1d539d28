// SPDX-License-Identifier: GPL-2.0-or-later
//! Deletes the records of epochs, in transactions of bounded size.
//!
//! An epoch has all of its records or none: `first_record` says which. One that has more than
//! a transaction may delete is first moved to table `record_deletion`, and whoever deletes
//! records next goes on where a killed process stopped.

use super::owner::{self, LockedHost};
use super::rollup::Owner;
use super::{Access, Database, ROWS_AT_ONCE, SnapshotKey, Value, first_row, in_transaction, parts};
use crate::kill_point::KillPoint;
use crate::store::StoreError;

/// An epoch whose records are to be deleted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expired {
    pub(super) key: SnapshotKey,
    pub(super) records: u64,
    pub(super) counted_ns: i64,
}

/// How much was deleted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Deleted {
    pub(super) epochs: u64,
    pub(super) records: u64,
}

/// The one epoch of a key.
const OF_KEY: &str = "host_id = ? AND account_id = ? AND epoch = ?";

/// Deletes the records of epochs; those whose records another process deleted stay as they are.
pub(super) fn delete_records<D: Database>(
    database: &mut D,
    epochs: &[Expired],
) -> Result<Deleted, StoreError> {
    // What is in parts is read from the records by the view remote_month.
    for owner in owners(epochs) {
        parts::add_all(database, owner)?;
    }
    let mut by_host = epochs.to_vec();
    by_host.sort_by_key(|expired| (expired.key.host_id, expired.counted_ns));
    let mut deleted = Deleted::default();
    for epochs in by_host.chunk_by(|one, other| one.key.host_id == other.key.host_id) {
        let mut rest = epochs;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(how_many_at_once(rest));
            match now {
                [large] if rows(large) > ROWS_AT_ONCE => {
                    delete_large(database, large.key, &mut deleted)?;
                }
                _ => delete_at_once(database, now, &mut deleted)?,
            }
            rest = later;
        }
    }
    Ok(deleted)
}

/// Deletes what killed processes left of epochs that have their records no more.
pub(super) fn finish_all<D: Database>(database: &mut D) -> Result<(), StoreError> {
    let mut keys = Vec::new();
    database.select(
        "SELECT host_id, account_id, epoch FROM record_deletion",
        &[],
        &mut |row| {
            keys.push(SnapshotKey {
                host_id: row[0].integer()?,
                account_id: row[1].integer()?,
                epoch: row[2].integer()?,
            });
            Ok(())
        },
    )?;
    for key in keys {
        finish(database, key)?;
    }
    Ok(())
}

/// Deletes what is left of the records of an epoch that has them no more; gives how many.
pub(super) fn finish<D: Database>(database: &mut D, key: SnapshotKey) -> Result<u64, StoreError> {
    let mut deleted = 0;
    while let Some(more) = in_transaction(database, Access::Write, |database| {
        match owner::lock(database, key.host_id)? {
            Some(host) => delete_slice(database, host, key.account_id, key.epoch),
            None => Ok(None),
        }
    })? {
        deleted += more;
        KillPoint::WithinDeletion.pass();
    }
    Ok(deleted)
}

/// The accounts of epochs, each once.
fn owners(epochs: &[Expired]) -> Vec<Owner> {
    let mut owners: Vec<(i64, i64)> = epochs
        .iter()
        .map(|expired| (expired.key.host_id, expired.key.account_id))
        .collect();
    owners.sort_unstable();
    owners.dedup();
    let owner = |(host_id, account_id)| Owner {
        host_id,
        account_id,
    };
    owners.into_iter().map(owner).collect()
}

/// Its records and its own row.
fn rows(expired: &Expired) -> u64 {
    expired.records.saturating_add(1)
}

/// With how many of these epochs a transaction begins, one at least.
fn how_many_at_once(epochs: &[Expired]) -> usize {
    let mut sum = 0_u64;
    let fitting = epochs.iter().take_while(|expired| {
        sum = sum.saturating_add(rows(expired));
        sum <= ROWS_AT_ONCE
    });
    fitting.count().max(1)
}

/// Deletes the records of epochs of one host in one transaction.
fn delete_at_once<D: Database>(
    database: &mut D,
    epochs: &[Expired],
    deleted: &mut Deleted,
) -> Result<(), StoreError> {
    let Some(first) = epochs.first() else {
        return Ok(());
    };
    let now = in_transaction(database, Access::Write, |database| {
        let mut now = Deleted::default();
        let Some(host) = owner::lock(database, first.key.host_id)? else {
            return Ok(now);
        };
        for Expired { key, .. } in epochs {
            if let Some((first, records)) = give_up(database, host, *key)? {
                now.records += database.delete_records(*key, first, records)?;
                now.epochs += 1;
            }
        }
        KillPoint::BeforeDeleteCommit.pass();
        Ok(now)
    })?;
    deleted.records += now.records;
    deleted.epochs += now.epochs;
    Ok(())
}

/// Deletes the records of one epoch that has more than a transaction may delete.
fn delete_large<D: Database>(
    database: &mut D,
    key: SnapshotKey,
    deleted: &mut Deleted,
) -> Result<(), StoreError> {
    let given_up = in_transaction(database, Access::Write, |database| {
        let Some(host) = owner::lock(database, key.host_id)? else {
            return Ok(false);
        };
        let Some((first, records)) = give_up(database, host, key)? else {
            return Ok(false);
        };
        let mut values = key.values().to_vec();
        values.extend([first, records].map(Value::from));
        database.execute(
            "INSERT INTO record_deletion (host_id, account_id, epoch, first_record, records)
             VALUES (?, ?, ?, ?, ?)",
            &values,
        )?;
        KillPoint::BeforeDeleteCommit.pass();
        Ok(true)
    })?;
    if given_up {
        deleted.epochs += 1;
        deleted.records += finish(database, key)?;
    }
    Ok(())
}

/// Writes down that an epoch has its records no more; gives the first of them and how many they
/// are, none if another process was faster.
fn give_up<D: Database>(
    database: &mut D,
    host: LockedHost,
    key: SnapshotKey,
) -> Result<Option<(i64, i64)>, StoreError> {
    let row = first_row(
        database,
        &format!(
            "SELECT first_record, records FROM snapshot
             WHERE {OF_KEY} AND first_record IS NOT NULL"
        ),
        &key.values(),
    )?;
    let Some(row) = row else {
        return Ok(None);
    };
    // An epoch that came back meanwhile has brought some.
    parts::add_of_epoch(database, host.account(key.account_id), key.epoch)?;
    database.execute(
        &format!("UPDATE snapshot SET first_record = NULL WHERE {OF_KEY}"),
        &key.values(),
    )?;
    Ok(Some((row[0].integer()?, row[1].integer()?)))
}

/// Deletes as many records of an epoch as one transaction may; none if none are left.
fn delete_slice<D: Database>(
    database: &mut D,
    host: LockedHost,
    account_id: i64,
    epoch: i64,
) -> Result<Option<u64>, StoreError> {
    let key = SnapshotKey {
        host_id: host.id(),
        account_id,
        epoch,
    };
    let row = first_row(
        database,
        &format!("SELECT first_record, records FROM record_deletion WHERE {OF_KEY}"),
        &key.values(),
    )?;
    let Some(row) = row else {
        return Ok(None);
    };
    let (first, records) = (row[0].integer()?, row[1].integer()?);
    let now = records.min(ROWS_AT_ONCE as i64);
    let deleted = database.delete_records(key, first, now)?;
    if now == records {
        let sql = format!("DELETE FROM record_deletion WHERE {OF_KEY}");
        database.execute(&sql, &key.values())?;
    } else {
        let mut values = [first + now, records - now].map(Value::from).to_vec();
        values.extend(key.values());
        database.execute(
            &format!("UPDATE record_deletion SET first_record = ?, records = ? WHERE {OF_KEY}"),
            &values,
        )?;
    }
    Ok(Some(deleted))
}
