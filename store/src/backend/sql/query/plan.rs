// SPDX-License-Identifier: GPL-2.0-or-later
//! Cuts a query's time into spans, each of the coarsest table that has it.
//!
//! Records and sums are levels, from fine to coarse, and each has its rows from some time on. A
//! time is cut where it begins and ends, and at every midnight of the query's zone if days are
//! asked for. Between two cuts, whole periods come from the coarsest level, and what is left at
//! the ends from finer ones:
//!
//! ```text
//!        since                                          until
//! level    |                                              |
//! record   |==|                                        |==|
//! quarter     |=|                                    |=|
//! hour          |====|                          |====|
//! day                |==========================|
//! ```
//!
//! Where the finer levels are gone, a cut may lie within a period of the finest one that is left.
//! The period belongs to the side that has its middle, as if the cut were at its begin or its end.
//! That depends on the cut alone, so each period counts in exactly one of two adjoining times, and
//! days add up to their month.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::span::{Span, gather};
use crate::backend::sql::kept::Kept;
use crate::backend::sql::nanoseconds;
use crate::backend::sql::rollup::{
    LOCAL_DAILY, LOCAL_HOURLY, LOCAL_SERVICE_DAILY, LOCAL_SERVICE_HOURLY, LOCAL_SERVICE_QUARTERLY,
    Period, REMOTE_MONTHLY, Rollup, SERVICE_DAILY, SERVICE_HOURLY,
};
use crate::query::{Field, Query};
use crate::time::timestamp;

/// What answers a query.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) spans: Vec<Span>,
    /// Where cuts were moved, in the order of time.
    pub(super) moves: Vec<Move>,
    /// Times of which no level has everything any more, each with its end.
    pub(super) missing: Vec<(i64, i64)>,
}

/// A cut within a period that nothing finer is left of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) asked: i64,
    /// The period's begin or its end.
    pub(super) moved: i64,
    pub(super) period: Period,
}

/// Records or a table of sums.
#[derive(Debug, Clone, Copy)]
struct Level {
    /// None: the records.
    table: Option<Rollup>,
    /// From when on it can be cut out of the next coarser one.
    since: i64,
}

/// The tables that may answer a query, from fine to coarse.
fn tables(query: &Query) -> Vec<Rollup> {
    let filter = &query.filter;
    let everywhere = [Field::Account, Field::Host, Field::Hour, Field::Day];
    let is_by = |fields: &[Field], field| fields.contains(field) || everywhere.contains(field);
    let by = |fields: &[Field]| query.by.iter().all(|field| is_by(fields, field));
    let no_local = filter.local.is_empty();
    let no_remote = filter.remote.is_empty() && filter.remote_ports.is_empty();
    let no_service = filter.protocols.is_empty() && filter.local_ports.is_empty();
    let mut tables = if by(&[Field::LocalIp]) && no_remote && no_service {
        vec![LOCAL_SERVICE_QUARTERLY, LOCAL_HOURLY, LOCAL_DAILY]
    } else if by(&[Field::Protocol, Field::LocalPort]) && no_remote && no_local {
        vec![LOCAL_SERVICE_QUARTERLY, SERVICE_HOURLY, SERVICE_DAILY]
    } else if by(&[Field::LocalIp, Field::Protocol, Field::LocalPort]) && no_remote {
        vec![
            LOCAL_SERVICE_QUARTERLY,
            LOCAL_SERVICE_HOURLY,
            LOCAL_SERVICE_DAILY,
        ]
    } else if query.by.iter().all(|&field| field == Field::RemoteIp)
        && no_local
        && no_service
        && filter.remote_ports.is_empty()
    {
        vec![REMOTE_MONTHLY]
    } else {
        Vec::new()
    };
    if query.by.contains(&Field::Hour) {
        tables.retain(|table| table.period <= Period::Hour);
    }
    tables
}

/// The records and the tables that may answer a query, from fine to coarse.
fn levels(query: &Query, kept: &Kept) -> Vec<Level> {
    let mut levels = Vec::<Level>::new();
    let tables = tables(query).into_iter().map(Some);
    for table in std::iter::once(None).chain(tables).rev() {
        let since = kept.since(table);
        // A period of the next coarser level is answered by finer ones as a whole or not at all.
        let coarser = levels.iter().find(|coarser| coarser.since <= since);
        let period = coarser.and_then(|coarser| coarser.table);
        levels.insert(
            0,
            Level {
                table,
                since: period.map_or(since, |rollup| rollup.period.up(since)),
            },
        );
    }
    levels
}

/// Whether days are asked for that begin within those of the daily sums.
pub(super) fn splits_days(query: &Query) -> bool {
    query.by.contains(&Field::Day) && query.zone != TimeZone::UTC
}

/// Plans a query; `extent` has the first and the last time at which an epoch counts, if days are
/// to be split.
pub(super) fn plan(query: &Query, kept: &Kept, extent: Option<(i64, i64)>) -> Plan {
    let bound = |time: Option<Timestamp>, open| time.map_or(open, nanoseconds);
    let from = bound(query.filter.since, i64::MIN);
    let until = bound(query.filter.until, i64::MAX);
    let mut plan = Plan::default();
    if from >= until {
        return plan;
    }
    let mut cuts = vec![from];
    if let Some((first, last)) = extent {
        let inner = midnights(&query.zone, first.max(from), last.min(until));
        cuts.extend(inner.into_iter().filter(|&cut| from < cut && cut < until));
    }
    cuts.push(until);
    let levels = levels(query, kept);
    let mut pieces = Vec::new();
    let mut begin = plan.moved(from, &levels);
    for &cut in &cuts[1..] {
        let end = plan.moved(cut, &levels);
        plan.cut(&levels, begin, end, &mut pieces);
        begin = end;
    }
    plan.spans = gather(&pieces);
    plan
}

/// The midnights of a zone from the last one before a time to the first one after another.
fn midnights(zone: &TimeZone, first: i64, last: i64) -> Vec<i64> {
    let date = |time| zone.to_datetime(timestamp(time)).date();
    if first > last {
        return Vec::new();
    }
    let midnight = |date: Date| {
        let midnight = date.to_zoned_datetime(zone.clone()).ok()?;
        Some(nanoseconds(midnight.timestamp()))
    };
    let days = date(first).series(jiff::Span::new().days(1));
    // Nothing is counted after it, but sums that have the last time may reach beyond.
    let end = date(last).saturating_add(jiff::Span::new().days(1));
    let mut midnights: Vec<i64> = days
        .take_while(|&day| day <= end)
        .filter_map(midnight)
        .collect();
    // A day that a zone left out begins with the next one.
    midnights.dedup();
    midnights
}

impl Plan {
    /// Where a cut can be made: at itself, or at the next end of the period that it is in.
    fn moved(&mut self, cut: i64, levels: &[Level]) -> i64 {
        let finest = levels.iter().find(|level| level.since <= cut);
        let Some(period) = finest
            .and_then(|level| level.table)
            .map(|table| table.period)
        else {
            return cut;
        };
        let (begin, end) = (period.down(cut), period.up(cut));
        if begin == end {
            return cut;
        }
        let middle = begin + (end - begin) / 2;
        let moved = if middle < cut { end } else { begin };
        self.moves.push(Move {
            asked: cut,
            moved,
            period,
        });
        moved
    }

    /// Cuts a time into whole periods of the coarsest level, and what is left at its ends.
    fn cut(&mut self, levels: &[Level], from: i64, until: i64, pieces: &mut Vec<Piece>) {
        let Some((coarsest, finer)) = levels.split_last() else {
            return;
        };
        if from >= until {
            return;
        }
        let begin = from.max(coarsest.since);
        let Some(table) = coarsest.table else {
            // What was restored is there, though not all is.
            pieces.push((None, from, until));
            if from < begin {
                self.missing.push((from, begin.min(until)));
            }
            return;
        };
        let (begin, end) = (table.period.up(begin), table.period.down(until));
        if begin < end {
            self.cut(finer, from, begin, pieces);
            pieces.push((Some(table), begin, end));
            self.cut(finer, end, until, pieces);
        } else {
            self.cut(finer, from, until, pieces);
        }
    }
}

/// A table, or the records, and a time that it answers.
pub(super) type Piece = (Option<Rollup>, i64, i64);

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
            ..Query::default()
        }
    }

    /// The tables of the spans and their begins.
    fn planned(plan: &Plan) -> Vec<(String, String)> {
        plan.spans
            .iter()
            .map(|span| {
                let table = span.table.map_or("record", |rollup| rollup.table);
                (table.to_owned(), text(span.from))
            })
            .collect()
    }

    fn text(time: i64) -> String {
        match time {
            i64::MIN => "ever".to_owned(),
            time => timestamp(time).strftime("%m-%d %H:%M").to_string(),
        }
    }

    fn expect(found: &[(String, String)], expected: &[(&str, &str)]) {
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(table, from)| (table.as_str(), from.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    fn gone(times: [Option<&str>; 3]) -> Kept {
        let [records, quarters, hours] = times.map(|time| {
            time.map_or(i64::MIN, |time| {
                nanoseconds(format!("2026-{time}:00Z").parse().unwrap())
            })
        });
        Kept::without(records, quarters, hours)
    }

    #[test]
    fn all_time_is_one_span_of_the_coarsest_sums() {
        let kept = Kept::default();
        for (by, table) in [
            (&[Field::LocalIp][..], "local_daily"),
            (&[Field::LocalPort, Field::Protocol], "service_daily"),
            (&[Field::RemoteIp], "remote_monthly"),
            (&[Field::LocalIp, Field::Protocol], "local_service_daily"),
            (&[Field::LocalIp, Field::RemoteIp], "record"),
            (&[Field::RemotePort], "record"),
            (&[Field::FiveMinutes], "record"),
            (&[Field::Hour], "local_hourly"),
        ] {
            let plan = plan(&query(by, None, None), &kept, None);
            expect(&planned(&plan), &[(table, "ever")]);
            assert_eq!((plan.moves, plan.missing), (vec![], vec![]));
        }
    }

    #[test]
    fn ends_of_a_time_come_from_finer_tables() {
        let query = query(
            &[Field::LocalIp],
            Some("2026-01-01T22:20:00Z"),
            Some("2026-01-04T01:20:00Z"),
        );
        let plan = plan(&query, &Kept::default(), None);
        expect(
            &planned(&plan),
            &[
                ("record", "01-01 22:20"),
                ("local_service_quarterly", "01-01 22:30"),
                ("local_hourly", "01-01 23:00"),
                ("local_daily", "01-02 00:00"),
                ("local_hourly", "01-04 00:00"),
                ("local_service_quarterly", "01-04 01:00"),
                ("record", "01-04 01:15"),
            ],
        );
        assert_eq!((plan.moves, plan.missing), (vec![], vec![]));
    }

    #[test]
    fn time_within_a_quarter_comes_from_the_records() {
        let query = query(
            &[Field::LocalIp],
            Some("2026-01-01T22:05:00Z"),
            Some("2026-01-01T22:10:00Z"),
        );
        expect(
            &planned(&plan(&query, &Kept::default(), None)),
            &[("record", "01-01 22:05")],
        );
    }

    #[test]
    fn filter_that_sums_do_not_have_needs_the_records() {
        let mut query = query(&[Field::LocalIp], None, None);
        query.filter.remote_ports = vec![443..=443];
        expect(
            &planned(&plan(&query, &Kept::default(), None)),
            &[("record", "ever")],
        );
    }

    #[test]
    fn cut_moves_to_the_end_of_its_period_that_is_nearer() {
        let kept = gone([Some("02-01T00:00"), Some("02-01T00:00"), None]);
        for (since, until, hours) in [
            ("22:10", "22:20", None),
            ("22:10", "22:40", Some(("22:00", "23:00"))),
            ("22:30", "23:10", Some(("22:00", "23:00"))),
            ("22:31", "23:31", Some(("23:00", "00:00"))),
        ] {
            let [since, until] = [since, until].map(|time| format!("2026-01-01T{time}:00Z"));
            let asked = query(&[Field::LocalIp], Some(&since), Some(&until));
            let plan = plan(&asked, &kept, None);
            let found: Vec<_> = plan
                .spans
                .iter()
                .map(|span| (text(span.from), text(span.until)))
                .collect();
            let expected = hours.map(|(from, until)| {
                let day = if until == "00:00" { "01-02" } else { "01-01" };
                (format!("01-01 {from}"), format!("{day} {until}"))
            });
            assert_eq!(found, Vec::from_iter(expected), "{since} {until}");
            assert!(!plan.moves.is_empty() && plan.missing.is_empty());
        }
    }

    #[test]
    fn hour_within_which_records_end_is_answered_as_a_whole() {
        let kept = gone([Some("01-10T10:20"), Some("01-10T10:15"), None]);
        let asked = query(&[Field::LocalIp], Some("2026-01-10T10:40:00Z"), None);
        let plan = plan(&asked, &kept, None);
        expect(
            &planned(&plan),
            &[
                ("local_hourly", "01-10 11:00"),
                ("local_daily", "01-11 00:00"),
            ],
        );
        assert_eq!(plan.moves.len(), 1);
    }

    #[test]
    fn what_no_level_has_any_more_is_missing() {
        let kept = gone([
            Some("02-01T00:00"),
            Some("02-01T00:00"),
            Some("02-01T00:00"),
        ]);
        for by in [Field::Hour, Field::RemotePort, Field::FiveMinutes] {
            let asked = query(&[by], Some("2026-01-30T00:00:00Z"), None);
            let missing: Vec<_> = plan(&asked, &kept, None)
                .missing
                .into_iter()
                .map(|(from, until)| (text(from), text(until)))
                .collect();
            assert_eq!(
                missing,
                [("01-30 00:00".to_owned(), "02-01 00:00".to_owned())],
                "{by:?}"
            );
        }
    }

    #[test]
    fn midnights_of_half_hours_cut_quarters_out_of_hours() {
        let mut asked = query(&[Field::Day], None, None);
        asked.zone = TimeZone::get("Asia/Kolkata").unwrap();
        let extent = ["2026-01-01T00:00:00Z", "2026-01-31T00:00:00Z"]
            .map(|time| nanoseconds(time.parse().unwrap()));
        let plan = plan(&asked, &Kept::default(), Some((extent[0], extent[1])));
        expect(
            &planned(&plan),
            &[
                ("local_daily", "ever"),
                ("local_hourly", "12-31 00:00"),
                ("local_service_quarterly", "12-31 18:00"),
                ("local_daily", "02-01 00:00"),
            ],
        );
    }
}
