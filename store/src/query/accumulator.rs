// SPDX-License-Identifier: GPL-2.0-or-later
//! Answers a query from epochs that are read once and kept nowhere.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::net::IpAddr;

use foldhash::fast::RandomState;
use jiff::Timestamp;

use super::{
    Accuracy, Answer, Counting, Covered, Field, Filter, Group, Query, Value, set_accuracy,
};
use crate::account::Account;
use crate::origin::Origin;
use crate::snapshot::{Counters, Header, Record};
use crate::time::timestamp;

/// A quarter of an hour.
const QUARTER_NS: u64 = 900_000_000_000;

/// A silence that is longer is a clock that was set.
const LONGEST_SILENCE_NS: u64 = 366 * 24 * 3_600_000_000_000;

/// The groups of a query, as far as epochs were added; each stays in memory.
#[derive(Debug)]
pub struct Accumulator<'a> {
    query: &'a Query,
    groups: HashMap<Key, Counters, RandomState>,
    total: Counters,
    /// What records have of their epoch, and its number in a [`Key`].
    epoch_values: HashMap<Vec<Value>, u32>,
    /// That of the epoch being added; none where its records do not count.
    current: Option<u32>,
    /// The accuracy of the epochs of each of them, in the order of their numbers.
    accuracies: Vec<Accuracy>,
    epochs: u64,
    /// When the first of the epochs opened and the last closed.
    covered: Option<(Timestamp, Timestamp)>,
    counting: Counting,
    /// What each account says of set clocks, in nanoseconds.
    corrections: HashMap<(Origin, Account), i64>,
}

/// A group; a field that groups are not made by has its default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Key {
    epoch: u32,
    protocol: u8,
    local_port: u16,
    remote_port: u16,
    local_ip: Option<IpAddr>,
    remote_ip: Option<IpAddr>,
}

impl<'a> Accumulator<'a> {
    /// Nothing was added yet.
    pub fn new(query: &'a Query) -> Self {
        Self {
            query,
            groups: HashMap::default(),
            total: Counters::default(),
            epoch_values: HashMap::new(),
            current: None,
            accuracies: Vec::new(),
            epochs: 0,
            covered: None,
            counting: Counting::default(),
            corrections: HashMap::new(),
        }
    }

    /// Begins an epoch, whose records follow.
    pub fn begin(&mut self, origin: &Origin, header: &Header) {
        let [opened, closed] = [header.opened_ns, header.closed_ns].map(timestamp);
        self.current = None;
        if !self.is_within(header) {
            return;
        }
        self.epochs += 1;
        let (first, last) = self.covered.unwrap_or((opened, closed));
        self.covered = Some((first.min(opened), last.max(closed)));
        let counting = (origin.clone(), header.account.clone());
        let corrected = self.corrections.entry(counting).or_default();
        *corrected = corrected.saturating_add(correction_ns(header));
        if self.admits_epoch(origin, header) {
            let next = self.epoch_values.len() as u32;
            let values = self.values(origin, header);
            if self.query.counted {
                let [closed, open] = [header.closed_ns, header.open_ns()]
                    .map(|ns| i64::try_from(ns).unwrap_or(i64::MAX));
                self.counting.add(values.clone(), closed, open);
            }
            let number = *self.epoch_values.entry(values).or_insert(next);
            if number == next {
                self.accuracies.push(Accuracy::default());
            }
            self.accuracies[number as usize].add(&Accuracy::of(header));
            self.current = Some(number);
        }
    }

    /// Notes that the epoch's account counted from one time to another, in nanoseconds since 1970, and
    /// saw nothing.
    pub fn add_silence(&mut self, origin: &Origin, header: &Header, from_ns: u64, until_ns: u64) {
        let is_believed = until_ns.saturating_sub(from_ns) < LONGEST_SILENCE_NS;
        if !self.query.counted || !is_believed || !self.admits_epoch(origin, header) {
            return;
        }
        let mut piece = header.clone();
        piece.growth = None;
        piece.opened_ns = from_ns;
        while piece.opened_ns < until_ns {
            // No period of any zone begins within one.
            let next_ns = (piece.opened_ns / QUARTER_NS + 1) * QUARTER_NS;
            piece.closed_ns = next_ns.min(until_ns);
            if self.is_within(&piece) {
                let values = self.values(origin, &piece);
                let (closed, open) = (piece.closed_ns, piece.closed_ns - piece.opened_ns);
                self.counting.add(values, closed as i64, open as i64);
            }
            piece.opened_ns = piece.closed_ns;
        }
    }

    /// Whether an epoch counts in the time that is asked for.
    fn is_within(&self, header: &Header) -> bool {
        let filter = &self.query.filter;
        let counted = timestamp(header.counted_ns());
        filter.since.is_none_or(|since| counted >= since)
            && filter.until.is_none_or(|until| counted < until)
    }

    /// Whether an epoch's account and host are asked for.
    fn admits_epoch(&self, origin: &Origin, header: &Header) -> bool {
        let filter = &self.query.filter;
        let account = &header.account.name;
        let is_host = |host: &String| *host == origin.hostname || *host == origin.machine_id;
        one_of(&filter.accounts, |name| name == account) && one_of(&filter.hosts, is_host)
    }

    /// Adds records of the epoch that was begun last.
    pub fn add(&mut self, records: &[Record]) {
        let Some(epoch) = self.current else { return };
        for record in records {
            if !admits(&self.query.filter, record) {
                continue;
            }
            self.total += &record.counters;
            let key = Key::new(epoch, &self.query.by, record);
            *self.groups.entry(key).or_default() += &record.counters;
        }
    }

    /// The answer over all that was added.
    pub fn answer(self) -> Answer {
        let Query {
            by, order, limit, ..
        } = self.query;
        let mut epoch_values: Vec<_> = self.epoch_values.into_iter().collect();
        epoch_values.sort_unstable_by_key(|&(_, number)| number);
        let values = |key: Key| key.values(by, &epoch_values[key.epoch as usize].0);

        let group_count = self.groups.len();
        let mut groups: Vec<(Key, Counters)> = self.groups.into_iter().collect();
        let rank = |one: &(Key, Counters), other: &(Key, Counters)| -> Ordering {
            Reverse(order.measure(&one.1))
                .cmp(&Reverse(order.measure(&other.1)))
                .then_with(|| values(one.0).cmp(values(other.0)))
        };
        let limit = limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        if limit < groups.len() {
            groups.select_nth_unstable_by(limit, rank);
            groups.truncate(limit);
        }
        groups.sort_unstable_by(rank);
        let mut answer = Answer {
            by: by.clone(),
            groups: groups
                .iter()
                .map(|(key, counters)| Group {
                    key: values(*key).collect(),
                    counters: *counters,
                    error: None,
                    counted: None,
                })
                .collect(),
            group_count: group_count as u64,
            total: self.total,
            epochs: self.epochs,
            covered: self.covered.map(|(opened, closed)| {
                Covered::new(opened, closed, self.corrections.into_values())
            }),
            error: None,
            accuracy: Accuracy::default(),
            inexact: None,
            counted: None,
        };
        let keys = epoch_values.into_iter().map(|(values, _)| values);
        let of_epochs = keys.zip(self.accuracies).collect();
        set_accuracy(&mut answer, self.query, &of_epochs);
        if self.query.counted {
            answer.set_counted(self.query, self.counting.finish(self.query));
        }
        answer
    }

    /// What all records of an epoch have in the fields asked for, in their order.
    fn values(&self, origin: &Origin, header: &Header) -> Vec<Value> {
        let zone = &self.query.zone;
        let begin = |seconds| begin(header.counted_ns(), seconds);
        let of_epoch = |field: &Field| match field {
            Field::Account => Some(Value::Name(header.account.name.as_str().to_owned())),
            Field::Host => Some(Value::Name(origin.hostname.clone())),
            Field::FiveMinutes => Some(Value::Time(begin(300))),
            Field::Hour => Some(Value::Time(begin(3600))),
            Field::Day => Some(Value::Date(
                zone.to_datetime(timestamp(header.counted_ns())).date(),
            )),
            _ => None,
        };
        self.query.by.iter().filter_map(of_epoch).collect()
    }
}

impl Key {
    fn new(epoch: u32, by: &[Field], record: &Record) -> Self {
        let mut key = Self {
            epoch,
            ..Self::default()
        };
        for field in by {
            match field {
                Field::Protocol => key.protocol = record.protocol,
                Field::LocalIp => key.local_ip = Some(record.local.ip),
                Field::RemoteIp => key.remote_ip = Some(record.remote.ip),
                Field::LocalPort => key.local_port = record.local.port,
                Field::RemotePort => key.remote_port = record.remote.port,
                Field::Account | Field::Host | Field::FiveMinutes | Field::Hour | Field::Day => {}
            }
        }
        key
    }

    /// The group's values, in the order of the fields; `epoch` has those of the epoch.
    fn values<'k>(self, by: &'k [Field], epoch: &'k [Value]) -> impl Iterator<Item = Value> + 'k {
        let mut epoch = epoch.iter().cloned();
        by.iter().filter_map(move |field| match field {
            Field::Protocol => Some(Value::Protocol(self.protocol)),
            Field::LocalIp => self.local_ip.map(Value::Ip),
            Field::RemoteIp => self.remote_ip.map(Value::Ip),
            Field::LocalPort => Some(Value::Port(self.local_port)),
            Field::RemotePort => Some(Value::Port(self.remote_port)),
            _ => epoch.next(),
        })
    }
}

/// How much longer an epoch was than the clock showed; 0 where its duration is not known.
fn correction_ns(header: &Header) -> i64 {
    let duration = header.growth.map_or(0, |growth| growth.duration_ns);
    let shown = i128::from(header.closed_ns) - i128::from(header.opened_ns);
    match duration {
        0 => 0,
        duration => (i128::from(duration) - shown).clamp(i64::MIN.into(), i64::MAX.into()) as i64,
    }
}

/// Whether a record is what the filter asks for, but for its epoch.
fn admits(filter: &Filter, record: &Record) -> bool {
    one_of(&filter.protocols, |&protocol| protocol == record.protocol)
        && one_of(&filter.local, |net| net.contains(&record.local.ip))
        && one_of(&filter.remote, |net| net.contains(&record.remote.ip))
        && one_of(&filter.local_ports, |ports| {
            ports.contains(&record.local.port)
        })
        && one_of(&filter.remote_ports, |ports| {
            ports.contains(&record.remote.port)
        })
}

/// An empty list admits all.
fn one_of<T>(list: &[T], fits: impl FnMut(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(fits)
}

/// The begin of the so many seconds that a time lies in.
fn begin(nanoseconds: u64, seconds: u64) -> Timestamp {
    timestamp(nanoseconds - nanoseconds % (seconds * 1_000_000_000))
}
