//! The store in a database of a MySQL or MariaDB server.
//!
//! Inserting: `LOAD DATA LOCAL` from this process's memory where the server allows it,
//! else INSERT of many rows. Neither needs a privilege beyond those on the database.
//!
//! Writers: every key begins with the host's id, transactions read what was committed
//! and lock no gaps, and a transaction begins by locking its host's row. So hosts never
//! wait for each other, and collectors of one host take turns. What the server takes back
//! all the same, deadlock or lost connection, is taken back whole: the snapshot is
//! appended again, and its identity tells whether it was committed.

mod error;
mod login;
mod user;

use std::collections::HashSet;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use mysql::prelude::Queryable;
use mysql::{Conn, LocalInfileHandler, Params, Value as MysqlValue};

use super::sql::{
    self, Access, Backend, Database, Dialect, SnapshotKey, Value, counter_values, insert_rows,
    one_integer, places, schema,
};
use crate::protocol;
use crate::snapshot::Record;
use crate::store::StoreError;

pub use login::{DEFAULT_PORT, MysqlHost, MysqlLogin, Password, TlsMode};

/// A database of a MySQL or MariaDB server.
#[derive(Debug)]
pub struct Mysql {
    login: MysqlLogin,
    /// The server and database, for messages.
    location: String,
    /// None after it was lost, until the next transaction.
    connection: Option<Conn>,
    in_transaction: bool,
    load_local: bool,
    never_load_local: bool,
    /// Views that were seen to be there.
    views: HashSet<String>,
}

impl Mysql {
    /// Logs in to the first server that answers. [`Store::migrate`] makes the schema.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`], [`StoreError::Denied`], or that the database is
    /// another program's or a later release's.
    pub fn open(login: &MysqlLogin) -> Result<Self, StoreError> {
        let mut store = Self {
            login: login.clone(),
            location: String::new(),
            connection: None,
            in_transaction: false,
            load_local: false,
            never_load_local: false,
            views: HashSet::new(),
        };
        store.connect()?;
        let (found, known) = (store.schema_version()?, SCHEMA_VERSION);
        if found > known {
            return Err(StoreError::TooNew {
                location: store.location,
                found,
                known,
            });
        }
        Ok(store)
    }

    /// Logs in for queries.
    ///
    /// # Errors
    /// As [`Mysql::open`], or that the schema is not there or not this program's.
    pub fn open_read_only(login: &MysqlLogin) -> Result<Self, StoreError> {
        let mut store = Self::open(login)?;
        let (found, known) = (store.schema_version()?, SCHEMA_VERSION);
        if found < known {
            return Err(StoreError::TooOld {
                location: store.location,
                found,
                known,
            });
        }
        Ok(store)
    }

    /// Inserts by statements of many rows, as on a server that allows no LOAD DATA LOCAL.
    pub fn without_load_data(mut self) -> Self {
        self.never_load_local = true;
        self.load_local = false;
        self
    }

    /// How long a statement waits for a lock of another's; 30 seconds unless set, and
    /// after a connection was lost.
    ///
    /// # Errors
    /// The database's.
    pub fn set_lock_wait(&mut self, wait: Duration) -> Result<(), StoreError> {
        self.run_text(&format!(
            "SET SESSION innodb_lock_wait_timeout = {}",
            wait.as_secs().max(1)
        ))
    }

    /// The server and database, for messages.
    pub fn location(&self) -> &str {
        &self.location
    }

    fn connect(&mut self) -> Result<(), StoreError> {
        let (mut connection, host) = self.login.connect()?;
        self.location = format!("database {} at {host}", self.login.database);
        for statement in SESSION {
            connection.query_drop(statement)?;
        }
        // A node of a Galera cluster applies what another one committed a little later; reads are
        // to wait for that, such as whether the schema or an epoch is there.
        let galera: Option<(String, String)> =
            connection.query_first("SHOW SESSION VARIABLES LIKE 'wsrep_on'")?;
        if galera.is_some_and(|(_, state)| state == "ON") {
            connection.query_drop("SET SESSION wsrep_sync_wait = 1")?;
        }
        let allowed: Option<u8> = connection.query_first("SELECT @@GLOBAL.local_infile")?;
        self.load_local = allowed == Some(1) && !self.never_load_local;
        self.connection = Some(connection);
        Ok(())
    }

    /// Before a transaction: a connection that works.
    fn revive(&mut self) -> Result<(), StoreError> {
        let alive = self
            .connection
            .as_mut()
            .is_some_and(|connection| connection.ping().is_ok());
        match alive {
            true => Ok(()),
            false => self.connect(),
        }
    }

    fn run<T>(
        &mut self,
        work: impl FnOnce(&mut Conn) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.connection.is_none() && !self.in_transaction {
            self.connect()?;
        }
        let Some(connection) = self.connection.as_mut() else {
            return Err(StoreError::ConnectionLost(
                "within a transaction".to_owned(),
            ));
        };
        let done = work(connection);
        if matches!(done, Err(StoreError::ConnectionLost(_))) {
            self.connection = None;
        }
        done
    }

    fn run_text(&mut self, sql: &str) -> Result<(), StoreError> {
        self.run(|connection| Ok(connection.query_drop(sql)?))
    }

    /// The schema's version; 0 in an empty database.
    fn schema_version(&mut self) -> Result<i64, StoreError> {
        let (mut tables, mut ours) = (0, 0);
        self.select(
            "SELECT COUNT(*), COALESCE(SUM(table_name = 'trafstat_schema'), 0)
             FROM information_schema.tables WHERE table_schema = DATABASE()",
            &[],
            &mut |row| {
                (tables, ours) = (row[0].integer()?, row[1].integer()?);
                Ok(())
            },
        )?;
        match (tables, ours) {
            (0, _) => Ok(0),
            (_, 0) => Err(StoreError::Foreign(self.location.clone())),
            _ => one_integer(
                self,
                "SELECT COALESCE(MAX(version), 0) FROM trafstat_schema",
                &[],
            ),
        }
    }

    /// Brings the schema to the version that this list of migrations ends with.
    ///
    /// MySQL commits every definition by itself, so each can be repeated, and the version
    /// is written when all of it is there.
    fn migrate_by(&mut self, migrations: &[&str]) -> Result<(), StoreError> {
        let newest = migrations.len() as i64;
        if self.schema_version()? == newest {
            return Ok(());
        }
        // A database's name may be as long as a lock's in MySQL, 64 characters.
        let locked = one_integer(
            self,
            &format!("SELECT COALESCE(GET_LOCK({MIGRATION_LOCK}, 60), 0)"),
            &[],
        )?;
        if locked != 1 {
            return Err(StoreError::Locked);
        }
        let migrated = self.migrate_alone(migrations, newest);
        self.run_text(&format!("DO RELEASE_LOCK({MIGRATION_LOCK})"))?;
        migrated
    }

    fn migrate_alone(&mut self, migrations: &[&str], newest: i64) -> Result<(), StoreError> {
        // Read again under the lock: another process may have migrated meanwhile.
        let version = self.schema_version()?;
        if version == newest {
            return Ok(());
        }
        self.run_text(
            "CREATE TABLE IF NOT EXISTS trafstat_schema (version INT NOT NULL PRIMARY KEY)
             ENGINE = InnoDB",
        )?;
        for (migration, number) in migrations.iter().zip(1..) {
            if number > version {
                for statement in migration.split(";\n").map(str::trim) {
                    if !statement.is_empty() {
                        self.run(|connection| define(connection, statement))?;
                    }
                }
            }
        }
        for (name, select) in schema::views(&VIEW_WORDS) {
            self.define_view(name, &select)?;
        }
        let protocols: Vec<Value> = protocol::all()
            .flat_map(|(number, name)| [number.into(), name.into()])
            .collect();
        insert_rows(self, &protocols, 2, |rows| {
            format!(
                "REPLACE INTO protocol (number, name) VALUES {}",
                places(rows, 2)
            )
        })?;
        self.execute(
            "INSERT IGNORE INTO trafstat_schema (version) VALUES (?)",
            &[newest.into()],
        )?;
        Ok(())
    }

    fn define_view(&mut self, name: &str, select: &str) -> Result<(), StoreError> {
        self.run_text(&format!(
            "CREATE OR REPLACE SQL SECURITY INVOKER VIEW {name} AS {select}"
        ))
    }

    /// Sends records as a file that the server asks this process for.
    fn load_records(
        &mut self,
        snapshot: SnapshotKey,
        first: i64,
        records: &[Record],
    ) -> Result<(), StoreError> {
        let mut lines = Vec::with_capacity(records.len() * 80);
        for (record, number) in records.iter().zip(first..) {
            push_line(&mut lines, snapshot, number, record)?;
        }
        let expected = records.len() as u64;
        self.run(|connection| {
            connection.set_local_infile_handler(Some(LocalInfileHandler::new(move |_, writer| {
                writer.write_all(&lines).and_then(|()| writer.flush())
            })));
            let loaded = connection.query_drop(format!(
                "LOAD DATA LOCAL INFILE 'records' INTO TABLE record CHARACTER SET binary
                 FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n'
                 ({RECORD_COLUMNS})"
            ));
            connection.set_local_infile_handler(None);
            loaded?;
            // With LOCAL, a row that does not fit is no error but a warning.
            let (inserted, warnings) = (connection.affected_rows(), connection.warnings());
            if (inserted, warnings) != (expected, 0) {
                return Err(StoreError::Database(
                    format!(
                        "of {expected} records the server took {inserted} with {warnings} warnings"
                    )
                    .into(),
                ));
            }
            Ok(())
        })
    }
}

impl Backend for Mysql {
    fn bring_up_to_date(&mut self) -> Result<(), StoreError> {
        self.migrate_by(&MIGRATIONS)
    }

    fn plan_step(mut row: Vec<Value>) -> Result<String, StoreError> {
        // MySQL has a column for partitions where MariaDB has none.
        if row.len() == 12 {
            row.remove(3);
        }
        let [table, access, key] = [2, 3, 5].map(|column| match &row[column] {
            Value::Null => "-".to_owned(),
            value => value.text().unwrap_or("?").to_owned(),
        });
        Ok(format!("{table} {access} {key}"))
    }

    fn damage(&mut self) -> Result<Vec<String>, StoreError> {
        let mut damage = Vec::new();
        for table in TABLES {
            // MySQL prepares no CHECK.
            let said: Vec<(String, String, String, String)> =
                self.run(|connection| Ok(connection.query(format!("CHECK TABLE {table}"))?))?;
            let not_ok = said.into_iter().filter(|(.., message)| message != "OK");
            damage.extend(not_ok.map(|(.., message)| format!("{table}: {message}")));
        }
        Ok(damage)
    }

    fn copy_to_file(&mut self, to: &Path) -> Result<(), StoreError> {
        sql::back_up(self, to)
    }
}

impl Database for Mysql {
    const DIALECT: Dialect = Dialect {
        records_of_snapshot: RECORDS_OF_SNAPSHOT,
        record_number: "r.number",
        ordered_join: "STRAIGHT_JOIN",
        by_primary_key: "FORCE INDEX (PRIMARY)",
        // MySQL would rather read all snapshots for a hash join, all columns of them.
        by_key: "FORCE INDEX (PRIMARY, snapshot_closed)",
        insert_ignore: "INSERT IGNORE",
        for_update: "FOR UPDATE",
        integer: "SIGNED",
        server_clock: Some(
            "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) * 1000",
        ),
        // MySQL would draw a tree.
        explain: "EXPLAIN FORMAT = TRADITIONAL",
        rows_per_insert: 512,
        on_conflict: "ON DUPLICATE KEY UPDATE",
        offered: ("VALUES(", ")"),
    };

    fn location(&self) -> String {
        self.location.clone()
    }

    fn begin(&mut self, access: Access) -> Result<(), StoreError> {
        self.revive()?;
        match access {
            Access::Read => {
                self.run_text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")?;
                self.run_text("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")?;
            }
            Access::Write => self.run_text("START TRANSACTION READ WRITE")?,
        }
        self.in_transaction = true;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.run_text("COMMIT")?;
        self.in_transaction = false;
        Ok(())
    }

    fn roll_back(&mut self) {
        if self.in_transaction {
            // A server that cannot be told rolls back when the connection ends.
            if self.run_text("ROLLBACK").is_err() {
                self.connection = None;
            }
            self.in_transaction = false;
        }
    }

    fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, StoreError> {
        let parameters = positional(parameters);
        self.run(|connection| {
            let statement = connection.prep(sql)?;
            connection.exec_drop(&statement, parameters)?;
            Ok(connection.affected_rows())
        })
    }

    fn select(
        &mut self,
        sql: &str,
        parameters: &[Value],
        each: &mut dyn FnMut(&[Value]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let parameters = positional(parameters);
        self.run(|connection| {
            let statement = connection.prep(sql)?;
            let mut values = Vec::new();
            for row in connection.exec_iter(&statement, parameters)? {
                values.clear();
                for column in row?.unwrap() {
                    values.push(value(column)?);
                }
                each(&values)?;
            }
            Ok(())
        })
    }

    fn next_record(&mut self) -> Result<i64, StoreError> {
        // Records are numbered within their epoch.
        Ok(1)
    }

    fn insert_records(
        &mut self,
        snapshot: SnapshotKey,
        first: i64,
        records: &[Record],
    ) -> Result<(), StoreError> {
        if self.load_local {
            return self.load_records(snapshot, first, records);
        }
        let mut values = Vec::with_capacity(records.len() * RECORD_COLUMN_COUNT);
        for (record, number) in records.iter().zip(first..) {
            values.extend(snapshot.values());
            values.extend([
                number.into(),
                record.protocol.into(),
                record.local.ip.into(),
                record.local.port.into(),
                record.remote.ip.into(),
                record.remote.port.into(),
                record.flags.into(),
            ]);
            values.extend(counter_values(&record.counters)?.map(Value::from));
        }
        insert_rows(self, &values, RECORD_COLUMN_COUNT, |rows| {
            format!(
                "INSERT INTO record ({RECORD_COLUMNS}) VALUES {}",
                places(rows, RECORD_COLUMN_COUNT)
            )
        })
    }

    fn delete_records(
        &mut self,
        snapshot: SnapshotKey,
        _first: i64,
        _records: i64,
    ) -> Result<u64, StoreError> {
        self.execute(
            "DELETE FROM record WHERE host_id = ? AND account_id = ? AND epoch = ?",
            &snapshot.values(),
        )
    }

    fn ensure_account_view(&mut self, view: &str) -> Result<(), StoreError> {
        if self.views.contains(view) {
            return Ok(());
        }
        self.revive()?;
        let known = one_integer(
            self,
            "SELECT COUNT(*) FROM information_schema.views
             WHERE table_schema = DATABASE() AND table_name = ?",
            &[view.into()],
        )?;
        // Two nodes of a Galera cluster that define one view at the same time wait for each other
        // for ever. One host has a minute for it, then another may.
        if known == 0
            && self.execute(
                "INSERT INTO account_view (name) VALUES (?) ON DUPLICATE KEY UPDATE claimed =
                     IF(claimed < NOW() - INTERVAL 1 MINUTE, NOW(), claimed)",
                &[view.into()],
            )? > 0
        {
            let select = schema::account_view_select(view, &VIEW_WORDS);
            self.define_view(view, &select)?;
        }
        self.views.insert(view.to_owned());
        Ok(())
    }
}

/// What a session is to be, whatever the server's defaults are.
const SESSION: [&str; 4] = [
    "SET NAMES utf8mb4",
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION innodb_lock_wait_timeout = 30",
];

/// The lock of whoever migrates a database. Its name may have 64 characters, as that of the
/// database; MySQL has no SHA1 any more.
const MIGRATION_LOCK: &str = "CONCAT('trafstat.', LEFT(SHA2(DATABASE(), 256), 40))";

/// What brings the schema from each version to the next.
const MIGRATIONS: [&str; 3] = [
    include_str!("mysql/0001_initial.sql"),
    include_str!("mysql/0002_host_boot.sql"),
    include_str!("mysql/0003_sampling.sql"),
];

const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// The tables that a check reads.
const TABLES: [&str; 11] = [
    "host",
    "host_boot",
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

const RECORDS_OF_SNAPSHOT: &str =
    "r.host_id = s.host_id AND r.account_id = s.account_id AND r.epoch = s.epoch";

const RECORD_COLUMNS: &str = "host_id, account_id, epoch, number, protocol, local_ip, local_port, \
     remote_ip, remote_port, flags, sent_packets, received_packets, sent_bytes, received_bytes, \
     syn_packets";

const RECORD_COLUMN_COUNT: usize = 15;

const VIEW_WORDS: schema::ViewWords = schema::ViewWords {
    ip_text: |column| format!("INET6_NTOA({column})"),
    ipv4_number: |column| format!("INET_ATON(INET6_NTOA({column}))"),
    record_id: "(s.epoch * 4294967296 + r.number)",
    time: |seconds| format!("FROM_UNIXTIME({seconds})"),
    records_of_snapshot: RECORDS_OF_SNAPSHOT,
    seconds: |nanoseconds| format!("{nanoseconds} DIV 1000000000"),
};

/// Runs a statement of a migration, which may have been run before.
///
/// Tables are made unless they exist. MySQL has no such words for columns; all that a version
/// adds to a table come in one statement, which is run as a whole or not at all.
fn define(connection: &mut Conn, statement: &str) -> Result<(), StoreError> {
    match connection.query_drop(statement) {
        Err(mysql::Error::MySqlError(error)) if error.code == DUPLICATE_COLUMN => Ok(()),
        done => Ok(done?),
    }
}

/// ER_DUP_FIELDNAME: the table has a column of the name.
const DUPLICATE_COLUMN: u16 = 1060;

/// One record as a line of `LOAD DATA`: columns between tabs.
fn push_line(
    lines: &mut Vec<u8>,
    snapshot: SnapshotKey,
    number: i64,
    record: &Record,
) -> Result<(), StoreError> {
    let SnapshotKey {
        host_id,
        account_id,
        epoch,
    } = snapshot;
    let counters = counter_values(&record.counters)?;
    push_text(
        lines,
        format_args!(
            "{host_id}\t{account_id}\t{epoch}\t{number}\t{}\t",
            record.protocol
        ),
    );
    for side in [&record.local, &record.remote] {
        match side.ip {
            IpAddr::V4(ip) => push_escaped(lines, &ip.octets()),
            IpAddr::V6(ip) => push_escaped(lines, &ip.octets()),
        }
        push_text(lines, format_args!("\t{}\t", side.port));
    }
    let [
        sent_packets,
        received_packets,
        sent_bytes,
        received_bytes,
        syn_packets,
    ] = counters;
    push_text(
        lines,
        format_args!(
            "{}\t{sent_packets}\t{received_packets}\t{sent_bytes}\t{received_bytes}\t{syn_packets}\n",
            record.flags
        ),
    );
    Ok(())
}

fn push_text(lines: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A vector takes whatever is written to it.
    let _ = lines.write_fmt(text);
}

/// Bytes that would end a column or a line, or escape, are escaped.
fn push_escaped(lines: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            0 => lines.extend(b"\\0"),
            b'\t' | b'\n' | b'\\' => lines.extend([b'\\', byte]),
            _ => lines.push(byte),
        }
    }
}

fn positional(parameters: &[Value]) -> Params {
    if parameters.is_empty() {
        return Params::Empty;
    }
    Params::Positional(
        parameters
            .iter()
            .map(|value| match value {
                Value::Null => MysqlValue::NULL,
                Value::Integer(value) => MysqlValue::Int(*value),
                Value::Real(value) => MysqlValue::Double(*value),
                Value::Bytes(bytes) => MysqlValue::Bytes(bytes.clone()),
                Value::Text(text) => MysqlValue::Bytes(text.clone().into_bytes()),
            })
            .collect(),
    )
}

fn value(column: MysqlValue) -> Result<Value, StoreError> {
    match column {
        MysqlValue::NULL => Ok(Value::Null),
        MysqlValue::Bytes(bytes) => Ok(Value::Bytes(bytes)),
        MysqlValue::Int(value) => Ok(Value::Integer(value)),
        MysqlValue::UInt(value) => i64::try_from(value)
            .map(Value::Integer)
            .map_err(|_| StoreError::Corrupt(format!("a column has {value}, past 63 bits"))),
        // EXPLAIN has the first.
        MysqlValue::Float(value) => Ok(Value::Real(value.into())),
        MysqlValue::Double(value) => Ok(Value::Real(value)),
        other => Err(StoreError::Corrupt(format!(
            "a column has {other:?}, no integer and no bytes"
        ))),
    }
}
