// SPDX-License-Identifier: GPL-2.0-or-later
//! From what time retention counts, and which cut-offs are refused.
//!
//! No single clock is trusted: a host's may be years ahead once, and what was deleted then is
//! gone.

use jiff::Timestamp;

use super::kept::Kept;
use super::rollup::{Period, SECOND_NS};
use super::{Database, Value, first_row, nanoseconds, one_integer};
use crate::store::{Retention, StoreError};
use crate::time::timestamp;

/// The time from which retention counts back: when the newest epoch counts, or the database's
/// clock if that is earlier; none if no epoch is stored.
pub(in crate::backend) fn retention_time<D: Database>(
    database: &mut D,
) -> Result<Option<Timestamp>, StoreError> {
    let now = now(database)?;
    Ok(newest(database)?.map(|newest| timestamp(newest.min(now))))
}

/// Refuses to delete what is younger than the database knows, and more than half of a level
/// unless that is meant.
pub(super) fn check<D: Database>(
    database: &mut D,
    retention: &Retention,
) -> Result<(), StoreError> {
    let Some(newest) = newest(database)? else {
        return Ok(());
    };
    let now = now(database)?;
    let kept = Kept::read(database)?;
    let mut most = Vec::new();
    for (what, before, period) in [
        ("the records", retention.records_before, None),
        (
            "the sums of 15 minutes",
            retention.quarterly_before,
            Some(Period::Quarter),
        ),
        (
            "the hourly sums",
            retention.hourly_before,
            Some(Period::Hour),
        ),
        ("the daily sums", retention.daily_before, Some(Period::Day)),
        (
            "the monthly sums",
            retention.monthly_before,
            Some(Period::Month),
        ),
    ] {
        let Some(before) = before else {
            continue;
        };
        let before_ns = nanoseconds(before);
        if before_ns > now {
            return Err(StoreError::CutOffInFuture {
                before,
                now: timestamp(now),
            });
        }
        if before_ns > newest {
            return Err(StoreError::CutOffBeyondNewest {
                before,
                newest: timestamp(newest),
            });
        }
        let (gone, all) = match period {
            None => count(database, "first_record IS NOT NULL", i64::MIN, before_ns)?,
            Some(period) => {
                let first_kept = period.begin(before_ns).saturating_mul(SECOND_NS);
                count(database, "1 = 1", kept.period_since(period), first_kept)?
            }
        };
        if gone.saturating_mul(2) > all {
            most.push(format!("{what} of {gone} of {all} epochs"));
        }
    }
    match most.is_empty() || retention.even_most {
        true => Ok(()),
        false => Err(StoreError::MostDeleted(most.join(", "))),
    }
}

/// The database server's clock, or this host's where there is no server.
pub(super) fn now<D: Database>(database: &mut D) -> Result<i64, StoreError> {
    match D::DIALECT.server_clock {
        Some(server_clock) => one_integer(database, server_clock, &[]),
        None => Ok(nanoseconds(Timestamp::now())),
    }
}

/// When the newest epoch counts.
fn newest<D: Database>(database: &mut D) -> Result<Option<i64>, StoreError> {
    match first_row(database, "SELECT MAX(counted_ns) FROM snapshot", &[])?.as_deref() {
        Some([Value::Null]) | None => Ok(None),
        Some(row) => row[0].integer().map(Some),
    }
}

/// Of the epochs from a time on for which a condition holds, how many count before another,
/// and all.
fn count<D: Database>(
    database: &mut D,
    condition: &str,
    since: i64,
    before: i64,
) -> Result<(u64, u64), StoreError> {
    let sql = format!(
        "SELECT COALESCE(SUM(counted_ns < ?), 0), COUNT(*) FROM snapshot
         WHERE {condition} AND counted_ns >= ?"
    );
    match first_row(database, &sql, &[before.into(), since.into()])?.as_deref() {
        Some([gone, all]) => Ok((gone.unsigned()?, all.unsigned()?)),
        _ => Ok((0, 0)),
    }
}
