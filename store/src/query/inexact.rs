// SPDX-License-Identifier: GPL-2.0-or-later
//! What an answer does not tell exactly, since what would tell it was deleted.

use std::fmt;

use jiff::Timestamp;

/// What an answer does not tell as exactly as it was asked; nothing of it is guessed in silence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inexact {
    /// The time begins or ends within sums, or a day of it does.
    pub coarse: Option<Coarse>,
    /// What is not there any more, and so is not in the answer.
    pub missing: Option<Missing>,
    /// Epochs before this count at the time at which they closed.
    ///
    /// An earlier version had it so, and their records are gone. An epoch counts up to half its
    /// length later than others there.
    pub closed_until: Option<Timestamp>,
}

/// Points in time, asked for, that lie within sums of which nothing finer is left.
///
/// The sums of a period count on the side of the point that has the period's middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coarse {
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
    /// What the longest of the sums are over.
    pub period: SumPeriod,
}

/// A time of which traffic was counted that nothing tells any more in the fields asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// When the first of it was counted.
    pub since: Timestamp,
    /// When what is there begins, or what was asked for ends.
    pub until: Timestamp,
}

/// What sums are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SumPeriod {
    /// 15 minutes.
    Quarter,
    /// An hour.
    Hour,
    /// A day, UTC.
    Day,
    /// A month, UTC.
    Month,
}

impl Inexact {
    /// What several answers together do not tell exactly.
    pub fn merge(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (Some(one), Some(other)) = (one, other) else {
            return one.or(other);
        };
        Some(Self {
            coarse: either(one.coarse, other.coarse, |one, other| Coarse {
                first: one.first.min(other.first),
                last: one.last.max(other.last),
                period: one.period.max(other.period),
            }),
            missing: either(one.missing, other.missing, |one, other| Missing {
                since: one.since.min(other.since),
                until: one.until.max(other.until),
            }),
            closed_until: either(one.closed_until, other.closed_until, Ord::max),
        })
    }
}

/// Both as one, or the one that there is.
fn either<T: Copy>(one: Option<T>, other: Option<T>, both: fn(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(both(one, other)),
        _ => one.or(other),
    }
}

impl SumPeriod {
    /// Its name in JSON and CSV.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quarter => "quarter",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

impl fmt::Display for SumPeriod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quarter => "15 minutes",
            Self::Hour => "an hour",
            Self::Day => "a day in UTC",
            Self::Month => "a month in UTC",
        })
    }
}
