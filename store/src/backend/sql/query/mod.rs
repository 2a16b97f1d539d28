// SPDX-License-Identifier: GPL-2.0-or-later
//! Answers queries: from rollups where grouping, filter and time allow it, else from
//! records.
//!
//! A query's time is cut into spans, each of one table ([`plan`]): whole days come from the
//! daily sums, what does not begin or end with 15 minutes from the records. Every span is
//! read by its clustered key: account by account, and of an account the range of its periods
//! or epochs.

mod accuracy;
mod counted;
mod inexact;
mod plan;
mod remote;
mod snapshots;
mod span;
mod statement;

use super::conditions::Conditions;
use super::explain::Explaining;
use super::fields::value;
use super::kept::Kept;
use super::rollup::REMOTE_MONTHLY;
use super::{Access, COUNTERS, Database, Value as Column, counters, in_transaction};
use crate::query::{Accuracy, Answer, Covered, Group, Query, Value, set_accuracy};
use crate::snapshot::Counters;
use crate::store::StoreError;
use crate::time::timestamp;
use plan::{plan, splits_days};
use remote::{Groups, remote_groups};
use span::Span;
use statement::Statement;

/// Sums up as of one moment.
pub(in crate::backend) fn answer<D: Database>(
    database: &mut D,
    query: &Query,
) -> Result<Answer, StoreError> {
    in_transaction(database, Access::Read, |database| {
        let kept = Kept::read(database)?;
        let extent = match splits_days(query) {
            true => inexact::extent(database, query)?,
            false => None,
        };
        let plan = plan(query, &kept, extent);
        let spans = &plan.spans[..];
        let (epochs, covered) = count_epochs(database, spans)?;
        let remote = spans.iter().any(|span| span.table == Some(REMOTE_MONTHLY));
        let (groups, group_count, total) = match remote {
            true => remote_groups(database, query, spans)?,
            false => groups(database, query, spans)?,
        };
        let mut answer = Answer {
            by: query.by.clone(),
            groups,
            group_count,
            total,
            epochs,
            covered,
            error: None,
            accuracy: Accuracy::default(),
            inexact: inexact::read(database, query, &plan, &kept)?,
            counted: None,
        };
        let accuracies = accuracy::read(database, query, spans)?;
        set_accuracy(&mut answer, query, &accuracies);
        if query.counted {
            answer.set_counted(query, counted::read(database, query, spans)?);
        }
        Ok(answer)
    })
}

/// How every statement of a query is run, as the database tells it; one line for each
/// step.
pub(in crate::backend) fn explain<D: Database>(
    database: &mut D,
    query: &Query,
) -> Result<Vec<Vec<Column>>, StoreError> {
    let mut explaining = Explaining {
        database,
        lines: Vec::new(),
    };
    answer(&mut explaining, query)?;
    Ok(explaining.lines)
}

fn count_epochs<D: Database>(
    database: &mut D,
    spans: &[Span],
) -> Result<(u64, Option<Covered>), StoreError> {
    let mut conditions = Conditions::default();
    let times = spans.iter().map(|span| (span.from, span.until));
    let (Some(from), Some(until)) = (
        times.clone().map(|(from, _)| from).min(),
        times.map(|(_, until)| until).max(),
    ) else {
        return Ok((0, None));
    };
    conditions.within_time("s.counted_ns", 1, (from, until));
    if spans.iter().all(|span| span.table.is_none()) {
        conditions.and("s.first_record IS NOT NULL");
    }
    // An account by what names it: each life of one has a row of its own.
    let sql = format!(
        "SELECT COUNT(*), MIN(s.opened_ns), MAX(s.closed_ns),
    SUM(COALESCE(NULLIF(s.duration_ns, 0) - (s.closed_ns - s.opened_ns), 0) * 1e0)
FROM account AS a {join} snapshot AS s {by_key}
    ON s.host_id = a.host_id AND s.account_id = a.id
WHERE 1 = 1{conditions}
GROUP BY a.host_id, a.netns, a.family, a.name",
        join = D::DIALECT.ordered_join,
        by_key = D::DIALECT.by_key,
        conditions = conditions.sql
    );
    let mut count = 0;
    let mut covered = None;
    let mut corrections = Vec::new();
    database.select(&sql, &conditions.parameters, &mut |row| {
        count += row[0].unsigned()?;
        let (opened, closed) = (row[1].integer()?, row[2].integer()?);
        let (first, last) = covered.unwrap_or((opened, closed));
        covered = Some((opened.min(first), closed.max(last)));
        corrections.push(row[3].real()? as i64);
        Ok(())
    })?;
    let covered = covered.map(|(opened, closed)| {
        Covered::new(
            timestamp(opened),
            timestamp(closed),
            corrections.into_iter(),
        )
    });
    Ok((count, covered))
}

/// The groups that one statement gives, sorted and cut by the database.
fn groups<D: Database>(
    database: &mut D,
    query: &Query,
    spans: &[Span],
) -> Result<Groups, StoreError> {
    let mut groups = Vec::new();
    let mut group_count = 0;
    let mut total = Counters::default();
    if !spans.is_empty() {
        let statement = Statement::new::<D>(query, spans, true);
        let keys = query.by.len();
        database.select(&statement.sql, &statement.parameters, &mut |row| {
            groups.push(Group {
                key: key(query, row)?,
                counters: counters(row, keys)?,
                error: None,
                counted: None,
            });
            total = counters(row, keys + COUNTERS.len())?;
            group_count = row[keys + 2 * COUNTERS.len()].unsigned()?;
            Ok(())
        })?;
    }
    Ok((groups, group_count, total))
}

fn key(query: &Query, row: &[Column]) -> Result<Vec<Value>, StoreError> {
    query
        .by
        .iter()
        .zip(row)
        .map(|(&field, column)| value(field, column))
        .collect()
}
