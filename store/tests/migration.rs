//! Databases of earlier releases: each becomes one of this release and keeps its figures.

mod common;
#[path = "common/mariadb.rs"]
mod mariadb_server;
#[path = "common/mysql.rs"]
mod mysql_server;
mod program;

use std::path::Path;

use mysql::prelude::Queryable;
use program::lan;
use rusqlite::Connection;
use tempfile::TempDir;
use trafstat_store::backend::{Mysql, Sqlite, Store, StoreError};
use trafstat_store::collect::append;
use trafstat_store::origin::Origin;
use trafstat_store::query::{Answer, Field, Filter, Order, Query};
use trafstat_store::snapshot::Snapshot;

/// What [`lan`] counts in one epoch.
const SENT_PACKETS: u64 = 30;

const SQLITE_1: &str = include_str!("../src/backend/sqlite/0001_initial.sql");

/// Version 1, and what came with version 2.
const MYSQL: [&str; 2] = [
    include_str!("../src/backend/mysql/0001_initial.sql"),
    include_str!("../src/backend/mysql/0002_host_boot.sql"),
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

fn store_epoch(store: &mut dyn Store, epoch: u64) {
    let origin = Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    };
    append(
        store,
        &origin,
        &mut Snapshot::open(&lan(epoch).bytes()[..]).unwrap(),
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

/// A database of version 1 with three epochs, and what it answers.
fn sqlite_of_version_1(folder: &TempDir) -> (std::path::PathBuf, Vec<Answer>) {
    let (new, old) = (folder.path().join("new.db"), folder.path().join("old.db"));
    let mut store = Sqlite::open(&new).unwrap();
    store.migrate().unwrap();
    for epoch in 1..=3 {
        store_epoch(&mut store, epoch);
    }
    let answers = answers(&mut store);
    drop(store);
    let connection = Connection::open(&old).unwrap();
    connection.execute_batch(SQLITE_1).unwrap();
    connection
        .execute("ATTACH ?1 AS new", [new.to_str().unwrap()])
        .unwrap();
    for table in TABLES_1 {
        connection
            .execute_batch(&format!(
                "INSERT INTO main.{table} SELECT * FROM new.{table}"
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
        .pragma_update(Some("main"), "user_version", 1)
        .unwrap();
    (old, answers)
}

#[test]
fn sqlite_of_version_1_keeps_its_figures() {
    let folder = tempfile::tempdir().unwrap();
    let (path, before) = sqlite_of_version_1(&folder);
    let error = Sqlite::open_read_only(&path).unwrap_err();
    assert!(
        matches!(error, StoreError::TooOld { found: 1, .. }),
        "{error}"
    );
    let mut store = Sqlite::open(&path).unwrap();
    store.migrate().unwrap();
    assert_goes_on(&mut store, &before);
}

#[test]
fn backup_of_version_1_can_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (path, before) = sqlite_of_version_1(&folder);
    let mut store = Sqlite::open(&folder.path().join("restored.db")).unwrap();
    store.migrate().unwrap();
    store.restore(&path).unwrap();
    assert_goes_on(&mut store, &before);

    let socket = mariadb_server::socket();
    let database = mariadb_server::create_database(socket);
    let mut store = Mysql::open(&mariadb_server::login(socket, &database)).unwrap();
    store.migrate().unwrap();
    // Into one that has something already.
    store_epoch(&mut store, 1);
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

fn database_of_version_1_keeps_its_figures(socket: &Path) {
    let new = mariadb_server::create_database(socket);
    let mut store = Mysql::open(&mariadb_server::login(socket, &new)).unwrap();
    store.migrate().unwrap();
    for epoch in 1..=3 {
        store_epoch(&mut store, epoch);
    }
    let before = answers(&mut store);
    let later: Vec<&str> = statements(MYSQL[1]).collect();
    // However much of version 2 an earlier attempt came to.
    for come_to in 0..=later.len() {
        let all: Vec<&str> = statements(MYSQL[0])
            .chain(later[..come_to].iter().copied())
            .collect();
        let old = begun(socket, &all, Some(1));
        let mut connection = mariadb_server::connect(socket, Some(&old));
        for table in TABLES_1 {
            connection
                .query_drop(format!("INSERT INTO {table} SELECT * FROM {new}.{table}"))
                .unwrap();
        }
        let login = mariadb_server::login(socket, &old);
        let error = Mysql::open_read_only(&login).unwrap_err();
        assert!(
            matches!(error, StoreError::TooOld { found: 1, .. }),
            "{error}"
        );
        let mut store = Mysql::open(&login).unwrap();
        store.migrate().unwrap();
        assert_goes_on(&mut store, &before);
        Mysql::open_read_only(&login).unwrap();
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
fn mariadb_of_version_1_keeps_its_figures() {
    database_of_version_1_keeps_its_figures(mariadb_server::socket());
}

#[test]
fn interrupted_creation_on_mariadb_can_be_repeated() {
    interrupted_creation_can_be_repeated(mariadb_server::socket());
}

#[test]
#[ignore = "needs MySQL's own server: cargo xtask test --all"]
fn mysql_of_version_1_keeps_its_figures() {
    database_of_version_1_keeps_its_figures(mysql_server::socket());
}

#[test]
#[ignore = "needs MySQL's own server: cargo xtask test --all"]
fn interrupted_creation_on_mysql_can_be_repeated() {
    interrupted_creation_can_be_repeated(mysql_server::socket());
}
