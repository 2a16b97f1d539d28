// SPDX-License-Identifier: GPL-2.0-or-later
//! Several hosts write to a cluster of three MariaDB nodes, one of which dies and returns.

mod common;
#[path = "common/mariadb.rs"]
mod mariadb_server;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{SnapshotBuilder, record};
use mysql::Conn;
use mysql::prelude::Queryable;
use trafstat_store::backend::{Mysql, MysqlHost, MysqlLogin};
use trafstat_store::collect::{CollectError, append};
use trafstat_store::origin::Origin;
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::{Retention, Store};

const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";

const NODES: usize = 3;

const HOSTS: usize = 4;

/// Epochs that each host stores before the node dies, while it is dead, and after.
const EPOCHS: u64 = 60;

/// Longer than a cluster takes to notice, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(400);

/// A node's folder and the first of its four ports.
struct Node {
    folder: PathBuf,
    port: u16,
}

impl Node {
    fn start(&self, nodes: &[Node], first: bool) -> u32 {
        let addresses: Vec<String> = nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port))
            .collect();
        let port = self.port;
        let mut options = vec![
            format!("--port={}", port + 4),
            "--bind-address=127.0.0.1".to_owned(),
            "--binlog-format=ROW".to_owned(),
            "--innodb-autoinc-lock-mode=2".to_owned(),
            "--innodb-buffer-pool-size=64M".to_owned(),
            "--wsrep-on=ON".to_owned(),
            format!("--wsrep-provider={PROVIDER}"),
            "--wsrep-cluster-name=trafstat".to_owned(),
            format!("--wsrep-cluster-address=gcomm://{}", addresses.join(",")),
            format!("--wsrep-node-name=n{port}"),
            format!("--wsrep-node-address=127.0.0.1:{port}"),
            format!("--wsrep-sst-receive-address=127.0.0.1:{}", port + 3),
            "--wsrep-sst-method=rsync".to_owned(),
            format!(
                "--wsrep-provider-options=base_port={port};gmcast.listen_addr=tcp://127.0.0.1:{port};\
                 ist.recv_addr=127.0.0.1:{};gcache.size=32M",
                port + 2
            ),
        ];
        if first {
            options.push("--wsrep-new-cluster".to_owned());
        }
        mariadb_server::spawn(&self.folder, &options)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("s.sock")
    }

    /// Waits until the node has everything that the cluster has.
    fn wait_until_synced(&self) {
        let begin = Instant::now();
        loop {
            mariadb_server::wait_until_ready(&self.folder);
            let state: Option<(String, String)> = mariadb_server::connect(&self.socket(), None)
                .query_first("SHOW STATUS LIKE 'wsrep_local_state_comment'")
                .unwrap_or_default();
            if state.is_some_and(|(_, state)| state == "Synced") {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "the node does not synchronize");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// A connection whose reads wait for what was committed at other nodes.
    fn reader(&self) -> Conn {
        let mut connection = mariadb_server::connect(&self.socket(), None);
        connection
            .query_drop("SET SESSION wsrep_sync_wait = 1")
            .unwrap();
        connection
    }
}

#[test]
fn every_epoch_of_every_host_is_there_once_after_a_node_died_and_returned() {
    if !Path::new(PROVIDER).exists() {
        println!("skipped: galera-4 is not installed");
        return;
    }
    let nodes: Vec<Node> = (0..NODES)
        .map(|number| Node {
            folder: mariadb_server::new_folder(&format!("node{number}")),
            port: free_ports(),
        })
        .collect();
    mariadb_server::install(&nodes[0].folder.join("data"));
    for node in &nodes[1..] {
        let data = node.folder.join("data");
        std::fs::create_dir(&data).unwrap();
        if let Some(user) = mariadb_server::user_options() {
            let user = user.trim_start_matches("--user=");
            assert!(
                Command::new("chown")
                    .arg(user)
                    .arg(&data)
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }
    let mut processes = Vec::new();
    for (node, number) in nodes.iter().zip(0..) {
        processes.push(node.start(&nodes, number == 0));
        node.wait_until_synced();
    }
    let database = mariadb_server::create_database(&nodes[0].socket());
    // A login waits for nothing, only what is read after it: each node has the database before.
    for node in &nodes {
        let found: Option<String> = node
            .reader()
            .exec_first(
                "SELECT schema_name FROM information_schema.schemata WHERE schema_name = ?",
                (&database,),
            )
            .unwrap();
        assert!(found.is_some(), "a node has no database {database}");
    }
    Mysql::open(&login(&nodes, 0, &database))
        .unwrap()
        .migrate()
        .unwrap();

    // Epochs up to this one may be stored; raised as the test goes on.
    let closed = AtomicU64::new(EPOCHS);
    let stored: Vec<AtomicU64> = (0..HOSTS).map(|_| AtomicU64::new(0)).collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // However this ends, the collectors do.
        let _ending = Ending(&over);
        for (host, stored) in stored.iter().enumerate() {
            let (closed, over) = (&closed, &over);
            let login = login(&nodes, host, &database);
            scope.spawn(move || collect(host, &login, closed, stored, over));
        }
        wait_until_stored(&stored, EPOCHS);

        // Node 1 dies while everyone writes.
        closed.store(2 * EPOCHS, Ordering::SeqCst);
        wait_until_stored(&stored, EPOCHS + 2);
        kill(processes[1]);
        wait_until_stored(&stored, 2 * EPOCHS);

        // It returns while everyone writes.
        closed.store(3 * EPOCHS, Ordering::SeqCst);
        processes[1] = nodes[1].start(&nodes, false);
        wait_until_stored(&stored, 3 * EPOCHS);
    });

    for node in &nodes {
        node.wait_until_synced();
        let mut connection = node.reader();
        connection.query_drop(format!("USE `{database}`")).unwrap();
        let counts: Vec<(u64, u64, i64)> = connection
            .query(
                "SELECT COUNT(*), COUNT(DISTINCT epoch), CAST(SUM(records) AS SIGNED)
                 FROM snapshot GROUP BY host_id",
            )
            .unwrap();
        let expected = (3 * EPOCHS, 3 * EPOCHS, 6 * EPOCHS as i64);
        assert_eq!(counts, [expected; HOSTS]);
    }
    let mut store = Mysql::open(&login(&nodes, 1, &database)).unwrap();
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    drop(store);
    for process in processes {
        kill(process);
    }
}

#[test]
fn cluster_that_takes_100_000_rows_a_transaction_takes_merge_and_rotation() {
    if !Path::new(PROVIDER).exists() {
        println!("skipped: galera-4 is not installed");
        return;
    }
    let node = Node {
        folder: mariadb_server::new_folder("alone"),
        port: free_ports(),
    };
    mariadb_server::install(&node.folder.join("data"));
    let process = node.start(std::slice::from_ref(&node), true);
    node.wait_until_synced();
    let database = mariadb_server::create_database(&node.socket());
    mariadb_server::connect(&node.socket(), None)
        .query_drop("SET GLOBAL wsrep_max_ws_rows = 100000")
        .unwrap();
    let login = mariadb_server::login(&node.socket(), &database);
    let mut store = Mysql::open(&login).unwrap();
    store.migrate().unwrap();
    let origin = Origin {
        machine_id: "0".repeat(32),
        hostname: "alone".to_owned(),
        netns: "init".to_owned(),
    };
    // Three epochs of 80,000 remote addresses each, and one of the next month.
    for epoch in 1..=4 {
        let records = (0..80_000_u32).map(|number| {
            let mut record = record(1, 1, 17, 53, 1);
            record.remote_ip = (number + 80_000 * epoch).to_be_bytes();
            record
        });
        let records = if epoch == 4 {
            Vec::new()
        } else {
            records.collect()
        };
        let epoch = if epoch == 4 { 31 * 24 } else { epoch.into() };
        let bytes = SnapshotBuilder::new("lan", epoch, records).bytes();
        let mut snapshot = Snapshot::open(&bytes[..]).unwrap();
        append(&mut store, &origin, &mut snapshot).unwrap();
    }
    let retention = Retention {
        records_before: store.retention_time().unwrap(),
        monthly_before: store.retention_time().unwrap(),
        even_most: true,
        ..Retention::default()
    };
    let rotated = store.rotate(&retention, None).unwrap();
    assert_eq!((rotated.records, rotated.sums), (240_000, 240_000));
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    drop(store);
    kill(process);
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A collector: stores one epoch after the other, and each until it is.
fn collect(
    host: usize,
    login: &MysqlLogin,
    closed: &AtomicU64,
    stored: &AtomicU64,
    over: &AtomicBool,
) {
    let origin = Origin {
        machine_id: format!("{host:032}"),
        hostname: format!("host{host}"),
        netns: "init".to_owned(),
    };
    let begin = Instant::now();
    let mut store = None;
    let mut epoch = 1;
    while !over.load(Ordering::SeqCst) {
        if epoch > closed.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        let bytes = snapshot(epoch).bytes();
        let done = match &mut store {
            Some(store) => append(store, &origin, &mut Snapshot::open(&bytes[..]).unwrap()),
            None => match Mysql::open(login) {
                Ok(opened) => {
                    store = Some(opened);
                    continue;
                }
                Err(error) => Err(CollectError::Store(error)),
            },
        };
        match done {
            Ok(_) => {
                stored.store(epoch, Ordering::SeqCst);
                epoch += 1;
            }
            Err(CollectError::Store(error)) if error.is_transient() => {
                assert!(begin.elapsed() < 3 * PATIENCE, "{error}");
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("host {host}, epoch {epoch}: {error}"),
        }
    }
}

fn snapshot(epoch: u64) -> SnapshotBuilder {
    let records = vec![record(1, 1, 6, 22, epoch), record(2, 2, 17, 53, 1)];
    SnapshotBuilder::new("lan", epoch, records)
}

/// Every host begins with another node.
fn login(nodes: &[Node], first: usize, database: &str) -> MysqlLogin {
    let mut login = mariadb_server::login(Path::new("/"), database);
    login.hosts = (0..NODES)
        .map(|number| MysqlHost::Unix(nodes[(first + number) % NODES].socket()))
        .collect();
    login
}

fn wait_until_stored(stored: &[AtomicU64], epoch: u64) {
    let begin = Instant::now();
    while stored
        .iter()
        .any(|stored| stored.load(Ordering::SeqCst) < epoch)
    {
        assert!(
            begin.elapsed() < PATIENCE,
            "not stored: epoch {epoch} of {stored:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// The first of five ports of which none is in use.
fn free_ports() -> u16 {
    for first in (14_500..30_000).step_by(10) {
        // Ports that were free a moment ago are held until all are found.
        let listeners: Vec<_> = (first..first + 5)
            .map_while(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .collect();
        if listeners.len() == 5 && claim(first) {
            return first;
        }
    }
    panic!("no free ports");
}

/// Whether this process has not given the port away before.
fn claim(port: u16) -> bool {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_max(port.into(), Ordering::SeqCst) < u64::from(port)
}

fn kill(process: u32) {
    let status = Command::new("kill")
        .args(["-KILL", &process.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}
