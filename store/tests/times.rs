// SPDX-License-Identifier: GPL-2.0-or-later
//! Sums over times, against an independent one: over zones, days, retention and traffic.
//!
//! An answer that claims to be exact is not off by a packet, and one that does not still counts
//! everything in exactly one of adjoining times.

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::{NOON_NS, SnapshotBuilder, record};
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use proptest::prelude::*;
use trafstat_store::backend::Sqlite;
use trafstat_store::collect::append;
use trafstat_store::origin::Origin;
use trafstat_store::query::{Answer, Field, Filter, Query};
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::{Retention, Store};

/// How many cases are tried; PROPTEST_CASES says otherwise.
const CASES: u32 = 500;

/// What an epoch is about.
const DAYS: i64 = 5;

const MINUTE_NS: u64 = 60_000_000_000;

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Pacific/Chatham",
    "America/New_York",
];

/// Before months and changes of summer time, of half an hour in Lord Howe.
const FIRST_DAYS: [Date; 7] = [
    date(2026, 1, 30),
    date(2026, 3, 6),
    date(2026, 3, 27),
    date(2026, 4, 3),
    date(2026, 9, 25),
    date(2026, 10, 2),
    date(2026, 10, 23),
];

/// An epoch with one record.
#[derive(Debug, Clone)]
struct Epoch {
    /// When it closes, in minutes after the first day's midnight, UTC.
    closed: u64,
    /// For how many minutes it was open.
    open: u64,
    packets: u64,
    local: u8,
    port: u16,
}

/// Until when each level is deleted, in minutes after the first day's midnight.
#[derive(Debug, Clone)]
struct Deleted {
    records: Option<u64>,
    quarters: Option<u64>,
    hours: Option<u64>,
    days: Option<u64>,
}

#[derive(Debug)]
struct Case {
    first: Date,
    zone: TimeZone,
    epochs: Vec<Epoch>,
    deleted: Deleted,
}

fn any_minute() -> impl Strategy<Value = u64> {
    let minutes = DAYS as u64 * 1440;
    // Often where something begins, a day of some zone, an hour or a quarter.
    (
        60..minutes,
        prop::sample::select(vec![1_u64, 15, 30, 60, 720]),
    )
        .prop_map(|(minute, step)| minute / step * step)
}

fn any_case() -> impl Strategy<Value = Case> {
    let epoch = (
        any_minute(),
        prop::sample::select(vec![1_u64, 5, 7, 15, 60]),
        1_u64..1000,
        1_u8..3,
        prop::sample::select(vec![22_u16, 443]),
    )
        .prop_map(|(closed, open, packets, local, port)| Epoch {
            closed,
            open,
            packets,
            local,
            port,
        });
    let gone = || prop::option::weighted(0.6, any_minute());
    let days = prop::option::weighted(0.1, any_minute());
    let deleted =
        (gone(), gone(), gone(), days).prop_map(|(records, quarters, hours, days)| Deleted {
            records,
            quarters,
            hours,
            days,
        });
    (
        prop::sample::select(FIRST_DAYS.to_vec()),
        prop::sample::select(ZONES.to_vec()),
        prop::collection::vec(epoch, 1..10),
        deleted,
    )
        .prop_map(|(first, zone, epochs, deleted)| Case {
            first,
            zone: TimeZone::get(zone).unwrap(),
            epochs,
            deleted,
        })
}

impl Case {
    fn time(&self, minute: u64) -> Timestamp {
        let midnight = self.first.to_zoned_datetime(TimeZone::UTC).unwrap();
        midnight.timestamp() + Span::new().minutes(minute as i64)
    }

    /// The middle of an epoch.
    fn counted(&self, epoch: &Epoch) -> Timestamp {
        self.time(epoch.closed) - Span::new().seconds(epoch.open as i64 * 30)
    }

    /// A store of the epochs, of which the levels are deleted.
    fn store(&self, folder: &tempfile::TempDir) -> Sqlite {
        let mut store = Sqlite::open(&folder.path().join("trafstat.db")).unwrap();
        store.migrate().unwrap();
        let origin = Origin {
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
            hostname: "gateway".to_owned(),
            netns: "init".to_owned(),
        };
        for (epoch, number) in self.epochs.iter().zip(1..) {
            let records = vec![record(epoch.local, 1, 6, epoch.port, epoch.packets)];
            let mut snapshot = SnapshotBuilder::new("lan", number, records);
            snapshot.header.closed_ns = self.time(epoch.closed).as_nanosecond() as u64;
            snapshot.header.duration_ns = epoch.open * MINUTE_NS;
            // It does not matter.
            snapshot.header.opened_ns = NOON_NS;
            let bytes = snapshot.bytes();
            let mut snapshot = Snapshot::open(&bytes[..]).unwrap();
            append(&mut store, &origin, &mut snapshot).unwrap();
        }
        // Later than what is deleted.
        let mut late = SnapshotBuilder::new("dmz", 1, Vec::new());
        late.header.closed_ns = self.time((DAYS as u64 + 2) * 1440).as_nanosecond() as u64;
        late.header.duration_ns = MINUTE_NS;
        let bytes = late.bytes();
        append(
            &mut store,
            &origin,
            &mut Snapshot::open(&bytes[..]).unwrap(),
        )
        .unwrap();
        let before = |minute: Option<u64>| minute.map(|minute| self.time(minute));
        let retention = Retention {
            records_before: before(self.deleted.records),
            quarterly_before: before(self.deleted.quarters),
            hourly_before: before(self.deleted.hours),
            daily_before: before(self.deleted.days),
            monthly_before: None,
            even_most: true,
        };
        store.rotate(&retention, None).unwrap();
        assert_eq!(store.check().unwrap(), [""; 0]);
        store
    }

    /// The midnights of the zone around all epochs.
    fn midnights(&self) -> Vec<Timestamp> {
        (-2..DAYS + 3)
            .map(|day| {
                let date = self.first + Span::new().days(day);
                let midnight = date.to_zoned_datetime(self.zone.clone()).unwrap();
                midnight.timestamp()
            })
            .collect()
    }

    /// What an independent sum has in each of some keys.
    fn expected<K: Ord>(&self, filter: &Filter, key: impl Fn(Timestamp) -> K) -> BTreeMap<K, u64> {
        let mut sums = BTreeMap::new();
        for epoch in &self.epochs {
            let counted = self.counted(epoch);
            let local = IpAddr::from([192, 0, 2, epoch.local]);
            let counts = filter.since.is_none_or(|since| counted >= since)
                && filter.until.is_none_or(|until| counted < until)
                && (filter.local.is_empty() || filter.local.iter().any(|net| net.contains(&local)))
                && (filter.local_ports.is_empty()
                    || filter
                        .local_ports
                        .iter()
                        .any(|ports| ports.contains(&epoch.port)));
            if counts {
                *sums.entry(key(counted)).or_default() += epoch.packets;
            }
        }
        sums
    }

    fn ask(&self, store: &mut Sqlite, by: &[Field], filter: &Filter) -> Answer {
        let query = Query {
            by: by.to_vec(),
            filter: filter.clone(),
            zone: self.zone.clone(),
            ..Query::default()
        };
        store.query(&query).unwrap()
    }

    /// A total, which is what is expected if it claims to be.
    fn total(&self, store: &mut Sqlite, filter: &Filter) -> u64 {
        let answer = self.ask(store, &[], filter);
        let total = answer.total.sent_packets;
        if answer.inexact.is_none() {
            let expected = self.expected(filter, |_| ());
            assert_eq!(total, expected.get(&()).copied().unwrap_or(0), "{filter:?}");
        }
        total
    }
}

/// What the answer's groups sent, by their only key.
fn sent(answer: &Answer) -> BTreeMap<String, u64> {
    let groups = answer.groups.iter();
    groups
        .map(|group| (group.key[0].to_string(), group.counters.sent_packets))
        .collect()
}

fn within(filter: &Filter, since: Timestamp, until: Timestamp) -> Filter {
    Filter {
        since: Some(since),
        until: Some(until),
        ..filter.clone()
    }
}

fn config() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: asked.and_then(|cases| cases.parse().ok()).unwrap_or(CASES),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn exact_answers_are_not_off_by_a_packet_and_days_add_up(
        case in any_case(),
        by_address in any::<bool>(),
        by_service in any::<bool>(),
        cuts in prop::collection::vec(any_minute(), 3),
    ) {
        // Nothing needs to survive: in memory, where there is such a place.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut store = case.store(&folder);
        let mut filter = Filter::default();
        if by_address {
            filter.local = vec!["192.0.2.1/32".parse().unwrap()];
        }
        if by_service {
            filter.local_ports = vec![443..=443];
        }

        // Days, together and each alone.
        let days = case.ask(&mut store, &[Field::Day], &filter);
        let by_day = sent(&days);
        if days.inexact.is_none() {
            let zone = &case.zone;
            let expected = case.expected(&filter, |time| zone.to_datetime(time).date().to_string());
            prop_assert_eq!(&by_day, &expected);
        }
        let midnights = case.midnights();
        let mut added = 0;
        for pair in midnights.windows(2) {
            let day = case.total(&mut store, &within(&filter, pair[0], pair[1]));
            let name = case.zone.to_datetime(pair[0]).date().to_string();
            prop_assert_eq!(day, by_day.get(&name).copied().unwrap_or(0), "{}", name);
            added += day;
        }
        let (first, last) = (midnights[0], midnights[midnights.len() - 1]);
        let all = case.total(&mut store, &within(&filter, first, last));
        prop_assert_eq!(added, all);
        prop_assert_eq!(case.total(&mut store, &filter), all);

        // Any times that adjoin.
        let mut cuts: Vec<Timestamp> = cuts.iter().map(|&minute| case.time(minute)).collect();
        cuts.sort_unstable();
        let mut parts = Vec::new();
        for pair in cuts.windows(2).filter(|pair| pair[0] < pair[1]) {
            parts.push(case.total(&mut store, &within(&filter, pair[0], pair[1])));
        }
        if cuts[0] < cuts[2] {
            let whole = case.total(&mut store, &within(&filter, cuts[0], cuts[2]));
            prop_assert_eq!(parts.iter().sum::<u64>(), whole);
        }

        // Hours, of which some may be gone.
        let hours = case.ask(&mut store, &[Field::Hour], &filter);
        let expected = case.expected(&filter, |time| {
            let hour = time.as_second().div_euclid(3600) * 3600;
            Timestamp::from_second(hour).unwrap().to_string()
        });
        let by_hour = sent(&hours);
        match hours.inexact {
            None => prop_assert_eq!(by_hour, expected),
            Some(inexact) => {
                let missing = inexact.missing.unwrap();
                prop_assert!(by_hour.values().sum::<u64>() <= expected.values().sum());
                prop_assert!(missing.since < missing.until);
            }
        }
    }
}
