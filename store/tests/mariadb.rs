// SPDX-License-Identifier: GPL-2.0-or-later
//! What can go wrong with a MariaDB server, on a real one.

mod common;
#[path = "common/mariadb.rs"]
mod mariadb_server;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{SnapshotBuilder, record};
use mariadb_server::NetworkServer;
use mysql::prelude::Queryable;
use trafstat_store::backend::{Mysql, MysqlHost, MysqlLogin, Password};
use trafstat_store::collect::{CollectError, State, append};
use trafstat_store::origin::Origin;
use trafstat_store::query::Query;
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::{Archive, ArchiveForm, Begun, Retention, Store, StoreError};

struct Database {
    name: String,
    root: mysql::Conn,
}

impl Database {
    fn create() -> Self {
        let socket = mariadb_server::socket();
        let name = mariadb_server::create_database(socket);
        let root = mariadb_server::connect(socket, Some(&name));
        Self { name, root }
    }

    fn login(&self) -> MysqlLogin {
        mariadb_server::login(mariadb_server::socket(), &self.name)
    }

    fn open(&self) -> Mysql {
        let mut store = Mysql::open(&self.login()).unwrap();
        store.migrate().unwrap();
        store
    }

    fn run(&mut self, sql: &str) {
        self.root.query_drop(sql).unwrap();
    }

    /// Ends every connection to this database but the one that asks.
    fn kill_connections(&mut self) {
        let ids: Vec<u64> = self
            .root
            .query(format!(
                "SELECT id FROM information_schema.processlist
                 WHERE db = '{}' AND id <> CONNECTION_ID()",
                self.name
            ))
            .unwrap();
        assert!(!ids.is_empty());
        for id in ids {
            self.run(&format!("KILL HARD CONNECTION {id}"));
        }
    }
}

fn lan(epoch: u64) -> SnapshotBuilder {
    SnapshotBuilder::new("lan", epoch, vec![record(1, 1, 6, 22, 10)])
}

fn stored(store: &mut dyn Store, epoch: u64) -> Result<State, CollectError> {
    let bytes = lan(epoch).bytes();
    append(store, &origin(), &mut Snapshot::open(&bytes[..]).unwrap())
}

fn origin() -> Origin {
    Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    }
}

fn store_error(error: CollectError) -> StoreError {
    match error {
        CollectError::Store(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn connection_lost_between_epochs_is_made_again() {
    let mut database = Database::create();
    let mut store = database.open();
    stored(&mut store, 1).unwrap();
    database.kill_connections();
    assert_eq!(stored(&mut store, 2).unwrap(), State::Stored);
}

#[test]
fn connection_lost_within_an_epoch_leaves_nothing_and_passes() {
    let mut database = Database::create();
    let mut store = database.open();
    let bytes = lan(1).bytes();
    let mut snapshot = Snapshot::open(&bytes[..]).unwrap();
    let header = snapshot.header().clone();
    let Begun::New(mut transaction) = store.begin(&origin(), &header).unwrap() else {
        panic!("an empty store has no snapshot");
    };
    transaction
        .write(snapshot.next_batch().unwrap().unwrap())
        .unwrap();
    database.kill_connections();
    let error = transaction.commit().unwrap_err();
    assert!(matches!(error, StoreError::ConnectionLost(_)), "{error}");
    assert!(error.is_transient());
    assert_eq!(stored(&mut store, 1).unwrap(), State::Stored);
    assert_eq!(stored(&mut store, 1).unwrap(), State::AlreadyStored);
    assert!(store.check().unwrap().is_empty());
}

#[test]
fn row_locked_by_another_is_a_lock_that_passes() {
    let mut database = Database::create();
    let mut store = database.open();
    stored(&mut store, 1).unwrap();
    database.run("START TRANSACTION");
    database.run("SELECT * FROM host FOR UPDATE");
    let mut impatient = database.open();
    impatient
        .set_lock_wait(std::time::Duration::from_secs(1))
        .unwrap();
    let error = store_error(stored(&mut impatient, 2).unwrap_err());
    assert!(matches!(error, StoreError::Locked), "{error}");
    assert!(error.is_transient());
    database.run("ROLLBACK");
    assert_eq!(stored(&mut impatient, 2).unwrap(), State::Stored);
}

#[test]
fn server_that_commits_nothing_by_itself_keeps_what_is_stored() {
    let server =
        mariadb_server::NetworkServer::start("manual", |_| vec!["--autocommit=0".to_owned()]);
    let name = mariadb_server::create_database(&server.socket());
    let open = || {
        let mut store = Mysql::open(&mariadb_server::login(&server.socket(), &name)).unwrap();
        store.migrate().unwrap();
        store
    };
    drop(open());
    stored(&mut open(), 1).unwrap();
    assert_eq!(stored(&mut open(), 1).unwrap(), State::AlreadyStored);
    assert!(open().check().unwrap().is_empty());
}

#[test]
fn hosts_do_not_wait_for_each_other() {
    let database = Database::create();
    let mut one = database.open();
    let mut other = database.open();
    stored(&mut one, 1).unwrap();
    let mut elsewhere = origin();
    elsewhere.machine_id = "f".repeat(32);
    let bytes = lan(2).bytes();
    let header = Snapshot::open(&bytes[..]).unwrap().header().clone();
    let Begun::New(mut transaction) = one.begin(&origin(), &header).unwrap() else {
        panic!("epoch 2 is new");
    };
    let mut snapshot = Snapshot::open(&bytes[..]).unwrap();
    transaction
        .write(snapshot.next_batch().unwrap().unwrap())
        .unwrap();
    // While the first host's transaction is open, with all its locks.
    other
        .set_lock_wait(std::time::Duration::from_secs(1))
        .unwrap();
    for epoch in 1..=3 {
        let bytes = lan(epoch).bytes();
        append(
            &mut other,
            &elsewhere,
            &mut Snapshot::open(&bytes[..]).unwrap(),
        )
        .unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn user_without_the_right_password_is_denied_and_told_so() {
    let mut database = Database::create();
    let user = format!("u_{}", database.name);
    database.run(&format!("CREATE USER {user} IDENTIFIED BY 'swordfish'"));
    let mut login = database.login();
    login.user = user.clone();
    login.password = Some(Password::from("tuna".to_owned()));
    let error = Mysql::open(&login).unwrap_err();
    assert!(matches!(error, StoreError::LoginDenied(_)), "{error}");
    assert!(!error.is_transient());
    assert!(!error.to_string().contains("tuna"), "{error}");

    // All that is needed: rights on the database. FILE is a right on the server.
    let name = database.name.clone();
    database.run(&format!("GRANT ALL ON {name}.* TO {user}"));
    login.password = Some(Password::from("swordfish".to_owned()));
    let mut store = Mysql::open(&login).unwrap();
    store.migrate().unwrap();
    assert_eq!(stored(&mut store, 1).unwrap(), State::Stored);
}

#[test]
fn database_of_another_program_and_of_another_release_are_refused() {
    let mut database = Database::create();
    database.run("CREATE TABLE milk (litres INT)");
    let error = Mysql::open(&database.login()).unwrap_err();
    assert!(matches!(error, StoreError::Foreign(_)), "{error}");

    let mut database = Database::create();
    let error = Mysql::open_read_only(&database.login()).unwrap_err();
    assert!(
        matches!(error, StoreError::TooOld { found: 0, .. }),
        "{error}"
    );
    drop(database.open());
    Mysql::open_read_only(&database.login()).unwrap();
    database.run("INSERT INTO trafstat_schema VALUES (1000)");
    for opened in [
        Mysql::open(&database.login()),
        Mysql::open_read_only(&database.login()),
    ] {
        let error = opened.unwrap_err();
        assert!(
            matches!(error, StoreError::TooNew { found: 1000, .. }),
            "{error}"
        );
    }
}

#[test]
fn next_version_is_read_and_not_appended_to() {
    let mut database = Database::create();
    let mut store = database.open();
    stored(&mut store, 1).unwrap();
    // While the collector is connected, another host's program migrates.
    database.run("INSERT INTO trafstat_schema SELECT MAX(version) + 1 FROM trafstat_schema");
    let error = store_error(stored(&mut store, 2).unwrap_err());
    assert!(matches!(error, StoreError::TooNew { .. }), "{error}");
    let error = Mysql::open_to_append(&database.login()).unwrap_err();
    assert!(matches!(error, StoreError::TooNew { .. }), "{error}");

    let mut reader = Mysql::open_read_only(&database.login()).unwrap();
    let answer = reader.query(&Query::default()).unwrap();
    assert_eq!(answer.total.sent_packets, 10);
    // A copy would lack what the next version adds.
    let folder = tempfile::tempdir().unwrap();
    let error = reader.back_up(&folder.path().join("copy.db")).unwrap_err();
    assert!(matches!(error, StoreError::TooNew { .. }), "{error}");
}

#[test]
fn hostile_database_name_is_only_a_name() {
    let socket = mariadb_server::socket();
    let name = format!("t{}`'\"; DROP TABLE record; -- \\%ÿ日", std::process::id());
    let quoted = format!("`{}`", name.replace('`', "``"));
    let mut root = mariadb_server::connect(socket, None);
    root.query_drop(format!("CREATE DATABASE {quoted}"))
        .unwrap();
    let folder = tempfile::tempdir().unwrap();

    let mut store = Mysql::open(&mariadb_server::login(socket, &name)).unwrap();
    store.migrate().unwrap();
    for epoch in 1..=2 {
        assert_eq!(stored(&mut store, epoch).unwrap(), State::Stored);
    }
    let archive = Archive {
        folder: folder.path(),
        form: ArchiveForm::default(),
    };
    let retention = Retention {
        records_before: store.retention_time().unwrap(),
        ..Retention::default()
    };
    let rotated = store.rotate(&retention, Some(archive)).unwrap();
    assert_eq!(rotated.records, 1);
    assert_eq!(store.restore(&rotated.archives[0]).unwrap().epochs, 1);
    assert!(store.check().unwrap().is_empty());
    root.query_drop(format!("USE {quoted}")).unwrap();
    let rows: Option<u64> = root
        .query_first("SELECT COUNT(*) FROM trafstat_lan")
        .unwrap();
    assert_eq!(rows, Some(2));
}

/// A server on the network that takes packets of a mebibyte.
fn network_server() -> &'static NetworkServer {
    static SERVER: OnceLock<NetworkServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        NetworkServer::start("limits", |_| {
            vec![
                "--max-allowed-packet=1M".to_owned(),
                "--skip-ssl".to_owned(),
            ]
        })
    })
}

/// How root logs in to a new database of it, through this port.
fn login_by_network(port: u16) -> MysqlLogin {
    let socket = network_server().socket();
    let mut login = mariadb_server::login(&socket, &mariadb_server::create_database(&socket));
    login.hosts = vec![MysqlHost::Tcp {
        host: "127.0.0.1".to_owned(),
        port,
    }];
    mariadb_server::connect(&socket, None)
        .query_drop("GRANT ALL ON *.* TO root@'127.0.0.1'")
        .unwrap();
    login
}

/// The least that the store does with.
const LEAST_PACKET: usize = 32 << 10;

/// An epoch of 70,000 remote addresses, whose sums take more than a mebibyte.
fn many_remotes() -> SnapshotBuilder {
    let records = (0..70_000_u32)
        .map(|number| {
            let mut record = record(1, 1, 6, 443, u64::from(number) << 30);
            record.remote_ip = (0x0a00_0000 + number).to_be_bytes();
            record.sent_bytes = u64::from(number) << 26;
            record.received_bytes = u64::from(number) << 26;
            record
        })
        .collect();
    SnapshotBuilder::new("lan", 1, records)
}

#[test]
fn epoch_larger_than_a_packet_is_stored_in_several() {
    let server = network_server();
    let bytes = many_remotes().bytes();
    for (load_data, packet) in [(true, 1 << 20), (false, 1 << 20), (true, LEAST_PACKET)] {
        let login = login_by_network(server.port);
        let mut root = mariadb_server::connect(&server.socket(), Some(&login.database));
        // Of connections from now on; other tests here do with it, too.
        root.query_drop(format!("SET GLOBAL max_allowed_packet = {packet}"))
            .unwrap();
        let mut store = Mysql::open_to_append(&login).unwrap();
        if !load_data {
            store = store.without_load_data();
        }
        store.migrate().unwrap();
        let mut snapshot = Snapshot::open(&bytes[..]).unwrap();
        let state = append(&mut store, &origin(), &mut snapshot).unwrap();
        assert_eq!(state, State::Stored);
        let (parts, bytes, largest): (u64, u64, usize) = root
            .query_first(
                "SELECT COUNT(*), CAST(SUM(LENGTH(sums)) AS UNSIGNED), MAX(LENGTH(sums))
                 FROM remote_part",
            )
            .unwrap()
            .unwrap();
        assert!(bytes > 1 << 20, "{bytes} bytes prove nothing");
        assert!(parts > 1 && largest < packet, "{parts} of {largest} bytes");
        assert!(store.check().unwrap().is_empty());
    }
}

#[test]
fn statement_that_no_packet_holds_names_the_limit() {
    let login = login_by_network(network_server().port);
    let mut store = Mysql::open_to_append(&login).unwrap();
    store.migrate().unwrap();
    let mut long = origin();
    long.netns = "n".repeat(2 << 20);
    let bytes = lan(1).bytes();
    let error = append(&mut store, &long, &mut Snapshot::open(&bytes[..]).unwrap()).unwrap_err();
    let error = store_error(error);
    assert!(matches!(error, StoreError::PacketTooLarge(_)), "{error}");
    assert!(error.to_string().contains("max_allowed_packet"), "{error}");
    assert_eq!(stored(&mut store, 1).unwrap(), State::Stored);
}

/// Stands before the server, and hands nothing on any more from the one statement on that has
/// this in it; connections stay open.
fn falls_silent_at(text: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        static IS_SILENT: AtomicBool = AtomicBool::new(false);
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(("127.0.0.1", network_server().port)).unwrap();
            let hand_on = move |mut from: TcpStream, mut to: TcpStream| {
                let mut bytes = [0; 65536];
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    if bytes[..count].windows(text.len()).any(|part| part == text) {
                        IS_SILENT.store(true, Ordering::SeqCst);
                    }
                    if IS_SILENT.load(Ordering::SeqCst) {
                        loop {
                            thread::park();
                        }
                    }
                    to.write_all(&bytes[..count]).unwrap();
                }
            };
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || hand_on(from, to));
            thread::spawn(move || hand_on(server, client));
        }
    });
    port
}

#[test]
fn server_that_falls_silent_within_a_statement_is_gone_in_seconds() {
    let mut login = login_by_network(falls_silent_at(b"INSERT INTO snapshot"));
    login.answer_timeout = Duration::from_secs(3);
    login.connect_timeout = Duration::from_secs(3);
    let mut store = Mysql::open_to_append(&login).unwrap();
    store.migrate().unwrap();
    let begin = Instant::now();
    let error = store_error(stored(&mut store, 1).unwrap_err());
    assert!(matches!(error, StoreError::ConnectionLost(_)), "{error}");
    // Nor does another connection wait for long.
    let error = store_error(stored(&mut store, 1).unwrap_err());
    assert!(matches!(error, StoreError::Unreachable(_)), "{error}");
    assert!(
        error.to_string().contains("no answer within 3 seconds"),
        "{error}"
    );
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn check_waits_for_a_busy_server_longer_than_an_append() {
    let mut login = login_by_network(network_server().port);
    login.answer_timeout = Duration::from_secs(1);
    Mysql::open(&login).unwrap().migrate().unwrap();
    let mut append = Mysql::open_to_append(&login).unwrap();
    let mut check = Mysql::open_read_only(&login).unwrap();
    let socket = network_server().socket();
    let mut root = mariadb_server::connect(&socket, Some(&login.database));
    root.query_drop("LOCK TABLES remote_part WRITE").unwrap();
    thread::scope(|scope| {
        let checked = scope.spawn(move || check.check());
        let error = append.check().unwrap_err();
        assert!(matches!(error, StoreError::ConnectionLost(_)), "{error}");
        thread::sleep(Duration::from_secs(2));
        root.query_drop("UNLOCK TABLES").unwrap();
        assert!(checked.join().unwrap().unwrap().is_empty());
    });
}
#[test]
fn views_show_times_in_utc_whatever_the_sessions_zone_is() {
    let mut database = Database::create();
    stored(&mut database.open(), 1).unwrap();
    for zone in ["+00:00", "+05:30", "-08:00"] {
        database.run(&format!("SET time_zone = '{zone}'"));
        let closed: Option<String> = database
            .root
            .query_first("SELECT DISTINCT CAST(closed AS CHAR) FROM flow")
            .unwrap();
        assert_eq!(closed.unwrap(), "2026-01-31 13:00:00", "{zone}");
    }
}
