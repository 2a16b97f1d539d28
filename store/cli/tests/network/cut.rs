// SPDX-License-Identifier: GPL-2.0-or-later
//! Connections that are cut while a transaction is committed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::Client;
use crate::mariadb_server::NetworkServer;
use crate::program::stdout;
use crate::tls::tls_server;

/// When a proxy cuts a connection.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    /// The client has sent COMMIT, the server has not got it.
    BeforeCommit,
    /// The server has committed, the client does not hear of it.
    BeforeAnswer,
}

/// Stands before the server at a port of its own, and cuts the connection of one epoch.
fn proxy(server: &'static NetworkServer, cut: Cut) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let has_cut: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
            thread::spawn(move || forward(&client, &server, cut, has_cut));
        }
    });
    port
}

fn forward(client: &TcpStream, server: &TcpStream, cut: Cut, has_cut: &AtomicBool) {
    let swallows = AtomicBool::new(false);
    let end = || {
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            each_piece(server, |piece| {
                !swallows.load(Ordering::SeqCst) && { client }.write_all(piece).is_ok()
            });
            end();
        });
        let mut has_epoch = false;
        each_piece(client, |piece| {
            let says = |text: &[u8]| piece.windows(text.len()).any(|bytes| bytes == text);
            has_epoch |= says(b"INSERT INTO snapshot");
            // COM_QUERY and its text.
            if has_epoch && says(b"\x03COMMIT") && !has_cut.swap(true, Ordering::SeqCst) {
                if cut == Cut::BeforeCommit {
                    return false;
                }
                swallows.store(true, Ordering::SeqCst);
            }
            { server }.write_all(piece).is_ok()
        });
        // What the server still answers is waited for.
        if !swallows.load(Ordering::SeqCst) {
            end();
        }
    });
}

/// Hands on what comes, until nothing does or it is not wanted.
fn each_piece(mut from: &TcpStream, mut wants_more: impl FnMut(&[u8]) -> bool) {
    let mut bytes = [0; 65536];
    while let Ok(count) = from.read(&mut bytes) {
        if count == 0 || !wants_more(&bytes[..count]) {
            return;
        }
    }
}

fn commit_that_is_cut(cut: Cut, state: &str) {
    let (server, _) = tls_server();
    let mut client = Client::new(server);
    let here = client.here();
    client.assert_stored(&client.collect(1, &here, ""));
    let through = format!("127.0.0.1:{}", proxy(server, cut));
    // The proxy reads what is said.
    let output = client.collect(2, &through, "skip-ssl");
    client.assert_stored(&output);
    let report = stdout(&output);
    assert!(report.ends_with(&format!(",{state}\n")), "{report}");
    client.assert_acknowledged(2);
    client.assert_each_epoch_once(2);
}

#[test]
fn epoch_whose_commit_did_not_reach_the_server_is_stored_once() {
    commit_that_is_cut(Cut::BeforeCommit, "stored");
}

#[test]
fn epoch_whose_commit_was_not_answered_is_stored_once() {
    commit_that_is_cut(Cut::BeforeAnswer, "already stored");
}
