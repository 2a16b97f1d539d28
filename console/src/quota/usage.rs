// SPDX-License-Identifier: GPL-2.0-or-later
//! How much of each quota is used.

use anyhow::{Context, Result};
use jiff::civil::Date;
use jiff::{Span, Timestamp, ZonedDateTime};
use trafstat_store::options::quota::{QuotaLimit, QuotaPeriod};
use trafstat_store::query::{Filter, Inexact, Query};
use trafstat_store::store::Store;

/// What is used of a quota in the period that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The quota's name.
    pub name: String,
    /// When the period began.
    pub begin: Timestamp,
    /// When the next one begins.
    pub end: Timestamp,
    /// What went over since.
    pub used_bytes: u64,
    /// What may go over.
    pub limit_bytes: u64,
    /// The parts of the usage that are not exact, since finer sums were deleted.
    pub inexact: Option<Inexact>,
}

impl Usage {
    /// Asks the store about each quota.
    ///
    /// # Errors
    /// The store's.
    pub fn of(
        limits: &[QuotaLimit],
        store: &mut dyn Store,
        now: &ZonedDateTime,
    ) -> Result<Vec<Self>> {
        limits
            .iter()
            .map(|limit| {
                let (begin, end) = period(limit, now)?;
                let query = Query {
                    filter: Filter {
                        since: Some(begin),
                        until: Some(end),
                        ..limit.filter()
                    },
                    ..Query::default()
                };
                let answer = store.query(&query).context("cannot query the database")?;
                Ok(Self {
                    name: limit.name.clone(),
                    begin,
                    end,
                    used_bytes: limit.count.bytes(&answer.total),
                    limit_bytes: limit.bytes.as_u64(),
                    inexact: answer.inexact,
                })
            })
            .collect()
    }

    /// How much is used, in whole percent that are reached.
    pub fn percent(&self) -> u64 {
        let percent = u128::from(self.used_bytes) * 100 / u128::from(self.limit_bytes.max(1));
        u64::try_from(percent).unwrap_or(u64::MAX)
    }

    /// The percentages that are reached, of these.
    pub fn reached<'a>(&self, percentages: &'a [u32]) -> impl Iterator<Item = u32> + use<'a> {
        let percent = self.percent();
        percentages
            .iter()
            .copied()
            .filter(move |&at| u64::from(at) <= percent)
    }
}

/// When the period that has this time began, and when the next one begins.
fn period(limit: &QuotaLimit, now: &ZonedDateTime) -> Result<(Timestamp, Timestamp)> {
    let today = now.date();
    let (first, next) = match limit.per {
        QuotaPeriod::Day => (today, today.tomorrow()?),
        QuotaPeriod::Month => {
            let this = reset(today, limit.reset_day);
            let month = Span::new().months(1);
            let first_of_month = today.first_of_month();
            match today >= this {
                true => (
                    this,
                    reset(first_of_month.checked_add(month)?, limit.reset_day),
                ),
                false => (
                    reset(first_of_month.checked_sub(month)?, limit.reset_day),
                    this,
                ),
            }
        }
    };
    let begin = |date: Date| {
        let midnight = date.to_zoned_datetime(now.time_zone().clone());
        midnight.map(|midnight| midnight.timestamp())
    };
    Ok((begin(first)?, begin(next)?))
}

/// The reset day in the month of a date, its last day if it has not so many.
fn reset(month: Date, day: i8) -> Date {
    let last = month.last_of_month();
    match day < last.day() {
        true => Date::new(month.year(), month.month(), day).unwrap_or(last),
        false => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytesize::ByteSize;
    use trafstat_store::options::quota::QuotaDirection;

    fn period_of(per: QuotaPeriod, reset_day: i8, now: &str) -> String {
        let limit = QuotaLimit {
            name: "a".to_owned(),
            bytes: ByteSize::gb(1),
            local_ip: None,
            local_port: None,
            protocol: None,
            account: None,
            per,
            reset_day,
            count: QuotaDirection::Both,
        };
        let now = format!("{now}[Europe/Berlin]").parse().unwrap();
        let (begin, end) = period(&limit, &now).unwrap();
        format!("{begin} {end}")
    }

    #[test]
    fn day_begins_at_local_midnight() {
        assert_eq!(
            period_of(QuotaPeriod::Day, 1, "2026-03-29T12:00:00+02:00"),
            "2026-03-28T23:00:00Z 2026-03-29T22:00:00Z"
        );
    }

    #[test]
    fn month_begins_on_the_reset_day() {
        for (day, now, expected) in [
            (
                1,
                "2026-01-01T00:00:00+01:00",
                "2025-12-31T23:00:00Z 2026-01-31T23:00:00Z",
            ),
            (
                15,
                "2026-01-14T23:59:59+01:00",
                "2025-12-14T23:00:00Z 2026-01-14T23:00:00Z",
            ),
            (
                15,
                "2026-01-15T00:00:00+01:00",
                "2026-01-14T23:00:00Z 2026-02-14T23:00:00Z",
            ),
            // A month that has not so many days begins on its last.
            (
                31,
                "2026-02-27T12:00:00+01:00",
                "2026-01-30T23:00:00Z 2026-02-27T23:00:00Z",
            ),
            (
                31,
                "2026-02-28T12:00:00+01:00",
                "2026-02-27T23:00:00Z 2026-03-30T22:00:00Z",
            ),
        ] {
            assert_eq!(
                period_of(QuotaPeriod::Month, day, now),
                expected,
                "{day} {now}"
            );
        }
    }

    #[test]
    fn percentages_are_reached_and_not_rounded() {
        let usage = |used_bytes| Usage {
            name: String::new(),
            begin: Timestamp::UNIX_EPOCH,
            end: Timestamp::UNIX_EPOCH,
            used_bytes,
            limit_bytes: 1000,
            inexact: None,
        };
        let reached = |used| usage(used).reached(&[80, 100]).collect::<Vec<_>>();
        assert!(reached(799).is_empty());
        assert_eq!(reached(800), [80]);
        assert_eq!(reached(999), [80]);
        assert_eq!(reached(u64::MAX), [80, 100]);
    }
}
