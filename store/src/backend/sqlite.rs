//! The store in one SQLite file.
//!
//! Durability: the database is in WAL mode with `synchronous=FULL`, so that every
//! commit syncs the log before it returns. With `NORMAL`, SQLite would sync at
//! checkpoints only, and a loss of power could take back a commit whose epoch the
//! kernel has already given up.
//!
//! Readers: a user of the file's group can read the database but not create files
//! beside it. SQLite needs the log and its index there, so closing leaves them.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, Row, ToSql, TransactionBehavior, params_from_iter,
};
use rustix::fs::Access;
use rustix::io::Errno;

use super::sql::{
    Access as For, Backend, Database, Dialect, SnapshotKey, Value, counter_values, one_integer,
    places, schema,
};
use crate::protocol;
use crate::snapshot::{Growth, Record};
use crate::store::StoreError;
use crate::whole_file::{create_file, create_folder, sync_parent, system_error, write_new_file};

/// Where the database is unless the user says otherwise.
pub const DEFAULT_PATH: &str = "/var/lib/trafstat/trafstat.db";

/// A SQLite database.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    connection: Connection,
    writable: bool,
}

impl Sqlite {
    /// Opens a database for writing, an empty one if there is none.
    ///
    /// The file is made with mode 0640 and its folder with 0750. [`Store::migrate`]
    /// makes the schema.
    ///
    /// # Errors
    /// That it cannot be created or opened, or is no trafstat database.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create(path)?;
        check_access(path, Access::READ_OK | Access::WRITE_OK)?;
        let store = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, true)?;
        let connection = &store.connection;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(store)
    }

    /// Opens a database for queries.
    ///
    /// # Errors
    /// That there is none, or that its schema is not this program's.
    pub fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        check_access(path, Access::READ_OK)?;
        let store = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY, false)?;
        let (found, known) = (store.schema_version()?, SCHEMA_VERSION);
        if found < known {
            return Err(StoreError::TooOld {
                location: store.location(),
                found,
                known,
            });
        }
        Ok(store)
    }

    /// Opens a copy to read from, that an earlier release may have written.
    pub(super) fn open_copy(path: &Path) -> Result<Self, StoreError> {
        match Self::open_read_only(path) {
            Err(StoreError::TooOld { found, .. }) if found >= OLDEST_COPY => {
                let copy = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY, false)?;
                if found < GROWTH_VERSION {
                    copy.show_growth_as_unknown()?;
                }
                Ok(copy)
            }
            opened => opened,
        }
    }

    /// Has this connection find the later columns of snapshots, and NULL in them.
    fn show_growth_as_unknown(&self) -> Result<(), StoreError> {
        let columns = Growth::COLUMNS.map(|column| format!("NULL AS {column}"));
        // A temporary view goes before the table of its name, and leaves the file as it is.
        Ok(self.connection.execute_batch(&format!(
            "CREATE TEMP VIEW snapshot AS SELECT *, {} FROM main.snapshot",
            columns.join(", ")
        ))?)
    }

    fn connect(path: &Path, access: OpenFlags, writable: bool) -> Result<Self, StoreError> {
        let connection =
            Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let store = Self {
            path: path.to_path_buf(),
            connection,
            writable,
        };
        store.check_ours()?;
        store
            .connection
            .pragma_update(None, "cache_size", -CACHE_KIB)?;
        // A filter by equality would make SQLite index all records anew for one query, and
        // read them once for every epoch.
        store
            .connection
            .pragma_update(None, "automatic_index", false)?;
        store
            .connection
            .set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(store)
    }

    /// Refuses the database of another program, and one of a later release.
    fn check_ours(&self) -> Result<(), StoreError> {
        let foreign = || StoreError::Foreign(self.location());
        // All of it as of one moment: another process may be creating the schema.
        let _moment = self.connection.unchecked_transaction()?;
        let application = self.pragma("application_id").map_err(|error| match error {
            StoreError::Database(source)
                if source
                    .downcast_ref::<rusqlite::Error>()
                    .and_then(rusqlite::Error::sqlite_error_code)
                    == Some(ErrorCode::NotADatabase) =>
            {
                foreign()
            }
            other => other,
        })?;
        if application != APPLICATION_ID {
            let tables: i64 =
                self.connection
                    .query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
            if application != 0 || tables != 0 {
                return Err(foreign());
            }
        }
        let (found, known) = (self.schema_version()?, SCHEMA_VERSION);
        if found > known {
            return Err(StoreError::TooNew {
                location: self.location(),
                found,
                known,
            });
        }
        Ok(())
    }

    fn schema_version(&self) -> Result<i64, StoreError> {
        self.pragma("user_version")
    }

    fn pragma(&self, name: &str) -> Result<i64, StoreError> {
        Ok(self
            .connection
            .pragma_query_value(None, name, |row| row.get(0))?)
    }

    /// Brings the schema to the version that this list of migrations ends with.
    fn migrate_by(&mut self, migrations: &[&str]) -> Result<(), StoreError> {
        let newest = migrations.len() as i64;
        if self.schema_version()? == newest {
            return Ok(());
        }
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Read again under the lock: another process may have migrated meanwhile.
        let version: i64 =
            transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        for (migration, number) in migrations.iter().zip(1..) {
            if number > version {
                transaction.execute_batch(migration)?;
            }
        }
        for (name, select) in schema::views(&VIEW_WORDS) {
            transaction.execute_batch(&format!(
                "DROP VIEW IF EXISTS {name}; CREATE VIEW {name} AS {select};"
            ))?;
        }
        {
            let mut insert = transaction
                .prepare("INSERT OR REPLACE INTO protocol (number, name) VALUES (?1, ?2)")?;
            for (number, name) in protocol::all() {
                insert.execute((number, name))?;
            }
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", newest)?;
        transaction.commit()?;
        Ok(())
    }

    fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let file = create_file(path).map_err(|error| system_error(path, error))?;
        let mut copy = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // All pages in one step: one moment's state, however much is written meanwhile.
        match Backup::new(&self.connection, &mut copy)?.step(-1)? {
            StepResult::Done => {}
            _ => return Err(StoreError::Locked),
        }
        close_whole(copy)?;
        file.sync_all().map_err(|error| system_error(path, error))
    }

    /// Closes the database as one durable file that needs no log beside it.
    pub(super) fn close_whole(mut self) -> Result<(), StoreError> {
        self.writable = false;
        let path = self.path.clone();
        self.connection.flush_prepared_statement_cache();
        let connection = std::mem::replace(&mut self.connection, Connection::open_in_memory()?);
        close_whole(connection)?;
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(|error| system_error(&path, error))
    }
}

impl Backend for Sqlite {
    fn bring_up_to_date(&mut self) -> Result<(), StoreError> {
        self.migrate_by(&MIGRATIONS)
    }

    fn plan_step(row: Vec<Value>) -> Result<String, StoreError> {
        // id, parent, not used, detail (https://sqlite.org/eqp.html)
        Ok(row[3].text()?.to_owned())
    }

    fn damage(&mut self) -> Result<Vec<String>, StoreError> {
        let mut damage = Vec::new();
        self.select("PRAGMA integrity_check", &[], &mut |row| {
            if row[0].text()? != "ok" {
                damage.push(row[0].text()?.to_owned());
            }
            Ok(())
        })?;
        self.select("PRAGMA foreign_key_check", &[], &mut |row| {
            damage.push(format!(
                "a row of {} belongs to no row of {}",
                row[0].text()?,
                row[2].text()?
            ));
            Ok(())
        })?;
        Ok(damage)
    }

    fn copy_to_file(&mut self, to: &Path) -> Result<(), StoreError> {
        write_new_file(to, |path| self.copy_to(path))
    }
}

impl Database for Sqlite {
    const DIALECT: Dialect = Dialect {
        records_of_snapshot: RECORDS_OF_SNAPSHOT,
        record_number: "r.id",
        // SQLite keeps to the order of a CROSS JOIN (https://sqlite.org/optoverview.html).
        ordered_join: "CROSS JOIN",
        by_primary_key: "",
        by_key: "",
        insert_ignore: "INSERT OR IGNORE",
        for_update: "",
        integer: "INTEGER",
        server_clock: None,
        explain: "EXPLAIN QUERY PLAN",
        rows_per_insert: 32,
        on_conflict: "ON CONFLICT DO UPDATE SET",
        offered: ("excluded.", ""),
    };

    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn begin(&mut self, access: For) -> Result<(), StoreError> {
        Ok(self.connection.execute_batch(match access {
            For::Read => "BEGIN",
            For::Write => "BEGIN IMMEDIATE",
        })?)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        Ok(self.connection.execute_batch("COMMIT")?)
    }

    fn roll_back(&mut self) {
        if !self.connection.is_autocommit() {
            // What fails here is rolled back by SQLite when the file is closed.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, StoreError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.execute(params_from_iter(parameters))? as u64)
    }

    fn select(
        &mut self,
        sql: &str,
        parameters: &[Value],
        each: &mut dyn FnMut(&[Value]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query(params_from_iter(parameters))?;
        let mut values = Vec::with_capacity(columns);
        while let Some(row) = rows.next()? {
            values.clear();
            for column in 0..columns {
                values.push(value(row, column)?);
            }
            each(&values)?;
        }
        Ok(())
    }

    fn next_record(&mut self) -> Result<i64, StoreError> {
        one_integer(self, "SELECT COALESCE(MAX(id), 0) + 1 FROM record", &[])
    }

    fn delete_records(
        &mut self,
        _snapshot: SnapshotKey,
        first: i64,
        records: i64,
    ) -> Result<u64, StoreError> {
        self.execute(
            "DELETE FROM record WHERE id BETWEEN ? AND ?",
            &[first.into(), (first + records - 1).into()],
        )
    }

    fn insert_records(
        &mut self,
        _snapshot: SnapshotKey,
        first: i64,
        records: &[Record],
    ) -> Result<(), StoreError> {
        let mut id = first;
        // Several rows a statement save a tenth of the time of one each.
        let mut chunks = records.chunks_exact(RECORDS_PER_INSERT);
        let mut insert = self
            .connection
            .prepare_cached(&insert_records(RECORDS_PER_INSERT))?;
        for chunk in &mut chunks {
            bind_records(&mut insert, id, chunk)?;
            insert.raw_execute()?;
            id += RECORDS_PER_INSERT as i64;
        }
        let mut insert = self.connection.prepare_cached(&insert_records(1))?;
        for record in chunks.remainder() {
            bind_records(&mut insert, id, std::slice::from_ref(record))?;
            insert.raw_execute()?;
            id += 1;
        }
        Ok(())
    }

    fn ensure_account_view(&mut self, view: &str) -> Result<(), StoreError> {
        let known: bool = self
            .connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)")?
            .query_row([view], |row| row.get(0))?;
        if !known {
            let select = schema::account_view_select(view, &VIEW_WORDS);
            self.connection
                .execute_batch(&format!("CREATE VIEW IF NOT EXISTS {view} AS {select}"))?;
        }
        Ok(())
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(value) => ValueRef::Integer(*value),
            Self::Real(value) => ValueRef::Real(*value),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        if self.writable {
            // Keeps the log that closing leaves small. Nothing depends on it: what a
            // reader prevents now, the next writer does; so it does not wait for one.
            let _ = self.connection.busy_timeout(Duration::ZERO);
            let _ = self
                .connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt) => Self::Corrupt(error.to_string()),
            _ => Self::Database(Box::new(error)),
        }
    }
}

/// How the file says that it is trafstat's: "TRAF".
const APPLICATION_ID: i64 = 0x5452_4146;

/// What brings the schema from each version to the next.
const MIGRATIONS: [&str; 3] = [
    include_str!("sqlite/0001_initial.sql"),
    include_str!("sqlite/0002_host_boot.sql"),
    include_str!("sqlite/0003_sampling.sql"),
];

const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// The oldest version that a restore reads.
const OLDEST_COPY: i64 = 1;

/// The version since which snapshots have the columns of [`Growth`].
const GROWTH_VERSION: i64 = 3;

/// Memory for pages: what rollups touch in one transaction, so that a page is not written
/// to the log many times.
const CACHE_KIB: i64 = 16 * 1024;

/// Statements that stay prepared: more than one append has.
const STATEMENTS: usize = 48;

/// Records that one statement inserts.
const RECORDS_PER_INSERT: usize = 32;

const RECORDS_OF_SNAPSHOT: &str = "r.id BETWEEN s.first_record AND s.first_record + s.records - 1";

const VIEW_WORDS: schema::ViewWords = schema::ViewWords {
    ip_text,
    ipv4_number,
    record_id: "r.id",
    time: |seconds| format!("datetime({seconds}, 'unixepoch')"),
    records_of_snapshot: RECORDS_OF_SNAPSHOT,
    seconds: |nanoseconds| format!("{nanoseconds} / 1000000000"),
};

/// SQLite has no word for a byte's number, but hex() for its two digits.
fn octet(column: &str, index: usize) -> String {
    let digit =
        |place: usize| format!("instr('123456789ABCDEF', substr(hex({column}), {place}, 1))");
    format!("({} * 16 + {})", digit(2 * index + 1), digit(2 * index + 2))
}

fn ip_text(column: &str) -> String {
    let ipv4: Vec<String> = (0..4).map(|index| octet(column, index)).collect();
    let ipv6: Vec<String> = (0..8)
        .map(|group| format!("substr(hex({column}), {}, 4)", 4 * group + 1))
        .collect();
    format!(
        "CASE length({column}) WHEN 4 THEN {} ELSE lower({}) END",
        ipv4.join(" || '.' || "),
        ipv6.join(" || ':' || ")
    )
}

fn ipv4_number(column: &str) -> String {
    let octets: Vec<String> = (0..4)
        .map(|index| format!("({} << {})", octet(column, index), 24 - 8 * index))
        .collect();
    format!("({})", octets.join(" | "))
}

fn insert_records(rows: usize) -> String {
    format!(
        "INSERT INTO record (
             id, protocol, local_ip, local_port, remote_ip, remote_port, flags,
             sent_packets, received_packets, sent_bytes, received_bytes, syn_packets)
         VALUES {}",
        places(rows, RECORD_COLUMNS)
    )
}

const RECORD_COLUMNS: usize = 12;

fn bind_records(
    statement: &mut rusqlite::Statement<'_>,
    first: i64,
    records: &[Record],
) -> Result<(), StoreError> {
    let mut place = 0;
    let mut bind = |value: ValueRef<'_>| {
        place += 1;
        statement.raw_bind_parameter(place, ToSqlOutput::Borrowed(value))
    };
    for (record, id) in records.iter().zip(first..) {
        bind(ValueRef::Integer(id))?;
        bind(ValueRef::Integer(record.protocol.into()))?;
        for side in [&record.local, &record.remote] {
            match side.ip {
                IpAddr::V4(ip) => bind(ValueRef::Blob(&ip.octets()))?,
                IpAddr::V6(ip) => bind(ValueRef::Blob(&ip.octets()))?,
            }
            bind(ValueRef::Integer(side.port.into()))?;
        }
        bind(ValueRef::Integer(record.flags.into()))?;
        for counter in counter_values(&record.counters)? {
            bind(ValueRef::Integer(counter))?;
        }
    }
    Ok(())
}

fn value(row: &Row<'_>, column: usize) -> rusqlite::Result<Value> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Integer(value),
        ValueRef::Real(value) => Value::Real(value),
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => Value::Bytes(bytes.to_vec()),
    })
}

/// Longer than storing a full account takes, so that a second writer waits.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// One file that needs no log beside it.
fn close_whole(connection: Connection) -> Result<(), StoreError> {
    connection.pragma_update(None, "journal_mode", "delete")?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

fn create(path: &Path) -> Result<(), StoreError> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        create_folder(folder)?;
    }
    match create_file(path) {
        // A new name is durable only once its folder is.
        Ok(_) => sync_parent(path).map_err(|error| system_error(path, error)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(system_error(path, error)),
    }
}

/// Tells a missing file from a forbidden one, which SQLite does not.
///
/// The file is not opened for it: closing it again would drop the locks that this
/// process may hold on it through SQLite (fcntl(2)).
fn check_access(path: &Path, access: Access) -> Result<(), StoreError> {
    rustix::fs::access(path, Access::EXISTS | access).map_err(|errno| match errno {
        Errno::NOENT => StoreError::Missing(path.to_path_buf()),
        _ => system_error(path, errno.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::Store;

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
            store.migrate_by(&next).unwrap();
            assert_eq!(store.schema_version().unwrap(), SCHEMA_VERSION + 1);
        }
        let broken = [&next[..], &[later]].concat();
        store.migrate_by(&broken).unwrap_err();
        assert_eq!(store.schema_version().unwrap(), SCHEMA_VERSION + 1);
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
}
