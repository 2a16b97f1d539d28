//! What every store must do, over every backend.
//!
//! A backend enters with a [`Database`] and a `contract!` of its own.

mod common;
#[path = "common/mariadb.rs"]
mod mariadb_server;
#[path = "common/mysql.rs"]
mod mysql_server;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{HOUR_NS, NOON_NS, SnapshotBuilder, record};
use ipnet::IpNet;
use jiff::tz::TimeZone;
use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use mysql::prelude::Queryable;
use proptest::prelude::*;
use tempfile::TempDir;
use trafstat_abi::SnapshotHeader;
use trafstat_store::backend::{Mysql, Sqlite};
use trafstat_store::collect::{CollectError, State, append};
use trafstat_store::export::{Form, export};
use trafstat_store::origin::Origin;
use trafstat_store::query::{
    Accumulator, Accuracy, Answer, Covered, Field, Filter, Order, Query, StandardError, Value,
};
use trafstat_store::snapshot::{
    Counters, Endpoint, Growth, Header, Record, Sample, Snapshot, SnapshotError, Volume,
};
use trafstat_store::store::{Archive, ArchiveForm, Begun, Retention, Store, StoreError};
use trafstat_store::store::{Level, Selection};
use trafstat_store::watch::Unwatched;

/// A place for one store, empty at first.
trait Database {
    /// How many cases a property is tried with: a database costs what it costs.
    const CASES: u32;
    fn create() -> Self;
    /// What another process needs to open it.
    fn location(&self) -> String;
    fn at(location: &str) -> Box<dyn Store>;
    /// Runs a statement as a user's own client would; gives the rows as text.
    fn run(&self, sql: &str) -> Vec<Vec<String>>;

    fn open(&self) -> Box<dyn Store> {
        Self::at(&self.location())
    }
}

struct SqliteDatabase(TempDir);

impl Database for SqliteDatabase {
    const CASES: u32 = 48;

    fn create() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn location(&self) -> String {
        self.0
            .path()
            .join("trafstat.db")
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn at(location: &str) -> Box<dyn Store> {
        let mut store = Sqlite::open(Path::new(location)).unwrap();
        store.migrate().unwrap();
        Box::new(store)
    }

    fn run(&self, sql: &str) -> Vec<Vec<String>> {
        let connection = rusqlite::Connection::open(self.location()).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut found = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            found.push(
                (0..columns)
                    .map(|column| match row.get_ref(column).unwrap() {
                        rusqlite::types::ValueRef::Integer(value) => value.to_string(),
                        rusqlite::types::ValueRef::Text(text) => {
                            String::from_utf8(text.to_vec()).unwrap()
                        }
                        other => format!("{other:?}"),
                    })
                    .collect(),
            );
        }
        found
    }
}

/// A database of a MariaDB server.
struct MariadbDatabase {
    socket: PathBuf,
    name: String,
}

impl Database for MariadbDatabase {
    const CASES: u32 = 12;

    fn create() -> Self {
        let socket = mariadb_server::socket().to_path_buf();
        let name = mariadb_server::create_database(&socket);
        Self { socket, name }
    }

    fn location(&self) -> String {
        format!("{} {}", self.socket.display(), self.name)
    }

    fn at(location: &str) -> Box<dyn Store> {
        let (socket, name) = location.split_once(' ').unwrap();
        let mut store = Mysql::open(&mariadb_server::login(Path::new(socket), name)).unwrap();
        store.migrate().unwrap();
        Box::new(store)
    }

    fn run(&self, sql: &str) -> Vec<Vec<String>> {
        let mut connection = mariadb_server::connect(&self.socket, Some(&self.name));
        let rows: Vec<mysql::Row> = connection.query(sql).unwrap();
        rows.into_iter()
            .map(|row| {
                row.unwrap()
                    .into_iter()
                    .map(|value| match value {
                        mysql::Value::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
                        other => other.as_sql(false),
                    })
                    .collect()
            })
            .collect()
    }
}

/// The same, on a server that allows no LOAD DATA LOCAL.
struct MariadbWithoutLoad(MariadbDatabase);

impl Database for MariadbWithoutLoad {
    const CASES: u32 = 4;

    fn create() -> Self {
        Self(MariadbDatabase::create())
    }

    fn location(&self) -> String {
        self.0.location()
    }

    fn at(location: &str) -> Box<dyn Store> {
        let (socket, name) = location.split_once(' ').unwrap();
        let login = mariadb_server::login(Path::new(socket), name);
        let mut store = Mysql::open(&login).unwrap().without_load_data();
        store.migrate().unwrap();
        Box::new(store)
    }

    fn run(&self, sql: &str) -> Vec<Vec<String>> {
        self.0.run(sql)
    }
}

/// The same, on MySQL's own server.
struct MysqlDatabase(MariadbDatabase);

impl Database for MysqlDatabase {
    const CASES: u32 = 4;

    fn create() -> Self {
        let socket = mysql_server::socket().to_path_buf();
        let name = mariadb_server::create_database(&socket);
        Self(MariadbDatabase { socket, name })
    }

    fn location(&self) -> String {
        self.0.location()
    }

    fn at(location: &str) -> Box<dyn Store> {
        MariadbDatabase::at(location)
    }

    fn run(&self, sql: &str) -> Vec<Vec<String>> {
        self.0.run(sql)
    }
}

/// The same, as that server allows unless it is told otherwise.
struct MysqlWithoutLoad(MysqlDatabase);

impl Database for MysqlWithoutLoad {
    const CASES: u32 = 4;

    fn create() -> Self {
        Self(MysqlDatabase::create())
    }

    fn location(&self) -> String {
        self.0.location()
    }

    fn at(location: &str) -> Box<dyn Store> {
        MariadbWithoutLoad::at(location)
    }

    fn run(&self, sql: &str) -> Vec<Vec<String>> {
        self.0.run(sql)
    }
}

macro_rules! contract_test {
    ([$($attribute:meta)?], $behaviour:ident, $body:block) => {
        #[test]
        $(#[$attribute])?
        fn $behaviour() $body
    };
}

macro_rules! contract {
    ($backend:ident, $database:ty, $attribute:tt, [$($behaviour:ident),* $(,)?]) => {
        mod $backend {
            $(contract_test!($attribute, $behaviour, {
                super::$behaviour::<$database>();
            });)*

            contract_test!($attribute, process_killed_within_a_transaction_leaves_nothing, {
                super::process_killed_within_a_transaction_leaves_nothing::<$database>(concat!(
                    stringify!($backend),
                    "::process_killed_within_a_transaction_leaves_nothing"
                ));
            });
        }
    };
}

macro_rules! contracts {
    ($($(#[$attribute:meta])? $backend:ident: $database:ty),* $(,)?) => {
        $(contract!(
            $backend,
            $database,
            [$($attribute)?],
            [
                empty_store_has_nothing_to_show,
                stored_snapshot_is_not_stored_again,
                same_identity_with_other_totals_is_refused,
                later_fields_are_compared_where_both_know_them,
                later_fields_go_wherever_the_epoch_goes,
                snapshot_that_does_not_add_up_leaves_nothing,
                transaction_dropped_leaves_nothing,
                accounts_do_not_mix,
                hosts_do_not_mix,
                groups_and_filters_tell_hosts_and_accounts_apart,
                days_follow_summer_time,
                renewed_account_of_one_name_counts_anew,
                epochs_of_one_account_add_up,
                records_of_one_flow_are_both_kept,
                counter_past_63_bits_is_refused,
                epoch_belongs_to_the_time_in_which_it_closed,
                store_opened_again_has_everything,
                migrating_twice_changes_nothing,
                stores_created_at_once_are_one,
                pruned_records_are_gone_and_their_sums_stay,
                pruned_epoch_served_again_is_not_counted,
                sums_are_deleted_by_level,
                archived_records_come_back_once,
                archive_that_cannot_be_written_deletes_nothing,
                damaged_archive_adds_nothing_wrong,
                exported_records_are_those_that_are_stored,
                exported_sums_are_whole,
                restorable_export_is_the_same_store_again,
                backup_holds_everything_and_replaces_nothing,
                backup_restores_into_an_empty_store,
                check_finds_what_does_not_sum_up,
                every_query_uses_its_key,
                account_has_a_view_with_the_originals_columns,
                views_show_addresses_as_people_write_them,
                hostile_names_are_only_names,
                hostile_names_in_a_backup_are_refused,
                addresses_of_any_bytes_are_stored,
                snapshot_of_many_addresses_is_summed_in_parts,
                standard_errors_stay_with_the_sums,
                error_is_unknown_where_an_old_module_sampled,
                unattributed_packets_are_told_of_the_accounts_asked_for,
                set_clock_does_not_change_how_long_it_was,
                queries_answer_as_a_map_would,
            ]
        );)*
    };
}

contracts! {
    sqlite: super::SqliteDatabase,
    mariadb: super::MariadbDatabase,
    mariadb_without_load: super::MariadbWithoutLoad,
    #[ignore = "needs MySQL's own server: cargo xtask test --all"]
    mysql_itself: super::MysqlDatabase,
    #[ignore = "needs MySQL's own server: cargo xtask test --all"]
    mysql_itself_without_load: super::MysqlWithoutLoad,
}

fn empty_store_has_nothing_to_show<D: Database>() {
    let answer = D::create().open().query(&by(&[Field::LocalIp])).unwrap();
    assert_eq!(answer.groups, []);
    assert_eq!((answer.group_count, answer.epochs), (0, 0));
    assert_eq!(answer.total, Counters::default());
}

fn stored_snapshot_is_not_stored_again<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let snapshot = lan(1);
    assert_eq!(stored(&mut *store, &snapshot).unwrap(), State::Stored);
    let before = total(&mut *store);
    assert_eq!(
        stored(&mut *store, &snapshot).unwrap(),
        State::AlreadyStored
    );
    assert_eq!(total(&mut *store), before);
    assert_eq!(before.sent_packets, 30);
}

fn same_identity_with_other_totals_is_refused<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    let before = total(&mut *store);

    let mut other = lan(1);
    other.records[0].syn_packets += 1;
    other.header.closed_ns += 1;
    let error = stored(&mut *store, &other).unwrap_err().to_string();
    assert!(error.contains("epoch 1 of account lan (ipv4)"), "{error}");
    assert!(error.contains("closed_ns"), "{error}");

    let other = SnapshotBuilder::new("lan", 1, vec![record(1, 1, 6, 22, 11)]);
    let error = stored(&mut *store, &other).unwrap_err();
    assert!(
        matches!(
            error,
            CollectError::Store(StoreError::Conflict {
                epoch: 1,
                stored: 2,
                offered: 1,
                ..
            })
        ),
        "{error}"
    );
    assert_eq!(total(&mut *store), before);
}

fn later_fields_are_compared_where_both_know_them<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let known = |epoch| lan(epoch).sampled(10);
    let unknown = |epoch| lan(epoch).with_header_size(240);
    stored(&mut *store, &known(1)).unwrap();
    stored(&mut *store, &unknown(2)).unwrap();
    for snapshot in [known(1), unknown(1), known(2), unknown(2)] {
        assert_eq!(
            stored(&mut *store, &snapshot).unwrap(),
            State::AlreadyStored
        );
    }
    for (spoil, expected) in [
        (
            (|header| header.duration_ns += 1) as fn(&mut SnapshotHeader),
            "duration_ns",
        ),
        (|header| header.unattributed_bytes = 1, "unattributed_bytes"),
        (
            |header| header.sample[2].byte_variance = [0, 1],
            "udp_any_byte_variance",
        ),
    ] {
        let mut other = known(1);
        spoil(&mut other.header);
        let error = stored(&mut *store, &other).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

fn later_fields_go_wherever_the_epoch_goes<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let mut wide = lan(1).sampled(100);
    wide.header.sample[1].highest_rate = u32::MAX;
    // Past what 64 bits and a double hold.
    wide.header.sample[0].byte_variance = [u64::MAX, 77];
    wide.header.unattributed_packets = 3;
    for snapshot in [wide, lan(2).sampled(10), lan(3).with_header_size(240)] {
        stored(&mut *store, &snapshot).unwrap();
    }
    let text = exported(&mut *store, Form::Restorable);
    assert!(text.contains(",4294967295,"), "{text}");
    let same = |store: &mut dyn Store| assert_eq!(exported(store, Form::Restorable), text);

    let folder = tempfile::tempdir().unwrap();
    let [csv, backup] = ["export", "backup"].map(|name| folder.path().join(name));
    std::fs::write(&csv, &text).unwrap();
    store.back_up(&backup).unwrap();
    for file in [&csv, &backup] {
        // Into an empty store, and into one that has an epoch.
        for there in [0, 1] {
            let other = D::create();
            let mut other = other.open();
            for _ in 0..there {
                stored(&mut *other, &lan(2).sampled(10)).unwrap();
            }
            other.restore(file).unwrap();
            same(&mut *other);
        }
    }
    for form in [ArchiveForm::Sqlite, ArchiveForm::Csv] {
        let retention = Retention {
            records_before: Some(time(NOON_NS + 4 * HOUR_NS)),
            ..Retention::default()
        };
        let archive = Archive {
            folder: folder.path(),
            form,
        };
        let rotated = store.rotate(&retention, Some(archive)).unwrap();
        let other = D::create();
        let mut other = other.open();
        for file in &rotated.archives {
            store.restore(file).unwrap();
            other.restore(file).unwrap();
        }
        same(&mut *store);
        same(&mut *other);
    }
}

fn snapshot_that_does_not_add_up_leaves_nothing<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let mut wrong = lan(1);
    wrong.records[1].sent_packets += 1;
    let error = stored(&mut *store, &wrong).unwrap_err();
    assert!(
        matches!(
            error,
            CollectError::Snapshot(SnapshotError::Recorded { .. })
        ),
        "{error}"
    );
    assert_eq!(total(&mut *store), Counters::default());
    // Its identity is free still: the right snapshot is stored.
    assert_eq!(stored(&mut *store, &lan(1)).unwrap(), State::Stored);
}

fn transaction_dropped_leaves_nothing<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let (header, records) = decoded(&lan(1));
    let Begun::New(mut transaction) = store.begin(&origin(), &header).unwrap() else {
        panic!("an empty store has no snapshot");
    };
    transaction.write(&records).unwrap();
    drop(transaction);
    assert_eq!(total(&mut *store), Counters::default());
    assert_eq!(stored(&mut *store, &lan(1)).unwrap(), State::Stored);
}

fn accounts_do_not_mix<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    stored(
        &mut *store,
        &SnapshotBuilder::new("dmz", 1, vec![record(1, 1, 6, 22, 5)]),
    )
    .unwrap();
    let mut of = |name: &str| {
        let mut query = by(&[Field::Protocol]);
        query.filter.accounts = vec![name.parse().unwrap()];
        store.query(&query).unwrap().total.sent_packets
    };
    assert_eq!((of("lan"), of("dmz"), of("wan")), (30, 5, 0));
    assert_eq!(total(&mut *store).sent_packets, 35);
}

fn renewed_account_of_one_name_counts_anew<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let before_reboot = lan(1);
    let mut after_reboot = lan(1);
    after_reboot.header.account_id[15] ^= 1;
    stored(&mut *store, &before_reboot).unwrap();
    assert_eq!(stored(&mut *store, &after_reboot).unwrap(), State::Stored);
    assert_eq!(total(&mut *store).sent_packets, 60);
}

fn epochs_of_one_account_add_up<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let answer = store.query(&by(&[Field::LocalIp])).unwrap();
    assert_eq!(answer.epochs, 3);
    assert_eq!(answer.total.received_bytes, 3 * 45_000);
    assert_eq!(
        answer
            .groups
            .iter()
            .map(|group| (group.key[0].to_string(), group.counters.sent_packets))
            .collect::<Vec<_>>(),
        [("192.0.2.2".to_owned(), 60), ("192.0.2.1".to_owned(), 30)]
    );
}

fn records_of_one_flow_are_both_kept<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let twice = vec![record(1, 1, 6, 22, 10), record(1, 1, 6, 22, 7)];
    stored(&mut *store, &SnapshotBuilder::new("lan", 1, twice)).unwrap();
    let answer = store.query(&by(&[Field::LocalPort])).unwrap();
    assert_eq!(answer.groups.len(), 1);
    assert_eq!(answer.total.sent_packets, 17);
    assert_eq!(answer.total.received_bytes, 17 * 1500);
}

fn counter_past_63_bits_is_refused<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let mut huge = record(1, 1, 6, 22, 0);
    huge.sent_bytes = 1 << 63;
    let error = stored(&mut *store, &SnapshotBuilder::new("lan", 1, vec![huge])).unwrap_err();
    assert!(
        matches!(error, CollectError::Store(StoreError::OutOfRange { .. })),
        "{error}"
    );
    assert_eq!(total(&mut *store), Counters::default());
}

fn epoch_belongs_to_the_time_in_which_it_closed<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let mut epochs = |since: Option<u64>, until: Option<u64>| {
        let mut query = by(&[Field::Protocol]);
        query.filter.since = since.map(time);
        query.filter.until = until.map(time);
        let answer = store.query(&query).unwrap();
        assert_eq!(answer.total.sent_packets, 30 * answer.epochs);
        answer.epochs
    };
    let closed = |epoch: u64| NOON_NS + epoch * HOUR_NS;
    assert_eq!(epochs(None, None), 3);
    assert_eq!(epochs(Some(closed(2)), None), 2);
    assert_eq!(epochs(Some(closed(2) + 1), None), 1);
    assert_eq!(epochs(None, Some(closed(2))), 1);
    assert_eq!(epochs(Some(closed(2)), Some(closed(2) + 1)), 1);
    assert_eq!(epochs(Some(closed(4)), None), 0);
}

fn store_opened_again_has_everything<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    let before = total(&mut *store);
    drop(store);
    let mut store = database.open();
    assert_eq!(total(&mut *store), before);
    assert_eq!(stored(&mut *store, &lan(1)).unwrap(), State::AlreadyStored);
}

fn migrating_twice_changes_nothing<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    let before = total(&mut *store);
    store.migrate().unwrap();
    assert_eq!(total(&mut *store), before);
}

fn stores_created_at_once_are_one<D: Database>() {
    let database = D::create();
    let location = database.location();
    std::thread::scope(|scope| {
        for epoch in 1..=8 {
            let location = &location;
            scope.spawn(move || stored(&mut *D::at(location), &lan(epoch)).unwrap());
        }
    });
    assert_eq!(total(&mut *database.open()).sent_packets, 8 * 30);
}

fn hosts_do_not_mix<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for number in 1..=3 {
        let mut origin = origin();
        origin.machine_id = format!("{number:032}");
        // The same account identity and epoch, on another host.
        let bytes = lan(1).bytes();
        let state = append(
            &mut *store,
            &origin,
            &mut Snapshot::open(&bytes[..]).unwrap(),
        );
        assert_eq!(state.unwrap(), State::Stored);
    }
    assert_eq!(total(&mut *store).sent_packets, 90);
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
}

/// What needs the records, and what the sums answer too.
fn groups_and_filters_tell_hosts_and_accounts_apart<D: Database>() {
    let mut store = D::create().open();
    let dmz = SnapshotBuilder::new("dmz", 1, vec![record(1, 1, 6, 25, 3)]);
    let mut mirror = origin();
    mirror.machine_id = "fedcba9876543210fedcba9876543210".to_owned();
    mirror.hostname = "mirror".to_owned();
    for (origin, snapshot) in [(origin(), lan(1)), (origin(), dmz), (mirror, lan(1))] {
        let bytes = snapshot.bytes();
        append(
            &mut *store,
            &origin,
            &mut Snapshot::open(&bytes[..]).unwrap(),
        )
        .unwrap();
    }
    let sent = |store: &mut dyn Store, hosts: &[&str]| -> Vec<(String, u64)> {
        let mut query = by(&[Field::Host, Field::Account]);
        query.order = Order::Fields;
        query.filter.hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        let groups = store.query(&query).unwrap().groups;
        groups
            .iter()
            .map(|group| {
                let name = format!("{} {}", group.key[0], group.key[1]);
                (name, group.counters.sent_packets)
            })
            .collect()
    };
    let of = |name: &str, packets| (name.to_owned(), packets);
    let all = [
        of("gateway dmz", 3),
        of("gateway lan", 30),
        of("mirror lan", 30),
    ];
    assert_eq!(sent(&mut *store, &[]), all);
    assert_eq!(sent(&mut *store, &["gateway", "mirror"]), all);
    assert_eq!(sent(&mut *store, &["gateway"]), all[..2]);
    assert_eq!(
        sent(&mut *store, &["fedcba9876543210fedcba9876543210"]),
        all[2..]
    );
    assert_eq!(sent(&mut *store, &["elsewhere"]), []);
}

fn days_follow_summer_time<D: Database>() {
    let mut store = D::create().open();
    let closes = [
        "2026-03-28T22:30:00Z",
        "2026-03-28T23:30:00Z",
        "2026-03-29T21:30:00Z",
        "2026-03-29T22:30:00Z",
        "2026-10-25T22:30:00Z",
        "2026-10-25T23:30:00Z",
    ];
    for (closed, epoch) in closes.iter().zip(1..) {
        let mut snapshot = lan(epoch);
        let closed: Timestamp = closed.parse().unwrap();
        snapshot.header.closed_ns = closed.as_nanosecond() as u64;
        stored(&mut *store, &snapshot).unwrap();
    }
    for extra in [vec![], vec![Field::RemotePort]] {
        let mut query = by(&[&[Field::Day][..], &extra].concat());
        query.zone = TimeZone::get("Europe/Berlin").unwrap();
        query.order = Order::Fields;
        let days: Vec<String> = store
            .query(&query)
            .unwrap()
            .groups
            .iter()
            .map(|group| format!("{} {}", group.key[0], group.counters.sent_packets))
            .collect();
        // Clocks are an hour before UTC, from 29 March to 25 October two.
        assert_eq!(
            days,
            [
                "2026-03-28 30",
                "2026-03-29 60",
                "2026-03-30 30",
                "2026-10-25 30",
                "2026-10-26 30"
            ]
        );
    }
}

fn recorded(store: &mut dyn Store) -> (u64, u64) {
    let answer = store
        .query(&by(&[Field::LocalIp, Field::RemoteIp]))
        .unwrap();
    (answer.epochs, answer.total.sent_packets)
}

fn summed(store: &mut dyn Store) -> [u64; 3] {
    [Field::LocalIp, Field::LocalPort, Field::RemoteIp]
        .map(|field| store.query(&by(&[field])).unwrap().total.sent_packets)
}

fn pruned_records_are_gone_and_their_sums_stay<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let cut = time(NOON_NS + 3 * HOUR_NS);
    let pruned = store.prune(cut).unwrap();
    assert_eq!((pruned.epochs, pruned.records), (2, 4));
    let pruned = store.prune(cut).unwrap();
    assert_eq!((pruned.epochs, pruned.records), (0, 0));
    assert_eq!(recorded(&mut *store), (1, 30));
    assert_eq!(summed(&mut *store), [90; 3]);
    assert_eq!(stored(&mut *store, &lan(4)).unwrap(), State::Stored);
    assert_eq!(recorded(&mut *store), (2, 60));
    assert_eq!(summed(&mut *store), [120; 3]);
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
}

fn pruned_epoch_served_again_is_not_counted<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    stored(&mut *store, &lan(2)).unwrap();
    let pruned = store.prune(time(NOON_NS + 100 * HOUR_NS)).unwrap();
    assert_eq!((pruned.epochs, pruned.records), (2, 4));
    for epoch in 1..=2 {
        assert_eq!(
            stored(&mut *store, &lan(epoch)).unwrap(),
            State::AlreadyStored
        );
    }
    assert_eq!(recorded(&mut *store), (0, 0));
    assert_eq!(summed(&mut *store), [60; 3]);
}

fn sums_are_deleted_by_level<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    // Closes at 13:00 to 15:00 on 31 January, and at noon on 2 February.
    for epoch in [1, 2, 3, 48] {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let february = time(NOON_NS + 12 * HOUR_NS);
    let mut retention = Retention {
        records_before: Some(february),
        hourly_before: Some(february),
        ..Retention::default()
    };
    let rotated = store.rotate(&retention, None).unwrap();
    // Two local addresses and two services in three hours.
    assert_eq!((rotated.records, rotated.sums), (6, 12));
    assert_eq!(summed(&mut *store), [120; 3]);
    // An hour that is gone is answered by its day.
    let mut query = by(&[Field::LocalIp]);
    query.filter.since = Some(time(NOON_NS + 2 * HOUR_NS));
    query.filter.until = Some(time(NOON_NS + 3 * HOUR_NS));
    assert_eq!(store.query(&query).unwrap().total.sent_packets, 90);

    retention.daily_before = Some(february);
    store.rotate(&retention, None).unwrap();
    assert_eq!(summed(&mut *store), [30, 30, 120]);
    retention.monthly_before = Some(february);
    store.rotate(&retention, None).unwrap();
    assert_eq!(summed(&mut *store), [30; 3]);
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
}

fn archived_records_come_back_once<D: Database>() {
    for form in [ArchiveForm::Sqlite, ArchiveForm::Csv] {
        let database = D::create();
        let folder = tempfile::tempdir().unwrap();
        // A name that means something to SQL and to shells.
        let folder = folder
            .path()
            .join("old'; DROP TABLE record; --\"`$(reboot)");
        let mut store = database.open();
        for epoch in 1..=3 {
            stored(&mut *store, &lan(epoch)).unwrap();
        }
        let everything = answers(&mut *store);
        let retention = Retention {
            records_before: Some(time(NOON_NS + 3 * HOUR_NS)),
            ..Retention::default()
        };
        let archive = Archive {
            folder: &folder,
            form,
        };
        let rotated = store.rotate(&retention, Some(archive)).unwrap();
        assert_eq!((rotated.epochs, rotated.records), (2, 4));
        let [file] = &rotated.archives[..] else {
            panic!("{:?}", rotated.archives);
        };
        assert_eq!(recorded(&mut *store), (1, 30));
        if form == ArchiveForm::Sqlite {
            // Such an archive is a database of its own.
            let mut alone = Sqlite::open_read_only(file).unwrap();
            assert_eq!(recorded(&mut alone), (2, 60));
            assert_eq!(summed(&mut alone), [60; 3]);
        }

        for (epochs, known) in [(2, 0), (0, 2)] {
            let restored = store.restore(file).unwrap();
            assert_eq!((restored.epochs, restored.known), (epochs, known));
            assert_eq!(answers(&mut *store).groups, everything.groups);
            assert_eq!(summed(&mut *store), [90; 3]);
        }
        assert_eq!(store.check().unwrap(), NOTHING_WRONG);

        // Into a store that never had them, they come with their sums.
        for there in [&[3][..], &[]] {
            let other = D::create();
            let mut other = other.open();
            for &epoch in there {
                stored(&mut *other, &lan(epoch)).unwrap();
            }
            assert_eq!(other.restore(file).unwrap().epochs, 2);
            let sent = 60 + 30 * there.len() as u64;
            assert_eq!(summed(&mut *other), [sent; 3]);
            assert_eq!(recorded(&mut *other).1, sent);
            assert_eq!(other.check().unwrap(), NOTHING_WRONG);
        }
    }
}

fn archive_that_cannot_be_written_deletes_nothing<D: Database>() {
    let database = D::create();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    let retention = Retention {
        records_before: Some(time(NOON_NS + 100 * HOUR_NS)),
        ..Retention::default()
    };
    for form in [ArchiveForm::Sqlite, ArchiveForm::Csv] {
        let archive = Archive {
            folder: &file,
            form,
        };
        store.rotate(&retention, Some(archive)).unwrap_err();
        assert_eq!(recorded(&mut *store), (1, 30));
    }
    let archive = Archive {
        folder: folder.path(),
        form: ArchiveForm::Csv,
    };
    store.rotate(&retention, Some(archive)).unwrap();
    assert_eq!(recorded(&mut *store), (0, 0));
    // What is gone already leaves no empty archive.
    let rotated = store.rotate(&retention, Some(archive)).unwrap();
    assert_eq!(rotated.archives, [] as [PathBuf; 0]);
}

fn damaged_archive_adds_nothing_wrong<D: Database>() {
    let database = D::create();
    let folder = tempfile::tempdir().unwrap();
    let mut store = database.open();
    for epoch in 1..=2 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let text = exported(&mut *store, Form::Restorable);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 8);
    let last = lines.len() - 1;
    let without = |gone: usize| {
        let mut left = lines.clone();
        left.remove(gone);
        left.join("\n")
    };
    let changed = |line: usize, from: &str, to: &str| {
        let mut changed: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        assert!(changed[line].contains(from), "{}", changed[line]);
        changed[line] = changed[line].replacen(from, to, 1);
        changed.join("\n")
    };
    for (wrong, expected) in [
        (without(0), "is no file that"),
        (String::new(), "is no file that"),
        (without(last), "was cut off"),
        (without(last - 1), "has 1 records"),
        (without(4), "line 5: a record of another epoch"),
        (
            changed(5, "192.0.2.1", "192.0.2.x"),
            "line 6: local_ip cannot be",
        ),
        (
            changed(5, "198.51.100.1,0", "198.51.100.1,70000"),
            "remote_port cannot be",
        ),
        (changed(5, ",1000,", ",1001,"), "but should have"),
        (changed(5, "1000,15000", "1000,15000,1"), "line 6"),
        (changed(4, "lan", "l'an"), "account cannot be"),
        (
            text.replace(",94,48240,", ",95,48240,"),
            "packets do not add up",
        ),
    ] {
        let path = folder.path().join("wrong.csv");
        std::fs::write(&path, wrong).unwrap();
        let other = D::create();
        let mut other = other.open();
        let error = other.restore(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        // Whole epochs before the damage may be there, never a part of one.
        let whole: &[u64] = match expected {
            "was cut off" => &[60],
            _ => &[0, 30],
        };
        assert!(whole.contains(&recorded(&mut *other).1));
        assert_eq!(other.check().unwrap(), NOTHING_WRONG);
    }
}

fn exported_records_are_those_that_are_stored<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let dmz = SnapshotBuilder::new("dmz", 1, vec![record(7, 9, 1, 0, 5)]);
    stored(&mut *store, &dmz).unwrap();
    assert_eq!(
        export_of(
            &mut *store,
            Level::Flow,
            Form::Csv,
            &Selection {
                accounts: vec!["lan".parse().unwrap()],
                since: Some(time(NOON_NS + 2 * HOUR_NS)),
                until: Some(time(NOON_NS + 3 * HOUR_NS)),
            }
        ),
        "host,netns,family,account,epoch,closed,protocol,local_ip,local_port,remote_ip,\
         remote_port,flags,sent_packets,received_packets,sent_bytes,received_bytes,syn_packets\n\
         gateway,init,ipv4,lan,2,2026-01-31T14:00:00Z,6,192.0.2.1,22,198.51.100.1,0,0,10,20,\
         1000,15000,1\n\
         gateway,init,ipv4,lan,2,2026-01-31T14:00:00Z,17,192.0.2.2,53,198.51.100.1,0,0,20,40,\
         2000,30000,0\n"
    );
    let json: serde_json::Value = serde_json::from_str(&exported(&mut *store, Form::Json)).unwrap();
    let records = json["records"].as_array().unwrap();
    assert_eq!(records.len(), 7);
    let last = records.last().unwrap();
    assert_eq!(
        (&last["account"], &last["protocol"]),
        (&"dmz".into(), &1.into())
    );
    assert_eq!(
        (&last["local_ip"], &last["epoch"]),
        (&"192.0.2.7".into(), &1.into())
    );
    let sent: u64 = records
        .iter()
        .map(|record| record["sent_packets"].as_u64().unwrap())
        .sum();
    assert_eq!(sent, 95);
}

fn exported_sums_are_whole<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let other = |epoch| SnapshotBuilder::new("lan", epoch, vec![record(1, 200, 6, 22, 1)]);
    // In January, then in February: what came before is no part any more then.
    for epoch in [1, 2, 600, 601] {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    stored(&mut *store, &other(602)).unwrap();
    // What is in the table now is added to by what waits in parts.
    store.prune(time(NOON_NS + 602 * HOUR_NS)).unwrap();
    for epoch in [603, 604] {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    stored(
        &mut *store,
        &SnapshotBuilder::new(
            "lan",
            605,
            vec![record(1, 0, 6, 22, 3), record(1, 201, 6, 22, 4)],
        ),
    )
    .unwrap();
    assert_eq!(
        export_of(
            &mut *store,
            Level::RemoteMonth,
            Form::Csv,
            &Selection::default()
        ),
        "host,netns,family,account,month,remote_ip,sent_packets,received_packets,sent_bytes,\
         received_bytes,syn_packets\n\
         gateway,init,ipv4,lan,2026-01-01T00:00:00Z,198.51.100.1,60,120,6000,90000,2\n\
         gateway,init,ipv4,lan,2026-02-01T00:00:00Z,198.51.100.0,3,6,300,4500,1\n\
         gateway,init,ipv4,lan,2026-02-01T00:00:00Z,198.51.100.1,120,240,12000,180000,4\n\
         gateway,init,ipv4,lan,2026-02-01T00:00:00Z,198.51.100.200,1,2,100,1500,1\n\
         gateway,init,ipv4,lan,2026-02-01T00:00:00Z,198.51.100.201,4,8,400,6000,1\n"
    );
    for (level, sent, lines) in [
        (Level::LocalHour, 188, 14),
        (Level::LocalDay, 188, 4),
        (Level::ServiceHour, 188, 14),
        (Level::ServiceDay, 188, 4),
        (Level::RemoteMonth, 188, 5),
    ] {
        let json = export_of(&mut *store, level, Form::Json, &Selection::default());
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let sums = json["sums"].as_array().unwrap();
        let found: u64 = sums
            .iter()
            .map(|sum| sum["sent_packets"].as_u64().unwrap())
            .sum();
        assert_eq!((found, sums.len()), (sent, lines), "{level:?}");
    }
    let february = Selection {
        since: Some("2026-02-01T00:00:00Z".parse().unwrap()),
        ..Selection::default()
    };
    let rest = export_of(&mut *store, Level::RemoteMonth, Form::Csv, &february);
    assert_eq!(rest.lines().count(), 5);
}

fn restorable_export_is_the_same_store_again<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    // Nothing was recorded in it, but much was seen.
    stored(&mut *store, &SnapshotBuilder::new("dmz", 9, Vec::new())).unwrap();
    let mut hostile = origin();
    hostile.machine_id = "\"quoted\", and\nof two lines".to_owned();
    hostile.hostname = " '; DROP TABLE record; -- ".to_owned();
    let bytes = lan(1).bytes();
    append(
        &mut *store,
        &hostile,
        &mut Snapshot::open(&bytes[..]).unwrap(),
    )
    .unwrap();

    let text = exported(&mut *store, Form::Restorable);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("export");
    std::fs::write(&path, &text).unwrap();
    let other = D::create();
    let mut other = other.open();
    for (epochs, known) in [(5, 0), (0, 5)] {
        let restored = other.restore(&path).unwrap();
        assert_eq!((restored.epochs, restored.known), (epochs, known));
        assert_eq!(answers(&mut *other), answers(&mut *store));
        assert_eq!(summed(&mut *other), summed(&mut *store));
        assert_eq!(exported(&mut *other, Form::Restorable), text);
    }
    assert_eq!(other.check().unwrap(), NOTHING_WRONG);
}

fn export_of(store: &mut dyn Store, level: Level, form: Form, selection: &Selection) -> String {
    let mut text = Vec::new();
    export(store, level, selection, form, &Unwatched, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// All records.
fn exported(store: &mut dyn Store, form: Form) -> String {
    export_of(store, Level::Flow, form, &Selection::default())
}

fn backup_holds_everything_and_replaces_nothing<D: Database>() {
    let database = D::create();
    let folder = tempfile::tempdir().unwrap();
    let path = folder
        .path()
        .join("back'up\"; DROP TABLE record; -- `$(reboot)` ÿ日?mode=ro#");
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    store.back_up(&path).unwrap();
    stored(&mut *store, &lan(2)).unwrap();

    let open = || Sqlite::open_read_only(&path).unwrap();
    assert_eq!(total(&mut open()).sent_packets, 30);
    let error = store.back_up(&path).unwrap_err();
    assert!(matches!(error, StoreError::Exists(_)), "{error}");
    assert_eq!(total(&mut open()).sent_packets, 30);
    let files: Vec<PathBuf> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files, std::slice::from_ref(&path));
    let file = path.join("backup");
    let error = store.back_up(&file).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

fn backup_restores_into_an_empty_store<D: Database>() {
    let database = D::create();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    store.prune(time(NOON_NS + 2 * HOUR_NS)).unwrap();
    store.back_up(&path).unwrap();

    let other = D::create();
    let mut other = other.open();
    assert_eq!(other.restore(&path).unwrap().epochs, 3);
    assert_eq!(answers(&mut *other).groups, answers(&mut *store).groups);
    assert_eq!(summed(&mut *other), [90; 3]);
    assert_eq!(other.check().unwrap(), NOTHING_WRONG);
    assert_eq!(stored(&mut *other, &lan(1)).unwrap(), State::AlreadyStored);
    assert_eq!(stored(&mut *other, &lan(4)).unwrap(), State::Stored);

    // Where there is something already, nothing is doubled.
    let restored = store.restore(&path).unwrap();
    assert_eq!((restored.epochs, restored.known), (0, 3));
    assert_eq!(summed(&mut *store), [90; 3]);
    let third = D::create();
    let mut third = third.open();
    stored(&mut *third, &lan(4)).unwrap();
    let restored = third.restore(&path).unwrap();
    assert_eq!((restored.epochs, restored.without_records), (2, 1));
    assert_eq!(recorded(&mut *third), (3, 90));
}

fn check_finds_what_does_not_sum_up<D: Database>() {
    for damage in [
        "UPDATE record SET sent_packets = sent_packets + 1 WHERE protocol = 17",
        "DELETE FROM record WHERE protocol = 6",
        "UPDATE local_hourly SET sent_bytes = sent_bytes + 1",
        "DELETE FROM local_daily",
        "UPDATE service_hourly SET received_packets = 0",
        "DELETE FROM service_daily WHERE protocol = 17",
        "DELETE FROM remote_part",
    ] {
        let database = D::create();
        let mut store = database.open();
        stored(&mut *store, &lan(1)).unwrap();
        assert_eq!(store.check().unwrap(), NOTHING_WRONG);
        database.run(damage);
        assert_ne!(store.check().unwrap(), NOTHING_WRONG, "{damage}");
    }
}

fn every_query_uses_its_key<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for number in 0..3 {
        let mut origin = origin();
        origin.machine_id = format!("{number:032}");
        for epoch in 1..=40 {
            let bytes = lan(epoch).bytes();
            append(
                &mut *store,
                &origin,
                &mut Snapshot::open(&bytes[..]).unwrap(),
            )
            .unwrap();
        }
    }
    for query in every_query() {
        let steps = store.explain(&query).unwrap();
        let mut used = 0;
        for step in &steps {
            used += u32::from(uses_its_key(step).unwrap_or_else(|| panic!("{query:?}: {steps:?}")));
        }
        assert!(used > 0, "{query:?}: {steps:?}");
    }
}

/// Whether a step reads a table that grows; none if without the key that is made for it.
fn uses_its_key(step: &str) -> Option<bool> {
    let words: Vec<&str> = step.split_whitespace().collect();
    // Aliases of snapshots, records and sums.
    let grows = |word: &str| ["s", "r", "t"].contains(&word);
    match words[..] {
        // SQLite: SEARCH or SCAN, the table, and how.
        ["SEARCH", table, "USING", ref key @ ..] if grows(table) => {
            let key = key.join(" ");
            [
                "INDEX snapshot_closed (host_id=? AND account_id=?",
                "PRIMARY KEY (host_id=?",
                "COVERING INDEX snapshot_closed (host_id=?",
                "INTEGER PRIMARY KEY (rowid>?",
                "INDEX sqlite_autoindex_remote_part_1 (host_id=? AND account_id=?",
            ]
            .iter()
            .any(|expected| key.starts_with(expected))
            .then_some(true)
        }
        ["SCAN", table, ..] if grows(table) => None,
        // MariaDB: table, access, key.
        [table, access, key] if grows(table) => (["ref", "eq_ref", "range"].contains(&access)
            && ["PRIMARY", "snapshot_closed"].contains(&key))
        .then_some(true),
        _ => Some(false),
    }
}

/// Every grouping with every kind of filter, such as the console asks for.
fn every_query() -> Vec<Query> {
    let fields = [
        Field::Protocol,
        Field::LocalIp,
        Field::RemoteIp,
        Field::LocalPort,
        Field::RemotePort,
    ];
    let filters: [fn(&mut Filter); 9] = [
        |_| {},
        |filter| {
            filter.since = Some(time(NOON_NS + HOUR_NS / 2));
            filter.until = Some(time(NOON_NS + 39 * HOUR_NS + 1));
        },
        |filter| filter.accounts = vec!["lan".parse().unwrap()],
        |filter| filter.protocols = vec![6],
        |filter| filter.local = vec!["192.0.2.0/24".parse().unwrap()],
        |filter| filter.remote = vec!["198.51.100.0/24".parse().unwrap()],
        |filter| filter.local_ports = vec![22..=22],
        |filter| filter.remote_ports = vec![0..=0],
        |filter| filter.hosts = vec!["gateway".to_owned()],
    ];
    let mut groupings: Vec<Vec<Field>> = (0..1_u32 << fields.len())
        .map(|set| {
            (0..fields.len())
                .filter(|bit| set & 1 << bit != 0)
                .map(|bit| fields[bit])
                .collect()
        })
        .collect();
    groupings.extend([
        vec![Field::Hour, Field::LocalIp],
        vec![Field::Host, Field::Account, Field::Day],
        vec![Field::FiveMinutes, Field::Protocol, Field::LocalPort],
    ]);
    let mut queries = Vec::new();
    for grouping in &groupings {
        let mut query = by(grouping);
        // Each filter alone, and all of them.
        for filter in filters {
            let mut query = query.clone();
            filter(&mut query.filter);
            queries.push(query);
        }
        filters.iter().for_each(|filter| filter(&mut query.filter));
        queries.push(query);
    }
    queries
}

fn account_has_a_view_with_the_originals_columns<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let snapshot = SnapshotBuilder::new("192.0.2.0_24", 1, vec![record(200, 1, 6, 22, 10)]);
    stored(&mut *store, &snapshot).unwrap();
    let rows = database.run(
        "SELECT protocol, local_ip, remote_ip, local_port, remote_port, local_pkt, remote_pkt,
             local_data, remote_data, syn_count FROM trafstat_192_0_2_0_24",
    );
    let expected: [u32; 10] = [
        6,
        u32::from_be_bytes([192, 0, 2, 200]),
        u32::from_be_bytes([198, 51, 100, 1]),
        22,
        0,
        10,
        20,
        1000,
        15_000,
        1,
    ];
    assert_eq!(rows, [expected.map(|value| value.to_string())]);
    let rows = database.run(
        "SELECT COUNT(*) FROM trafstat_192_0_2_0_24 WHERE _traf_id > 0 AND timestamp IS NOT NULL",
    );
    assert_eq!(rows, [["1"]]);
}

fn views_show_addresses_as_people_write_them<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    let rows = database
        .run("SELECT host, account, local_ip, remote_ip, sent_packets FROM flow ORDER BY local_ip");
    assert_eq!(
        rows,
        [
            ["gateway", "lan", "192.0.2.1", "198.51.100.1", "10"],
            ["gateway", "lan", "192.0.2.2", "198.51.100.1", "20"],
        ]
    );
    let pending = database.run("SELECT remote_ip, SUM(sent_packets) FROM remote_month GROUP BY 1");
    assert_eq!(pending, [["198.51.100.1", "30"]]);
    store.prune(time(NOON_NS + 100 * HOUR_NS)).unwrap();
    let added = database.run("SELECT remote_ip, SUM(sent_packets) FROM remote_month GROUP BY 1");
    assert_eq!(added, pending);
    for (view, keys) in [
        ("local_hour", "local_ip"),
        ("local_day", "local_ip"),
        ("service_hour", "local_port"),
        ("service_day", "local_port"),
    ] {
        let rows = database.run(&format!(
            "SELECT {keys}, sent_packets FROM {view} ORDER BY 2"
        ));
        assert_eq!([&rows[0][1], &rows[1][1]], ["10", "20"], "{view}");
    }
}

fn hostile_names_are_only_names<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let names = [
        "'; DROP TABLE record; --",
        "\\'; DROP TABLE record; #",
        "%s%n\u{1b}[2J\n\t\"`",
        "`; DROP TABLE record; -- \"; DROP TABLE record; --",
        "ÿ日本",
    ];
    for (name, number) in names.iter().zip(1..) {
        let origin = Origin {
            machine_id: format!("{number}{name}"),
            hostname: (*name).to_owned(),
            netns: (*name).to_owned(),
        };
        for epoch in 1..=2 {
            let bytes = lan(epoch).bytes();
            append(
                &mut *store,
                &origin,
                &mut Snapshot::open(&bytes[..]).unwrap(),
            )
            .unwrap();
        }
    }
    assert_eq!(recorded(&mut *store), (10, 300));
    let mut stored: Vec<String> = database
        .run("SELECT hostname FROM host")
        .into_iter()
        .flatten()
        .collect();
    stored.sort();
    let mut expected = names.map(str::to_owned);
    expected.sort();
    assert_eq!(stored, expected);
    // An account's name cannot be hostile, but nearly an identifier is not one.
    let snapshot = SnapshotBuilder::new("a-b.c:d", 1, vec![record(1, 1, 6, 22, 1)]);
    self::stored(&mut *store, &snapshot).unwrap();
    assert_eq!(
        database.run("SELECT local_pkt FROM trafstat_a_b_c_d"),
        [["1"]]
    );
}

fn hostile_names_in_a_backup_are_refused<D: Database>() {
    let folder = tempfile::tempdir().unwrap();
    let backup = SqliteDatabase(folder);
    stored(&mut *backup.open(), &lan(1)).unwrap();
    for name in [
        "'; DROP TABLE record; --",
        "`; DROP TABLE record; --",
        "\"; DROP TABLE record; --",
        "",
        "ÿ日本",
        "a\\",
    ] {
        let text = name.replace('\'', "''");
        backup.run(&format!(
            "UPDATE account SET name = '{text}', view_name = '{text}'"
        ));
        for there in [false, true] {
            let database = D::create();
            let mut store = database.open();
            if there {
                stored(&mut *store, &lan(2)).unwrap();
            }
            let error = store
                .restore(Path::new(&backup.location()))
                .unwrap_err()
                .to_string();
            assert!(error.contains("is not an account name"), "{error}");
            assert_eq!(recorded(&mut *store).1, if there { 30 } else { 0 });
            assert_eq!(store.check().unwrap(), NOTHING_WRONG);
        }
    }
}

fn addresses_of_any_bytes_are_stored<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let mut records = Vec::new();
    for byte in 0..=255 {
        let mut record = record(1, 1, 6, 22, 1);
        record.remote_ip = [byte, b'\t', byte, b'\\'];
        record.local_ip = [0, byte, b'\n', byte];
        records.push(record);
    }
    stored(&mut *store, &SnapshotBuilder::new("lan", 1, records)).unwrap();
    let answer = store
        .query(&by(&[Field::LocalIp, Field::RemoteIp]))
        .unwrap();
    let found: Vec<[IpAddr; 2]> = answer
        .groups
        .iter()
        .map(|group| match group.key[..] {
            [Value::Ip(local), Value::Ip(remote)] => [local, remote],
            _ => panic!("{group:?}"),
        })
        .collect();
    let expected: Vec<[IpAddr; 2]> = (0..=255)
        .map(|byte| {
            [
                IpAddr::from([0, byte, b'\n', byte]),
                IpAddr::from([byte, b'\t', byte, b'\\']),
            ]
        })
        .collect();
    assert_eq!(found, expected);
}

fn snapshot_of_many_addresses_is_summed_in_parts<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let records: Vec<_> = (0..140_000_u32)
        .map(|number| {
            let mut record = record(1, 1, 17, 53, 1);
            record.local_ip = (number % 70_000).to_be_bytes();
            record.remote_ip = (number / 2).to_be_bytes();
            record
        })
        .collect();
    stored(&mut *store, &SnapshotBuilder::new("lan", 1, records)).unwrap();
    let parts = database.run("SELECT COUNT(*) FROM remote_part");
    assert_eq!(parts, [["2"]]);
    for field in [Field::LocalIp, Field::RemoteIp] {
        let mut query = by(&[field]);
        query.limit = Some(3);
        let answer = store.query(&query).unwrap();
        assert_eq!(
            (answer.group_count, answer.total.sent_packets),
            (70_000, 140_000)
        );
        for (group, number) in answer.groups.iter().zip(0_u32..) {
            assert_eq!(group.key, [Value::Ip(IpAddr::from(number.to_be_bytes()))]);
            assert_eq!(group.counters.sent_packets, 2);
        }
    }
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
}

/// How the parent tells the child, which runs the same test, what it is to do.
const CHILD: &str = "TRAFSTAT_CONTRACT_DATABASE";

fn process_killed_within_a_transaction_leaves_nothing<D: Database>(test: &str) {
    if let Ok(location) = std::env::var(CHILD) {
        let mut store = D::at(&location);
        let (header, records) = decoded(&lan(2));
        let Begun::New(mut transaction) = store.begin(&origin(), &header).unwrap() else {
            panic!("epoch 2 is stored already");
        };
        transaction.write(&records).unwrap();
        println!("\nwritten");
        std::io::stdout().flush().unwrap();
        // Ends with the parent at the latest.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        panic!("the parent did not kill this process");
    }

    let database = D::create();
    stored(&mut *database.open(), &lan(1)).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--include-ignored", "--nocapture"])
        .env(CHILD, database.location())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let written = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .any(|line| line.unwrap() == "written");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(written);

    let mut store = database.open();
    assert_eq!(total(&mut *store).sent_packets, 30);
    assert_eq!(stored(&mut *store, &lan(2)).unwrap(), State::Stored);
    assert_eq!(total(&mut *store).sent_packets, 60);
}

fn standard_errors_stay_with_the_sums<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch).sampled(10)).unwrap();
    }
    let packets = |store: &mut dyn Store, fields: &[Field]| {
        let answer = store.query(&by(fields)).unwrap();
        assert!(answer.error.unwrap().bytes.is_some());
        let variance = answer.error.unwrap().packets.powi(2).round() as u64;
        (variance, answer.accuracy.classes[1].packets)
    };
    // What an epoch has: 5 packets were taken, each with a variance of 90.
    assert_eq!(packets(&mut *store, &[Field::LocalIp]), (1350, 15));
    store.prune(time(NOON_NS + 3 * HOUR_NS)).unwrap();
    for field in [Field::LocalIp, Field::LocalPort, Field::RemoteIp] {
        assert_eq!(packets(&mut *store, &[field]), (1350, 15));
    }
    assert_eq!(
        packets(&mut *store, &[Field::LocalIp, Field::RemoteIp]),
        (450, 5)
    );
    let retention = Retention {
        hourly_before: Some(time(NOON_NS + 3 * HOUR_NS)),
        ..Retention::default()
    };
    store.rotate(&retention, None).unwrap();
    assert_eq!(
        packets(&mut *store, &[Field::Hour, Field::LocalIp]),
        (450, 5)
    );
    assert_eq!(packets(&mut *store, &[Field::LocalIp]), (1350, 15));
    let account = store.query(&by(&[Field::Account])).unwrap();
    assert_eq!(account.groups[0].error, account.error);
}

fn error_is_unknown_where_an_old_module_sampled<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1).sampled(10)).unwrap();
    stored(&mut *store, &lan(2).with_header_size(240)).unwrap();
    let mut exact = lan(3).with_header_size(240);
    exact.header.extrapolated_packets = 0;
    exact.header.seen_packets += 1;
    stored(&mut *store, &exact).unwrap();
    let answer = store.query(&by(&[Field::Hour])).unwrap();
    assert_eq!((answer.error, answer.accuracy.unknown_epochs), (None, 1));
    let mut known: Vec<(String, bool)> = answer
        .groups
        .iter()
        .map(|group| (group.key[0].to_string(), group.error.is_some()))
        .collect();
    known.sort();
    let hour = |hour, known| (format!("2026-01-31T{hour}:00:00Z"), known);
    assert_eq!(known, [hour(13, true), hour(14, false), hour(15, true)]);
}

fn unattributed_packets_are_told_of_the_accounts_asked_for<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let lacking = |name: &str, epoch, packets| {
        let mut snapshot = SnapshotBuilder::new(name, epoch, vec![record(1, 1, 6, 22, 10)]);
        snapshot.header.unattributed_packets = packets;
        snapshot.header.unattributed_bytes = packets * 100;
        snapshot
    };
    for snapshot in [
        lacking("lan", 1, 3),
        lacking("lan", 2, 0),
        lacking("lan", 3, 4),
        lacking("dmz", 1, 10),
    ] {
        stored(&mut *store, &snapshot).unwrap();
    }
    let told = |store: &mut dyn Store, accounts: &[&str]| {
        let mut query = by(&[Field::LocalIp]);
        query.filter.accounts = accounts.iter().map(|name| name.parse().unwrap()).collect();
        let accuracy = store.query(&query).unwrap().accuracy;
        let Volume { packets, bytes } = accuracy.unattributed;
        (packets, bytes, accuracy.unattributed_epochs)
    };
    assert_eq!(told(&mut *store, &[]), (17, 1700, 3));
    assert_eq!(told(&mut *store, &["lan"]), (7, 700, 2));
    assert_eq!(told(&mut *store, &["wan"]), (0, 0, 0));
}

fn set_clock_does_not_change_how_long_it_was<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let seconds = |store: &mut dyn Store| {
        let covered = store.query(&by(&[])).unwrap().covered.unwrap();
        covered.seconds()
    };
    // The clock shows 1970 until it is set, within the first epoch of each account.
    for name in ["lan", "dmz"] {
        for epoch in 1..=2 {
            let mut snapshot = SnapshotBuilder::new(name, epoch, vec![record(1, 1, 6, 22, 1)]);
            if epoch == 1 {
                snapshot.header.opened_ns = 0;
            }
            stored(&mut *store, &snapshot).unwrap();
        }
    }
    // Rounded as a double holds 56 years of nanoseconds.
    assert!((seconds(&mut *store) - 7200.0).abs() < 1e-3);
    // Of an older module, the clock is all that is known.
    let mut old = lan(3).with_header_size(240);
    old.header.account_id[15] = 1;
    old.header.closed_ns += HOUR_NS;
    stored(&mut *store, &old).unwrap();
    assert!((seconds(&mut *store) - 4.0 * 3600.0).abs() < 1e-3);
}

fn queries_answer_as_a_map_would<D: Database>() {
    let config = ProptestConfig {
        cases: D::CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(
        epochs in any_epochs(),
        queries in prop::collection::vec(any_query(), 24),
    )| {
        let database = D::create();
        let mut store = database.open();
        for (some, epoch) in epochs.iter().zip(1..) {
            let records = &some.records;
            let mut header = some.header(epoch);
            header.records = records.len() as u64;
            header.totals.recorded = recorded_volume(records);
            let Begun::New(mut transaction) = store.begin(&origin(), &header).unwrap() else {
                panic!("epoch {epoch} is stored already");
            };
            transaction.write(records).unwrap();
            transaction.commit().unwrap();
        }
        for query in queries {
            prop_assert_eq!(store.query(&query).unwrap(), expected(&epochs, &query), "{:?}", query);
        }
        prop_assert_eq!(store.check().unwrap(), NOTHING_WRONG);
    });
}

/// The same of epochs that no database keeps.
#[test]
fn accumulator_answers_as_a_map_would() {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(
        epochs in any_epochs(),
        queries in prop::collection::vec(any_query(), 24),
    )| {
        for query in queries {
            let mut sums = Accumulator::new(&query);
            for (some, epoch) in epochs.iter().zip(1..) {
                sums.begin(&origin(), &some.header(epoch));
                // In two batches.
                let (first, second) = some.records.split_at(some.records.len() / 2);
                sums.add(first);
                sums.add(second);
            }
            prop_assert_eq!(sums.answer(), expected(&epochs, &query), "{:?}", query);
        }
    });
}

/// An epoch of the model.
#[derive(Debug)]
struct Epoch {
    records: Vec<Record>,
    /// How many minutes after noon it closes.
    minutes: u64,
    /// Packets that sampling's multiplication added.
    extrapolated: u64,
    growth: Option<Growth>,
}

impl Epoch {
    fn closed(&self) -> Timestamp {
        time(NOON_NS + self.minutes * MINUTE_NS)
    }

    fn header(&self, epoch: u64) -> Header {
        let (mut header, _) = decoded(&lan(epoch));
        header.closed_ns = NOON_NS + self.minutes * MINUTE_NS;
        header.totals.extrapolated.packets = self.extrapolated;
        header.growth = self.growth;
        header
    }
}

fn recorded_volume(records: &[Record]) -> Volume {
    let sum = |of: fn(&Counters) -> u64| records.iter().map(|record| of(&record.counters)).sum();
    Volume {
        packets: sum(|counters| counters.sent_packets + counters.received_packets),
        bytes: sum(|counters| counters.sent_bytes + counters.received_bytes),
    }
}

/// The answer as a map of groups gives it.
fn expected(epochs: &[Epoch], query: &Query) -> Answer {
    let filter = &query.filter;
    let windowed: Vec<(&Epoch, Timestamp)> = epochs
        .iter()
        .zip(0..)
        .map(|(epoch, number)| (epoch, time(NOON_NS + number * HOUR_NS)))
        .filter(|(epoch, _)| {
            filter.since.is_none_or(|since| epoch.closed() >= since)
                && filter.until.is_none_or(|until| epoch.closed() < until)
        })
        .collect();
    let mut groups = BTreeMap::<Vec<Value>, Counters>::new();
    let mut total = Counters::default();
    for (record, closed) in windowed.iter().flat_map(|(epoch, _)| {
        let closed = epoch.closed();
        epoch.records.iter().map(move |record| (record, closed))
    }) {
        let counts = admits(&filter.protocols, &record.protocol)
            && within(&filter.local_ports, record.local.port)
            && within(&filter.remote_ports, record.remote.port)
            && inside(&filter.local, record.local.ip)
            && inside(&filter.remote, record.remote.ip)
            && admits(&filter.hosts, &origin().hostname);
        if counts {
            let key = query
                .by
                .iter()
                .map(|&field| value(record, closed, field, &query.zone))
                .collect();
            add(groups.entry(key).or_default(), &record.counters);
            add(&mut total, &record.counters);
        }
    }
    let group_count = groups.len() as u64;
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, counters)| Reverse(query.order.measure(counters)));
    groups.truncate(query.limit.unwrap_or(u64::MAX) as usize);
    let asked: Vec<&Epoch> = windowed
        .iter()
        .map(|(epoch, _)| *epoch)
        .filter(|_| admits(&filter.hosts, &origin().hostname))
        .collect();
    Answer {
        by: query.by.clone(),
        error: expected_error(&asked, query, &[], &total),
        accuracy: expected_accuracy(&asked),
        groups: groups
            .into_iter()
            .map(|(key, counters)| trafstat_store::query::Group {
                error: expected_error(&asked, query, &key, &counters),
                key,
                counters,
            })
            .collect(),
        group_count,
        total,
        epochs: windowed.len() as u64,
        covered: expected_covered(&windowed),
    }
}

fn expected_covered(windowed: &[(&Epoch, Timestamp)]) -> Option<Covered> {
    let opened = windowed.iter().map(|(_, opened)| *opened).min()?;
    let closed = windowed.iter().map(|(epoch, _)| epoch.closed()).max()?;
    let mut duration = closed.duration_since(opened);
    for (epoch, opened) in windowed {
        let real = epoch.growth.map_or(0, |growth| growth.duration_ns);
        if real > 0 {
            duration += SignedDuration::from_nanos(real as i64);
            duration -= epoch.closed().duration_since(*opened);
        }
    }
    Some(Covered {
        opened,
        closed,
        duration,
    })
}

/// Of the epochs that have the key's times, all that is sampled, or the packets by the highest
/// rate that they can have met.
fn expected_error(
    epochs: &[&Epoch],
    query: &Query,
    key: &[Value],
    counters: &Counters,
) -> Option<StandardError> {
    let has_key = |epoch: &&&Epoch| {
        query.by.iter().zip(key).all(|(&field, value)| {
            epoch_value(epoch.closed(), field, &query.zone).is_none_or(|found| found == *value)
        })
    };
    let epochs: Vec<&&Epoch> = epochs.iter().filter(has_key).collect();
    if epochs
        .iter()
        .any(|epoch| epoch.growth.is_none() && epoch.extrapolated > 0)
    {
        return None;
    }
    let samples: Vec<[Sample; 3]> = epochs
        .iter()
        .filter_map(|epoch| Some(epoch.growth?.samples))
        .collect();
    let filter = &query.filter;
    let all_records = filter.protocols.is_empty()
        && filter.local.is_empty()
        && filter.remote.is_empty()
        && filter.local_ports.is_empty()
        && filter.remote_ports.is_empty();
    let now = "2026-01-31T12:00:00Z".parse().unwrap();
    let of_epochs = key.is_empty()
        || query
            .by
            .iter()
            .all(|&field| epoch_value(now, field, &query.zone).is_some());
    if all_records && of_epochs {
        let sum = |of: fn(&Sample) -> u128| {
            let variance: u128 = samples.iter().flatten().map(of).sum();
            (variance as f64).sqrt()
        };
        return Some(StandardError {
            packets: sum(|sample| sample.packet_variance),
            bytes: Some(sum(|sample| sample.byte_variance)),
        });
    }
    let protocols: Vec<u8> = match key.iter().find_map(|value| match value {
        Value::Protocol(number) => Some(*number),
        _ => None,
    }) {
        Some(number) => vec![number],
        None => filter.protocols.clone(),
    };
    let highest = samples
        .iter()
        .flat_map(|[syn, tcp, udp]| [(6, syn), (6, tcp), (17, udp)])
        .filter(|(protocol, _)| admits(&protocols, protocol))
        .map(|(_, sample)| sample.highest_rate)
        .max()
        .unwrap_or(0);
    let packets = counters.sent_packets + counters.received_packets;
    Some(StandardError {
        packets: (packets as f64 * (f64::from(highest) - 1.0).max(0.0)).sqrt(),
        bytes: None,
    })
}

fn expected_accuracy(epochs: &[&Epoch]) -> Accuracy {
    let mut accuracy = Accuracy::default();
    for epoch in epochs {
        let Some(growth) = epoch.growth else {
            accuracy.unknown_epochs += u64::from(epoch.extrapolated > 0);
            continue;
        };
        accuracy.unattributed.packets += growth.unattributed.packets;
        accuracy.unattributed.bytes += growth.unattributed.bytes;
        accuracy.unattributed_epochs += u64::from(growth.unattributed.packets > 0);
        for (class, sample) in accuracy.classes.iter_mut().zip(growth.samples) {
            class.packets += sample.packets;
            class.packet_variance += sample.packet_variance as f64;
            class.byte_variance += sample.byte_variance as f64;
            class.highest_rate = class.highest_rate.max(sample.highest_rate);
        }
    }
    accuracy
}

fn add(sum: &mut Counters, counters: &Counters) {
    sum.sent_packets += counters.sent_packets;
    sum.received_packets += counters.received_packets;
    sum.sent_bytes += counters.sent_bytes;
    sum.received_bytes += counters.received_bytes;
    sum.syn_packets += counters.syn_packets;
}

fn admits<T: PartialEq>(list: &[T], value: &T) -> bool {
    list.is_empty() || list.contains(value)
}

fn within(ranges: &[RangeInclusive<u16>], port: u16) -> bool {
    ranges.is_empty() || ranges.iter().any(|range| range.contains(&port))
}

fn inside(nets: &[IpNet], ip: IpAddr) -> bool {
    nets.is_empty() || nets.iter().any(|net| net.contains(&ip))
}

/// What all records of an epoch have in a field; none in one that differs between them.
fn epoch_value(closed: Timestamp, field: Field, zone: &TimeZone) -> Option<Value> {
    let floor = |minutes| {
        let steps = TimestampRound::new()
            .smallest(Unit::Minute)
            .increment(minutes)
            .mode(RoundMode::Floor);
        closed.round(steps).unwrap()
    };
    Some(match field {
        Field::Account => Value::Name("lan".to_owned()),
        Field::Host => Value::Name(origin().hostname),
        Field::FiveMinutes => Value::Time(floor(5)),
        Field::Hour => Value::Time(floor(60)),
        Field::Day => Value::Date(zone.to_datetime(floor(60)).date()),
        _ => return None,
    })
}

fn value(record: &Record, closed: Timestamp, field: Field, zone: &TimeZone) -> Value {
    match field {
        Field::Protocol => Value::Protocol(record.protocol),
        Field::LocalIp => Value::Ip(record.local.ip),
        Field::RemoteIp => Value::Ip(record.remote.ip),
        Field::LocalPort => Value::Port(record.local.port),
        Field::RemotePort => Value::Port(record.remote.port),
        of_epoch => epoch_value(closed, of_epoch, zone).unwrap(),
    }
}

fn any_epochs() -> impl Strategy<Value = Vec<Epoch>> {
    let minutes = (0_u64..4 * 1440).prop_map(|minutes| minutes / 30 * 30);
    let records = prop::collection::vec(any_record(), 0..30);
    let growth = prop::option::weighted(0.9, any_growth());
    let epoch = (records, minutes, 0_u64..2, growth).prop_map(
        |(records, minutes, extrapolated, growth)| Epoch {
            records,
            minutes,
            extrapolated,
            growth,
        },
    );
    prop::collection::vec(epoch, 0..6)
}

/// Numbers whose sums a double holds.
fn any_growth() -> impl Strategy<Value = Growth> {
    let sample = (any::<[u16; 3]>(), 0_u32..40).prop_map(|(numbers, highest_rate)| Sample {
        packets: numbers[0].into(),
        packet_variance: numbers[1].into(),
        byte_variance: numbers[2].into(),
        highest_rate,
    });
    (any::<u32>(), 0_u64..3, prop::array::uniform3(sample)).prop_map(
        |(duration, packets, samples)| Growth {
            // Now and then it is not known.
            duration_ns: u64::from(duration / 3) * 2_000,
            unattributed: Volume {
                packets,
                bytes: packets * 40,
            },
            samples,
        },
    )
}

/// Few values each, so that groups meet and ties come up.
fn any_record() -> impl Strategy<Value = Record> {
    (
        prop::sample::select(vec![1_u8, 6, 17]),
        any_endpoint(),
        any_endpoint(),
        0_u8..2,
        any::<[u8; 5]>(),
    )
        .prop_map(|(protocol, local, remote, flags, counters)| {
            let [
                sent_packets,
                received_packets,
                sent_bytes,
                received_bytes,
                syn_packets,
            ] = counters.map(|counter| u64::from(counter % 8));
            Record {
                protocol,
                local,
                remote,
                flags,
                counters: Counters {
                    sent_packets,
                    received_packets,
                    sent_bytes,
                    received_bytes,
                    syn_packets,
                },
            }
        })
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let ips = [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.1.1",
        "192.0.2.1",
        "a00::1",
        "2001:db8::1",
    ];
    (
        prop::sample::select(ips.map(|ip| ip.parse().unwrap()).to_vec()),
        prop::sample::select(vec![0_u16, 22, 443, 65535]),
    )
        .prop_map(|(ip, port)| Endpoint { ip, port })
}

fn any_query() -> impl Strategy<Value = Query> {
    let fields = vec![
        Field::Protocol,
        Field::LocalIp,
        Field::RemoteIp,
        Field::LocalPort,
        Field::RemotePort,
        Field::Account,
        Field::Host,
        Field::FiveMinutes,
        Field::Hour,
        Field::Day,
    ];
    let zones = vec!["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"];
    let orders = vec![
        Order::Bytes,
        Order::Packets,
        Order::SentBytes,
        Order::ReceivedBytes,
        Order::SentPackets,
        Order::ReceivedPackets,
        Order::SynPackets,
        Order::Fields,
    ];
    (
        prop::sample::subsequence(fields, 0..=4).prop_shuffle(),
        any_filter(),
        prop::sample::select(orders),
        prop::option::of(1_u64..10),
        prop::sample::select(zones),
    )
        .prop_map(|(by, filter, order, limit, zone)| Query {
            by,
            filter,
            order,
            limit,
            zone: TimeZone::get(zone).unwrap(),
        })
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let nets = [
        "0.0.0.0/0",
        "10.0.0.0/24",
        "10.0.0.1/32",
        "10.0.0.0/23",
        "::/0",
        "2001:db8::/32",
    ];
    let nets: Vec<IpNet> = nets.map(|net| net.parse().unwrap()).to_vec();
    // Now and then within an hour, more often at its full, at midnight or at the month's.
    let hours = prop::option::of(
        prop_oneof![
            (0..8_u64).prop_map(|half| half * 30),
            (0..100_u64).prop_map(|hour| hour * 60),
            prop::sample::select(vec![720, 720 + 1440, 720 + 2880]),
        ]
        .prop_map(|minutes| time(NOON_NS + minutes * MINUTE_NS)),
    );
    (
        prop::sample::subsequence(vec![1_u8, 6, 17, 99], 0..2),
        prop::sample::subsequence(nets.clone(), 0..3),
        prop::sample::subsequence(nets, 0..3),
        prop::sample::subsequence(vec![0..=0_u16, 22..=22, 20..=443], 0..3),
        prop::sample::subsequence(vec![0..=0_u16, 22..=22, 20..=443], 0..3),
        prop::sample::subsequence(vec!["gateway".to_owned(), "other".to_owned()], 0..2),
        hours.clone(),
        hours,
    )
        .prop_map(
            |(protocols, local, remote, local_ports, remote_ports, hosts, since, until)| Filter {
                protocols,
                local,
                remote,
                local_ports,
                remote_ports,
                accounts: Vec::new(),
                hosts,
                since,
                until,
            },
        )
}

const MINUTE_NS: u64 = 60_000_000_000;

const NOTHING_WRONG: [&str; 0] = [];

/// Everything that the records have.
fn answers(store: &mut dyn Store) -> Answer {
    store
        .query(&by(&[
            Field::Protocol,
            Field::LocalIp,
            Field::LocalPort,
            Field::RemoteIp,
            Field::RemotePort,
        ]))
        .unwrap()
}

fn origin() -> Origin {
    Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    }
}

/// 30 packets sent, 60 received.
fn lan(epoch: u64) -> SnapshotBuilder {
    SnapshotBuilder::new(
        "lan",
        epoch,
        vec![record(1, 1, 6, 22, 10), record(2, 1, 17, 53, 20)],
    )
}

fn stored(store: &mut dyn Store, snapshot: &SnapshotBuilder) -> Result<State, CollectError> {
    let bytes = snapshot.bytes();
    append(store, &origin(), &mut Snapshot::open(&bytes[..])?)
}

fn decoded(snapshot: &SnapshotBuilder) -> (Header, Vec<Record>) {
    let bytes = snapshot.bytes();
    let mut snapshot = Snapshot::open(&bytes[..]).unwrap();
    let records = snapshot.next_batch().unwrap().unwrap().to_vec();
    (snapshot.header().clone(), records)
}

fn by(fields: &[Field]) -> Query {
    Query {
        by: fields.to_vec(),
        filter: Filter::default(),
        order: Order::Bytes,
        limit: None,
        zone: TimeZone::UTC,
    }
}

fn total(store: &mut dyn Store) -> Counters {
    store.query(&by(&[Field::Protocol])).unwrap().total
}

fn time(nanoseconds: u64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap()
}
