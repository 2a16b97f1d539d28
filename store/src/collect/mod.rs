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

mod append;
mod backoff;
mod capture;
mod recorder;
mod service;
mod spool;

pub use append::{CollectError, Outcome, State, append};
pub use capture::{collect_capture, sum_up};
pub use service::{Service, Stopper, Woken, next_due};
pub use spool::{DEFAULT_SPOOL_PATH, DEFAULT_SPOOL_SIZE, Spool, SpoolError, SpoolPlace};

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
use spool::SpoolingError;

/// Takes snapshots from sources into a store, or into a spool while the store is away.
pub struct Collector<'a> {
    open: Box<dyn FnMut() -> Result<Box<dyn Store>, StoreError> + 'a>,
    store: Option<Box<dyn Store>>,
    spool: Option<SpoolPlace>,
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
    /// Spooled snapshots that the store refused; they stay in the spool.
    pub refused: Vec<(Origin, CollectError)>,
    /// What the store finds wrong with this host.
    pub host_check: HostCheck,
    /// Why the store is away, if it is.
    pub away: Option<StoreError>,
    /// What is wrong with the spool, if something is.
    pub spool_error: Option<SpoolError>,
    /// Snapshots that wait in the spool.
    pub waiting: u64,
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
            watch,
            host: None,
        }
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
        self.connect(&mut round)?;
        self.check_in(&mut round);
        self.forward(&mut round);
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
                if let Some(outcome) = self.collect_account(source, origin, account, &mut round) {
                    round.outcomes.push(outcome);
                }
            }
        }
        self.count_waiting(&mut round);
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
        self.count_waiting(&mut round);
        Ok(round)
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
                    Remedy::Spool => round.away = Some(error),
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
        let Some(place) = self.spool.clone().filter(SpoolPlace::exists) else {
            return;
        };
        if round.away.is_some() {
            return;
        }
        let forwarded = Spool::open(&place).and_then(|mut spool| {
            let mut after = 0;
            while let Some(spooled) = spool.next(after)? {
                if self.watch.stopping() || round.away.is_some() {
                    break;
                }
                let appended = self.with_store(round, |store, watch| {
                    let reader = Recorder::new(spool.reader(spooled.id), false, watch);
                    append(store, &spooled.origin, &mut Snapshot::open(reader)?)
                });
                match appended {
                    Some(Ok(_)) => {
                        KillPoint::BeforeUnspool.pass();
                        spool.remove(spooled.id)?;
                        round.forwarded += 1;
                    }
                    Some(Err(error)) => {
                        round.refused.push((spooled.origin, error));
                        after = spooled.id;
                    }
                    None => break,
                }
            }
            if round.forwarded > 0 && spool.is_empty()? {
                spool.shrink()?;
            }
            Ok(())
        });
        if let Err(error) = forwarded {
            round.spool_error = Some(error);
        }
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
            if let Some(taken) = taken {
                return taken;
            }
            let Some(epoch) = source.open(&account)? else {
                return Ok(None);
            };
            let reader = Recorder::new(epoch, true, this.watch);
            let mut snapshot = opened(reader, &account, &mut header)?;
            this.spool(origin, &mut snapshot, round)?;
            acknowledge(&mut snapshot)?;
            Ok(Some(State::Spooled))
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
            if remedy == Remedy::Keep {
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

    fn spool<E: std::io::Read>(
        &self,
        origin: &Origin,
        snapshot: &mut Snapshot<Recorder<'_, E>>,
        round: &Round,
    ) -> Result<(), CollectError> {
        let Some(place) = &self.spool else {
            let reason = round.away.as_ref().map(ToString::to_string);
            return Err(CollectError::Away(reason.unwrap_or_default()));
        };
        let kept = Spool::open(place)
            .map_err(SpoolingError::Spool)
            .and_then(|mut spool| spool.append(origin, snapshot));
        match kept {
            Ok(_) => Ok(()),
            Err(SpoolingError::Snapshot(error)) => Err(CollectError::Snapshot(error)),
            Err(SpoolingError::Spool(spool)) => Err(CollectError::Spool { spool }),
        }
    }

    fn count_waiting(&self, round: &mut Round) {
        let Some(place) = self.spool.as_ref().filter(|place| place.exists()) else {
            return;
        };
        match Spool::open(place).and_then(|spool| spool.len()) {
            Ok(waiting) => round.waiting = waiting,
            Err(error) => round.spool_error = Some(error),
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
