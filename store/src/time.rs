// SPDX-License-Identifier: GPL-2.0-or-later
//! Points in time, as databases and snapshots have them.

use jiff::Timestamp;

/// So many nanoseconds after 1970, of at most 64 bits.
pub(crate) fn timestamp(nanoseconds: impl Into<i128>) -> Timestamp {
    // Every number of 64 bits is within the years that a timestamp has.
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default()
}
