// SPDX-License-Identifier: GPL-2.0-or-later
//! The databases that the contract is held over.

use std::path::{Path, PathBuf};

use mysql::prelude::Queryable;
use tempfile::TempDir;
use trafstat_store::backend::{Mysql, Sqlite};
use trafstat_store::store::Store;

use crate::{mariadb_server, mysql_server};

/// A place for one store, empty at first.
pub trait Database {
    /// How many cases a property is tried with: a database costs what it costs.
    const CASES: u32;
    fn create() -> Self;
    /// What another process needs to open it.
    fn location(&self) -> String;
    fn at(location: &str) -> Box<dyn Store>;
    /// Runs a statement as a user's own client would; gives the rows as text.
    fn run(&self, sql: &str) -> Vec<Vec<String>>;

    fn open(&self) -> Box<dyn Store> {
        Self::at(&self.location())
    }
}

pub struct SqliteDatabase(pub TempDir);

impl Database for SqliteDatabase {
    const CASES: u32 = 48;

    fn create() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn location(&self) -> String {
        self.0
            .path()
            .join("trafstat.db")
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn at(location: &str) -> Box<dyn Store> {
        let mut store = Sqlite::open(Path::new(location)).unwrap();
        store.migrate().unwrap();
        Box::new(store)
    }

    fn run(&self, sql: &str) -> Vec<Vec<String>> {
        let connection = rusqlite::Connection::open(self.location()).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut found = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            found.push(
                (0..columns)
                    .map(|column| match row.get_ref(column).unwrap() {
                        rusqlite::types::ValueRef::Integer(value) => value.to_string(),
                        rusqlite::types::ValueRef::Text(text) => {
                            String::from_utf8(text.to_vec()).unwrap()
                        }
                        other => format!("{other:?}"),
                    })
                    .collect(),
            );
        }
        found
    }
}

/// A database of a MariaDB server.
pub struct MariadbDatabase {
    socket: PathBuf,
    name: String,
}

impl Database for MariadbDatabase {
    const CASES: u32 = 12;

    fn create() -> Self {
        let socket = mariadb_server::socket().to_path_buf();
        let name = mariadb_server::create_database(&socket);
        Self { socket, name }
    }

    fn location(&self) -> String {
        format!("{} {}", self.socket.display(), self.name)
    }

    fn at(location: &str) -> Box<dyn Store> {
        let (socket, name) = location.split_once(' ').unwrap();
        let mut store = Mysql::open(&mariadb_server::login(Path::new(socket), name)).unwrap();
        store.migrate().unwrap();
        Box::new(store)
    }

    fn run(&self, sql: &str) -> Vec<Vec<String>> {
        let mut connection = mariadb_server::connect(&self.socket, Some(&self.name));
        let rows: Vec<mysql::Row> = connection.query(sql).unwrap();
        rows.into_iter()
            .map(|row| {
                row.unwrap()
                    .into_iter()
                    .map(|value| match value {
                        mysql::Value::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
                        other => other.as_sql(false),
                    })
                    .collect()
            })
            .collect()
    }
}

/// The same, on a server that allows no LOAD DATA LOCAL.
pub struct MariadbWithoutLoad(MariadbDatabase);

impl Database for MariadbWithoutLoad {
    const CASES: u32 = 4;

    fn create() -> Self {
        Self(MariadbDatabase::create())
    }

    fn location(&self) -> String {
        self.0.location()
    }

    fn at(location: &str) -> Box<dyn Store> {
        let (socket, name) = location.split_once(' ').unwrap();
        let login = mariadb_server::login(Path::new(socket), name);
        let mut store = Mysql::open(&login).unwrap().without_load_data();
        store.migrate().unwrap();
        Box::new(store)
    }

    fn run(&self, sql: &str) -> Vec<Vec<String>> {
        self.0.run(sql)
    }
}

/// The same, on MySQL's own server.
pub struct MysqlDatabase(MariadbDatabase);

impl Database for MysqlDatabase {
    const CASES: u32 = 4;

    fn create() -> Self {
        let socket = mysql_server::socket().to_path_buf();
        let name = mariadb_server::create_database(&socket);
        Self(MariadbDatabase { socket, name })
    }

    fn location(&self) -> String {
        self.0.location()
    }

    fn at(location: &str) -> Box<dyn Store> {
        MariadbDatabase::at(location)
    }

    fn run(&self, sql: &str) -> Vec<Vec<String>> {
        self.0.run(sql)
    }
}

/// The same, as that server allows unless it is told otherwise.
pub struct MysqlWithoutLoad(MysqlDatabase);

impl Database for MysqlWithoutLoad {
    const CASES: u32 = 4;

    fn create() -> Self {
        Self(MysqlDatabase::create())
    }

    fn location(&self) -> String {
        self.0.location()
    }

    fn at(location: &str) -> Box<dyn Store> {
        MariadbWithoutLoad::at(location)
    }

    fn run(&self, sql: &str) -> Vec<Vec<String>> {
        self.0.run(sql)
    }
}
