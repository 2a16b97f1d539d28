// SPDX-License-Identifier: GPL-2.0-or-later
//! How long to wait before the same is tried again.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::store::StoreError;

/// Pauses that double, with a random part so that many hosts do not come back at once.
pub(super) struct Backoff {
    pauses: ExponentialBackoff,
    started: Instant,
}

/// What a store's error calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The same again in a moment: another transaction or a server's change was in the way.
    Again,
    /// Keep the snapshot elsewhere until the store is well again.
    Spool,
    /// Something about this very snapshot: it is kept elsewhere, and the next one is tried.
    SetAside,
    /// Something about what was asked for; the snapshot stays where it is.
    Keep,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self {
            pauses: ExponentialBuilder::new()
                .with_min_delay(Duration::from_millis(50))
                .with_max_delay(Duration::from_secs(5))
                .with_max_times(8)
                .with_jitter()
                .build(),
            started: Instant::now(),
        }
    }

    /// The next pause; none once it is better to give up for now.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let pause = self.pauses.next()?;
        (self.started.elapsed() < LONGEST).then_some(pause)
    }
}

impl Remedy {
    pub(super) fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Locked | StoreError::TooManyConnections | StoreError::ConnectionLost(_) => {
                Self::Again
            }
            StoreError::Conflict { .. }
            | StoreError::OutOfRange { .. }
            | StoreError::PacketTooLarge(_)
            | StoreError::Database(_) => Self::SetAside,
            StoreError::Foreign(_)
            | StoreError::NotPermitted(_)
            | StoreError::Missing(_)
            | StoreError::Exists(_) => Self::Keep,
            _ => Self::Spool,
        }
    }
}

/// A store that is in the way for longer is away.
const LONGEST: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = std::iter::from_fn(|| backoff.pause()).collect();
        assert_eq!(pauses.len(), 8);
        assert!(pauses[7] > pauses[0]);
        // The random part at most doubles a pause.
        assert!(pauses.iter().all(|&pause| pause <= Duration::from_secs(10)));
    }

    #[test]
    fn what_another_try_may_mend_is_tried_again() {
        assert_eq!(Remedy::of(&StoreError::Locked), Remedy::Again);
        assert_eq!(Remedy::of(&StoreError::Full), Remedy::Spool);
        assert_eq!(
            Remedy::of(&StoreError::Database("CHECK failed".into())),
            Remedy::SetAside
        );
        assert_eq!(
            Remedy::of(&StoreError::Foreign("other.db".into())),
            Remedy::Keep
        );
    }
}
