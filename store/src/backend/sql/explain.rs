// SPDX-License-Identifier: GPL-2.0-or-later
//! A database that tells how it runs what it is asked.

use super::{Access, Database, Dialect, Form, SnapshotKey, Value};
use crate::snapshot::Record;
use crate::store::StoreError;

/// Explains every query before it is run.
pub(super) struct Explaining<'a, D> {
    pub(super) database: &'a mut D,
    /// What the database said: one line for each step of each query.
    pub(super) lines: Vec<Vec<Value>>,
}

impl<D: Database> Database for Explaining<'_, D> {
    const DIALECT: Dialect = D::DIALECT;

    fn location(&self) -> String {
        self.database.location()
    }

    fn begin(&mut self, access: Access) -> Result<(), StoreError> {
        self.database.begin(access)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.database.commit()
    }

    fn roll_back(&mut self) {
        self.database.roll_back();
    }

    fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, StoreError> {
        self.database.execute(sql, parameters)
    }

    fn select(
        &mut self,
        sql: &str,
        parameters: &[Value],
        each: &mut dyn FnMut(&[Value]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let lines = &mut self.lines;
        let explain = format!("{} {sql}", D::DIALECT.explain);
        self.database.select(&explain, parameters, &mut |row| {
            lines.push(row.to_vec());
            Ok(())
        })?;
        self.database.select(sql, parameters, each)
    }

    fn next_record(&mut self) -> Result<i64, StoreError> {
        self.database.next_record()
    }

    fn insert_records(
        &mut self,
        snapshot: SnapshotKey,
        first: i64,
        records: &[Record],
    ) -> Result<(), StoreError> {
        self.database.insert_records(snapshot, first, records)
    }

    fn delete_records(
        &mut self,
        snapshot: SnapshotKey,
        first: i64,
        records: i64,
    ) -> Result<u64, StoreError> {
        self.database.delete_records(snapshot, first, records)
    }

    fn check_schema(&mut self) -> Result<Form, StoreError> {
        self.database.check_schema()
    }

    fn largest_statement(&self) -> usize {
        self.database.largest_statement()
    }

    fn ensure_account_view(&mut self, view: &str) -> Result<(), StoreError> {
        self.database.ensure_account_view(view)
    }
}
