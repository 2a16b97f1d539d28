// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat quota`, run as users run it.

#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::{SnapshotBuilder, record};
use jiff::Timestamp;
use serde_json::Value;
use trafstat_store::backend::Sqlite;
use trafstat_store::collect::append;
use trafstat_store::origin::Origin;
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::Store;

/// A host with a database, a configuration and a command that notes what it was told.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    /// 1,000 bytes sent and 15,000 received by 192.0.2.1:443 just now, and a fifth by :22.
    fn new(quota: &str) -> Self {
        let host = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let command = host.path("hook");
        fs::write(
            &command,
            format!(
                "#!/bin/sh\nset -e\n[ ! -e {fails} ]\necho \"$TRAFSTAT_QUOTA_NAME \
                 $TRAFSTAT_QUOTA_PERCENT $TRAFSTAT_QUOTA_USED_BYTES \
                 $TRAFSTAT_QUOTA_LIMIT_BYTES $1\" >>{log}\n",
                fails = host.path("fails").display(),
                log = host.path("log").display()
            ),
        )
        .unwrap();
        fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
        host.configure(quota);
        let mut store = Sqlite::open(&host.path("trafstat.db")).unwrap();
        store.migrate().unwrap();
        host.count(1, 10);
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, quota: &str) {
        let text = format!(
            "[store]\ndb = \"{}\"\n[quota]\ncommand = [\"{}\", \"argument\"]\nstate = \"{}\"\n{quota}",
            self.path("trafstat.db").display(),
            self.path("hook").display(),
            self.path("state/quota.json").display(),
        );
        fs::write(self.path("trafstat.toml"), text).unwrap();
    }

    fn count(&self, epoch: u64, packets: u64) {
        let records = vec![
            record(1, 7, 6, 443, packets),
            record(1, 8, 6, 22, packets / 5),
        ];
        let mut snapshot = SnapshotBuilder::new("lan", epoch, records);
        let now = Timestamp::now().as_nanosecond() as u64;
        (snapshot.header.opened_ns, snapshot.header.closed_ns) = (now - 1000, now);
        snapshot.header.duration_ns = 1000;
        let origin = Origin {
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
            hostname: "gateway".to_owned(),
            netns: "init".to_owned(),
        };
        let mut store = Sqlite::open(&self.path("trafstat.db")).unwrap();
        let bytes = snapshot.bytes();
        append(
            &mut store,
            &origin,
            &mut Snapshot::open(&bytes[..]).unwrap(),
        )
        .unwrap();
    }

    fn quota(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_trafstat"))
            .arg("quota")
            .args(arguments)
            .env("TRAFSTAT_CONFIG", self.path("trafstat.toml"))
            .env("TZ", "UTC")
            .output()
            .unwrap()
    }

    fn warn(&self) -> Output {
        self.quota(&["--warn"])
    }

    /// What the command noted.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// 80 % of it are used.
const WEB: &str = "[[quota.limit]]\nname = \"web\"\nbytes = \"20000 B\"\nlocal-ip = \"192.0.2.1\"\n\
    local-port = 443\nprotocol = \"tcp\"\n";

#[test]
fn usage_is_told_for_people_and_programs() {
    let host = Host::new(
        &(WEB.to_owned()
            + "[[quota.limit]]\nname = \"sent\"\nbytes = \"2400 B\"\nper = \"day\"\ncount = \"sent\"\n"),
    );
    let output = host.quota(&[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("web") && text.contains("15.6 KiB"), "{text}");
    let output = host.quota(&["--format", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let quotas = answer["quotas"].as_array().unwrap();
    assert_eq!(
        (&quotas[0]["used_bytes"], &quotas[0]["percent"]),
        (&16_000.into(), &80.into())
    );
    assert_eq!(
        (&quotas[1]["used_bytes"], &quotas[1]["percent"]),
        (&1200.into(), &50.into())
    );
    let output = host.quota(&["--format", "csv"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with(",1200,2400,50\n"), "{text}");
    assert_eq!(host.log(), [""; 0]);
}

#[test]
fn command_runs_once_for_each_percentage() {
    let host = Host::new(WEB);
    for _ in 0..3 {
        let output = host.warn();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(output.stdout, b"");
        assert_eq!(host.log(), ["web 80 16000 20000 argument"]);
    }
    host.count(2, 10);
    for _ in 0..2 {
        host.warn();
        assert_eq!(host.log()[1..], ["web 100 32000 20000 argument"]);
    }
}

#[test]
fn percentages_that_are_reached_at_once_are_all_told() {
    let host = Host::new(&("warn-at = [50, 75, 90]\n".to_owned() + WEB));
    host.warn();
    assert_eq!(
        host.log(),
        ["web 50 16000 20000 argument", "web 75 16000 20000 argument"]
    );
}

#[test]
fn new_period_warns_anew() {
    let host = Host::new(WEB);
    host.warn();
    let state = host.path("state/quota.json");
    let text = fs::read_to_string(&state).unwrap();
    let (begin, rest) = text.split_once("\"begin\": \"").unwrap();
    let (_, rest) = rest.split_once('"').unwrap();
    fs::write(
        &state,
        format!("{begin}\"begin\": \"2020-01-01T00:00:00Z\"{rest}"),
    )
    .unwrap();
    host.warn();
    assert_eq!(host.log().len(), 2);
}

#[test]
fn command_that_fails_runs_again() {
    let host = Host::new(WEB);
    fs::write(host.path("fails"), "").unwrap();
    let output = host.warn();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("80 % of \"web\"") && error.contains("exit status: 1"),
        "{error}"
    );
    fs::remove_file(host.path("fails")).unwrap();
    assert_eq!(host.warn().status.code(), Some(0));
    assert_eq!(host.log().len(), 1);
}

#[test]
fn two_runs_at_once_warn_once() {
    let host = Host::new(WEB);
    let warn = || {
        Command::new(env!("CARGO_BIN_EXE_trafstat"))
            .args(["quota", "--warn"])
            .env("TRAFSTAT_CONFIG", host.path("trafstat.toml"))
            .env("TZ", "UTC")
            .spawn()
            .unwrap()
    };
    let running: Vec<_> = (0..4).map(|_| warn()).collect();
    for mut child in running {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(host.log().len(), 1);
}

#[test]
fn damaged_state_is_named_and_warns_nobody() {
    let host = Host::new(WEB);
    fs::create_dir_all(host.path("state")).unwrap();
    fs::write(host.path("state/quota.json"), "{").unwrap();
    let output = host.warn();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("state/quota.json: delete it"), "{error}");
    assert_eq!(host.log(), [""; 0]);
}

#[test]
fn without_limits_there_is_nothing_to_do() {
    let host = Host::new("");
    let output = host.warn();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!((output.stdout, output.stderr), (Vec::new(), Vec::new()));
    let output = host.quota(&[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("limits nothing")
    );
}

#[test]
fn wrong_configuration_says_where() {
    let host = Host::new("[[quota.limit]]\nname = \"web\"\nbytes = \"a lot\"\n");
    let output = host.quota(&[]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("trafstat.toml, line") && error.contains("500 GB"),
        "{error}"
    );
}

#[test]
fn status_has_quotas_and_warns_about_them() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may look at rules and accounts");
        return;
    }
    let host = Host::new(WEB);
    let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
        .args(["status", "--format", "json"])
        .env("TRAFSTAT_CONFIG", host.path("trafstat.toml"))
        .env("TZ", "UTC")
        .output()
        .unwrap();
    let status: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(status["quotas"][0]["percent"], 80);
    let findings = status["findings"].as_array().unwrap();
    let quota = findings
        .iter()
        .find(|finding| finding["kind"] == "quota")
        .unwrap();
    assert_eq!(quota["is_error"], false);
    assert!(
        quota["what"]
            .as_str()
            .unwrap()
            .contains("web: 15.6 KiB of 19.5 KiB, 80 %"),
        "{quota}"
    );
}
