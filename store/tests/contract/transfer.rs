// SPDX-License-Identifier: GPL-2.0-or-later
//! What goes out and comes in again: exports and backups.

use std::path::{Path, PathBuf};

use trafstat_store::backend::Sqlite;
use trafstat_store::collect::{State, append};
use trafstat_store::export::Form;
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::StoreError;
use trafstat_store::store::{Level, Selection};

use crate::common::{HOUR_NS, NOON_NS, SnapshotBuilder, record};
use crate::databases::Database;
use crate::support::{
    NOTHING_WRONG, answers, export_of, exported, lan, origin, pruned, recorded, stored, summed,
    time, total,
};

pub fn exported_records_are_those_that_are_stored<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let dmz = SnapshotBuilder::new("dmz", 1, vec![record(7, 9, 1, 0, 5)]);
    stored(&mut *store, &dmz).unwrap();
    assert_eq!(
        export_of(
            &mut *store,
            Level::Flow,
            Form::Csv,
            &Selection {
                accounts: vec!["lan".parse().unwrap()],
                since: Some(time(NOON_NS + HOUR_NS)),
                until: Some(time(NOON_NS + 2 * HOUR_NS)),
            }
        ),
        "host,netns,family,account,epoch,closed,protocol,local_ip,local_port,remote_ip,\
         remote_port,flags,sent_packets,received_packets,sent_bytes,received_bytes,syn_packets\n\
         gateway,init,ipv4,lan,2,2026-01-31T14:00:00Z,6,192.0.2.1,22,198.51.100.1,0,0,10,20,\
         1000,15000,1\n\
         gateway,init,ipv4,lan,2,2026-01-31T14:00:00Z,17,192.0.2.2,53,198.51.100.1,0,0,20,40,\
         2000,30000,0\n"
    );
    let json: serde_json::Value = serde_json::from_str(&exported(&mut *store, Form::Json)).unwrap();
    let records = json["records"].as_array().unwrap();
    assert_eq!(records.len(), 7);
    let last = records.last().unwrap();
    assert_eq!(
        (&last["account"], &last["protocol"]),
        (&"dmz".into(), &1.into())
    );
    assert_eq!(
        (&last["local_ip"], &last["epoch"]),
        (&"192.0.2.7".into(), &1.into())
    );
    let sent: u64 = records
        .iter()
        .map(|record| record["sent_packets"].as_u64().unwrap())
        .sum();
    assert_eq!(sent, 95);
}

pub fn exported_sums_are_whole<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let other = |epoch| SnapshotBuilder::new("lan", epoch, vec![record(1, 200, 6, 22, 1)]);
    // In January, then in February: what came before is no part any more then.
    for epoch in [1, 2, 600, 601] {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    stored(&mut *store, &other(602)).unwrap();
    // What is in the table now is added to by what waits in parts.
    pruned(&mut *store, NOON_NS + 601 * HOUR_NS);
    for epoch in [603, 604] {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    stored(
        &mut *store,
        &SnapshotBuilder::new(
            "lan",
            605,
            vec![record(1, 0, 6, 22, 3), record(1, 201, 6, 22, 4)],
        ),
    )
    .unwrap();
    assert_eq!(
        export_of(
            &mut *store,
            Level::RemoteMonth,
            Form::Csv,
            &Selection::default()
        ),
        "host,netns,family,account,month,remote_ip,sent_packets,received_packets,sent_bytes,\
         received_bytes,syn_packets\n\
         gateway,init,ipv4,lan,2026-01-01T00:00:00Z,198.51.100.1,60,120,6000,90000,2\n\
         gateway,init,ipv4,lan,2026-02-01T00:00:00Z,198.51.100.0,3,6,300,4500,1\n\
         gateway,init,ipv4,lan,2026-02-01T00:00:00Z,198.51.100.1,120,240,12000,180000,4\n\
         gateway,init,ipv4,lan,2026-02-01T00:00:00Z,198.51.100.200,1,2,100,1500,1\n\
         gateway,init,ipv4,lan,2026-02-01T00:00:00Z,198.51.100.201,4,8,400,6000,1\n"
    );
    for (level, sent, lines) in [
        (Level::LocalHour, 188, 14),
        (Level::LocalDay, 188, 4),
        (Level::ServiceHour, 188, 14),
        (Level::ServiceDay, 188, 4),
        (Level::LocalServiceQuarter, 188, 14),
        (Level::LocalServiceHour, 188, 14),
        (Level::LocalServiceDay, 188, 4),
        (Level::RemoteMonth, 188, 5),
    ] {
        let json = export_of(&mut *store, level, Form::Json, &Selection::default());
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let sums = json["sums"].as_array().unwrap();
        let found: u64 = sums
            .iter()
            .map(|sum| sum["sent_packets"].as_u64().unwrap())
            .sum();
        assert_eq!((found, sums.len()), (sent, lines), "{level:?}");
    }
    let february = Selection {
        since: Some("2026-02-01T00:00:00Z".parse().unwrap()),
        ..Selection::default()
    };
    let rest = export_of(&mut *store, Level::RemoteMonth, Form::Csv, &february);
    assert_eq!(rest.lines().count(), 5);
}

pub fn restorable_export_is_the_same_store_again<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    // Nothing was recorded in it, but much was seen.
    stored(&mut *store, &SnapshotBuilder::new("dmz", 9, Vec::new())).unwrap();
    let mut hostile = origin();
    hostile.machine_id = "\"quoted\", and\nof two lines".to_owned();
    hostile.hostname = " '; DROP TABLE record; -- ".to_owned();
    let bytes = lan(1).bytes();
    append(
        &mut *store,
        &hostile,
        &mut Snapshot::open(&bytes[..]).unwrap(),
    )
    .unwrap();

    let text = exported(&mut *store, Form::Restorable);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("export");
    std::fs::write(&path, &text).unwrap();
    let other = D::create();
    let mut other = other.open();
    for (epochs, known) in [(5, 0), (0, 5)] {
        let restored = other.restore(&path).unwrap();
        assert_eq!((restored.epochs, restored.known), (epochs, known));
        assert_eq!(answers(&mut *other), answers(&mut *store));
        assert_eq!(summed(&mut *other), summed(&mut *store));
        assert_eq!(exported(&mut *other, Form::Restorable), text);
    }
    assert_eq!(other.check().unwrap(), NOTHING_WRONG);
}

pub fn backup_holds_everything_and_replaces_nothing<D: Database>() {
    let database = D::create();
    let folder = tempfile::tempdir().unwrap();
    let path = folder
        .path()
        .join("back'up\"; DROP TABLE record; -- `$(reboot)` ÿ日?mode=ro#");
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    store.back_up(&path).unwrap();
    stored(&mut *store, &lan(2)).unwrap();

    let open = || Sqlite::open_read_only(&path).unwrap();
    assert_eq!(total(&mut open()).sent_packets, 30);
    let error = store.back_up(&path).unwrap_err();
    assert!(matches!(error, StoreError::Exists(_)), "{error}");
    assert_eq!(total(&mut open()).sent_packets, 30);
    let files: Vec<PathBuf> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files, std::slice::from_ref(&path));
    let file = path.join("backup");
    let error = store.back_up(&file).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

pub fn backup_restores_into_an_empty_store<D: Database>() {
    let database = D::create();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    pruned(&mut *store, NOON_NS + HOUR_NS);
    store.back_up(&path).unwrap();

    let other = D::create();
    let mut other = other.open();
    assert_eq!(other.restore(&path).unwrap().epochs, 3);
    assert_eq!(answers(&mut *other).groups, answers(&mut *store).groups);
    assert_eq!(summed(&mut *other), [90; 3]);
    assert_eq!(other.check().unwrap(), NOTHING_WRONG);
    assert_eq!(stored(&mut *other, &lan(1)).unwrap(), State::AlreadyStored);
    assert_eq!(stored(&mut *other, &lan(4)).unwrap(), State::Stored);

    // Where there is something already, nothing is doubled.
    let restored = store.restore(&path).unwrap();
    assert_eq!((restored.epochs, restored.known), (0, 3));
    assert_eq!(summed(&mut *store), [90; 3]);
}

/// A backup, two of whose three epochs have sums alone.
fn backup_of_sums<D: Database>(path: &Path) {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    assert_eq!(pruned(&mut *store, NOON_NS + 2 * HOUR_NS), (2, 4));
    // Some by remote address in their table, some in a part.
    store.back_up(path).unwrap();
}

pub fn sums_without_records_come_into_a_store_that_has_collected_since<D: Database>() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    backup_of_sums::<D>(&path);
    let database = D::create();
    let mut store = database.open();
    // Of the same hour, day and month, and of another account.
    let mut fourth = lan(4);
    fourth.header.closed_ns -= HOUR_NS / 2;
    stored(&mut *store, &fourth).unwrap();
    let dmz = SnapshotBuilder::new("dmz", 1, vec![record(7, 9, 1, 0, 5)]);
    stored(&mut *store, &dmz).unwrap();
    for (epochs, known) in [(3, 0), (0, 3)] {
        let restored = store.restore(&path).unwrap();
        assert_eq!((restored.epochs, restored.known), (epochs, known));
        assert_eq!(summed(&mut *store), [125; 3]);
        assert_eq!(recorded(&mut *store), (3, 65));
        assert_eq!(store.check().unwrap(), NOTHING_WRONG);
    }
    assert_eq!(stored(&mut *store, &lan(1)).unwrap(), State::AlreadyStored);
    assert_eq!(stored(&mut *store, &lan(5)).unwrap(), State::Stored);
    assert_eq!(summed(&mut *store), [155; 3]);
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
}

pub fn sums_that_cannot_be_told_apart_are_refused_with_what_works<D: Database>() {
    let folder = tempfile::tempdir().unwrap();
    let [path, now] = ["backup", "now"].map(|name| folder.path().join(name));
    backup_of_sums::<D>(&path);
    let database = D::create();
    let mut store = database.open();
    for epoch in 3..=4 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let before = exported(&mut *store, Form::Restorable);
    let error = store.restore(&path).unwrap_err();
    assert!(
        matches!(error, StoreError::Entangled { epochs: 2, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("NOW.db"), "{error}");
    assert_eq!(exported(&mut *store, Form::Restorable), before);
    assert_eq!(summed(&mut *store), [60; 3]);

    // As the error says.
    store.back_up(&now).unwrap();
    let another = D::create();
    let mut another = another.open();
    another.restore(&path).unwrap();
    let restored = another.restore(&now).unwrap();
    assert_eq!((restored.epochs, restored.known), (1, 1));
    assert_eq!(summed(&mut *another), [120; 3]);
    assert_eq!(recorded(&mut *another), (2, 60));
    assert_eq!(another.check().unwrap(), NOTHING_WRONG);
}
