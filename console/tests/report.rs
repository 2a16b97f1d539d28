// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat report`, run as users run it.

#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::{HOUR_NS, NOON_NS, SnapshotBuilder, record};
use serde_json::{Value, json};
use trafstat_store::backend::Sqlite;
use trafstat_store::collect::append;
use trafstat_store::origin::Origin;
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::{Retention, Store};

/// Midnight before NOON_NS.
const DAY_NS: u64 = NOON_NS - 12 * HOUR_NS;

/// A database of the days 30 and 31 January 2026, UTC, an epoch an hour.
///
/// The first server's HTTPS sends 100 bytes, then 200, ... 2,400 on the 31st, and half of it
/// on the 30th. A second address comes up at the end of the 31st.
struct Database {
    folder: tempfile::TempDir,
}

fn origin() -> Origin {
    Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    }
}

impl Database {
    fn new() -> Self {
        Self::of(|snapshot| snapshot)
    }

    /// The same with every snapshot changed.
    fn of(change: fn(SnapshotBuilder) -> SnapshotBuilder) -> Self {
        let database = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let mut store = Sqlite::open(&database.path()).unwrap();
        store.migrate().unwrap();
        for epoch in 1..=48 {
            let hour = (epoch - 1) % 24 + 1;
            let is_second = epoch > 24;
            let mut records = vec![record(1, 7, 6, 443, hour * if is_second { 2 } else { 1 })];
            if epoch == 48 {
                records.push(record(2, 8, 17, 53, 1));
            }
            let mut snapshot = SnapshotBuilder::new("lan", epoch, records);
            // Closed a minute before the hour is over, so that it belongs to it.
            snapshot.header.opened_ns = DAY_NS - 24 * HOUR_NS + (epoch - 1) * HOUR_NS;
            snapshot.header.duration_ns = HOUR_NS - 60_000_000_000;
            snapshot.header.closed_ns = snapshot.header.opened_ns + snapshot.header.duration_ns;
            let bytes = change(snapshot).bytes();
            append(
                &mut store,
                &origin(),
                &mut Snapshot::open(&bytes[..]).unwrap(),
            )
            .unwrap();
        }
        database
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("trafstat.db")
    }

    fn report(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_trafstat"))
            .args(["report", "--db"])
            .arg(self.path())
            .args(arguments)
            .env("TZ", "UTC")
            .env("TRAFSTAT_CONFIG", "/dev/null")
            .output()
            .unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.report(&[arguments, &["--format", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn day_is_compared_with_the_day_before() {
    let report = Database::new().json(&["day", "2026-01-31"]);
    assert_eq!(report["name"], "2026-01-31");
    assert_eq!(report["previous"]["name"], "2026-01-30");
    assert_eq!(report["epochs"], 24);
    // 2 * (1 + ... + 24) = 600 packets of 100 bytes, and one more.
    assert_eq!(report["total"]["sent_bytes"], 60_100);
    assert_eq!(report["total"]["previous"]["sent_bytes"], 30_000);
    let addresses = &report["addresses"]["lines"];
    assert_eq!(addresses[0]["local_ip"], "192.0.2.1");
    assert_eq!(addresses[0]["sent_bytes"], 60_000);
    assert_eq!(addresses[0]["previous"]["sent_bytes"], 30_000);
    assert_eq!(addresses[1]["local_ip"], "192.0.2.2");
    assert_eq!(addresses[1]["previous"]["sent_bytes"], 0);
    let services = &report["services"]["lines"];
    assert_eq!(
        json!([services[0]["protocol"], services[0]["local_port"]]),
        json!([6, 443])
    );
    assert_eq!(services[1]["local_port"], 53);
    assert_eq!(report["steps"].as_array().unwrap().len(), 24);
    assert_eq!(report["steps"][5]["sent_bytes"], 1200);
}

#[test]
fn percentile_is_over_the_hours_in_which_something_was_collected() {
    let report = Database::new().json(&["day", "2026-01-31"]);
    // 95 of 100 of 24 hours are 23: the largest but one sent 4,600 bytes.
    let p95 = report["addresses"]["lines"][0]["p95_sent_bits_per_second"].as_f64();
    assert_eq!(p95.map(|rate| (rate * 3540.0 / 8.0).round()), Some(4600.0));
    // An hour of 24 is not in it.
    assert_eq!(
        report["addresses"]["lines"][1]["p95_sent_bits_per_second"],
        0.0
    );
    let minutes = Database::new().json(&["day", "2026-01-31", "--sample", "5m"]);
    assert_eq!(minutes["sample_seconds"], 300);
    // Each hour is spread over 12 samples: the percentile is the same.
    let p95 = minutes["addresses"]["lines"][0]["p95_sent_bits_per_second"].as_f64();
    assert_eq!(p95.map(|rate| (rate * 3540.0 / 8.0).round()), Some(4600.0));
    assert_eq!(minutes["samples_are_spread"], true);
    assert_eq!(report["samples_are_spread"], false);
}

#[test]
fn percentile_of_an_account_is_over_its_own_samples() {
    // A second account comes up for the last two hours and sends 1,000 bytes in each.
    let database = Database::new();
    let mut store = Sqlite::open(&database.path()).unwrap();
    for epoch in [47, 48] {
        let mut snapshot = SnapshotBuilder::new("dmz", epoch, vec![record(9, 1, 6, 25, 10)]);
        snapshot.header.opened_ns = DAY_NS + (epoch - 25) * HOUR_NS;
        snapshot.header.closed_ns = snapshot.header.opened_ns + HOUR_NS;
        let bytes = snapshot.bytes();
        append(
            &mut store,
            &origin(),
            &mut Snapshot::open(&bytes[..]).unwrap(),
        )
        .unwrap();
    }
    let arguments = ["day", "2026-01-31", "--account", "dmz"];
    let report = database.json(&arguments);
    let p95 = report["total"]["p95_sent_bits_per_second"].as_f64();
    assert_eq!(p95.map(|rate| (rate * 3600.0 / 8.0).round()), Some(1000.0));
    // The hours before are no zeros, but gaps.
    let steps = report["steps"].as_array().unwrap();
    let counted: Vec<f64> = steps
        .iter()
        .map(|step| step["counted_seconds"].as_f64().unwrap())
        .collect();
    assert_eq!(counted[..22], [0.0; 22]);
    assert_eq!(counted[22..], [3600.0; 2]);
    let text = stdout(&database.report(&arguments));
    let gaps = text.lines().filter(|line| line.ends_with(" not counted"));
    assert_eq!(gaps.count(), 22, "{text}");
    let html = stdout(&database.report(&[&arguments[..], &["--format", "html"]].concat()));
    assert_eq!(html.matches(": not counted</title>").count(), 22);
    // All accounts together: the last hours have both.
    let all = database.json(&["day", "2026-01-31"]);
    assert_eq!(all["steps"][23]["counted_seconds"], 3600.0);
}

#[test]
fn epochs_longer_than_samples_are_told_in_every_form() {
    let database = Database::new();
    let minutes = ["day", "2026-01-31", "--sample", "5m"];
    let spread = "Some epochs were longer than five minutes: for the percentiles, what they \
                  counted is spread evenly over their time.";
    for format in ["text", "html", "csv"] {
        let output = database.report(&[&minutes[..], &["--format", format]].concat());
        let all = [output.stdout, output.stderr].concat();
        let all = String::from_utf8(all).unwrap();
        assert!(all.contains(spread), "{all}");
    }
    assert_eq!(database.json(&minutes)["samples_are_spread"], true);
    assert_eq!(database.json(&minutes[..2])["samples_are_spread"], false);
}

#[test]
fn what_is_not_exact_is_told_in_every_form() {
    let database = Database::new();
    let all = "2026-03-01T00:00:00Z".parse().unwrap();
    let retention = Retention {
        records_before: Some(all),
        quarterly_before: Some(all),
        hourly_before: Some(all),
        even_most: true,
        ..Retention::default()
    };
    let mut store = Sqlite::open(&database.path()).unwrap();
    // Later than what is deleted.
    let late = SnapshotBuilder::new("late", 31 * 24, Vec::new()).bytes();
    append(
        &mut store,
        &origin(),
        &mut Snapshot::open(&late[..]).unwrap(),
    )
    .unwrap();
    store.rotate(&retention, None).unwrap();
    let day = ["day", "2026-01-31"];
    let json = database.json(&day);
    // A whole day in UTC is exact, its hours are gone.
    assert_eq!(json["total"]["sent_bytes"], 60_100);
    assert!(json["inexact"].is_null() && !json["missing_steps"].is_null());
    assert!(!json["missing_samples"].is_null());
    let lacks = "The percentiles have no samples of what was counted from 2026-01-31 00:29 to \
                 2026-02-01 00:00";
    let told = |database: &Database, arguments: &[&str], zone: &str, sentence: &str| {
        for format in ["text", "html", "csv"] {
            let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
                .args(["report", "--db"])
                .arg(database.path())
                .args(arguments)
                .args(["--format", format])
                .env("TZ", zone)
                .env("TRAFSTAT_CONFIG", "/dev/null")
                .output()
                .unwrap();
            let all = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(all.contains(sentence), "{all}");
        }
    };
    told(&database, &day, "UTC", lacks);
    told(&database, &day, "UTC", "The chart lacks what was counted");
    told(&database, &day, "Europe/Berlin", "Not exact. From ");
    // The month has its days as the chart shows them.
    let month = database.json(&["month", "2026-01"]);
    assert_eq!(month["steps"][30]["sent_bytes"], 60_100);
    assert!(month["inexact"].is_null() && month["missing_steps"].is_null());
}

#[test]
fn month_has_a_step_for_every_day() {
    let report = Database::new().json(&["month", "2026-01"]);
    assert_eq!(
        (&report["length"], &report["name"]),
        (&json!("month"), &json!("2026-01"))
    );
    let steps = report["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 31);
    assert_eq!(steps[29]["sent_bytes"], 30_000);
    assert_eq!(steps[30]["sent_bytes"], 60_100);
    assert_eq!(report["total"]["previous"]["sent_bytes"], 0);
    assert_eq!(
        Database::new().json(&["month", "2026-02"])["total"]["previous"]["sent_bytes"],
        90_100
    );
}

#[test]
fn text_names_services_and_what_changed() {
    let text = stdout(&Database::new().report(&["day", "2026-01-31"]));
    assert!(text.starts_with("2026-01-31: 58.7 KiB sent"), "{text}");
    assert!(
        text.contains("443 https") && text.contains("53 domain"),
        "{text}"
    );
    assert!(text.contains("+100.0 %") && text.contains("new"), "{text}");
    assert!(
        text.contains("against 2026-01-30. Times are UTC."),
        "{text}"
    );
    assert!(text.contains(" 23:00 "), "{text}");
}

#[test]
fn csv_has_one_table_of_plain_numbers() {
    let text = stdout(&Database::new().report(&["day", "2026-01-31", "--format", "csv"]));
    let mut lines = csv::Reader::from_reader(text.as_bytes());
    let header = lines.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|title| title == name).unwrap();
    let rows: Vec<csv::StringRecord> = lines.records().map(Result::unwrap).collect();
    let sections: Vec<&str> = rows.iter().map(|row| &row[0]).collect();
    assert_eq!(
        sections,
        ["total", "address", "address", "service", "service"]
    );
    assert_eq!(&rows[1][column("local_ip")], "192.0.2.1");
    assert_eq!(&rows[3][column("local_port")], "443");
    assert_eq!(&rows[3][column("previous_sent_bytes")], "30000");
}

#[test]
fn top_cuts_the_lines_and_not_the_figures() {
    let database = Database::new();
    let (all, one) = (
        database.json(&["day", "2026-01-31"]),
        database.json(&["day", "2026-01-31", "--top", "1"]),
    );
    assert_eq!(one["total"], all["total"]);
    for section in ["addresses", "services"] {
        assert_eq!(one[section]["count"], 2);
        assert_eq!(one[section]["lines"], json!([all[section]["lines"][0]]));
    }
}

#[test]
fn sampled_figures_have_standard_errors_in_every_form() {
    let sampled = Database::of(|snapshot| snapshot.sampled(10));
    let total = "Sampled. One standard error (68 %) of the total: ± 104 packets, ± 2.9 KiB.";
    let text = stdout(&sampled.report(&["day", "2026-01-31"]));
    assert!(text.contains(total) && text.contains("± PACKETS"), "{text}");
    let html = stdout(&sampled.report(&["day", "2026-01-31", "--format", "html"]));
    assert!(html.contains(&format!("<p>{total}</p>")), "{html}");
    let json = sampled.json(&["day", "2026-01-31"]);
    // 24 epochs of 5 packets taken, each with a variance of 90.
    let of = |line: &Value| {
        line["packets_standard_error"]
            .as_f64()
            .unwrap()
            .powi(2)
            .round()
    };
    assert_eq!(of(&json["total"]), 24.0 * 450.0);
    // 1,800 packets at up to one in 10.
    assert_eq!(of(&json["services"]["lines"][0]), 1800.0 * 9.0);
    assert_eq!(
        json["sampling"]["classes"]["tcp_any"]["sampled_packets"],
        120
    );
    let csv = stdout(&sampled.report(&["day", "2026-01-31", "--format", "csv"]));
    assert!(
        csv.lines()
            .next()
            .unwrap()
            .ends_with(",packets_standard_error,bytes_standard_error"),
        "{csv}"
    );

    let exact = Database::new();
    for format in ["text", "html", "json", "csv"] {
        let output = stdout(&exact.report(&["day", "2026-01-31", "--format", format]));
        assert!(
            !output.contains('±') && !output.contains("standard_error"),
            "{output}"
        );
    }
}

#[test]
fn html_is_one_file_without_scripts_and_network() {
    let database = Database::new();
    let path = database.folder.path().join("report.html");
    let path = path.to_str().unwrap();
    let output = database.report(&["day", "2026-01-31", "--format", "html", "--output", path]);
    assert_eq!(stdout(&output), "");
    let html = std::fs::read_to_string(path).unwrap();
    assert!(
        html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"),
        "{html}"
    );
    assert!(html.contains("default-src 'none'"));
    for foreign in [
        "<script", "http:", "https:", "//", "url(", "@import", "<link", "src=",
    ] {
        assert!(!html.contains(foreign), "{foreign}: {html}");
    }
    for tag in [
        "html", "head", "body", "main", "table", "tr", "td", "svg", "g", "text", "div",
    ] {
        let opened =
            html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    // The bars of the chart: one for each way and hour.
    assert_eq!(html.matches("<g><title>").count(), 24);
    assert!(html.contains("23:00: 4.8 KiB sent"), "{html}");
    assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
}

/// The tags and texts of a report, one a line.
fn elements(html: &str) -> String {
    html.replace('\n', "").replace("><", ">\n<") + "\n"
}

#[test]
fn html_consists_of_these_elements() {
    let sampled = Database::of(|snapshot| snapshot.sampled(10));
    let arguments = ["day", "2026-01-31", "--format", "html", "--numeric"];
    let html = stdout(&sampled.report(&[&arguments[..], &["--top", "1"]].concat()));
    // The file's first line names its licence.
    let (_, expected) = include_str!("report.html").split_once('\n').unwrap();
    assert_eq!(elements(&html), expected);
}

#[test]
fn nothing_collected_is_said_in_every_form() {
    let database = Database::new();
    for format in ["text", "csv", "json", "html"] {
        let output = database.report(&["month", "2020-01", "--format", format]);
        let text = stdout(&output);
        assert!(!text.contains("NaN") && !text.is_empty(), "{text}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains("nothing was collected in 2020-01"),
            "{error}"
        );
    }
}

#[test]
fn accounts_and_hosts_are_chosen() {
    let database = Database::new();
    let sent = |arguments: &[&str]| {
        let report = database.json(&[&["day", "2026-01-31"], arguments].concat());
        report["total"]["sent_bytes"].as_u64().unwrap()
    };
    assert_eq!(sent(&["--account", "lan", "--host", "gateway"]), 60_100);
    assert_eq!(sent(&["--account", "dmz"]), 0);
    assert_eq!(sent(&["--host", "elsewhere"]), 0);
}

#[test]
fn wrong_usage_ends_with_2() {
    let database = Database::new();
    for arguments in [
        &["week"][..],
        &["day", "yesterday"],
        &["month", "2026-13"],
        &["day", "--format", "pdf"],
        &["day", "--sample", "7m"],
        &[],
    ] {
        assert_eq!(
            database.report(arguments).status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
}

#[test]
fn file_that_cannot_be_written_is_named() {
    let output = Database::new().report(&["day", "2026-01-31", "--output", "/no/such/folder/a"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("/no/such/folder/a"), "{error}");
}

#[test]
fn report_is_delivered_to_the_folder_and_by_mail() {
    let database = Database::new();
    let path = |name: &str| database.folder.path().join(name);
    let (reports, mailed, config) = (path("reports"), path("mail"), path("trafstat.toml"));
    let deliver = |text: &str| {
        fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap();
        database.report(&["month", "2026-01", "--deliver", "--config", config])
    };
    let text = format!(
        "[report]\nfolder = {reports:?}\nmail = [\"root\"]\nmail-command = [\"sh\", \"-c\", \
         \"cat >{}\"]\n",
        mailed.display()
    );
    for _ in 0..2 {
        let output = deliver(&text);
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    let page = fs::read_to_string(reports.join("trafstat-2026-01.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>"), "{page}");
    let mail = fs::read_to_string(&mailed).unwrap();
    assert!(mail.starts_with("To: root\nSubject: Traffic of "), "{mail}");
    assert!(mail.contains("192.0.2.1"), "{mail}");

    let failing = text.replace("cat >", "exit 7; cat >");
    fs::remove_dir_all(&reports).unwrap();
    let output = deliver(&failing);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("cannot mail")
    );
    assert!(reports.join("trafstat-2026-01.html").exists());

    let output = deliver("");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("neither a folder")
    );
    assert_eq!(
        deliver("[report]\nmail = \"a\\nBcc: b\"\n").status.code(),
        Some(1)
    );
}
