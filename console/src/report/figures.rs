// SPDX-License-Identifier: GPL-2.0-or-later
//! The figures of a report, from the store.

use std::collections::HashMap;

use anyhow::{Context, Result};
use clap::ValueEnum;
use ipnet::IpNet;
use jiff::Timestamp;
use trafstat_store::query::{
    Accuracy, Answer, Covered, Field, Filter, Group, Order, Query, StandardError, Value,
};
use trafstat_store::snapshot::Counters;
use trafstat_store::store::Store;

use super::period::Period;

const ADDRESSES: &[Field] = &[Field::LocalIp];
const SERVICES: &[Field] = &[Field::Protocol, Field::LocalPort];

/// For more groups a statement would be longer than databases take.
const MOST_FILTERED: usize = 400;

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

/// What is asked of the store.
#[derive(Debug, Clone)]
pub struct Question {
    /// The day or month.
    pub period: Period,
    /// Accounts and hosts.
    pub filter: Filter,
    /// What the percentiles are taken of.
    pub sample: SampleInterval,
    /// How many lines each section has at most; all if none.
    pub limit: Option<u64>,
    /// When it is asked.
    pub now: Timestamp,
}

/// All figures of a report.
#[derive(Debug)]
pub struct Figures {
    /// What it is about.
    pub period: Period,
    /// Until when it is told: the period's end, or now.
    pub until: Timestamp,
    /// The period before, and until when of it is compared.
    pub previous: (Period, Timestamp),
    /// What the percentiles are taken of.
    pub sample: SampleInterval,
    /// How many epochs were collected.
    pub epochs: u64,
    /// How exact the figures are.
    pub accuracy: Accuracy,
    /// All traffic.
    pub total: Line,
    /// The same for each local address.
    pub addresses: Section,
    /// The same for each protocol and local port.
    pub services: Section,
    /// When the steps of the charts begin.
    pub steps: Vec<Timestamp>,
    /// Bytes of the steps of the period before, as far as it has them.
    pub previous_steps: Vec<u64>,
}

/// Lines of one kind, the largest first.
#[derive(Debug)]
pub struct Section {
    /// What each line is about.
    pub by: &'static [Field],
    /// The largest ones.
    pub lines: Vec<Line>,
    /// How many there are, those not shown included.
    pub count: u64,
}

/// The figures of one address, one service or all.
#[derive(Debug, Default)]
pub struct Line {
    /// What it is about; empty for all.
    pub key: Vec<Value>,
    /// The sums.
    pub counters: Counters,
    /// Their standard error; none where some epochs do not tell theirs.
    pub error: Option<StandardError>,
    /// The sums of the period before.
    pub previous: Counters,
    /// The 95th percentile of what it sent, in bits per second.
    pub sent_p95: f64,
    /// The same of what it received.
    pub received_p95: f64,
    /// Bytes sent and received in each step.
    pub steps: Vec<(u64, u64)>,
}

impl Figures {
    /// Asks the store.
    ///
    /// # Errors
    /// The store's, or a period outside of the calendar.
    pub fn ask(store: &mut dyn Store, question: &Question) -> Result<Self> {
        let period = question.period.clone();
        let (begin, end) = (period.begin()?, period.end()?);
        let until = end.min(question.now.max(begin));
        let previous = period.previous()?;
        // What is not over is compared with as much of the one before.
        let previous_until = match until < end {
            true => (previous.begin()? + until.duration_since(begin)).min(previous.end()?),
            false => previous.end()?,
        };
        let mut asker = Queries {
            store,
            question,
            now: (begin, until),
            before: (previous.begin()?, previous_until),
            steps: period.steps()?,
            samples: Samples::default(),
        };
        let mut all = asker.answer(&[], asker.now, None, Filter::default())?;
        if all.groups.is_empty() {
            // Nothing, too, is compared with what was before.
            all.groups.push(Group {
                key: Vec::new(),
                counters: Counters::default(),
                error: all.error,
                counted: None,
            });
        }
        asker.samples = Samples::of(all.covered, question.sample, asker.now);
        let total = asker.lines(&[], &all)?.pop().unwrap_or_default();
        let addresses = asker.section(ADDRESSES)?;
        let services = asker.section(SERVICES)?;
        let previous_steps = asker.previous_steps(&previous)?;
        Ok(Self {
            until,
            previous: (previous, previous_until),
            sample: question.sample,
            epochs: all.epochs,
            accuracy: all.accuracy,
            total,
            addresses,
            services,
            steps: asker.steps,
            previous_steps,
            period,
        })
    }
}

impl SampleInterval {
    fn field(self) -> Field {
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

/// A time from one point to before another.
type Time = (Timestamp, Timestamp);

struct Queries<'a> {
    store: &'a mut dyn Store,
    question: &'a Question,
    now: Time,
    before: Time,
    steps: Vec<Timestamp>,
    samples: Samples,
}

impl Queries<'_> {
    fn section(&mut self, by: &'static [Field]) -> Result<Section> {
        let answer = self.answer(by, self.now, self.question.limit, Filter::default())?;
        Ok(Section {
            by,
            lines: self.lines(by, &answer)?,
            count: answer.group_count,
        })
    }

    /// The answer's groups with what the period before had, and their samples.
    fn lines(&mut self, by: &[Field], answer: &Answer) -> Result<Vec<Line>> {
        if answer.groups.is_empty() {
            return Ok(Vec::new());
        }
        let all = answer.groups.len() as u64 == answer.group_count;
        let filter = match all || answer.groups.len() > MOST_FILTERED {
            true => Filter::default(),
            false => filter_of(answer),
        };
        let previous: HashMap<Vec<Value>, Counters> = self
            .answer(by, self.before, None, filter.clone())?
            .groups
            .into_iter()
            .map(|group| (group.key, group.counters))
            .collect();
        let sampled = [&[self.question.sample.field()], by].concat();
        let mut samples: HashMap<Vec<Value>, Vec<(Timestamp, Counters)>> = HashMap::new();
        for group in self.answer(&sampled, self.now, None, filter)?.groups {
            let mut key = group.key.into_iter();
            if let Some(Value::Time(time)) = key.next() {
                let of_key = samples.entry(key.collect()).or_default();
                of_key.push((time, group.counters));
            }
        }
        Ok(answer
            .groups
            .iter()
            .map(|group| {
                let samples = samples.remove(&group.key).unwrap_or_default();
                let sent = |counters: &Counters| counters.sent_bytes;
                let received = |counters: &Counters| counters.received_bytes;
                Line {
                    key: group.key.clone(),
                    counters: group.counters,
                    error: group.error,
                    previous: previous.get(&group.key).copied().unwrap_or_default(),
                    sent_p95: self
                        .samples
                        .p95(samples.iter().map(|(_, sample)| sent(sample))),
                    received_p95: self
                        .samples
                        .p95(samples.iter().map(|(_, sample)| received(sample))),
                    steps: stepped(&self.steps, &samples),
                }
            })
            .collect())
    }

    fn previous_steps(&mut self, previous: &Period) -> Result<Vec<u64>> {
        let time = (previous.begin()?, previous.end()?);
        let samples: Vec<(Timestamp, Counters)> = self
            .answer(&[Field::Hour], time, None, Filter::default())?
            .groups
            .into_iter()
            .filter_map(|group| match group.key[..] {
                [Value::Time(time)] => Some((time, group.counters)),
                _ => None,
            })
            .collect();
        let steps = stepped(&previous.steps()?, &samples);
        Ok(steps
            .iter()
            .map(|(sent, received)| sent + received)
            .collect())
    }

    /// What the store says about a time; `more` has a filter by what groups are made by.
    fn answer(
        &mut self,
        by: &[Field],
        (since, until): Time,
        limit: Option<u64>,
        more: Filter,
    ) -> Result<Answer> {
        let query = Query {
            by: by.to_vec(),
            filter: Filter {
                since: Some(since),
                until: Some(until),
                accounts: self.question.filter.accounts.clone(),
                hosts: self.question.filter.hosts.clone(),
                ..more
            },
            order: Order::Bytes,
            limit,
            ..Query::default()
        };
        self.store
            .query(&query)
            .context("cannot query the database")
    }
}

/// What admits an answer's groups; others may come too.
fn filter_of(answer: &Answer) -> Filter {
    let mut filter = Filter::default();
    for value in answer.groups.iter().flat_map(|group| &group.key) {
        match *value {
            Value::Ip(ip) => filter.local.push(IpNet::from(ip)),
            Value::Port(port) => filter.local_ports.push(port..=port),
            Value::Protocol(number) if !filter.protocols.contains(&number) => {
                filter.protocols.push(number);
            }
            _ => {}
        }
    }
    filter
}

/// Bytes sent and received by step.
fn stepped(steps: &[Timestamp], samples: &[(Timestamp, Counters)]) -> Vec<(u64, u64)> {
    let mut sums = vec![(0, 0); steps.len()];
    for (time, counters) in samples {
        // An hour that begins before the first step is that step's, too.
        let step = steps.partition_point(|begin| begin <= time).max(1) - 1;
        sums[step].0 += counters.sent_bytes;
        sums[step].1 += counters.received_bytes;
    }
    sums
}

/// How many samples there are, those without traffic included, and how long one is.
#[derive(Debug, Clone, Copy, Default)]
struct Samples {
    count: u64,
    seconds: i64,
}

impl Samples {
    /// The samples of the time in which something was counted.
    fn of(covered: Option<Covered>, sample: SampleInterval, (since, until): Time) -> Self {
        let seconds = sample.seconds();
        let count = covered.map_or(0, |covered| {
            // By the clock that cannot be set: what was opened in 1970 was not open since.
            let opened = covered.closed.checked_sub(covered.duration);
            let opened = opened.unwrap_or(covered.opened);
            let first = opened.max(since).as_second().div_euclid(seconds);
            let closed = covered.closed.min(until).as_second();
            u64::try_from(closed.div_euclid(seconds) - first + 1).unwrap_or_default()
        });
        Self { count, seconds }
    }

    /// The least rate in bits per second that 95 of 100 samples do not exceed.
    fn p95(self, bytes: impl Iterator<Item = u64>) -> f64 {
        let mut bytes: Vec<u64> = bytes.collect();
        bytes.sort_unstable();
        let count = self.count.max(bytes.len() as u64);
        let rank = (count * 95).div_ceil(100);
        // Samples without traffic are not among them, and are the least.
        let silent = count - bytes.len() as u64;
        let index = rank.checked_sub(silent + 1);
        let at = index.and_then(|index| bytes.get(usize::try_from(index).ok()?));
        at.map_or(0.0, |&bytes| bytes as f64 * 8.0 / self.seconds as f64)
    }
}

/// How much more or less than before, as a part of that; none where there was nothing.
pub fn change(counters: &Counters, previous: &Counters) -> Option<f64> {
    let (now, before) = (counters.bytes() as f64, previous.bytes() as f64);
    (before > 0.0).then(|| (now - before) / before)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn samples(count: u64) -> Samples {
        Samples { count, seconds: 8 }
    }

    #[test]
    fn percentile_is_the_least_rate_that_95_of_100_samples_do_not_exceed() {
        assert_eq!(samples(100).p95(1..=100), 95.0);
        assert_eq!(samples(20).p95(1..=20), 19.0);
        assert_eq!(samples(21).p95(1..=21), 20.0);
        assert_eq!(samples(1).p95([7].into_iter()), 7.0);
        assert_eq!(samples(0).p95([].into_iter()), 0.0);
    }

    #[test]
    fn samples_without_traffic_count_as_nothing() {
        // 5 of 100 exceed it, 6 do not.
        assert_eq!(samples(100).p95(1..=5), 0.0);
        assert_eq!(samples(100).p95(1..=6), 1.0);
    }

    #[test]
    fn set_clock_makes_no_samples() {
        let time = |hour: i64| Timestamp::from_second(hour * 3600).unwrap();
        let covered = |opened| Covered {
            opened,
            closed: time(500_010),
            duration: SignedDuration::from_hours(4),
        };
        let period = (time(500_000), time(500_024));
        for opened in [time(500_006), Timestamp::UNIX_EPOCH] {
            let samples = Samples::of(Some(covered(opened)), SampleInterval::Hour, period);
            assert_eq!(samples.count, 5);
        }
    }

    #[test]
    fn change_is_a_part_of_what_was_before() {
        let of = |bytes| Counters {
            sent_bytes: bytes,
            ..Counters::default()
        };
        assert_eq!(change(&of(150), &of(100)), Some(0.5));
        assert_eq!(change(&of(0), &of(100)), Some(-1.0));
        assert_eq!(change(&of(5), &of(0)), None);
    }
}
