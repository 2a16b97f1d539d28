// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store import`: what the original's users have is stored, whole and once.

#[path = "../../tests/common/mod.rs"]
mod common;
mod program;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use program::{Host, code, stderr, stdout};
use serde_json::Value;

/// Two readings of one account, as the original's rotation writes them.
const ROTATED: &str = "\
1\t6\t3221225985\t3325256705\t443\t0\t10\t20\t1000\t20000\t1\t2024-01-31 12:00:00
2\t17\t3221225985\t3325256705\t53\t0\t5\t5\t500\t600\t0\t2024-01-31 12:00:00
3\t6\t3221225985\t3325256705\t443\t0\t10\t20\t1000\t20000\t1\t2024-01-31 12:05:00
";

/// One reading, as the original serves it: the first of [`ROTATED`].
const SERVED: &str = "\
6,3221225985,3325256705,443,0,10,20,1000,20000,1
17,3221225985,3325256705,53,0,5,5,500,600,0
";

struct Import {
    host: Host,
}

impl Import {
    fn new() -> Self {
        Self { host: Host::new() }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.host.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn command(&self) -> Command {
        let mut command = self.host.command();
        command
            .arg("import")
            .args(["--format", "json"])
            .env("TZ", "UTC");
        command
    }

    /// Imports files that are not in one run with each other.
    fn import(&self, name: &str, content: &str, arguments: &[&str]) -> [u64; 5] {
        let file = self.file(name, content.as_bytes());
        self.figures(self.command().args(arguments).arg(file))
    }

    /// Epochs stored, epochs known, rows, packets and bytes of the one file.
    fn figures(&self, command: &mut Command) -> [u64; 5] {
        let output = command.output().unwrap();
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
        ["epochs", "known_epochs", "rows", "packets", "bytes"]
            .map(|key| report["sources"][0][key].as_u64().unwrap())
    }
}

#[test]
fn every_reading_is_an_epoch_and_is_stored_once() {
    let import = Import::new();
    let file = import.file("trafstat_192_0_2_0_24_2024_02_04-04:22", ROTATED.as_bytes());
    assert_eq!(
        import.figures(import.command().arg(&file)),
        [2, 0, 3, 70, 43100]
    );
    assert_eq!(import.host.sent_packets(), 25);
    assert_eq!(import.figures(import.command().arg(&file)), [0, 2, 3, 0, 0]);
    assert_eq!(import.host.sent_packets(), 25);
}

#[test]
fn compressed_file_has_the_same_epochs() {
    let import = Import::new();
    let file = import.file("trafstat_192_0_2_0_24_x", ROTATED.as_bytes());
    assert_eq!(import.figures(import.command().arg(&file))[0], 2);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(ROTATED.as_bytes()).unwrap();
    let file = import.file("trafstat_192_0_2_0_24_x.gz", &gzip.finish().unwrap());
    assert_eq!(import.figures(import.command().arg(&file))[..2], [0, 2]);
}

#[test]
fn rows_without_a_time_are_known_by_their_content() {
    let import = Import::new();
    let file = import.file("192.0.2.0_24", SERVED.as_bytes());
    assert_eq!(
        import.figures(import.command().arg(&file)),
        [1, 0, 2, 40, 22100]
    );
    // A copy has another time, and the same rows.
    let copy = import.file("192.0.2.0_24.csv", SERVED.as_bytes());
    assert_eq!(import.figures(import.command().arg(&copy))[..2], [0, 1]);
    // With times that are said, equal rows of two times are two readings.
    for (closed, expected) in [
        ("2024-01-31T12:00:00Z", [1, 0]),
        ("2024-01-31T12:05:00Z", [1, 0]),
        ("2024-01-31T12:05:00Z", [0, 1]),
    ] {
        let figures = import.figures(import.command().args(["--closed", closed]).arg(&file));
        assert_eq!(figures[..2], expected, "{closed}");
    }
    assert_eq!(import.host.sent_packets(), 45);
}

#[test]
fn wrong_line_is_named_and_its_reading_left_out() {
    let import = Import::new();
    let wrong = format!("{ROTATED}4\t6\tlocalhost\t1\t0\t0\t1\t1\t1\t1\t1\t2024-01-31 12:05:00\n");
    let file = import.file("trafstat_192_0_2_0_24", wrong.as_bytes());
    let output = import.command().arg(&file).output().unwrap();
    assert_eq!(code(&output), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains("line 4: local_ip is \"localhost\""),
        "{error}"
    );
    assert_eq!(import.host.sent_packets(), 15);
    // Mended, only what was missing is stored.
    let file = import.file("trafstat_192_0_2_0_24", ROTATED.as_bytes());
    assert_eq!(import.figures(import.command().arg(&file))[..2], [1, 1]);
    assert_eq!(import.host.sent_packets(), 25);
}

#[test]
fn file_that_is_not_named_after_an_account_needs_its_net() {
    let import = Import::new();
    let file = import.file("dump.csv", SERVED.as_bytes());
    let output = import.command().arg(&file).output().unwrap();
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("--local-net"),
        "{}",
        stderr(&output)
    );
    assert!(!import.host.db().exists());
    let mut command = import.command();
    command
        .args(["--local-net", "192.0.2.0/24", "--account", "lan"])
        .arg(&file);
    assert_eq!(import.figures(&mut command)[0], 1);
}

#[test]
fn accounts_of_two_hosts_do_not_mix() {
    let import = Import::new();
    let file = import.file("192.0.2.0_24", SERVED.as_bytes());
    for host in ["1", "2"] {
        let machine_id = host.repeat(32);
        let mut command = import.command();
        command
            .args(["--machine-id", &machine_id, "--hostname", host])
            .arg(&file);
        assert_eq!(import.figures(&mut command)[..2], [1, 0]);
    }
    assert_eq!(import.host.sent_packets(), 30);
}

/// A row of the original's table, stored at a time.
fn row(packets: u64, time: &str) -> String {
    format!("6\t3221225985\t3325256705\t443\t0\t{packets}\t0\t{packets}00\t0\t0\t{time}\t1\n")
}

#[test]
fn file_that_grew_within_a_reading_adds_its_new_rows() {
    let name = "trafstat_192_0_2_0_24";
    let time = "2024-01-31 12:00:00";
    let short = row(20, time);
    // The same row twice, and another one.
    let long = [row(20, time), row(20, time), row(3, time)].concat();
    for order in [[&short, &long, &short], [&long, &short, &long]] {
        let import = Import::new();
        for content in order {
            import.import(name, content, &[]);
        }
        assert_eq!(import.host.sent_packets(), 43);
        assert_eq!(code(&import.host.run(&["check"])), Some(0));
    }
    // Two files that have each what the other lacks.
    let import = Import::new();
    let other = [row(3, time), row(20, time), row(4, time)].concat();
    assert_eq!(import.import(name, &long, &[])[..3], [1, 0, 3]);
    assert_eq!(import.import(name, &other, &[])[..3], [1, 0, 3]);
    for content in [&long, &other] {
        assert_eq!(import.import(name, content, &[])[..2], [0, 1]);
    }
    assert_eq!(import.host.sent_packets(), 47);
}

#[test]
fn rows_without_a_time_are_one_file_that_grows() {
    let more = "6,3221225985,3325256705,443,0,10,20,1000,20000,1\n";
    let grown = format!("{SERVED}{more}");
    let grown_again = format!("{grown}{SERVED}");
    for order in [
        [SERVED, &grown, &grown_again, SERVED, &grown],
        [&grown_again, &grown, SERVED, &grown, &grown_again],
        [&grown, &grown_again, SERVED, &grown, &grown_again],
    ] {
        let import = Import::new();
        for content in order {
            import.import("192.0.2.0_24", content, &[]);
        }
        assert_eq!(import.host.sent_packets(), 40);
        assert_eq!(code(&import.host.run(&["check"])), Some(0));
    }
}

#[test]
fn rows_of_a_time_whose_records_were_deleted_are_known_or_refused() {
    let import = Import::new();
    let name = "trafstat_192_0_2_0_24";
    let time = "2024-01-31 12:00:00";
    import.import(name, &row(20, time), &[]);
    import.import(name, &row(1, "2025-01-31 12:00:00"), &[]);
    let pruned = import.host.run(&["prune", "--before", "2025-01-01"]);
    assert_eq!(code(&pruned), Some(0), "{}", stderr(&pruned));
    assert_eq!(import.import(name, &row(20, time), &[])[..2], [0, 1]);
    let file = import.file(name, [row(20, time), row(3, time)].concat().as_bytes());
    let output = import.command().arg(&file).output().unwrap();
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("restore the archive"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn last_reading_is_held_back_while_it_is_young() {
    let import = Import::new();
    let name = "trafstat_192_0_2_0_24";
    let young = jiff::Timestamp::now().strftime("%F %T").to_string();
    let first = [row(20, "2024-01-31 12:00:00"), row(3, &young)].concat();
    assert_eq!(import.import(name, &first, &[])[..4], [1, 0, 2, 20]);
    let file = import.file(name, first.as_bytes());
    let output = import.command().arg(&file).output().unwrap();
    assert!(stderr(&output).contains("--whole"), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["sources"][0]["held_back"], 1);
    assert_eq!(import.import(name, &first, &["--whole"])[..4], [1, 1, 2, 3]);
    assert_eq!(import.host.sent_packets(), 23);
}

#[test]
fn hour_that_comes_twice_is_told_by_the_order_of_rows() {
    let import = Import::new();
    let times = ["01:30", "02:00", "02:30", "02:00", "02:30", "03:00"];
    let rows: String = times
        .map(|time| row(10, &format!("2026-10-25 {time}:00")))
        .concat();
    let file = import.file("trafstat_192_0_2_0_24", rows.as_bytes());
    for expected in [[6, 0, 6, 60], [0, 6, 6, 0]] {
        let mut command = import.command();
        command.env("TZ", "Europe/Berlin").arg(&file);
        assert_eq!(import.figures(&mut command)[..4], expected);
    }
    assert_eq!(import.host.sent_packets(), 60);
}

#[test]
fn host_that_counted_is_asked_for_once_it_was_another() {
    let import = Import::new();
    let id = "ab".repeat(16);
    let name = "192.0.2.0_24";
    let by_id = ["--origin", &id, "--hostname", "old-gateway"];
    assert_eq!(import.import(name, SERVED, &by_id)[..2], [1, 0]);
    // By its name now, which the store knows.
    assert_eq!(
        import.import(name, SERVED, &["--origin", "old-gateway"])[..2],
        [0, 1]
    );
    let file = import.file(name, SERVED.as_bytes());
    let output = import.command().arg(&file).output().unwrap();
    assert_eq!(code(&output), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains("old-gateway") && error.contains(&format!("--origin {id}")),
        "{error}"
    );
    assert_eq!(import.host.sent_packets(), 15);
    // Another account was not imported yet.
    assert_eq!(import.import("192.0.2.7_32", SERVED, &[])[..2], [1, 0]);
}

#[test]
fn reading_that_no_query_could_add_up_is_refused() {
    let import = Import::new();
    let reading = |day: u32| -> String {
        let line = |packets: u64| {
            let bytes = 1_u64 << 48;
            format!(
                "6\t3221225985\t{}\t443\t0\t1\t1\t{bytes}\t1\t0\t2026-01-0{day} 00:00:00\t1\n",
                3_325_256_705 + packets
            )
        };
        (0..16_383).map(line).collect()
    };
    for day in [1, 2] {
        assert_eq!(
            import.import("trafstat_192_0_2_0_24", &reading(day), &[])[0],
            1
        );
    }
    let file = import.file("trafstat_192_0_2_0_24", reading(3).as_bytes());
    let output = import.command().arg(&file).output().unwrap();
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("no query can add up"),
        "{}",
        stderr(&output)
    );
    assert_eq!(import.host.sent_packets(), 2 * 16_383);
    assert_eq!(code(&import.host.run(&["check"])), Some(0));
}
