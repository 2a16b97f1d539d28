// SPDX-License-Identifier: GPL-2.0-or-later
//! Takes one snapshot into a store, all or nothing.

use thiserror::Error;

use super::spool::SpoolError;
use crate::account::Account;
use crate::kill_point::KillPoint;
use crate::origin::Origin;
use crate::snapshot::{Header, Snapshot, SnapshotError};
use crate::source::SourceError;
use crate::store::{Begun, Store, StoreError};

/// What became of one account.
#[derive(Debug)]
pub struct Outcome {
    /// Where it counts.
    pub origin: Origin,
    /// The account.
    pub account: Account,
    /// Its snapshot's header, as far as it could be read.
    pub header: Option<Header>,
    /// Whether its records are safe.
    pub result: Result<State, CollectError>,
}

/// How a snapshot came to be in the store; the source has given it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was stored now.
    Stored,
    /// A collector that did not live to acknowledge it had stored it.
    AlreadyStored,
    /// It waits on this host's disk for the store.
    Spooled,
}

/// Why an account's snapshot was not collected; the source still has it.
#[derive(Debug, Error)]
pub enum CollectError {
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The snapshot is not what it says.
    #[error("{0}. The snapshot is refused and stays at its source")]
    Snapshot(#[from] SnapshotError),
    /// The snapshot is of another account than the one asked for.
    #[error("the snapshot is of another account, {0}; it is refused and stays at its source")]
    OtherAccount(Account),
    /// The store failed.
    #[error("{0}. The snapshot stays at its source")]
    Store(#[from] StoreError),
    /// The store is away, and there is no spool; why it is away.
    #[error("{0}. The snapshot stays at its source")]
    Away(String),
    /// The store is away, and the spool failed.
    #[error("{spool}. The snapshot stays at its source, since the database is away")]
    Spool {
        /// What is wrong with the spool.
        #[source]
        spool: SpoolError,
    },
    /// The records are safe, but the source keeps them too.
    #[error("the snapshot is stored, but its source still has it, which does no harm: {0}")]
    Acknowledge(#[source] SourceError),
}

impl CollectError {
    /// The failure alone, without what became of the snapshot.
    pub fn reason(&self) -> String {
        match self {
            Self::Store(error) => error.to_string(),
            Self::Snapshot(error) => error.to_string(),
            Self::Away(reason) => reason.clone(),
            Self::Spool { spool } => spool.to_string(),
            other => other.to_string(),
        }
    }
}

/// Appends one snapshot, all or nothing; nothing if the store has it already.
///
/// # Errors
/// That the snapshot does not add up, or the store's.
pub fn append<R: std::io::Read>(
    store: &mut dyn Store,
    origin: &Origin,
    snapshot: &mut Snapshot<R>,
) -> Result<State, CollectError> {
    let Begun::New(mut transaction) = store.begin(origin, snapshot.header())? else {
        // What is to be given up is checked to its end all the same.
        while snapshot.next_batch()?.is_some() {}
        return Ok(State::AlreadyStored);
    };
    // The last batch is followed by an end only if every total holds.
    while let Some(records) = snapshot.next_batch()? {
        transaction.write(records)?;
    }
    KillPoint::BeforeCommit.pass();
    transaction.commit()?;
    Ok(State::Stored)
}
