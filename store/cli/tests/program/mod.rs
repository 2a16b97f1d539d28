// SPDX-License-Identifier: GPL-2.0-or-later
//! The program `trafstat-store`, and what it needs around it.

// Every test program uses its own part of this.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rusqlite::Connection;
use trafstat_store::backend::Sqlite;
use trafstat_store::origin::Origin;
use trafstat_store::query::{Field, Filter, Order, Query};
use trafstat_store::store::Store;

use crate::common::ProcFolder;

/// A kernel's folder and a place for a database.
pub struct Host {
    pub proc: ProcFolder,
    pub folder: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        Self {
            proc: ProcFolder::new(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn db(&self) -> PathBuf {
        self.folder.path().join("trafstat/trafstat.db")
    }

    pub fn command(&self) -> Command {
        let mut command = program();
        command
            .arg("--db")
            .arg(self.db())
            .arg("--spool")
            .arg(self.spool())
            .arg("--proc-root")
            .arg(self.proc.path());
        command
    }

    pub fn spool(&self) -> PathBuf {
        self.folder.path().join("spool.db")
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    pub fn sent_packets(&self) -> u64 {
        sent_packets(&self.db())
    }
}

/// The network namespace that tests run in.
pub fn netns() -> String {
    Origin::of_this_process().unwrap().netns
}

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trafstat-store"));
    command.env_remove("TRAFSTAT_STORE_KILL_AT");
    // Not this host's.
    command.env("TRAFSTAT_CONFIG", "/dev/null");
    command
}

/// A database of a server, as the command line names it.
pub fn mysql_url(socket: &Path, database: &str, user: &str) -> String {
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    format!(
        "mysql://{user}@localhost/{}?socket={}",
        encoded(database),
        encoded(socket.to_str().unwrap())
    )
}

pub fn sent_packets(db: &Path) -> u64 {
    let query = Query {
        // What only the records have.
        by: vec![Field::LocalIp, Field::RemoteIp],
        filter: Filter::default(),
        order: Order::Bytes,
        limit: None,
        ..Query::default()
    };
    let mut store = Sqlite::open_read_only(db).unwrap();
    store.query(&query).unwrap().total.sent_packets
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// How many epochs are in a host's spool.
pub fn waiting(host: &Host) -> i64 {
    Connection::open(host.spool())
        .unwrap()
        .query_row("SELECT COUNT(*) FROM epoch", [], |row| row.get(0))
        .unwrap()
}

/// Numbers that look random, the same for the same seed (xorshift64).
pub fn fastrand_like(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// A file system of its own, small.
pub struct Tmpfs(pub PathBuf);

impl Tmpfs {
    /// None, with a reason, where this user may not mount.
    pub fn mount(folder: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size}"),
                "trafstat-test",
            ])
            .arg(folder)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: not permitted to mount a tmpfs");
            return None;
        }
        Some(Self(folder.to_path_buf()))
    }

    pub fn remount(&self, option: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{option}")])
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a server may still have files open there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
