//! The store in one SQLite file.
//!
//! Durability: the database is in WAL mode with `synchronous=FULL`, so that every
//! commit syncs the log before it returns. With `NORMAL`, SQLite would sync at
//! checkpoints only, and a loss of power could take back a commit whose epoch the
//! kernel has already given up.
//!
//! Readers: a user of the file's group can read the database but not create files
//! beside it. SQLite needs the log and its index there, so closing leaves them.

mod append;
mod query;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use rustix::fs::Access;
use rustix::io::Errno;

use super::{Begun, Pruned, Store, StoreError};
use crate::origin::Origin;
use crate::protocol;
use crate::query::{Answer, Query};
use crate::snapshot::Header;

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
                path: store.path.clone(),
                found,
                known,
            });
        }
        Ok(store)
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
        Ok(store)
    }

    /// Refuses the database of another program, and one of a later release.
    fn check_ours(&self) -> Result<(), StoreError> {
        let foreign = || StoreError::Foreign(self.path.clone());
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
                path: self.path.clone(),
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

    fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let file = create_file(path).map_err(|error| system_error(path, error))?;
        let mut copy = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // All pages in one step: one moment's state, however much is written meanwhile.
        match Backup::new(&self.connection, &mut copy)?.step(-1)? {
            StepResult::Done => {}
            _ => return Err(StoreError::Locked),
        }
        // One file that needs no log beside it.
        copy.pragma_update(None, "journal_mode", "delete")?;
        copy.close().map_err(|(_, error)| error)?;
        file.sync_all().map_err(|error| system_error(path, error))
    }
}

impl Store for Sqlite {
    fn migrate(&mut self) -> Result<(), StoreError> {
        if self.schema_version()? == SCHEMA_VERSION {
            return Ok(());
        }
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Read again under the lock: another process may have migrated meanwhile.
        let version: i64 =
            transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        for (migration, number) in MIGRATIONS.iter().zip(1..) {
            if number > version {
                transaction.execute_batch(migration)?;
            }
        }
        {
            let mut insert = transaction
                .prepare("INSERT OR REPLACE INTO protocol (number, name) VALUES (?1, ?2)")?;
            for (number, name) in protocol::all() {
                insert.execute((number, name))?;
            }
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()?;
        Ok(())
    }

    fn begin<'a>(&'a mut self, origin: &Origin, header: &Header) -> Result<Begun<'a>, StoreError> {
        append::begin(&mut self.connection, origin, header)
    }

    fn query(&mut self, query: &Query) -> Result<Answer, StoreError> {
        query::answer(&mut self.connection, query)
    }

    fn prune(&mut self, before: Timestamp) -> Result<Pruned, StoreError> {
        let before = nanoseconds(before);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let records = transaction.execute(
            "DELETE FROM record WHERE (host_id, account_id, epoch) IN (
                 SELECT host_id, account_id, epoch FROM snapshot WHERE closed_ns < ?1)",
            [before],
        )?;
        let epochs = transaction.execute(
            "UPDATE snapshot SET pruned_ns = ?2 WHERE closed_ns < ?1 AND pruned_ns IS NULL",
            [before, nanoseconds(Timestamp::now())],
        )?;
        transaction.execute(
            "DELETE FROM snapshot WHERE pruned_ns IS NOT NULL AND epoch < (
                 SELECT MAX(epoch) FROM snapshot AS newest
                 WHERE newest.host_id = snapshot.host_id
                   AND newest.account_id = snapshot.account_id)",
            [],
        )?;
        transaction.execute(
            "DELETE FROM address WHERE id NOT IN (
                 SELECT local_address_id FROM record UNION SELECT remote_address_id FROM record)",
            [],
        )?;
        transaction.commit()?;
        Ok(Pruned {
            epochs: epochs as u64,
            records: records as u64,
        })
    }

    fn back_up(&mut self, to: &Path) -> Result<(), StoreError> {
        if to.symlink_metadata().is_ok() {
            return Err(StoreError::Exists(to.to_path_buf()));
        }
        // A half-written copy never stands under the name asked for.
        let mut partial = to.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let written = self.copy_to(&partial).and_then(|()| {
            fs::rename(&partial, to)
                .and_then(|()| sync_parent(to))
                .map_err(|error| system_error(to, error))
        });
        if written.is_err() {
            // The first error is the one that matters.
            let _ = fs::remove_file(&partial);
        }
        written
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
const MIGRATIONS: [&str; 1] = [include_str!("sqlite/0001_initial.sql")];

const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// Memory for pages: enough for the part of a large account's records and addresses
/// that lies open, so that a transaction does not write a page to the log many times.
const CACHE_KIB: i64 = 64 * 1024;

/// Longer than storing a full account takes, so that a second writer waits.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

fn create(path: &Path) -> Result<(), StoreError> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(folder)
            .map_err(|error| system_error(folder, error))?;
    }
    match create_file(path) {
        // A new name is durable only once its folder is.
        Ok(_) => sync_parent(path).map_err(|error| system_error(path, error)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(system_error(path, error)),
    }
}

fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
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

fn system_error(path: &Path, source: io::Error) -> StoreError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::PermissionDenied => StoreError::NotPermitted(path),
        _ => StoreError::Io { path, source },
    }
}

/// A time as columns hold it; times that they cannot hold become the nearest.
fn nanoseconds(time: Timestamp) -> i64 {
    let nanoseconds = time.as_nanosecond();
    i64::try_from(nanoseconds).unwrap_or(if nanoseconds < 0 { i64::MIN } else { i64::MAX })
}

/// An address as a column holds it: 4 or 16 bytes in network order.
fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

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
}
