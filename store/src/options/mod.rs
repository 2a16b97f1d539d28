// SPDX-License-Identifier: GPL-2.0-or-later
//! The configuration, and where it says that the store is.
//!
//! Precedence: command line, environment, configuration file, option files of MySQL's
//! clients, defaults. The first two are the programs'.

pub mod config;
pub mod mysql;
pub mod option_file;
pub mod quota;
pub mod secret;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use crate::backend::{Mysql, Sqlite};
use crate::store::{Store, StoreError};
use mysql::MysqlOptions;

/// A kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A file.
    Sqlite,
    /// A MySQL or MariaDB server.
    Mysql,
}

/// Where the store is, everything considered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A SQLite database file.
    Sqlite(PathBuf),
    /// A database on a MySQL server.
    Mysql(MysqlOptions),
}

/// A text that names no kind of database.
#[derive(Debug, Error)]
#[error("expected sqlite or mysql")]
pub struct BackendError;

impl FromStr for Backend {
    type Err = BackendError;

    fn from_str(text: &str) -> Result<Self, BackendError> {
        match text {
            "sqlite" => Ok(Self::Sqlite),
            "mysql" => Ok(Self::Mysql),
            _ => Err(BackendError),
        }
    }
}

impl Location {
    /// Opens the store for writing; creates or upgrades its schema if need be.
    ///
    /// # Errors
    /// The store's.
    pub fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        match self {
            Self::Sqlite(path) => {
                let mut store = Sqlite::open(path)?;
                store.migrate()?;
                Ok(Box::new(store))
            }
            Self::Mysql(options) => {
                let mut store = Mysql::open(&options.login())?;
                store.migrate()?;
                Ok(Box::new(store))
            }
        }
    }

    /// Opens the store for a collector, which does not wait for a server that is silent; creates
    /// or upgrades its schema if need be.
    ///
    /// # Errors
    /// The store's.
    pub fn open_to_append(&self) -> Result<Box<dyn Store>, StoreError> {
        match self {
            Self::Sqlite(_) => self.open(),
            Self::Mysql(options) => {
                let mut store = Mysql::open_to_append(&options.login())?;
                store.migrate()?;
                Ok(Box::new(store))
            }
        }
    }

    /// Opens the store for queries only.
    ///
    /// # Errors
    /// The store's.
    pub fn open_read_only(&self) -> Result<Box<dyn Store>, StoreError> {
        match self {
            Self::Sqlite(path) => Ok(Box::new(Sqlite::open_read_only(path)?)),
            Self::Mysql(options) => Ok(Box::new(Mysql::open_read_only(&options.login())?)),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Mysql(options) => {
                f.write_str("mysql://")?;
                for (number, host) in options.hosts.iter().enumerate() {
                    let separator = if number == 0 { "" } else { "," };
                    write!(f, "{separator}{host}")?;
                }
                write!(f, "/{}", options.database.as_deref().unwrap_or_default())
            }
        }
    }
}
