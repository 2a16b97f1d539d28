//! `trafstat-store` and a MariaDB server over the network: the way to it, TLS, what the
//! server refuses, and what becomes of a commit whose connection is cut.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/mariadb.rs"]
mod mariadb_server;
mod program;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{SnapshotBuilder, lan, record};
use mariadb_server::{NetworkServer, free_port};
use mysql::prelude::Queryable;
use program::{Host, Tmpfs, code, stderr, stdout};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

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

/// A certificate authority, and what it signed.
struct Certificates {
    authority: String,
    certificate: String,
    key: String,
}

impl Certificates {
    /// For one name or address.
    fn new(name: &str) -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "trafstat's tests");
        let authority = params.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(params, authority_key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        Self {
            authority,
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A server with a certificate for 127.0.0.1, and the file of the authority that signed it.
fn tls_server() -> (&'static NetworkServer, PathBuf) {
    static SERVER: OnceLock<NetworkServer> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        NetworkServer::start("tls", |folder| {
            let certificates = Certificates::new("127.0.0.1");
            fs::write(folder.join("ca.pem"), certificates.authority).unwrap();
            ["cert", "key"]
                .into_iter()
                .zip([certificates.certificate, certificates.key])
                .map(|(name, content)| {
                    let path = folder.join(name);
                    fs::write(&path, content).unwrap();
                    format!("--ssl-{name}={}", path.display())
                })
                .collect()
        })
    });
    (server, server.folder.join("ca.pem"))
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
fn certificate_of_the_named_authority_is_accepted_and_another_refused() {
    let (server, authority) = tls_server();
    let mut client = Client::new(server);
    // So that nothing below is right without TLS.
    client.sql(&format!("ALTER USER {} REQUIRE SSL", client.user));
    let other = client.host.folder.path().join("other.pem");
    fs::write(&other, Certificates::new("127.0.0.1").authority).unwrap();
    let (authority, other) = (authority.display(), other.display());

    let here = client.here();
    let output = client.collect(1, &here, &format!("ssl-ca = {other}"));
    client.assert_waits(1, &output, &[&here, "unknown authority", "ssl-ca"]);
    // None is named, and no public one has signed it.
    let output = client.collect(2, &here, "ssl-mode = VERIFY_CA");
    client.assert_waits(2, &output, &["unknown authority"]);
    let output = client.collect(3, &here, "ssl-ca = /no/such.pem");
    client.assert_waits(3, &output, &["TLS cannot be used", "ssl-ca /no/such.pem"]);
    let output = client.collect(4, &here, "skip-ssl");
    client.assert_waits(4, &output, &["Access denied"]);

    let spellings = [
        format!("ssl-ca = {authority}\nssl-mode = VERIFY_IDENTITY"),
        format!("ssl_ca = {authority}\nssl_mode = verify_ca"),
        format!("ssl-ca = {authority}"),
        format!("loose-ssl-ca = {authority}\nloose-ssl-mode = VERIFY_IDENTITY"),
        format!("ssl-ca = {authority}\nssl-verify-server-cert"),
        format!("ssl-ca = \"{authority}\"\nssl-verify-server-cert = 1"),
        format!("ssl-ca = {other}\nskip-ssl-verify-server-cert"),
        "ssl".to_owned(),
        "ssl-mode = REQUIRED".to_owned(),
        "ssl-mode = PREFERRED".to_owned(),
        String::new(),
    ];
    let mut epoch = 4;
    for options in spellings {
        epoch += 1;
        let output = client.collect(epoch, &here, &options);
        assert_eq!(code(&output), Some(0), "{options}: {}", stderr(&output));
    }
    client.assert_each_epoch_once(epoch);
}

#[test]
fn certificate_of_another_host_is_refused_where_the_name_is_checked() {
    let (server, authority) = tls_server();
    let mut client = Client::new(server);
    client.sql(&format!("ALTER USER {} REQUIRE SSL", client.user));
    // The same server, by an address that its certificate does not have.
    let elsewhere = format!("127.0.0.2:{}", server.port);
    let authority = format!("ssl-ca = {}", authority.display());
    for (options, epoch) in ["ssl-mode = VERIFY_IDENTITY", "ssl-verify-server-cert"]
        .into_iter()
        .zip(1..)
    {
        let output = client.collect(epoch, &elsewhere, &format!("{authority}\n{options}"));
        client.assert_waits(
            epoch,
            &output,
            &[&elsewhere, "not for this host name", "VERIFY_CA"],
        );
    }
    let output = client.collect(3, &elsewhere, &format!("{authority}\nssl-mode = VERIFY_CA"));
    client.assert_stored(&output);
    client.assert_each_epoch_once(3);
}

#[test]
fn server_without_tls_is_refused_where_tls_is_demanded() {
    let mut client = Client::new(small_server());
    let here = client.here();
    let demands = ["ssl-mode = REQUIRED", "ssl", "ssl-verify-server-cert"];
    for (options, epoch) in demands.into_iter().zip(1..) {
        let output = client.collect(epoch, &here, options);
        client.assert_waits(
            epoch,
            &output,
            &[&here, "the server has no TLS", "ssl-mode"],
        );
    }
    let output = client.collect(4, &here, "ssl-mode = PREFERRED");
    client.assert_stored(&output);
    client.assert_each_epoch_once(4);
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
