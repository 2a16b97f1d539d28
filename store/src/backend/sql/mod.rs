// SPDX-License-Identifier: GPL-2.0-or-later
//! What every SQL database does alike: append, query, rotate, check, copy, export.
//!
//! The schema is one (`docs/SCHEMA.md`), and so is nearly every statement. A backend
//! gives a connection ([`Database`]) and the few words that differ ([`Dialect`]).
//! Values are always bound; what stands in the text of a statement is this program's
//! own.

mod adopt;
mod append;
mod archive;
mod backend;
mod bound;
mod check;
mod conditions;
mod copy;
mod cut_off;
mod deletion;
mod explain;
mod export;
mod fields;
mod grown;
mod growth;
mod hosts;
mod kept;
mod lease;
mod owner;
mod parts;
mod proof;
mod query;
mod reading;
mod recount;
mod restore;
mod rollup;
mod rotate;
pub(super) mod schema;
mod store;
mod stored;

use std::net::IpAddr;

use jiff::Timestamp;

pub(super) use backend::Backend;
pub(super) use copy::back_up;
pub(super) use recount::recount;

use crate::snapshot::{Counters, Record};
use crate::store::StoreError;

/// A connection to a database that holds the schema.
pub(super) trait Database {
    /// The words in which it differs.
    const DIALECT: Dialect;

    /// What the database is called in messages.
    fn location(&self) -> String;

    /// Begins a transaction.
    fn begin(&mut self, access: Access) -> Result<(), StoreError>;

    /// Makes the transaction durable.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Ends the transaction, if there is one, as if it had not been.
    fn roll_back(&mut self);

    /// Runs a statement; gives how many rows it changed.
    fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, StoreError>;

    /// Runs a query and shows each row.
    fn select(
        &mut self,
        sql: &str,
        parameters: &[Value],
        each: &mut dyn FnMut(&[Value]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// The number that the first record of a new snapshot has.
    fn next_record(&mut self) -> Result<i64, StoreError>;

    /// Adds records of a snapshot, numbered from `first` on, in the fastest safe way.
    fn insert_records(
        &mut self,
        snapshot: SnapshotKey,
        first: i64,
        records: &[Record],
    ) -> Result<(), StoreError>;

    /// Deletes the records of a snapshot; gives how many they were.
    fn delete_records(
        &mut self,
        snapshot: SnapshotKey,
        first: i64,
        records: i64,
    ) -> Result<u64, StoreError>;

    /// Gives the form in which the schema takes epochs; refuses one that a later release's program
    /// brought up to date since this one opened it.
    fn check_schema(&mut self) -> Result<Form, StoreError>;

    /// The most bytes that a statement and its values may have together.
    fn largest_statement(&self) -> usize {
        usize::MAX
    }

    /// Makes the view with the original's columns, unless it is there.
    fn ensure_account_view(&mut self, view: &str) -> Result<(), StoreError>;
}

/// The form in which a schema takes epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// This program's.
    Current,
    /// That of the version before, which other hosts may still need: an epoch counts when it
    /// closed, and has no sums by local address and service. The migration makes both good.
    Former,
}

/// What a snapshot is known by within a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SnapshotKey {
    pub(super) host_id: i64,
    pub(super) account_id: i64,
    pub(super) epoch: i64,
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading, as of one moment.
    Read,
    /// Writing.
    Write,
}

/// The words in which the databases differ.
#[derive(Debug)]
pub(super) struct Dialect {
    /// Which records `r` are those of snapshot `s`.
    pub(super) records_of_snapshot: &'static str,
    /// What the records `r` of a snapshot are in order by.
    pub(super) record_number: &'static str,
    /// A join that keeps to the order in which it is written.
    pub(super) ordered_join: &'static str,
    /// After a table: it is looked up by its primary key, however few rows it has.
    pub(super) by_primary_key: &'static str,
    /// After `snapshot AS s` in a join: that it is read by a key, account by account.
    pub(super) by_key: &'static str,
    /// Inserts, or does nothing where the key exists.
    pub(super) insert_ignore: &'static str,
    /// What follows a SELECT that means to change the row.
    pub(super) for_update: &'static str,
    /// The type to which a sum is cast, so that it is read as an integer.
    pub(super) integer: &'static str,
    /// Asks for the server's clock, in nanoseconds since 1970; none if there is no server.
    pub(super) server_clock: Option<&'static str>,
    /// Shows how a query would be run.
    pub(super) explain: &'static str,
    /// How many rows one INSERT takes well.
    pub(super) rows_per_insert: usize,
    /// Before the column list of an upsert's changes.
    pub(super) on_conflict: &'static str,
    /// The value that was to be inserted, around a column's name.
    pub(super) offered: (&'static str, &'static str),
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Bytes(Vec<u8>),
    Text(String),
}

/// How many records or sums a transaction deletes or adds at most, but for the one that appends
/// an epoch: with the rows that tell of them, fewer than 100,000.
///
/// A cluster refuses what is too large, other writers wait for its locks, and SQLite's log has
/// to hold all of it.
pub(super) const ROWS_AT_ONCE: u64 = 99_000;

/// The most bytes that a value of a row takes in a statement of many rows: an address of 16
/// bytes, its length and type, and its place in the text.
const VALUE_BYTES: usize = 24;

/// The counters' columns, in the order of [`counters`] and [`counter_values`].
pub(super) const COUNTERS: [&str; 5] = [
    "sent_packets",
    "received_packets",
    "sent_bytes",
    "received_bytes",
    "syn_packets",
];

/// The largest number that a column holds.
const LARGEST: u64 = i64::MAX as u64;

impl SnapshotKey {
    /// Its columns host_id, account_id and epoch.
    pub(super) fn values(self) -> [Value; 3] {
        [self.host_id, self.account_id, self.epoch].map(Value::from)
    }
}

impl Value {
    pub(super) fn integer(&self) -> Result<i64, StoreError> {
        match self {
            Self::Integer(value) => Ok(*value),
            // MySQL's sums are decimals, which come as text.
            Self::Bytes(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| self.unexpected("an integer")),
            _ => Err(self.unexpected("an integer")),
        }
    }

    pub(super) fn unsigned(&self) -> Result<u64, StoreError> {
        u64::try_from(self.integer()?).map_err(|_| self.unexpected("a number from 0"))
    }

    pub(super) fn real(&self) -> Result<f64, StoreError> {
        match self {
            Self::Real(value) => Ok(*value),
            Self::Integer(value) => Ok(*value as f64),
            _ => Err(self.unexpected("a number")),
        }
    }

    pub(super) fn small<T: TryFrom<i64>>(&self) -> Result<T, StoreError> {
        T::try_from(self.integer()?).map_err(|_| self.unexpected("a smaller number"))
    }

    pub(super) fn bytes(&self) -> Result<&[u8], StoreError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Text(text) => Ok(text.as_bytes()),
            _ => Err(self.unexpected("bytes")),
        }
    }

    pub(super) fn text(&self) -> Result<&str, StoreError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| self.unexpected("text"))
    }

    pub(super) fn address(&self) -> Result<IpAddr, StoreError> {
        let bytes = self.bytes()?;
        if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
            return Ok(IpAddr::from(octets));
        }
        <[u8; 16]>::try_from(bytes)
            .map(IpAddr::from)
            .map_err(|_| self.unexpected("an address of 4 or 16 bytes"))
    }

    fn unexpected(&self, expected: &str) -> StoreError {
        StoreError::Corrupt(format!("a column has {self:?}, not {expected}"))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<u8> for Value {
    fn from(value: u8) -> Self {
        Self::Integer(value.into())
    }
}

impl From<u16> for Value {
    fn from(value: u16) -> Self {
        Self::Integer(value.into())
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl From<IpAddr> for Value {
    /// 4 or 16 bytes in network order.
    fn from(ip: IpAddr) -> Self {
        Self::Bytes(match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        })
    }
}

/// Runs `work` in a transaction, which ends with it.
pub(super) fn in_transaction<D: Database, T>(
    database: &mut D,
    access: Access,
    work: impl FnOnce(&mut D) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    database.begin(access)?;
    let done = work(database).and_then(|done| match access {
        Access::Read => Ok(done),
        Access::Write => database.commit().map(|()| done),
    });
    if access == Access::Read || done.is_err() {
        database.roll_back();
    }
    done
}

/// The first row of a query, if there is one.
pub(super) fn first_row<D: Database>(
    database: &mut D,
    sql: &str,
    parameters: &[Value],
) -> Result<Option<Vec<Value>>, StoreError> {
    let mut first = None;
    database.select(sql, parameters, &mut |row| {
        if first.is_none() {
            first = Some(row.to_vec());
        }
        Ok(())
    })?;
    Ok(first)
}

/// The one integer that a query gives.
pub(super) fn one_integer<D: Database>(
    database: &mut D,
    sql: &str,
    parameters: &[Value],
) -> Result<i64, StoreError> {
    match first_row(database, sql, parameters)?.as_deref() {
        Some([value, ..]) => value.integer(),
        _ => Err(StoreError::Corrupt(format!("no row from: {sql}"))),
    }
}

/// The counters in a row from `first` on.
pub(super) fn counters(row: &[Value], first: usize) -> Result<Counters, StoreError> {
    let counter = |offset: usize| match row[first + offset].unsigned()? {
        // MySQL casts a larger sum to this. No account's reaches it, but that of several may.
        LARGEST => Err(StoreError::SumTooLarge),
        counter => Ok(counter),
    };
    Ok(Counters {
        sent_packets: counter(0)?,
        received_packets: counter(1)?,
        sent_bytes: counter(2)?,
        received_bytes: counter(3)?,
        syn_packets: counter(4)?,
    })
}

/// Counters as columns hold them.
pub(super) fn counter_values(counters: &Counters) -> Result<[i64; 5], StoreError> {
    Ok([
        signed("sent packets", counters.sent_packets)?,
        signed("received packets", counters.received_packets)?,
        signed("sent bytes", counters.sent_bytes)?,
        signed("received bytes", counters.received_bytes)?,
        signed("SYN packets", counters.syn_packets)?,
    ])
}

/// A number as a column holds it.
pub(super) fn signed(what: &'static str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::OutOfRange { what, value })
}

/// A time as columns hold it; times that they cannot hold become the nearest.
pub(super) fn nanoseconds(time: Timestamp) -> i64 {
    let nanoseconds = time.as_nanosecond();
    i64::try_from(nanoseconds).unwrap_or(if nanoseconds < 0 { i64::MIN } else { i64::MAX })
}

/// `(?, ?), (?, ?)`: places for rows of so many columns.
pub(super) fn places(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(", "));
    vec![row; rows].join(", ")
}

/// Inserts rows by statements of some sizes only, so that each stays prepared.
pub(super) fn insert_rows<D: Database>(
    database: &mut D,
    mut values: &[Value],
    columns: usize,
    statement: impl Fn(usize) -> String,
) -> Result<(), StoreError> {
    let mut rows = D::DIALECT.rows_per_insert;
    while rows > 1 && rows * columns * VALUE_BYTES > database.largest_statement() {
        rows = (rows / 8).max(1);
    }
    while !values.is_empty() {
        while rows * columns > values.len() {
            rows = (rows / 8).max(1);
        }
        let sql = statement(rows);
        while rows * columns <= values.len() && !values.is_empty() {
            let (now, rest) = values.split_at(rows * columns);
            database.execute(&sql, now)?;
            values = rest;
        }
    }
    Ok(())
}
