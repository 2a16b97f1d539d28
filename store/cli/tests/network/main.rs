// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store` and a MariaDB server over the network: the way to it, TLS, what the
//! server refuses, and what becomes of a commit whose connection is cut.

#[path = "../../../tests/common/mod.rs"]
mod common;
mod cut;
#[path = "../../../tests/common/mariadb.rs"]
mod mariadb_server;
#[path = "../program/mod.rs"]
mod program;
mod silent;
mod tls;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use common::{SnapshotBuilder, lan, record};
use mariadb_server::{NetworkServer, free_port};
use mysql::prelude::Queryable;
use program::{Host, Tmpfs, code, stderr, stdout};
use tls::tls_server;

/// What [`lan`] counts in one epoch.
const SENT_PACKETS: u64 = 30;

/// Nothing is lost, but epochs wait in the spool.
const SPOOLED: Option<i32> = Some(3);

const PASSWORD: &str = "swordfish";

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A host, and a user's database on a server.
struct Client {
    host: Host,
    server: &'static NetworkServer,
    database: String,
    user: String,
    root: mysql::Conn,
}

impl Client {
    fn new(server: &'static NetworkServer) -> Self {
        let database = mariadb_server::create_database(&server.socket());
        let user = format!("u_{database}");
        let mut root = mariadb_server::connect(&server.socket(), Some(&database));
        for statement in [
            format!("CREATE USER {user} IDENTIFIED BY '{PASSWORD}'"),
            format!("GRANT ALL ON {database}.* TO {user}"),
        ] {
            root.query_drop(statement).unwrap();
        }
        Self {
            host: Host::new(),
            server,
            database,
            user,
            root,
        }
    }

    fn sql(&mut self, statement: &str) {
        self.root.query_drop(statement).unwrap();
    }

    /// The URL of the database behind these hosts, each with a port.
    fn url(&self, hosts: &str) -> String {
        format!("mysql://{}@{hosts}/{}", self.user, self.database)
    }

    fn here(&self) -> String {
        format!("127.0.0.1:{}", self.server.port)
    }

    /// An option file with the password and more.
    fn option_file(&self, options: &str) -> PathBuf {
        let path = self.host.folder.path().join("my.cnf");
        fs::write(
            &path,
            format!("[client]\npassword = {PASSWORD}\n{options}\n"),
        )
        .unwrap();
        path
    }

    /// Collects an epoch into the database behind these hosts.
    fn collect(&self, epoch: u64, hosts: &str, options: &str) -> Output {
        self.collect_snapshot(&lan(epoch), hosts, options)
    }

    fn collect_snapshot(&self, epoch: &SnapshotBuilder, hosts: &str, options: &str) -> Output {
        self.host.proc.serve(&[("lan", epoch)]);
        self.run(&mut self.collector(hosts, options))
    }

    fn collector(&self, hosts: &str, options: &str) -> Command {
        let mut command = self.host.command();
        command
            .args(["--format", "csv", "--url", &self.url(hosts)])
            .arg("--defaults-file")
            .arg(self.option_file(options));
        command
    }

    fn run(&self, collector: &mut Command) -> Output {
        let output = collector.output().unwrap();
        let said = stderr(&output);
        for hidden in [PASSWORD, "DriverError", "IoError", "{", "Some("] {
            assert!(!said.contains(hidden), "{said}");
        }
        output
    }

    /// That the epoch waits on the host, with the reason.
    fn assert_waits(&self, epoch: u64, output: &Output, reasons: &[&str]) {
        let said = stderr(output);
        assert_eq!(code(output), SPOOLED, "{said}");
        for reason in reasons {
            assert!(said.contains(reason), "{reason}: {said}");
        }
        self.assert_acknowledged(epoch);
    }

    fn assert_stored(&self, output: &Output) {
        assert_eq!(code(output), Some(0), "{}", stderr(output));
    }

    fn assert_acknowledged(&self, epoch: u64) {
        assert_eq!(
            self.host.proc.commands("lan", &lan(epoch)),
            format!("ack {epoch}\n")
        );
    }

    /// That epochs from the first to this one are there, each once.
    fn assert_each_epoch_once(&mut self, last: u64) {
        let found: (u64, u64, u64) = self
            .root
            .query_first(
                "SELECT COUNT(*), COUNT(DISTINCT epoch), CAST(SUM(recorded_packets) AS UNSIGNED)
                 FROM snapshot",
            )
            .unwrap()
            .unwrap();
        assert_eq!(found, (last, last, 3 * SENT_PACKETS * last));
        let sent: u64 = self
            .root
            .query_first("SELECT CAST(SUM(sent_packets) AS UNSIGNED) FROM record")
            .unwrap()
            .unwrap();
        assert_eq!(sent, SENT_PACKETS * last);
        self.assert_checked();
    }

    fn assert_checked(&self) {
        let output = self
            .host
            .command()
            .args(["check", "--url", &self.url(&self.here())])
            .arg("--defaults-file")
            .arg(self.option_file(""))
            .output()
            .unwrap();
        assert_eq!(code(&output), Some(0), "{}", stdout(&output));
    }
}

/// A server of ten connections, without TLS.
fn small_server() -> &'static NetworkServer {
    static SERVER: OnceLock<NetworkServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        NetworkServer::start("small", |_| {
            vec!["--skip-ssl".to_owned(), "--max-connections=10".to_owned()]
        })
    })
}

#[test]
fn unreachable_servers_are_named_and_the_next_is_tried() {
    let (server, _) = tls_server();
    let mut client = Client::new(server);
    let closed = format!("127.0.0.1:{}", free_port());
    let output = client.collect(1, &closed, "");
    client.assert_waits(
        1,
        &output,
        &[&closed, "connection refused: does the server run"],
    );

    let output = client.collect(2, "no-such-host.invalid:3306", "");
    client.assert_waits(
        2,
        &output,
        &["no-such-host.invalid:3306", "is the host's name right"],
    );

    let socket = client.host.folder.path().join("no.sock");
    let options = format!("socket = {}", socket.display());
    client.host.proc.serve(&[("lan", &lan(3))]);
    let output = client
        .host
        .command()
        .args(["--backend", "mysql", "--defaults-file"])
        .arg(client.option_file(&options))
        .output()
        .unwrap();
    client.assert_waits(3, &output, &["no.sock: there is no such socket"]);

    let output = client.collect(4, &format!("{closed},{}", client.here()), "");
    client.assert_stored(&output);
    assert!(stderr(&output).contains("3 epochs that waited"));
    client.assert_each_epoch_once(4);
}

#[test]
fn every_address_of_a_name_is_tried() {
    let (server, _) = tls_server();
    let mut client = Client::new(server);
    let hosts = client.host.folder.path().join("hosts");
    let names = |addresses: &[&str]| {
        let lines: Vec<_> = addresses
            .iter()
            .map(|address| format!("{address} db.example\n"))
            .collect();
        fs::write(&hosts, lines.concat()).unwrap();
    };
    let db = format!("db.example:{}", server.port);
    let collect = |epoch| {
        client.host.proc.serve(&[("lan", &lan(epoch))]);
        let collector = client.collector(&db, "");
        client.run(
            Command::new("unshare")
                .args(["--mount", "sh", "-c"])
                .arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"")
                .arg(&hosts)
                .arg(collector.get_program())
                .args(collector.get_args()),
        )
    };
    // At none of the first does the server listen.
    names(&["::1", "127.0.0.8", "127.0.0.9", "127.0.0.1"]);
    client.assert_stored(&collect(1));
    names(&["127.0.0.8", "127.0.0.9"]);
    client.assert_waits(2, &collect(2), &[&db, "connection refused"]);
    names(&["127.0.0.2"]);
    client.assert_stored(&collect(3));
    client.assert_each_epoch_once(3);
}

#[test]
fn refusals_say_what_to_grant_and_end_when_it_is_granted() {
    let (server, _) = tls_server();
    let mut client = Client::new(server);
    let (user, database) = (client.user.clone(), client.database.clone());
    let here = client.here();

    client.sql(&format!("ALTER USER {user} IDENTIFIED BY 'other'"));
    let output = client.collect(1, &here, "");
    client.assert_waits(1, &output, &[&here, "Access denied", "--defaults-file"]);
    client.sql(&format!("ALTER USER {user} IDENTIFIED BY '{PASSWORD}'"));

    client.sql(&format!("REVOKE ALL ON {database}.* FROM {user}"));
    let output = client.collect(2, &here, "");
    client.assert_waits(2, &output, &[&database, "GRANT ALL ON"]);

    client.sql(&format!("GRANT SELECT ON {database}.* TO {user}"));
    let output = client.collect(3, &here, "");
    client.assert_waits(3, &output, &["CREATE command denied", "GRANT ALL ON"]);

    client.sql(&format!("DROP DATABASE {database}"));
    client.sql(&format!("GRANT ALL ON {database}.* TO {user}"));
    let output = client.collect(4, &here, "");
    client.assert_waits(4, &output, &["Unknown database", "CREATE DATABASE"]);

    client.sql(&format!("CREATE DATABASE {database}"));
    client.sql(&format!("USE {database}"));
    let output = client.collect(5, &here, "");
    client.assert_stored(&output);
    client.assert_each_epoch_once(5);
}

#[test]
fn crowded_or_read_only_server_is_an_outage() {
    // Of its own: what is done to it befalls every client.
    static SERVER: OnceLock<NetworkServer> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        NetworkServer::start("crowded", |_| vec!["--max-connections=10".to_owned()])
    });
    let mut client = Client::new(server);
    let here = client.here();
    client.assert_stored(&client.collect(1, &here, ""));

    let crowd: Vec<_> = (0..9)
        .map(|_| mariadb_server::connect(&server.socket(), None))
        .collect();
    let output = client.collect(2, &here, "");
    client.assert_waits(2, &output, &["too many connections", "max_connections"]);
    drop(crowd);

    client.sql("SET GLOBAL read_only = 1");
    let begin = Instant::now();
    // Until the server has noticed that the crowd is gone.
    let output = loop {
        let output = client.collect(3, &here, "");
        if !stderr(&output).contains("too many") || begin.elapsed() > PATIENCE {
            break output;
        }
    };
    client.assert_waits(3, &output, &["read-only", "replica"]);
    client.sql("SET GLOBAL read_only = 0");
    client.assert_stored(&client.collect(4, &here, ""));
    client.assert_each_epoch_once(4);
}

#[test]
fn full_disk_of_the_server_is_an_outage() {
    let mut disk = None;
    let server = NetworkServer::start("full", |folder| {
        disk = Tmpfs::mount(&folder.join("data"), "256m");
        mariadb_server::give_to_server(&folder.join("data"));
        Vec::new()
    });
    let Some(disk) = disk else {
        return;
    };
    let mut client = Client::new(Box::leak(Box::new(server)));
    let here = client.here();
    client.assert_stored(&client.collect(1, &here, ""));

    let filler = disk.0.join("filler");
    fs::write(&filler, vec![0; 256 << 20]).unwrap_err();
    let records = (0..20_000).map(|port| record(1, 1, 6, port, 1)).collect();
    let large = SnapshotBuilder::new("lan", 2, records);
    let output = client.collect_snapshot(&large, &here, "");
    assert_eq!(code(&output), SPOOLED, "{}", stderr(&output));
    assert!(stderr(&output).contains("full"), "{}", stderr(&output));
    assert_eq!(client.host.proc.commands("lan", &large), "ack 2\n");

    fs::remove_file(filler).unwrap();
    client.assert_stored(&client.collect(3, &here, ""));
    let sent: u64 = client
        .root
        .query_first("SELECT CAST(SUM(sent_packets) AS UNSIGNED) FROM record")
        .unwrap()
        .unwrap();
    assert_eq!(sent, 2 * SENT_PACKETS + 20_000);
    client.assert_checked();
}

#[test]
fn deadlocked_transaction_is_repeated() {
    let (server, _) = tls_server();
    let mut client = Client::new(server);
    let here = client.here();
    client.assert_stored(&client.collect(1, &here, ""));

    // Another transaction has what the collector needs last, and wants what it took first.
    // The one that changed more rows lives.
    client.sql("CREATE TABLE ballast (number INT PRIMARY KEY)");
    client.sql("START TRANSACTION");
    client.sql("INSERT INTO ballast SELECT seq FROM seq_1_to_5000");
    client.sql("SELECT * FROM local_daily FOR UPDATE");
    let mut observer = mariadb_server::connect(&server.socket(), None);
    let deadlocks = |observer: &mut mysql::Conn| -> u64 {
        let row: (String, u64) = observer
            .query_first("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")
            .unwrap()
            .unwrap();
        row.1
    };
    let before = deadlocks(&mut observer);
    let output = thread::scope(|scope| {
        let url = client.url(&here);
        let options = client.option_file("");
        client.host.proc.serve(&[("lan", &lan(2))]);
        let mut command = client.host.command();
        command
            .args(["--format", "csv", "--url", &url])
            .arg("--defaults-file")
            .arg(options);
        let collecting = scope.spawn(move || command.output().unwrap());
        let begin = Instant::now();
        let waiting = "SELECT COUNT(*) FROM information_schema.innodb_trx
             WHERE trx_state = 'LOCK WAIT'";
        while observer.query_first::<u64, _>(waiting).unwrap() != Some(1) {
            assert!(begin.elapsed() < PATIENCE, "the collector does not wait");
            // What was read less than a tenth of a second ago is answered again unchanged.
            thread::sleep(Duration::from_millis(300));
        }
        client
            .root
            .query_drop("SELECT * FROM host FOR UPDATE")
            .unwrap();
        client.root.query_drop("ROLLBACK").unwrap();
        collecting.join().unwrap()
    });
    assert!(deadlocks(&mut observer) > before);
    client.assert_stored(&output);
    assert!(
        stdout(&output).ends_with(",stored\n"),
        "{}",
        stdout(&output)
    );
    client.sql("DROP TABLE ballast");
    client.assert_acknowledged(2);
    client.assert_each_epoch_once(2);
}
