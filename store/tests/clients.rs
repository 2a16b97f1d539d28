// SPDX-License-Identifier: GPL-2.0-or-later
//! What people's own clients read: the programs `sqlite3` and `mysql`, on the documented
//! views, by the queries of README.

mod common;
#[path = "common/mariadb.rs"]
mod mariadb_server;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{SnapshotBuilder, record};
use trafstat_store::backend::{Mysql, Sqlite};
use trafstat_store::collect::append;
use trafstat_store::origin::Origin;
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::Store;

/// A database, and the client that people have for it.
enum Client {
    Sqlite {
        db: PathBuf,
        _folder: tempfile::TempDir,
    },
    Mysql {
        socket: PathBuf,
        database: String,
    },
}

impl Client {
    /// A client of each kind, of a database with the same records.
    fn both() -> [Self; 2] {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("trafstat.db");
        let mut sqlite = Sqlite::open(&db).unwrap();
        fill(&mut sqlite);
        let socket = mariadb_server::socket().to_path_buf();
        let database = mariadb_server::create_database(&socket);
        let mut mysql = Mysql::open(&mariadb_server::login(&socket, &database)).unwrap();
        fill(&mut mysql);
        [
            Self::Sqlite {
                db,
                _folder: folder,
            },
            Self::Mysql { socket, database },
        ]
    }

    /// Column names and rows.
    fn run(&self, sql: &str) -> (Vec<String>, Vec<Vec<String>>) {
        let mut command = match self {
            Self::Sqlite { db, .. } => {
                let mut command = Command::new(mariadb_server::program("sqlite3"));
                command.args(["-readonly", "-header", "-separator", "\t"]);
                command.arg(db);
                command
            }
            Self::Mysql { socket, database } => {
                let mut command = Command::new(mariadb_server::program("mysql"));
                command.args(["--no-defaults", "--user=root", "--batch", "--raw"]);
                command.arg(format!("--socket={}", socket.display()));
                command.arg(database);
                command
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Dropped, it ends.
        let written = child.stdin.take().unwrap().write_all(sql.as_bytes());
        let output = child.wait_with_output().unwrap();
        written.unwrap();
        assert!(
            output.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text
            .lines()
            .map(|line| line.split('\t').map(str::to_owned).collect());
        (lines.next().unwrap_or_default(), lines.collect())
    }
}

/// Two epochs, which closed on 31 January 2026 at 13:00 and 14:00 UTC.
fn fill(store: &mut dyn Store) {
    store.migrate().unwrap();
    let origin = Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    };
    for epoch in 1..=2 {
        let records = vec![
            record(7, 1, 6, 443, 10),
            record(7, 2, 6, 443, 30),
            record(200, 1, 17, 53, 20),
        ];
        let bytes = SnapshotBuilder::new("192.0.2.0_24", epoch, records).bytes();
        append(store, &origin, &mut Snapshot::open(&bytes[..]).unwrap()).unwrap();
    }
}

/// The statements of README's section on them.
fn queries_of_readme() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (_, section) = readme.split_once("### Queries of your own").unwrap();
    let block = section.split("```").nth(1).unwrap();
    block
        .split_inclusive(';')
        .map(|statement| statement.trim().to_owned())
        .filter(|statement| !statement.is_empty())
        .collect()
}

#[test]
fn queries_of_readme_answer_alike() {
    let queries = queries_of_readme();
    let expected: [&[&[&str]]; 3] = [
        &[
            &["2026-01-31 00:00:00", "192.0.2.7", "128000"],
            &["2026-01-31 00:00:00", "192.0.2.200", "64000"],
        ],
        &[
            &["TCP", "443", "8000", "120000", "4"],
            &["UDP", "53", "4000", "60000", "0"],
        ],
        &[
            &["198.51.100.2", "6000", "90000"],
            &["198.51.100.1", "2000", "30000"],
        ],
    ];
    assert_eq!(queries.len(), expected.len(), "{queries:?}");
    for client in Client::both() {
        for (query, expected) in queries.iter().zip(expected) {
            let (_, rows) = client.run(&format!("{UTC}{query}", UTC = utc(&client)));
            assert_eq!(rows, expected, "{query}");
        }
    }
}

/// MySQL's clients show times in their own zone.
fn utc(client: &Client) -> &'static str {
    match client {
        Client::Sqlite { .. } => "",
        Client::Mysql { .. } => "SET time_zone = '+00:00'; ",
    }
}

/// The original's columns, and what MySQL says of them as columns of the view.
const COLUMNS: [(&str, &str); 12] = [
    ("_traf_id", "decimal"),
    ("protocol", "tinyint unsigned"),
    ("local_ip", "bigint unsigned"),
    ("remote_ip", "bigint unsigned"),
    ("local_port", "smallint unsigned"),
    ("remote_port", "smallint unsigned"),
    ("local_pkt", "bigint"),
    ("remote_pkt", "bigint"),
    ("local_data", "bigint"),
    ("remote_data", "bigint"),
    ("syn_count", "bigint"),
    ("timestamp", "datetime"),
];

#[test]
fn account_is_a_table_as_the_original_had_it() {
    for client in Client::both() {
        let utc = utc(&client);
        let (names, rows) = client.run(&format!(
            "{utc}SELECT * FROM trafstat_192_0_2_0_24 ORDER BY timestamp, _traf_id;"
        ));
        assert_eq!(names, COLUMNS.map(|(name, _)| name));
        assert_eq!(rows.len(), 6);
        assert_eq!(
            rows[2][1..],
            [
                "17",
                "3221226184",
                "3325256705",
                "53",
                "0",
                "20",
                "40",
                "2000",
                "30000",
                "0",
                "2026-01-31 13:00:00"
            ]
        );
        let mut ids: Vec<&String> = rows.iter().map(|row| &row[0]).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), rows.len());

        match &client {
            Client::Sqlite { .. } => {
                let typeof_all = COLUMNS
                    .map(|(name, _)| format!("typeof({name})"))
                    .join(", ");
                let (_, rows) = client.run(&format!(
                    "SELECT DISTINCT {typeof_all} FROM trafstat_192_0_2_0_24;"
                ));
                // SQLite has no type for times; its functions take this text.
                let kinds = COLUMNS.map(|(_, kind)| match kind {
                    "datetime" => "text",
                    _ => "integer",
                });
                assert_eq!(rows, [kinds]);
            }
            Client::Mysql { .. } => {
                let (_, rows) = client.run("SHOW COLUMNS FROM trafstat_192_0_2_0_24;");
                let types: Vec<String> = rows.iter().map(|row| without_width(&row[1])).collect();
                assert_eq!(types, COLUMNS.map(|(_, kind)| kind));
            }
        }
    }
}

/// `bigint(20)` is `bigint`, how wide it is shown says nothing of what it holds; MariaDB adds a
/// comment to times.
fn without_width(kind: &str) -> String {
    let (kind, _) = kind.split_once(" /*").unwrap_or((kind, ""));
    match kind.split_once('(') {
        Some((name, rest)) => {
            let (_, behind) = rest.split_once(')').expect("a closed parenthesis");
            format!("{name}{behind}")
        }
        None => kind.to_owned(),
    }
}

#[test]
fn query_of_the_original_runs_as_it_was() {
    // By protocol and host, as its users asked.
    let query = "SELECT protocol, local_ip, SUM(local_data), SUM(remote_data)
        FROM trafstat_192_0_2_0_24
        WHERE timestamp BETWEEN '2026-01-31 13:30:00' AND '2026-01-31 14:30:00'
            AND local_ip >= 3221225985 AND local_pkt - remote_pkt < 0
        GROUP BY protocol, local_ip ORDER BY 4 DESC;";
    for client in Client::both() {
        let (_, rows) = client.run(&format!("{}{query}", utc(&client)));
        assert_eq!(
            rows,
            [
                ["6", "3221225991", "4000", "60000"],
                ["17", "3221226184", "2000", "30000"]
            ]
        );
    }
}

#[test]
fn protocols_have_the_names_that_iana_gave_them() {
    for client in Client::both() {
        let (_, rows) = client.run(
            "SELECT number, name FROM protocol WHERE number IN (1, 6, 17, 47, 50, 58, 132, 255)
             ORDER BY number;",
        );
        assert_eq!(
            rows,
            [
                ["1", "ICMP"],
                ["6", "TCP"],
                ["17", "UDP"],
                ["47", "GRE"],
                ["50", "ESP"],
                ["58", "IPv6-ICMP"],
                ["132", "SCTP"],
                ["255", "reserved"]
            ]
        );
        let (_, count) = client.run("SELECT COUNT(*), COUNT(DISTINCT name) FROM protocol;");
        assert_eq!(count, [["151", "151"]]);
    }
}
