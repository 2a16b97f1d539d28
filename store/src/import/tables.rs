// SPDX-License-Identifier: GPL-2.0-or-later
//! The tables of the original xt_TRAFSTAT: read, never written.
//!
//! A table is read page by page along its primary key, so that the original's collector
//! need not wait for its end. All pages are of one transaction, for the end of which a
//! TRUNCATE waits, as the original's rotation does it.

use std::vec::IntoIter;

use jiff::Timestamp;
use mysql::Conn;
use mysql::prelude::Queryable;

use super::{COLUMNS, Row};
use crate::backend::MysqlLogin;
use crate::store::StoreError;

/// A server's database with tables of the original.
#[derive(Debug)]
pub struct OriginalTables {
    connection: Conn,
}

impl OriginalTables {
    /// Logs in to the first server that answers.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] or [`StoreError::Denied`].
    pub fn open(login: &MysqlLogin) -> Result<Self, StoreError> {
        let (mut connection, _) = login.connect()?;
        for statement in ["SET NAMES utf8mb4", "SET SESSION TRANSACTION READ ONLY"] {
            connection.query_drop(statement)?;
        }
        Ok(Self { connection })
    }

    /// The names of all tables, without views: one of ours has the same columns.
    ///
    /// # Errors
    /// The server's.
    pub fn names(&mut self) -> Result<Vec<String>, StoreError> {
        // A join within information_schema is not for a server in use: MariaDB 10.11 was
        // seen to die of one while others defined views.
        let tables: Vec<(String, String)> = self
            .connection
            .query("SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'")?;
        Ok(tables.into_iter().map(|(name, _)| name).collect())
    }

    /// The rows of a table, in the order in which they were stored.
    ///
    /// # Errors
    /// The server's, that there is no such table included.
    pub fn rows(
        &mut self,
        table: &str,
    ) -> Result<impl Iterator<Item = Result<Row, StoreError>> + use<'_>, StoreError> {
        self.connection.query_drop("START TRANSACTION READ ONLY")?;
        let mut rows = Rows {
            connection: &mut self.connection,
            table: table.to_owned(),
            page: Vec::new().into_iter(),
            last_id: None,
            ended: false,
        };
        rows.turn()?;
        Ok(rows)
    }
}

struct Rows<'a> {
    connection: &'a mut Conn,
    table: String,
    page: IntoIter<mysql::Row>,
    /// `_traf_id` of the row that was given last.
    last_id: Option<u64>,
    ended: bool,
}

impl Rows<'_> {
    /// Asks for the next page.
    fn turn(&mut self) -> Result<(), StoreError> {
        let (condition, parameters) = match self.last_id {
            Some(id) => ("WHERE _traf_id > ?", vec![mysql::Value::UInt(id)]),
            None => ("", Vec::new()),
        };
        let parameters = match parameters.is_empty() {
            true => mysql::Params::Empty,
            false => mysql::Params::Positional(parameters),
        };
        let rows: Vec<mysql::Row> = self.connection.exec(
            format!(
                "SELECT _traf_id, UNIX_TIMESTAMP(timestamp), {} FROM {} {condition}
                 ORDER BY _traf_id LIMIT {PAGE}",
                COLUMNS.join(", "),
                quoted(&self.table)
            ),
            parameters,
        )?;
        self.ended = rows.len() < PAGE;
        self.page = rows.into_iter();
        Ok(())
    }

    fn row(&mut self, row: mysql::Row) -> Result<Row, StoreError> {
        let mut columns = row.unwrap().into_iter();
        let mut number = || match columns.next() {
            None | Some(mysql::Value::NULL) => Ok(0),
            Some(value) => mysql::from_value_opt::<u64>(value)
                .map_err(|error| StoreError::Corrupt(error.to_string())),
        };
        let (id, seconds) = (number()?, number()?);
        let mut counts = [0; COLUMNS.len()];
        for count in &mut counts {
            *count = number()?;
        }
        self.last_id = Some(id);
        let stored = match i64::try_from(seconds) {
            // No time, such as 0000-00-00.
            Ok(0) | Err(_) => None,
            Ok(seconds) => Timestamp::from_second(seconds).ok(),
        };
        Row::new(counts, stored)
            .map_err(|reason| StoreError::Corrupt(format!("{}, row {id}: {reason}", self.table)))
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.page.next() {
                return Some(self.row(row));
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.turn() {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        // Should it fail, the transaction ends with the connection.
        let _ = self.connection.query_drop("ROLLBACK");
    }
}

const PAGE: usize = 20_000;

/// A name as an identifier, whatever is in it.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
