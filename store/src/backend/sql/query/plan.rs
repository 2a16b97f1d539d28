// SPDX-License-Identifier: GPL-2.0-or-later
//! Cuts a query's time into spans, each of the coarsest table that has it.

use jiff::tz::TimeZone;

use crate::backend::sql::kept::Kept;
use crate::backend::sql::nanoseconds;
use crate::backend::sql::rollup::{
    LOCAL_DAILY, LOCAL_HOURLY, Period, REMOTE_MONTHLY, Rollup, SECOND_NS, SERVICE_DAILY,
    SERVICE_HOURLY,
};
use crate::query::{Field, Query};

/// A part of a query's time, and the table that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// None: the records.
    pub(super) table: Option<Rollup>,
    /// Nanoseconds since 1970; the first that belongs to it.
    pub(super) from: i64,
    /// The first that does not; `i64::MAX` has no end.
    pub(super) until: i64,
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

pub(super) fn plan(query: &Query, kept: &Kept) -> Vec<Span> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::{Filter, Order};

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
