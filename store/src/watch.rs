// SPDX-License-Identifier: GPL-2.0-or-later
//! Who watches long work: collecting, exporting, importing.

use std::time::Duration;

/// What long work tells while it goes on, and is told.
pub trait Watch {
    /// The collector gets on; called at least once for every batch of records.
    fn alive(&self);

    /// Whether to stop after the snapshot in hand.
    fn stopping(&self) -> bool;

    /// Waits so long, or until the collector is to stop.
    fn wait(&self, pause: Duration);
}

/// Nobody watches; a signal ends the process, which loses nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn alive(&self) {}

    fn stopping(&self) -> bool {
        false
    }

    fn wait(&self, pause: Duration) {
        std::thread::sleep(pause);
    }
}
