// SPDX-License-Identifier: GPL-2.0-or-later
//! A model of a store: records in memory, summed up by a map.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use jiff::tz::TimeZone;
use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use trafstat_store::query::{Accuracy, Answer, Covered, Field, Query, StandardError, Value};
use trafstat_store::snapshot::{Counters, Growth, Header, Record, Sample, Volume};

use crate::common::{HOUR_NS, NOON_NS};
use crate::support::{MINUTE_NS, decoded, lan, origin, time};

/// An epoch of the model.
#[derive(Debug)]
pub struct Epoch {
    pub records: Vec<Record>,
    /// How many minutes after noon it closes.
    pub minutes: u64,
    /// Packets that sampling's multiplication added.
    pub extrapolated: u64,
    pub growth: Option<Growth>,
}

impl Epoch {
    fn closed(&self) -> Timestamp {
        time(NOON_NS + self.minutes * MINUTE_NS)
    }

    /// The middle of the time that it was open.
    fn counted(&self, opened: Timestamp) -> Timestamp {
        let closed = self.closed();
        let duration = match self.growth.map_or(0, |growth| growth.duration_ns) {
            0 => closed.duration_since(opened),
            known => SignedDuration::from_nanos(known as i64),
        };
        let known = self.growth.is_some_and(|growth| growth.duration_ns > 0);
        let believed = SignedDuration::ZERO..=SignedDuration::from_hours(24);
        match known || believed.contains(&duration) {
            true => closed - SignedDuration::from_nanos(duration.as_nanos() as i64 / 2),
            false => closed,
        }
    }

    pub fn header(&self, epoch: u64) -> Header {
        let (mut header, _) = decoded(&lan(epoch));
        header.closed_ns = NOON_NS + self.minutes * MINUTE_NS;
        header.totals.extrapolated.packets = self.extrapolated;
        header.growth = self.growth;
        header
    }
}

pub fn recorded_volume(records: &[Record]) -> Volume {
    let sum = |of: fn(&Counters) -> u64| records.iter().map(|record| of(&record.counters)).sum();
    Volume {
        packets: sum(|counters| counters.sent_packets + counters.received_packets),
        bytes: sum(|counters| counters.sent_bytes + counters.received_bytes),
    }
}

/// The answer as a map of groups gives it.
pub fn expected(epochs: &[Epoch], query: &Query) -> Answer {
    let filter = &query.filter;
    let windowed: Vec<(&Epoch, Timestamp)> = epochs
        .iter()
        .zip(0..)
        .map(|(epoch, number)| (epoch, time(NOON_NS + number * HOUR_NS)))
        .filter(|(epoch, opened)| {
            let counted = epoch.counted(*opened);
            filter.since.is_none_or(|since| counted >= since)
                && filter.until.is_none_or(|until| counted < until)
        })
        .collect();
    let mut groups = BTreeMap::<Vec<Value>, Counters>::new();
    let mut total = Counters::default();
    for (record, counted) in windowed.iter().flat_map(|(epoch, opened)| {
        let counted = epoch.counted(*opened);
        epoch.records.iter().map(move |record| (record, counted))
    }) {
        let counts = admits(&filter.protocols, &record.protocol)
            && within(&filter.local_ports, record.local.port)
            && within(&filter.remote_ports, record.remote.port)
            && inside(&filter.local, record.local.ip)
            && inside(&filter.remote, record.remote.ip)
            && admits(&filter.hosts, &origin().hostname);
        if counts {
            let key = query
                .by
                .iter()
                .map(|&field| value(record, counted, field, &query.zone))
                .collect();
            add(groups.entry(key).or_default(), &record.counters);
            add(&mut total, &record.counters);
        }
    }
    let group_count = groups.len() as u64;
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, counters)| Reverse(query.order.measure(counters)));
    groups.truncate(query.limit.unwrap_or(u64::MAX) as usize);
    let asked: Vec<(&Epoch, Timestamp)> = windowed
        .iter()
        .map(|(epoch, opened)| (*epoch, epoch.counted(*opened)))
        .filter(|_| admits(&filter.hosts, &origin().hostname))
        .collect();
    Answer {
        by: query.by.clone(),
        error: expected_error(&asked, query, &[], &total),
        accuracy: expected_accuracy(&asked),
        groups: groups
            .into_iter()
            .map(|(key, counters)| trafstat_store::query::Group {
                error: expected_error(&asked, query, &key, &counters),
                key,
                counters,
                counted: None,
            })
            .collect(),
        group_count,
        total,
        epochs: windowed.len() as u64,
        covered: expected_covered(&windowed),
        inexact: None,
        counted: None,
    }
}

pub fn expected_covered(windowed: &[(&Epoch, Timestamp)]) -> Option<Covered> {
    let opened = windowed.iter().map(|(_, opened)| *opened).min()?;
    let closed = windowed.iter().map(|(epoch, _)| epoch.closed()).max()?;
    let mut duration = closed.duration_since(opened);
    for (epoch, opened) in windowed {
        let real = epoch.growth.map_or(0, |growth| growth.duration_ns);
        if real > 0 {
            duration += SignedDuration::from_nanos(real as i64);
            duration -= epoch.closed().duration_since(*opened);
        }
    }
    Some(Covered {
        opened,
        closed,
        duration,
    })
}

/// Of the epochs that have the key's times, all that is sampled, or the packets by the highest
/// rate that they can have met.
pub fn expected_error(
    epochs: &[(&Epoch, Timestamp)],
    query: &Query,
    key: &[Value],
    counters: &Counters,
) -> Option<StandardError> {
    let has_key = |counted: Timestamp| {
        query.by.iter().zip(key).all(|(&field, value)| {
            epoch_value(counted, field, &query.zone).is_none_or(|found| found == *value)
        })
    };
    let epochs: Vec<&Epoch> = epochs
        .iter()
        .filter(|(_, counted)| has_key(*counted))
        .map(|(epoch, _)| *epoch)
        .collect();
    if epochs
        .iter()
        .any(|epoch| epoch.growth.is_none() && epoch.extrapolated > 0)
    {
        return None;
    }
    let samples: Vec<[Sample; 3]> = epochs
        .iter()
        .filter_map(|epoch| Some(epoch.growth?.samples))
        .collect();
    let filter = &query.filter;
    let all_records = filter.protocols.is_empty()
        && filter.local.is_empty()
        && filter.remote.is_empty()
        && filter.local_ports.is_empty()
        && filter.remote_ports.is_empty();
    let now = "2026-01-31T12:00:00Z".parse().unwrap();
    let of_epochs = key.is_empty()
        || query
            .by
            .iter()
            .all(|&field| epoch_value(now, field, &query.zone).is_some());
    if all_records && of_epochs {
        let sum = |of: fn(&Sample) -> u128| {
            let variance: u128 = samples.iter().flatten().map(of).sum();
            (variance as f64).sqrt()
        };
        return Some(StandardError {
            packets: sum(|sample| sample.packet_variance),
            bytes: Some(sum(|sample| sample.byte_variance)),
        });
    }
    let protocols: Vec<u8> = match key.iter().find_map(|value| match value {
        Value::Protocol(number) => Some(*number),
        _ => None,
    }) {
        Some(number) => vec![number],
        None => filter.protocols.clone(),
    };
    let highest = samples
        .iter()
        .flat_map(|[syn, tcp, udp]| [(6, syn), (6, tcp), (17, udp)])
        .filter(|(protocol, _)| admits(&protocols, protocol))
        .map(|(_, sample)| sample.highest_rate)
        .max()
        .unwrap_or(0);
    let packets = counters.sent_packets + counters.received_packets;
    Some(StandardError {
        packets: (packets as f64 * (f64::from(highest) - 1.0).max(0.0)).sqrt(),
        bytes: None,
    })
}

pub fn expected_accuracy(epochs: &[(&Epoch, Timestamp)]) -> Accuracy {
    let mut accuracy = Accuracy::default();
    for (epoch, _) in epochs {
        // As `SnapshotBuilder` has them.
        accuracy.outside.packets += 3;
        accuracy.outside.bytes += 180;
        accuracy.skipped.packets += 2;
        accuracy.skipped.bytes += 120;
        let Some(growth) = epoch.growth else {
            accuracy.unknown_epochs += u64::from(epoch.extrapolated > 0);
            continue;
        };
        accuracy.unattributed.packets += growth.unattributed.packets;
        accuracy.unattributed.bytes += growth.unattributed.bytes;
        accuracy.unattributed_epochs += u64::from(growth.unattributed.packets > 0);
        for (class, sample) in accuracy.classes.iter_mut().zip(growth.samples) {
            class.packets += sample.packets;
            class.packet_variance += sample.packet_variance as f64;
            class.byte_variance += sample.byte_variance as f64;
            class.highest_rate = class.highest_rate.max(sample.highest_rate);
        }
    }
    accuracy
}

pub fn add(sum: &mut Counters, counters: &Counters) {
    sum.sent_packets += counters.sent_packets;
    sum.received_packets += counters.received_packets;
    sum.sent_bytes += counters.sent_bytes;
    sum.received_bytes += counters.received_bytes;
    sum.syn_packets += counters.syn_packets;
}

pub fn admits<T: PartialEq>(list: &[T], value: &T) -> bool {
    list.is_empty() || list.contains(value)
}

pub fn within(ranges: &[RangeInclusive<u16>], port: u16) -> bool {
    ranges.is_empty() || ranges.iter().any(|range| range.contains(&port))
}

pub fn inside(nets: &[IpNet], ip: IpAddr) -> bool {
    nets.is_empty() || nets.iter().any(|net| net.contains(&ip))
}

/// What all records of an epoch have in a field; none in one that differs between them.
pub fn epoch_value(counted: Timestamp, field: Field, zone: &TimeZone) -> Option<Value> {
    let floor = |minutes| {
        let steps = TimestampRound::new()
            .smallest(Unit::Minute)
            .increment(minutes)
            .mode(RoundMode::Floor);
        counted.round(steps).unwrap()
    };
    Some(match field {
        Field::Account => Value::Name("lan".to_owned()),
        Field::Host => Value::Name(origin().hostname),
        Field::FiveMinutes => Value::Time(floor(5)),
        Field::Hour => Value::Time(floor(60)),
        Field::Day => Value::Date(zone.to_datetime(counted).date()),
        _ => return None,
    })
}

pub fn value(record: &Record, counted: Timestamp, field: Field, zone: &TimeZone) -> Value {
    match field {
        Field::Protocol => Value::Protocol(record.protocol),
        Field::LocalIp => Value::Ip(record.local.ip),
        Field::RemoteIp => Value::Ip(record.remote.ip),
        Field::LocalPort => Value::Port(record.local.port),
        Field::RemotePort => Value::Port(record.remote.port),
        of_epoch => epoch_value(counted, of_epoch, zone).unwrap(),
    }
}
