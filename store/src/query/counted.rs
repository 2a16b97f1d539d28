// SPDX-License-Identifier: GPL-2.0-or-later
//! How long something was counted: what rates divide by.

use std::collections::HashMap;

use jiff::SignedDuration;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{Field, Filter, Query, Value};

/// How long the epochs of an answer were open, those of several accounts at once counted once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// All of them.
    pub total: SignedDuration,
    /// Those that are equal in the fields asked for that all records of an epoch have in common,
    /// such as its host or its hour, in the order of these values. Epochs without traffic are
    /// among them, and so are those of which nothing tells how long they were open.
    pub by_epoch: Vec<CountedEpochs>,
}

/// How long epochs were open that belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CountedEpochs {
    /// What they are equal in.
    pub key: Vec<Value>,
    /// How long they were open; 0 if nothing tells.
    ///
    /// Epochs of several accounts begin and end at different times, so together they reach beyond
    /// the time that they belong to; they count as long as that, or as the longest of them.
    pub duration: SignedDuration,
    /// How long the longest of them was.
    pub longest: SignedDuration,
}

/// Collects the times in which epochs were open.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    by_epoch: HashMap<Vec<Value>, Open>,
}

/// Times in nanoseconds since 1970, which may overlap.
#[derive(Debug, Default)]
struct Open {
    times: Vec<(i64, i64)>,
    /// How many are looked through for overlaps, once there are more.
    settled: usize,
    longest_ns: i64,
}

/// How many times are kept as they come.
const UNSETTLED: usize = 1 << 16;

impl Counting {
    /// Adds an epoch that was open for so long until it closed; 0 if that is not known.
    pub(crate) fn add(&mut self, key: Vec<Value>, closed_ns: i64, open_ns: i64) {
        let open = self.by_epoch.entry(key).or_default();
        if open_ns > 0 {
            open.add(closed_ns.saturating_sub(open_ns), closed_ns);
        }
    }

    /// How long the epochs of a query's answer were open.
    pub(crate) fn finish(self, query: &Query) -> Counted {
        let mut by_epoch: Vec<_> = self.by_epoch.into_iter().collect();
        by_epoch.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let mut all = Open::default();
        let longest_ns = by_epoch.iter().map(|(_, open)| open.longest_ns).max();
        let longest_ns = longest_ns.unwrap_or_default();
        let by_epoch = by_epoch
            .into_iter()
            .map(|(key, mut open)| {
                open.settle();
                for &(opened, closed) in &open.times {
                    all.add(opened, closed);
                }
                CountedEpochs {
                    duration: open.within(query.by_epoch().zip(&key).fold(
                        None,
                        |shortest, (field, value)| {
                            let length = length(field, value, &query.zone);
                            shortest.into_iter().chain(length).min()
                        },
                    )),
                    longest: open.longest(),
                    key,
                }
            })
            .collect();
        all.settle();
        let Filter { since, until, .. } = query.filter;
        let asked = since
            .zip(until)
            .map(|(since, until)| until.duration_since(since));
        all.longest_ns = longest_ns;
        Counted {
            total: all.within(asked),
            by_epoch,
        }
    }
}

/// How long the time is that a value names; none of what is no time.
fn length(field: Field, value: &Value, zone: &TimeZone) -> Option<SignedDuration> {
    match (field, value) {
        (Field::FiveMinutes, _) => Some(SignedDuration::from_mins(5)),
        (Field::Hour, _) => Some(SignedDuration::from_hours(1)),
        (Field::Day, Value::Date(date)) => {
            let begin = |date: Date| date.to_zoned_datetime(zone.clone()).ok();
            let (first, next) = begin(*date).zip(begin(date.tomorrow().ok()?))?;
            Some(next.duration_since(&first))
        }
        _ => None,
    }
}

impl Open {
    fn add(&mut self, opened: i64, closed: i64) {
        self.times.push((opened, closed));
        self.longest_ns = self.longest_ns.max(closed.saturating_sub(opened));
        if self.times.len() > 2 * self.settled + UNSETTLED {
            self.settle();
        }
    }

    /// Unites times that overlap or touch.
    fn settle(&mut self) {
        self.times.sort_unstable();
        let mut united = Vec::<(i64, i64)>::with_capacity(self.times.len());
        for &(opened, closed) in &self.times {
            match united.last_mut() {
                Some(last) if opened <= last.1 => last.1 = last.1.max(closed),
                _ => united.push((opened, closed)),
            }
        }
        self.settled = united.len();
        self.times = united;
    }

    /// How long they are together, settled, in a time that is so long.
    fn within(&self, length: Option<SignedDuration>) -> SignedDuration {
        match length {
            Some(length) => self.length().min(length.max(self.longest())),
            None => self.length(),
        }
    }

    fn longest(&self) -> SignedDuration {
        SignedDuration::from_nanos(self.longest_ns)
    }

    /// How long they are together, settled.
    fn length(&self) -> SignedDuration {
        self.times
            .iter()
            .map(|&(opened, closed)| SignedDuration::from_nanos(closed.saturating_sub(opened)))
            .fold(SignedDuration::ZERO, SignedDuration::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    fn hours(hours: i64) -> SignedDuration {
        SignedDuration::from_hours(hours)
    }

    #[test]
    fn epochs_that_overlap_are_counted_once_and_gaps_are_not() {
        let mut counting = Counting::default();
        // Of two accounts, two epochs each; then one after a pause.
        for (closed, open) in [(2, 1), (3, 1), (2, 2), (3, 1), (9, 1), (20, 0)] {
            counting.add(vec![], closed * HOUR, open * HOUR);
        }
        let counted = counting.finish(&Query::default());
        assert_eq!(counted.total, hours(4));
        assert_eq!(
            counted.by_epoch,
            [CountedEpochs {
                key: vec![],
                duration: hours(4),
                longest: hours(2),
            }]
        );
    }

    #[test]
    fn each_key_has_its_own_time_and_the_total_is_that_of_all() {
        let mut counting = Counting::default();
        let key = |name: &str| vec![Value::Name(name.to_owned())];
        counting.add(key("b"), 3 * HOUR, 2 * HOUR);
        counting.add(key("a"), 3 * HOUR, HOUR);
        counting.add(key("a"), 5 * HOUR, HOUR);
        let counted = counting.finish(&Query::default());
        assert_eq!(counted.total, hours(3));
        let of_keys: Vec<_> = counted
            .by_epoch
            .into_iter()
            .map(|epochs| (epochs.key, epochs.duration))
            .collect();
        assert_eq!(of_keys, [(key("a"), hours(2)), (key("b"), hours(2))]);
    }

    #[test]
    fn many_times_are_united_on_the_way() {
        let mut counting = Counting::default();
        for epoch in 0..200_000 {
            counting.add(vec![], epoch % 100 + 1, 1);
        }
        assert!(counting.by_epoch[&vec![]].times.len() <= 2 * 100 + UNSETTLED);
        assert_eq!(
            counting.finish(&Query::default()).total,
            SignedDuration::from_nanos(100)
        );
    }

    #[test]
    fn time_is_as_long_as_it_is_however_its_epochs_lie() {
        let by_hour = Query {
            by: vec![Field::Hour],
            ..Query::default()
        };
        let hour = || vec![Value::Time(jiff::Timestamp::UNIX_EPOCH)];
        let minutes = |counting: Counting| counting.finish(&by_hour).by_epoch[0].duration.as_mins();
        let minute = HOUR / 60;
        // Two accounts out of step: each for an hour, together for 65 minutes.
        let mut counting = Counting::default();
        for epoch in 1..=12 {
            counting.add(hour(), epoch * 5 * minute, 5 * minute);
            counting.add(hour(), (epoch * 5 + 3) * minute, 5 * minute);
        }
        assert_eq!(minutes(counting), 60);
        // A part of an hour, and an epoch that is longer than one.
        for open in [20, 90] {
            let mut counting = Counting::default();
            counting.add(hour(), HOUR, open * minute);
            assert_eq!(minutes(counting), open);
        }
    }
}
