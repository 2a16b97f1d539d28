// SPDX-License-Identifier: GPL-2.0-or-later
//! The store in one SQLite file.
//!
//! Durability: the database is in WAL mode with `synchronous=FULL`, so that every
//! commit syncs the log before it returns. With `NORMAL`, SQLite would sync at
//! checkpoints only, and a loss of power could take back a commit whose epoch the
//! kernel has already given up.
//!
//! Readers: a user of the file's group can read the database but not create files
//! beside it. SQLite needs the log and its index there, so closing leaves them.

mod connection;
mod database;
mod migration;
#[cfg(test)]
mod tests;
mod views;

pub use connection::{DEFAULT_PATH, Sqlite};
