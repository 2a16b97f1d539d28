// SPDX-License-Identifier: GPL-2.0-or-later
//! Captures collected by the program `trafstat-store`, as users do.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use trafstat_store::backend::Sqlite;
use trafstat_store::query::{Field, Filter, Order, Query};
use trafstat_store::store::Store;

/// 2026-01-31T12:00:00Z.
const NOON_SECS: u32 = 1_769_860_800;

/// A capture of so many UDP packets of 28 bytes, one a second, of raw IPv4.
fn capture(packets: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 101] {
        bytes.extend(word.to_le_bytes());
    }
    for number in 0..packets {
        for word in [NOON_SECS + number, 0, 28, 28] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
        bytes.extend([192, 0, 2, 1, 198, 51, 100, 7]);
        bytes.extend([0x9c, 0x40, 0, 53, 0, 8, 0, 0]);
    }
    bytes
}

/// The same with another time of one packet.
fn with_time(mut capture: Vec<u8>, packet: usize, seconds: u32) -> Vec<u8> {
    let at = 24 + packet * (16 + 28);
    capture[at..at + 4].copy_from_slice(&seconds.to_le_bytes());
    capture
}

fn collect(db: &Path, source: &str, arguments: &[&str]) -> Output {
    program(db, source, arguments).output().unwrap()
}

fn program(db: &Path, source: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trafstat-store"));
    command
        .args(["--format", "json", "--db"])
        .arg(db)
        .args(["--source", source, "--local-net", "192.0.2.0/24"])
        .args(arguments);
    command
}

fn states(output: &Output) -> Vec<String> {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let accounts = report["accounts"].as_array().unwrap();
    let state = |account: &Value| account["state"].as_str().unwrap().to_owned();
    accounts.iter().map(state).collect()
}

fn sent_packets(db: &Path) -> u64 {
    let query = Query {
        by: vec![Field::Protocol],
        filter: Filter::default(),
        order: Order::Bytes,
        limit: None,
        ..Query::default()
    };
    let mut store = Sqlite::open_read_only(db).unwrap();
    store.query(&query).unwrap().total.sent_packets
}

#[test]
fn capture_collected_again_is_not_counted_again() {
    let folder = tempfile::tempdir().unwrap();
    let (db, path) = (folder.path().join("a.db"), folder.path().join("a.pcap"));
    std::fs::write(&path, capture(150)).unwrap();
    let source = format!("pcap:{}", path.display());
    let first = collect(&db, &source, &["--epoch", "1m"]);
    assert!(first.status.success(), "{first:?}");
    assert_eq!(states(&first), ["stored"; 3]);
    let again = collect(&db, &source, &["--epoch", "1m"]);
    assert!(again.status.success(), "{again:?}");
    assert_eq!(states(&again), ["already stored"; 3]);
    assert_eq!(sent_packets(&db), 150);
}

#[test]
fn capture_that_grew_adds_what_its_last_epoch_grew_by() {
    let folder = tempfile::tempdir().unwrap();
    let (db, path) = (folder.path().join("a.db"), folder.path().join("a.pcap"));
    let source = format!("pcap:{}", path.display());
    let collect_so_far = |packets| {
        std::fs::write(&path, capture(packets)).unwrap();
        let output = collect(&db, &source, &["--epoch", "1m"]);
        assert!(output.status.success(), "{output:?}");
        states(&output)
    };
    assert_eq!(collect_so_far(70), ["stored"; 2]);
    assert_eq!(collect_so_far(90), ["already stored", "stored"]);
    assert_eq!(collect_so_far(150), ["already stored", "stored", "stored"]);
    assert_eq!(sent_packets(&db), 150);
    // Earlier copies have nothing new, and the longest once more neither.
    for packets in [70, 90, 100, 150] {
        let known = collect_so_far(packets);
        assert!(
            known.iter().all(|state| state == "already stored"),
            "{known:?}"
        );
    }
    assert_eq!(sent_packets(&db), 150);
    let mut check = Command::new(env!("CARGO_BIN_EXE_trafstat-store"));
    assert!(
        check
            .arg("--db")
            .arg(&db)
            .arg("check")
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn capture_in_epochs_of_another_length_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcap");
    let source = format!("pcap:{}", path.display());
    for (first, second, names) in [
        (&[][..], &["--epoch", "1m"][..], "without --epoch"),
        (&["--epoch", "1m"], &["--epoch", "30s"], "with --epoch 1m"),
        (&["--epoch", "1m"], &["--epoch", "2m"], "with --epoch 1m"),
        (&["--epoch", "1m"], &[], "with --epoch 1m"),
    ] {
        let db = folder
            .path()
            .join(format!("{}{}.db", first.len(), second.join("")));
        std::fs::write(&path, capture(200)).unwrap();
        assert!(collect(&db, &source, first).status.success());
        // It may have grown, too.
        for packets in [200, 320] {
            std::fs::write(&path, capture(packets)).unwrap();
            let refused = collect(&db, &source, second);
            if packets == 320 && first.is_empty() && refused.status.success() {
                continue;
            }
            assert_eq!(refused.status.code(), Some(1), "{first:?} {second:?}");
            assert_eq!(states(&refused), ["failed"]);
            let error = String::from_utf8(refused.stderr).unwrap();
            assert!(error.contains(names), "{error}");
            assert_eq!(sent_packets(&db), 200);
        }
    }
}

#[test]
fn time_far_from_its_neighbours_takes_no_other_packet_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcap");
    let source = format!("pcap:{}", path.display());
    for (number, (packet, seconds)) in [(0, 0), (0, u32::MAX), (70, 0), (70, u32::MAX)]
        .into_iter()
        .enumerate()
    {
        let db = folder.path().join(format!("{number}.db"));
        std::fs::write(&path, with_time(capture(150), packet, seconds)).unwrap();
        let output = collect(&db, &source, &["--epoch", "1m"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let accounts = report["accounts"].as_array().unwrap();
        let packets: Vec<_> = accounts.iter().map(|account| &account["packets"]).collect();
        assert_eq!(packets, [60, 60, 30], "packet {packet} at {seconds}");
        let query = Query {
            by: vec![Field::Day],
            ..Query::default()
        };
        let answer = Sqlite::open_read_only(&db).unwrap().query(&query).unwrap();
        assert_eq!(answer.groups.len(), 1);
    }
}

#[test]
fn standard_input_is_the_same_capture_as_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (db, path) = (folder.path().join("a.db"), folder.path().join("a.pcap"));
    std::fs::write(&path, capture(10)).unwrap();
    let mut child = program(&db, "pcap:-", &[])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&capture(10)).unwrap();
    assert_eq!(states(&child.wait_with_output().unwrap()), ["stored"]);
    let file = collect(&db, &format!("pcap:{}", path.display()), &[]);
    assert_eq!(states(&file), ["already stored"]);
}

#[test]
fn cut_capture_is_stored_as_far_as_it_goes_and_exits_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let (db, path) = (folder.path().join("a.db"), folder.path().join("a.pcap"));
    let whole = capture(10);
    std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let output = collect(&db, &format!("pcap:{}", path.display()), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(states(&output), ["stored"]);
    assert_eq!(sent_packets(&db), 9);
    let error = String::from_utf8(output.stderr).unwrap();
    let expected = "a.pcap: it is cut off at byte 420, 5 bytes before the end of the packet \
                    there. The 9 packets before it are counted\n";
    assert!(error.ends_with(expected), "{error}");
}

/// A capture of all interfaces (Linux cooked, version 2): each of `packets` packets comes through
/// interfaces 7, 4 and 2 within 20 microseconds.
fn capture_of_three_interfaces(packets: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 276] {
        bytes.extend(word.to_le_bytes());
    }
    for number in 0..packets {
        for (hop, interface) in [7, 4, 2].into_iter().enumerate() {
            let microseconds = u32::from(number) * 100 + hop as u32 * 10;
            for word in [NOON_SECS, microseconds, 48, 48] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend([8, 0, 0, 0, 0, 0, 0, interface, 0, 1, 4, 6]);
            bytes.extend([2; 8]);
            bytes.extend([0x45, 0, 0, 28]);
            bytes.extend(number.to_be_bytes());
            bytes.extend([0, 0, 64 - hop as u8, 17, 0, hop as u8]);
            bytes.extend([192, 0, 2, 1, 198, 51, 100, 7]);
            bytes.extend([0x9c, 0x40, 0, 53, 0, 8, 0, 0]);
        }
    }
    bytes
}

#[test]
fn packet_that_several_interfaces_saw_counts_as_often_unless_once_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("any.pcap");
    std::fs::write(&path, capture_of_three_interfaces(10)).unwrap();
    let source = format!("pcap:{}", path.display());
    for (arguments, packets, words) in [
        (&[][..], 30, "20 packets are counted more than once"),
        (
            &["--once"],
            10,
            "20 packets that another interface had seen",
        ),
        (&["--interface", "4"], 10, ""),
    ] {
        let db = folder.path().join(format!("{}.db", arguments.len()));
        let output = collect(&db, &source, arguments);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(sent_packets(&db), packets, "{arguments:?}");
        let remarks = String::from_utf8(output.stderr).unwrap();
        assert!(remarks.contains(words), "{remarks}");
        assert_eq!(remarks.is_empty(), words.is_empty(), "{remarks}");
        let names_options = remarks.contains("--interface NAME") && remarks.contains("--once");
        assert_eq!(names_options, arguments.is_empty(), "{remarks}");
    }
}

#[test]
fn interface_that_is_not_there_is_an_error_that_names_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (db, path) = (folder.path().join("a.db"), folder.path().join("any.pcap"));
    let source = format!("pcap:{}", path.display());
    std::fs::write(&path, capture_of_three_interfaces(2)).unwrap();
    let output = collect(&db, &source, &["--interface", "eth0"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("no packet is of interface eth0; it has 2, 4, 7"),
        "{error}"
    );
    std::fs::write(&path, capture(2)).unwrap();
    let output = collect(&db, &source, &["--interface", "eth0"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("it does not tell its interfaces apart"),
        "{error}"
    );
}

#[test]
fn capture_outside_of_the_local_net_suggests_another() {
    let folder = tempfile::tempdir().unwrap();
    let (db, path) = (folder.path().join("a.db"), folder.path().join("a.pcap"));
    std::fs::write(&path, capture(6)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_trafstat-store"));
    command.arg("--db").arg(&db).arg("--source");
    command.arg(format!("pcap:{}", path.display()));
    let output = command
        .args(["--local-net", "10.0.0.0/8"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let remark = String::from_utf8(output.stderr).unwrap();
    assert!(
        remark.contains("none of its 6 IP packets has an address of --local-net")
            && remark.contains("--local-net 198.51.100.0/24"),
        "{remark}"
    );
    let report = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = report.lines().last().unwrap().split_whitespace().collect();
    // Records, packets, bytes, outside, skipped and folded.
    assert_eq!(
        words[words.len() - 7..],
        ["0", "0", "0", "6", "0", "0", "stored"]
    );
}

#[test]
fn options_for_captures_are_refused_for_an_interface() {
    let folder = tempfile::tempdir().unwrap();
    let output = collect(
        &folder.path().join("a.db"),
        "live:lo",
        &["--interface", "lo"],
    );
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("--interface is for captures"), "{error}");
}

#[test]
fn what_is_no_capture_makes_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let (db, path) = (folder.path().join("a.db"), folder.path().join("a.txt"));
    std::fs::write(&path, "no capture").unwrap();
    let output = collect(&db, &format!("pcap:{}", path.display()), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("it is no capture"));
    assert!(!db.exists());
    let missing = collect(&db, "pcap:/nonexistent/a.pcap", &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot open /nonexistent/a.pcap"));
}

#[test]
fn wrong_rule_option_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("a.db");
    for (arguments, what) in [
        (&["--local-tcp-ports", "70000"][..], "--local-tcp-ports"),
        (&["--local-net", "10.0.0.0/8"], "--local-net"),
        (&["--epoch", "soon"], "--epoch"),
    ] {
        let output = collect(&db, "pcap:-", arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(what));
    }
}
