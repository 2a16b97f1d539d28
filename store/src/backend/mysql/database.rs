// SPDX-License-Identifier: GPL-2.0-or-later
//! The server's database as a store's.

use std::path::Path;

use mysql::prelude::Queryable;
use mysql::{Params, Value as MysqlValue};

use super::connection::Mysql;
use super::schema::{
    MIGRATIONS, RECORD_COLUMN_COUNT, RECORD_COLUMNS, RECORDS_OF_SNAPSHOT, SCHEMA_VERSION, TABLES,
    VIEW_WORDS,
};
use crate::backend::sql::{
    self, Access, Backend, Database, Dialect, Form, SnapshotKey, Value, counter_values,
    insert_rows, one_integer, places, schema,
};
use crate::snapshot::Record;
use crate::store::StoreError;

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
        self.known_schema_version()?;
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
        by_key: "FORCE INDEX (PRIMARY, snapshot_counted)",
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
        self.check_size(sql, parameters)?;
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

    fn check_schema(&mut self) -> Result<Form, StoreError> {
        Ok(match self.known_schema_version()? {
            SCHEMA_VERSION => Form::Current,
            _ => Form::Former,
        })
    }

    fn largest_statement(&self) -> usize {
        self.largest_statement
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
        first: i64,
        records: i64,
    ) -> Result<u64, StoreError> {
        let mut values = snapshot.values().to_vec();
        values.extend([first, first + records - 1].map(Value::from));
        self.execute(
            "DELETE FROM record
             WHERE host_id = ? AND account_id = ? AND epoch = ? AND number BETWEEN ? AND ?",
            &values,
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

impl Mysql {
    /// Refuses what the server would, which then ends the connection without a word.
    fn check_size(&self, sql: &str, parameters: &[Value]) -> Result<(), StoreError> {
        let bytes: usize = parameters.iter().map(size).sum();
        let (bytes, limit) = (bytes.max(sql.len()), self.largest_statement);
        if bytes > limit {
            return Err(StoreError::PacketTooLarge(format!(
                "{bytes} bytes, of at most {limit}"
            )));
        }
        Ok(())
    }
}

/// The most bytes that a value takes in a statement, with its type and length.
fn size(value: &Value) -> usize {
    match value {
        Value::Null => 3,
        Value::Integer(_) | Value::Real(_) => 10,
        Value::Bytes(bytes) => bytes.len() + 11,
        Value::Text(text) => text.len() + 11,
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
