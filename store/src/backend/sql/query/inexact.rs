// SPDX-License-Identifier: GPL-2.0-or-later
//! What an answer does not tell exactly, judged by the epochs that it concerns.
//!
//! Snapshots keep their rows when records and sums are deleted, so it is known of every epoch
//! whether a moved cut or a missing level changes what is said of it.

use super::plan::{Move, Plan};
use crate::backend::sql::conditions::Conditions;
use crate::backend::sql::kept::Kept;
use crate::backend::sql::rollup::Period;
use crate::backend::sql::{Database, Value as Column, nanoseconds};
use crate::query::{Coarse, Inexact, Missing, Query, SumPeriod};
use crate::store::StoreError;
use crate::time::timestamp;

/// So many moved cuts are looked at one by one; of more, all epochs between are.
const SINGLE: usize = 4;

/// What the plan's answer does not tell exactly.
pub(super) fn read<D: Database>(
    database: &mut D,
    query: &Query,
    plan: &Plan,
    kept: &Kept,
) -> Result<Option<Inexact>, StoreError> {
    let inexact = Inexact {
        coarse: coarse(database, query, &plan.moves)?,
        missing: missing(database, query, &plan.missing)?,
        closed_until: closed_until(database, query, kept)?,
    };
    Ok((inexact != Inexact::default()).then_some(inexact))
}

/// The cuts that were moved past epochs.
fn coarse<D: Database>(
    database: &mut D,
    query: &Query,
    moves: &[Move],
) -> Result<Option<Coarse>, StoreError> {
    let mut coarse = None;
    let chunk = if moves.len() > SINGLE { moves.len() } else { 1 };
    for moves in moves.chunks(chunk.max(1)) {
        let times = |moved: &Move| {
            let Move { asked, moved, .. } = *moved;
            (asked.min(moved), asked.max(moved))
        };
        let (first, last) = (times(&moves[0]), times(&moves[moves.len() - 1]));
        counting(database, query, (first.0, last.1), "1 = 1", |counted| {
            // They are in the order of their time, and do not overlap.
            let next = moves.partition_point(|moved| times(moved).1 <= counted);
            if let Some(moved) = moves.get(next).filter(|moved| times(moved).0 <= counted) {
                note(&mut coarse, moved);
            }
        })?;
    }
    Ok(coarse)
}

fn note(coarse: &mut Option<Coarse>, moved: &Move) {
    let asked = timestamp(moved.asked);
    let period = sum_period(moved.period);
    let noted = coarse.get_or_insert(Coarse {
        first: asked,
        last: asked,
        period,
    });
    noted.first = noted.first.min(asked);
    noted.last = noted.last.max(asked);
    noted.period = noted.period.max(period);
}

/// The time of which something was counted that nothing tells any more.
fn missing<D: Database>(
    database: &mut D,
    query: &Query,
    times: &[(i64, i64)],
) -> Result<Option<Missing>, StoreError> {
    let mut missing: Option<Missing> = None;
    for &time in times {
        let mut first = None;
        counting(database, query, time, "s.first_record IS NULL", |counted| {
            first = Some(first.map_or(counted, |first: i64| first.min(counted)));
        })?;
        if let Some(first) = first {
            let until = timestamp(time.1);
            let noted = missing.get_or_insert(Missing {
                since: timestamp(first),
                until,
            });
            noted.since = noted.since.min(timestamp(first));
            noted.until = noted.until.max(until);
        }
    }
    Ok(missing)
}

/// Until when epochs count when they closed, if the query asks for a time before that.
fn closed_until<D: Database>(
    database: &mut D,
    query: &Query,
    kept: &Kept,
) -> Result<Option<jiff::Timestamp>, StoreError> {
    let filter = &query.filter;
    let asks_for_time = filter.since.is_some()
        || filter.until.is_some()
        || query.by.iter().any(|field| field.is_time());
    let since = filter.since.map_or(i64::MIN, nanoseconds);
    let until = filter.until.map_or(i64::MAX, nanoseconds);
    if !asks_for_time || since >= kept.closed {
        return Ok(None);
    }
    let mut counted = false;
    counting(
        database,
        query,
        (since, until.min(kept.closed)),
        "1 = 1",
        |_| counted = true,
    )?;
    Ok(counted.then(|| timestamp(kept.closed)))
}

/// Shows when the epochs of a time count that recorded something and meet a condition.
fn counting<D: Database>(
    database: &mut D,
    query: &Query,
    (from, until): (i64, i64),
    condition: &str,
    mut each: impl FnMut(i64),
) -> Result<(), StoreError> {
    if from >= until {
        return Ok(());
    }
    let mut conditions = Conditions::default();
    conditions.accounts(&query.filter.accounts);
    conditions.hosts(&query.filter.hosts);
    conditions.within_time("s.counted_ns", 1, (from, until));
    conditions.and("s.records > 0");
    conditions.and(condition);
    let sql = format!(
        "SELECT s.counted_ns
FROM account AS a {join} snapshot AS s {by_key}
    ON s.host_id = a.host_id AND s.account_id = a.id
WHERE 1 = 1{conditions}",
        join = D::DIALECT.ordered_join,
        by_key = D::DIALECT.by_key,
        conditions = conditions.sql,
    );
    database.select(&sql, &conditions.parameters, &mut |row| {
        each(row[0].integer()?);
        Ok(())
    })
}

/// The first and the last time at which an epoch of the query's accounts counts.
pub(super) fn extent<D: Database>(
    database: &mut D,
    query: &Query,
) -> Result<Option<(i64, i64)>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.accounts(&query.filter.accounts);
    conditions.hosts(&query.filter.hosts);
    // Each is the end of a range of the key, where both together would read all of it.
    let of_account = |end: &str| {
        format!(
            "(SELECT {end}(s.counted_ns) FROM snapshot AS s
    WHERE s.host_id = a.host_id AND s.account_id = a.id)"
        )
    };
    let sql = format!(
        "SELECT {first}, {last} FROM account AS a WHERE 1 = 1{conditions}",
        first = of_account("MIN"),
        last = of_account("MAX"),
        conditions = conditions.sql,
    );
    let mut extent: Option<(i64, i64)> = None;
    database.select(&sql, &conditions.parameters, &mut |row| {
        if row[0] != Column::Null {
            let (first, last) = (row[0].integer()?, row[1].integer()?);
            let (earlier, later) = extent.unwrap_or((first, last));
            extent = Some((first.min(earlier), last.max(later)));
        }
        Ok(())
    })?;
    Ok(extent)
}

fn sum_period(period: Period) -> SumPeriod {
    match period {
        Period::Quarter => SumPeriod::Quarter,
        Period::Hour => SumPeriod::Hour,
        Period::Day => SumPeriod::Day,
        Period::Month => SumPeriod::Month,
    }
}
