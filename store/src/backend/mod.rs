// SPDX-License-Identifier: GPL-2.0-or-later
//! The databases: one file each, and what all SQL databases do alike.
//!
//! Statements stand here, in the spool's file and in that of the original's tables, and
//! nowhere else.

mod mysql;
mod sql;
mod sqlite;

pub use mysql::{DEFAULT_PORT, Mysql, MysqlHost, MysqlLogin, Password, TlsMode};
pub use sqlite::{DEFAULT_PATH, Sqlite};
