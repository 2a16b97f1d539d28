// SPDX-License-Identifier: GPL-2.0-or-later
//! From readings of open epochs to rates.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use trafstat_store::query::{Field, Value};
use trafstat_store::snapshot::{Counters, OpenEpoch, Record};

/// The last two readings.
#[derive(Debug, Default)]
pub struct Meter {
    before: Vec<OpenEpoch>,
    now: Vec<OpenEpoch>,
    /// The time between them; none before the second.
    between: Option<Duration>,
}

/// What lines are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Bits sent in a second.
    Sent,
    /// Bits received in a second.
    Received,
    /// Packets in a second, both ways.
    Packets,
    /// Bytes since the epochs opened, both ways.
    Total,
}

/// One line of the screen.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What it is about.
    pub key: Vec<Value>,
    /// How fast it is; none before the second reading.
    pub rates: Option<Rates>,
    /// What was counted since the epochs opened.
    pub counters: Counters,
}

/// What goes over in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Bits sent.
    pub sent_bits: f64,
    /// Bits received.
    pub received_bits: f64,
    /// Packets both ways.
    pub packets: f64,
}

type Sums = HashMap<Vec<Value>, Counters>;

impl Meter {
    /// Takes a reading, made so long after the one before.
    pub fn read(&mut self, epochs: Vec<OpenEpoch>, after: Duration) {
        self.between = (!self.now.is_empty()).then_some(after);
        self.before = std::mem::replace(&mut self.now, epochs);
    }

    /// How many accounts there are.
    pub fn accounts(&self) -> usize {
        self.now.len()
    }

    /// All traffic as one line.
    pub fn total(&self) -> Line {
        let lines = self.lines(&[], Sort::Total);
        lines.into_iter().next().unwrap_or(Line {
            key: Vec::new(),
            rates: self.between.map(|_| Rates::default()),
            counters: Counters::default(),
        })
    }

    /// The lines, the largest first; equal ones in the order of their key.
    pub fn lines(&self, by: &[Field], sort: Sort) -> Vec<Line> {
        let mut lines = HashMap::<Vec<Value>, Line>::new();
        for epoch in &self.now {
            let before = self.before.iter().find(|before| is_same(before, epoch));
            // What a new epoch has was counted since the reading before.
            let before = before.map(|before| sums(before, by)).unwrap_or_default();
            for (key, counters) in sums(epoch, by) {
                let since = before.get(&key).copied().unwrap_or_default();
                let rates = self
                    .between
                    .map(|between| rates(&counters, &since, between));
                let line = lines.entry(key.clone()).or_insert_with(|| Line {
                    key,
                    rates: self.between.map(|_| Rates::default()),
                    counters: Counters::default(),
                });
                line.counters += &counters;
                if let (Some(sum), Some(more)) = (&mut line.rates, rates) {
                    sum.sent_bits += more.sent_bits;
                    sum.received_bits += more.received_bits;
                    sum.packets += more.packets;
                }
            }
        }
        let mut lines: Vec<Line> = lines.into_values().collect();
        // Key by key what is as fast: bits below one make no order.
        lines.sort_by(|a, b| {
            (Reverse(a.measure(sort)), &a.key).cmp(&(Reverse(b.measure(sort)), &b.key))
        });
        lines
    }
}

impl Line {
    /// What it is sorted by; before there are rates, what was counted.
    pub fn measure(&self, sort: Sort) -> u64 {
        let total = self.counters.bytes();
        let Some(rates) = &self.rates else {
            return total;
        };
        match sort {
            Sort::Sent => rates.sent_bits as u64,
            Sort::Received => rates.received_bits as u64,
            Sort::Packets => (rates.packets * 1000.0) as u64,
            Sort::Total => total,
        }
    }
}

impl Sort {
    /// In the order of their columns.
    pub const ALL: [Self; 4] = [Self::Sent, Self::Received, Self::Packets, Self::Total];

    /// The one so many columns to the right, around the end.
    pub fn moved(self, columns: usize) -> Self {
        let index = Self::ALL.iter().position(|&sort| sort == self);
        Self::ALL[(index.unwrap_or_default() + columns) % Self::ALL.len()]
    }
}

fn is_same(a: &OpenEpoch, b: &OpenEpoch) -> bool {
    (a.header.account_id, a.header.epoch) == (b.header.account_id, b.header.epoch)
}

fn sums(epoch: &OpenEpoch, by: &[Field]) -> Sums {
    let mut sums = Sums::new();
    for record in &epoch.records {
        let key = by
            .iter()
            .map(|&field| value(epoch, record, field))
            .collect();
        *sums.entry(key).or_default() += &record.counters;
    }
    sums
}

fn value(epoch: &OpenEpoch, record: &Record, field: Field) -> Value {
    match field {
        Field::Protocol => Value::Protocol(record.protocol),
        Field::LocalIp => Value::Ip(record.local.ip),
        Field::RemoteIp => Value::Ip(record.remote.ip),
        Field::LocalPort => Value::Port(record.local.port),
        Field::RemotePort => Value::Port(record.remote.port),
        // The rest is the same for a whole epoch.
        _ => Value::Name(epoch.header.account.name.to_string()),
    }
}

/// Counters are read while they move, one after the other: never less than nothing.
fn rates(now: &Counters, before: &Counters, between: Duration) -> Rates {
    let seconds = between.as_secs_f64().max(0.001);
    let grown = |of: fn(&Counters) -> u64| of(now).saturating_sub(of(before)) as f64 / seconds;
    Rates {
        sent_bits: grown(|counters| counters.sent_bytes) * 8.0,
        received_bits: grown(|counters| counters.received_bytes) * 8.0,
        packets: grown(|counters| {
            counters
                .sent_packets
                .saturating_add(counters.received_packets)
        }),
    }
}
