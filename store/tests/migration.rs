// SPDX-License-Identifier: GPL-2.0-or-later
//! Databases of earlier releases: each becomes one of this release and keeps its figures.

mod common;
#[path = "common/mariadb.rs"]
mod mariadb_server;
#[path = "common/mysql.rs"]
mod mysql_server;

use std::path::Path;

use common::{HOUR_NS, NOON_NS, SnapshotBuilder, lan};
use jiff::Timestamp;
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

/// The tables of version 1 that rows can be in, but for sums.
const TABLES_1: [&str; 4] = ["host", "account", "snapshot", "record"];

/// 2026-02-01T00:00:00Z.
const FEBRUARY: u64 = NOON_NS / 1_000_000_000 + 12 * 3600;

/// 2026-01-01T00:00:00Z.
const JANUARY: u64 = FEBRUARY - 31 * 86_400;

/// The last epoch that old databases have: it closes with its month.
const LAST: u64 = 3;

fn snapshot(epoch: u64) -> SnapshotBuilder {
    let mut snapshot = lan(epoch);
    if epoch == LAST {
        snapshot.header.closed_ns = FEBRUARY * 1_000_000_000;
        snapshot.header.opened_ns = snapshot.header.closed_ns - HOUR_NS;
    }
    snapshot
}

/// Stores an epoch of a module of this release.
fn store_epoch(store: &mut dyn Store, epoch: u64) {
    store_snapshot(store, &snapshot(epoch));
}

/// Stores an epoch as the releases had it that the old databases are of.
fn store_old_epoch(store: &mut dyn Store, epoch: u64) {
    store_snapshot(store, &snapshot(epoch).with_header_size(240));
}

/// Fills the tables of sums as versions before 4 did: an epoch counted when it closed.
///
/// `second` is a time in nanoseconds as seconds, `records` which records are those of a snapshot.
fn sum_up_by_closing(second: &str, records: &str, epochs: &str) -> Vec<String> {
    let period = |seconds: u64| format!("{second} - {second} % {seconds}");
    let month = format!("CASE WHEN {second} < {FEBRUARY} THEN {JANUARY} ELSE {FEBRUARY} END");
    [
        ("local_hourly", "hour", period(3600), "local_ip"),
        ("local_daily", "day", period(86_400), "local_ip"),
        (
            "service_hourly",
            "hour",
            period(3600),
            "protocol, local_port",
        ),
        (
            "service_daily",
            "day",
            period(86_400),
            "protocol, local_port",
        ),
        ("remote_monthly", "month", month, "remote_ip"),
    ]
    .into_iter()
    .map(|(table, column, period, keys)| {
        let owner = "s.host_id, s.account_id";
        format!(
            "INSERT INTO {table} (host_id, account_id, {column}, {keys}, sent_packets,
                 received_packets, sent_bytes, received_bytes, syn_packets)
             SELECT {owner}, {period}, {keys}, SUM(sent_packets), SUM(received_packets),
                 SUM(sent_bytes), SUM(received_bytes), SUM(syn_packets)
             FROM snapshot AS s JOIN record AS r ON {records}
             WHERE {epochs} GROUP BY {owner}, {period}, {keys}"
        )
    })
    .collect()
}

/// The sums of SQLite's databases.
fn sum_up_sqlite(connection: &Connection, epochs: &str) {
    let records = "r.id BETWEEN s.first_record AND s.first_record + s.records - 1";
    for statement in sum_up_by_closing("s.closed_ns / 1000000000", records, epochs) {
        connection.execute_batch(&statement).unwrap();
    }
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
        vec![Field::LocalIp, Field::Protocol, Field::LocalPort],
        vec![Field::Hour, Field::LocalIp],
        vec![Field::Day, Field::LocalPort],
        vec![Field::Day, Field::LocalIp, Field::LocalPort],
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
    assert_eq!(sent, [(epochs + 1) * SENT_PACKETS; 8]);
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
    for epoch in 1..=LAST {
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
    sum_up_sqlite(&connection, "1 = 1");
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

/// A collector of the earlier version stores into what is upgraded meanwhile.
#[test]
fn epoch_stored_by_the_earlier_version_meanwhile_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let (path, before) = sqlite_of_version(3, &folder);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(&format!(
            "CREATE TABLE late AS SELECT * FROM snapshot WHERE epoch = {LAST};
             DELETE FROM snapshot WHERE epoch = {LAST};
             DELETE FROM local_hourly; DELETE FROM local_daily;
             DELETE FROM service_hourly; DELETE FROM service_daily; DELETE FROM remote_monthly"
        ))
        .unwrap();
    sum_up_sqlite(&connection, "1 = 1");
    let mut store = Sqlite::open(&path).unwrap();
    store.migrate().unwrap();
    // So is what an interrupted upgrade leaves.
    let columns: String = connection
        .query_row(
            "SELECT group_concat(name) FROM pragma_table_info('late')",
            [],
            |row| row.get(0),
        )
        .unwrap();
    connection
        .execute_batch(&format!(
            "INSERT INTO snapshot ({columns}) SELECT {columns} FROM late; DROP TABLE late"
        ))
        .unwrap();
    sum_up_sqlite(&connection, &format!("s.epoch = {LAST}"));
    for _ in 0..2 {
        store.migrate().unwrap();
        assert_eq!(answers(&mut store), before);
        assert!(store.check().unwrap().is_empty());
    }
}

/// What to move, nothing tells any more.
#[test]
fn epochs_without_records_count_when_they_closed_and_that_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = sqlite_of_version(3, &folder);
    let pruned_until = NOON_NS + HOUR_NS + 1;
    Connection::open(&path)
        .unwrap()
        .execute_batch(&format!(
            "DELETE FROM record WHERE id <= 2;
             UPDATE snapshot SET first_record = NULL WHERE epoch = 1;
             INSERT INTO kept (level, since_ns) VALUES ('record', {pruned_until})"
        ))
        .unwrap();
    let mut store = Sqlite::open(&path).unwrap();
    store.migrate().unwrap();
    assert!(store.check().unwrap().is_empty());
    let mut query = Query {
        by: vec![Field::Hour],
        order: Order::Fields,
        ..Query::default()
    };
    let hours: Vec<String> = store
        .query(&query)
        .unwrap()
        .groups
        .iter()
        .map(|group| format!("{} {}", group.key[0], group.counters.sent_packets))
        .collect();
    // The first closed at 13:00, the second was counted from then on.
    assert_eq!(
        hours,
        ["2026-01-31T13:00:00Z 60", "2026-01-31T23:00:00Z 30"]
    );
    let until = Timestamp::from_nanosecond(pruned_until.into()).unwrap();
    let told = |store: &mut Sqlite, query: &Query| {
        let inexact = store.query(query).unwrap().inexact;
        inexact.and_then(|inexact| inexact.closed_until)
    };
    assert_eq!(told(&mut store, &query), Some(until));
    query.filter.since = Some(until);
    assert_eq!(told(&mut store, &query), None);
    // Who does not ask for a time needs not know.
    assert_eq!(told(&mut store, &Query::default()), None);
    // There are no sums by address and service of it, and that is told, too.
    query.filter.since = None;
    query.by = vec![Field::LocalIp, Field::LocalPort];
    let answer = store.query(&query).unwrap();
    assert_eq!(answer.total.sent_packets, 60);
    let missing = answer.inexact.unwrap().missing.unwrap();
    assert_eq!(missing.since.as_nanosecond() as u64, NOON_NS + HOUR_NS);
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
    for epoch in 1..=LAST {
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

/// Copies the columns that the older database has, and sums up its records as it did.
fn copy_tables(socket: &Path, new: &str, old: &str) {
    let mut connection = mariadb_server::connect(socket, Some(old));
    for table in TABLES_1 {
        let columns: Vec<String> = connection
            .query(format!(
                "SELECT column_name FROM information_schema.columns
                 WHERE table_schema = DATABASE() AND table_name = '{table}'
                     AND column_name <> 'counted_ns'"
            ))
            .unwrap();
        let columns = columns.join(", ");
        connection
            .query_drop(format!(
                "INSERT INTO {table} ({columns}) SELECT {columns} FROM {new}.{table}"
            ))
            .unwrap();
    }
    let records = "r.host_id = s.host_id AND r.account_id = s.account_id AND r.epoch = s.epoch";
    for statement in sum_up_by_closing("s.closed_ns DIV 1000000000", records, "1 = 1") {
        connection.query_drop(statement).unwrap();
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

/// What a prune by a clock of the year 2098 did to a database of the version before, before its
/// third epoch came.
const SPOIL: [&str; 9] = [
    "DELETE FROM record WHERE KEY_OF_RECORD",
    "UPDATE snapshot SET first_record = NULL WHERE epoch < 3",
    "DELETE FROM local_hourly WHERE hour < 1769871600",
    "DELETE FROM service_hourly WHERE hour < 1769871600",
    "DELETE FROM kept",
    "INSERT INTO kept VALUES ('record', 4070908800000000000)",
    "INSERT INTO kept VALUES ('hour', 4070908800000000000)",
    "INSERT INTO kept VALUES ('day', 4070908800000000000)",
    "INSERT INTO kept VALUES ('month', 4070908800000000000)",
];

/// What comes after the repair is answered for its time alone.
fn assert_repaired(store: &mut dyn Store) {
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    let mut later = lan(3000);
    later.header.opened_ns = later.header.closed_ns - 1_000_000_000;
    store_epoch(store, 4);
    store_snapshot(store, &later);
    let query = Query {
        by: vec![Field::LocalIp],
        filter: Filter {
            since: Some("2026-01-31T16:00:00Z".parse().unwrap()),
            ..Filter::default()
        },
        ..Query::default()
    };
    let found = store.query(&query).unwrap().total.sent_packets;
    assert_eq!(found, 2 * SENT_PACKETS);
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn what_is_kept_is_known_again_after_a_wrong_clock() {
    let version = SQLITE.len() - 1;
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = sqlite_of_version(version, &folder);
    let connection = Connection::open(&path).unwrap();
    for statement in SPOIL {
        let statement = statement.replace("KEY_OF_RECORD", "id <= 4");
        connection.execute_batch(&statement).unwrap();
    }
    drop(connection);
    let mut store = Sqlite::open(&path).unwrap();
    store.migrate().unwrap();
    assert_repaired(&mut store);
    drop(store);
    let kept: Vec<i64> = Connection::open(&path)
        .unwrap()
        .prepare(KEPT_LEVELS)
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(kept, KEPT);
}

const KEPT_LEVELS: &str = "SELECT since_ns FROM kept
    WHERE level IN ('day', 'hour', 'month', 'record') ORDER BY level";

/// Of days, hours, months and records.
const KEPT: [i64; 4] = [
    // 1 February, its second hour, and right after the second epoch.
    1_769_904_000_000_000_000,
    1_769_907_600_000_000_000,
    1_769_904_000_000_000_000,
    1_769_868_000_000_000_001,
];

fn what_is_kept_is_known_again(socket: &Path) {
    let new = mariadb_server::create_database(socket);
    let mut store = Mysql::open(&mariadb_server::login(socket, &new)).unwrap();
    store.migrate().unwrap();
    for epoch in 1..=3 {
        store_old_epoch(&mut store, epoch);
    }
    let version = MYSQL.len() - 1;
    let all: Vec<&str> = MYSQL[..version]
        .iter()
        .flat_map(|earlier| statements(earlier))
        .collect();
    let old = begun(socket, &all, Some(version as i64));
    copy_tables(socket, &new, &old);
    let mut connection = mariadb_server::connect(socket, Some(&old));
    for statement in SPOIL {
        let statement = statement.replace("KEY_OF_RECORD", "epoch < 3");
        connection.query_drop(&statement).unwrap();
    }
    let mut store = Mysql::open(&mariadb_server::login(socket, &old)).unwrap();
    store.migrate().unwrap();
    let kept: Vec<i64> = connection.query(KEPT_LEVELS).unwrap();
    assert_eq!(kept, KEPT);
    assert_repaired(&mut store);
}

#[test]
fn what_is_kept_is_known_again_after_a_wrong_clock_on_mariadb() {
    what_is_kept_is_known_again(mariadb_server::socket());
}

#[test]
#[ignore = "needs MySQL's own server: cargo xtask test --all"]
fn what_is_kept_is_known_again_after_a_wrong_clock_on_mysql() {
    what_is_kept_is_known_again(mysql_server::socket());
}

/// The first version that programs of the next one append to, and leave as it is.
const FIRST_SHARED: usize = 3;

fn version_before_is_appended_to_as_it_is(socket: &Path) {
    for version in FIRST_SHARED..MYSQL.len() {
        let before: Vec<&str> = MYSQL[..version]
            .iter()
            .flat_map(|earlier| statements(earlier))
            .collect();
        let old = begun(socket, &before, Some(version as i64));
        let login = mariadb_server::login(socket, &old);
        let mut collector = Mysql::open_to_append(&login).unwrap();
        collector.migrate().unwrap();
        for epoch in 1..=2 {
            store_epoch(&mut collector, epoch);
        }
        let found: Option<usize> = mariadb_server::connect(socket, Some(&old))
            .query_first("SELECT MAX(version) FROM trafstat_schema")
            .unwrap();
        assert_eq!(found, Some(version));

        // The collector goes on when the database is migrated under it.
        let mut store = Mysql::open(&login).unwrap();
        store.migrate().unwrap();
        store_epoch(&mut collector, 3);
        assert_goes_on(&mut store, &answers(&mut collector));
    }
}

#[test]
fn version_before_on_mariadb_is_appended_to_as_it_is() {
    version_before_is_appended_to_as_it_is(mariadb_server::socket());
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
