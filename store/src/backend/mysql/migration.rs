// SPDX-License-Identifier: GPL-2.0-or-later
//! Brings the schema to this program's version.

use mysql::Conn;
use mysql::prelude::Queryable;

use super::connection::Mysql;
use super::login::Purpose;
use super::schema::{APPENDED, VIEW_WORDS};
use crate::backend::sql::{Database, Value, insert_rows, one_integer, places, recount, schema};
use crate::protocol;
use crate::store::StoreError;

/// The lock of whoever migrates a database. Its name may have 64 characters, as that of the
/// database; MySQL has no SHA1 any more.
const MIGRATION_LOCK: &str = "CONCAT('trafstat.', LEFT(SHA2(DATABASE(), 256), 40))";

/// How a change of a table says that it was made before: ER_DUP_FIELDNAME, the table has a column
/// of the name, and ER_CANT_DROP_FIELD_OR_KEY, it has no such key any more.
const MADE_BEFORE: [u16; 2] = [1060, 1091];

impl Mysql {
    /// Brings the schema to the version that this list of migrations ends with.
    ///
    /// MySQL commits every definition by itself, so each can be repeated, and the version
    /// is written when all of it is there.
    pub(super) fn migrate_by(&mut self, migrations: &[&str]) -> Result<(), StoreError> {
        let newest = migrations.len() as i64;
        let version = self.schema_version()?;
        if version == newest {
            // A collector of an earlier version may have stored something since.
            return recount(self);
        }
        if self.purpose == Purpose::Append {
            // Others may still need the version before; "migrate" ends that.
            if APPENDED.contains(&version) {
                return Ok(());
            }
            // A migration takes longer than an append may.
            return Self::open(&self.login)?.migrate_by(migrations);
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
        recount(self)?;
        for (name, select) in schema::views(&VIEW_WORDS) {
            self.define_view(name, &select)?;
        }
        for view in self.account_views()? {
            self.define_view(&view, &schema::account_view_select(&view, &VIEW_WORDS))?;
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

    /// The views with the original's columns that were made.
    fn account_views(&mut self) -> Result<Vec<String>, StoreError> {
        let mut views = Vec::new();
        self.select("SELECT name FROM account_view", &[], &mut |row| {
            views.push(row[0].text()?.to_owned());
            Ok(())
        })?;
        Ok(views)
    }

    pub(super) fn define_view(&mut self, name: &str, select: &str) -> Result<(), StoreError> {
        self.run_text(&format!(
            "CREATE OR REPLACE SQL SECURITY INVOKER VIEW {name} AS {select}"
        ))
    }
}

/// Runs a statement of a migration, which may have been run before.
///
/// Tables are made unless they exist. MySQL has no such words for columns; all that a version
/// changes in a table comes in one statement, which is run as a whole or not at all.
fn define(connection: &mut Conn, statement: &str) -> Result<(), StoreError> {
    match connection.query_drop(statement) {
        Err(mysql::Error::MySqlError(error)) if MADE_BEFORE.contains(&error.code) => Ok(()),
        done => Ok(done?),
    }
}
