// SPDX-License-Identifier: GPL-2.0-or-later
//! How long something was counted: what rates divide by.

use std::collections::HashMap;

use jiff::SignedDuration;

use super::Value;

/// How long the epochs of an answer were open, those of several accounts at once counted once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// All of them.
    pub total: SignedDuration,
    /// Those that are equal in the fields asked for that all records of an epoch have in common,
    /// such as its host or its hour, in the order of these values. Epochs without traffic are
    /// among them.
    pub by_epoch: Vec<(Vec<Value>, SignedDuration)>,
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
}

/// How many times are kept as they come.
const UNSETTLED: usize = 1 << 16;

impl Counting {
    /// Adds an epoch that was open for so long until it closed.
    pub(crate) fn add(&mut self, key: Vec<Value>, closed_ns: i64, open_ns: i64) {
        if open_ns > 0 {
            let opened_ns = closed_ns.saturating_sub(open_ns);
            self.by_epoch
                .entry(key)
                .or_default()
                .add(opened_ns, closed_ns);
        }
    }

    pub(crate) fn finish(self) -> Counted {
        let mut by_epoch: Vec<_> = self.by_epoch.into_iter().collect();
        by_epoch.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let mut all = Open::default();
        let by_epoch = by_epoch
            .into_iter()
            .map(|(key, mut open)| {
                open.settle();
                for &(opened, closed) in &open.times {
                    all.add(opened, closed);
                }
                (key, open.length())
            })
            .collect();
        all.settle();
        Counted {
            total: all.length(),
            by_epoch,
        }
    }
}

impl Open {
    fn add(&mut self, opened: i64, closed: i64) {
        self.times.push((opened, closed));
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
        let counted = counting.finish();
        assert_eq!(counted.total, hours(4));
        assert_eq!(counted.by_epoch, [(vec![], hours(4))]);
    }

    #[test]
    fn each_key_has_its_own_time_and_the_total_is_that_of_all() {
        let mut counting = Counting::default();
        let key = |name: &str| vec![Value::Name(name.to_owned())];
        counting.add(key("b"), 3 * HOUR, 2 * HOUR);
        counting.add(key("a"), 3 * HOUR, HOUR);
        counting.add(key("a"), 5 * HOUR, HOUR);
        let counted = counting.finish();
        assert_eq!(counted.total, hours(3));
        assert_eq!(
            counted.by_epoch,
            [(key("a"), hours(2)), (key("b"), hours(2))]
        );
    }

    #[test]
    fn many_times_are_united_on_the_way() {
        let mut counting = Counting::default();
        for epoch in 0..200_000 {
            counting.add(vec![], epoch % 100 + 1, 1);
        }
        assert!(counting.by_epoch[&vec![]].times.len() <= 2 * 100 + UNSETTLED);
        assert_eq!(counting.finish().total, SignedDuration::from_nanos(100));
    }
}
