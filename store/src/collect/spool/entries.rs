// SPDX-License-Identifier: GPL-2.0-or-later
//! The spool as people look into it: what waits, what is set aside, and why.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row};
use serde::Serialize;

use super::error::failed;
use super::{Spool, SpoolError, SpoolPlace, SpooledReader};
use crate::origin::Origin;
use crate::snapshot::{Header, Snapshot, SnapshotError};

/// An epoch in the spool.
#[derive(Debug, Clone)]
pub struct SpooledEpoch {
    /// Its number in the spool.
    pub id: i64,
    /// Where it was counted.
    pub origin: Origin,
    /// Its snapshot's header; none if that is damaged.
    pub header: Option<Header>,
    /// When it was kept.
    pub spooled: Timestamp,
    /// How much room it takes.
    pub bytes: u64,
    /// Whether it is offered to the database.
    pub state: SpoolState,
    /// How many rounds failed to store it.
    pub tries: u64,
    /// Why the last one did.
    pub reason: Option<String>,
}

/// What becomes of an epoch in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SpoolState {
    /// Every round offers it to the database.
    Waiting,
    /// The database refused it several times; it is set aside.
    Refused,
}

impl SpoolState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Refused => "refused",
        }
    }
}

impl Spool {
    /// Opens the spool if there is one.
    ///
    /// # Errors
    /// As [`Spool::open`].
    pub fn open_existing(place: &SpoolPlace) -> Result<Option<Self>, SpoolError> {
        place.exists().then(|| Self::open(place)).transpose()
    }

    /// How many epochs are in a state.
    ///
    /// # Errors
    /// The spool's.
    pub fn count(&self, state: SpoolState) -> Result<u64, SpoolError> {
        self.connection
            .query_row(
                "SELECT COUNT(*) FROM epoch WHERE state = ?1",
                [state.name()],
                |row| row.get::<_, i64>(0),
            )
            .map(i64::unsigned_abs)
            .map_err(|error| failed(&self.place, error))
    }

    /// All epochs, in the order in which they came.
    ///
    /// # Errors
    /// The spool's.
    pub fn list(&self) -> Result<Vec<SpooledEpoch>, SpoolError> {
        let read = || {
            self.connection
                .prepare(&select("TRUE"))?
                .query_map([], entry)?
                .collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|error| failed(&self.place, error))
    }

    /// One epoch.
    ///
    /// # Errors
    /// [`SpoolError::NoSuchEpoch`], or the spool's.
    pub fn get(&self, id: i64) -> Result<SpooledEpoch, SpoolError> {
        self.connection
            .query_row(&select("e.id = ?1"), [id], entry)
            .optional()
            .map_err(|error| failed(&self.place, error))?
            .ok_or_else(|| self.no_such_epoch(id))
    }

    /// Reads an epoch's snapshot, which proves itself as it is read.
    ///
    /// # Errors
    /// That it is damaged.
    pub fn snapshot(&self, id: i64) -> Result<Snapshot<SpooledReader<'_>>, SnapshotError> {
        Snapshot::open(self.reader(id))
    }

    /// Has an epoch offered to the database again.
    ///
    /// # Errors
    /// [`SpoolError::NoSuchEpoch`], or the spool's.
    pub fn retry(&mut self, id: i64) -> Result<(), SpoolError> {
        let changed = self
            .connection
            .execute(
                "UPDATE epoch SET state = 'waiting', tries = 0, reason = NULL WHERE id = ?1",
                [id],
            )
            .map_err(|error| failed(&self.place, error))?;
        self.changed_one(id, changed)
    }

    /// Deletes an epoch, for ever.
    ///
    /// # Errors
    /// [`SpoolError::NoSuchEpoch`], or the spool's.
    pub fn discard(&mut self, id: i64) -> Result<(), SpoolError> {
        self.get(id)?;
        self.remove(id)
    }

    fn changed_one(&self, id: i64, changed: usize) -> Result<(), SpoolError> {
        match changed {
            0 => Err(self.no_such_epoch(id)),
            _ => Ok(()),
        }
    }

    fn no_such_epoch(&self, id: i64) -> SpoolError {
        SpoolError::NoSuchEpoch {
            path: self.place.path.clone(),
            id,
        }
    }
}

fn select(condition: &str) -> String {
    format!(
        "SELECT e.id, e.machine_id, e.hostname, e.netns, e.header, e.spooled_ns, e.state, e.tries,
             e.reason,
             (SELECT COALESCE(SUM(LENGTH(p.content)), 0) FROM piece AS p WHERE p.epoch_id = e.id)
         FROM epoch AS e WHERE {condition} ORDER BY e.id"
    )
}

fn entry(row: &Row<'_>) -> rusqlite::Result<SpooledEpoch> {
    let header: Vec<u8> = row.get(4)?;
    let state: String = row.get(6)?;
    Ok(SpooledEpoch {
        id: row.get(0)?,
        origin: Origin {
            machine_id: row.get(1)?,
            hostname: row.get(2)?,
            netns: row.get(3)?,
        },
        header: Snapshot::open(&header[..])
            .ok()
            .map(|snapshot| snapshot.header().clone()),
        spooled: Timestamp::from_nanosecond(row.get::<_, i64>(5)?.into()).unwrap_or_default(),
        bytes: row.get::<_, i64>(9)?.unsigned_abs(),
        state: match state.as_str() {
            "refused" => SpoolState::Refused,
            _ => SpoolState::Waiting,
        },
        tries: row.get::<_, i64>(7)?.unsigned_abs(),
        reason: row.get(8)?,
    })
}
