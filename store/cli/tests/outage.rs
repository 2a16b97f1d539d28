// SPDX-License-Identifier: GPL-2.0-or-later
//! Outages: the database away, the spool full, the collector killed between the two.
//! Nothing is lost, nothing counted twice.

#[path = "../../tests/common/mod.rs"]
mod common;
mod program;

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Output;

use common::{HOUR_NS, SnapshotBuilder, lan, record};
use program::{Host, Tmpfs, code, fastrand_like, program, sent_packets, stderr, stdout, waiting};
use proptest::prelude::*;
use rusqlite::Connection;

/// What one epoch of [`lan`] counts.
const SENT_PACKETS: u64 = 30;

/// Nothing is lost, but epochs wait in the spool.
const SPOOLED: Option<i32> = Some(3);

/// The database was made by a later release, which only this program's upgrade mends.
fn take_away(db: &Path) {
    set_version(db, 1 << 30);
}

fn set_version(db: &Path, version: i64) -> i64 {
    let connection = Connection::open(db).unwrap();
    let before = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    connection
        .pragma_update(None, "user_version", version)
        .unwrap();
    before
}

fn collect(host: &Host, epoch: u64) -> Output {
    host.proc.serve(&[("lan", &lan(epoch))]);
    host.run(&["--format", "csv"])
}

fn assert_acknowledged(host: &Host, epoch: u64) {
    assert_eq!(
        host.proc.commands("lan", &lan(epoch)),
        format!("ack {epoch}\n")
    );
}

/// A host whose database has epoch 1.
fn host() -> Host {
    let host = Host::new();
    assert_eq!(code(&collect(&host, 1)), Some(0));
    assert!(!host.spool().exists(), "no spool without need");
    host
}

#[test]
fn epochs_of_an_outage_are_stored_when_it_is_over() {
    let host = host();
    let version = set_version(&host.db(), 1 << 30);
    for epoch in 2..=4 {
        let output = collect(&host, epoch);
        assert_eq!(code(&output), SPOOLED, "{}", stderr(&output));
        assert!(stdout(&output).ends_with(",spooled\n"));
        assert!(stderr(&output).contains("upgrade trafstat"));
        assert!(stderr(&output).contains(&format!("{} epochs wait", epoch - 1)));
        assert_acknowledged(&host, epoch);
    }
    set_version(&host.db(), version);
    let output = collect(&host, 5);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("3 epochs that waited in the spool are stored"));
    assert_eq!(host.sent_packets(), 5 * SENT_PACKETS);
    assert_eq!(waiting(&host), 0);
}

#[test]
fn later_fields_of_the_header_come_through_an_outage() {
    let host = host();
    let version = set_version(&host.db(), 1 << 30);
    // A spool of an earlier release has what the kernel served, too.
    for snapshot in [lan(2).sampled(10), lan(3).with_header_size(240)] {
        host.proc.serve(&[("lan", &snapshot)]);
        assert_eq!(code(&host.run(&[])), SPOOLED);
    }
    set_version(&host.db(), version);
    assert_eq!(code(&collect(&host, 4)), Some(0));
    let connection = Connection::open(host.db()).unwrap();
    let mut select = connection
        .prepare("SELECT duration_ns, tcp_any_highest_rate FROM snapshot ORDER BY epoch")
        .unwrap();
    let stored: Vec<(Option<i64>, Option<i64>)> = select
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let hour = Some(HOUR_NS as i64);
    assert_eq!(
        stored,
        [
            (hour, Some(0)),
            (hour, Some(10)),
            (None, None),
            (hour, Some(0))
        ]
    );
}

#[test]
fn spooled_epoch_served_again_is_kept_once() {
    let host = host();
    let version = set_version(&host.db(), 1 << 30);
    for _ in 0..2 {
        assert_eq!(code(&collect(&host, 2)), SPOOLED);
        assert_acknowledged(&host, 2);
    }
    assert_eq!(waiting(&host), 1);
    set_version(&host.db(), version);
    assert_eq!(code(&collect(&host, 3)), Some(0));
    assert_eq!(host.sent_packets(), 3 * SENT_PACKETS);
}

/// Epoch 2 as a machine counts it that was set back, with its memory, to an earlier state.
fn counted_again() -> SnapshotBuilder {
    SnapshotBuilder::new("lan", 2, vec![record(1, 1, 6, 22, 99)])
}

#[test]
fn spooled_epoch_with_other_totals_is_kept_too_and_set_aside_in_the_end() {
    let host = host();
    let version = set_version(&host.db(), 1 << 30);
    assert_eq!(code(&collect(&host, 2)), SPOOLED);
    let other = counted_again();
    host.proc.serve(&[("lan", &other)]);
    let output = host.run(&[]);
    assert_eq!(code(&output), SPOOLED, "{}", stderr(&output));
    assert_eq!(host.proc.commands("lan", &other), "ack 2\n");
    assert_eq!(waiting(&host), 2);
    set_version(&host.db(), version);
    for epoch in 3..=5 {
        collect(&host, epoch);
    }
    assert_eq!(states(&host), ["refused"]);
    assert_eq!(host.sent_packets(), 5 * SENT_PACKETS);
}

#[test]
fn conflicting_epoch_does_not_keep_its_account_from_being_collected() {
    let host = host();
    assert_eq!(code(&collect(&host, 2)), Some(0));
    let other = counted_again();
    host.proc.serve(&[("lan", &other)]);
    let output = host.run(&["--format", "csv"]);
    assert_eq!(code(&output), Some(1));
    assert!(
        stdout(&output).ends_with(",spooled\n"),
        "{}",
        stdout(&output)
    );
    let error = stderr(&output);
    assert!(error.contains("stays in the spool: epoch 2"), "{error}");
    assert_eq!(host.proc.commands("lan", &other), "ack 2\n");

    // Those that follow are stored, while it is offered twice more.
    for epoch in 3..=4 {
        let output = collect(&host, epoch);
        assert!(
            stdout(&output).ends_with(",stored\n"),
            "{}",
            stderr(&output)
        );
        assert_acknowledged(&host, epoch);
    }
    assert_eq!(states(&host), ["refused"]);
    let output = collect(&host, 5);
    assert_eq!(code(&output), Some(0));
    assert!(
        stderr(&output).contains("1 epochs are set aside"),
        "{}",
        stderr(&output)
    );
    assert_eq!(host.sent_packets(), 5 * SENT_PACKETS);

    // Served once more, it is still the one that is set aside.
    host.proc.serve(&[("lan", &other)]);
    host.run(&[]);
    assert_eq!(host.proc.commands("lan", &other), "ack 2\n");
    assert_eq!(states(&host), ["refused"]);
}

#[test]
fn epoch_that_the_database_fails_at_is_set_aside_and_stored_when_that_is_mended() {
    let host = host();
    let database = Connection::open(host.db()).unwrap();
    database
        .execute_batch(
            "CREATE TRIGGER no_epoch_2 BEFORE INSERT ON snapshot WHEN NEW.epoch = 2
             BEGIN SELECT RAISE(ABORT, 'no epoch 2'); END",
        )
        .unwrap();
    for epoch in 2..=10 {
        let output = collect(&host, epoch);
        assert_eq!(code(&output), Some(1), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("no epoch 2"),
            "{}",
            stderr(&output)
        );
        assert_acknowledged(&host, epoch);
        assert_eq!(states(&host), ["waiting"]);
    }
    let output = collect(&host, 11);
    assert!(
        stderr(&output).contains("is set aside"),
        "{}",
        stderr(&output)
    );
    assert_eq!(states(&host), ["refused"]);
    assert_eq!(host.sent_packets(), 10 * SENT_PACKETS);

    database.execute_batch("DROP TRIGGER no_epoch_2").unwrap();
    assert_eq!(code(&collect(&host, 12)), Some(0));
    assert_eq!(states(&host), ["refused"]);
    assert_eq!(code(&host.run(&["spool", "retry", "1"])), Some(0));
    assert_eq!(code(&collect(&host, 13)), Some(0));
    assert_eq!(states(&host), [""; 0]);
    assert_eq!(host.sent_packets(), 13 * SENT_PACKETS);
}

#[test]
fn database_that_fails_at_every_epoch_sets_none_aside() {
    let host = host();
    let database = Connection::open(host.db()).unwrap();
    database
        .execute_batch(
            "CREATE TRIGGER none BEFORE INSERT ON snapshot
             BEGIN SELECT RAISE(ABORT, 'no epoch'); END",
        )
        .unwrap();
    for epoch in 2..=14 {
        collect(&host, epoch);
        assert_acknowledged(&host, epoch);
    }
    assert_eq!(states(&host), ["waiting"; 13]);
    database.execute_batch("DROP TRIGGER none").unwrap();
    assert_eq!(code(&collect(&host, 15)), Some(0));
    assert_eq!(host.sent_packets(), 15 * SENT_PACKETS);
}

#[test]
fn spool_of_an_earlier_release_is_taken_on() {
    let host = host();
    let version = set_version(&host.db(), 1 << 30);
    for epoch in 2..=3 {
        assert_eq!(code(&collect(&host, epoch)), SPOOLED);
    }
    Connection::open(host.spool())
        .unwrap()
        .execute_batch(
            "PRAGMA foreign_keys = OFF;
             CREATE TABLE old (
                 id INTEGER PRIMARY KEY AUTOINCREMENT, account_id BLOB NOT NULL,
                 epoch INTEGER NOT NULL, machine_id TEXT NOT NULL, hostname TEXT NOT NULL,
                 netns TEXT NOT NULL, header BLOB NOT NULL, spooled_ns INTEGER NOT NULL,
                 UNIQUE (account_id, epoch));
             INSERT INTO old SELECT id, account_id, epoch, machine_id, hostname, netns, header,
                 spooled_ns FROM epoch;
             DROP TABLE epoch;
             ALTER TABLE old RENAME TO epoch;
             PRAGMA user_version = 1;",
        )
        .unwrap();
    assert_eq!(code(&collect(&host, 4)), SPOOLED);
    assert_eq!(states(&host), ["waiting"; 3]);
    set_version(&host.db(), version);
    assert_eq!(code(&collect(&host, 5)), Some(0));
    assert_eq!(host.sent_packets(), 5 * SENT_PACKETS);
}

#[test]
fn snapshot_that_does_not_add_up_is_not_spooled() {
    let host = host();
    take_away(&host.db());
    let mut wrong = lan(2);
    wrong.records[0].sent_packets += 1;
    host.proc.serve(&[("lan", &wrong)]);
    assert_eq!(code(&host.run(&[])), Some(1));
    assert_eq!(host.proc.commands("lan", &wrong), "");
    assert_eq!(waiting(&host), 0);
}

#[test]
fn full_spool_leaves_the_epoch_with_the_kernel() {
    let host = host();
    let version = set_version(&host.db(), 1 << 30);
    // Random counters do not compress.
    let large = |epoch: u64| {
        let mut random = fastrand_like(epoch);
        let records = (0..4000)
            .map(|port| record(1, 1, 6, port, random() >> 40))
            .collect();
        SnapshotBuilder::new("lan", epoch, records)
    };
    let mut spooled = 0;
    let full = (2..).find(|&epoch| {
        host.proc.serve(&[("lan", &large(epoch))]);
        let output = host.run(&["--spool-size", "256KiB"]);
        if code(&output) == SPOOLED {
            spooled += 1;
            return false;
        }
        assert_eq!(code(&output), Some(1), "{}", stderr(&output));
        let error = stderr(&output);
        assert!(
            error.contains("it holds the 256.0 KiB that it may"),
            "{error}"
        );
        assert!(error.contains("stays at its source"), "{error}");
        assert_eq!(host.proc.commands("lan", &large(epoch)), "");
        true
    });
    assert!(spooled > 0);
    assert!(fs::metadata(host.spool()).unwrap().len() <= 256 * 1024);
    // Once there is room again, nothing is missing.
    set_version(&host.db(), version);
    let full = full.unwrap();
    host.proc.serve(&[("lan", &large(full))]);
    let output = host.run(&["--spool-size", "256KiB"]);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    let sum: u64 = (2..=full)
        .flat_map(|epoch| large(epoch).records)
        .map(|record| record.sent_packets)
        .sum();
    assert_eq!(host.sent_packets(), SENT_PACKETS + sum);
}

#[test]
fn damaged_spool_is_said_and_left_as_it_is() {
    let host = host();
    let version = set_version(&host.db(), 1 << 30);
    assert_eq!(code(&collect(&host, 2)), SPOOLED);
    let whole = fs::read(host.spool()).unwrap();
    // All but the first page.
    let file = fs::OpenOptions::new()
        .write(true)
        .open(host.spool())
        .unwrap();
    file.write_all_at(&vec![0x5a; whole.len() - 4096], 4096)
        .unwrap();
    let damaged = fs::read(host.spool()).unwrap();

    let output = collect(&host, 3);
    assert_eq!(code(&output), Some(1));
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("Move it away"),
        "{}",
        stderr(&output)
    );
    assert_eq!(host.proc.commands("lan", &lan(3)), "");
    assert_eq!(fs::read(host.spool()).unwrap(), damaged);

    // The database is back: what comes from the kernel is stored, the failure goes on
    // being said.
    set_version(&host.db(), version);
    let output = collect(&host, 3);
    assert_eq!(code(&output), Some(1));
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
    assert_eq!(host.sent_packets(), 2 * SENT_PACKETS);
    // Mended, it is forwarded.
    fs::write(host.spool(), whole).unwrap();
    assert_eq!(code(&collect(&host, 4)), Some(0));
    assert_eq!(host.sent_packets(), 4 * SENT_PACKETS);
}

#[test]
fn damaged_piece_is_refused_and_the_others_are_stored() {
    let host = host();
    let version = set_version(&host.db(), 1 << 30);
    for epoch in 2..=4 {
        assert_eq!(code(&collect(&host, epoch)), SPOOLED);
    }
    Connection::open(host.spool())
        .unwrap()
        .execute(
            "UPDATE piece SET content = zeroblob(LENGTH(content)) WHERE epoch_id = 2",
            [],
        )
        .unwrap();
    set_version(&host.db(), version);
    let output = collect(&host, 5);
    assert_eq!(code(&output), Some(1));
    let error = stderr(&output);
    assert!(error.contains("stays in the spool"), "{error}");
    assert_eq!(waiting(&host), 1);
    assert_eq!(host.sent_packets(), 4 * SENT_PACKETS);
}

#[test]
fn corrupt_database_is_an_outage() {
    let host = host();
    let whole = fs::read(host.db()).unwrap();
    let mut wrong = whole.clone();
    for byte in &mut wrong[4096..] {
        *byte = 0x5a;
    }
    fs::write(host.db(), wrong).unwrap();
    let output = collect(&host, 2);
    assert_eq!(code(&output), SPOOLED, "{}", stderr(&output));
    assert!(stderr(&output).contains("away"), "{}", stderr(&output));
    assert_acknowledged(&host, 2);
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", host.db().display()));
    }
    fs::write(host.db(), whole).unwrap();
    assert_eq!(code(&collect(&host, 3)), Some(0));
    assert_eq!(host.sent_packets(), 3 * SENT_PACKETS);
}

#[test]
fn database_locked_by_another_program_is_an_outage() {
    let host = host();
    let other = Connection::open(host.db()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let output = collect(&host, 2);
    assert_eq!(code(&output), SPOOLED, "{}", stderr(&output));
    assert!(stderr(&output).contains("locked"), "{}", stderr(&output));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(code(&collect(&host, 3)), Some(0));
    assert_eq!(host.sent_packets(), 3 * SENT_PACKETS);
}

#[test]
fn full_disk_of_the_database_is_an_outage() {
    let host = Host::new();
    let Some(disk) = Tmpfs::mount(host.db().parent().unwrap(), "2m") else {
        return;
    };
    assert_eq!(code(&collect(&host, 1)), Some(0));
    let filler = disk.0.join("filler");
    fs::write(&filler, vec![0; 4 << 20]).unwrap_err();
    let records = (0..20_000).map(|port| record(1, 1, 6, port, 1)).collect();
    let large = SnapshotBuilder::new("lan", 2, records);
    host.proc.serve(&[("lan", &large)]);
    let output = host.run(&[]);
    assert_eq!(code(&output), SPOOLED, "{}", stderr(&output));
    assert!(stderr(&output).contains("full"), "{}", stderr(&output));
    assert_eq!(host.proc.commands("lan", &large), "ack 2\n");

    fs::remove_file(filler).unwrap();
    disk.remount("size=64m");
    let output = collect(&host, 3);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert_eq!(host.sent_packets(), 2 * SENT_PACKETS + 20_000);
}

#[test]
fn read_only_disk_of_the_database_is_an_outage() {
    let host = Host::new();
    let Some(disk) = Tmpfs::mount(host.db().parent().unwrap(), "8m") else {
        return;
    };
    assert_eq!(code(&collect(&host, 1)), Some(0));
    disk.remount("ro");
    let output = collect(&host, 2);
    assert_eq!(code(&output), SPOOLED, "{}", stderr(&output));
    assert!(
        stderr(&output).to_lowercase().contains("read-only"),
        "{}",
        stderr(&output)
    );
    disk.remount("rw");
    assert_eq!(code(&collect(&host, 3)), Some(0));
    assert_eq!(host.sent_packets(), 3 * SENT_PACKETS);
}

#[test]
fn full_disk_of_the_spool_leaves_the_epoch_with_the_kernel() {
    let host = host();
    take_away(&host.db());
    let Some(disk) = Tmpfs::mount(&host.folder.path().join("spool"), "1m") else {
        return;
    };
    let spool = disk.0.join("spool.db");
    let run = |epoch| {
        host.proc.serve(&[("lan", &lan(epoch))]);
        program()
            .arg("--db")
            .arg(host.db())
            .arg("--spool")
            .arg(&spool)
            .arg("--proc-root")
            .arg(host.proc.path())
            .output()
            .unwrap()
    };
    assert_eq!(code(&run(2)), SPOOLED);
    let _ = fs::write(disk.0.join("filler"), vec![0; 2 << 20]);
    let output = run(3);
    assert_eq!(code(&output), Some(1));
    let error = stderr(&output);
    assert!(error.contains("the disk of the spool"), "{error}");
    assert_eq!(host.proc.commands("lan", &lan(3)), "");
}

/// The states of what is in the spool, in the order in which it came.
fn states(host: &Host) -> Vec<String> {
    Connection::open(host.spool())
        .unwrap()
        .prepare("SELECT state FROM epoch ORDER BY id")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

/// Something that happens to a host, or to its collector.
#[derive(Debug, Clone)]
enum Event {
    /// The database goes away.
    Away,
    /// The database is back.
    Back,
    /// The collector runs to its end.
    Collect,
    /// The collector is killed at a point, if it comes by there.
    Kill(&'static str),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Away),
        Just(Event::Back),
        Just(Event::Collect),
        prop::sample::select(vec![
            "before-commit",
            "before-spool-commit",
            "before-unspool",
            "before-ack",
            "after-ack",
        ])
        .prop_map(Event::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_epoch_is_counted_once(
        events in prop::collection::vec(any_event(), 1..12)
    ) {
        let host = host();
        let version = set_version(&host.db(), 1 << 30);
        set_version(&host.db(), version);
        // The kernel's open epoch; it closes the next when this one is acknowledged.
        let mut epoch = 2;
        for event in events {
            match event {
                Event::Away => {
                    take_away(&host.db());
                }
                Event::Back => {
                    set_version(&host.db(), version);
                }
                Event::Collect | Event::Kill(_) => {
                    host.proc.serve(&[("lan", &lan(epoch))]);
                    let mut command = host.command();
                    if let Event::Kill(point) = event {
                        command.env("TRAFSTAT_STORE_KILL_AT", point);
                    }
                    let output = command.output().unwrap();
                    if output.status.signal().is_none() {
                        prop_assert!(matches!(code(&output), Some(0 | 3)), "{}", stderr(&output));
                    }
                    epoch += u64::from(!host.proc.commands("lan", &lan(epoch)).is_empty());
                }
            }
        }
        set_version(&host.db(), version);
        prop_assert_eq!(code(&collect(&host, epoch)), Some(0));
        prop_assert_eq!(sent_packets(&host.db()), epoch * SENT_PACKETS);
        if host.spool().exists() {
            prop_assert_eq!(waiting(&host), 0);
        }
    }
}
