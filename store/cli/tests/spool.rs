// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store spool`: what waits for the database, as people look into it.

#[path = "../../tests/common/mod.rs"]
mod common;
mod program;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use common::lan;
use program::{Host, code, program, sent_packets, stderr, stdout};
use rusqlite::Connection;
use serde_json::Value;

/// What one epoch of [`lan`] counts.
const SENT_PACKETS: u64 = 30;

/// A host with epochs 1 and 2 in its spool, of which the first is refused.
fn host() -> Host {
    let host = Host::new();
    host.proc.serve(&[]);
    assert_eq!(code(&host.run(&[])), Some(0));
    Connection::open(host.db())
        .unwrap()
        .pragma_update(None, "user_version", 1 << 30)
        .unwrap();
    for epoch in 1..=2 {
        host.proc.serve(&[("lan", &lan(epoch))]);
        assert_eq!(code(&host.run(&[])), Some(3));
    }
    Connection::open(host.spool())
        .unwrap()
        .execute(
            "UPDATE epoch SET state = 'refused', tries = 3, reason = 'no' WHERE id = 1",
            [],
        )
        .unwrap();
    host
}

fn run(host: &Host, arguments: &[&str]) -> String {
    let output = host.run(arguments);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    stdout(&output)
}

#[test]
fn list_has_every_epoch_with_its_state_and_reason() {
    let host = host();
    let table = run(&host, &["spool", "list"]);
    assert!(table.trim_start().starts_with("ID"), "{table}");
    assert!(table.contains("refused"), "{table}");

    let csv = run(&host, &["spool", "list", "--format", "csv"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "id,host,netns,account,family,epoch,closed,bytes,state,tries,reason"
    );
    assert!(lines[1].starts_with("1,"), "{csv}");
    assert!(
        lines[1].contains(",lan,ipv4,1,2026-01-31T13:00:00Z,"),
        "{csv}"
    );
    assert!(lines[1].ends_with(",refused,3,no"), "{csv}");
    assert!(lines[2].ends_with(",waiting,0,"), "{csv}");

    let json: Value =
        serde_json::from_str(&run(&host, &["spool", "list", "--format", "json"])).unwrap();
    let epochs = json["epochs"].as_array().unwrap();
    assert_eq!(epochs.len(), 2);
    assert_eq!(epochs[0]["state"], "refused");
    assert_eq!(epochs[0]["reason"], "no");
    assert_eq!(epochs[1]["epoch"], 2);
    assert!(epochs[1]["bytes"].as_u64().unwrap() > 0);
}

#[test]
fn list_without_a_spool_is_empty_and_makes_none() {
    let host = Host::new();
    let json = run(&host, &["spool", "list", "--format", "json"]);
    assert_eq!(json, "{\"epochs\":[]}\n");
    assert!(!host.spool().exists());
    let output = host.run(&["spool", "show", "1"]);
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("no epoch waits"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn show_has_totals_and_the_largest_records() {
    let host = host();
    let table = run(&host, &["spool", "show", "1", "--top", "1"]);
    assert!(table.contains("recorded_packets       90"), "{table}");
    assert!(table.contains("UDP"), "{table}");
    assert!(!table.contains("TCP"), "{table}");
    let json: Value =
        serde_json::from_str(&run(&host, &["spool", "show", "1", "--format", "json"])).unwrap();
    assert_eq!(json["totals"]["recorded_packets"], 90);
    assert_eq!(json["records"][0]["local_port"], 53);
    assert_eq!(json["records"][1]["local_ip"], "192.0.2.1");
    let output = host.run(&["spool", "show", "99"]);
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("has no epoch 99"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn exported_epoch_is_restored_into_another_database() {
    let host = host();
    let file = host.folder.path().join("epoch.csv");
    run(
        &host,
        &["spool", "export", "1", "--output", file.to_str().unwrap()],
    );
    let printed = run(&host, &["spool", "export", "1"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), printed);
    let other = host.folder.path().join("other.db");
    let output = program()
        .arg("restore")
        .arg(&file)
        .arg("--db")
        .arg(&other)
        .output()
        .unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert_eq!(sent_packets(&other), SENT_PACKETS);
}

#[test]
fn dropped_epoch_is_named_with_what_it_counted() {
    let host = host();
    let said = run(&host, &["spool", "drop", "1"]);
    assert!(said.starts_with("deleted: epoch 1 of account"), "{said}");
    assert!(
        said.contains("90 packets of 48000 bytes in 2 records"),
        "{said}"
    );
    let csv = run(&host, &["spool", "list", "--format", "csv"]);
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert_eq!(code(&host.run(&["spool", "drop", "1"])), Some(1));
}

#[test]
fn drop_asks_on_a_terminal() {
    let host = host();
    let ask = |answer: &str| {
        let mut drop = host.command();
        drop.args(["spool", "drop", "2"]);
        let words: Vec<_> = std::iter::once(drop.get_program())
            .chain(drop.get_args())
            .map(|word| word.to_str().unwrap())
            .collect();
        let mut child = Command::new("script")
            .args([
                "--quiet",
                "--return",
                "--command",
                &words.join(" "),
                "/dev/null",
            ])
            .env("TRAFSTAT_CONFIG", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        stdout(&output)
    };
    let said = ask("n\n");
    assert!(said.contains("Delete it for ever? [y/N]"), "{said}");
    assert!(said.contains("nothing is deleted"), "{said}");
    assert!(ask("y\n").contains("deleted: epoch 2"));
    let csv = run(&host, &["spool", "list", "--format", "csv"]);
    assert_eq!(csv.lines().count(), 2, "{csv}");
}
