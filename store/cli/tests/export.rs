// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store export`: what is stored comes out, and goes in again elsewhere.

#[path = "../../tests/common/mod.rs"]
mod common;
mod program;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use common::lan;
use program::{Host, code, stderr, stdout};

fn host(epochs: u64) -> Host {
    let host = Host::new();
    for epoch in 1..=epochs {
        host.proc.serve(&[("lan", &lan(epoch))]);
        assert_eq!(code(&host.run(&[])), Some(0));
    }
    host
}

fn exported(host: &Host, arguments: &[&str]) -> String {
    let output = host.run(&[&["export"], arguments].concat());
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    stdout(&output)
}

#[test]
fn records_are_written_as_csv_or_json() {
    let host = host(3);
    let csv = exported(&host, &[]);
    assert_eq!(csv.lines().count(), 1 + 6);
    assert_eq!(exported(&host, &["--format", "csv"]), csv);
    let one = exported(
        &host,
        &[
            "--since",
            "2026-01-31T14:00:00Z",
            "--until",
            "2026-01-31T15:00:00Z",
        ],
    );
    assert_eq!(one.lines().count(), 1 + 2);
    assert!(one.lines().all(|line| csv.contains(line)));
    let json = exported(&host, &["--format", "json", "--account", "lan"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["records"].as_array().unwrap().len(), 6);
    let none = exported(&host, &["--format", "json", "--account", "wan"]);
    assert_eq!(none, "{\"records\":[\n]}\n");
    let sums = exported(&host, &["local-day", "--format", "json"]);
    let sums: serde_json::Value = serde_json::from_str(&sums).unwrap();
    assert_eq!(sums["sums"][0]["day"], "2026-01-31T00:00:00Z");
    assert_eq!(sums["sums"][0]["sent_packets"], 30);
}

#[test]
fn file_is_compressed_as_its_name_says_and_never_replaced() {
    let host = host(2);
    let plain = exported(&host, &["--restorable"]);
    for name in [
        "plain.csv",
        "packed.csv.gz",
        "packed.csv.zst",
        "it's;--`\".csv.gz",
    ] {
        let path = host.folder.path().join(name);
        let path = path.to_str().unwrap();
        assert_eq!(exported(&host, &["--restorable", "--output", path]), "");
        let mut text = String::new();
        trafstat_capture::unpacked(File::open(path).unwrap())
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, plain, "{name}");
        assert_eq!(
            fs::read(path).unwrap() == plain.as_bytes(),
            name == "plain.csv"
        );

        let again = host.run(&["export", "--output", path]);
        assert_eq!(code(&again), Some(1));
        assert!(
            stderr(&again).contains("exists already"),
            "{}",
            stderr(&again)
        );
        assert_eq!(code(&host.run(&["restore", path])), Some(0));
    }
    assert_eq!(host.sent_packets(), 60);
}

#[test]
fn file_that_was_cut_off_is_an_error_and_loses_nothing() {
    let host = host(2);
    for name in ["cut.csv.gz", "cut.csv.zst"] {
        let path = host.folder.path().join(name);
        let path = path.to_str().unwrap();
        exported(&host, &["--restorable", "--output", path]);
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 3]).unwrap();
        let other = Host::new();
        let output = other.run(&["restore", path]);
        assert_eq!(code(&output), Some(1), "{}", stdout(&output));
        assert!(stderr(&output).contains(name), "{}", stderr(&output));
        assert_eq!(code(&other.run(&["check"])), Some(0));
    }
}

#[test]
fn restorable_records_go_through_a_pipe_once() {
    let host = host(3);
    let other = Host::new();
    for expected in ["3 epochs added, 0 known", "0 epochs added, 3 known"] {
        let mut exporting = host
            .command()
            .args(["export", "--restorable"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let restored = other
            .command()
            .args(["restore", "/dev/stdin"])
            .stdin(exporting.stdout.take().unwrap())
            .output()
            .unwrap();
        assert_eq!(exporting.wait().unwrap().code(), Some(0));
        assert!(
            stdout(&restored).contains(expected),
            "{}",
            stderr(&restored)
        );
        assert_eq!(other.sent_packets(), 90);
    }
}

#[test]
fn epochs_whose_records_were_deleted_are_counted() {
    let host = host(2);
    host.run(&["prune", "--before", "2026-01-31T13:30:00Z"]);
    let output = host.run(&["export"]);
    assert_eq!(code(&output), Some(0));
    assert_eq!(stdout(&output).lines().count(), 1 + 2);
    assert!(
        stderr(&output).contains("1 epochs are left out"),
        "{}",
        stderr(&output)
    );
    // Their sums are there still.
    let sums = exported(&host, &["local-day"]);
    assert!(sums.contains(",40,80,4000,60000,"), "{sums}");
}

#[test]
fn what_cannot_be_exported_is_said() {
    let host = Host::new();
    let output = host.run(&["export"]);
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("no database"),
        "{}",
        stderr(&output)
    );
    assert!(!host.db().exists());
    for (arguments, status, expected) in [
        (&["export", "everything"][..], 2, "service-day"),
        (&["export", "--account", "no such"], 2, "account name"),
        (&["export", "local-day", "--restorable"], 1, "--restorable"),
        (
            &["export", "--restorable", "--format", "json"],
            1,
            "--format",
        ),
    ] {
        let output = host.run(arguments);
        assert_eq!(code(&output), Some(status), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

#[test]
fn reader_that_has_seen_enough_is_no_failure() {
    let host = host(1);
    for form in [&["export"][..], &["export", "--restorable"]] {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let output = host
            .command()
            .args(form)
            .stdout(OwnedFd::from(writer))
            .output()
            .unwrap();
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    }
}
