// SPDX-License-Identifier: GPL-2.0-or-later
//! Takes every account's snapshot into the store, exactly once.
//!
//! Commit first, acknowledge after: a collector killed before the commit has stored
//! nothing and is served the same epoch again; killed between the two, it is served
//! again an epoch whose identity the store knows. So it may be killed at any
//! instruction.
//!
//! While the store is away, snapshots go into a spool on this host, and from there into
//! the store by the same steps: commit, then give up. A round forwards what waits before
//! it asks the kernel for more, so each account's epochs arrive in their order.
//!
//! A snapshot that the store refuses for itself, such as one of an identity that is stored
//! with other totals, goes into the spool too, and is acknowledged: nothing else waits for
//! it. After some rounds it is set aside there, and no longer offered. One that may be
//! refused for the store's sake is set aside only in a round that stored another one.

mod append;
mod backoff;
mod capture;
mod recorder;
mod service;
mod spool;

pub use append::{CollectError, Outcome, State, append};
pub use capture::{collect_capture, sum_up};
pub use service::{Service, Stopper, Woken, next_due};
pub use spool::{
    DEFAULT_SPOOL_PATH, DEFAULT_SPOOL_SIZE, Spool, SpoolError, SpoolPlace, SpoolState,
    SpooledEpoch, SpooledReader,
};

use crate::account::Account;
use crate::host::{HostCheck, RunningHost};
use crate::kill_point::KillPoint;
use crate::origin::Origin;
use crate::snapshot::{Header, Snapshot};
use crate::source::{ClosedEpoch, Source, SourceError};
use crate::store::{Store, StoreError};
use crate::watch::Watch;
use backoff::{Backoff, Remedy};
use recorder::Recorder;
use spool::{Spooled, SpoolingError};

/// Rounds in which a snapshot is refused before it is set aside, where the fault is the
/// snapshot's for certain, and where it may be the store's.
const TRIES_IF_CERTAIN: i64 = 3;
const TRIES_IF_UNCERTAIN: i64 = 10;

/// Takes snapshots from sources into a store, or into a spool while the store is away.
pub struct Collector<'a> {
    open: Box<dyn FnMut() -> Result<Box<dyn Store>, StoreError> + 'a>,
    store: Option<Box<dyn Store>>,
    spool: Option<SpoolPlace>,
    spools_first: bool,
    watch: &'a dyn Watch,
    host: Option<RunningHost>,
}

/// What came of a collector's round.
#[derive(Debug, Default)]
pub struct Round {
    /// What became of each account, in the order of the sources.
    pub outcomes: Vec<Outcome>,
    /// Sources that could not list their accounts.
    pub failed_sources: Vec<(Origin, SourceError)>,
    /// Spooled snapshots that the store has now.
    pub forwarded: u64,
    /// Snapshots that the store refused; they are in the spool and offered again.
    pub refused: Vec<(Origin, CollectError)>,
    /// Snapshots that this round set aside, and why the store refuses them.
    pub set_aside: Vec<(Origin, String)>,
    /// What the store finds wrong with this host.
    pub host_check: HostCheck,
    /// Why the store is away, if it is.
    pub away: Option<StoreError>,
    /// What is wrong with the spool, if something is.
    pub spool_error: Option<SpoolError>,
    /// Snapshots that wait in the spool.
    pub waiting: u64,
    /// Snapshots that lie in the spool since the store refuses them.
    pub all_set_aside: u64,
    /// Whether the store took a snapshot in this round, and so can take others.
    took_any: bool,
    failures: Vec<Failure>,
}

/// A spooled snapshot that the store did not take.
#[derive(Debug)]
struct Failure {
    id: i64,
    origin: Origin,
    reason: String,
    /// Whether the fault is the snapshot's for certain.
    is_certain: bool,
}

impl<'a> Collector<'a> {
    /// A collector that opens its store when it needs it, and again after it was away.
    pub fn new(
        open: impl FnMut() -> Result<Box<dyn Store>, StoreError> + 'a,
        spool: Option<SpoolPlace>,
        watch: &'a dyn Watch,
    ) -> Self {
        Self {
            open: Box::new(open),
            store: None,
            spool,
            spools_first: false,
            watch,
            host: None,
        }
    }

    /// Has every snapshot kept in the spool before the store is asked for anything, for when
    /// there may be no time to wait for its answers.
    #[must_use]
    pub fn spooling_first(mut self) -> Self {
        self.spools_first = true;
        self
    }

    /// Has the store note in every round that this host is at work.
    #[must_use]
    pub fn on(mut self, host: RunningHost) -> Self {
        self.host = Some(host);
        self
    }

    /// Forwards what waits in the spool, then collects every account of every source;
    /// one that fails does not stop the others. Stops early, between two snapshots, when
    /// the watch says so.
    ///
    /// # Errors
    /// That the store cannot be used at all, such as another program's file. A store
    /// that is away is none: then the spool is used.
    pub fn round<S: Source>(&mut self, sources: &mut [(Origin, S)]) -> Result<Round, StoreError> {
        let mut round = Round::default();
        if self.spools_first {
            self.collect(sources, &mut round);
        }
        match self.connect(&mut round) {
            // What is spooled already is reported all the same.
            Err(error) if self.spools_first => round.away = Some(error),
            connected => connected?,
        }
        self.check_in(&mut round);
        self.forward(&mut round);
        if !self.spools_first {
            self.collect(sources, &mut round);
        }
        self.close(&mut round);
        Ok(round)
    }

    /// Forwards what waits in the spool and collects nothing.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub fn forward_only(&mut self) -> Result<Round, StoreError> {
        let mut round = Round::default();
        self.connect(&mut round)?;
        self.forward(&mut round);
        self.close(&mut round);
        Ok(round)
    }

    fn collect<S: Source>(&mut self, sources: &mut [(Origin, S)], round: &mut Round) {
        for (origin, source) in sources {
            let accounts = match source.accounts() {
                Ok(accounts) => accounts,
                Err(error) => {
                    round.failed_sources.push((origin.clone(), error));
                    continue;
                }
            };
            for account in accounts {
                if self.watch.stopping() {
                    break;
                }
                if let Some(outcome) = self.collect_account(source, origin, account, round) {
                    round.outcomes.push(outcome);
                }
            }
        }
    }

    /// Opens the store if it is not open; notes why if it is away.
    fn connect(&mut self, round: &mut Round) -> Result<(), StoreError> {
        let mut backoff = Backoff::new();
        while self.store.is_none() && round.away.is_none() {
            match (self.open)() {
                Ok(store) => self.store = Some(store),
                Err(error) => match Remedy::of(&error) {
                    Remedy::Again => match backoff.pause() {
                        Some(pause) if !self.watch.stopping() => self.watch.wait(pause),
                        _ => round.away = Some(error),
                    },
                    Remedy::Spool | Remedy::SetAside => round.away = Some(error),
                    Remedy::Keep => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Checks this host in with the store. A failure does not stop the round.
    fn check_in(&mut self, round: &mut Round) {
        let Some(host) = self.host.clone() else {
            return;
        };
        if let Some(Ok(check)) = self.with_store(round, |store, _| Ok(store.check_in(&host)?)) {
            round.host_check = check;
        }
    }

    /// Takes what waits in the spool into the store, in its order.
    fn forward(&mut self, round: &mut Round) {
        let Some(place) = self.spool.clone().filter(|_| round.away.is_none()) else {
            return;
        };
        let forwarded = Spool::open_existing(&place).and_then(|spool| match spool {
            Some(mut spool) => self.forward_from(&mut spool, round),
            None => Ok(()),
        });
        if let Err(error) = forwarded {
            round.spool_error = Some(error);
        }
    }

    fn forward_from(&mut self, spool: &mut Spool, round: &mut Round) -> Result<(), SpoolError> {
        let mut has_forwarded = false;
        for Spooled { id, origin } in spool.waiting()? {
            if self.watch.stopping() || round.away.is_some() {
                break;
            }
            let mut header = None;
            let appended = self.with_store(round, |store, watch| {
                let reader = Recorder::new(spool.reader(id), false, watch);
                let mut snapshot = Snapshot::open(reader)?;
                header = Some(snapshot.header().clone());
                append(store, &origin, &mut snapshot)
            });
            match appended {
                Some(Ok(state)) => {
                    KillPoint::BeforeUnspool.pass();
                    spool.remove(id)?;
                    has_forwarded = true;
                    round.took_any |= state == State::Stored;
                    round.note_forwarded(&origin, header.as_ref(), state);
                }
                Some(Err(error)) => {
                    round.failures.push(Failure {
                        id,
                        origin: origin.clone(),
                        reason: error.reason(),
                        is_certain: is_certain(&error),
                    });
                    round.refused.push((origin, error));
                }
                // A snapshot at which the connection is lost each time is not to be the first for
                // ever.
                None => {
                    if let Some(error @ StoreError::ConnectionLost(_)) = &round.away {
                        round.failures.push(Failure {
                            id,
                            origin,
                            reason: error.to_string(),
                            is_certain: false,
                        });
                    }
                    break;
                }
            }
        }
        if has_forwarded && spool.count(SpoolState::Waiting)? == 0 {
            spool.shrink()?;
        }
        Ok(())
    }

    /// None for an account that went after it was listed.
    fn collect_account<S: Source>(
        &mut self,
        source: &mut S,
        origin: &Origin,
        account: Account,
        round: &mut Round,
    ) -> Option<Outcome> {
        let mut header = None;
        let mut attempt = |this: &mut Self, round: &mut Round| {
            if this.spools_first {
                match this.spool_account(source, origin, &account, &mut header, None, round) {
                    // The store is the second best place then.
                    Err(CollectError::Away(_) | CollectError::Spool { .. }) => {}
                    done => return done,
                }
            }
            // Each attempt asks the source anew, which serves the same epoch again.
            let taken = this.with_store(round, |store, watch| {
                let Some(epoch) = source.open(&account)? else {
                    return Ok(None);
                };
                let reader = Recorder::new(epoch, false, watch);
                let mut snapshot = opened(reader, &account, &mut header)?;
                let state = append(store, origin, &mut snapshot)?;
                acknowledge(&mut snapshot)?;
                Ok(Some(state))
            });
            match taken {
                Some(Err(CollectError::Store(error)))
                    if this.spool.is_some() && Remedy::of(&error) == Remedy::SetAside =>
                {
                    let refused = Some(error);
                    this.spool_account(source, origin, &account, &mut header, refused, round)
                }
                Some(taken) => {
                    round.took_any |= matches!(taken, Ok(Some(State::Stored)));
                    taken
                }
                None => this.spool_account(source, origin, &account, &mut header, None, round),
            }
        };
        let result = attempt(self, round).transpose()?;
        Some(Outcome {
            origin: origin.clone(),
            account,
            header,
            result,
        })
    }

    /// Does something with the store, again where that may help; none if the store is
    /// away, which is noted.
    fn with_store<T>(
        &mut self,
        round: &mut Round,
        mut attempt: impl FnMut(&mut dyn Store, &dyn Watch) -> Result<T, CollectError>,
    ) -> Option<Result<T, CollectError>> {
        let mut backoff = Backoff::new();
        loop {
            // A store that turned out to be another's between two snapshots is away too.
            if let Err(error) = self.connect(round) {
                round.away = Some(error);
            }
            if round.away.is_some() {
                return None;
            }
            let store = self.store.as_deref_mut()?;
            let error = match attempt(store, self.watch) {
                Err(CollectError::Store(error)) => error,
                done => return Some(done),
            };
            let remedy = Remedy::of(&error);
            if matches!(remedy, Remedy::Keep | Remedy::SetAside) {
                // The connection may have suffered from an error that is not known.
                if matches!(
                    error,
                    StoreError::Database(_) | StoreError::PacketTooLarge(_)
                ) {
                    self.store = None;
                }
                return Some(Err(CollectError::Store(error)));
            }
            if matches!(error, StoreError::ConnectionLost(_)) || remedy == Remedy::Spool {
                self.store = None;
            }
            match backoff.pause() {
                Some(pause) if remedy == Remedy::Again && !self.watch.stopping() => {
                    self.watch.wait(pause);
                }
                _ => round.away = Some(error),
            }
        }
    }

    /// Keeps an account's snapshot in the spool, since the store is away or refuses it.
    fn spool_account<S: Source>(
        &self,
        source: &mut S,
        origin: &Origin,
        account: &Account,
        header: &mut Option<Header>,
        refused: Option<StoreError>,
        round: &mut Round,
    ) -> Result<Option<State>, CollectError> {
        let Some(epoch) = source.open(account)? else {
            return Ok(None);
        };
        let reader = Recorder::new(epoch, true, self.watch);
        let mut snapshot = opened(reader, account, header)?;
        match (self.spool(origin, &mut snapshot, round), refused) {
            (Ok(id), Some(error)) => {
                let error = CollectError::Store(error);
                round.failures.push(Failure {
                    id,
                    origin: origin.clone(),
                    reason: error.reason(),
                    is_certain: is_certain(&error),
                });
                round.refused.push((origin.clone(), error));
            }
            (Err(CollectError::Spool { spool }), Some(error)) => {
                round.spool_error = Some(spool);
                return Err(CollectError::Store(error));
            }
            (kept, _) => {
                kept?;
            }
        }
        acknowledge(&mut snapshot)?;
        Ok(Some(State::Spooled))
    }

    /// Gives the snapshot's id in the spool.
    fn spool<E: std::io::Read>(
        &self,
        origin: &Origin,
        snapshot: &mut Snapshot<Recorder<'_, E>>,
        round: &Round,
    ) -> Result<i64, CollectError> {
        let Some(place) = &self.spool else {
            let reason = round.away.as_ref().map(ToString::to_string);
            return Err(CollectError::Away(reason.unwrap_or_default()));
        };
        let kept = Spool::open(place)
            .map_err(SpoolingError::Spool)
            .and_then(|mut spool| spool.append(origin, snapshot));
        match kept {
            Ok(id) => Ok(id),
            Err(SpoolingError::Snapshot(error)) => Err(CollectError::Snapshot(error)),
            Err(SpoolingError::Spool(spool)) => Err(CollectError::Spool { spool }),
        }
    }

    /// Sets aside what the store refused too often, and counts what is left in the spool.
    fn close(&self, round: &mut Round) {
        let Some(place) = &self.spool else {
            return;
        };
        let failures = std::mem::take(&mut round.failures);
        let closed = Spool::open_existing(place).and_then(|spool| {
            let Some(mut spool) = spool else {
                return Ok(());
            };
            for failure in failures {
                let limit = match failure.is_certain {
                    true => Some(TRIES_IF_CERTAIN),
                    false => round.took_any.then_some(TRIES_IF_UNCERTAIN),
                };
                if spool.note_failure(failure.id, &failure.reason, limit)? {
                    round.set_aside.push((failure.origin, failure.reason));
                }
            }
            round.waiting = spool.count(SpoolState::Waiting)?;
            round.all_set_aside = spool.count(SpoolState::Refused)?;
            Ok(())
        });
        if let Err(error) = closed {
            round.spool_error = Some(error);
        }
    }
}

impl Round {
    /// Whether every account's snapshot is safe and nothing else went wrong.
    pub fn is_clean(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.result.is_ok())
            && self.failed_sources.is_empty()
            && self.refused.is_empty()
            && self.spool_error.is_none()
    }

    /// Counts a spooled snapshot that the store has now; one of this round's is stored, then.
    fn note_forwarded(&mut self, origin: &Origin, header: Option<&Header>, state: State) {
        let identity = |header: &Header| (header.account_id, header.epoch);
        let of_this_round = self.outcomes.iter_mut().find(|outcome| {
            matches!(outcome.result, Ok(State::Spooled))
                && outcome.origin == *origin
                && outcome.header.as_ref().map(identity) == header.map(identity)
        });
        match of_this_round {
            Some(outcome) => outcome.result = Ok(state),
            None => self.forwarded += 1,
        }
    }
}

/// Whether the fault is the snapshot's, whatever the store's state is.
fn is_certain(error: &CollectError) -> bool {
    !matches!(error, CollectError::Store(StoreError::Database(_)))
}

/// Opens a snapshot, and checks that it is the account's.
fn opened<'a, E: std::io::Read>(
    reader: Recorder<'a, E>,
    account: &Account,
    header: &mut Option<Header>,
) -> Result<Snapshot<Recorder<'a, E>>, CollectError> {
    let snapshot = Snapshot::open(reader)?;
    *header = Some(snapshot.header().clone());
    if snapshot.header().account != *account {
        return Err(CollectError::OtherAccount(
            snapshot.header().account.clone(),
        ));
    }
    Ok(snapshot)
}

/// Tells the source that the snapshot is safe.
fn acknowledge<E: ClosedEpoch>(
    snapshot: &mut Snapshot<Recorder<'_, E>>,
) -> Result<(), CollectError> {
    KillPoint::BeforeAck.pass();
    let epoch = snapshot.header().epoch;
    snapshot
        .reader_mut()
        .inner_mut()
        .acknowledge(epoch)
        .map_err(CollectError::Acknowledge)?;
    KillPoint::AfterAck.pass();
    Ok(())
}
