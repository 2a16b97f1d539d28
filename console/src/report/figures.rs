// SPDX-License-Identifier: GPL-2.0-or-later
//! The figures of a report, from the store.

use std::collections::HashMap;

use anyhow::{Context, Result};
use ipnet::IpNet;
use jiff::Timestamp;
use trafstat_store::query::{
    Accuracy, Answer, Counted, Field, Filter, Group, Inexact, Missing, Order, Query, StandardError,
    Value,
};
use trafstat_store::snapshot::Counters;
use trafstat_store::store::Store;

use super::period::Period;
use super::samples::{SampleInterval, Samples};

const ADDRESSES: &[Field] = &[Field::LocalIp];
const SERVICES: &[Field] = &[Field::Protocol, Field::LocalPort];

/// For more groups a statement would be longer than databases take.
const MOST_FILTERED: usize = 400;

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
    /// The parts of the figures that are not exact, since finer sums were deleted.
    pub inexact: Option<Inexact>,
    /// The same of the period before.
    pub previous_inexact: Option<Inexact>,
    /// The time whose samples were deleted, which the percentiles leave out.
    pub missing_samples: Option<Missing>,
    /// The time whose steps were deleted, which the chart leaves out.
    pub missing_steps: Option<Missing>,
    /// Whether some epochs were longer than samples.
    pub samples_are_spread: bool,
    /// All traffic.
    pub total: Line,
    /// The same for each local address.
    pub addresses: Section,
    /// The same for each protocol and local port.
    pub services: Section,
    /// When the steps of the charts begin.
    pub steps: Vec<Timestamp>,
    /// For how many seconds each was counted; 0 is a gap.
    pub step_seconds: Vec<f64>,
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
            step_seconds: Vec::new(),
            inexact: None,
            previous_inexact: None,
            missing_samples: None,
            missing_steps: None,
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
        asker.inexact = Inexact::merge(asker.inexact, all.inexact);
        asker.count()?;
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
            inexact: asker.inexact,
            previous_inexact: asker.previous_inexact,
            missing_samples: asker.missing_samples,
            missing_steps: asker.missing_steps,
            samples_are_spread: asker.samples.are_spread(),
            total,
            addresses,
            services,
            steps: asker.steps,
            step_seconds: asker.step_seconds,
            previous_steps,
            period,
        })
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
    step_seconds: Vec<f64>,
    inexact: Option<Inexact>,
    previous_inexact: Option<Inexact>,
    missing_samples: Option<Missing>,
    missing_steps: Option<Missing>,
}

/// By the other fields of groups: the time of each, and what it has.
type ByTime = HashMap<Vec<Value>, Vec<(Timestamp, Counters)>>;

impl Queries<'_> {
    /// Finds out when something was counted.
    fn count(&mut self) -> Result<()> {
        let sample = self.question.sample;
        let samples = self.counted(sample.field(), self.now)?;
        self.missing_samples = missing(&samples);
        self.samples = Samples::of(&counted(samples), sample);
        let steps = self.counted(self.question.period.step_field(), self.now)?;
        self.missing_steps = missing(&steps);
        self.step_seconds = vec![0.0; self.steps.len()];
        for epochs in counted(steps).by_epoch {
            if let Some(time) = self.question.period.time_of(&epochs.key) {
                let step = step_of(&self.steps, time);
                self.step_seconds[step] += epochs.duration.as_secs_f64();
            }
        }
        Ok(())
    }

    fn section(&mut self, by: &'static [Field]) -> Result<Section> {
        let answer = self.answer(by, self.now, self.question.limit, Filter::default())?;
        self.inexact = Inexact::merge(self.inexact, answer.inexact);
        Ok(Section {
            by,
            lines: self.lines(by, &answer)?,
            count: answer.group_count,
        })
    }

    /// The answer's groups with what the period before had, their samples and their steps.
    fn lines(&mut self, by: &[Field], answer: &Answer) -> Result<Vec<Line>> {
        if answer.groups.is_empty() {
            return Ok(Vec::new());
        }
        let all = answer.groups.len() as u64 == answer.group_count;
        let filter = match all || answer.groups.len() > MOST_FILTERED {
            true => Filter::default(),
            false => filter_of(answer),
        };
        let before = self.answer(by, self.before, None, filter.clone())?;
        self.previous_inexact = Inexact::merge(self.previous_inexact, before.inexact);
        let groups = before.groups.into_iter();
        let previous: HashMap<Vec<Value>, Counters> =
            groups.map(|group| (group.key, group.counters)).collect();
        let (sample_field, step_field) = (
            self.question.sample.field(),
            self.question.period.step_field(),
        );
        let samples = self.by_time(sample_field, by, filter.clone())?;
        let steps = match step_field == sample_field {
            true => None,
            false => Some(self.by_time(step_field, by, filter)?),
        };
        let steps = steps.as_ref().unwrap_or(&samples);
        let of_key = |times: &ByTime, key| times.get(key).cloned().unwrap_or_default();
        Ok(answer
            .groups
            .iter()
            .map(|group| {
                let of_samples = of_key(&samples, &group.key);
                let p95 = |of: fn(&Counters) -> u64| {
                    let samples = of_samples.iter();
                    self.samples.p95(
                        &samples
                            .map(|(time, counters)| (*time, of(counters)))
                            .collect(),
                    )
                };
                Line {
                    key: group.key.clone(),
                    counters: group.counters,
                    error: group.error,
                    previous: previous.get(&group.key).copied().unwrap_or_default(),
                    sent_p95: p95(|counters| counters.sent_bytes),
                    received_p95: p95(|counters| counters.received_bytes),
                    steps: stepped(&self.steps, &of_key(steps, &group.key)),
                }
            })
            .collect())
    }

    /// What groups have in each of some times.
    fn by_time(&mut self, time: Field, by: &[Field], filter: Filter) -> Result<ByTime> {
        let fields = [&[time], by].concat();
        let mut times = ByTime::new();
        for group in self.answer(&fields, self.now, None, filter)?.groups {
            if let Some(time) = self.question.period.time_of(&group.key) {
                let of_key = times.entry(group.key[1..].to_vec()).or_default();
                of_key.push((time, group.counters));
            }
        }
        Ok(times)
    }

    fn previous_steps(&mut self, previous: &Period) -> Result<Vec<u64>> {
        let time = (previous.begin()?, previous.end()?);
        let answer = self.answer(&[previous.step_field()], time, None, Filter::default())?;
        let times = answer.groups.iter().filter_map(|group| {
            let time = previous.time_of(&group.key)?;
            Some((time, group.counters))
        });
        let steps = stepped(&previous.steps()?, &times.collect::<Vec<_>>());
        Ok(steps
            .iter()
            .map(|(sent, received)| sent + received)
            .collect())
    }

    /// How long was counted in each of some times.
    fn counted(&mut self, field: Field, time: Time) -> Result<Answer> {
        let query = Query {
            counted: true,
            ..self.query(&[field], time, None, Filter::default())
        };
        self.ask(&query)
    }

    /// What the store says about a time; `more` has a filter by what groups are made by.
    fn answer(
        &mut self,
        by: &[Field],
        time: Time,
        limit: Option<u64>,
        more: Filter,
    ) -> Result<Answer> {
        let query = self.query(by, time, limit, more);
        self.ask(&query)
    }

    fn query(&self, by: &[Field], (since, until): Time, limit: Option<u64>, more: Filter) -> Query {
        Query {
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
            zone: self.question.period.zone().clone(),
            ..Query::default()
        }
    }

    fn ask(&mut self, query: &Query) -> Result<Answer> {
        self.store.query(query).context("cannot query the database")
    }
}

fn counted(answer: Answer) -> Counted {
    answer.counted.unwrap_or_default()
}

fn missing(answer: &Answer) -> Option<Missing> {
    answer.inexact.and_then(|inexact| inexact.missing)
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
fn stepped(steps: &[Timestamp], times: &[(Timestamp, Counters)]) -> Vec<(u64, u64)> {
    let mut sums = vec![(0, 0); steps.len()];
    for (time, counters) in times {
        let sum = &mut sums[step_of(steps, *time)];
        sum.0 += counters.sent_bytes;
        sum.1 += counters.received_bytes;
    }
    sums
}

/// The step that a time is in; an hour that begins before the first step is that step's, too.
fn step_of(steps: &[Timestamp], time: Timestamp) -> usize {
    steps.partition_point(|begin| *begin <= time).max(1) - 1
}

/// How much more or less than before, as a part of that; none where there was nothing.
pub fn change(counters: &Counters, previous: &Counters) -> Option<f64> {
    let (now, before) = (counters.bytes() as f64, previous.bytes() as f64);
    (before > 0.0).then(|| (now - before) / before)
}

#[cfg(test)]
mod tests {
    use super::*;

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
