// SPDX-License-Identifier: GPL-2.0-or-later
//! `rotate` and `restore`: whatever happens in between, no record is lost or doubled.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/mariadb.rs"]
mod mariadb_server;
mod program;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use common::{HOUR_NS, SnapshotBuilder, lan, record};
use program::{Host, Tmpfs, code, mysql_url, program, stderr, stdout};

const FORMS: [&str; 2] = ["sqlite", "csv"];

/// How often a rotation is killed, at moments spread over the time that one takes.
const LIVES: u32 = 20;

/// A host that has collected these epochs of 30 packets each, and one more, which stays.
fn host(epochs: u64) -> Host {
    let host = Host::new();
    for epoch in 1..=epochs + 1 {
        host.proc.serve(&[("lan", &lan(epoch))]);
        assert_eq!(code(&host.run(&[])), Some(0));
    }
    host
}

fn archive(host: &Host) -> PathBuf {
    host.folder.path().join("archive")
}

/// Deletes the records of all epochs but the newest.
fn rotate(host: &Host, form: &str) -> Command {
    let mut command = host.command();
    command
        .args(["rotate", "--keep-records", "1s", "--force"])
        .args(["--archive-form", form])
        .arg("--archive")
        .arg(archive(host));
    command
}

fn files(host: &Host) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(archive(host))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// Restores what whole rotations wrote; beside it may lie what killed ones left.
fn restore_all(host: &Host) {
    let whole = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("trafstat-")
    };
    let output = host
        .command()
        .arg("restore")
        .args(files(host).into_iter().filter(whole))
        .output()
        .unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
}

fn assert_whole(host: &Host) {
    let output = host.run(&["check"]);
    assert_eq!(code(&output), Some(0), "{}", stdout(&output));
}

#[test]
fn killed_at_any_point_every_record_is_somewhere() {
    for form in FORMS {
        for (point, left) in [
            ("within-archive", 120),
            ("before-delete", 120),
            ("before-delete-commit", 120),
        ] {
            let host = host(3);
            let output = rotate(&host, form)
                .env("TRAFSTAT_STORE_KILL_AT", point)
                .output()
                .unwrap();
            assert_eq!(output.status.signal(), Some(9), "{}", stderr(&output));
            assert_eq!(host.sent_packets(), left, "{point}");
            assert_whole(&host);

            // The next one does it all; what was half-written does not stay.
            let output = rotate(&host, form).output().unwrap();
            assert_eq!(code(&output), Some(0), "{}", stderr(&output));
            assert_eq!(host.sent_packets(), 30);
            let whole = if point == "within-archive" { 1 } else { 2 };
            assert_eq!(files(&host).len(), whole, "{:?}", files(&host));
            assert_whole(&host);

            for _ in 0..2 {
                restore_all(&host);
                assert_eq!(host.sent_packets(), 120);
                assert_whole(&host);
            }
        }
    }
}

/// More records than one transaction deletes.
fn large(epoch: u64) -> SnapshotBuilder {
    let records =
        (0..120_000_u32).map(|number| record(1, (number >> 16) as u8, 6, number as u16, 1));
    SnapshotBuilder::new("lan", epoch, records.collect())
}

/// Deletes a large epoch's records, killed half way, then to the end; then they come back from
/// the archive.
fn kill_within_deletion(host: &Host, run: &dyn Fn(&[&str]) -> Command) {
    let succeed = |arguments: &[&str]| {
        let output = run(arguments).output().unwrap();
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let records = || succeed(&["export"]).lines().count() - 1;
    for snapshot in [large(1), lan(2), lan(3)] {
        host.proc.serve(&[("lan", &snapshot)]);
        succeed(&[]);
    }
    let folder = archive(host);
    let rotate = [
        "rotate",
        "--keep-records",
        "90m",
        "--archive",
        folder.to_str().unwrap(),
    ];
    let killed = run(&rotate)
        .env("TRAFSTAT_STORE_KILL_AT", "within-deletion")
        .output()
        .unwrap();
    assert_eq!(killed.status.signal(), Some(9), "{}", stderr(&killed));
    // An epoch has all of its records or none.
    assert_eq!(records(), 4);
    succeed(&["check"]);
    let files = files(host);
    for file in &files {
        succeed(&["restore", file.to_str().unwrap()]);
    }
    assert_eq!(records(), 120_004);
    succeed(&["check"]);
    succeed(&rotate);
    assert_eq!(records(), 4);
    succeed(&["check"]);
}

#[test]
fn large_epoch_killed_within_its_deletion_has_no_record_and_comes_back() {
    let host = Host::new();
    kill_within_deletion(&host, &|arguments| {
        let mut command = host.command();
        command.args(arguments);
        command
    });
    let connection = rusqlite::Connection::open(host.db()).unwrap();
    let left: i64 = connection
        .query_row("SELECT COUNT(*) FROM record", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 4);
}

#[test]
fn large_epoch_killed_within_its_deletion_comes_back_in_mariadb() {
    let socket = mariadb_server::socket();
    let host = Host::new();
    let database = mariadb_server::create_database(socket);
    kill_within_deletion(&host, &|arguments| {
        let mut command = program();
        command
            .args(["--url", &mysql_url(socket, &database, "root"), "--spool"])
            .arg(host.spool())
            .arg("--proc-root")
            .arg(host.proc.path())
            .args(arguments);
        command
    });
}

#[test]
fn restore_killed_among_the_sums_goes_on() {
    let from = Host::new();
    for snapshot in [large(1), lan(2), lan(3)] {
        from.proc.serve(&[("lan", &snapshot)]);
        assert_eq!(code(&from.run(&[])), Some(0));
    }
    let backup = from.folder.path().join("backup.db");
    let backup = backup.to_str().unwrap();
    for arguments in [&["prune", "--before", "90m"][..], &["backup", backup]] {
        let output = from.run(arguments);
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    }
    // A database that was begun anew meanwhile.
    let to = Host::new();
    to.proc.serve(&[("lan", &lan(4))]);
    assert_eq!(code(&to.run(&[])), Some(0));
    let killed = to
        .command()
        .args(["restore", backup])
        .env("TRAFSTAT_STORE_KILL_AT", "within-restore")
        .output()
        .unwrap();
    assert_eq!(killed.status.signal(), Some(9), "{}", stderr(&killed));
    let check = to.run(&["check"]);
    assert_eq!(code(&check), Some(1));
    let said = stdout(&check) + &stderr(&check);
    assert!(said.contains("not all restored yet"), "{said}");
    for _ in 0..2 {
        let output = to.run(&["restore", backup]);
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        assert_whole(&to);
    }
    for (level, lines) in [("local-day", 2), ("service-day", 65_536 + 1)] {
        let sums = stdout(&to.run(&["export", level]));
        assert_eq!(sums.lines().count() - 1, lines, "{level}");
    }
}

#[test]
fn killed_at_any_moment_every_record_is_somewhere() {
    for form in FORMS {
        let host = Host::new();
        let records = (0..5_000).map(|port| record(1, 1, 6, port, 1)).collect();
        let large = SnapshotBuilder::new("lan", 1, records);
        for snapshot in [&large, &lan(2)] {
            host.proc.serve(&[("lan", snapshot)]);
            assert_eq!(code(&host.run(&[])), Some(0));
        }
        let begin = Instant::now();
        assert_eq!(code(&rotate(&host, form).output().unwrap()), Some(0));
        let whole_life = begin.elapsed();
        restore_all(&host);
        let mut kills = 0;
        // Each life is a little longer than the one before.
        for step in 0..LIVES {
            let mut rotating = rotate(&host, form).stdout(Stdio::null()).spawn().unwrap();
            thread::sleep(whole_life * step / LIVES);
            rotating.kill().unwrap();
            kills += u32::from(rotating.wait().unwrap().signal() == Some(9));
            assert_whole(&host);
            // Deleted only where an archive has it.
            if host.sent_packets() == 30 {
                restore_all(&host);
            }
            assert_eq!(host.sent_packets(), 5_030);
        }
        assert!(kills > 3, "{kills} of {LIVES} were killed");
        restore_all(&host);
        assert_eq!(host.sent_packets(), 5_030);
        assert_whole(&host);
    }
}

#[test]
fn full_disk_of_the_archive_deletes_nothing() {
    for form in FORMS {
        let host = host(2);
        let Some(disk) = Tmpfs::mount(&archive(&host), "1m") else {
            return;
        };
        let filler = disk.0.join("filler");
        fs::write(&filler, vec![0; 2 << 20]).unwrap_err();
        let output = rotate(&host, form).output().unwrap();
        assert_eq!(code(&output), Some(1));
        let error = stderr(&output);
        assert!(
            error.contains("no storage space") || error.contains("No space left"),
            "{error}"
        );
        assert!(error.contains(archive(&host).to_str().unwrap()), "{error}");
        assert_eq!(host.sent_packets(), 90);
        assert_eq!(files(&host), std::slice::from_ref(&filler));

        fs::remove_file(filler).unwrap();
        let output = rotate(&host, form).output().unwrap();
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        assert_eq!(host.sent_packets(), 30);
        restore_all(&host);
        assert_eq!(host.sent_packets(), 90);
        assert_whole(&host);
    }
}

#[test]
fn configuration_says_what_archives_are() {
    let host = host(1);
    let config = host.folder.path().join("trafstat.toml");
    let folder = host
        .folder
        .path()
        .join("it's\"; DROP TABLE record; -- `old` ÿ日");
    fs::write(
        &config,
        format!(
            "[retention]\nkeep-records = \"1s\"\narchive = {:?}\narchive-form = \"csv\"\n",
            folder.to_str().unwrap()
        ),
    )
    .unwrap();
    let output = host
        .command()
        .args(["rotate", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    let files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [file] = &files[..] else {
        panic!("{files:?}");
    };
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("trafstat-"), "{name}");
    assert!(
        name.ends_with("-20260131T130000Z-20260131T130000Z.csv.zst"),
        "{name}"
    );
    let output = host.command().arg("restore").args(&files).output().unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert_eq!(host.sent_packets(), 60);
}

#[test]
fn timer_rotates_by_the_configuration_or_after_400_days() {
    let host = Host::new();
    let mut old = lan(1);
    for time in [&mut old.header.opened_ns, &mut old.header.closed_ns] {
        *time -= 401 * 24 * HOUR_NS;
    }
    for snapshot in [old, lan(2), lan(3), lan(4)] {
        host.proc.serve(&[("lan", &snapshot)]);
        host.run(&[]);
    }
    let config = host.folder.path().join("trafstat.toml");
    let archive = host.folder.path().join("archive");
    for (keep, left) in [("", 90), ("keep-records = \"90m\"", 60)] {
        // Only what is kept for a time that somebody chose is worth an archive.
        assert!(!archive.exists());
        let text = format!("[retention]\narchive = {archive:?}\n{keep}\n");
        fs::write(&config, text).unwrap();
        let output = host
            .command()
            .args(["rotate", "--scheduled", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        assert_eq!(host.sent_packets(), left);
    }
    assert!(archive.exists());
}

#[test]
fn killed_at_any_point_mariadb_loses_no_record() {
    let socket = mariadb_server::socket();
    for form in FORMS {
        for point in ["within-archive", "before-delete", "before-delete-commit"] {
            let host = Host::new();
            let database = mariadb_server::create_database(socket);
            let command = || {
                let mut command = program();
                command
                    .args(["--url", &mysql_url(socket, &database, "root"), "--spool"])
                    .arg(host.spool())
                    .arg("--proc-root")
                    .arg(host.proc.path());
                command
            };
            let run = |arguments: &[&str]| {
                let output = command().args(arguments).output().unwrap();
                assert_eq!(code(&output), Some(0), "{}", stderr(&output));
                stdout(&output)
            };
            let records = || run(&["export"]).lines().count() - 1;
            for epoch in 1..=4 {
                host.proc.serve(&[("lan", &lan(epoch))]);
                run(&[]);
            }
            let folder = archive(&host);
            let rotate = [
                "rotate",
                "--keep-records",
                "1s",
                "--force",
                "--archive-form",
                form,
                "--archive",
                folder.to_str().unwrap(),
            ];
            let killed = command()
                .args(rotate)
                .env("TRAFSTAT_STORE_KILL_AT", point)
                .output()
                .unwrap();
            assert_eq!(killed.status.signal(), Some(9), "{}", stderr(&killed));
            // The server rolls back once it notices; the next one waits for its locks.
            assert_eq!(records(), 8, "{point}");
            run(&rotate);
            assert_eq!(records(), 2);
            for _ in 0..2 {
                for file in files(&host) {
                    run(&["restore", file.to_str().unwrap()]);
                }
                assert_eq!(records(), 8);
                run(&["check"]);
            }
        }
    }
}
