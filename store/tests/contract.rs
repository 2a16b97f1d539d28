//! What every store must do, over every backend.
//!
//! A backend enters with a [`Database`] and a `contract!` of its own.

mod common;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{HOUR_NS, NOON_NS, SnapshotBuilder, record};
use ipnet::IpNet;
use jiff::Timestamp;
use proptest::prelude::*;
use tempfile::TempDir;
use trafstat_store::backend::{Begun, Sqlite, Store, StoreError};
use trafstat_store::collect::{CollectError, State, append};
use trafstat_store::origin::Origin;
use trafstat_store::query::{Answer, Field, Filter, Order, Query, Value};
use trafstat_store::snapshot::{Counters, Endpoint, Header, Record, Snapshot, SnapshotError};

/// A place for one store, empty at first.
trait Database {
    fn create() -> Self;
    /// What another process needs to open it.
    fn location(&self) -> String;
    fn at(location: &str) -> Box<dyn Store>;
    /// Opens what `back_up` wrote.
    fn open_backup(path: &Path) -> Box<dyn Store>;

    fn open(&self) -> Box<dyn Store> {
        Self::at(&self.location())
    }
}

struct SqliteDatabase(TempDir);

impl Database for SqliteDatabase {
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

    fn open_backup(path: &Path) -> Box<dyn Store> {
        Box::new(Sqlite::open_read_only(path).unwrap())
    }
}

macro_rules! contract {
    ($backend:ident, $database:ty, [$($behaviour:ident),* $(,)?]) => {
        mod $backend {
            $(#[test]
            fn $behaviour() {
                super::$behaviour::<$database>();
            })*

            #[test]
            fn process_killed_within_a_transaction_leaves_nothing() {
                super::process_killed_within_a_transaction_leaves_nothing::<$database>(concat!(
                    stringify!($backend),
                    "::process_killed_within_a_transaction_leaves_nothing"
                ));
            }
        }
    };
}

contract!(
    sqlite,
    super::SqliteDatabase,
    [
        empty_store_has_nothing_to_show,
        stored_snapshot_is_not_stored_again,
        same_identity_with_other_totals_is_refused,
        snapshot_that_does_not_add_up_leaves_nothing,
        transaction_dropped_leaves_nothing,
        accounts_do_not_mix,
        renewed_account_of_one_name_counts_anew,
        epochs_of_one_account_add_up,
        records_of_one_flow_are_both_kept,
        counter_past_63_bits_is_refused,
        epoch_belongs_to_the_time_in_which_it_closed,
        store_opened_again_has_everything,
        migrating_twice_changes_nothing,
        stores_created_at_once_are_one,
        pruned_records_are_gone_and_newer_ones_stay,
        pruned_epoch_served_again_is_not_counted,
        backup_holds_everything_and_replaces_nothing,
        queries_answer_as_a_map_would,
    ]
);

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

fn pruned_records_are_gone_and_newer_ones_stay<D: Database>() {
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
    let answer = store.query(&by(&[Field::RemoteIp])).unwrap();
    assert_eq!((answer.epochs, answer.total.sent_packets), (1, 30));
    assert_eq!(stored(&mut *store, &lan(4)).unwrap(), State::Stored);
    assert_eq!(total(&mut *store).sent_packets, 60);
}

fn pruned_epoch_served_again_is_not_counted<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    stored(&mut *store, &lan(2)).unwrap();
    let pruned = store.prune(time(NOON_NS + 100 * HOUR_NS)).unwrap();
    assert_eq!((pruned.epochs, pruned.records), (2, 4));
    assert_eq!(store.query(&by(&[Field::Protocol])).unwrap().epochs, 0);
    assert_eq!(stored(&mut *store, &lan(2)).unwrap(), State::AlreadyStored);
    assert_eq!(total(&mut *store), Counters::default());
}

fn backup_holds_everything_and_replaces_nothing<D: Database>() {
    let database = D::create();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    store.back_up(&path).unwrap();
    stored(&mut *store, &lan(2)).unwrap();

    let mut backup = D::open_backup(&path);
    assert_eq!(total(&mut *backup).sent_packets, 30);
    drop(backup);
    let error = store.back_up(&path).unwrap_err();
    assert!(matches!(error, StoreError::Exists(_)), "{error}");
    assert_eq!(total(&mut *D::open_backup(&path)).sent_packets, 30);
    let error = store
        .back_up(&folder.path().join("missing/backup"))
        .unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    let files: Vec<PathBuf> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files, [path]);
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
        .args([test, "--exact", "--nocapture"])
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

fn queries_answer_as_a_map_would<D: Database>() {
    let config = ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(
        epochs in prop::collection::vec(prop::collection::vec(any_record(), 0..30), 0..4),
        queries in prop::collection::vec(any_query(), 8),
    )| {
        let database = D::create();
        let mut store = database.open();
        for (records, epoch) in epochs.iter().zip(1..) {
            let (mut header, _) = decoded(&lan(epoch));
            header.records = records.len() as u64;
            let Begun::New(mut transaction) = store.begin(&origin(), &header).unwrap() else {
                panic!("epoch {epoch} is stored already");
            };
            transaction.write(records).unwrap();
            transaction.commit().unwrap();
        }
        for query in queries {
            prop_assert_eq!(store.query(&query).unwrap(), expected(&epochs, &query));
        }
    });
}

/// The answer as a map of groups gives it.
fn expected(epochs: &[Vec<Record>], query: &Query) -> Answer {
    let filter = &query.filter;
    let within = |epoch: u64| {
        let closed = time(NOON_NS + epoch * HOUR_NS);
        filter.since.is_none_or(|since| closed >= since)
            && filter.until.is_none_or(|until| closed < until)
    };
    let windowed: Vec<&Vec<Record>> = epochs
        .iter()
        .zip(1..)
        .filter(|&(_, epoch)| within(epoch))
        .map(|(records, _)| records)
        .collect();
    let mut groups = BTreeMap::<Vec<Value>, Counters>::new();
    let mut total = Counters::default();
    for record in windowed.iter().copied().flatten() {
        let counts = admits(&filter.protocols, &record.protocol)
            && admits(&filter.local_ports, &record.local.port)
            && admits(&filter.remote_ports, &record.remote.port)
            && inside(&filter.local, record.local.ip)
            && inside(&filter.remote, record.remote.ip);
        if counts {
            let key = query.by.iter().map(|&field| value(record, field)).collect();
            add(groups.entry(key).or_default(), &record.counters);
            add(&mut total, &record.counters);
        }
    }
    let group_count = groups.len() as u64;
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, counters)| Reverse(measure(counters, query.order)));
    groups.truncate(query.limit.unwrap_or(u64::MAX) as usize);
    Answer {
        by: query.by.clone(),
        groups: groups
            .into_iter()
            .map(|(key, counters)| trafstat_store::query::Group { key, counters })
            .collect(),
        group_count,
        total,
        epochs: windowed.len() as u64,
    }
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

fn inside(nets: &[IpNet], ip: IpAddr) -> bool {
    nets.is_empty() || nets.iter().any(|net| net.contains(&ip))
}

fn value(record: &Record, field: Field) -> Value {
    match field {
        Field::Protocol => Value::Protocol(record.protocol),
        Field::LocalIp => Value::Ip(record.local.ip),
        Field::RemoteIp => Value::Ip(record.remote.ip),
        Field::LocalPort => Value::Port(record.local.port),
        Field::RemotePort => Value::Port(record.remote.port),
    }
}

fn measure(counters: &Counters, order: Order) -> u64 {
    match order {
        Order::Bytes => counters.sent_bytes + counters.received_bytes,
        Order::Packets => counters.sent_packets + counters.received_packets,
        Order::SentBytes => counters.sent_bytes,
        Order::ReceivedBytes => counters.received_bytes,
        Order::SentPackets => counters.sent_packets,
        Order::ReceivedPackets => counters.received_packets,
        Order::SynPackets => counters.syn_packets,
    }
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
    ];
    let orders = vec![
        Order::Bytes,
        Order::Packets,
        Order::SentBytes,
        Order::ReceivedBytes,
        Order::SentPackets,
        Order::ReceivedPackets,
        Order::SynPackets,
    ];
    (
        prop::sample::subsequence(fields, 0..=5).prop_shuffle(),
        any_filter(),
        prop::sample::select(orders),
        prop::option::of(1_u64..10),
    )
        .prop_map(|(by, filter, order, limit)| Query {
            by,
            filter,
            order,
            limit,
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
    let hours = prop::option::of((0..5_u64).prop_map(|hour| time(NOON_NS + hour * HOUR_NS)));
    (
        prop::sample::subsequence(vec![1_u8, 6, 17, 99], 0..2),
        prop::sample::subsequence(nets.clone(), 0..3),
        prop::sample::subsequence(nets, 0..3),
        prop::sample::subsequence(vec![0_u16, 22, 443], 0..3),
        prop::sample::subsequence(vec![0_u16, 22, 443], 0..3),
        hours.clone(),
        hours,
    )
        .prop_map(
            |(protocols, local, remote, local_ports, remote_ports, since, until)| Filter {
                protocols,
                local,
                remote,
                local_ports,
                remote_ports,
                accounts: Vec::new(),
                since,
                until,
            },
        )
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
    }
}

fn total(store: &mut dyn Store) -> Counters {
    store.query(&by(&[Field::Protocol])).unwrap().total
}

fn time(nanoseconds: u64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap()
}
