// SPDX-License-Identifier: GPL-2.0-or-later
//! Whatever happens to a store, in whatever order, it ends as a model of it does.

mod common;
#[path = "common/mariadb.rs"]
mod mariadb_server;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{HOUR_NS, NOON_NS, SnapshotBuilder, record};
use jiff::Timestamp;
use proptest::prelude::*;
use trafstat_store::backend::{Mysql, Sqlite};
use trafstat_store::collect::append;
use trafstat_store::origin::Origin;
use trafstat_store::query::{Field, Filter, Order, Query};
use trafstat_store::snapshot::{Counters, Snapshot};
use trafstat_store::store::{Archive, ArchiveForm, Begun, Retention, Store, StoreError};

/// What may happen.
#[derive(Debug, Clone)]
enum Event {
    /// A collector appends the epoch, which it may have done before.
    Append(u64),
    /// A collector is killed after so many steps of appending the epoch.
    Crash(u64, usize),
    /// Records of what closed before the epoch are archived in a form and deleted.
    Archive(u64, ArchiveForm),
    /// All archives are restored.
    Restore,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1..=EPOCHS).prop_map(Event::Append),
        3 => (1..=EPOCHS, 0..=STEPS).prop_map(|(epoch, steps)| Event::Crash(epoch, steps)),
        1 => (1..=EPOCHS).prop_map(|epoch| Event::Archive(epoch, ArchiveForm::Sqlite)),
        1 => (1..=EPOCHS).prop_map(|epoch| Event::Archive(epoch, ArchiveForm::Csv)),
        1 => Just(Event::Restore),
    ]
}

const EPOCHS: u64 = 6;

/// Begun, five records, committed.
const STEPS: usize = 7;

#[test]
fn sqlite_ends_as_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    ends_as_the_model(16, || {
        number.set(number.get() + 1);
        let path = folder.path().join(format!("{}.db", number.get()));
        format!("sqlite {}", path.display())
    });
}

#[test]
fn mariadb_ends_as_the_model() {
    let socket = mariadb_server::socket();
    ends_as_the_model(8, || {
        let database = mariadb_server::create_database(socket);
        format!("{} {database}", socket.display())
    });
}

fn ends_as_the_model(cases: u32, create: impl Fn() -> String) {
    let config = ProptestConfig {
        cases,
        max_shrink_iters: 32,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(events in prop::collection::vec(any_event(), 1..14))| {
        let location = create();
        let archive = tempfile::tempdir().unwrap();
        let mut archives = Vec::<PathBuf>::new();
        // Every epoch that is stored, and whether its records are there.
        let mut model = BTreeMap::<u64, bool>::new();
        for event in &events {
            match *event {
                Event::Append(epoch) => {
                    store(&location, epoch);
                    model.entry(epoch).or_insert(true);
                }
                Event::Crash(epoch, steps) => {
                    crash(&location, epoch, steps);
                    // Whether it was committed only the store knows; the kernel serves it again.
                    store(&location, epoch);
                    model.entry(epoch).or_insert(true);
                }
                Event::Archive(before, form) => {
                    let retention = Retention {
                        records_before: Some(counted(before)),
                        even_most: true,
                        ..Retention::default()
                    };
                    let place = Archive { folder: archive.path(), form };
                    let rotated = open(&location).rotate(&retention, Some(place));
                    // Never everything.
                    let newest = model.keys().next_back().copied();
                    if newest.is_some_and(|newest| before > newest) {
                        let refused =
                            matches!(rotated, Err(StoreError::CutOffBeyondNewest { .. }));
                        prop_assert!(refused, "{:?}", rotated);
                        continue;
                    }
                    archives.extend(rotated.unwrap().archives);
                    for (epoch, there) in &mut model {
                        *there &= *epoch >= before;
                    }
                }
                Event::Restore => {
                    for file in &archives {
                        open(&location).restore(file).unwrap();
                    }
                    model.values_mut().for_each(|there| *there = true);
                }
            }
        }
        let mut store = open(&location);
        let stored: u64 = model.keys().map(|&epoch| sent(epoch)).sum();
        let there: u64 = model.iter().filter(|(_, there)| **there).map(|(&e, _)| sent(e)).sum();
        for (by, expected) in [
            (&[Field::LocalIp][..], stored),
            (&[Field::Protocol, Field::LocalPort], stored),
            (&[Field::RemoteIp], stored),
            (&[Field::LocalIp, Field::RemoteIp], there),
        ] {
            prop_assert_eq!(sent_packets(&mut *store, by), expected, "{:?} {:?}", by, model);
        }
        prop_assert_eq!(store.check().unwrap(), Vec::<String>::new());
    });
}

const CHILD: &str = "TRAFSTAT_MODEL_CHILD";

/// What is killed: this test again, in a process of its own.
#[test]
fn child_appends_step_by_step() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    let (epoch, location) = what.split_once(' ').unwrap();
    let bytes = snapshot(epoch.parse().unwrap()).bytes();
    let mut snapshot = Snapshot::open(&bytes[..]).unwrap();
    let header = snapshot.header().clone();
    let records = snapshot.next_batch().unwrap().unwrap().to_vec();
    let mut store = open(location);
    let mut out = std::io::stdout();
    let mut step = || {
        writeln!(out, "\nstep").unwrap();
        out.flush().unwrap();
    };
    if let Begun::New(mut transaction) = store.begin(&origin(), &header).unwrap() {
        step();
        for record in records.chunks(1) {
            transaction.write(record).unwrap();
            step();
        }
        transaction.commit().unwrap();
    }
    for _ in 0..STEPS {
        step();
    }
    // Ends with the parent at the latest.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn crash(location: &str, epoch: u64, steps: usize) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_appends_step_by_step", "--exact", "--nocapture"])
        .env(CHILD, format!("{epoch} {location}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let seen = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .filter(|line| line.as_ref().unwrap() == "step")
        .take(steps)
        .count();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen, steps);
}

fn open(location: &str) -> Box<dyn Store> {
    let (place, name) = location.split_once(' ').unwrap();
    if place == "sqlite" {
        let mut store = Sqlite::open(Path::new(name)).unwrap();
        store.migrate().unwrap();
        return Box::new(store);
    }
    let mut store = Mysql::open(&mariadb_server::login(Path::new(place), name)).unwrap();
    store.migrate().unwrap();
    Box::new(store)
}

fn store(location: &str, epoch: u64) {
    let bytes = snapshot(epoch).bytes();
    let mut snapshot = Snapshot::open(&bytes[..]).unwrap();
    append(&mut *open(location), &origin(), &mut snapshot).unwrap();
}

/// Epochs of different sizes, so that one missing or doubled shows in the sum.
fn snapshot(epoch: u64) -> SnapshotBuilder {
    let records = (1..=5)
        .map(|number| record(number, number, 6, 22, 1 << epoch))
        .collect();
    SnapshotBuilder::new("lan", epoch, records)
}

fn sent(epoch: u64) -> u64 {
    5 << epoch
}

/// When an epoch counts: in the middle of its hour.
fn counted(epoch: u64) -> Timestamp {
    Timestamp::from_nanosecond((NOON_NS + epoch * HOUR_NS - HOUR_NS / 2).into()).unwrap()
}

fn sent_packets(store: &mut dyn Store, by: &[Field]) -> u64 {
    let query = Query {
        by: by.to_vec(),
        filter: Filter::default(),
        order: Order::Bytes,
        limit: None,
        ..Query::default()
    };
    let answer = store.query(&query).unwrap();
    let total = answer
        .groups
        .iter()
        .fold(0, |sum, group| sum + group.counters.sent_packets);
    assert_eq!(answer.total.sent_packets, total);
    let Counters { sent_packets, .. } = answer.total;
    sent_packets
}

fn origin() -> Origin {
    Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    }
}
