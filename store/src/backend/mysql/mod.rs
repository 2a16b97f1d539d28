// SPDX-License-Identifier: GPL-2.0-or-later
//! The store in a database of a MySQL or MariaDB server.
//!
//! Inserting: `LOAD DATA LOCAL` from this process's memory where the server allows it,
//! else INSERT of many rows. Neither needs a privilege beyond those on the database.
//!
//! Writers: every key begins with the host's id, transactions read what was committed
//! and lock no gaps, and a transaction begins by locking its host's row. So hosts never
//! wait for each other, and collectors of one host take turns. What the server takes back
//! all the same, deadlock or lost connection, is taken back whole: the snapshot is
//! appended again, and its identity tells whether it was committed.

mod connection;
mod database;
mod error;
mod lines;
mod login;
mod migration;
mod schema;
mod server;
mod user;

pub use connection::Mysql;
pub use login::{DEFAULT_PORT, MysqlHost, MysqlLogin, Password, TlsMode};
