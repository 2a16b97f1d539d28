// SPDX-License-Identifier: GPL-2.0-or-later
//! Keeps snapshots on this host while the database is away.
//!
//! A SQLite file of snapshots as the kernel served them, compressed. A snapshot is
//! proved before it is kept, and proved again when it is read to be forwarded. What is
//! kept survives the loss of power: the journal is a rollback journal, and
//! `synchronous=EXTRA` syncs the folder too.
//!
//! ```text
//!            kept                  stored
//!   kernel ───────▶ waiting ──────────────────▶ (given up)
//!                    │   ▲
//!     refused several│   │ "spool retry"
//!               times▼   │
//!                   refused ──────────────────▶ (given up)
//!                             "spool drop"
//! ```

mod entries;
mod error;

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};
use thiserror::Error;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

pub use entries::{SpoolState, SpooledEpoch};
pub use error::SpoolError;

use super::recorder::Recorder;
use crate::kill_point::KillPoint;
use crate::origin::Origin;
use crate::snapshot::{Snapshot, SnapshotError};
use error::failed;

/// Where the spool is unless the user says otherwise.
pub const DEFAULT_SPOOL_PATH: &str = "/var/lib/trafstat/spool.db";

/// How large the spool may become unless the user says otherwise.
pub const DEFAULT_SPOOL_SIZE: ByteSize = ByteSize::gib(1);

/// Statements that bring the spool's schema from each version to the next.
const MIGRATIONS: [&str; 2] = [
    include_str!("0001_initial.sql"),
    include_str!("0002_set_aside.sql"),
];

/// The version of the spool's schema.
const VERSION: i64 = MIGRATIONS.len() as i64;

/// How much of a snapshot is compressed at once.
const PIECE_BYTES: usize = 1 << 20;

/// The most pages that SQLite lets a file have.
const MAX_PAGES: i64 = 0xffff_fffe;

const CACHE_KIB: i64 = 2 * 1024;

/// Longer than another process takes to keep a snapshot.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the spool is, and how large it may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolPlace {
    /// The file.
    pub path: PathBuf,
    /// Its largest size.
    pub limit: ByteSize,
}

/// The snapshots that wait on this host.
#[derive(Debug)]
pub struct Spool {
    place: SpoolPlace,
    connection: Connection,
}

/// A snapshot that waits.
#[derive(Debug)]
pub(super) struct Spooled {
    pub(super) id: i64,
    pub(super) origin: Origin,
}

/// Why a snapshot was not spooled.
#[derive(Debug, Error)]
pub(super) enum SpoolingError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

impl SpoolPlace {
    /// Whether there is a spool.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }
}

impl Default for SpoolPlace {
    fn default() -> Self {
        Self {
            path: PathBuf::from(DEFAULT_SPOOL_PATH),
            limit: DEFAULT_SPOOL_SIZE,
        }
    }
}

impl Spool {
    /// Opens the spool; makes one, closed to others, if there is none.
    ///
    /// # Errors
    /// That it cannot be opened, is damaged, or is of a later release.
    pub fn open(place: &SpoolPlace) -> Result<Self, SpoolError> {
        create(&place.path).map_err(|(path, source)| SpoolError::Open { path, source })?;
        let spool = || -> rusqlite::Result<(Connection, i64)> {
            let connection = Connection::open_with_flags(
                &place.path,
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "synchronous", "extra")?;
            // A migration makes a table anew that another one refers to.
            connection.pragma_update(None, "foreign_keys", false)?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            let version = version(&connection)?;
            Ok((connection, version))
        };
        let (connection, version) = spool().map_err(|error| failed(place, error))?;
        let mut spool = Self {
            place: place.clone(),
            connection,
        };
        if version > VERSION {
            return Err(SpoolError::TooNew {
                path: place.path.clone(),
                found: version,
                known: VERSION,
            });
        }
        spool.prepare().map_err(|error| failed(place, error))?;
        Ok(spool)
    }

    /// Keeps a snapshot that was opened through a recorder and not read any further; gives its
    /// id, which is an earlier one's if that is the same. Once this returns, a loss of power
    /// keeps it.
    pub(super) fn append<R: Read>(
        &mut self,
        origin: &Origin,
        snapshot: &mut Snapshot<Recorder<'_, R>>,
    ) -> Result<i64, SpoolingError> {
        let place = self.place.clone();
        let failed = |error| SpoolingError::Spool(failed(&place, error));
        let header = snapshot.header().clone();
        let header_bytes = snapshot.reader_mut().recorded().to_vec();
        // Any number of 64 bits has a place in the column.
        let epoch = header.epoch as i64;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let kept: Option<i64> = transaction
            .query_row(
                "SELECT id FROM epoch WHERE account_id = ?1 AND epoch = ?2 AND header = ?3",
                (header.account_id, epoch, &header_bytes),
                |row| row.get(0),
            )
            .optional()
            .map_err(failed)?;
        if let Some(id) = kept {
            // What is to be given up is checked to its end all the same.
            while snapshot.next_batch()?.is_some() {
                snapshot.reader_mut().forget();
            }
            return Ok(id);
        }
        let id: i64 = transaction
            .query_row(
                "INSERT INTO epoch (
                     account_id, epoch, machine_id, hostname, netns, header, spooled_ns)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING id",
                params![
                    header.account_id,
                    epoch,
                    origin.machine_id,
                    origin.hostname,
                    origin.netns,
                    header_bytes,
                    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
                ],
                |row| row.get(0),
            )
            .map_err(failed)?;
        {
            let mut insert = transaction
                .prepare("INSERT INTO piece (epoch_id, number, content) VALUES (?1, ?2, ?3)")
                .map_err(failed)?;
            let mut compressor = compressor().map_err(|source| SpoolError::Failed {
                path: place.path.clone(),
                source: source.into(),
            })?;
            let mut number = 0_i64;
            let mut keep = |bytes: &[u8]| -> Result<(), SpoolingError> {
                for piece in bytes.chunks(PIECE_BYTES) {
                    let content =
                        compressor
                            .compress(piece)
                            .map_err(|source| SpoolError::Failed {
                                path: place.path.clone(),
                                source: source.into(),
                            })?;
                    insert.execute((id, number, content)).map_err(failed)?;
                    number += 1;
                }
                Ok(())
            };
            loop {
                let more = snapshot.next_batch()?.is_some();
                let recorder = snapshot.reader_mut();
                if !more || recorder.recorded().len() >= PIECE_BYTES {
                    keep(recorder.recorded())?;
                    recorder.forget();
                }
                if !more {
                    break;
                }
            }
        }
        KillPoint::BeforeSpoolCommit.pass();
        transaction.commit().map_err(failed)?;
        Ok(id)
    }

    /// The snapshots that wait, in the order in which they are to be offered: as they came, but
    /// one that failed before does not keep the others waiting.
    pub(super) fn waiting(&self) -> Result<Vec<Spooled>, SpoolError> {
        let read = || {
            self.connection
                .prepare(
                    "SELECT id, machine_id, hostname, netns FROM epoch WHERE state = 'waiting'
                     ORDER BY tries, id",
                )?
                .query_map([], |row| {
                    Ok(Spooled {
                        id: row.get(0)?,
                        origin: Origin {
                            machine_id: row.get(1)?,
                            hostname: row.get(2)?,
                            netns: row.get(3)?,
                        },
                    })
                })?
                .collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|error| failed(&self.place, error))
    }

    /// Notes that the store did not take a snapshot. True if it is set aside, which it is after
    /// so many failures; none to go on trying.
    pub(super) fn note_failure(
        &mut self,
        id: i64,
        reason: &str,
        set_aside_after: Option<i64>,
    ) -> Result<bool, SpoolError> {
        self.connection
            .query_row(
                "UPDATE epoch SET tries = tries + 1, reason = ?2,
                     state = CASE WHEN tries + 1 >= ?3 THEN 'refused' ELSE state END
                 WHERE id = ?1 AND state = 'waiting' RETURNING state = 'refused'",
                params![id, reason, set_aside_after],
                |row| row.get(0),
            )
            .optional()
            .map(Option::unwrap_or_default)
            .map_err(|error| failed(&self.place, error))
    }

    /// Reads a snapshot as the kernel served it.
    pub(super) fn reader(&self, id: i64) -> SpooledReader<'_> {
        SpooledReader {
            spool: self,
            id,
            next: 0,
            piece: io::Cursor::new(Vec::new()),
        }
    }

    /// Gives a snapshot up: its records are safe in the store.
    pub(super) fn remove(&mut self, id: i64) -> Result<(), SpoolError> {
        let mut remove = || {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute("DELETE FROM piece WHERE epoch_id = ?1", [id])?;
            transaction.execute("DELETE FROM epoch WHERE id = ?1", [id])?;
            transaction.commit()
        };
        remove().map_err(|error| failed(&self.place, error))
    }

    /// Gives the disk back what the spool no longer needs.
    pub(super) fn shrink(&mut self) -> Result<(), SpoolError> {
        self.connection
            .execute_batch("VACUUM")
            .map_err(|error| failed(&self.place, error))
    }

    fn prepare(&mut self) -> rusqlite::Result<()> {
        let page_size: i64 = self
            .connection
            .pragma_query_value(None, "page_size", |row| row.get(0))?;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Again under the lock: another process may have made it meanwhile.
        let found = version(&transaction)?;
        if found < VERSION {
            for (migration, to) in MIGRATIONS.iter().zip(1..) {
                if to > found {
                    transaction.execute_batch(migration)?;
                }
            }
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        // Reads a page of each, so that another program's file fails here.
        transaction.query_row(
            "SELECT COUNT(*) FROM (SELECT id FROM epoch LIMIT 1)",
            [],
            |_| Ok(()),
        )?;
        transaction.commit()?;
        self.connection.pragma_update(None, "foreign_keys", true)?;
        // After the schema: it does not go below what there is.
        let limit = i64::try_from(self.place.limit.as_u64()).unwrap_or(i64::MAX);
        let pages = (limit / page_size).clamp(1, MAX_PAGES);
        self.connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
    }
}

/// Reads a spooled snapshot, a piece at a time.
pub struct SpooledReader<'a> {
    spool: &'a Spool,
    id: i64,
    next: i64,
    piece: io::Cursor<Vec<u8>>,
}

impl Read for SpooledReader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(bytes)?;
            if count > 0 || bytes.is_empty() {
                return Ok(count);
            }
            let content: Option<Vec<u8>> = self
                .spool
                .connection
                .prepare_cached("SELECT content FROM piece WHERE epoch_id = ?1 AND number = ?2")
                .and_then(|mut select| {
                    select
                        .query_row((self.id, self.next), |row| row.get(0))
                        .optional()
                })
                .map_err(|error| io::Error::other(failed(&self.spool.place, error)))?;
            let Some(content) = content else {
                return Ok(0);
            };
            self.next += 1;
            let piece = Decompressor::new()?
                .decompress(&content, PIECE_BYTES)
                .map_err(|error| {
                    io::Error::other(SpoolError::Damaged {
                        path: self.spool.place.path.clone(),
                        reason: error.to_string(),
                    })
                })?;
            self.piece = io::Cursor::new(piece);
        }
    }
}

impl fmt::Debug for SpooledReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpooledReader")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn create(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(folder)
            .map_err(|error| (folder.to_path_buf(), error))?;
    }
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err((path.to_path_buf(), error))
        }
        _ => Ok(()),
    }
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn compressor() -> io::Result<Compressor<'static>> {
    // The fastest level: a spool is written on a host that has other work.
    let mut compressor = Compressor::new(1)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    Ok(compressor)
}
