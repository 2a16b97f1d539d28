// SPDX-License-Identifier: GPL-2.0-or-later
//! Several writers of one database: nothing is lost and nothing counts twice.

mod common;
#[path = "common/mariadb.rs"]
mod mariadb_server;

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use common::{HOUR_NS, NOON_NS, SnapshotBuilder, record};
use jiff::Timestamp;
use mysql::prelude::Queryable;
use trafstat_store::backend::{Mysql, Sqlite};
use trafstat_store::collect::append;
use trafstat_store::origin::Origin;
use trafstat_store::query::{Field, Query};
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::{Retention, Store, StoreError};

/// What one epoch of [`snapshot`] sends.
const SENT_PACKETS: u64 = 7;

/// The first epochs that close in February and in March, when the month's parts before are due.
const FEBRUARY: u64 = 12;
const MARCH: u64 = FEBRUARY + 28 * 24;

/// How long the other writers may take to wait for the one that is held up.
const PATIENCE: Duration = Duration::from_secs(20);

/// One flow of an account in one epoch; the remote address is the account's own.
fn snapshot(account: &str, epoch: u64) -> SnapshotBuilder {
    let remote = account.as_bytes()[0];
    SnapshotBuilder::new(account, epoch, vec![record(1, remote, 6, 22, SENT_PACKETS)])
}

fn store_epoch(store: &mut dyn Store, account: &str, epoch: u64) {
    let origin = Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    };
    let bytes = snapshot(account, epoch).bytes();
    append(store, &origin, &mut Snapshot::open(&bytes[..]).unwrap()).unwrap();
}

/// The time before which the epochs up to `epoch` closed.
fn after(epoch: u64) -> Timestamp {
    Timestamp::from_nanosecond((NOON_NS + epoch * HOUR_NS + 1).into()).unwrap()
}

fn delete_records(store: &mut dyn Store, up_to: u64) {
    let retention = Retention {
        records_before: Some(after(up_to)),
        even_most: true,
        ..Retention::default()
    };
    store.rotate(&retention, None).unwrap();
}

/// Every figure of every level agrees with this many epochs.
fn assert_epochs(store: &mut dyn Store, epochs: u64) {
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    for field in [Field::LocalIp, Field::LocalPort, Field::RemoteIp] {
        let query = Query {
            by: vec![field],
            ..Query::default()
        };
        let total = store.query(&query).unwrap().total;
        assert_eq!(total.sent_packets, epochs * SENT_PACKETS, "{field:?}");
    }
}

struct Server {
    socket: PathBuf,
    name: String,
    root: mysql::Conn,
}

impl Server {
    fn create() -> Self {
        let socket = mariadb_server::socket().to_path_buf();
        let name = mariadb_server::create_database(&socket);
        let root = mariadb_server::connect(&socket, Some(&name));
        Self { socket, name, root }
    }

    fn open(&self) -> Mysql {
        let mut store = Mysql::open(&mariadb_server::login(&self.socket, &self.name)).unwrap();
        store.migrate().unwrap();
        store
    }

    /// Locks the sums of an account's remote address, so that a merge into them is held up.
    fn hold_sums(&mut self, account: &str) {
        let remote = account.as_bytes()[0];
        // Else all rows that it looks at stay locked.
        for statement in [
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "START TRANSACTION",
        ] {
            self.root.query_drop(statement).unwrap();
        }
        let rows: Vec<u64> = self
            .root
            .query(format!(
                "SELECT sent_packets FROM remote_monthly
                 WHERE remote_ip = UNHEX('C63364{remote:02X}') FOR UPDATE"
            ))
            .unwrap();
        assert!(!rows.is_empty());
    }

    /// Waits until this many writers wait for a lock, or until `done`.
    fn wait_for_waiting(&self, writers: u64, done: impl Fn() -> bool) {
        let mut watcher = mariadb_server::connect(&self.socket, Some(&self.name));
        let begin = Instant::now();
        let sql = format!(
            "SELECT COUNT(*) FROM information_schema.innodb_trx AS t
             JOIN information_schema.processlist AS p ON p.id = t.trx_mysql_thread_id
             WHERE t.trx_state = 'LOCK WAIT' AND p.db = '{}'",
            self.name
        );
        loop {
            let waiting: Option<u64> = watcher.query_first(&sql).unwrap();
            if done() || waiting >= Some(writers) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{waiting:?} writers wait");
            thread::sleep(Duration::from_millis(150));
        }
    }

    /// Holds `first` up in the midst of its merge, until `second` is done or waits too.
    fn interleave(
        &mut self,
        held: &str,
        first: impl FnOnce(&mut Mysql) + Send,
        second: impl FnOnce(&mut Mysql) + Send,
    ) {
        let (mut one, mut other) = (self.open(), self.open());
        self.hold_sums(held);
        thread::scope(|scope| {
            let first = scope.spawn(move || first(&mut one));
            self.wait_for_waiting(1, || first.is_finished());
            assert!(!first.is_finished(), "nothing held the first writer up");
            let second = scope.spawn(move || second(&mut other));
            self.wait_for_waiting(2, || second.is_finished());
            self.root.query_drop("ROLLBACK").unwrap();
            first.join().unwrap();
            second.join().unwrap();
        });
    }
}

#[test]
fn epoch_stored_while_parts_are_merged_keeps_its_remote_sums() {
    let mut server = Server::create();
    let mut store = server.open();
    for epoch in 1..=2 {
        store_epoch(&mut store, "lan", epoch);
    }
    // So that the table has a row to hold.
    delete_records(&mut store, 1);
    store_epoch(&mut store, "lan", 3);
    store_epoch(&mut store, "lan", 4);
    server.interleave(
        "lan",
        |store| delete_records(store, 3),
        |store| store_epoch(store, "lan", 5),
    );
    assert_epochs(&mut store, 5);
}

#[test]
fn parts_that_two_writers_merge_count_once() {
    let mut server = Server::create();
    let mut store = server.open();
    for epoch in FEBRUARY..FEBRUARY + 2 {
        for account in ["lan", "dmz"] {
            store_epoch(&mut store, account, epoch);
        }
    }
    // So that the table has rows to hold.
    delete_records(&mut store, FEBRUARY);
    // As many as make the server look for an account's parts by their key.
    for account in ["lan", "dmz", "wan"] {
        for epoch in FEBRUARY + 2..FEBRUARY + 40 {
            store_epoch(&mut store, account, epoch);
        }
    }
    // The first is held up at dmz, after it has merged what lan has.
    server.interleave(
        "dmz",
        |store| delete_records(store, FEBRUARY + 2),
        |store| store_epoch(store, "lan", MARCH),
    );
    assert_epochs(&mut store, 2 * 2 + 3 * 38 + 1);
}

/// Two threads at one database for as long as one of them has something to store.
fn beside_each_other(open: impl Fn() -> Box<dyn Store> + Sync) {
    const EPOCHS: u64 = 40;
    open();
    thread::scope(|scope| {
        for account in ["lan", "dmz"] {
            let open = &open;
            scope.spawn(move || {
                let mut store = open();
                // Every other one in the next month, so that parts are due all the time.
                for epoch in 1..=EPOCHS {
                    store_epoch(&mut *store, account, epoch + MARCH * (epoch % 2));
                }
            });
        }
        scope.spawn(|| {
            let mut store = open();
            for epoch in 1..=EPOCHS {
                let retention = Retention {
                    records_before: Some(after(epoch)),
                    even_most: true,
                    ..Retention::default()
                };
                match store.rotate(&retention, None) {
                    Ok(_) => {}
                    Err(StoreError::CutOffBeyondNewest { .. }) => {
                        thread::sleep(Duration::from_millis(20));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
    });
    assert_epochs(&mut *open(), 2 * EPOCHS);
}

#[test]
fn prune_beside_collectors_changes_no_sum_in_mariadb() {
    let server = Server::create();
    beside_each_other(|| Box::new(server.open()));
}

#[test]
fn prune_beside_collectors_changes_no_sum_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    beside_each_other(|| {
        let mut store = Sqlite::open(&folder.path().join("trafstat.db")).unwrap();
        store.migrate().unwrap();
        Box::new(store)
    });
}
