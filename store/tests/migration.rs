// SPDX-License-Identifier: GPL-2.0-or-later
//! Databases of earlier releases: each becomes one of this release and keeps its figures.

mod common;
#[path = "common/mariadb.rs"]
mod mariadb_server;
#[path = "common/mysql.rs"]
mod mysql_server;

use std::path::Path;

use common::{SnapshotBuilder, lan};
use mysql::prelude::Queryable;
use rusqlite::Connection;
use tempfile::TempDir;
use trafstat_store::backend::{Mysql, Sqlite};
use trafstat_store::collect::append;
use trafstat_store::origin::Origin;
use trafstat_store::query::{Answer, Field, Filter, Order, Query};
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::{Store, StoreError};

/// What [`lan`] counts in one epoch.
const SENT_PACKETS: u64 = 30;

/// What came with each version.
const SQLITE: [&str; 4] = [
    include_str!("../src/backend/sqlite/0001_initial.sql"),
    include_str!("../src/backend/sqlite/0002_host_boot.sql"),
    include_str!("../src/backend/sqlite/0003_sampling.sql"),
    include_str!("../src/backend/sqlite/0004_exact_history.sql"),
];

/// The same of MySQL's.
const MYSQL: [&str; 4] = [
    include_str!("../src/backend/mysql/0001_initial.sql"),
    include_str!("../src/backend/mysql/0002_host_boot.sql"),
    include_str!("../src/backend/mysql/0003_sampling.sql"),
    include_str!("../src/backend/mysql/0004_exact_history.sql"),
];

/// The tables of version 1 that rows can be in.
const TABLES_1: [&str; 10] = [
    "host",
    "account",
    "snapshot",
    "record",
    "local_hourly",
    "local_daily",
    "service_hourly",
    "service_daily",
    "remote_monthly",
    "remote_part",
];

/// Stores an epoch of a module of this release.
fn store_epoch(store: &mut dyn Store, epoch: u64) {
    store_snapshot(store, &lan(epoch));
}

/// Stores an epoch as the releases had it that the old databases are of.
fn store_old_epoch(store: &mut dyn Store, epoch: u64) {
    store_snapshot(store, &lan(epoch).with_header_size(240));
}

fn store_snapshot(store: &mut dyn Store, snapshot: &SnapshotBuilder) {
    let origin = Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    };
    append(
        store,
        &origin,
        &mut Snapshot::open(&snapshot.bytes()[..]).unwrap(),
    )
    .unwrap();
}

fn answers(store: &mut dyn Store) -> Vec<Answer> {
    [
        vec![Field::LocalIp],
        vec![Field::Protocol, Field::LocalPort],
        vec![Field::RemoteIp],
        vec![Field::LocalIp, Field::RemoteIp],
    ]
    .into_iter()
    .map(|by| {
        let query = Query {
            by,
            filter: Filter::default(),
            order: Order::Bytes,
            limit: None,
            ..Query::default()
        };
        store.query(&query).unwrap()
    })
    .collect()
}

/// That a store of earlier times has what it had, and takes more.
fn assert_goes_on(store: &mut dyn Store, before: &[Answer]) {
    assert_eq!(answers(store), before);
    let epochs = before[0].total.sent_packets / SENT_PACKETS;
    // Known, then new.
    for epoch in [epochs, epochs + 1] {
        store_epoch(store, epoch);
    }
    let sent: Vec<u64> = answers(store)
        .iter()
        .map(|answer| answer.total.sent_packets)
        .collect();
    assert_eq!(sent, [(epochs + 1) * SENT_PACKETS; 4]);
    assert!(store.check().unwrap().is_empty());
    assert!(
        store
            .hosts()
            .unwrap()
            .iter()
            .any(|host| host.hostname == "gateway")
    );
}

/// A database of an earlier version with three epochs, and what it answers.
fn sqlite_of_version(version: usize, folder: &TempDir) -> (std::path::PathBuf, Vec<Answer>) {
    let (new, old) = (folder.path().join("new.db"), folder.path().join("old.db"));
    let mut store = Sqlite::open(&new).unwrap();
    store.migrate().unwrap();
    for epoch in 1..=3 {
        store_old_epoch(&mut store, epoch);
    }
    let answers = answers(&mut store);
    drop(store);
    let connection = Connection::open(&old).unwrap();
    connection
        .execute_batch(&SQLITE[..version].concat())
        .unwrap();
    connection
        .execute("ATTACH ?1 AS new", [new.to_str().unwrap()])
        .unwrap();
    for table in TABLES_1 {
        let columns: String = connection
            .query_row(
                "SELECT group_concat(name) FROM pragma_table_info(?1, 'main')",
                [table],
                |row| row.get(0),
            )
            .unwrap();
        connection
            .execute_batch(&format!(
                "INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}"
            ))
            .unwrap();
    }
    let id: i64 = connection
        .pragma_query_value(Some("new"), "application_id", |row| row.get(0))
        .unwrap();
    connection
        .pragma_update(Some("main"), "application_id", id)
        .unwrap();
    connection
        .pragma_update(Some("main"), "user_version", version as i64)
        .unwrap();
    (old, answers)
}

#[test]
fn sqlite_of_an_earlier_version_keeps_its_figures() {
    for version in 1..SQLITE.len() {
        let folder = tempfile::tempdir().unwrap();
        let (path, before) = sqlite_of_version(version, &folder);
        assert_is_too_old(Sqlite::open_read_only(&path).unwrap_err(), version);
        let mut store = Sqlite::open(&path).unwrap();
        store.migrate().unwrap();
        assert_goes_on(&mut store, &before);
    }
}

fn assert_is_too_old(error: StoreError, version: usize) {
    assert!(
        matches!(error, StoreError::TooOld { found, .. } if found == version as i64),
        "{error}"
    );
}

#[test]
fn backup_of_an_earlier_version_can_be_restored() {
    for version in 1..SQLITE.len() {
        backup_can_be_restored(version);
    }
}

fn backup_can_be_restored(version: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (path, before) = sqlite_of_version(version, &folder);
    let mut store = Sqlite::open(&folder.path().join("restored.db")).unwrap();
    store.migrate().unwrap();
    store.restore(&path).unwrap();
    assert_goes_on(&mut store, &before);

    let socket = mariadb_server::socket();
    let database = mariadb_server::create_database(socket);
    let mut store = Mysql::open(&mariadb_server::login(socket, &database)).unwrap();
    store.migrate().unwrap();
    // Into one that has something already.
    store_old_epoch(&mut store, 1);
    store.restore(&path).unwrap();
    assert_goes_on(&mut store, &before);
}

/// The statements of a migration, as the store runs them one by one.
fn statements(migration: &str) -> impl Iterator<Item = &str> {
    migration
        .split(";\n")
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
}

/// An empty database with so much of each version as was come to.
fn begun(socket: &Path, statements: &[&str], version: Option<i64>) -> String {
    let database = mariadb_server::create_database(socket);
    let mut connection = mariadb_server::connect(socket, Some(&database));
    connection
        .query_drop("CREATE TABLE trafstat_schema (version INT NOT NULL PRIMARY KEY)")
        .unwrap();
    for statement in statements {
        connection.query_drop(statement).unwrap();
    }
    if let Some(version) = version {
        connection
            .query_drop(format!("INSERT INTO trafstat_schema VALUES ({version})"))
            .unwrap();
    }
    database
}

fn database_of_an_earlier_version_keeps_its_figures(socket: &Path) {
    let new = mariadb_server::create_database(socket);
    let mut store = Mysql::open(&mariadb_server::login(socket, &new)).unwrap();
    store.migrate().unwrap();
    for epoch in 1..=3 {
        store_old_epoch(&mut store, epoch);
    }
    let before = answers(&mut store);
    for version in 1..MYSQL.len() {
        let (earlier, later) = MYSQL.split_at(version);
        let later: Vec<&str> = later.iter().flat_map(|later| statements(later)).collect();
        // However much of the later versions an earlier attempt came to.
        for come_to in 0..=later.len() {
            let all: Vec<&str> = earlier
                .iter()
                .flat_map(|earlier| statements(earlier))
                .chain(later[..come_to].iter().copied())
                .collect();
            let old = begun(socket, &all, Some(version as i64));
            copy_tables(socket, &new, &old);
            let login = mariadb_server::login(socket, &old);
            assert_is_too_old(Mysql::open_read_only(&login).unwrap_err(), version);
            let mut store = Mysql::open(&login).unwrap();
            store.migrate().unwrap();
            assert_goes_on(&mut store, &before);
            Mysql::open_read_only(&login).unwrap();
        }
    }
}

/// Copies the columns that the older database has.
fn copy_tables(socket: &Path, new: &str, old: &str) {
    let mut connection = mariadb_server::connect(socket, Some(old));
    for table in TABLES_1 {
        let columns: Vec<String> = connection
            .query(format!(
                "SELECT column_name FROM information_schema.columns
                 WHERE table_schema = DATABASE() AND table_name = '{table}'"
            ))
            .unwrap();
        let columns = columns.join(", ");
        connection
            .query_drop(format!(
                "INSERT INTO {table} ({columns}) SELECT {columns} FROM {new}.{table}"
            ))
            .unwrap();
    }
}

fn interrupted_creation_can_be_repeated(socket: &Path) {
    let all: Vec<&str> = MYSQL
        .iter()
        .flat_map(|version| statements(version))
        .collect();
    // MySQL commits each definition by itself, so a crash leaves any number of them.
    for come_to in (0..=all.len()).step_by(3).chain([all.len()]) {
        let database = begun(socket, &all[..come_to], None);
        let mut store = Mysql::open(&mariadb_server::login(socket, &database)).unwrap();
        store.migrate().unwrap();
        store_epoch(&mut store, 1);
        assert!(store.check().unwrap().is_empty());
    }
}

#[test]
fn mariadb_of_an_earlier_version_keeps_its_figures() {
    database_of_an_earlier_version_keeps_its_figures(mariadb_server::socket());
}

#[test]
fn interrupted_creation_on_mariadb_can_be_repeated() {
    interrupted_creation_can_be_repeated(mariadb_server::socket());
}

#[test]
#[ignore = "needs MySQL's own server: cargo xtask test --all"]
fn mysql_of_an_earlier_version_keeps_its_figures() {
    database_of_an_earlier_version_keeps_its_figures(mysql_server::socket());
}

#[test]
#[ignore = "needs MySQL's own server: cargo xtask test --all"]
fn interrupted_creation_on_mysql_can_be_repeated() {
    interrupted_creation_can_be_repeated(mysql_server::socket());
}
