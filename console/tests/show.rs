// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat show`, run as users run it.

#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::{SnapshotBuilder, record};
use serde_json::{Value, json};
use trafstat_store::backend::Sqlite;
use trafstat_store::collect::append;
use trafstat_store::origin::Origin;
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::{Retention, Store};

/// A database of two accounts and three epochs.
///
/// `lan` counted from 12:00 to 13:00 and to 14:00, `dmz` to 13:00 on 31 January 2026, UTC.
struct Database {
    folder: tempfile::TempDir,
}

impl Database {
    fn new() -> Self {
        Self::of(|snapshot| snapshot)
    }

    /// The same with the snapshots of `lan` changed.
    fn of(change: fn(SnapshotBuilder) -> SnapshotBuilder) -> Self {
        let database = Self::empty();
        let mut store = Sqlite::open(&database.path()).unwrap();
        store.migrate().unwrap();
        let lan = |epoch| {
            let records = vec![
                record(1, 7, 6, 443, 1000),
                record(1, 8, 6, 22, 10),
                record(2, 7, 17, 53, 100),
                record(2, 9, 1, 0, 5),
            ];
            SnapshotBuilder::new("lan", epoch, records)
        };
        let dmz = SnapshotBuilder::new("dmz", 1, vec![record(130, 7, 6, 25, 3)]);
        for snapshot in [change(lan(1)), change(lan(2)), dmz] {
            let bytes = snapshot.bytes();
            append(
                &mut store,
                &origin(),
                &mut Snapshot::open(&bytes[..]).unwrap(),
            )
            .unwrap();
        }
        database
    }

    fn empty() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("trafstat.db")
    }

    fn show(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_trafstat"))
            .arg("show")
            .arg("--db")
            .arg(self.path())
            .args(arguments)
            .env("TZ", "UTC")
            // Not this host's.
            .env("TRAFSTAT_CONFIG", "/dev/null")
            .output()
            .unwrap()
    }

    /// An answer in JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.show(&[arguments, &["--format", "json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The records of an answer in JSON.
    fn records(&self, arguments: &[&str]) -> Vec<Value> {
        self.json(arguments)["records"].as_array().unwrap().clone()
    }

    /// The sum over an answer of packets sent.
    fn sent_packets(&self, arguments: &[&str]) -> u64 {
        self.records(arguments)
            .iter()
            .map(|record| record["sent_packets"].as_u64().unwrap())
            .sum()
    }
}

fn origin() -> Origin {
    Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn json_has_every_field_asked_for_and_every_counter() {
    let by = "protocol,local-ip,remote-ip,local-port,remote-port";
    let records = Database::new().records(&["--by", by]);
    assert_eq!(records.len(), 5);
    assert_eq!(
        records[0],
        json!({
            "protocol": 6,
            "local_ip": "192.0.2.1",
            "remote_ip": "198.51.100.7",
            "local_port": 443,
            "remote_port": 0,
            "sent_packets": 2000,
            "received_packets": 4000,
            "sent_bytes": 200_000,
            "received_bytes": 3_000_000,
            "syn_packets": 2,
        })
    );
}

#[test]
fn json_has_no_field_that_was_not_asked_for() {
    let records = Database::new().records(&["--by", "remote-ip"]);
    assert_eq!(
        records[0],
        json!({
            "remote_ip": "198.51.100.7",
            "sent_packets": 2203,
            "received_packets": 4406,
            "sent_bytes": 220_300,
            "received_bytes": 3_304_500,
            "syn_packets": 3,
        })
    );
}

#[test]
fn csv_has_a_header_and_plain_numbers_in_the_order_asked_for() {
    let output = Database::new().show(&["--by", "local-port,protocol", "--format", "csv"]);
    assert_eq!(
        stdout(&output),
        "local_port,protocol,sent_packets,received_packets,sent_bytes,received_bytes,syn_packets\n\
         443,6,2000,4000,200000,3000000,2\n\
         53,17,200,400,20000,300000,0\n\
         22,6,20,40,2000,30000,2\n\
         0,1,10,20,1000,15000,0\n\
         25,6,3,6,300,4500,1\n"
    );
}

#[test]
fn table_is_for_people_and_ends_with_the_total() {
    let output = Database::new().show(&["--by", "local-ip,protocol"]);
    assert_eq!(
        lines(&output),
        [
            "LOCAL IP PROTOCOL SENT RECEIVED PACKETS SENT PACKETS RECEIVED SYN",
            "192.0.2.1 TCP 197.3 KiB 2.9 MiB 2,020 4,040 4",
            "192.0.2.2 UDP 19.5 KiB 293.0 KiB 200 400 0",
            "192.0.2.2 ICMP 1000 B 14.6 KiB 10 20 0",
            "192.0.2.130 TCP 300 B 4.4 KiB 3 6 1",
            "total 218.1 KiB 3.2 MiB 2,233 4,466 5",
            "",
            "3 epochs, counted from 2026-01-31 12:00 to 2026-01-31 14:00 UTC.",
            "On average 248 bit/s sent, 3.7 kbit/s received.",
            "",
            LEFT_OUT[0],
            LEFT_OUT[1],
        ]
    );
}

/// What of the database's packets had neither side in the local net, and what sampling left out.
const LEFT_OUT: [&str; 2] = [
    "9 packets (540 B) had neither side in the local net and are not counted; broadcast and \
     multicast that was received are among them.",
    "6 packets (360 B) were left out by sampling; those that were taken count for them.",
];

/// Lines of a table with a space between their words.
fn lines(output: &Output) -> Vec<String> {
    stdout(output)
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn sampled_figures_have_standard_errors() {
    let database = Database::of(|snapshot| snapshot.sampled(10));
    assert_eq!(
        lines(&database.show(&["--by", "account"])),
        [
            "ACCOUNT SENT RECEIVED PACKETS SENT PACKETS RECEIVED SYN ± PACKETS",
            "lan 217.8 KiB 3.2 MiB 2,230 4,460 4 30",
            "dmz 300 B 4.4 KiB 3 6 1 0",
            "total 218.1 KiB 3.2 MiB 2,233 4,466 5 30",
            "",
            "3 epochs, counted from 2026-01-31 12:00 to 2026-01-31 14:00 UTC.",
            "On average 248 bit/s sent, 3.7 kbit/s received.",
            "",
            // Of each epoch 5 * 90 = 450 in packets, 4,096 * 90 in bytes.
            "Sampled. One standard error (68 %) of the total: ± 30 packets, ± 859 B.",
            "TCP, up to one in 10: 10 packets taken, ± 30 packets, ± 859 B.",
            LEFT_OUT[0],
            LEFT_OUT[1],
        ]
    );
    // 6,000 packets at up to one in 10: the root of 6,000 * 9. UDP was not sampled.
    let csv = stdout(&database.show(&["--by", "protocol,local-port", "--format", "csv"]));
    let errors: Vec<&str> = csv
        .lines()
        .map(|line| {
            line.split_once(",syn_packets,")
                .map_or(line, |(_, names)| names)
        })
        .collect();
    assert_eq!(
        errors[..3],
        [
            "packets_standard_error,bytes_standard_error",
            "6,443,2000,4000,200000,3000000,2,232.379000772445,",
            "17,53,200,400,20000,300000,0,0,"
        ]
    );
    // Of a part of the records, nothing is known of the bytes.
    let part = lines(&database.show(&["--local-port", "443"]));
    assert_eq!(
        part[part.len() - 3],
        "Sampled. One standard error (68 %) of the total: ± 233 packets."
    );
}

#[test]
fn json_has_standard_errors_where_something_was_sampled() {
    let answer = Database::of(|snapshot| snapshot.sampled(10)).json(&["--by", "account"]);
    assert_eq!(answer["total"]["packets_standard_error"], 30.0);
    assert_eq!(answer["records"][1]["bytes_standard_error"], 0.0);
    let tcp = &answer["sampling"]["classes"]["tcp_any"];
    assert_eq!(
        (&tcp["sampled_packets"], &tcp["highest_rate"]),
        (&json!(10), &json!(10))
    );
    let answer = Database::new().json(&["--by", "account"]);
    assert_eq!(answer["sampling"], Value::Null);
    assert_eq!(answer["total"].as_object().unwrap().len(), 5);
}

#[test]
fn error_that_an_old_module_did_not_report_is_not_guessed() {
    let database = Database::of(|snapshot| match snapshot.header.epoch {
        1 => snapshot.with_header_size(240),
        _ => snapshot.sampled(10),
    });
    let told = "The standard error is not known for 1 epoch: a module from before 0.2.0 sampled.";
    let table = lines(&database.show(&["--by", "account"]));
    assert_eq!(table[1], "lan 217.8 KiB 3.2 MiB 2,230 4,460 4 ?");
    assert_eq!(table[2], "dmz 300 B 4.4 KiB 3 6 1 0");
    assert_eq!(table[table.len() - 3], told);
    let csv = database.show(&["--by", "account", "--format", "csv"]);
    assert_eq!(stderr(&csv), format!("trafstat: {told}\n"));
    let json = database.json(&["--by", "hour,account", "--local-ip", "192.0.2.1"]);
    assert_eq!(json["sampling"]["unknown_epochs"], 1);
    assert_eq!(json["total"]["packets_standard_error"], Value::Null);
    let errors: Vec<bool> = json["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["packets_standard_error"].is_number())
        .collect();
    assert_eq!(errors, [false, true]);
}

#[test]
fn packets_without_room_for_their_local_address_are_told() {
    let database = Database::of(|mut snapshot| {
        snapshot.header.unattributed_packets = 600;
        snapshot.header.unattributed_bytes = 60_000;
        snapshot
    });
    let told = "1,200 packets (117.2 KiB) in 2 epochs found no room even for their local \
                address: raise --max-entries.";
    let table = lines(&database.show(&[]));
    assert_eq!(table[table.len() - 1], told);
    let csv = database.show(&["--format", "csv"]);
    assert_eq!(stderr(&csv), format!("trafstat: {told}\n"));
    assert_eq!(
        database.json(&[])["unattributed"],
        json!({"packets": 1200, "bytes": 120_000, "epochs": 2})
    );
    let dmz = database.json(&["--account", "dmz"]);
    assert_eq!(dmz["unattributed"], Value::Null);
}

#[test]
fn what_no_record_has_is_told() {
    let database = Database::of(|mut snapshot| {
        snapshot.header.folded_packets = 2;
        snapshot.header.folded_bytes = 200;
        snapshot
    });
    let table = lines(&database.show(&[]));
    assert_eq!(table[table.len() - 3..][..2], LEFT_OUT);
    assert_eq!(
        table[table.len() - 1],
        "4 packets (400 B) are counted without their remote side: raise --max-entries."
    );
    let json = database.json(&[]);
    for (name, packets, bytes) in [("outside", 9, 540), ("skipped", 6, 360), ("folded", 4, 400)] {
        assert_eq!(
            json[name],
            json!({"packets": packets, "bytes": bytes}),
            "{name}"
        );
    }
    // Of the accounts that are asked for, and where no record fits.
    let nothing = database.show(&["--account", "dmz", "--protocol", "icmp"]);
    let told = stderr(&nothing);
    assert!(told.contains("no record fits"), "{told}");
    assert!(
        told.contains("3 packets (180 B) had neither side in the local net"),
        "{told}"
    );
}

#[test]
fn output_that_is_no_terminal_has_no_colour() {
    let output = Database::new().show(&[]);
    assert!(!output.stdout.contains(&0x1b), "{}", stdout(&output));
}

/// What a terminal of so many columns is sent.
fn on_terminal(database: &Database, columns: u32, no_color: &str) -> String {
    let command = format!(
        "stty cols {columns}; {} show --db {}",
        env!("CARGO_BIN_EXE_trafstat"),
        database.path().display()
    );
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TERM", "xterm")
        .env("NO_COLOR", no_color)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    stdout(&output)
}

#[test]
fn terminal_gets_colour_unless_the_user_asked_for_none() {
    let database = Database::new();
    assert!(on_terminal(&database, 100, "").contains("\u{1b}["));
    assert!(!on_terminal(&database, 100, "1").contains("\u{1b}["));
}

#[test]
fn narrow_terminal_breaks_titles_and_no_number() {
    let database = Database::new();
    let wide = on_terminal(&database, 140, "1");
    assert!(wide.contains("PACKETS RECEIVED"), "{wide}");
    let narrow = on_terminal(&database, 80, "1");
    assert!(!narrow.contains("PACKETS RECEIVED"), "{narrow}");
    assert!(
        table(&narrow)
            .iter()
            .all(|line| line.trim_end().chars().count() <= 80),
        "{narrow}"
    );
    assert!(narrow.contains("195.3 KiB"), "{narrow}");
}

/// The lines before the first empty one.
fn table(text: &str) -> Vec<&str> {
    text.lines()
        .map(str::trim_end)
        .take_while(|line| !line.is_empty())
        .collect()
}

#[test]
fn terminal_too_narrow_for_all_columns_goes_without_the_last() {
    let database = Database::new();
    for (columns, titles) in [(76, "SENT RECEIVED SENT RECEIVED"), (50, "SENT RECEIVED")] {
        let text = on_terminal(&database, columns, "1");
        let shown = table(&text);
        let found: Vec<&str> = shown[..2]
            .iter()
            .flat_map(|line| line.split_whitespace())
            .filter(|word| titles.contains(word))
            .collect();
        assert_eq!(found.join(" ").len(), titles.len(), "{text}");
        assert!(!text.contains("SYN"), "{text}");
    }
}

#[test]
fn bars_compare_lines_on_a_terminal_and_nowhere_else() {
    let database = Database::new();
    let text = on_terminal(&database, 140, "1");
    let blocks = |line: &str| line.chars().filter(|&c| c == '█').count();
    let lines: Vec<usize> = table(&text)[1..].iter().map(|line| blocks(line)).collect();
    // The largest, a tenth of it, what is hardly anything, and the total without one.
    assert_eq!(lines, [30, 3, 0, 0, 0, 0], "{text}");
    assert!(text.contains('▏'), "{text}");
    assert!(!stdout(&database.show(&[])).contains('█'));
}

#[test]
fn ports_and_protocols_have_names_unless_numbers_are_wanted() {
    let database = Database::new();
    let named = stdout(&database.show(&["--by", "protocol,local-port"]));
    assert!(
        named.contains("443 https") && named.contains("53 domain"),
        "{named}"
    );
    let numeric = stdout(&database.show(&["--by", "protocol,local-port", "-n"]));
    assert!(
        !numeric.contains("https") && !numeric.contains("TCP"),
        "{numeric}"
    );
    assert!(numeric.contains("443"), "{numeric}");
}

#[test]
fn rates_are_averages_over_the_time_covered() {
    let database = Database::new();
    let record = &database.records(&["--by", "local-port", "--rates"])[0];
    // 200,000 bytes in the two hours from the first epoch's opening to the last one's close.
    let expected = 200_000.0 * 8.0 / 7200.0;
    assert!((record["sent_bits_per_second"].as_f64().unwrap() - expected).abs() < 1e-9);
    assert_eq!(record["sent_bytes"], 200_000);
    let text = stdout(&database.show(&["--by", "local-port", "--rates"]));
    assert!(
        text.contains("222 bit/s") && !text.contains("KiB"),
        "{text}"
    );
    let csv = stdout(&database.show(&["--by", "hour", "--rates", "--format", "csv"]));
    let mut lines = csv.lines();
    assert!(
        lines.next().unwrap().ends_with(
            "syn_packets,sent_packets_per_second,\
        received_packets_per_second,sent_bits_per_second,received_bits_per_second,\
        syn_packets_per_second"
        ),
        "{csv}"
    );
    // An hour's average is over the hour: 1,118 packets in 3,600 seconds.
    let first = lines.next().unwrap();
    assert!(
        first.starts_with("2026-01-31T12:00:00Z,1118,2236,111800"),
        "{csv}"
    );
    assert!(first.contains(",0.3105555555555555"), "{csv}");
}

#[test]
fn rates_of_an_account_are_over_its_own_time() {
    let database = Database::new();
    let rate = |arguments: &[&str], index: usize| {
        let arguments = [arguments, &["--rates"]].concat();
        let rate = &database.records(&arguments)[index]["sent_packets_per_second"];
        (rate.as_f64().unwrap() * 3600.0).round()
    };
    // It was counted for one of the two hours.
    for arguments in [
        &["--by", "local-ip", "--account", "dmz"][..],
        &["--by", "remote-ip", "--account", "dmz"],
        &["--by", "hour,account", "--account", "dmz"],
        &["--by", "day", "--account", "dmz"],
    ] {
        assert_eq!(rate(arguments, 0), 3.0, "{arguments:?}");
    }
    assert_eq!(rate(&["--by", "account", "--sort", "fields"], 0), 3.0);
    assert_eq!(rate(&["--by", "account", "--sort", "fields"], 1), 1115.0);
    let text = stdout(&database.show(&["--account", "dmz"]));
    // 300 bytes in an hour.
    assert!(text.contains("On average 1 bit/s sent"), "{text}");
}

#[test]
fn what_is_not_exact_is_told_in_every_format() {
    let database = Database::new();
    let january = "2026-01-31T20:00:00Z".parse().unwrap();
    let retention = Retention {
        records_before: Some(january),
        quarterly_before: Some(january),
        hourly_before: Some("2026-02-01T00:00:00Z".parse().unwrap()),
        even_most: true,
        ..Retention::default()
    };
    let mut store = Sqlite::open(&database.path()).unwrap();
    // Later than what is deleted.
    let late = SnapshotBuilder::new("late", 48, Vec::new()).bytes();
    append(
        &mut store,
        &origin(),
        &mut Snapshot::open(&late[..]).unwrap(),
    )
    .unwrap();
    store.rotate(&retention, None).unwrap();
    // The day counts as a whole where its middle is.
    let cut = ["--by", "local-ip", "--until", "2026-01-31 13:00"];
    let coarse = "Not exact. At 2026-01-31 13:00 the time is cut where only sums over a day in UTC \
                  are left; each belongs to the side that has its middle.";
    let gone = ["--by", "hour"];
    let missing = "Not whole. What was counted from 2026-01-31 12:30 to 2026-01-31 20:00 is not in \
                   it: the figures that would tell were deleted.";
    assert_eq!(database.sent_packets(&cut[2..]), 2233);
    let text = stdout(&database.show(&cut));
    assert!(text.contains(coarse), "{text}");
    for (arguments, sentence) in [(&cut[..], coarse), (&gone[..], missing)] {
        let csv = database.show(&[arguments, &["--format", "csv"]].concat());
        assert!(stderr(&csv).contains(sentence), "{}", stderr(&csv));
        let json = database.show(&[arguments, &["--format", "json"]].concat());
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert!(!json["inexact"].is_null(), "{json}");
    }
    let json = database.show(&[&cut[..], &["--format", "json"]].concat());
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        json["inexact"]["coarse"],
        json!({
            "first": "2026-01-31T13:00:00Z",
            "last": "2026-01-31T13:00:00Z",
            "period": "day",
        })
    );
    assert!(stderr(&database.show(&gone)).contains(missing));
    // What is exact says nothing.
    let json = database.show(&["--by", "day", "--format", "json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json["inexact"].is_null(), "{json}");
}

#[test]
fn times_are_in_their_order_and_in_the_local_zone() {
    let database = Database::new();
    let hours: Vec<Value> = database
        .records(&["--by", "hour,account"])
        .iter()
        .map(|record| json!([record["hour"], record["account"], record["sent_packets"]]))
        .collect();
    assert_eq!(
        hours,
        [
            json!(["2026-01-31T12:00:00Z", "dmz", 3]),
            json!(["2026-01-31T12:00:00Z", "lan", 1115]),
            json!(["2026-01-31T13:00:00Z", "lan", 1115]),
        ]
    );
    let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
        .args(["show", "--by", "day", "--format", "csv", "--db"])
        .arg(database.path())
        .env("TZ", "Pacific/Auckland")
        .env("TRAFSTAT_CONFIG", "/dev/null")
        .output()
        .unwrap();
    // 12:30 UTC is 1:30 of the next day there.
    assert!(
        stdout(&output).contains("\n2026-02-01,2233,"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn top_cuts_the_lines_and_not_the_total() {
    let database = Database::new();
    let output = database.show(&["--by", "local-port", "--top", "2"]);
    let text = stdout(&output);
    assert!(text.contains("218.1 KiB"), "{text}");
    assert!(text.contains("2 of 5 lines"), "{text}");
    assert!(!text.contains("25 "), "{text}");
    assert_eq!(
        database
            .records(&["--by", "local-port", "--top", "2"])
            .len(),
        2
    );
    assert_eq!(
        database
            .records(&["--by", "local-port", "--top", "0"])
            .len(),
        5
    );
}

#[test]
fn lines_are_sorted_by_the_counter_asked_for() {
    let database = Database::new();
    let ports = |sort: &str| -> Vec<u64> {
        database
            .records(&["--by", "local-port", "--sort", sort])
            .iter()
            .map(|record| record["local_port"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(ports("bytes"), [443, 53, 22, 0, 25]);
    // Equal ones are in the order of their key.
    assert_eq!(ports("syn-packets"), [22, 443, 25, 0, 53]);
}

#[test]
fn filters_choose_records() {
    let database = Database::new();
    for (filter, sent_packets) in [
        (&["--protocol", "tcp"][..], 2023),
        (&["--protocol", "17,icmp"], 210),
        (&["--local-ip", "192.0.2.2"], 210),
        (&["--local-ip", "192.0.2.0/25"], 2230),
        (&["--local-ip", "192.0.2.77/25"], 2230),
        (&["--remote-ip", "198.51.100.8,198.51.100.9"], 30),
        (&["--local-port", "22,25"], 23),
        (&["--local-port", "https"], 2000),
        (&["--local-port", "20-30,53"], 223),
        (&["--host", "gateway"], 2233),
        (&["--host", "0123456789abcdef0123456789abcdef"], 2233),
        (&["--host", "elsewhere"], 0),
        (&["--remote-port", "1"], 0),
        (&["--account", "dmz"], 3),
        (&["--account", "dmz,lan"], 2233),
        (
            &[
                "--protocol",
                "tcp",
                "--local-ip",
                "192.0.2.1",
                "--local-port",
                "22",
            ],
            20,
        ),
    ] {
        assert_eq!(database.sent_packets(filter), sent_packets, "{filter:?}");
    }
}

#[test]
fn time_chooses_epochs_by_their_middle() {
    let database = Database::new();
    for (time, sent_packets) in [
        (&["--since", "2026-01-31 12:30"][..], 2233),
        (&["--since", "2026-01-31T12:30:01Z"], 1115),
        (&["--until", "2026-01-31 13:00"], 1118),
        (
            &["--since", "2026-01-31 13:00", "--until", "2026-01-31 13:30"],
            0,
        ),
    ] {
        assert_eq!(database.sent_packets(time), sent_packets, "{time:?}");
    }
}

#[test]
fn time_without_a_zone_is_in_the_local_one() {
    let database = Database::new();
    let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
        .args([
            "show",
            "--by",
            "protocol",
            "--format",
            "csv",
            "--since",
            "2026-01-31 14:00",
        ])
        .arg("--db")
        .arg(database.path())
        .env("TZ", "Europe/Berlin")
        .output()
        .unwrap();
    // 14:00 in Berlin is 13:00 UTC, when the second epoch of lan began.
    assert!(
        stdout(&output).contains("6,1010,2020"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn nothing_in_the_time_is_said() {
    let database = Database::new();
    let output = database.show(&["--since", "2027-01-01"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stderr(&output).contains("nothing was collected"),
        "{}",
        stderr(&output)
    );
    assert_eq!(stdout(&output), "");

    let output = database.show(&["--remote-port", "1", "--format", "json"]);
    assert!(
        stderr(&output).contains("3 epochs were collected"),
        "{}",
        stderr(&output)
    );
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&answer["records"], &answer["epochs"]),
        (&json!([]), &json!(3))
    );
}

#[test]
fn missing_database_says_what_to_do() {
    let database = Database::empty();
    let output = database.show(&[]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("there is no database"), "{error}");
    assert!(error.contains("trafstat-store"), "{error}");
    assert!(!database.path().exists());
}

#[test]
fn showing_leaves_the_database_as_it_is() {
    let database = Database::new();
    let before = std::fs::read(database.path()).unwrap();
    database.show(&[]);
    assert_eq!(std::fs::read(database.path()).unwrap(), before);
}

#[test]
fn shows_while_a_collector_writes() {
    let database = Database::new();
    let mut store = Sqlite::open(&database.path()).unwrap();
    let bytes = SnapshotBuilder::new("lan", 3, vec![record(1, 7, 6, 443, 1)]).bytes();
    let mut snapshot = Snapshot::open(&bytes[..]).unwrap();
    let trafstat_store::store::Begun::New(mut transaction) =
        store.begin(&origin(), snapshot.header()).unwrap()
    else {
        panic!("epoch 3 is stored already");
    };
    transaction
        .write(snapshot.next_batch().unwrap().unwrap())
        .unwrap();
    assert_eq!(database.sent_packets(&["--by", "protocol"]), 2233);
    transaction.commit().unwrap();
    assert_eq!(database.sent_packets(&["--by", "protocol"]), 2234);
}

#[test]
fn wrong_usage_ends_with_2() {
    let database = Database::new();
    for (arguments, expected) in [
        (&["--by", "port"][..], "local-port"),
        (&["--by", "protocol,protocol"], "twice"),
        (&["--by", ""], "--by"),
        (&["--protocol", "tcpp"], "tcp or 6"),
        (&["--local-ip", "192.0.2.0/33"], "192.0.2.0/24"),
        (&["--local-port", "65536"], "65535"),
        (&["--local-port", "30-20"], "8000-8099"),
        (&["--local-port", "no-such-service"], "/etc/services"),
        (&["--account", "../lan"], "account name"),
        (&["--since", "tomorrowish"], "7d"),
        (&["--since", "1h", "--until", "2h"], "--until"),
        (&["--sort", "size"], "bytes"),
        (&["--format", "xml"], "csv"),
        (&["--backend", "oracle"], "sqlite"),
    ] {
        let output = database.show(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            stderr(&output).contains(expected),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn no_command_shows_help() {
    let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("show"), "{}", stderr(&output));
}

#[test]
fn closed_pipe_is_no_failure() {
    let database = Database::new();
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_trafstat"))
        .args(["show", "--db"])
        .arg(database.path())
        .stdout(OwnedFd::from(writer))
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}
