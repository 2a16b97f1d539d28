// SPDX-License-Identifier: GPL-2.0-or-later
//! What pruning, rotating and archiving delete, and what stays.

use std::path::PathBuf;

use trafstat_store::backend::Sqlite;
use trafstat_store::collect::{State, append};
use trafstat_store::export::Form;
use trafstat_store::query::{Field, Order, SumPeriod};
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::{Archive, ArchiveForm, Retention, Store, StoreError};

use crate::common::{HOUR_NS, NOON_NS};
use crate::databases::Database;
use crate::support::{
    MINUTE_NS, NOTHING_WRONG, answers, by, exported, lan, many_addresses, origin, pruned, recorded,
    stored, summed, time,
};

pub fn pruned_records_are_gone_and_their_sums_stay<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let cut = NOON_NS + 2 * HOUR_NS;
    assert_eq!(pruned(&mut *store, cut), (2, 4));
    assert_eq!(pruned(&mut *store, cut), (0, 0));
    assert_eq!(recorded(&mut *store), (1, 30));
    assert_eq!(summed(&mut *store), [90; 3]);
    assert_eq!(stored(&mut *store, &lan(4)).unwrap(), State::Stored);
    assert_eq!(recorded(&mut *store), (2, 60));
    assert_eq!(summed(&mut *store), [120; 3]);
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
}

pub fn pruned_epoch_served_again_is_not_counted<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=3 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    assert_eq!(pruned(&mut *store, NOON_NS + 2 * HOUR_NS), (2, 4));
    for epoch in 1..=2 {
        assert_eq!(
            stored(&mut *store, &lan(epoch)).unwrap(),
            State::AlreadyStored
        );
    }
    assert_eq!(recorded(&mut *store), (1, 30));
    assert_eq!(summed(&mut *store), [90; 3]);
}

pub fn sums_are_deleted_by_level<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    // From 12:00 to 15:00 on 31 January, and before noon on 2 February.
    for epoch in [1, 2, 3, 48] {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let february = time(NOON_NS + 12 * HOUR_NS);
    let mut retention = Retention {
        records_before: Some(february),
        quarterly_before: Some(february),
        hourly_before: Some(february),
        even_most: true,
        ..Retention::default()
    };
    let rotated = store.rotate(&retention, None).unwrap();
    // Two local addresses, two services, and two of both, twice, in three hours.
    assert_eq!((rotated.records, rotated.sums), (6, 24));
    assert_eq!(summed(&mut *store), [120; 3]);

    retention.daily_before = Some(february);
    store.rotate(&retention, None).unwrap();
    assert_eq!(summed(&mut *store), [30, 30, 120]);
    retention.monthly_before = Some(february);
    store.rotate(&retention, None).unwrap();
    assert_eq!(summed(&mut *store), [30; 3]);
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
}

/// A cut-off by a clock that is years ahead, and one that takes most, change nothing.
pub fn no_clock_deletes_what_is_young<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    assert_eq!(store.retention_time().unwrap(), None);
    for epoch in 1..=5 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let newest = NOON_NS + 9 * HOUR_NS / 2;
    assert_eq!(store.retention_time().unwrap(), Some(time(newest)));
    let everything = summed(&mut *store);
    let levels: [fn(&mut Retention) -> &mut Option<jiff::Timestamp>; 5] = [
        |retention| &mut retention.records_before,
        |retention| &mut retention.quarterly_before,
        |retention| &mut retention.hourly_before,
        |retention| &mut retention.daily_before,
        |retention| &mut retention.monthly_before,
    ];
    let year_2098: jiff::Timestamp = "2098-01-01T00:00:00Z".parse().unwrap();
    for level in levels {
        for even_most in [false, true] {
            for (before, expected) in [
                (year_2098, "is in the future"),
                (
                    time(newest + 1),
                    "the newest epoch counts at 2026-01-31T16:30:00Z",
                ),
            ] {
                let mut retention = Retention {
                    even_most,
                    ..Retention::default()
                };
                *level(&mut retention) = Some(before);
                let error = store.rotate(&retention, None).unwrap_err().to_string();
                assert!(error.contains(expected), "{error}");
            }
        }
    }
    let retention = Retention {
        records_before: Some(time(NOON_NS + 3 * HOUR_NS)),
        hourly_before: Some(time(NOON_NS + 4 * HOUR_NS)),
        ..Retention::default()
    };
    let error = store.rotate(&retention, None).unwrap_err().to_string();
    assert!(
        error.contains(
            "the records of 3 of 5 epochs, the hourly sums of 4 of 5 epochs, more than half"
        ),
        "{error}"
    );
    assert!(error.contains("--force"), "{error}");
    assert_eq!(recorded(&mut *store), (5, 150));
    assert_eq!(summed(&mut *store), everything);
    assert_eq!(database.run("SELECT * FROM kept").len(), 0);
    // Half of it is no more than half.
    let half = store.prune(time(NOON_NS + 2 * HOUR_NS)).unwrap();
    assert_eq!(half.epochs, 2);
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
}

/// An epoch by a clock that was years ahead for a moment lets nothing be deleted.
pub fn epoch_of_a_wrong_clock_is_no_time_to_count_from<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in [1, 2, 1_000_000] {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let now = store.retention_time().unwrap().unwrap();
    assert!(now < time(NOON_NS + 900_000 * HOUR_NS), "{now}");
    let error = store.prune(time(NOON_NS + 900_000 * HOUR_NS)).unwrap_err();
    assert!(error.to_string().contains("is in the future"), "{error}");
}

pub fn what_one_transaction_may_not_delete_is_deleted_by_several<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let count = |table: &str| database.run(&format!("SELECT COUNT(*) FROM {table}"));
    // On 31 January; the last two count in February.
    stored(&mut *store, &many_addresses(1)).unwrap();
    let mut other = many_addresses(2);
    for record in &mut other.records {
        record.remote_ip[0] = 1;
    }
    stored(&mut *store, &other).unwrap();
    for epoch in [13, 14] {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    // January's parts are added to their table.
    assert_eq!(count("remote_monthly"), [["140000"]]);
    assert_eq!(summed(&mut *store), [280_060; 3]);

    let february = time(NOON_NS + 12 * HOUR_NS);
    let retention = Retention {
        records_before: Some(february),
        quarterly_before: Some(february),
        hourly_before: Some(february),
        daily_before: Some(february),
        monthly_before: Some(february),
        even_most: true,
    };
    let rotated = store.rotate(&retention, None).unwrap();
    assert_eq!((rotated.epochs, rotated.records), (2, 280_000));
    // By remote address, by local one in two hours and a day, by service as well, and by both, in
    // two quarters too.
    assert_eq!(rotated.sums, 140_000 + 3 * 70_000 + 3 + 5 * 70_000);
    for (table, rows) in [("record", "4"), ("record_deletion", "0")] {
        assert_eq!(count(table), [[rows]], "{table}");
    }
    assert_eq!(recorded(&mut *store), (2, 60));
    assert_eq!(summed(&mut *store), [60; 3]);
    assert_eq!(store.check().unwrap(), NOTHING_WRONG);
}

pub fn day_whose_hours_are_gone_is_never_widened<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in [1, 2, 3, 48] {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let february = time(NOON_NS + 12 * HOUR_NS);
    let retention = Retention {
        records_before: Some(february),
        quarterly_before: Some(february),
        hourly_before: Some(february),
        even_most: true,
        ..Retention::default()
    };
    store.rotate(&retention, None).unwrap();
    let midnight = NOON_NS - 12 * HOUR_NS;
    let day = |hour: u64| time(midnight + hour * HOUR_NS);
    let mut ask = |since: u64, until: u64| {
        let mut query = by(&[Field::LocalIp]);
        query.filter.since = Some(day(since));
        query.filter.until = Some(day(until));
        let answer = store.query(&query).unwrap();
        let coarse = answer.inexact.map(|inexact| {
            assert_eq!((inexact.missing, inexact.closed_until), (None, None));
            let coarse = inexact.coarse.unwrap();
            assert_eq!(coarse.period, SumPeriod::Day);
            (coarse.first, coarse.last)
        });
        (answer.total.sent_packets, coarse)
    };
    // What is a whole day is exact, whichever level tells it.
    assert_eq!(ask(0, 24), (90, None));
    assert_eq!(ask(0, 72), (120, None));
    // A day counts for the time that has its middle, and for no other.
    assert_eq!(ask(0, 13), (90, Some((day(13), day(13)))));
    assert_eq!(ask(13, 24), (0, Some((day(13), day(13)))));
    // Nothing was counted in the part of the day that is on the wrong side.
    assert_eq!(ask(11, 13), (90, Some((day(13), day(13)))));
    assert_eq!(ask(0, 16), (90, None));
    // What has its hours and records still is exact.
    assert_eq!(ask(24, 60), (30, None));
    assert_eq!(ask(24, 59), (0, None));
    assert_eq!(ask(59, 60), (30, None));

    let mut hours = by(&[Field::Hour]);
    hours.order = Order::Fields;
    let answer = store.query(&hours).unwrap();
    assert_eq!(answer.total.sent_packets, 30);
    let missing = answer.inexact.unwrap().missing.unwrap();
    assert_eq!(missing.since, time(NOON_NS + HOUR_NS / 2));
    assert_eq!(missing.until, february);
    // Of another account nothing is missing.
    hours.filter.accounts = vec!["dmz".parse().unwrap()];
    assert_eq!(store.query(&hours).unwrap().inexact, None);
}

pub fn archived_records_come_back_once<D: Database>() {
    for form in [ArchiveForm::Sqlite, ArchiveForm::Csv] {
        let database = D::create();
        let folder = tempfile::tempdir().unwrap();
        // A name that means something to SQL and to shells.
        let folder = folder
            .path()
            .join("old'; DROP TABLE record; --\"`$(reboot)");
        let mut store = database.open();
        for epoch in 1..=3 {
            stored(&mut *store, &lan(epoch)).unwrap();
        }
        let everything = answers(&mut *store);
        let retention = Retention {
            records_before: Some(time(NOON_NS + 2 * HOUR_NS)),
            even_most: true,
            ..Retention::default()
        };
        let archive = Archive {
            folder: &folder,
            form,
        };
        let rotated = store.rotate(&retention, Some(archive)).unwrap();
        assert_eq!((rotated.epochs, rotated.records), (2, 4));
        let [file] = &rotated.archives[..] else {
            panic!("{:?}", rotated.archives);
        };
        assert_eq!(recorded(&mut *store), (1, 30));
        if form == ArchiveForm::Sqlite {
            // Such an archive is a database of its own.
            let mut alone = Sqlite::open_read_only(file).unwrap();
            assert_eq!(recorded(&mut alone), (2, 60));
            assert_eq!(summed(&mut alone), [60; 3]);
        }

        for (epochs, known) in [(2, 0), (0, 2)] {
            let restored = store.restore(file).unwrap();
            assert_eq!((restored.epochs, restored.known), (epochs, known));
            assert_eq!(answers(&mut *store).groups, everything.groups);
            assert_eq!(summed(&mut *store), [90; 3]);
        }
        assert_eq!(store.check().unwrap(), NOTHING_WRONG);

        // Into a store that never had them, they come with their sums.
        for there in [&[3][..], &[]] {
            let other = D::create();
            let mut other = other.open();
            for &epoch in there {
                stored(&mut *other, &lan(epoch)).unwrap();
            }
            assert_eq!(other.restore(file).unwrap().epochs, 2);
            let sent = 60 + 30 * there.len() as u64;
            assert_eq!(summed(&mut *other), [sent; 3]);
            assert_eq!(recorded(&mut *other).1, sent);
            assert_eq!(other.check().unwrap(), NOTHING_WRONG);
        }
    }
}

pub fn one_process_rotates_at_a_time<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for epoch in 1..=4 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let prune = |store: &mut dyn Store, hour| store.prune(time(NOON_NS + hour * HOUR_NS));
    let now = jiff::Timestamp::now().as_nanosecond() as i64;
    let hold = |until: i64| {
        database.run("DELETE FROM lease");
        database.run(&format!(
            "INSERT INTO lease (name, holder, until_ns)
             VALUES ('retention', 'machine 7 boot.1 east', {until})"
        ));
    };
    hold(now + 30 * MINUTE_NS as i64);
    let error = prune(&mut *store, 2).unwrap_err();
    assert!(
        matches!(&error, StoreError::InHand(host) if host == "east"),
        "{error}"
    );
    assert_eq!(recorded(&mut *store), (4, 120));
    // A host that died, and a clock that was set back.
    for (until, hour) in [(now - 1, 1), (now + 20 * HOUR_NS as i64, 2)] {
        hold(until);
        assert_eq!(prune(&mut *store, hour).unwrap().epochs, 1);
    }
    assert_eq!(prune(&mut *store, 2).unwrap().epochs, 0);
    assert_eq!(database.run("SELECT holder FROM lease"), [[""]]);
}

pub fn archives_of_two_databases_share_a_folder<D: Database>() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (form, ending) in [(ArchiveForm::Sqlite, "db"), (ArchiveForm::Csv, "csv.zst")] {
        // Two of them on hosts of one name, whose epochs closed at the same times.
        for (machine, hostname) in ["west", "east", "../ea st", "../ea st"]
            .into_iter()
            .enumerate()
        {
            let database = D::create();
            let mut store = database.open();
            for epoch in 1..=3 {
                let mut origin = origin();
                origin.machine_id = format!("{machine:032}");
                origin.hostname = hostname.to_owned();
                let bytes = lan(epoch).bytes();
                append(
                    &mut *store,
                    &origin,
                    &mut Snapshot::open(&bytes[..]).unwrap(),
                )
                .unwrap();
            }
            let retention = Retention {
                records_before: Some(time(NOON_NS + 2 * HOUR_NS)),
                even_most: true,
                ..Retention::default()
            };
            let archive = Archive {
                folder: folder.path(),
                form,
            };
            files.extend(store.rotate(&retention, Some(archive)).unwrap().archives);
        }
        let times = "20260131T130000Z-20260131T140000Z";
        let expected = ["west", "east", "___ea_st"].map(|host| format!("trafstat-{host}-{times}"));
        let mut expected: Vec<PathBuf> = expected
            .iter()
            .map(|name| folder.path().join(format!("{name}.{ending}")))
            .collect();
        expected.push(
            folder
                .path()
                .join(format!("trafstat-___ea_st-{times}-2.{ending}")),
        );
        assert_eq!(files, expected);
        let database = D::create();
        let mut all = database.open();
        for file in files.drain(..) {
            all.restore(&file).unwrap();
        }
        assert_eq!(recorded(&mut *all), (8, 240));
    }
}

pub fn archive_that_cannot_be_written_deletes_nothing<D: Database>() {
    let database = D::create();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut store = database.open();
    for epoch in 1..=2 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let retention = Retention {
        records_before: Some(time(NOON_NS + HOUR_NS)),
        ..Retention::default()
    };
    for form in [ArchiveForm::Sqlite, ArchiveForm::Csv] {
        let archive = Archive {
            folder: &file,
            form,
        };
        store.rotate(&retention, Some(archive)).unwrap_err();
        assert_eq!(recorded(&mut *store), (2, 60));
    }
    let archive = Archive {
        folder: folder.path(),
        form: ArchiveForm::Csv,
    };
    store.rotate(&retention, Some(archive)).unwrap();
    assert_eq!(recorded(&mut *store), (1, 30));
    // What is gone already leaves no empty archive.
    let rotated = store.rotate(&retention, Some(archive)).unwrap();
    assert_eq!(rotated.archives, [] as [PathBuf; 0]);
}

pub fn damaged_archive_adds_nothing_wrong<D: Database>() {
    let database = D::create();
    let folder = tempfile::tempdir().unwrap();
    let mut store = database.open();
    for epoch in 1..=2 {
        stored(&mut *store, &lan(epoch)).unwrap();
    }
    let text = exported(&mut *store, Form::Restorable);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 8);
    let last = lines.len() - 1;
    let without = |gone: usize| {
        let mut left = lines.clone();
        left.remove(gone);
        left.join("\n")
    };
    let changed = |line: usize, from: &str, to: &str| {
        let mut changed: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        assert!(changed[line].contains(from), "{}", changed[line]);
        changed[line] = changed[line].replacen(from, to, 1);
        changed.join("\n")
    };
    for (wrong, expected) in [
        (without(0), "is no file that"),
        (String::new(), "is no file that"),
        (without(last), "was cut off"),
        (without(last - 1), "has 1 records"),
        (without(4), "line 5: a record of another epoch"),
        (
            changed(5, "192.0.2.1", "192.0.2.x"),
            "line 6: local_ip cannot be",
        ),
        (
            changed(5, "198.51.100.1,0", "198.51.100.1,70000"),
            "remote_port cannot be",
        ),
        (changed(5, ",1000,", ",1001,"), "but should have"),
        (changed(5, "1000,15000", "1000,15000,1"), "line 6"),
        (changed(4, "lan", "l'an"), "account cannot be"),
        (
            text.replace(",94,48240,", ",95,48240,"),
            "packets do not add up",
        ),
    ] {
        let path = folder.path().join("wrong.csv");
        std::fs::write(&path, wrong).unwrap();
        let other = D::create();
        let mut other = other.open();
        let error = other.restore(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        // Whole epochs before the damage may be there, never a part of one.
        let whole: &[u64] = match expected {
            "was cut off" => &[60],
            _ => &[0, 30],
        };
        assert!(whole.contains(&recorded(&mut *other).1));
        assert_eq!(other.check().unwrap(), NOTHING_WRONG);
    }
}
