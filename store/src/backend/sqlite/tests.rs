// SPDX-License-Identifier: GPL-2.0-or-later
//! What is SQLite's alone; the contract suite has what is every store's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;

use super::Sqlite;
use super::migration::{self, MIGRATIONS, SCHEMA_VERSION};
use crate::backend::sql::Database;
use crate::snapshot::{Growth, Header};
use crate::store::{Store, StoreError};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn new_database_is_closed_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trafstat").join("trafstat.db");
    Sqlite::open(&path).unwrap().migrate().unwrap();
    assert_eq!(mode(path.parent().unwrap()), 0o750);
    assert_eq!(mode(&path), 0o640);
    assert_eq!(mode(&path.with_extension("db-wal")), 0o640);
}

#[test]
fn every_commit_is_synced() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&folder.path().join("trafstat.db")).unwrap();
    let journal: String = store
        .connection
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .unwrap();
    assert_eq!(journal, "wal");
    assert_eq!(store.pragma("synchronous").unwrap(), 2);
}

#[test]
fn missing_database_is_not_created_by_a_reader() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trafstat.db");
    let error = Sqlite::open_read_only(&path).unwrap_err();
    assert!(matches!(error, StoreError::Missing(_)), "{error}");
    assert!(!path.exists());
}

#[test]
fn another_programs_file_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    fs::write(&text, "remember the milk ".repeat(100)).unwrap();
    let database = folder.path().join("other.db");
    Connection::open(&database)
        .unwrap()
        .execute_batch("CREATE TABLE milk (litres INTEGER)")
        .unwrap();
    for path in [text, database] {
        let before = fs::read(&path).unwrap();
        for opened in [Sqlite::open(&path), Sqlite::open_read_only(&path)] {
            let error = opened.unwrap_err();
            assert!(matches!(error, StoreError::Foreign(_)), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[test]
fn schema_of_another_release_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trafstat.db");
    drop(Sqlite::open(&path).unwrap());
    let error = Sqlite::open_read_only(&path).unwrap_err();
    assert!(
        matches!(error, StoreError::TooOld { found: 0, .. }),
        "{error}"
    );

    let mut store = Sqlite::open(&path).unwrap();
    store.migrate().unwrap();
    store
        .connection
        .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
        .unwrap();
    drop(store);
    let error = Sqlite::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::TooNew { .. }), "{error}");
}

#[test]
fn protocol_table_names_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(&folder.path().join("trafstat.db")).unwrap();
    store.migrate().unwrap();
    let name: String = store
        .connection
        .query_row("SELECT name FROM protocol WHERE number = 6", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(name, "TCP");
}

#[test]
fn migration_that_is_missing_is_run_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(&folder.path().join("trafstat.db")).unwrap();
    store.migrate().unwrap();
    // It would fail the second time.
    let later = "CREATE TABLE later (number INTEGER) STRICT";
    let next = [&MIGRATIONS[..], &[later]].concat();
    for _ in 0..2 {
        migration::migrate(&mut store, &next).unwrap();
        assert_eq!(
            migration::version(&store.connection).unwrap(),
            SCHEMA_VERSION + 1
        );
    }
    let broken = [&next[..], &[later]].concat();
    migration::migrate(&mut store, &broken).unwrap_err();
    assert_eq!(
        migration::version(&store.connection).unwrap(),
        SCHEMA_VERSION + 1
    );
}

#[test]
fn full_disk_read_only_and_damaged_file_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trafstat.db");
    let mut store = Sqlite::open(&path).unwrap();
    store.migrate().unwrap();
    let insert = "INSERT INTO kept (level, since_ns) VALUES (?, 1)";
    store
        .connection
        .pragma_update(None, "query_only", true)
        .unwrap();
    let error = store.execute(insert, &["a".into()]).unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly), "{error}");
    store
        .connection
        .pragma_update(None, "query_only", false)
        .unwrap();

    let pages = store.pragma("page_count").unwrap();
    store
        .connection
        .pragma_update(None, "max_page_count", pages)
        .unwrap();
    let error = (0..10_000)
        .find_map(|number| {
            store
                .execute(insert, &[format!("{number:0200}").as_str().into()])
                .err()
        })
        .unwrap();
    assert!(matches!(error, StoreError::Full), "{error}");
    assert!(error.is_transient());
    drop(store);

    let mut bytes = fs::read(&path).unwrap();
    let length = bytes.len();
    bytes[4096..length].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let error = Sqlite::open(&path)
        .and_then(|mut store| store.check())
        .unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    assert!(!error.is_transient());
}

#[test]
fn snapshots_have_a_column_for_every_figure() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(&folder.path().join("trafstat.db")).unwrap();
    store.migrate().unwrap();
    let mut statement = store
        .connection
        .prepare("SELECT name FROM pragma_table_info('snapshot')")
        .unwrap();
    let columns = statement.query_map([], |row| row.get::<_, String>(0));
    let columns: Vec<String> = columns.unwrap().map(Result::unwrap).collect();
    let identity = [
        "host_id",
        "account_id",
        "epoch",
        "first_record",
        "collected_ns",
        "counted_ns",
    ];
    let mut expected: Vec<&str> = identity.to_vec();
    expected.extend(Header::FIGURES.iter().map(|figure| figure.name));
    expected.extend(Growth::COLUMNS);
    expected.sort_unstable();
    let mut found: Vec<&str> = columns.iter().map(String::as_str).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
}
