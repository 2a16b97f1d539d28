//! Answers queries: from rollups where grouping, filter and time allow it, else from
//! records.
//!
//! A query's time is cut into spans, each of one table: what does not begin or end with
//! an hour comes from the records, whole days from the daily sums. Every span is read by
//! its clustered key: account by account, and of an account the range of its periods or
//! epochs.

mod accuracy;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use jiff::tz::TimeZone;

use super::explain::Explaining;
use super::parts::Part;
use super::rollup::{
    LOCAL_DAILY, LOCAL_HOURLY, Owner, Period, REMOTE_MONTHLY, Rollup, SECOND_NS, SERVICE_DAILY,
    SERVICE_HOURLY, Sums, plus,
};
use super::rotate::Kept;
use super::{Access, COUNTERS, Database, Value as Column, counters, in_transaction, nanoseconds};
use crate::account::Name;
use crate::query::{
    Accuracy, Answer, Covered, Field, Filter, Group, Order, Query, Value, set_accuracy,
};
use crate::snapshot::Counters;
use crate::store::StoreError;
use crate::time::timestamp;

/// Sums up as of one moment.
pub(in crate::backend) fn answer<D: Database>(
    database: &mut D,
    query: &Query,
) -> Result<Answer, StoreError> {
    in_transaction(database, Access::Read, |database| {
        let kept = Kept::read(database)?;
        let spans = plan(query, &kept);
        let (epochs, covered) = count_epochs(database, query, &spans)?;
        let remote = spans.iter().any(|span| span.table == Some(REMOTE_MONTHLY));
        let (groups, group_count, total) = match remote {
            true => remote_groups(database, query, &spans)?,
            false => groups(database, query, &spans)?,
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
        };
        let accuracies = accuracy::read(database, query, &spans, &kept)?;
        set_accuracy(&mut answer, query, &accuracies);
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

/// A part of a query's time, and the table that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    /// None: the records.
    table: Option<Rollup>,
    /// Nanoseconds since 1970; the first that belongs to it.
    from: i64,
    /// The first that does not; `i64::MAX` has no end.
    until: i64,
}

/// The tables that may answer a query, from fine to coarse.
fn tables(query: &Query) -> &'static [Rollup] {
    let filter = &query.filter;
    let everywhere = [Field::Account, Field::Host, Field::Hour, Field::Day];
    let is_by = |fields: &[Field], field| fields.contains(field) || everywhere.contains(field);
    let by = |fields: &[Field]| query.by.iter().all(|field| is_by(fields, field));
    let no_local = filter.local.is_empty();
    let no_remote = filter.remote.is_empty() && filter.remote_ports.is_empty();
    let no_service = filter.protocols.is_empty() && filter.local_ports.is_empty();
    let tables: &[Rollup] = if by(&[Field::LocalIp]) && no_remote && no_service {
        &[LOCAL_HOURLY, LOCAL_DAILY]
    } else if by(&[Field::Protocol, Field::LocalPort]) && no_remote && no_local {
        &[SERVICE_HOURLY, SERVICE_DAILY]
    } else {
        let by_remote = query.by.iter().all(|&field| field == Field::RemoteIp);
        return match by_remote && no_local && no_service && filter.remote_ports.is_empty() {
            true => &[REMOTE_MONTHLY],
            false => &[],
        };
    };
    // Days of other zones begin and end within those of the daily sums.
    let splits_days =
        |&field: &Field| field == Field::Hour || field == Field::Day && query.zone != TimeZone::UTC;
    match query.by.iter().any(splits_days) {
        true => &tables[..1],
        false => tables,
    }
}

fn plan(query: &Query, kept: &Kept) -> Vec<Span> {
    let bound = |time: Option<jiff::Timestamp>, open| time.map_or(open, nanoseconds);
    let whole = Span {
        table: None,
        from: bound(query.filter.since, i64::MIN),
        until: bound(query.filter.until, i64::MAX),
    };
    let mut spans = Vec::new();
    if whole.from < whole.until {
        cut(whole, tables(query), kept, &mut spans);
    }
    // Sums that stand in for records which are gone may reach further than was asked
    // for, and two such may be the same.
    spans.dedup();
    spans
}

/// Cuts a span into whole periods of the next coarser table and what is left at its ends.
fn cut(span: Span, coarser: &[Rollup], kept: &Kept, spans: &mut Vec<Span>) {
    let Some((&table, rest)) = coarser.split_first() else {
        spans.push(span);
        return;
    };
    let period = table.period;
    let of_table = |from, until| Span {
        table: Some(table),
        from,
        until,
    };
    let (from, until) = (up(span.from, period), down(span.until, period));
    let (whole, ends) = match from < until {
        true => (
            Some(of_table(from, until)),
            [(span.from, from), (until, span.until)],
        ),
        false => (None, [(span.from, span.until), (0, 0)]),
    };
    for (part, (from, until)) in [None, whole].into_iter().zip(ends) {
        if let Some(periods) = part {
            cut(periods, rest, kept, spans);
        }
        if from >= until {
            continue;
        }
        if from < kept.since(span.table) {
            // The finer rows are gone: the periods that they lie in stand for them.
            cut(
                of_table(down(from, period), up(until, period)),
                rest,
                kept,
                spans,
            );
        } else {
            spans.push(Span {
                from,
                until,
                ..span
            });
        }
    }
}

/// The begin of the period that a time lies in.
fn down(time: i64, period: Period) -> i64 {
    match time {
        i64::MIN | i64::MAX => time,
        _ => period.begin(time).saturating_mul(SECOND_NS),
    }
}

/// The first begin of a period at a time or later.
fn up(time: i64, period: Period) -> i64 {
    match down(time, period) {
        begin if begin == time => time,
        _ => period.next(period.begin(time)).saturating_mul(SECOND_NS),
    }
}

fn count_epochs<D: Database>(
    database: &mut D,
    query: &Query,
    spans: &[Span],
) -> Result<(u64, Option<Covered>), StoreError> {
    let mut conditions = Conditions::default();
    conditions.within_time("s.closed_ns", 1, bounds(&query.filter));
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

fn bounds(filter: &Filter) -> (i64, i64) {
    (
        filter.since.map_or(i64::MIN, nanoseconds),
        filter.until.map_or(i64::MAX, nanoseconds),
    )
}

type Groups = (Vec<Group>, u64, Counters);

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
            });
            total = counters(row, keys + COUNTERS.len())?;
            group_count = row[keys + 2 * COUNTERS.len()].unsigned()?;
            Ok(())
        })?;
    }
    Ok((groups, group_count, total))
}

/// The groups by remote address: those of the tables, and the parts that were not added
/// to them yet.
fn remote_groups<D: Database>(
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
        })
        .collect();
    Ok((groups, group_count, total))
}

fn add_parts<D: Database>(
    database: &mut D,
    query: &Query,
    span: &Span,
    grouped: bool,
    sums: &mut HashMap<Option<IpAddr>, Counters, foldhash::fast::RandomState>,
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

fn key(query: &Query, row: &[Column]) -> Result<Vec<Value>, StoreError> {
    query
        .by
        .iter()
        .zip(row)
        .map(|(&field, column)| value(field, column))
        .collect()
}

/// What a column of a field has.
pub(super) fn value(field: Field, column: &Column) -> Result<Value, StoreError> {
    Ok(match field {
        Field::Protocol => Value::Protocol(column.small()?),
        Field::LocalPort | Field::RemotePort => Value::Port(column.small()?),
        Field::LocalIp | Field::RemoteIp => Value::Ip(column.address()?),
        Field::Account | Field::Host => Value::Name(column.text()?.to_owned()),
        Field::FiveMinutes | Field::Hour => Value::Time(timestamp(column.integer()?)),
        Field::Day => {
            // Local time, read as if it were UTC.
            let local = timestamp(column.integer()?);
            Value::Date(TimeZone::UTC.to_datetime(local).date())
        }
    })
}

/// A statement and its parameters, in the order of their places.
struct Statement {
    sql: String,
    parameters: Vec<Column>,
}

impl Statement {
    /// Sums up over the spans; `whole` also sorts, cuts and sums up over all groups. Without
    /// it a key may come again: a database that groups by a million addresses does it on its
    /// disk, where whoever asks only adds them up.
    fn new<D: Database>(query: &Query, spans: &[Span], whole: bool) -> Self {
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
            let period = format!("t.{}", rollup.period.column());
            conditions.within_time(&period, SECOND_NS, (span.from, span.until));
            format!(
                "{} AS t {} ON t.host_id = a.host_id AND t.account_id = a.id",
                rollup.table, dialect.by_primary_key
            )
        }
        None => {
            conditions.within_time("s.closed_ns", 1, (span.from, span.until));
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
        Some(rollup) => format!("t.{} * {SECOND_NS}", rollup.period.column()),
        None => "s.closed_ns".to_owned(),
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
fn epoch_key(field: Field, time_ns: &str, query: &Query, span: &Span) -> Option<String> {
    Some(match field {
        Field::Account => "a.name".to_owned(),
        Field::Host => "h.hostname".to_owned(),
        Field::FiveMinutes => floor(time_ns, 300),
        Field::Hour => floor(time_ns, 3600),
        Field::Day => floor(&local(&floor(time_ns, 3600), query, span), 86_400),
        _ => return None,
    })
}

/// The accounts `a`, with their hosts `h` where a query needs these.
fn accounts<D: Database>(query: &Query) -> String {
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

/// 2100-01-01: rules of a zone go on for ever, and nothing was counted later.
const LAST_CHANGE_NS: i64 = 4_102_444_800 * SECOND_NS;

/// Without keys everything is one group, and nothing none.
fn group_by(keys: &[String]) -> String {
    match keys {
        [] => "HAVING COUNT(*) > 0".to_owned(),
        _ => format!("GROUP BY {}", keys.join(", ")),
    }
}

/// `AND` conditions and their parameters.
#[derive(Default)]
pub(super) struct Conditions {
    pub(super) sql: String,
    pub(super) parameters: Vec<Column>,
}

impl Conditions {
    pub(super) fn accounts(&mut self, names: &[Name]) {
        if !names.is_empty() {
            let places = self.places(names.iter().map(|name| name.as_str().into()));
            self.and(&format!("a.name IN ({places})"));
        }
    }

    /// Accounts of hosts with these names or machine ids.
    fn hosts(&mut self, hosts: &[String]) {
        if !hosts.is_empty() {
            let mut places = || self.places(hosts.iter().map(|host| host.as_str().into()));
            let (names, ids) = (places(), places());
            self.and(&format!(
                "a.host_id IN (SELECT id FROM host
        WHERE hostname IN ({names}) OR machine_id IN ({ids}))"
            ));
        }
    }

    /// What belongs to one account, by its host_id and account_id.
    pub(super) fn owner(&mut self, owner: Owner) {
        for (column, id) in [("host_id", owner.host_id), ("account_id", owner.account_id)] {
            let place = self.places([Column::from(id)]);
            self.and(&format!("{column} = {place}"));
        }
    }

    fn fields(&mut self, alias: &str, filter: &Filter) {
        let column = |field: Field| format!("{alias}.{}", field.column());
        self.one_of(&column(Field::Protocol), &filter.protocols);
        self.ports(&column(Field::LocalPort), &filter.local_ports);
        self.ports(&column(Field::RemotePort), &filter.remote_ports);
        self.within(&column(Field::LocalIp), &filter.local);
        self.within(&column(Field::RemoteIp), &filter.remote);
    }

    /// Bounds in nanoseconds on a column in units of so many; open ones are none.
    pub(super) fn within_time(&mut self, column: &str, unit_ns: i64, (from, until): (i64, i64)) {
        for (operator, time, open) in [(">=", from, i64::MIN), ("<", until, i64::MAX)] {
            if time != open {
                let place = self.places([Column::from(time.div_euclid(unit_ns))]);
                self.and(&format!("{column} {operator} {place}"));
            }
        }
    }

    fn one_of<T: Copy + Into<Column>>(&mut self, column: &str, values: &[T]) {
        if !values.is_empty() {
            let places = self.places(values.iter().map(|&value| value.into()));
            self.and(&format!("{column} IN ({places})"));
        }
    }

    fn ports(&mut self, column: &str, ranges: &[RangeInclusive<u16>]) {
        if ranges.is_empty() {
            return;
        }
        let within: Vec<String> = ranges
            .iter()
            .map(|range| {
                let [first, last] =
                    [range.start(), range.end()].map(|&port| self.places([port.into()]));
                format!("{column} BETWEEN {first} AND {last}")
            })
            .collect();
        self.and(&format!("({})", within.join(" OR ")));
    }

    /// The addresses of a net are a range; the length tells IPv4 from IPv6.
    fn within(&mut self, column: &str, nets: &[IpNet]) {
        if nets.is_empty() {
            return;
        }
        let ranges: Vec<String> = nets
            .iter()
            .map(|net| {
                let length = if net.addr().is_ipv4() { 4 } else { 16 };
                let [first, last] =
                    [net.network(), net.broadcast()].map(|bound| self.places([bound.into()]));
                format!("(LENGTH({column}) = {length} AND {column} BETWEEN {first} AND {last})")
            })
            .collect();
        self.and(&format!("({})", ranges.join(" OR ")));
    }

    fn and(&mut self, condition: &str) {
        self.sql.push_str("\n    AND ");
        self.sql.push_str(condition);
    }

    /// Takes parameters and gives their places, separated by commas.
    fn places(&mut self, parameters: impl IntoIterator<Item = Column>) -> String {
        let first = self.parameters.len();
        self.parameters.extend(parameters);
        vec!["?"; self.parameters.len() - first].join(", ")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn query(by: &[Field], since: Option<&str>, until: Option<&str>) -> Query {
        Query {
            by: by.to_vec(),
            filter: Filter {
                since: since.map(|time| time.parse().unwrap()),
                until: until.map(|time| time.parse().unwrap()),
                ..Filter::default()
            },
            order: Order::Bytes,
            limit: None,
            zone: TimeZone::UTC,
        }
    }

    /// The tables of the spans and their begins.
    fn planned(query: &Query, kept: &Kept) -> Vec<(String, String)> {
        plan(query, kept)
            .iter()
            .map(|span| {
                let table = span.table.map_or("record", |rollup| rollup.table);
                let from = match span.from {
                    i64::MIN => "ever".to_owned(),
                    from => jiff::Timestamp::from_nanosecond(from.into())
                        .unwrap()
                        .strftime("%m-%d %H:%M")
                        .to_string(),
                };
                (table.to_owned(), from)
            })
            .collect()
    }

    fn expect(found: &[(String, String)], expected: &[(&str, &str)]) {
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(table, from)| (table.as_str(), from.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn all_time_is_one_span_of_the_coarsest_sums() {
        let kept = Kept::default();
        for (by, table) in [
            (&[Field::LocalIp][..], "local_daily"),
            (&[Field::LocalPort, Field::Protocol], "service_daily"),
            (&[Field::RemoteIp], "remote_monthly"),
            (&[Field::LocalIp, Field::Protocol], "record"),
            (&[Field::RemotePort], "record"),
        ] {
            expect(&planned(&query(by, None, None), &kept), &[(table, "ever")]);
        }
    }

    #[test]
    fn ends_of_a_time_come_from_finer_tables() {
        let query = query(
            &[Field::LocalIp],
            Some("2026-01-01T22:30:00Z"),
            Some("2026-01-04T01:10:00Z"),
        );
        expect(
            &planned(&query, &Kept::default()),
            &[
                ("record", "01-01 22:30"),
                ("local_hourly", "01-01 23:00"),
                ("local_daily", "01-02 00:00"),
                ("local_hourly", "01-04 00:00"),
                ("record", "01-04 01:00"),
            ],
        );
    }

    #[test]
    fn time_within_an_hour_comes_from_the_records() {
        let query = query(
            &[Field::LocalIp],
            Some("2026-01-01T22:10:00Z"),
            Some("2026-01-01T22:20:00Z"),
        );
        expect(
            &planned(&query, &Kept::default()),
            &[("record", "01-01 22:10")],
        );
    }

    #[test]
    fn filter_that_sums_do_not_have_needs_the_records() {
        let mut query = query(&[Field::LocalIp], None, None);
        query.filter.protocols = vec![6];
        expect(&planned(&query, &Kept::default()), &[("record", "ever")]);
    }

    #[test]
    fn hour_stands_for_its_records_once_they_are_gone() {
        let kept = Kept::records_since("2026-02-01T00:00:00Z".parse().unwrap());
        let first = query(
            &[Field::LocalIp],
            Some("2026-01-01T22:10:00Z"),
            Some("2026-01-01T22:20:00Z"),
        );
        expect(&planned(&first, &kept), &[("local_hourly", "01-01 22:00")]);
        let second = query(
            &[Field::LocalIp],
            Some("2026-01-01T22:10:00Z"),
            Some("2026-01-02T00:00:00Z"),
        );
        expect(
            &planned(&second, &kept),
            &[
                ("local_hourly", "01-01 22:00"),
                ("local_hourly", "01-01 23:00"),
            ],
        );
    }
}
