// SPDX-License-Identifier: GPL-2.0-or-later
//! What queries answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use trafstat_store::collect::append;
use trafstat_store::query::{Accumulator, Field, Order, Value};
use trafstat_store::snapshot::{Snapshot, Volume};
use trafstat_store::store::{Begun, Retention, Store};

use crate::any::{any_epochs, any_query};
use crate::common::{HOUR_NS, NOON_NS, SnapshotBuilder, record};
use crate::databases::Database;
use crate::model::{expected, recorded_volume};
use crate::support::{
    NOTHING_WRONG, by, lan, many_addresses, origin, pruned, pruned_but_newest, stored, time,
};

const QUARTER_NS: u64 = HOUR_NS / 4;

/// What needs the records, and what the sums answer too.
pub fn groups_and_filters_tell_hosts_and_accounts_apart<D: Database>() {
    let mut store = D::create().open();
    let dmz = SnapshotBuilder::new("dmz", 1, vec![record(1, 1, 6, 25, 3)]);
    let mut mirror = origin();
    mirror.machine_id = "fedcba9876543210fedcba9876543210".to_owned();
    mirror.hostname = "mirror".to_owned();
    for (origin, snapshot) in [(origin(), lan(1)), (origin(), dmz), (mirror, lan(1))] {
        let bytes = snapshot.bytes();
        append(
            &mut *store,
            &origin,
            &mut Snapshot::open(&bytes[..]).unwrap(),
        )
        .unwrap();
    }
    let sent = |store: &mut dyn Store, hosts: &[&str]| -> Vec<(String, u64)> {
        let mut query = by(&[Field::Host, Field::Account]);
        query.order = Order::Fields;
        query.filter.hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        let groups = store.query(&query).unwrap().groups;
        groups
            .iter()
            .map(|group| {
                let name = format!("{} {}", group.key[0], group.key[1]);
                (name, group.counters.sent_packets)
            })
            .collect()
    };
    let of = |name: &str, packets| (name.to_owned(), packets);
    let all = [
        of("gateway dmz", 3),
        of("gateway lan", 30),
        of("mirror lan", 30),
    ];
    assert_eq!(sent(&mut *store, &[]), all);
    assert_eq!(sent(&mut *store, &["gateway", "mirror"]), all);
    assert_eq!(sent(&mut *store, &["gateway"]), all[..2]);
    assert_eq!(
        sent(&mut *store, &["fedcba9876543210fedcba9876543210"]),
        all[2..]
    );
    assert_eq!(sent(&mut *store, &["elsewhere"]), []);
}

pub fn days_follow_summer_time<D: Database>() {
    let mut store = D::create().open();
    let closes = [
        "2026-03-28T22:30:00Z",
        "2026-03-28T23:30:00Z",
        "2026-03-29T21:30:00Z",
        "2026-03-29T22:30:00Z",
        "2026-10-25T22:30:00Z",
        "2026-10-25T23:30:00Z",
    ];
    for (closed, epoch) in closes.iter().zip(1..) {
        let mut snapshot = lan(epoch);
        let closed: Timestamp = closed.parse().unwrap();
        snapshot.header.closed_ns = closed.as_nanosecond() as u64;
        stored(&mut *store, &snapshot).unwrap();
    }
    for extra in [vec![], vec![Field::RemotePort]] {
        let mut query = by(&[&[Field::Day][..], &extra].concat());
        query.zone = TimeZone::get("Europe/Berlin").unwrap();
        query.order = Order::Fields;
        let days: Vec<String> = store
            .query(&query)
            .unwrap()
            .groups
            .iter()
            .map(|group| format!("{} {}", group.key[0], group.counters.sent_packets))
            .collect();
        // Clocks are an hour before UTC, from 29 March to 25 October two.
        assert_eq!(
            days,
            [
                "2026-03-28 30",
                "2026-03-29 60",
                "2026-03-30 30",
                "2026-10-25 30",
                "2026-10-26 30"
            ]
        );
    }
}

pub fn days_of_every_zone_are_exact_while_quarters_are_kept<D: Database>() {
    let mut store = D::create().open();
    // A packet every 15 minutes of two days.
    let quarters = 2 * 96;
    let middle = |quarter: u64| NOON_NS + quarter * QUARTER_NS + QUARTER_NS / 2;
    for quarter in 0..quarters {
        let mut snapshot = SnapshotBuilder::new("lan", quarter + 1, vec![record(1, 1, 6, 22, 1)]);
        snapshot.header.closed_ns = middle(quarter) + QUARTER_NS / 2;
        snapshot.header.duration_ns = QUARTER_NS;
        stored(&mut *store, &snapshot).unwrap();
    }
    let expected = |zone: &TimeZone| {
        let mut days = BTreeMap::<String, u64>::new();
        for quarter in 0..quarters {
            let day = zone.to_datetime(time(middle(quarter))).date();
            *days.entry(day.to_string()).or_default() += 1;
        }
        days
    };
    let newest = store.retention_time().unwrap();
    let levels = [
        Retention::default(),
        Retention {
            records_before: newest,
            even_most: true,
            ..Retention::default()
        },
        Retention {
            quarterly_before: newest,
            even_most: true,
            ..Retention::default()
        },
    ];
    for (level, retention) in levels.iter().enumerate() {
        if level > 0 {
            store.rotate(retention, None).unwrap();
        }
        for name in [
            "UTC",
            "Europe/Berlin",
            "Asia/Kolkata",
            "Asia/Kathmandu",
            "Pacific/Chatham",
        ] {
            let zone = TimeZone::get(name).unwrap();
            for by_service in [false, true] {
                let mut query = by(&[Field::Day]);
                query.zone = zone.clone();
                if by_service {
                    query.filter.local_ports = vec![22..=22];
                    query.filter.local = vec!["192.0.2.0/24".parse().unwrap()];
                }
                let answer = store.query(&query).unwrap();
                let days: BTreeMap<String, u64> = answer
                    .groups
                    .iter()
                    .map(|group| (group.key[0].to_string(), group.counters.sent_packets))
                    .collect();
                let is_whole_hour = ["UTC", "Europe/Berlin"].contains(&name);
                assert_eq!(
                    answer.inexact.is_none(),
                    is_whole_hour || level < 2,
                    "{name}, {level}"
                );
                if answer.inexact.is_none() {
                    assert_eq!(days, expected(&zone), "{name}, {level}");
                }
                assert_eq!(days.values().sum::<u64>(), quarters);
                for (day, packets) in days {
                    let date: jiff::civil::Date = day.parse().unwrap();
                    let begin = |date: jiff::civil::Date| {
                        Some(date.to_zoned_datetime(zone.clone()).unwrap().timestamp())
                    };
                    let mut alone = query.clone();
                    alone.by = vec![];
                    alone.filter.since = begin(date);
                    alone.filter.until = begin(date.tomorrow().unwrap());
                    let alone = store.query(&alone).unwrap();
                    assert_eq!(alone.total.sent_packets, packets, "{name}, {level}, {day}");
                }
            }
        }
    }
}

pub fn default_query_needs_no_records<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=4 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let mut drill_down = by(&[Field::Protocol]);
    drill_down.filter.local = vec!["192.0.2.1/32".parse().unwrap()];
    drill_down.filter.local_ports = vec![22..=22];
    let queries = [
        by(&[Field::LocalIp, Field::Protocol, Field::LocalPort]),
        drill_down,
    ];
    let before: Vec<_> = queries
        .iter()
        .map(|query| store.query(query).unwrap())
        .collect();
    assert_eq!(before[0].total.sent_packets, 120);
    assert_eq!(before[1].total.sent_packets, 40);
    for query in &queries {
        let steps = store.explain(query).unwrap();
        let reads_records = |step: &String| step.split_whitespace().any(|word| word == "r");
        assert!(!steps.iter().any(reads_records), "{steps:?}");
    }
    pruned_but_newest(&mut *store);
    for (query, before) in queries.iter().zip(before) {
        assert_eq!(store.query(query).unwrap(), before);
    }
}

pub fn rates_have_the_time_that_was_counted<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    // One account is counted for four hours with a pause, the other joins late.
    for epoch in [1, 2, 5, 6] {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let mut late = SnapshotBuilder::new("dmz", 6, vec![record(1, 1, 6, 22, 10)]);
    late.header.duration_ns = HOUR_NS / 2;
    stored(&mut *store, &late).unwrap();
    let mut ask = |fields: &[Field], account: Option<&str>| {
        let mut query = by(fields);
        query.counted = true;
        query.order = Order::Fields;
        query.filter.accounts = account
            .map(|name| name.parse().unwrap())
            .into_iter()
            .collect();
        let answer = store.query(&query).unwrap();
        let minutes = |duration: SignedDuration| duration.as_mins();
        let groups: Vec<i64> = answer
            .groups
            .iter()
            .map(|group| minutes(group.counted.unwrap()))
            .collect();
        (minutes(answer.counted.unwrap().total), groups)
    };
    assert_eq!(ask(&[Field::LocalIp], None), (240, vec![240, 240]));
    assert_eq!(ask(&[Field::LocalIp], Some("dmz")), (30, vec![30]));
    assert_eq!(ask(&[Field::Account], None), (240, vec![30, 240]));
    assert_eq!(ask(&[Field::Hour], None), (240, vec![60; 4]));
    assert_eq!(ask(&[Field::Day], None), (240, vec![240]));
    assert_eq!(ask(&[Field::RemotePort], Some("dmz")), (30, vec![30]));
    let asked = store.query(&by(&[Field::Hour])).unwrap();
    assert_eq!((asked.counted, asked.groups[0].counted), (None, None));
}

pub fn snapshot_of_many_addresses_is_summed_in_parts<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &many_addresses(1)).unwrap();
    let parts = database.run("SELECT COUNT(*) FROM remote_part");
    assert_eq!(parts, [["2"]]);
    for field in [Field::LocalIp, Field::RemoteIp] {
        let mut query = by(&[field]);
        query.limit = Some(3);
        let answer = store.query(&query).unwrap();
        assert_eq!(
            (answer.group_count, answer.total.sent_packets),
            (70_000, 140_000)
        );
        for (group, number) in answer.groups.iter().zip(0_u32..) {
            assert_eq!(group.key, [Value::Ip(IpAddr::from(number.to_be_bytes()))]);
            assert_eq!(group.counters.sent_packets, 2);
        }
    }
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
}

pub fn standard_errors_stay_with_the_sums<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch).sampled(10)).unwrap();
    }
    let packets = |store: &mut dyn Store, fields: &[Field]| {
        let answer = store.query(&by(fields)).unwrap();
        assert!(answer.error.unwrap().bytes.is_some());
        let variance = answer.error.unwrap().packets.powi(2).round() as u64;
        (variance, answer.accuracy.classes[1].packets)
    };
    // What an epoch has: 5 packets were taken, each with a variance of 90.
    assert_eq!(packets(&mut *store, &[Field::LocalIp]), (1350, 15));
    pruned(&mut *store, NOON_NS + 2 * HOUR_NS);
    for field in [Field::LocalIp, Field::LocalPort, Field::RemoteIp] {
        assert_eq!(packets(&mut *store, &[field]), (1350, 15));
    }
    assert_eq!(
        packets(&mut *store, &[Field::LocalIp, Field::RemoteIp]),
        (450, 5)
    );
    let retention = Retention {
        quarterly_before: Some(time(NOON_NS + 2 * HOUR_NS)),
        hourly_before: Some(time(NOON_NS + 2 * HOUR_NS)),
        even_most: true,
        ..Retention::default()
    };
    store.rotate(&retention, None).unwrap();
    assert_eq!(
        packets(&mut *store, &[Field::Hour, Field::LocalIp]),
        (450, 5)
    );
    assert_eq!(packets(&mut *store, &[Field::LocalIp]), (1350, 15));
    let account = store.query(&by(&[Field::Account])).unwrap();
    assert_eq!(account.groups[0].error, account.error);
}

pub fn error_is_unknown_where_an_old_module_sampled<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1).sampled(10)).unwrap();
    stored(&mut *store, &lan(2).with_header_size(240)).unwrap();
    let mut exact = lan(3).with_header_size(240);
    exact.header.extrapolated_packets = 0;
    exact.header.seen_packets += 1;
    stored(&mut *store, &exact).unwrap();
    let answer = store.query(&by(&[Field::Hour])).unwrap();
    assert_eq!((answer.error, answer.accuracy.unknown_epochs), (None, 1));
    let mut known: Vec<(String, bool)> = answer
        .groups
        .iter()
        .map(|group| (group.key[0].to_string(), group.error.is_some()))
        .collect();
    known.sort();
    let hour = |hour, known| (format!("2026-01-31T{hour}:00:00Z"), known);
    assert_eq!(known, [hour(12, true), hour(13, false), hour(14, true)]);
}

pub fn unattributed_packets_are_told_of_the_accounts_asked_for<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let lacking = |name: &str, epoch, packets| {
        let mut snapshot = SnapshotBuilder::new(name, epoch, vec![record(1, 1, 6, 22, 10)]);
        snapshot.header.unattributed_packets = packets;
        snapshot.header.unattributed_bytes = packets * 100;
        snapshot
    };
    for snapshot in [
        lacking("lan", 1, 3),
        lacking("lan", 2, 0),
        lacking("lan", 3, 4),
        lacking("dmz", 1, 10),
    ] {
        stored(&mut *store, &snapshot).unwrap();
    }
    let told = |store: &mut dyn Store, accounts: &[&str]| {
        let mut query = by(&[Field::LocalIp]);
        query.filter.accounts = accounts.iter().map(|name| name.parse().unwrap()).collect();
        let accuracy = store.query(&query).unwrap().accuracy;
        let Volume { packets, bytes } = accuracy.unattributed;
        (packets, bytes, accuracy.unattributed_epochs)
    };
    assert_eq!(told(&mut *store, &[]), (17, 1700, 3));
    assert_eq!(told(&mut *store, &["lan"]), (7, 700, 2));
    assert_eq!(told(&mut *store, &["wan"]), (0, 0, 0));
}

pub fn set_clock_does_not_change_how_long_it_was<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let seconds = |store: &mut dyn Store| {
        let covered = store.query(&by(&[])).unwrap().covered.unwrap();
        covered.seconds()
    };
    // The clock shows 1970 until it is set, within the first epoch of each account.
    for name in ["lan", "dmz"] {
        for epoch in 1..=2 {
            let mut snapshot = SnapshotBuilder::new(name, epoch, vec![record(1, 1, 6, 22, 1)]);
            if epoch == 1 {
                snapshot.header.opened_ns = 0;
            }
            stored(&mut *store, &snapshot).unwrap();
        }
    }
    // Rounded as a double holds 56 years of nanoseconds.
    assert!((seconds(&mut *store) - 7200.0).abs() < 1e-3);
    // Of an older module, the clock is all that is known.
    let mut old = lan(3).with_header_size(240);
    old.header.account_id[15] = 1;
    old.header.closed_ns += HOUR_NS;
    stored(&mut *store, &old).unwrap();
    assert!((seconds(&mut *store) - 4.0 * 3600.0).abs() < 1e-3);
}

pub fn queries_answer_as_a_map_would<D: Database>() {
    let config = ProptestConfig {
        cases: D::CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(
        epochs in any_epochs(),
        queries in prop::collection::vec(any_query(), 24),
    )| {
        let database = D::create();
        let mut store = database.open();
        for (some, epoch) in epochs.iter().zip(1..) {
            let records = &some.records;
            let mut header = some.header(epoch);
            header.records = records.len() as u64;
            header.totals.recorded = recorded_volume(records);
            let Begun::New(mut transaction) = store.begin(&origin(), &header).unwrap() else {
                panic!("epoch {epoch} is stored already");
            };
            transaction.write(records).unwrap();
            transaction.commit().unwrap();
        }
        for query in queries {
            prop_assert_eq!(store.query(&query).unwrap(), expected(&epochs, &query), "{:?}", query);
        }
        prop_assert_eq!(store.check().unwrap(), NOTHING_WRONG);
    });
}

/// The same of epochs that no database keeps.
#[test]
fn accumulator_answers_as_a_map_would() {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(
        epochs in any_epochs(),
        queries in prop::collection::vec(any_query(), 24),
    )| {
        for query in queries {
            let mut sums = Accumulator::new(&query);
            for (some, epoch) in epochs.iter().zip(1..) {
                sums.begin(&origin(), &some.header(epoch));
                // In two batches.
                let (first, second) = some.records.split_at(some.records.len() / 2);
                sums.add(first);
                sums.add(second);
            }
            prop_assert_eq!(sums.answer(), expected(&epochs, &query), "{:?}", query);
        }
    });
}
