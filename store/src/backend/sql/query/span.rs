// SPDX-License-Identifier: GPL-2.0-or-later
//! A part of a query's time that one table answers, and the conditions that select it.

use std::fmt::Write;

use super::plan::Piece;
use crate::backend::sql::conditions::Conditions;
use crate::backend::sql::rollup::{Period, Rollup, SECOND_NS};

/// So many times of one table are a span each: a range of its key.
const SINGLE: usize = 4;

/// How many times of the records one span has: databases nest conditions only so deep.
const RANGES: usize = 100;

/// A part of a query's time, and the table that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// None: the records.
    pub(super) table: Option<Rollup>,
    /// Nanoseconds since 1970; the first that belongs to it.
    pub(super) from: i64,
    /// The first that does not; `i64::MAX` has no end.
    pub(super) until: i64,
    only: Only,
}

/// What of the time belongs to a span.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Only {
    All,
    /// Periods, by the nanosecond at which they begin.
    Periods(Vec<i64>),
    /// All but these.
    Except(Vec<i64>),
    Ranges(Vec<(i64, i64)>),
}

/// Makes spans of pieces, which are in the order of their time.
pub(super) fn gather(pieces: &[Piece]) -> Vec<Span> {
    let mut tables = Vec::<(Option<Rollup>, Vec<(i64, i64)>)>::new();
    for &(table, from, until) in pieces {
        let index = tables.iter().position(|(known, _)| *known == table);
        let index = index.unwrap_or_else(|| {
            tables.push((table, Vec::new()));
            tables.len() - 1
        });
        match tables[index].1.last_mut() {
            Some(last) if last.1 == from => last.1 = until,
            _ => tables[index].1.push((from, until)),
        }
    }
    let mut spans = Vec::new();
    for (table, ranges) in tables {
        match table {
            _ if ranges.len() <= SINGLE => {
                spans.extend(
                    ranges
                        .iter()
                        .map(|range| Span::new(table, &[*range], Only::All)),
                );
            }
            Some(rollup) => {
                let only = periods(rollup.period, &ranges);
                spans.push(Span::new(table, &ranges, only));
            }
            None => spans.extend(
                ranges
                    .chunks(RANGES)
                    .map(|ranges| Span::new(table, ranges, Only::Ranges(ranges.to_vec()))),
            ),
        }
    }
    spans.sort_by_key(|span| span.from);
    spans
}

/// The periods within ranges, or those between them, whichever are fewer.
fn periods(period: Period, ranges: &[(i64, i64)]) -> Only {
    let begins = |from, until| {
        let mut begins = Vec::new();
        let mut begin = from;
        while begin < until {
            begins.push(begin);
            begin = period.up(begin + 1);
        }
        begins
    };
    let between = ranges.windows(2).map(|pair| (pair[0].1, pair[1].0));
    let except: Vec<i64> = between
        .flat_map(|(from, until)| begins(from, until))
        .collect();
    let is_open = ranges[0].0 == i64::MIN || ranges[ranges.len() - 1].1 == i64::MAX;
    let lasts = |(from, until): &(i64, i64)| i128::from(*until) - i128::from(*from);
    let within: i128 = ranges.iter().map(lasts).sum();
    let hull = i128::from(ranges[ranges.len() - 1].1) - i128::from(ranges[0].0);
    match is_open || within * 2 > hull {
        true => Only::Except(except),
        false => Only::Periods(
            ranges
                .iter()
                .flat_map(|&(from, until)| begins(from, until))
                .collect(),
        ),
    }
}

impl Span {
    fn new(table: Option<Rollup>, ranges: &[(i64, i64)], only: Only) -> Self {
        Self {
            table,
            from: ranges[0].0,
            until: ranges[ranges.len() - 1].1,
            only,
        }
    }

    /// Selects the rows of its table, whose alias is `t`.
    pub(super) fn select_periods(&self, rollup: &Rollup, conditions: &mut Conditions) {
        let column = format!("t.{}", rollup.period.column());
        conditions.within_time(&column, SECOND_NS, (self.from, self.until));
        self.select_listed(&column, SECOND_NS, conditions);
    }

    /// Selects the snapshots `s` that its rows sum up.
    pub(super) fn select_snapshots(&self, conditions: &mut Conditions) {
        conditions.within_time("s.counted_ns", 1, (self.from, self.until));
        match (&self.only, self.table) {
            (Only::Ranges(ranges), _) => {
                let within: Vec<String> = ranges
                    .iter()
                    .map(|(from, until)| {
                        format!("s.counted_ns >= {from} AND s.counted_ns < {until}")
                    })
                    .collect();
                conditions.and(&format!("({})", within.join(" OR ")));
            }
            (_, Some(rollup)) => {
                let period_ns = (rollup.period.up(1) - rollup.period.down(1)).max(1);
                let begin = format!("(s.counted_ns - s.counted_ns % {period_ns})");
                self.select_listed(&begin, 1, conditions);
            }
            (_, None) => {}
        }
    }

    fn select_listed(&self, column: &str, unit_ns: i64, conditions: &mut Conditions) {
        let (operator, begins) = match &self.only {
            Only::Periods(begins) => ("IN", begins),
            Only::Except(begins) if !begins.is_empty() => ("NOT IN", begins),
            _ => return,
        };
        let mut condition = format!("{column} {operator} (");
        for (index, begin) in begins.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            // Writing to a string cannot fail.
            let _ = write!(condition, "{separator}{}", begin / unit_ns);
        }
        condition.push(')');
        conditions.and(&condition);
    }
}
