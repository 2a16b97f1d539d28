// SPDX-License-Identifier: GPL-2.0-or-later
//! Many hosts in one store: who they are, those that pass for one, and their clocks.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/mariadb.rs"]
mod mariadb_server;
#[path = "../../tests/common/mysql.rs"]
mod mysql_server;
mod program;

use std::fs;
use std::path::Path;

use common::{SnapshotBuilder, lan, record};
use jiff::{SignedDuration, Timestamp};
use mariadb_server::NetworkServer;
use mysql::prelude::Queryable;
use program::{Host, code, stderr, stdout};
use trafstat_store::backend::{Mysql, Sqlite};
use trafstat_store::collect::append;
use trafstat_store::host::{HostCheck, KnownHost, RunningHost};
use trafstat_store::origin::Origin;
use trafstat_store::query::{Field, Filter, Order, Query};
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::Store;

const ID: &str = "0123456789abcdef0123456789abcdef";

fn host(hostname: &str, boot_id: &str) -> RunningHost {
    RunningHost {
        machine_id: ID.to_owned(),
        hostname: hostname.to_owned(),
        boot_id: boot_id.to_owned(),
        clock: Timestamp::now,
    }
}

fn twins(host_check: &HostCheck) -> Option<Vec<&str>> {
    let twin = host_check.twin.as_ref()?;
    assert_eq!(twin.machine_id, ID);
    Some(twin.hostnames.iter().map(String::as_str).collect())
}

fn sqlite(test: impl FnOnce(&mut dyn Store)) {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(&folder.path().join("trafstat.db")).unwrap();
    store.migrate().unwrap();
    test(&mut store);
}

fn server(socket: &Path, test: impl FnOnce(&mut dyn Store)) {
    let database = mariadb_server::create_database(socket);
    let mut store = Mysql::open(&mariadb_server::login(socket, &database)).unwrap();
    store.migrate().unwrap();
    test(&mut store);
}

fn mariadb(test: impl FnOnce(&mut dyn Store)) {
    server(mariadb_server::socket(), test);
}

fn mysql_itself(test: impl FnOnce(&mut dyn Store)) {
    server(mysql_server::socket(), test);
}

macro_rules! on_every_backend {
    ($($behaviour:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[test]
            fn $behaviour() {
                super::sqlite(super::$behaviour);
            })*
        }

        mod on_mariadb {
            $(#[test]
            fn $behaviour() {
                super::mariadb(super::$behaviour);
            })*
        }

        mod on_mysql_itself {
            $(#[test]
            #[ignore = "needs MySQL's own server: cargo xtask test --all"]
            fn $behaviour() {
                super::mysql_itself(super::$behaviour);
            })*
        }
    };
}

on_every_backend! {
    hosts_of_one_machine_id_are_noticed_and_stay_apart,
    reboots_are_one_host,
    host_that_got_an_id_of_its_own_is_forgotten,
    hosts_are_listed_by_name,
}

fn hosts_of_one_machine_id_are_noticed_and_stay_apart(store: &mut dyn Store) {
    let collect = |store: &mut dyn Store, hostname: &str, epoch| {
        // An account is known by what its kernel drew, not by its name.
        let mut snapshot = lan(epoch);
        snapshot.header.account_id[15] = hostname.as_bytes()[0];
        let origin = Origin {
            machine_id: ID.to_owned(),
            hostname: hostname.to_owned(),
            netns: "init".to_owned(),
        };
        append(
            store,
            &origin,
            &mut Snapshot::open(&snapshot.bytes()[..]).unwrap(),
        )
        .unwrap();
    };
    let mut noticed = Vec::new();
    for epoch in 1..=3 {
        for hostname in ["alpha", "beta"] {
            let host_check = store.check_in(&host(hostname, hostname)).unwrap();
            noticed.push(twins(&host_check).is_some());
            collect(store, hostname, epoch);
        }
    }
    // The second host could be the first one, booted again; the first one comes back.
    assert_eq!(noticed, [false, false, true, true, true, true]);
    let host_check = store.check_in(&host("alpha", "alpha")).unwrap();
    assert_eq!(twins(&host_check).unwrap(), ["alpha", "beta"]);
    let warning = host_check.warnings().join("\n");
    for part in [ID, "alpha and beta", "systemd-machine-id-setup"] {
        assert!(warning.contains(part), "{warning}");
    }
    let hosts = store.hosts().unwrap();
    let found: Vec<(&str, bool)> = hosts
        .iter()
        .map(|host| (host.hostname.as_str(), host.shares_machine_id))
        .collect();
    assert_eq!(found, [("beta", true), ("alpha", true)]);
    // Nothing is lost, and nothing taken for the same: 2 hosts, 3 epochs, 30 packets.
    let query = Query {
        by: vec![Field::RemoteIp, Field::LocalIp],
        filter: Filter::default(),
        order: Order::Bytes,
        limit: None,
        ..Query::default()
    };
    let answer = store.query(&query).unwrap();
    assert_eq!(answer.total.sent_packets, 2 * 3 * 30);
    assert!(store.check().unwrap().is_empty());
}

fn reboots_are_one_host(store: &mut dyn Store) {
    for boot in ["one", "two", "three"] {
        for _ in 0..2 {
            let host_check = store.check_in(&host("alpha", boot)).unwrap();
            assert_eq!(host_check, HostCheck::default());
        }
    }
    let hosts = store.hosts().unwrap();
    assert_eq!(hosts.len(), 1);
    assert!(!hosts[0].shares_machine_id);
    assert!(hosts[0].warnings().is_empty());
}

fn host_that_got_an_id_of_its_own_is_forgotten(store: &mut dyn Store) {
    for hostname in ["alpha", "beta", "alpha"] {
        store.check_in(&host(hostname, hostname)).unwrap();
    }
    let mut beta = host("beta", "beta, booted again");
    beta.machine_id = "f".repeat(32);
    assert_eq!(store.check_in(&beta).unwrap(), HostCheck::default());
    // A day and an hour later, where the store goes by the host's clock.
    let mut alpha = host("alpha", "alpha");
    alpha.clock = || Timestamp::now() + SignedDuration::from_hours(25);
    let host_check = store.check_in(&alpha).unwrap();
    if host_check.clock_ahead.is_none() {
        assert_eq!(host_check, HostCheck::default());
        assert!(
            store
                .hosts()
                .unwrap()
                .iter()
                .all(|host| !host.shares_machine_id)
        );
    }
}

fn hosts_are_listed_by_name(store: &mut dyn Store) {
    for (hostname, id) in [("gamma", "3"), ("alpha", "1"), ("beta", "2")] {
        let mut host = host(hostname, id);
        host.machine_id = id.repeat(32);
        store.check_in(&host).unwrap();
    }
    let hosts = store.hosts().unwrap();
    let names: Vec<&str> = hosts.iter().map(|host| host.hostname.as_str()).collect();
    assert_eq!(names, ["alpha", "beta", "gamma"]);
    for host in hosts {
        let age = Timestamp::now().duration_since(host.seen.unwrap());
        assert!(age.abs() < SignedDuration::from_mins(10), "{age}");
    }
}

#[test]
fn clock_apart_from_the_servers_is_told_and_kept() {
    clock_apart_from_the_servers(mariadb);
}

#[test]
#[ignore = "needs MySQL's own server: cargo xtask test --all"]
fn clock_apart_from_mysqls_own_server_is_told_and_kept() {
    clock_apart_from_the_servers(mysql_itself);
}

fn clock_apart_from_the_servers(on: fn(fn(&mut dyn Store))) {
    on(|store| {
        let mut alpha = host("alpha", "1");
        assert_eq!(store.check_in(&alpha).unwrap().clock_ahead, None);
        let hour = SignedDuration::from_hours(1);
        for (expected, side) in [(hour, "ahead of"), (-hour, "behind")] {
            alpha.clock = match side {
                "behind" => || Timestamp::now() - SignedDuration::from_hours(1),
                _ => || Timestamp::now() + SignedDuration::from_hours(1),
            };
            let host_check = store.check_in(&alpha).unwrap();
            let ahead = host_check.clock_ahead.unwrap();
            // What asking took, on a busy machine.
            assert!((ahead - expected).abs() < SignedDuration::from_secs(60));
            assert!(host_check.warnings()[0].contains(side), "{host_check:?}");
            let hosts = store.hosts().unwrap();
            assert!(hosts[0].has_wrong_clock());
            assert!(hosts[0].warnings()[0].contains("host alpha"));
        }
        alpha.clock = Timestamp::now;
        store.check_in(&alpha).unwrap();
        assert!(
            !store
                .hosts()
                .unwrap()
                .iter()
                .any(KnownHost::has_wrong_clock)
        );
    });
}

#[test]
fn collector_says_that_another_host_passes_for_this_one() {
    let here = Host::new();
    let origin = Origin::of_this_process().unwrap();
    let collect = |epoch| {
        here.proc.serve(&[("lan", &lan(epoch))]);
        here.run(&[])
    };
    assert_eq!(stderr(&collect(1)), "");
    let mut copy = RunningHost::new(&origin).unwrap();
    copy.hostname = "copy".to_owned();
    copy.boot_id = "of the copy".to_owned();
    Sqlite::open(&here.db()).unwrap().check_in(&copy).unwrap();
    let output = collect(2);
    assert_eq!(code(&output), Some(0));
    let warning = stderr(&output);
    for part in ["two running hosts", &origin.machine_id, "copy"] {
        assert!(warning.contains(part), "{warning}");
    }
    assert_eq!(here.sent_packets(), 60);

    let check = here.run(&["check"]);
    assert_eq!(code(&check), Some(0));
    assert!(stderr(&check).contains("two running hosts"));
    let hosts = here.run(&["hosts", "--format", "json"]);
    let hosts: serde_json::Value = serde_json::from_slice(&hosts.stdout).unwrap();
    let shared: Vec<&serde_json::Value> = hosts["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|host| &host["shares_machine_id"])
        .collect();
    assert_eq!(shared, [true, true]);
    let table = stdout(&here.run(&["hosts"]));
    assert!(table.trim_start().starts_with("HOST"), "{table}");
    assert!(table.contains("copy"), "{table}");
    let csv = stdout(&here.run(&["hosts", "--format", "csv"]));
    assert_eq!(csv.lines().count(), 3, "{csv}");
}

#[test]
fn collector_and_check_say_how_far_clocks_are_apart() {
    // What this server takes for the time, for all but root, is an hour ago.
    let server = NetworkServer::start("slow", |_| {
        vec!["--init-connect=SET timestamp = UNIX_TIMESTAMP() - 3600".to_owned()]
    });
    let database = mariadb_server::create_database(&server.socket());
    let mut root = mariadb_server::connect(&server.socket(), None);
    root.query_drop("CREATE USER collector IDENTIFIED BY 'swordfish'")
        .unwrap();
    root.query_drop(format!("GRANT ALL ON {database}.* TO collector"))
        .unwrap();
    let here = Host::new();
    let options = here.folder.path().join("my.cnf");
    fs::write(&options, "[client]\npassword = swordfish\n").unwrap();
    let url = format!("mysql://collector@127.0.0.1:{}/{database}", server.port);
    let run = |arguments: &[&str]| {
        here.command()
            .args(arguments)
            .args(["--url", &url, "--defaults-file"])
            .arg(&options)
            .output()
            .unwrap()
    };
    here.proc.serve(&[(
        "lan",
        &SnapshotBuilder::new("lan", 1, vec![record(1, 1, 6, 22, 10)]),
    )]);
    let output = run(&[]);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("this host's clock is 1h"),
        "{}",
        stderr(&output)
    );
    let check = run(&["check"]);
    assert_eq!(code(&check), Some(0));
    assert!(
        stderr(&check).contains("ahead of the database server's when it last collected"),
        "{}",
        stderr(&check)
    );
}
