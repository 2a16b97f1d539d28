// SPDX-License-Identifier: GPL-2.0-or-later
//! A live interface: the module's core in this process, over frames as they come.

use std::io::{self, Read};

use rustix::time::{ClockId, Timespec, clock_gettime};
use trafstat_capture::engine::{EngineAccount, Served, Timestamp};
pub use trafstat_capture::live::{Interface, Live, LiveEnd, LiveError, LiveStatus};

use super::capture::{OwnedRules, account_named};
use super::{ClosedEpoch, Source, SourceError};
use crate::account::Account;

/// The accounts of an interface that is being counted, or was.
#[derive(Clone, Copy)]
pub struct InterfaceSource<'a>(&'a Live);

/// A closed epoch of a live account.
pub struct LiveEpoch {
    account: Account,
    served: Served,
}

/// Counts an interface from now on; `ended` is called when that ends by itself.
///
/// # Errors
/// The system's.
pub fn start(
    interface: Interface,
    rules: &OwnedRules,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Live, LiveError> {
    Live::start(interface, rules.as_rules(), now(), ended)
}

impl<'a> InterfaceSource<'a> {
    /// The accounts that `live` counts into.
    pub fn of(live: &'a Live) -> Self {
        Self(live)
    }

    fn named(self) -> impl Iterator<Item = (Account, &'a EngineAccount)> {
        let accounts = self.0.accounts().iter();
        accounts
            .filter_map(|counted| Some((account_named(counted.family(), counted.name())?, counted)))
    }
}

impl Source for InterfaceSource<'_> {
    type Epoch = LiveEpoch;

    fn accounts(&mut self) -> Result<Vec<Account>, SourceError> {
        Ok(self.named().map(|(account, _)| account).collect())
    }

    fn open(&mut self, account: &Account) -> Result<Option<LiveEpoch>, SourceError> {
        let found = self.named().find(|(named, _)| named == account);
        Ok(found.and_then(|(account, counted)| {
            counted.close(now(), self.0).ok()?;
            let served = counted.closed()?;
            Some(LiveEpoch { account, served })
        }))
    }
}

impl Read for LiveEpoch {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.served.read(bytes)
    }
}

impl ClosedEpoch for LiveEpoch {
    fn acknowledge(&mut self, epoch: u64) -> Result<(), SourceError> {
        let path = || self.account.to_string().into();
        let acknowledged = self.served.acknowledge(epoch);
        acknowledged.map_err(|_| SourceError::Stale {
            path: path(),
            epoch,
        })
    }
}

/// Now, by both of the host's clocks.
fn now() -> Timestamp {
    let nanoseconds = |id| {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(id);
        let nanoseconds = i128::from(tv_sec) * 1_000_000_000 + i128::from(tv_nsec);
        u64::try_from(nanoseconds).unwrap_or_default()
    };
    Timestamp {
        wall_ns: nanoseconds(ClockId::Realtime),
        boot_ns: nanoseconds(ClockId::Boottime),
    }
}
