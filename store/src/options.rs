//! The command line's options that all programs share.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::backend::{DEFAULT_PATH, Sqlite, Store, StoreError};

/// Which store a program uses.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Store")]
pub struct StoreOptions {
    /// Kind of database: sqlite.
    #[arg(long, value_name = "KIND", default_value = "sqlite", value_parser = parse_backend, global = true)]
    backend: Backend,

    /// SQLite database file.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH, global = true)]
    db: PathBuf,
}

#[derive(Debug, Clone, Copy)]
enum Backend {
    Sqlite,
}

impl StoreOptions {
    /// Opens the store for writing; creates or upgrades its schema if need be.
    ///
    /// # Errors
    /// The store's.
    pub fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        match self.backend {
            Backend::Sqlite => {
                let mut store = Sqlite::open(&self.db)?;
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
        match self.backend {
            Backend::Sqlite => Ok(Box::new(Sqlite::open_read_only(&self.db)?)),
        }
    }

    /// Where the store is, for messages.
    pub fn location(&self) -> &Path {
        &self.db
    }
}

fn parse_backend(text: &str) -> Result<Backend, String> {
    match text {
        "sqlite" => Ok(Backend::Sqlite),
        "mysql" => Err("this version has no MySQL backend; use sqlite".to_owned()),
        _ => Err("expected sqlite".to_owned()),
    }
}
