// SPDX-License-Identifier: GPL-2.0-or-later
//! Why the spool failed, in a sentence that says what to do.

use std::io;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use rusqlite::ErrorCode;
use rustix::fs::Access;
use rustix::io::Errno;
use thiserror::Error;

use super::SpoolPlace;

/// Less room on a disk than this is none.
const DISK_FULL_BYTES: u64 = 4 << 20;

/// Why the spool failed.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// The file or its folder cannot be made or opened.
    #[error("cannot open the spool {}: {source}", .path.display())]
    Open {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The system keeps the file from this user.
    #[error("not permitted to open the spool {}: run this as root", .0.display())]
    NotPermitted(PathBuf),
    /// Its own limit.
    #[error(
        "the spool {} is full: it holds the {limit} that it may (spool-size)",
        .path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// Its limit.
        limit: ByteSize,
    },
    /// The disk's limit.
    #[error(
        "the disk of the spool {} is full; make room, or name a file on another disk \
         (spool)",
        .0.display()
    )]
    DiskFull(PathBuf),
    /// The file cannot be written.
    #[error(
        "the spool {} is read-only; is its file system mounted read-only?",
        .0.display()
    )]
    ReadOnly(PathBuf),
    /// Another collector has it.
    #[error(
        "the spool {} is in use by another program; collect with one trafstat-store at a time",
        .0.display()
    )]
    Locked(PathBuf),
    /// The file is damaged, or no spool.
    #[error(
        "the spool {} is damaged, or is none: {reason}. Move it away, so that a new one is \
         made; \"sqlite3 FILE .recover\" saves what is left of it",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by a later release.
    #[error(
        "the spool {} has version {found}, this program knows {known}: upgrade trafstat",
        .path.display()
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// This program's.
        known: i64,
    },
    /// There is no snapshot of this number.
    #[error("the spool {} has no epoch {id}; \"trafstat-store spool list\" has their ids", .path.display())]
    NoSuchEpoch {
        /// The file.
        path: PathBuf,
        /// The number.
        id: i64,
    },
    /// The database library failed.
    #[error("the spool {} failed: {source}", .path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// Its error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

pub(super) fn failed(place: &SpoolPlace, error: rusqlite::Error) -> SpoolError {
    let path = place.path.clone();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => match free_bytes(&path) {
            Some(free) if free < DISK_FULL_BYTES => SpoolError::DiskFull(path),
            _ => SpoolError::Full {
                path,
                limit: place.limit,
            },
        },
        Some(ErrorCode::CannotOpen) if !is_permitted(&path) => SpoolError::NotPermitted(path),
        Some(ErrorCode::ReadOnly) => SpoolError::ReadOnly(path),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SpoolError::Locked(path),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => SpoolError::Damaged {
            path,
            reason: error.to_string(),
        },
        // The schema says that this is a spool, and a table or column is missing.
        Some(ErrorCode::Unknown) => SpoolError::Damaged {
            path,
            reason: error.to_string(),
        },
        _ => SpoolError::Failed {
            path,
            source: error.into(),
        },
    }
}

fn free_bytes(path: &Path) -> Option<u64> {
    let statistics = rustix::fs::statvfs(path).ok()?;
    Some(statistics.f_bavail * statistics.f_frsize)
}

fn is_permitted(path: &Path) -> bool {
    rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK) != Err(Errno::ACCESS)
}
