// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store --every`, as systemd runs it.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/mariadb.rs"]
mod mariadb_server;
mod program;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{SnapshotBuilder, lan, record};
use mysql::prelude::Queryable;
use program::{Host, code, mysql_url, program, stderr};
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The service, and the socket on which systemd would listen.
struct Service {
    child: Option<Child>,
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Service {
    fn start(host: &Host, command: &mut Command) -> Self {
        let path = host.folder.path().join("notify");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = command
            .env("NOTIFY_SOCKET", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child: Some(child),
            socket,
            heard: Vec::new(),
        }
    }

    /// Waits until the service tells something.
    fn hear(&mut self, expected: &str) {
        let start = Instant::now();
        let mut bytes = [0; 4096];
        while start.elapsed() < PATIENCE {
            let count = self.socket.recv(&mut bytes).expect("the service is silent");
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            let found = text.lines().any(|line| line.starts_with(expected));
            self.heard.push(text);
            if found {
                return;
            }
        }
        panic!("{expected} was not among {:?}", self.heard);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    fn end(mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn service_is_ready_alive_and_ends_cleanly() {
    let host = Host::new();
    host.proc.serve(&[("lan", &lan(1))]);
    let mut command = host.command();
    command
        .args(["--every", "1h"])
        .env("WATCHDOG_USEC", "1000000");
    let mut service = Service::start(&host, &mut command);
    service.hear("READY=1");
    service.hear("STATUS=stored 1 epochs of 2 records");
    for _ in 0..3 {
        service.hear("WATCHDOG=1");
    }
    assert_eq!(host.proc.commands("lan", &lan(1)), "ack 1\n");
    assert_eq!(host.sent_packets(), 30);
    service.signal(Signal::TERM);
    service.hear("STOPPING=1");
    let output = service.end();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn service_collects_again_when_it_is_due() {
    let host = Host::new();
    host.proc.serve(&[("lan", &lan(1))]);
    let mut service = Service::start(&host, host.command().args(["--every", "3s"]));
    service.hear("STATUS=stored 1 epochs");
    for epoch in 2..=3 {
        host.proc.serve(&[("lan", &lan(epoch))]);
        service.hear("STATUS=stored 1 epochs");
    }
    service.signal(Signal::INT);
    let output = service.end();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert_eq!(host.sent_packets(), 90);
}

#[test]
fn service_forwards_as_soon_as_the_database_is_back() {
    let host = Host::new();
    host.proc.serve(&[("lan", &lan(1))]);
    assert_eq!(code(&host.run(&[])), Some(0));
    let database = Connection::open(host.db()).unwrap();
    let version: i64 = database
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    database
        .pragma_update(None, "user_version", 1 << 30)
        .unwrap();
    host.proc.serve(&[("lan", &lan(2))]);
    // Long before the next round.
    let mut service = Service::start(&host, host.command().args(["--every", "10h"]));
    service.hear("STATUS=stored 0 epochs of 2 records, 1 spooled, 1 waiting in the spool");
    assert_eq!(host.proc.commands("lan", &lan(2)), "ack 2\n");
    database
        .pragma_update(None, "user_version", version)
        .unwrap();
    service.hear("STATUS=stored 0 epochs of 0 records, 1 forwarded from the spool");
    service.signal(Signal::TERM);
    let output = service.end();
    assert_eq!(code(&output), Some(0));
    let error = stderr(&output);
    assert!(error.contains("the database is away"), "{error}");
    assert!(error.contains("the database is back"), "{error}");
    assert_eq!(host.sent_packets(), 60);
}

#[test]
fn service_spools_once_the_database_is_of_a_later_release() {
    let host = Host::new();
    host.proc.serve(&[("lan", &lan(1))]);
    let mut service = Service::start(&host, host.command().args(["--every", "5s"]));
    service.hear("STATUS=stored 1 epochs");
    // It has the database open.
    let database = Connection::open(host.db()).unwrap();
    let version: i64 = database
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    database
        .pragma_update(None, "user_version", version + 1)
        .unwrap();
    host.proc.serve(&[("lan", &lan(2))]);
    service.hear("STATUS=stored 0 epochs of 2 records, 1 spooled, 1 waiting in the spool");
    database
        .pragma_update(None, "user_version", version)
        .unwrap();
    service.hear("STATUS=stored 0 epochs of 0 records, 1 forwarded from the spool");
    service.signal(Signal::TERM);
    let output = service.end();
    assert!(
        stderr(&output).contains("upgrade trafstat"),
        "{}",
        stderr(&output)
    );
    assert_eq!(host.sent_packets(), 60);
}

#[test]
fn configuration_is_read_again_on_sighup() {
    let host = Host::new();
    host.proc.serve(&[("lan", &lan(1))]);
    let config = host.folder.path().join("trafstat.toml");
    fs::write(&config, "[collect]\nevery = \"10h\"\n").unwrap();
    let mut service = Service::start(&host, host.command().arg("--config").arg(&config));
    service.hear("STATUS=stored 1 epochs");
    fs::write(&config, "[collect]\nevery = \"soon\"\n").unwrap();
    service.signal(Signal::HUP);
    service.hear("RELOADING=1");
    service.hear("READY=1");
    // Its round is over, and the next is hours away.
    service.hear("STATUS=");
    fs::write(&config, "[collect]\nevery = \"2s\"\n").unwrap();
    host.proc.serve(&[("lan", &lan(2))]);
    service.signal(Signal::HUP);
    service.hear("RELOADING=1");
    service.hear("STATUS=stored 1 epochs");
    service.signal(Signal::TERM);
    let output = service.end();
    assert_eq!(code(&output), Some(0));
    let error = stderr(&output);
    assert!(error.contains("line 2, key every"), "{error}");
    assert!(
        error.contains("The configuration stays as it was"),
        "{error}"
    );
    assert!(error.contains("the configuration is read again"), "{error}");
    assert_eq!(host.sent_packets(), 60);
}

#[test]
fn service_without_the_module_says_so_and_waits_for_it() {
    let host = Host::new();
    let accounts = host.proc.path().join("accounts");
    let aside = host.folder.path().join("accounts");
    fs::rename(&accounts, &aside).unwrap();
    let mut command = host.command();
    command.args(["--every", "2s"]);
    let mut service = Service::start(&host, &mut command);
    service.hear("READY=1");
    fs::rename(&aside, &accounts).unwrap();
    host.proc.serve(&[("lan", &lan(1))]);
    service.hear("STATUS=stored 1 epochs of 2 records");
    service.signal(Signal::TERM);
    let output = service.end();
    assert_eq!(code(&output), Some(0));
    assert!(stderr(&output).contains("modprobe xt_TRAFSTAT"));
}

/// A million records of 50,000 remote addresses and 250 local ones.
fn million(epoch: u64) -> SnapshotBuilder {
    let records = (0..1_000_000_u32)
        .map(|number| {
            let local = (number % 250) as u8;
            let mut record = record(local, 1, 6, (number / 250) as u16, 3);
            record.remote_ip = (0x0a00_0000 + number % 50_000).to_be_bytes();
            record
        })
        .collect();
    SnapshotBuilder::new("lan", epoch, records)
}

/// The most memory that the process ever had.
fn peak_kib(service: &Service) -> u64 {
    let id = service.child.as_ref().unwrap().id();
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn snapshot_of_a_million_records_streams_through_64_mib() {
    let host = Host::new();
    host.proc.serve(&[("lan", &million(1))]);
    let mut service = Service::start(&host, host.command().args(["--every", "10h"]));
    service.hear("STATUS=stored 1 epochs of 1000000 records");
    let stored_kib = peak_kib(&service);
    service.signal(Signal::TERM);
    assert_eq!(code(&service.end()), Some(0));
    assert_eq!(host.sent_packets(), 3_000_000);

    // Through the spool too.
    let database = Connection::open(host.db()).unwrap();
    let version: i64 = database
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    database
        .pragma_update(None, "user_version", 1 << 30)
        .unwrap();
    host.proc.serve(&[("lan", &million(2))]);
    let mut service = Service::start(&host, host.command().args(["--every", "10h"]));
    service.hear("STATUS=stored 0 epochs of 1000000 records, 1 spooled");
    let spooled_kib = peak_kib(&service);
    database
        .pragma_update(None, "user_version", version)
        .unwrap();
    service.hear("STATUS=stored 0 epochs of 0 records, 1 forwarded");
    let forwarded_kib = peak_kib(&service);
    service.signal(Signal::TERM);
    assert_eq!(code(&service.end()), Some(0));
    assert_eq!(host.sent_packets(), 6_000_000);

    let peaks = [stored_kib, spooled_kib, forwarded_kib];
    assert!(peaks.iter().all(|&peak| peak < 64 * 1024), "{peaks:?} KiB");
}

#[test]
fn snapshot_of_a_million_records_streams_into_mariadb() {
    let host = Host::new();
    host.proc.serve(&[("lan", &million(1))]);
    let socket = mariadb_server::socket();
    let database = mariadb_server::create_database(socket);
    let mut command = program();
    command
        .arg("--proc-root")
        .arg(host.proc.path())
        .arg("--spool")
        .arg(host.spool())
        .args(["--url", &mysql_url(socket, &database, "root")])
        .args(["--every", "10h"]);
    let mut service = Service::start(&host, &mut command);
    service.hear("STATUS=stored 1 epochs of 1000000 records");
    let peak = peak_kib(&service);
    service.signal(Signal::TERM);
    assert_eq!(code(&service.end()), Some(0));
    assert!(peak < 64 * 1024, "{peak} KiB");
    let stored: Option<u64> = mariadb_server::connect(socket, Some(&database))
        .query_first("SELECT CAST(SUM(sent_packets) AS UNSIGNED) FROM record")
        .unwrap();
    assert_eq!(stored, Some(3_000_000));
}
