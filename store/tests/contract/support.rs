// SPDX-License-Identifier: GPL-2.0-or-later
//! Snapshots to store, and questions that many tests ask.

use jiff::Timestamp;
use trafstat_store::collect::{CollectError, State, append};
use trafstat_store::export::{Form, export};
use trafstat_store::origin::Origin;
use trafstat_store::query::{Answer, Field, Filter, Order, Query};
use trafstat_store::snapshot::{Counters, Header, Record, Snapshot};
use trafstat_store::store::Store;
use trafstat_store::store::{Level, Retention, Selection};
use trafstat_store::watch::Unwatched;

use crate::common::{SnapshotBuilder, record};

pub fn recorded(store: &mut dyn Store) -> (u64, u64) {
    let answer = store
        .query(&by(&[Field::LocalIp, Field::RemoteIp]))
        .unwrap();
    (answer.epochs, answer.total.sent_packets)
}

pub fn summed(store: &mut dyn Store) -> [u64; 3] {
    [Field::LocalIp, Field::LocalPort, Field::RemoteIp]
        .map(|field| store.query(&by(&[field])).unwrap().total.sent_packets)
}

pub fn export_of(store: &mut dyn Store, level: Level, form: Form, selection: &Selection) -> String {
    let mut text = Vec::new();
    export(store, level, selection, form, &Unwatched, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// All records.
pub fn exported(store: &mut dyn Store, form: Form) -> String {
    export_of(store, Level::Flow, form, &Selection::default())
}

pub const MINUTE_NS: u64 = 60_000_000_000;

pub const NOTHING_WRONG: [&str; 0] = [];

/// Everything that the records have.
pub fn answers(store: &mut dyn Store) -> Answer {
    store
        .query(&by(&[
            Field::Protocol,
            Field::LocalIp,
            Field::LocalPort,
            Field::RemoteIp,
            Field::RemotePort,
        ]))
        .unwrap()
}

pub fn origin() -> Origin {
    Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    }
}

/// 30 packets sent, 60 received.
pub fn lan(epoch: u64) -> SnapshotBuilder {
    SnapshotBuilder::new(
        "lan",
        epoch,
        vec![record(1, 1, 6, 22, 10), record(2, 1, 17, 53, 20)],
    )
}

/// More records than one transaction deletes: of 70,000 local and as many remote addresses.
pub fn many_addresses(epoch: u64) -> SnapshotBuilder {
    let records = (0..140_000_u32).map(|number| {
        let mut record = record(1, 1, 17, 53, 1);
        record.local_ip = (number % 70_000).to_be_bytes();
        record.remote_ip = (number / 2).to_be_bytes();
        record
    });
    SnapshotBuilder::new("lan", epoch, records.collect())
}

pub fn stored(store: &mut dyn Store, snapshot: &SnapshotBuilder) -> Result<State, CollectError> {
    let bytes = snapshot.bytes();
    append(store, &origin(), &mut Snapshot::open(&bytes[..])?)
}

pub fn decoded(snapshot: &SnapshotBuilder) -> (Header, Vec<Record>) {
    let bytes = snapshot.bytes();
    let mut snapshot = Snapshot::open(&bytes[..]).unwrap();
    let records = snapshot.next_batch().unwrap().unwrap().to_vec();
    (snapshot.header().clone(), records)
}

pub fn by(fields: &[Field]) -> Query {
    Query {
        by: fields.to_vec(),
        filter: Filter::default(),
        order: Order::Bytes,
        limit: None,
        ..Query::default()
    }
}

pub fn total(store: &mut dyn Store) -> Counters {
    store.query(&by(&[Field::Protocol])).unwrap().total
}

/// Deletes the records of what counts before a time, however many they are.
pub fn pruned(store: &mut dyn Store, before_ns: u64) -> (u64, u64) {
    let retention = Retention {
        records_before: Some(time(before_ns)),
        even_most: true,
        ..Retention::default()
    };
    let rotated = store.rotate(&retention, None).unwrap();
    (rotated.epochs, rotated.records)
}

/// Deletes the records of all but the newest epoch.
pub fn pruned_but_newest(store: &mut dyn Store) {
    let retention = Retention {
        records_before: store.retention_time().unwrap(),
        even_most: true,
        ..Retention::default()
    };
    store.rotate(&retention, None).unwrap();
}

pub fn time(nanoseconds: u64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap()
}
