// SPDX-License-Identifier: GPL-2.0-or-later
//! What can go wrong with a MariaDB server, on a real one.

mod common;
#[path = "common/mariadb.rs"]
mod mariadb_server;

use common::{SnapshotBuilder, record};
use mysql::prelude::Queryable;
use trafstat_store::backend::{Mysql, MysqlLogin, Password};
use trafstat_store::collect::{CollectError, State, append};
use trafstat_store::origin::Origin;
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
    let error = Mysql::open(&database.login()).unwrap_err();
    assert!(
        matches!(error, StoreError::TooNew { found: 1000, .. }),
        "{error}"
    );
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
        records_before: Some(jiff::Timestamp::now()),
        ..Retention::default()
    };
    let rotated = store.rotate(&retention, Some(archive)).unwrap();
    assert_eq!(rotated.records, 2);
    assert_eq!(store.restore(&rotated.archives[0]).unwrap().epochs, 2);
    assert!(store.check().unwrap().is_empty());
    root.query_drop(format!("USE {quoted}")).unwrap();
    let rows: Option<u64> = root
        .query_first("SELECT COUNT(*) FROM trafstat_lan")
        .unwrap();
    assert_eq!(rows, Some(2));
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
