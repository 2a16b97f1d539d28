// SPDX-License-Identifier: GPL-2.0-or-later
//! What appending promises: all or nothing, once, and kept apart.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use trafstat_abi::SnapshotHeader;
use trafstat_store::collect::{CollectError, State, append};
use trafstat_store::export::Form;
use trafstat_store::query::{Field, Value};
use trafstat_store::snapshot::{Counters, Snapshot, SnapshotError};
use trafstat_store::store::{Archive, ArchiveForm, Begun, Grown, Retention, Store, StoreError};

use crate::common::{HOUR_NS, NOON_NS, SnapshotBuilder, record};
use crate::databases::Database;
use crate::support::{
    NOTHING_WRONG, by, decoded, exported, lan, origin, pruned_but_newest, stored, time, total,
};

pub fn empty_store_has_nothing_to_show<D: Database>() {
    let answer = D::create().open().query(&by(&[Field::LocalIp])).unwrap();
    assert_eq!(answer.groups, []);
    assert_eq!((answer.group_count, answer.epochs), (0, 0));
    assert_eq!(answer.total, Counters::default());
}

pub fn stored_snapshot_is_not_stored_again<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let snapshot = lan(1);
    assert_eq!(stored(&mut *store, &snapshot).unwrap(), State::Stored);
    let before = total(&mut *store);
    assert_eq!(
        stored(&mut *store, &snapshot).unwrap(),
        State::AlreadyStored
    );
    assert_eq!(total(&mut *store), before);
    assert_eq!(before.sent_packets, 30);
}

pub fn same_identity_with_other_totals_is_refused<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    let before = total(&mut *store);

    let mut other = lan(1);
    other.records[0].syn_packets += 1;
    other.header.closed_ns += 1;
    let error = stored(&mut *store, &other).unwrap_err().to_string();
    assert!(error.contains("epoch 1 of account lan (ipv4)"), "{error}");
    assert!(error.contains("closed_ns"), "{error}");

    let other = SnapshotBuilder::new("lan", 1, vec![record(1, 1, 6, 22, 11)]);
    let error = stored(&mut *store, &other).unwrap_err();
    assert!(
        matches!(
            error,
            CollectError::Store(StoreError::Conflict {
                epoch: 1,
                stored: 2,
                offered: 1,
                ..
            })
        ),
        "{error}"
    );
    assert_eq!(total(&mut *store), before);
}

pub fn later_fields_are_compared_where_both_know_them<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let known = |epoch| lan(epoch).sampled(10);
    let unknown = |epoch| lan(epoch).with_header_size(240);
    stored(&mut *store, &known(1)).unwrap();
    stored(&mut *store, &unknown(2)).unwrap();
    for snapshot in [known(1), unknown(1), known(2), unknown(2)] {
        assert_eq!(
            stored(&mut *store, &snapshot).unwrap(),
            State::AlreadyStored
        );
    }
    for (spoil, expected) in [
        (
            (|header| header.duration_ns += 1) as fn(&mut SnapshotHeader),
            "duration_ns",
        ),
        (|header| header.unattributed_bytes = 1, "unattributed_bytes"),
        (
            |header| header.sample[2].byte_variance = [0, 1],
            "udp_any_byte_variance",
        ),
    ] {
        let mut other = known(1);
        spoil(&mut other.header);
        let error = stored(&mut *store, &other).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

pub fn later_fields_go_wherever_the_epoch_goes<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let mut wide = lan(1).sampled(100);
    wide.header.sample[1].highest_rate = u32::MAX;
    // Past what 64 bits and a double hold.
    wide.header.sample[0].byte_variance = [u64::MAX, 77];
    wide.header.unattributed_packets = 3;
    for snapshot in [
        wide,
        lan(2).sampled(10),
        lan(3).with_header_size(240),
        lan(4),
    ] {
        stored(&mut *store, &snapshot).unwrap();
    }
    let text = exported(&mut *store, Form::Restorable);
    assert!(text.contains(",4294967295,"), "{text}");
    let same = |store: &mut dyn Store| assert_eq!(exported(store, Form::Restorable), text);

    let folder = tempfile::tempdir().unwrap();
    let [csv, backup] = ["export", "backup"].map(|name| folder.path().join(name));
    std::fs::write(&csv, &text).unwrap();
    store.back_up(&backup).unwrap();
    for file in [&csv, &backup] {
        // Into an empty store, and into one that has an epoch.
        for there in [0, 1] {
            let other = D::create();
            let mut other = other.open();
            for _ in 0..there {
                stored(&mut *other, &lan(2).sampled(10)).unwrap();
            }
            other.restore(file).unwrap();
            same(&mut *other);
        }
    }
    for form in [ArchiveForm::Sqlite, ArchiveForm::Csv] {
        let retention = Retention {
            records_before: Some(time(NOON_NS + 3 * HOUR_NS)),
            even_most: true,
            ..Retention::default()
        };
        let archive = Archive {
            folder: folder.path(),
            form,
        };
        let rotated = store.rotate(&retention, Some(archive)).unwrap();
        let other = D::create();
        let mut other = other.open();
        // The newest stays, and is in no archive.
        stored(&mut *other, &lan(4)).unwrap();
        for file in &rotated.archives {
            store.restore(file).unwrap();
            other.restore(file).unwrap();
        }
        same(&mut *store);
        same(&mut *other);
    }
}

pub fn snapshot_that_does_not_add_up_leaves_nothing<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let mut wrong = lan(1);
    wrong.records[1].sent_packets += 1;
    let error = stored(&mut *store, &wrong).unwrap_err();
    assert!(
        matches!(
            error,
            CollectError::Snapshot(SnapshotError::Recorded { .. })
        ),
        "{error}"
    );
    assert_eq!(total(&mut *store), Counters::default());
    // Its identity is free still: the right snapshot is stored.
    assert_eq!(stored(&mut *store, &lan(1)).unwrap(), State::Stored);
}

pub fn transaction_dropped_leaves_nothing<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let (header, records) = decoded(&lan(1));
    let Begun::New(mut transaction) = store.begin(&origin(), &header).unwrap() else {
        panic!("an empty store has no snapshot");
    };
    transaction.write(&records).unwrap();
    drop(transaction);
    assert_eq!(total(&mut *store), Counters::default());
    assert_eq!(stored(&mut *store, &lan(1)).unwrap(), State::Stored);
}

pub fn accounts_do_not_mix<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    stored(
        &mut *store,
        &SnapshotBuilder::new("dmz", 1, vec![record(1, 1, 6, 22, 5)]),
    )
    .unwrap();
    let mut of = |name: &str| {
        let mut query = by(&[Field::Protocol]);
        query.filter.accounts = vec![name.parse().unwrap()];
        store.query(&query).unwrap().total.sent_packets
    };
    assert_eq!((of("lan"), of("dmz"), of("wan")), (30, 5, 0));
    assert_eq!(total(&mut *store).sent_packets, 35);
}

pub fn renewed_account_of_one_name_counts_anew<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let before_reboot = lan(1);
    let mut after_reboot = lan(1);
    after_reboot.header.account_id[15] ^= 1;
    stored(&mut *store, &before_reboot).unwrap();
    assert_eq!(stored(&mut *store, &after_reboot).unwrap(), State::Stored);
    assert_eq!(total(&mut *store).sent_packets, 60);
}

pub fn epochs_of_one_account_add_up<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let answer = store.query(&by(&[Field::LocalIp])).unwrap();
    assert_eq!(answer.epochs, 3);
    assert_eq!(answer.total.received_bytes, 3 * 45_000);
    assert_eq!(
        answer
            .groups
            .iter()
            .map(|group| (group.key[0].to_string(), group.counters.sent_packets))
            .collect::<Vec<_>>(),
        [("192.0.2.2".to_owned(), 60), ("192.0.2.1".to_owned(), 30)]
    );
}

pub fn records_of_one_flow_are_both_kept<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let twice = vec![record(1, 1, 6, 22, 10), record(1, 1, 6, 22, 7)];
    stored(&mut *store, &SnapshotBuilder::new("lan", 1, twice)).unwrap();
    let answer = store.query(&by(&[Field::LocalPort])).unwrap();
    assert_eq!(answer.groups.len(), 1);
    assert_eq!(answer.total.sent_packets, 17);
    assert_eq!(answer.total.received_bytes, 17 * 1500);
}

pub fn counter_past_63_bits_is_refused<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let mut huge = record(1, 1, 6, 22, 0);
    huge.sent_bytes = 1 << 63;
    let error = stored(&mut *store, &SnapshotBuilder::new("lan", 1, vec![huge])).unwrap_err();
    assert!(
        matches!(error, CollectError::Store(StoreError::OutOfRange { .. })),
        "{error}"
    );
    assert_eq!(total(&mut *store), Counters::default());
}

pub fn account_whose_sums_would_pass_63_bits_takes_no_more<D: Database>() {
    let epoch = |epoch, quarters: u64| {
        let mut huge = record(1, 1, 6, 22, 1);
        huge.sent_bytes = quarters << 61;
        SnapshotBuilder::new("lan", epoch, vec![huge])
    };
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &epoch(1, 1)).unwrap();
    stored(&mut *store, &epoch(2, 2)).unwrap();
    let before = total(&mut *store);
    let error = stored(&mut *store, &epoch(3, 1)).unwrap_err();
    assert!(
        matches!(
            error,
            CollectError::Store(StoreError::TooMuch { what: "bytes", .. })
        ),
        "{error}"
    );
    // What pruning deletes stays a part of the sums.
    pruned_but_newest(&mut *store);
    stored(&mut *store, &epoch(3, 1)).unwrap_err();
    assert_eq!(total(&mut *store), before);
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
    // Another account counts for itself, but both together are past 63 bits.
    let mut other = epoch(1, 3);
    other.header.account_id = [7; 16];
    other.header.name[..3].copy_from_slice(&b"wan".map(|byte| byte as _));
    stored(&mut *store, &other).unwrap();
    let error = store.query(&by(&[Field::Protocol])).unwrap_err();
    assert!(matches!(error, StoreError::SumTooLarge), "{error}");
    let mut query = by(&[Field::LocalIp]);
    query.filter.accounts = vec!["lan".parse().unwrap()];
    assert_eq!(store.query(&query).unwrap().total, before);
}

pub fn sums_go_with_a_backup<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let mut huge = record(1, 1, 6, 22, 1);
    huge.sent_bytes = 3 << 61;
    stored(&mut *store, &SnapshotBuilder::new("lan", 1, vec![huge])).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    store.back_up(&backup).unwrap();
    let other = D::create();
    let mut other = other.open();
    other.restore(&backup).unwrap();
    for store in [&mut *store, &mut *other] {
        stored(store, &SnapshotBuilder::new("lan", 2, vec![huge])).unwrap_err();
    }
}

pub fn epoch_that_grew_adds_its_difference_once<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let epoch = |packets: [u64; 2], seconds: u64| {
        let [one, other] = packets;
        let records = vec![record(1, 1, 6, 22, one), record(2, 1, 17, 53, other)];
        let records = records.into_iter().filter(|record| record.sent_packets > 0);
        let mut snapshot = SnapshotBuilder::new("lan", 1, records.collect());
        snapshot.header.closed_ns = NOON_NS + seconds * 1_000_000_000;
        snapshot
    };
    let grow = |store: &mut dyn Store, snapshot: &SnapshotBuilder, is_last| {
        let (header, records) = decoded(snapshot);
        store.add_growth(&origin(), &header, &records, is_last)
    };
    stored(&mut *store, &epoch([10, 0], 10)).unwrap();
    let steps = [epoch([10, 5], 20), epoch([11, 5], 30)];
    for step in &steps {
        let Grown::Added(difference) = grow(&mut *store, step, true).unwrap() else {
            panic!("known at {}", step.header.closed_ns)
        };
        assert_eq!(difference.records, 1);
        assert_eq!(difference.totals.outside.packets, 0);
        assert_eq!(grow(&mut *store, step, true).unwrap(), Grown::Known);
    }
    assert_eq!(total(&mut *store).sent_packets, 16);
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
    // An earlier copy is known, unless more of it follows: then it is cut otherwise.
    assert_eq!(grow(&mut *store, &steps[0], true).unwrap(), Grown::Known);
    let error = grow(&mut *store, &steps[0], false).unwrap_err();
    assert!(matches!(error, StoreError::OtherEpochs { .. }), "{error}");
    // Neither less of a flow nor another flow in its place is growth.
    for packets in [[9, 8], [18, 0]] {
        let error = grow(&mut *store, &epoch(packets, 30), true).unwrap_err();
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    }
    // Nor is an epoch that another one followed.
    let mut next = lan(2);
    next.header.opened_ns = NOON_NS + 40_000_000_000;
    stored(&mut *store, &next).unwrap();
    assert_eq!(grow(&mut *store, &steps[1], true).unwrap(), Grown::Known);
    let error = grow(&mut *store, &epoch([12, 5], 35), true).unwrap_err();
    assert!(matches!(error, StoreError::OtherEpochs { .. }), "{error}");
    assert_eq!(total(&mut *store).sent_packets, 46);
}

pub fn epoch_belongs_to_the_time_in_which_it_was_counted<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let mut epochs = |since: Option<u64>, until: Option<u64>| {
        let mut query = by(&[Field::Protocol]);
        query.filter.since = since.map(time);
        query.filter.until = until.map(time);
        let answer = store.query(&query).unwrap();
        assert_eq!(answer.total.sent_packets, 30 * answer.epochs);
        answer.epochs
    };
    // The middle of it, though it closes at the full hour.
    let counted = |epoch: u64| NOON_NS + epoch * HOUR_NS - HOUR_NS / 2;
    assert_eq!(epochs(None, None), 3);
    assert_eq!(epochs(Some(counted(2)), None), 2);
    assert_eq!(epochs(Some(counted(2) + 1), None), 1);
    assert_eq!(epochs(None, Some(counted(2))), 1);
    assert_eq!(epochs(Some(counted(2)), Some(counted(2) + 1)), 1);
    assert_eq!(epochs(Some(counted(4)), None), 0);
    for epoch in 1..=3 {
        let closed = NOON_NS + epoch * HOUR_NS;
        assert_eq!(epochs(Some(closed - HOUR_NS), Some(closed)), 1);
    }
}

pub fn store_opened_again_has_everything<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    let before = total(&mut *store);
    drop(store);
    let mut store = database.open();
    assert_eq!(total(&mut *store), before);
    assert_eq!(stored(&mut *store, &lan(1)).unwrap(), State::AlreadyStored);
}

pub fn migrating_twice_changes_nothing<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    let before = total(&mut *store);
    store.migrate().unwrap();
    assert_eq!(total(&mut *store), before);
}

pub fn stores_created_at_once_are_one<D: Database>() {
    let database = D::create();
    let location = database.location();
    std::thread::scope(|scope| {
        for epoch in 1..=8 {
            let location = &location;
            scope.spawn(move || stored(&mut *D::at(location), &lan(epoch)).unwrap());
        }
    });
    assert_eq!(total(&mut *database.open()).sent_packets, 8 * 30);
}

pub fn hosts_do_not_mix<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for number in 1..=3 {
        let mut origin = origin();
        origin.machine_id = format!("{number:032}");
        // The same account identity and epoch, on another host.
        let bytes = lan(1).bytes();
        let state = append(
            &mut *store,
            &origin,
            &mut Snapshot::open(&bytes[..]).unwrap(),
        );
        assert_eq!(state.unwrap(), State::Stored);
    }
    assert_eq!(total(&mut *store).sent_packets, 90);
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
}

pub fn addresses_of_any_bytes_are_stored<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let mut records = Vec::new();
    for byte in 0..=255 {
        let mut record = record(1, 1, 6, 22, 1);
        record.remote_ip = [byte, b'\t', byte, b'\\'];
        record.local_ip = [0, byte, b'\n', byte];
        records.push(record);
    }
    stored(&mut *store, &SnapshotBuilder::new("lan", 1, records)).unwrap();
    let answer = store
        .query(&by(&[Field::LocalIp, Field::RemoteIp]))
        .unwrap();
    let found: Vec<[IpAddr; 2]> = answer
        .groups
        .iter()
        .map(|group| match group.key[..] {
            [Value::Ip(local), Value::Ip(remote)] => [local, remote],
            _ => panic!("{group:?}"),
        })
        .collect();
    let expected: Vec<[IpAddr; 2]> = (0..=255)
        .map(|byte| {
            [
                IpAddr::from([0, byte, b'\n', byte]),
                IpAddr::from([byte, b'\t', byte, b'\\']),
            ]
        })
        .collect();
    assert_eq!(found, expected);
}

/// How the parent tells the child, which runs the same test, what it is to do.
pub const CHILD: &str = "TRAFSTAT_CONTRACT_DATABASE";

pub fn process_killed_within_a_transaction_leaves_nothing<D: Database>(test: &str) {
    if let Ok(location) = std::env::var(CHILD) {
        let mut store = D::at(&location);
        let (header, records) = decoded(&lan(2));
        let Begun::New(mut transaction) = store.begin(&origin(), &header).unwrap() else {
            panic!("epoch 2 is stored already");
        };
        transaction.write(&records).unwrap();
        println!("\nwritten");
        std::io::stdout().flush().unwrap();
        // Ends with the parent at the latest.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        panic!("the parent did not kill this process");
    }

    let database = D::create();
    stored(&mut *database.open(), &lan(1)).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--include-ignored", "--nocapture"])
        .env(CHILD, database.location())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let written = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .any(|line| line.unwrap() == "written");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(written);

    let mut store = database.open();
    assert_eq!(total(&mut *store).sent_packets, 30);
    assert_eq!(stored(&mut *store, &lan(2)).unwrap(), State::Stored);
    assert_eq!(total(&mut *store).sent_packets, 60);
}
