// SPDX-License-Identifier: GPL-2.0-or-later
//! The samples that percentiles are taken of.
//!
//! docs/PERCENTILE.md has the method, for those who bill by it.

use std::collections::{BTreeMap, HashMap};

use clap::ValueEnum;
use jiff::Timestamp;
use trafstat_store::query::{Counted, Field, Value};

/// The part of the samples that a percentile leaves out.
const PERCENT: u64 = 95;

/// What the 95th percentile is taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SampleInterval {
    /// Averages over five minutes, from the records.
    #[value(name = "5m")]
    FiveMinutes,
    /// Averages over an hour, from the sums.
    #[value(name = "1h")]
    Hour,
}

impl SampleInterval {
    pub(super) fn field(self) -> Field {
        match self {
            Self::FiveMinutes => Field::FiveMinutes,
            Self::Hour => Field::Hour,
        }
    }

    /// How long one is.
    pub fn seconds(self) -> i64 {
        match self {
            Self::FiveMinutes => 300,
            Self::Hour => 3600,
        }
    }
}

/// When something was counted, sample by sample; where nothing was, there is none.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// How long a sample is.
    seconds: f64,
    counted: BTreeMap<Timestamp, Sample>,
}

/// The epochs that belong to a sample.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// For how many seconds they were open; 0 if nothing tells.
    seconds: f64,
    /// For how many the longest was.
    longest: f64,
}

impl Samples {
    /// The samples of epochs that were grouped by them.
    pub(super) fn of(counted: &Counted, sample: SampleInterval) -> Self {
        let counted = counted
            .by_epoch
            .iter()
            .filter_map(|epochs| match epochs.key[..] {
                [Value::Time(time)] => Some((
                    time,
                    Sample {
                        seconds: epochs.duration.as_secs_f64(),
                        longest: epochs.longest.as_secs_f64(),
                    },
                )),
                _ => None,
            });
        Self {
            seconds: sample.seconds() as f64,
            counted: counted.collect(),
        }
    }

    /// The least rate in bits per second that 95 of 100 samples do not exceed.
    pub(super) fn p95(&self, bytes: &HashMap<Timestamp, u64>) -> f64 {
        // Rates, and how many samples have each.
        let mut rates: Vec<(f64, u64)> = self
            .counted
            .iter()
            .map(|(time, sample)| {
                let bytes = bytes.get(time).copied().unwrap_or_default();
                let rate = bytes as f64 * 8.0 / self.length(sample);
                (rate, self.spread_over(sample))
            })
            .collect();
        rates.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        let count: u64 = rates.iter().map(|(_, samples)| samples).sum();
        let mut rank = (count * PERCENT).div_ceil(100);
        for (rate, samples) in rates {
            if rank <= samples {
                return rate;
            }
            rank -= samples;
        }
        0.0
    }

    /// Whether epochs were longer than samples, and what they counted was spread over several.
    pub(super) fn are_spread(&self) -> bool {
        let mut samples = self.counted.values();
        samples.any(|sample| self.spread_over(sample) > 1)
    }

    /// Over how many samples the epochs of one are spread.
    fn spread_over(&self, sample: &Sample) -> u64 {
        ((sample.longest / self.seconds).round() as u64).max(1)
    }

    /// What a rate divides by; where nothing tells how long an epoch was open, it was a sample.
    fn length(&self, sample: &Sample) -> f64 {
        match sample.seconds > 0.0 {
            true => sample.seconds,
            false => self.seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use trafstat_store::query::CountedEpochs;

    use super::*;

    /// Samples of five minutes that were counted for so many seconds each.
    fn samples(seconds: impl Iterator<Item = i64>) -> Samples {
        let by_epoch = (0..).zip(seconds).map(|(index, seconds)| CountedEpochs {
            key: vec![Value::Time(time(index))],
            duration: SignedDuration::from_secs(seconds),
            longest: SignedDuration::from_secs(seconds),
        });
        let counted = Counted {
            total: SignedDuration::ZERO,
            by_epoch: by_epoch.collect(),
        };
        Samples::of(&counted, SampleInterval::FiveMinutes)
    }

    fn time(sample: i64) -> Timestamp {
        Timestamp::from_second(sample * 300).unwrap()
    }

    /// Bits per second as bytes of five minutes.
    fn p95(samples: &Samples, bytes: impl Iterator<Item = u64>) -> f64 {
        let bytes = (0..).zip(bytes).map(|(index, bytes)| (time(index), bytes));
        samples.p95(&bytes.collect()) * 300.0 / 8.0
    }

    #[test]
    fn percentile_is_the_least_rate_that_95_of_100_samples_do_not_exceed() {
        let of = |count: usize| samples(std::iter::repeat_n(300, count));
        assert_eq!(p95(&of(100), 1..=100), 95.0);
        assert_eq!(p95(&of(20), 1..=20), 19.0);
        assert_eq!(p95(&of(21), 1..=21), 20.0);
        assert_eq!(p95(&of(1), [7].into_iter()), 7.0);
        assert_eq!(p95(&of(0), [].into_iter()), 0.0);
    }

    #[test]
    fn samples_without_traffic_count_as_nothing() {
        let all = samples(std::iter::repeat_n(300, 100));
        // 5 of 100 exceed it, 6 do not.
        assert_eq!(p95(&all, 1..=5), 0.0);
        assert_eq!(p95(&all, 1..=6), 1.0);
    }

    #[test]
    fn rate_of_a_sample_that_was_counted_in_part_is_that_of_the_part() {
        let part = samples([300, 60].into_iter());
        assert_eq!(p95(&part, [100, 100].into_iter()), 500.0);
        // Nothing tells how long it was.
        let unknown = samples([300, 0].into_iter());
        assert_eq!(p95(&unknown, [100, 200].into_iter()), 200.0);
    }

    #[test]
    fn epoch_longer_than_a_sample_is_spread_over_as_many() {
        // An hour at a steady rate, then 12 samples at twice that.
        let seconds = [3600].into_iter().chain([300; 12]);
        let spread = samples(seconds);
        assert!(spread.are_spread());
        let bytes = [1200].into_iter().chain([200; 12]);
        assert_eq!(p95(&spread, bytes), 200.0);
        // 24 samples of which one exceeds the others.
        let few = samples([3600, 3600, 300].into_iter());
        assert_eq!(p95(&few, [1200, 1200, 900].into_iter()), 100.0);
        assert!(!samples([310, 290].into_iter()).are_spread());
    }
}
