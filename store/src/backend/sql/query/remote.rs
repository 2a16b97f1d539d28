// SPDX-License-Identifier: GPL-2.0-or-later
//! Groups by remote address, which are too many for the database to sort.

use std::cmp::Reverse;
use std::net::IpAddr;

use super::span::Span;
use super::statement::Statement;
use crate::backend::sql::conditions::Conditions;
use crate::backend::sql::parts::Part;
use crate::backend::sql::rollup::{REMOTE_MONTHLY, SECOND_NS, Sums, plus};
use crate::backend::sql::{Database, counters};
use crate::query::{Group, Query, Value};
use crate::snapshot::Counters;
use crate::store::StoreError;

/// The groups asked for, how many there are, and the sum over all of them.
pub(super) type Groups = (Vec<Group>, u64, Counters);

/// The groups by remote address: those of the tables, and the parts that were not added
/// to them yet.
pub(super) fn remote_groups<D: Database>(
    database: &mut D,
    query: &Query,
    spans: &[Span],
) -> Result<Groups, StoreError> {
    let mut sums = Sums::<Option<IpAddr>>::default();
    let grouped = !query.by.is_empty();
    let statement = Statement::new::<D>(query, spans, false);
    database.select(&statement.sql, &statement.parameters, &mut |row| {
        let ip = grouped.then(|| row[0].address()).transpose()?;
        let more = counters(row, usize::from(grouped))?;
        let sum = sums.entry(ip).or_default();
        *sum = plus(sum, &more);
        Ok(())
    })?;
    for span in spans {
        if span.table == Some(REMOTE_MONTHLY) {
            add_parts(database, query, span, grouped, &mut sums)?;
        }
    }
    let total = sums
        .values()
        .fold(Counters::default(), |total, sum| plus(&total, sum));
    let group_count = sums.len() as u64;
    let mut sorted: Vec<(Option<IpAddr>, Counters)> = sums.into_iter().collect();
    let rank =
        |group: &(Option<IpAddr>, Counters)| (Reverse(query.order.measure(&group.1)), group.0);
    let limit = query.limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    if limit < sorted.len() {
        sorted.select_nth_unstable_by_key(limit, rank);
        sorted.truncate(limit);
    }
    sorted.sort_unstable_by_key(rank);
    let groups = sorted
        .into_iter()
        .map(|(ip, counters)| Group {
            key: ip.map(Value::Ip).into_iter().collect(),
            counters,
            error: None,
            counted: None,
        })
        .collect();
    Ok((groups, group_count, total))
}

fn add_parts<D: Database>(
    database: &mut D,
    query: &Query,
    span: &Span,
    grouped: bool,
    sums: &mut Sums<Option<IpAddr>>,
) -> Result<(), StoreError> {
    let nets = &query.filter.remote;
    let mut conditions = Conditions::default();
    conditions.accounts(&query.filter.accounts);
    conditions.hosts(&query.filter.hosts);
    conditions.within_time("t.month", SECOND_NS, (span.from, span.until));
    let sql = format!(
        "SELECT t.sums FROM account AS a {join} remote_part AS t {by_key}
    ON t.host_id = a.host_id AND t.account_id = a.id
WHERE 1 = 1{conditions}",
        join = D::DIALECT.ordered_join,
        by_key = D::DIALECT.by_primary_key,
        conditions = conditions.sql
    );
    database.select(&sql, &conditions.parameters, &mut |row| {
        for sum in Part::new(row[0].bytes()?) {
            let (ip, more) = sum?;
            if nets.is_empty() || nets.iter().any(|net| net.contains(&ip)) {
                let sum = sums.entry(grouped.then_some(ip)).or_default();
                *sum = plus(sum, &more);
            }
        }
        Ok(())
    })
}
