// SPDX-License-Identifier: GPL-2.0-or-later
//! Connects to a server, again where the connection was lost.

use std::collections::HashSet;
use std::time::Duration;

use mysql::Conn;
use mysql::prelude::Queryable;

use super::login::{LoggedIn, MysqlLogin, Purpose};
use super::schema::{NEWEST_READ, SCHEMA_VERSION};
use crate::backend::sql::{Database, one_integer};
use crate::store::StoreError;

/// A database of a MySQL or MariaDB server.
#[derive(Debug)]
pub struct Mysql {
    pub(super) login: MysqlLogin,
    pub(super) purpose: Purpose,
    /// The server and database, for messages.
    pub(super) location: String,
    /// None after it was lost, until the next transaction.
    pub(super) connection: Option<Conn>,
    pub(super) in_transaction: bool,
    pub(super) load_local: bool,
    /// The most bytes that the server takes of a statement and its values.
    pub(super) largest_statement: usize,
    never_load_local: bool,
    /// Views that were seen to be there.
    pub(super) views: HashSet<String>,
}

impl Mysql {
    /// Logs in to the first server that can be written to, for work of any length.
    ///
    /// [`Store::migrate`](crate::store::Store::migrate) makes the schema.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`], [`StoreError::Denied`], [`StoreError::ReadOnly`], or that the
    /// database is another program's or a later release's.
    pub fn open(login: &MysqlLogin) -> Result<Self, StoreError> {
        Self::open_for(login, Purpose::Write)
    }

    /// Logs in to append epochs: a server that is silent for longer than the login's
    /// `answer_timeout` is away.
    ///
    /// # Errors
    /// As [`Mysql::open`].
    pub fn open_to_append(login: &MysqlLogin) -> Result<Self, StoreError> {
        Self::open_for(login, Purpose::Append)
    }

    fn open_for(login: &MysqlLogin, purpose: Purpose) -> Result<Self, StoreError> {
        let mut store = Self {
            login: login.clone(),
            purpose,
            location: String::new(),
            connection: None,
            in_transaction: false,
            load_local: false,
            largest_statement: 0,
            never_load_local: false,
            views: HashSet::new(),
        };
        store.connect()?;
        let found = store.schema_version()?;
        let newest = match purpose {
            Purpose::Read => NEWEST_READ,
            _ => SCHEMA_VERSION,
        };
        match found > newest {
            true => Err(store.too_new(found)),
            false => Ok(store),
        }
    }

    /// Logs in for queries, to the first server that can be used at all.
    ///
    /// # Errors
    /// As [`Mysql::open`], or that the schema is not there or not this program's.
    pub fn open_read_only(login: &MysqlLogin) -> Result<Self, StoreError> {
        let mut store = Self::open_for(login, Purpose::Read)?;
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

    pub(super) fn connect(&mut self) -> Result<(), StoreError> {
        let LoggedIn {
            connection,
            server,
            host,
        } = self.login.connect_for(self.purpose)?;
        self.location = format!("database {} at {host}", self.login.database);
        self.load_local = server.takes_files() && !self.never_load_local;
        self.largest_statement = server.largest_statement();
        self.connection = Some(connection);
        Ok(())
    }

    /// Before a transaction: a connection that works.
    pub(super) fn revive(&mut self) -> Result<(), StoreError> {
        let alive = self
            .connection
            .as_mut()
            .is_some_and(|connection| connection.ping().is_ok());
        match alive {
            true => Ok(()),
            false => self.connect(),
        }
    }

    /// Gives the schema's version; refuses what this program would write or copy incompletely, a
    /// schema that is newer.
    pub(super) fn known_schema_version(&mut self) -> Result<i64, StoreError> {
        let found = one_integer(
            self,
            "SELECT COALESCE(MAX(version), 0) FROM trafstat_schema",
            &[],
        )?;
        match found > SCHEMA_VERSION {
            true => Err(self.too_new(found)),
            false => Ok(found),
        }
    }

    fn too_new(&self, found: i64) -> StoreError {
        StoreError::TooNew {
            location: self.location.clone(),
            found,
            known: SCHEMA_VERSION,
        }
    }

    pub(super) fn run<T>(
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

    pub(super) fn run_text(&mut self, sql: &str) -> Result<(), StoreError> {
        self.run(|connection| Ok(connection.query_drop(sql)?))
    }

    /// The schema's version; 0 in an empty database.
    pub(super) fn schema_version(&mut self) -> Result<i64, StoreError> {
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
}
