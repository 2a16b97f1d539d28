// SPDX-License-Identifier: GPL-2.0-or-later
//! The statement that sums up over the spans of a query.

use super::span::Span;
use crate::backend::sql::conditions::Conditions;
use crate::backend::sql::rollup::{Rollup, SECOND_NS};
use crate::backend::sql::{COUNTERS, Database, Value as Column, nanoseconds};
use crate::query::{Field, Order, Query};
use crate::time::timestamp;

/// 2100-01-01: rules of a zone go on for ever, and nothing was counted later.
const LAST_CHANGE_NS: i64 = 4_102_444_800 * SECOND_NS;

/// A statement and its parameters, in the order of their places.
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) parameters: Vec<Column>,
}

impl Statement {
    /// Sums up over the spans; `whole` also sorts, cuts and sums up over all groups. Without
    /// it a key may come again: a database that groups by a million addresses does it on its
    /// disk, where whoever asks only adds them up.
    pub(super) fn new<D: Database>(query: &Query, spans: &[Span], whole: bool) -> Self {
        let summed = whole || query.by.is_empty();
        let mut parameters = Vec::new();
        let selects: Vec<String> = spans
            .iter()
            .map(|span| {
                let (sql, mut more) = select_span::<D>(query, span, summed);
                parameters.append(&mut more);
                sql
            })
            .collect();
        let integer = D::DIALECT.integer;
        let names: Vec<String> = (1..=query.by.len())
            .map(|number| format!("key_{number}"))
            .collect();
        let grouped = match &selects[..] {
            [one] => one.clone(),
            several if !summed => several.join("\nUNION ALL\n"),
            several => format!(
                "SELECT {selected} FROM (\n{union}\n) AS span {group}",
                selected = names
                    .iter()
                    .cloned()
                    .chain(COUNTERS.map(|name| format!("CAST(SUM({name}) AS {integer}) AS {name}")))
                    .collect::<Vec<_>>()
                    .join(", "),
                union = several.join("\nUNION ALL\n"),
                group = group_by(&names),
            ),
        };
        if !whole {
            return Self {
                sql: grouped,
                parameters,
            };
        }
        let totals = COUNTERS.map(|name| format!("CAST(SUM({name}) OVER () AS {integer})"));
        let mut sql = format!(
            "WITH grouped AS (\n{grouped}\n)
SELECT grouped.*, {totals}, COUNT(*) OVER ()
FROM grouped",
            totals = totals.join(", "),
        );
        let mut order: Vec<String> = order_columns(query.order)
            .map(|columns| format!("{columns} DESC"))
            .into_iter()
            .collect();
        for (field, name) in query.by.iter().zip(&names) {
            // IPv4 before IPv6, as addresses compare.
            if matches!(field, Field::LocalIp | Field::RemoteIp) {
                order.push(format!("LENGTH({name})"));
            }
            order.push(name.clone());
        }
        if !order.is_empty() {
            sql.push_str(&format!("\nORDER BY {}", order.join(", ")));
        }
        if let Some(limit) = query.limit {
            sql.push_str(&format!(" LIMIT {}", limit.min(i64::MAX as u64)));
        }
        Self { sql, parameters }
    }
}

/// The groups of one span, or its rows as they are.
fn select_span<D: Database>(query: &Query, span: &Span, summed: bool) -> (String, Vec<Column>) {
    let dialect = &D::DIALECT;
    let join = dialect.ordered_join;
    let mut conditions = Conditions::default();
    conditions.accounts(&query.filter.accounts);
    conditions.hosts(&query.filter.hosts);
    let from = match &span.table {
        Some(rollup) => {
            span.select_periods(rollup, &mut conditions);
            format!(
                "{} AS t {} ON t.host_id = a.host_id AND t.account_id = a.id",
                rollup.table, dialect.by_primary_key
            )
        }
        None => {
            span.select_snapshots(&mut conditions);
            format!(
                "snapshot AS s {by_key} ON s.host_id = a.host_id AND s.account_id = a.id
    {join} record AS r {by_primary_key} ON {records}",
                by_key = dialect.by_key,
                by_primary_key = dialect.by_primary_key,
                records = dialect.records_of_snapshot
            )
        }
    };
    let alias = if span.table.is_some() { "t" } else { "r" };
    conditions.fields(alias, &query.filter);
    let time_ns = match &span.table {
        // A period belongs to the time that has its middle.
        Some(Rollup { period, .. }) => format!(
            "(t.{} * {SECOND_NS} + {})",
            period.column(),
            period.half_ns()
        ),
        None => "s.counted_ns".to_owned(),
    };
    let keys: Vec<String> = query
        .by
        .iter()
        .map(|&field| {
            epoch_key(field, &time_ns, query, span)
                .unwrap_or_else(|| format!("{alias}.{}", field.column()))
        })
        .collect();
    let host = accounts::<D>(query);
    let counters = COUNTERS.map(|counter| match summed {
        true => format!(
            "CAST(SUM({alias}.{counter}) AS {}) AS {counter}",
            dialect.integer
        ),
        false => format!("{alias}.{counter} AS {counter}"),
    });
    let selected: Vec<String> = keys
        .iter()
        .zip(1..)
        .map(|(key, number)| format!("{key} AS key_{number}"))
        .chain(counters)
        .collect();
    let sql = format!(
        "SELECT {selected}
    FROM {host} {join} {from}
    WHERE 1 = 1{conditions} {group}",
        selected = selected.join(", "),
        conditions = conditions.sql,
        group = match summed {
            true => group_by(&keys),
            false => String::new(),
        },
    );
    (sql, conditions.parameters)
}

/// The expression of a field that all records of an epoch have one value in.
pub(super) fn epoch_key(field: Field, time_ns: &str, query: &Query, span: &Span) -> Option<String> {
    Some(match field {
        Field::Account => "a.name".to_owned(),
        Field::Host => "h.hostname".to_owned(),
        Field::FiveMinutes => floor(time_ns, 300),
        Field::Hour => floor(time_ns, 3600),
        Field::Day => floor(&local(time_ns, query, span), 86_400),
        _ => return None,
    })
}

/// The accounts `a`, with their hosts `h` where a query needs these.
pub(super) fn accounts<D: Database>(query: &Query) -> String {
    match query.by.contains(&Field::Host) {
        true => format!(
            "host AS h {} account AS a ON a.host_id = h.id",
            D::DIALECT.ordered_join
        ),
        false => "account AS a".to_owned(),
    }
}

/// A time in nanoseconds, cut to a multiple of so many seconds.
fn floor(time_ns: &str, seconds: i64) -> String {
    format!("({time_ns} - {time_ns} % {})", seconds * SECOND_NS)
}

/// A time in nanoseconds as the query's zone tells it.
fn local(time_ns: &str, query: &Query, span: &Span) -> String {
    let mut changes: Vec<(i64, i32)> = query
        .zone
        .preceding(timestamp(span.until.min(LAST_CHANGE_NS)))
        .map(|change| (nanoseconds(change.timestamp()), change.offset().seconds()))
        .take_while(|&(time, _)| time > span.from.max(0))
        .collect();
    let first = query.zone.to_offset(timestamp(span.from.max(0)));
    let offset_ns = |seconds: i32| i64::from(seconds) * SECOND_NS;
    let mut offset = format!("{}", offset_ns(first.seconds()));
    changes.reverse();
    for (from, seconds) in changes {
        offset = format!(
            "CASE WHEN {time_ns} >= {from} THEN {} ELSE {offset} END",
            offset_ns(seconds)
        );
    }
    format!("({time_ns} + ({offset}))")
}

/// Without keys everything is one group, and nothing none.
pub(super) fn group_by(keys: &[String]) -> String {
    match keys {
        [] => "HAVING COUNT(*) > 0".to_owned(),
        _ => format!("GROUP BY {}", keys.join(", ")),
    }
}

fn order_columns(order: Order) -> Option<&'static str> {
    Some(match order {
        Order::Fields => return None,
        Order::Bytes => "sent_bytes + received_bytes",
        Order::Packets => "sent_packets + received_packets",
        Order::SentBytes => "sent_bytes",
        Order::ReceivedBytes => "received_bytes",
        Order::SentPackets => "sent_packets",
        Order::ReceivedPackets => "received_packets",
        Order::SynPackets => "syn_packets",
    })
}
