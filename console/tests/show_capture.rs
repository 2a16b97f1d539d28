// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat show --source pcap:FILE`, run as users run it.

use std::process::{Command, Output};

/// 2026-01-31T12:00:00Z.
const NOON_SECS: u32 = 1_769_860_800;

/// A capture of UDP packets of raw IPv4 at these times.
fn capture(seconds: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 101] {
        bytes.extend(word.to_le_bytes());
    }
    for &time in seconds {
        for word in [time, 0, 28, 28] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
        bytes.extend([192, 0, 2, 1, 198, 51, 100, 7]);
        bytes.extend([0x9c, 0x40, 0, 53, 0, 8, 0, 0]);
    }
    bytes
}

#[test]
fn capture_is_shown_without_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcap");
    std::fs::write(&path, capture(&[NOON_SECS])).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
        .args(["show", "--format", "csv", "--by", "local-ip,remote-port"])
        .arg(format!("--source=pcap:{}", path.display()))
        .args(["--local-net", "192.0.2.0/24", "--remote-udp-ports", "53"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "local_ip,remote_port,sent_packets,received_packets,sent_bytes,received_bytes,\
         syn_packets\n192.0.2.1,53,1,0,28,0,0\n"
    );
}

#[test]
fn capture_is_grouped_and_cut_by_time_without_an_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcap");
    // At 12:10 and 13:40, and on the day after.
    let times = [600, 6000, 86_400 + 600].map(|seconds| NOON_SECS + seconds);
    std::fs::write(&path, capture(&times)).unwrap();
    let show = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_trafstat"))
            .args(["show", "--format", "csv"])
            .arg(format!("--source=pcap:{}", path.display()))
            .args(["--local-net", "192.0.2.0/24"])
            .args(arguments)
            .env("TZ", "UTC")
            .output()
            .unwrap()
    };
    let sent = |arguments: &[&str]| -> Vec<(String, String)> {
        let csv = stdout(&show(arguments));
        let lines = csv.lines().skip(1).map(|line| {
            let mut cells = line.split(',').map(str::to_owned);
            (cells.next().unwrap(), cells.next().unwrap())
        });
        lines.collect()
    };
    let line = |key: &str, packets: &str| (key.to_owned(), packets.to_owned());
    assert_eq!(
        sent(&["--by", "day"]),
        [line("2026-01-31", "2"), line("2026-02-01", "1")]
    );
    for (since, until, packets) in [
        ("2026-01-31T12:00:00Z", "2026-01-31T13:20:00Z", "1"),
        ("2026-01-31T12:00:00Z", "2026-02-01T00:00:00Z", "2"),
        ("2026-01-31T13:20:00Z", "2026-02-02T00:00:00Z", "2"),
    ] {
        let cut = ["--by", "local-ip", "--since", since, "--until", until];
        assert_eq!(
            sent(&cut),
            [line("192.0.2.1", packets)],
            "{since} to {until}"
        );
    }
    let hint = stderr(&show(&["--by", "day", "--epoch", "7h"]));
    assert!(hint.contains("--epoch 15m"), "{hint}");
    assert_eq!(stderr(&show(&["--by", "day", "--epoch", "5m"])), "");
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn silence_of_a_capture_is_time_that_was_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcap");
    // A packet of 28 bytes an hour, through a whole day.
    let times: Vec<u32> = (0..=24).map(|hour| NOON_SECS + hour * 3600).collect();
    std::fs::write(&path, capture(&times)).unwrap();
    for by in ["local-ip", "hour", "day"] {
        let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
            .args([
                "show", "--rates", "--format", "json", "--epoch", "5m", "--by", by,
            ])
            .arg(format!("--source=pcap:{}", path.display()))
            .args(["--local-net", "192.0.2.0/24"])
            .env("TZ", "UTC")
            .output()
            .unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let rate = answer["total"]["sent_bits_per_second"].as_f64().unwrap();
        let expected = 25.0 * 28.0 * 8.0 / 86_400.0;
        assert!((rate / expected - 1.0).abs() < 0.01, "{by}: {rate}");
        let hour = answer["records"][1]["sent_bits_per_second"].as_f64();
        if by == "hour" {
            let expected = 28.0 * 8.0 / 3600.0;
            assert!((hour.unwrap() / expected - 1.0).abs() < 0.01, "{hour:?}");
        }
    }
}
