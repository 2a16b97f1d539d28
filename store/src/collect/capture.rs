// SPDX-License-Identifier: GPL-2.0-or-later
//! Takes the epochs of a capture into a store, or into a query's answer.

use std::collections::HashMap;

use trafstat_capture::engine::Served;

use super::append::{CollectError, Outcome, State, append};
use crate::account::Account;
use crate::origin::Origin;
use crate::query::Accumulator;
use crate::snapshot::Snapshot;
use crate::source::SourceError;
use crate::source::capture::Capture;
use crate::store::{Grown, Store, StoreError};

/// Counts a capture to its end and takes every epoch of it into the store, each
/// exactly once, however often the capture is collected.
///
/// Of an epoch that grew since it was stored, the difference is taken. One that is stored with
/// other totals for another reason is left out as failed; another failure ends it, that the
/// capture is stored in epochs of another length among them.
pub fn collect_capture(
    capture: &mut Capture,
    store: &mut dyn Store,
    origin: &Origin,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    loop {
        let goes_on = capture.advance();
        for (account, served) in capture.closed() {
            let outcome = take(store, origin, account, served, !goes_on);
            if let Some(header) = &outcome.header {
                capture.add_outside(header.totals.outside.packets);
            }
            let stops = outcome
                .result
                .as_ref()
                .is_err_and(|error| !is_refusal(error));
            outcomes.push(outcome);
            if stops {
                capture.stop();
                return outcomes;
            }
        }
        if !goes_on {
            return outcomes;
        }
    }
}

/// Counts a capture to its end and adds every epoch of it to what a query asks for.
///
/// # Errors
/// That an epoch does not add up, which none does.
pub fn sum_up(
    capture: &mut Capture,
    origin: &Origin,
    sums: &mut Accumulator<'_>,
) -> Result<(), CollectError> {
    // When each account's last epoch closed: it went on to count, and closes none without packets.
    let mut closed_ns = HashMap::new();
    loop {
        let goes_on = capture.advance();
        for (account, served) in capture.closed() {
            let mut snapshot = Snapshot::open(served)?;
            let header = snapshot.header();
            if let Some(last_ns) = closed_ns.insert(account.clone(), header.closed_ns) {
                sums.add_silence(origin, header, last_ns, header.opened_ns);
            }
            sums.begin(origin, header);
            capture.add_outside(snapshot.header().totals.outside.packets);
            while let Some(records) = snapshot.next_batch()? {
                sums.add(records);
            }
            acknowledge(&account, &mut snapshot)?;
        }
        if !goes_on {
            return Ok(());
        }
    }
}

/// Takes an account's closed epoch into the store. One that the store refuses is given up
/// too, for the capture still has it.
fn take(
    store: &mut dyn Store,
    origin: &Origin,
    account: Account,
    served: Served,
    is_last: bool,
) -> Outcome {
    let mut snapshot = match Snapshot::open(served) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            return Outcome {
                origin: origin.clone(),
                account,
                header: None,
                result: Err(error.into()),
            };
        }
    };
    let mut header = snapshot.header().clone();
    let mut result = append(store, origin, &mut snapshot);
    if result.as_ref().is_err_and(is_refusal) {
        result = grow(store, origin, &mut snapshot, is_last).map(|grown| match grown {
            Grown::Known => State::AlreadyStored,
            Grown::Added(difference) => {
                header = *difference;
                State::Stored
            }
        });
    }
    let is_over = match &result {
        Ok(_) => true,
        Err(error) => is_refusal(error),
    };
    if is_over && let Err(error) = acknowledge(&account, &mut snapshot) {
        result = Err(error.into());
    }
    Outcome {
        origin: origin.clone(),
        account,
        header: Some(header),
        result,
    }
}

/// Takes what an epoch has more than the store has of it.
fn grow(
    store: &mut dyn Store,
    origin: &Origin,
    snapshot: &mut Snapshot<Served>,
    is_last: bool,
) -> Result<Grown, CollectError> {
    let mut records = Vec::new();
    while let Some(batch) = snapshot.next_batch()? {
        records.extend_from_slice(batch);
    }
    Ok(store.add_growth(origin, snapshot.header(), &records, is_last)?)
}

/// Gives an epoch up.
fn acknowledge(account: &Account, snapshot: &mut Snapshot<Served>) -> Result<(), SourceError> {
    let epoch = snapshot.header().epoch;
    let acknowledged = snapshot.reader_mut().acknowledge(epoch);
    acknowledged.map_err(|_| SourceError::Stale {
        path: account.to_string().into(),
        epoch,
    })
}

/// Whether the store has the epoch with other totals.
fn is_refusal(error: &CollectError) -> bool {
    matches!(error, CollectError::Store(StoreError::Conflict { .. }))
}
