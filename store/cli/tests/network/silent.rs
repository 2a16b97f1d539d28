// SPDX-License-Identifier: GPL-2.0-or-later
//! Servers that cannot be used, before one that can: they are passed over, and the log says so.

use std::net::TcpListener;
use std::process::Stdio;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;

use crate::common::lan;
use crate::mariadb_server::{self, NetworkServer, free_port};
use crate::program::{code, stderr, stdout};
use crate::tls::tls_server;
use crate::{Client, PASSWORD, PATIENCE, SPOOLED, small_server};

/// An address at which connections are taken and nothing is ever said.
fn silent_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let taken: Vec<_> = listener.incoming().collect();
        drop(taken);
    });
    address
}

fn server_of(
    server: &'static OnceLock<NetworkServer>,
    name: &str,
    option: &str,
) -> &'static NetworkServer {
    server.get_or_init(|| NetworkServer::start(name, |_| vec![option.to_owned()]))
}

/// Gives the client's user and database to another server, too.
fn share(client: &Client, server: &NetworkServer) {
    let mut root = mariadb_server::connect(&server.socket(), None);
    for statement in [
        format!("CREATE DATABASE {}", client.database),
        format!("CREATE USER {} IDENTIFIED BY '{PASSWORD}'", client.user),
        format!("GRANT ALL ON {}.* TO {}", client.database, client.user),
    ] {
        root.query_drop(statement).unwrap();
    }
}

fn address(server: &NetworkServer) -> String {
    format!("127.0.0.1:{}", server.port)
}

/// Collects behind these hosts; an answer is waited for at most two seconds.
fn collect_within_time(client: &Client, epoch: u64, hosts: &str) -> std::process::Output {
    client.collect(epoch, hosts, "connect-timeout = 2")
}

#[test]
fn silent_server_is_passed_over_within_seconds() {
    let (server, _) = tls_server();
    let mut client = Client::new(server);
    let (silent, here) = (silent_server(), client.here());
    let begin = Instant::now();
    let output = client.collect(1, &format!("{silent},{here}"), "connect-timeout = 5");
    client.assert_stored(&output);
    let error = stderr(&output);
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert!(
        error.contains(&format!(
            "{silent} is passed over: no answer within 5 seconds"
        )),
        "{error}"
    );
    client.assert_each_epoch_once(1);
}

#[test]
fn every_server_that_cannot_be_used_is_named_with_its_reason() {
    let (server, _) = tls_server();
    let client = Client::new(server);
    let (silent, closed) = (silent_server(), format!("127.0.0.1:{}", free_port()));
    let output = collect_within_time(&client, 1, &format!("{silent},{closed}"));
    client.assert_waits(
        1,
        &output,
        &[
            &format!("{silent}: no answer within 2 seconds"),
            &format!("{closed}: connection refused"),
        ],
    );
}

#[test]
fn server_that_denies_the_login_or_the_database_is_passed_over() {
    let (server, _) = tls_server();
    let mut client = Client::new(server);
    let hosts = format!("{},{}", address(small_server()), client.here());
    // It does not know the user; then it has no rights.
    let output = client.collect(1, &hosts, "");
    client.assert_stored(&output);
    let error = stderr(&output);
    assert!(error.contains("is passed over: Access denied"), "{error}");
    mariadb_server::connect(&small_server().socket(), None)
        .query_drop(format!(
            "CREATE USER {} IDENTIFIED BY '{PASSWORD}'",
            client.user
        ))
        .unwrap();
    let output = client.collect(2, &hosts, "");
    client.assert_stored(&output);
    let error = stderr(&output);
    assert!(error.contains("is passed over: Access denied"), "{error}");
    assert!(error.contains(&client.database), "{error}");
    client.assert_each_epoch_once(2);
}

#[test]
fn read_only_server_is_passed_over() {
    static READ_ONLY: OnceLock<NetworkServer> = OnceLock::new();
    let replica = server_of(&READ_ONLY, "read-only", "--read-only");
    let (server, _) = tls_server();
    let mut client = Client::new(server);
    share(&client, replica);
    let hosts = format!("{},{}", address(replica), client.here());
    let output = client.collect(1, &hosts, "");
    client.assert_stored(&output);
    let error = stderr(&output);
    assert!(
        error.contains("is passed over: the database is read-only"),
        "{error}"
    );
    client.assert_each_epoch_once(1);
}

#[test]
fn server_that_is_too_old_is_refused_at_once() {
    static OLD: OnceLock<NetworkServer> = OnceLock::new();
    // A server may be told what it is to say that it is.
    let old = server_of(&OLD, "old", "--version=10.4.34-MariaDB");
    let (server, _) = tls_server();
    let mut client = Client::new(server);
    share(&client, old);
    let output = client.collect(1, &address(old), "");
    client.assert_waits(
        1,
        &output,
        &["it is MariaDB 10.4.34-MariaDB, and trafstat needs MariaDB 10.5 or newer"],
    );
    let hosts = format!("{},{}", address(old), client.here());
    client.assert_stored(&client.collect(2, &hosts, ""));
    client.assert_each_epoch_once(2);
}

#[test]
fn server_without_autocommit_stores_what_it_is_given() {
    static SERVER: OnceLock<NetworkServer> = OnceLock::new();
    let server = server_of(&SERVER, "autocommit", "--autocommit=0");
    let mut client = Client::new(server);
    let here = client.here();
    client.assert_stored(&client.collect(1, &here, ""));
    client.assert_stored(&client.collect(2, &here, ""));
    client.assert_each_epoch_once(2);
}

#[test]
fn at_shutdown_an_epoch_is_safe_before_a_silent_server_is_asked() {
    let (server, _) = tls_server();
    let mut client = Client::new(server);
    let silent = silent_server();
    client.host.proc.serve(&[("lan", &lan(1))]);
    let mut collector = client
        .collector(&silent, "connect-timeout = 250")
        .arg("--spool-first")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while client.host.proc.commands("lan", &lan(1)).is_empty() {
        assert!(begin.elapsed() < PATIENCE, "the epoch is not kept");
        thread::sleep(Duration::from_millis(50));
    }
    // The stop limit.
    assert!(collector.try_wait().unwrap().is_none(), "it did not ask");
    collector.kill().unwrap();
    collector.wait().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(240));

    client.host.proc.serve(&[("lan", &lan(2))]);
    let here = client.here();
    let output = client.run(client.collector(&here, "").arg("--spool-first"));
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).ends_with(",stored\n"),
        "{}",
        stdout(&output)
    );
    assert!(stderr(&output).contains("1 epochs that waited"));
    client.assert_each_epoch_once(2);
}

#[test]
fn silence_leaves_the_epoch_in_the_spool() {
    let (server, _) = tls_server();
    let client = Client::new(server);
    let output = collect_within_time(&client, 1, &silent_server());
    assert_eq!(code(&output), SPOOLED, "{}", stderr(&output));
    client.assert_acknowledged(1);
}
