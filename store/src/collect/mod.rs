//! Takes every account's snapshot into the store, exactly once.
//!
//! Commit first, acknowledge after: a collector killed before the commit has stored
//! nothing and is served the same epoch again; killed between the two, it is served
//! again an epoch whose identity the store knows. So it may be killed at any
//! instruction.

mod kill_point;
mod report;

use thiserror::Error;

pub use report::Report;

use crate::account::Account;
use crate::backend::{Begun, Store, StoreError};
use crate::origin::Origin;
use crate::snapshot::{Header, Snapshot, SnapshotError};
use crate::source::{ClosedEpoch, Source, SourceError};
use kill_point::KillPoint;

/// What became of one account.
#[derive(Debug)]
pub struct Outcome {
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
}

/// Why an account's snapshot was not collected; the source still has it.
#[derive(Debug, Error)]
pub enum CollectError {
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The snapshot is not what it says.
    #[error("{0}. The snapshot is refused and stays with the kernel")]
    Snapshot(#[from] SnapshotError),
    /// The snapshot is of another account than the one asked for.
    #[error("the snapshot is of another account, {0}; it is refused and stays with the kernel")]
    OtherAccount(Account),
    /// The store failed.
    #[error("{0}. The snapshot stays with the kernel")]
    Store(#[from] StoreError),
    /// The records are safe, but the source keeps them too.
    #[error("the snapshot is stored, but the kernel still has it, which does no harm: {0}")]
    Acknowledge(#[source] SourceError),
}

/// Collects every account; one that fails does not stop the others.
///
/// # Errors
/// That the source cannot list its accounts.
pub fn collect<S: Source>(
    source: &mut S,
    store: &mut dyn Store,
    origin: &Origin,
) -> Result<Vec<Outcome>, SourceError> {
    Ok(source
        .accounts()?
        .into_iter()
        .filter_map(|account| collect_account(source, store, origin, account))
        .collect())
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

impl Outcome {
    /// The outcome of an account of which nothing could be read.
    fn failed(account: Account, error: impl Into<CollectError>) -> Self {
        Self {
            account,
            header: None,
            result: Err(error.into()),
        }
    }
}

/// None for an account that went after it was listed.
fn collect_account<S: Source>(
    source: &mut S,
    store: &mut dyn Store,
    origin: &Origin,
    account: Account,
) -> Option<Outcome> {
    let epoch = match source.open(&account) {
        Ok(epoch) => epoch?,
        Err(error) => return Some(Outcome::failed(account, error)),
    };
    let mut snapshot = match Snapshot::open(epoch) {
        Ok(snapshot) => snapshot,
        Err(error) => return Some(Outcome::failed(account, error)),
    };
    let header = snapshot.header().clone();
    let result = store_and_acknowledge(store, origin, &account, &mut snapshot);
    Some(Outcome {
        account,
        header: Some(header),
        result,
    })
}

fn store_and_acknowledge<E: ClosedEpoch>(
    store: &mut dyn Store,
    origin: &Origin,
    account: &Account,
    snapshot: &mut Snapshot<E>,
) -> Result<State, CollectError> {
    if snapshot.header().account != *account {
        return Err(CollectError::OtherAccount(
            snapshot.header().account.clone(),
        ));
    }
    let state = append(store, origin, snapshot)?;
    KillPoint::BeforeAck.pass();
    let epoch = snapshot.header().epoch;
    snapshot
        .reader_mut()
        .acknowledge(epoch)
        .map_err(CollectError::Acknowledge)?;
    KillPoint::AfterAck.pass();
    Ok(state)
}
