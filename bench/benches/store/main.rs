// SPDX-License-Identifier: GPL-2.0-or-later
//! What storing costs, beside what it would cost without dictionary, sums and identity.
//!
//! One run measures both sides of every ratio, epoch by epoch in turns, on the same disk:
//!
//! - SQLite beside a bare loop of a prepared INSERT into a table without any key, in the
//!   same journal mode, a transaction an epoch;
//! - MariaDB beside `LOAD DATA INFILE` of the original module's CSV into the original's
//!   table, turned to InnoDB, on the same server;
//! - a month's top 10 from the rollups beside the same over the records.
//!
//! A day is 288 epochs of 50,000 keys, of which four of five were in the epoch before;
//! local and remote addresses, services and volumes follow Zipf's law.

mod day;
#[path = "../../../store/tests/common/mariadb.rs"]
mod mariadb;
mod month;
mod traffic;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Measures the stores; prints ratios.
#[derive(Debug, Parser)]
struct Options {
    /// Epochs of the day that go into SQLite.
    #[arg(long, default_value_t = 288)]
    epochs: u32,

    /// Epochs of the day that go into MariaDB.
    #[arg(long, default_value_t = 288)]
    mariadb_epochs: u32,

    /// Keys of an epoch.
    #[arg(long, default_value_t = 50_000)]
    keys: usize,

    /// Records of the month that is asked about; 0 leaves it out.
    #[arg(long, default_value_t = 10_000_000)]
    month_records: usize,

    /// Folder for SQLite's files.
    #[arg(long)]
    folder: Option<PathBuf>,

    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?,
    };
    day::sqlite(folder.path(), options.epochs, options.keys)?;
    day::ipv6_size(folder.path(), options.epochs.min(48), options.keys)?;
    day::mariadb(options.mariadb_epochs, options.keys)?;
    if options.month_records > 0 {
        month::sqlite(folder.path(), options.month_records)?;
        month::mariadb(options.month_records)?;
    }
    Ok(())
}
