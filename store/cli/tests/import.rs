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
