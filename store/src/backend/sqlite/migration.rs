// SPDX-License-Identifier: GPL-2.0-or-later
//! Brings the schema to this program's version.

use rusqlite::{Connection, TransactionBehavior};

use super::Sqlite;
use super::views::VIEW_WORDS;
use crate::backend::sql::{recount, schema};
use crate::protocol;
use crate::store::StoreError;

/// How the file says that it is trafstat's: "TRAF".
pub(super) const APPLICATION_ID: i64 = 0x5452_4146;

/// What brings the schema from each version to the next.
pub(super) const MIGRATIONS: [&str; 4] = [
    include_str!("0001_initial.sql"),
    include_str!("0002_host_boot.sql"),
    include_str!("0003_sampling.sql"),
    include_str!("0004_exact_history.sql"),
];

/// The version since which epochs have the time at which they count.
const COUNTED_VERSION: i64 = 4;

pub(super) const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// The version of a database's schema; 0 in an empty one.
pub(super) fn version(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Brings the schema to the version that this list of migrations ends with.
pub(super) fn migrate(store: &mut Sqlite, migrations: &[&str]) -> Result<(), StoreError> {
    let newest = migrations.len() as i64;
    let found = version(&store.connection)?;
    if found < COUNTED_VERSION {
        define(&mut store.connection, migrations)?;
    }
    // A collector of the earlier version may have stored something since.
    recount(store)?;
    match found == newest {
        true => Ok(()),
        false => finish(&mut store.connection, migrations),
    }
}

/// Defines what epochs are counted anew with, unless it is there. The version stays below that:
/// counting takes more than one transaction.
fn define(connection: &mut Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Read again under the lock: another process may have migrated meanwhile.
    let found = version(&transaction)?;
    let columns: i64 = transaction.query_row(
        "SELECT COUNT(*) FROM pragma_table_info('snapshot') WHERE name = 'counted_ns'",
        [],
        |row| row.get(0),
    )?;
    if columns == 0 {
        for (migration, number) in migrations.iter().zip(1..=COUNTED_VERSION) {
            if number > found {
                transaction.execute_batch(migration)?;
            }
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", COUNTED_VERSION - 1)?;
    }
    Ok(transaction.commit()?)
}

/// Defines all else, and writes the version.
fn finish(connection: &mut Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = version(&transaction)?.max(COUNTED_VERSION);
    for (migration, number) in migrations.iter().zip(1..) {
        if number > found {
            transaction.execute_batch(migration)?;
        }
    }
    for (name, select) in schema::views(&VIEW_WORDS) {
        transaction.execute_batch(&format!(
            "DROP VIEW IF EXISTS {name}; CREATE VIEW {name} AS {select};"
        ))?;
    }
    {
        let mut insert = transaction
            .prepare("INSERT OR REPLACE INTO protocol (number, name) VALUES (?1, ?2)")?;
        for (number, name) in protocol::all() {
            insert.execute((number, name))?;
        }
    }
    let newest = migrations.len() as i64;
    transaction.pragma_update(None, "user_version", newest)?;
    Ok(transaction.commit()?)
}
