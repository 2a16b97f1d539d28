// SPDX-License-Identifier: GPL-2.0-or-later
//! Opens, copies and closes the file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::Access;
use rustix::io::Errno;

use super::migration::{self, APPLICATION_ID, SCHEMA_VERSION};
use crate::backend::sql::Database;
use crate::snapshot::Growth;
use crate::store::StoreError;
use crate::whole_file::{create_file, create_folder, sync_parent, system_error};

/// Where the database is unless the user says otherwise.
pub const DEFAULT_PATH: &str = "/var/lib/trafstat/trafstat.db";

/// The oldest version that a restore reads.
const OLDEST_COPY: i64 = 1;

/// The version since which snapshots have the columns of [`Growth`].
const GROWTH_VERSION: i64 = 3;

/// What a copy of an earlier version has no sums by.
const LOCAL_SERVICE: [(&str, &str, &str); 3] = [
    ("local_service_quarterly", "hour AS quarter", "local_hourly"),
    ("local_service_hourly", "hour", "local_hourly"),
    ("local_service_daily", "day", "local_daily"),
];

/// Memory for pages: what rollups touch in one transaction, so that a page is not written
/// to the log many times.
const CACHE_KIB: i64 = 16 * 1024;

/// Statements that stay prepared: more than one append has.
const STATEMENTS: usize = 48;

/// Longer than storing a full account takes, so that a second writer waits.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// A SQLite database.
#[derive(Debug)]
pub struct Sqlite {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    writable: bool,
}

impl Sqlite {
    /// Opens a database for writing, an empty one if there is none.
    ///
    /// The file is made with mode 0640 and its folder with 0750.
    /// [`Store::migrate`](crate::store::Store::migrate) makes the schema.
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
        let (found, known) = (migration::version(&store.connection)?, SCHEMA_VERSION);
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
    pub(in crate::backend) fn open_copy(path: &Path) -> Result<Self, StoreError> {
        match Self::open_read_only(path) {
            Err(StoreError::TooOld { found, .. }) if found >= OLDEST_COPY => {
                let copy = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY, false)?;
                copy.show_as_this_version(found)?;
                Ok(copy)
            }
            opened => opened,
        }
    }

    /// Has this connection find what came after a version: unknown fields are NULL, epochs are
    /// yet to be counted, and tables are empty.
    fn show_as_this_version(&self, version: i64) -> Result<(), StoreError> {
        let mut columns = vec!["-1 AS counted_ns".to_owned()];
        if version < GROWTH_VERSION {
            columns.extend(Growth::COLUMNS.map(|column| format!("NULL AS {column}")));
        }
        // A temporary view goes before the table of its name, and leaves the file as it is.
        self.connection.execute_batch(&format!(
            "CREATE TEMP VIEW snapshot AS SELECT *, {} FROM main.snapshot",
            columns.join(", ")
        ))?;
        for (table, period, like) in LOCAL_SERVICE {
            self.connection.execute_batch(&format!(
                "CREATE TEMP VIEW {table} AS
                 SELECT host_id, account_id, {period}, local_ip, 0 AS protocol, 0 AS local_port,
                     sent_packets, received_packets, sent_bytes, received_bytes, syn_packets
                 FROM main.{like} WHERE 0"
            ))?;
        }
        Ok(())
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
        self.check_version()
    }

    /// Refuses the database of a later release.
    pub(super) fn check_version(&self) -> Result<(), StoreError> {
        let (found, known) = (migration::version(&self.connection)?, SCHEMA_VERSION);
        match found > known {
            true => Err(StoreError::TooNew {
                location: self.location(),
                found,
                known,
            }),
            false => Ok(()),
        }
    }

    pub(super) fn pragma(&self, name: &str) -> Result<i64, StoreError> {
        Ok(self
            .connection
            .pragma_query_value(None, name, |row| row.get(0))?)
    }

    pub(super) fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
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
    pub(in crate::backend) fn close_whole(mut self) -> Result<(), StoreError> {
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
