// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store import --from-url`: the original's tables on a MariaDB server are
//! taken over, whole and once, and stay as they are.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/mariadb.rs"]
mod mariadb_server;
mod program;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use mysql::Conn;
use mysql::prelude::Queryable;
use program::{Host, code, mysql_url, program, sent_packets, stderr, stdout};
use serde_json::Value;

/// A table as the original's dumper makes it.
fn create(table: &str, engine: &str) -> String {
    format!(
        "CREATE TABLE {table} (
             _traf_id int(10) unsigned NOT NULL AUTO_INCREMENT,
             protocol tinyint(3) unsigned DEFAULT '0',
             local_ip int(10) unsigned DEFAULT '0',
             remote_ip int(10) unsigned DEFAULT '0',
             local_port mediumint(8) unsigned DEFAULT '0',
             remote_port mediumint(8) unsigned DEFAULT '0',
             local_pkt int(10) unsigned DEFAULT '0',
             remote_pkt int(10) unsigned DEFAULT '0',
             local_data bigint(20) unsigned DEFAULT '0',
             remote_data bigint(20) unsigned DEFAULT '0',
             syn_count int(10) unsigned NOT NULL DEFAULT '0',
             timestamp timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
             PRIMARY KEY (_traf_id),
             KEY protocol (protocol), KEY local_ip (local_ip), KEY remote_ip (remote_ip),
             KEY local_port (local_port), KEY remote_port (remote_port),
             KEY timestamp (timestamp)
         ) ENGINE={engine}"
    )
}

const COLUMNS: &str = "protocol, local_ip, remote_ip, local_port, remote_port, local_pkt, \
     remote_pkt, local_data, remote_data, syn_count, timestamp";

/// Two readings of 25 packets sent: the second has a row without ports.
const ROWS: [&str; 3] = [
    "(6, 3221225985, 3325256705, 443, 0, 10, 20, 1000, 20000, 1, '2024-01-31 12:00:00')",
    "(17, 3221225985, 3325256705, 53, 0, 5, 5, 500, 600, 0, '2024-01-31 12:00:00')",
    "(6, 3221225985, 3325256705, NULL, NULL, 10, 20, 1000, 20000, 1, '2024-01-31 12:05:00')",
];

/// A database of the original.
struct Original {
    name: String,
    connection: Conn,
}

impl Original {
    fn create() -> Self {
        let socket = mariadb_server::socket();
        let name = mariadb_server::create_database(socket);
        let mut connection = mariadb_server::connect(socket, Some(&name));
        connection.query_drop("SET time_zone = '+00:00'").unwrap();
        Self { name, connection }
    }

    fn run(&mut self, sql: impl AsRef<str>) {
        self.connection.query_drop(sql).unwrap();
    }

    fn insert(&mut self, table: &str, rows: &[&str]) {
        self.run(format!(
            "INSERT INTO {table} ({COLUMNS}) VALUES {}",
            rows.join(", ")
        ));
    }

    fn checksum(&mut self, table: &str) -> (String, u64) {
        self.connection
            .query_first(format!("CHECKSUM TABLE {table} EXTENDED"))
            .unwrap()
            .unwrap()
    }

    fn url(&self) -> String {
        mysql_url(mariadb_server::socket(), &self.name, "root")
    }
}

/// Without this user's option files.
fn import(mut command: Command, url: &str, arguments: &[&str]) -> Output {
    command
        .args(["import", "--format", "json", "--from-url", url])
        .args(arguments)
        .env("HOME", "/nonexistent")
        .output()
        .unwrap()
}

fn import_into(host: &Host, original: &Original, arguments: &[&str]) -> Value {
    let output = import(host.command(), &original.url(), arguments);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// Table, account, epochs stored, epochs known and rows of the n-th source.
fn figures(report: &Value, number: usize) -> (&str, &str, [u64; 3]) {
    let source = &report["sources"][number];
    let text = |key: &str| source[key].as_str().unwrap();
    (
        text("source"),
        text("account"),
        ["epochs", "known_epochs", "rows"].map(|key| source[key].as_u64().unwrap()),
    )
}

#[test]
fn tables_are_imported_once_and_stay_as_they_are() {
    for engine in ["MyISAM", "InnoDB"] {
        let mut original = Original::create();
        let tables = ["trafstat_192_0_2_0_24", "trafstat_192_0_2_1"];
        for table in tables {
            original.run(create(table, engine));
            original.insert(table, &ROWS);
        }
        // Neither of these is one of its accounts.
        original.run("CREATE TABLE protocols (_traf_id INT, name TEXT)");
        original.run("CREATE VIEW trafstat_10_0_0_0_8 AS SELECT * FROM trafstat_192_0_2_1");
        let before = tables.map(|table| original.checksum(table));

        let host = Host::new();
        for (epochs, known) in [(2, 0), (0, 2)] {
            let report = import_into(&host, &original, &[]);
            assert_eq!(report["sources"].as_array().unwrap().len(), 2, "{report}");
            let expected = [epochs, known, 3];
            assert_eq!(
                figures(&report, 0),
                ("trafstat_192_0_2_0_24", "192.0.2.0_24", expected)
            );
            assert_eq!(
                figures(&report, 1),
                ("trafstat_192_0_2_1", "192.0.2.1_32", expected)
            );
            assert_eq!(host.sent_packets(), 50);
        }
        assert_eq!(tables.map(|table| original.checksum(table)), before);

        // One more reading, of one more epoch.
        let later = ROWS[2].replace("12:05", "12:10");
        original.insert(tables[0], &[&later]);
        let report = import_into(&host, &original, &["--table", tables[0]]);
        assert_eq!(figures(&report, 0).2, [1, 2, 4]);
        assert_eq!(host.sent_packets(), 60);
    }
}

#[test]
fn table_and_its_rotated_file_count_once() {
    let mut original = Original::create();
    original.run(create("trafstat_192_0_2_0_24", "MyISAM"));
    original.insert("trafstat_192_0_2_0_24", &ROWS);
    let host = Host::new();
    import_into(&host, &original, &[]);
    let rows: Vec<String> = original
        .connection
        .query("SELECT * FROM trafstat_192_0_2_0_24")
        .unwrap()
        .into_iter()
        .map(|row: mysql::Row| {
            let columns: Vec<String> = row
                .unwrap()
                .into_iter()
                .map(|column| match column {
                    mysql::Value::NULL => r"\N".to_owned(),
                    mysql::Value::Bytes(text) => String::from_utf8(text).unwrap(),
                    other => panic!("{other:?}"),
                })
                .collect();
            columns.join("\t")
        })
        .collect();
    let file = host
        .folder
        .path()
        .join("trafstat_192_0_2_0_24_2024_02_04-04:22");
    fs::write(&file, rows.join("\n")).unwrap();
    let output = host
        .command()
        .args(["import", "--format", "json"])
        .arg(file)
        .env("TZ", "UTC")
        .output()
        .unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    let report = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(figures(&report, 0).2, [0, 2, 3]);
    assert_eq!(host.sent_packets(), 25);
}

#[test]
fn hour_that_comes_twice_counts_once_from_table_and_file() {
    let counts = "6, 3221225985, 3325256705, 443, 0, 10, 20, 1000, 20000, 1";
    let mut original = Original::create();
    original.run(create("trafstat_192_0_2_0_24", "MyISAM"));
    for time in ["2026-10-25 00:30:00", "2026-10-25 01:30:00"] {
        let row = format!("({counts}, '{time}')");
        original.insert("trafstat_192_0_2_0_24", &[&row]);
    }
    let line = format!("{}\t2026-10-25 02:30:00\t1\n", counts.replace(", ", "\t"));
    let between = line.replace("02:30", "02:50");
    for table_first in [true, false] {
        let host = Host::new();
        let file = host.folder.path().join("trafstat_192_0_2_0_24");
        fs::write(&file, [&*line, &*between, &*line].concat()).unwrap();
        let import_file = || {
            let output = host
                .command()
                .arg("import")
                .arg(&file)
                .env("TZ", "Europe/Berlin")
                .output()
                .unwrap();
            assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        };
        if table_first {
            import_into(&host, &original, &[]);
        }
        import_file();
        import_into(&host, &original, &[]);
        assert_eq!(host.sent_packets(), 30);
    }
}

#[test]
fn server_may_be_the_same_for_both() {
    let mut original = Original::create();
    original.run(create("trafstat_192_0_2_0_24", "MyISAM"));
    original.insert("trafstat_192_0_2_0_24", &ROWS);
    let store = mariadb_server::create_database(mariadb_server::socket());
    for expected in [[2, 0, 3], [0, 2, 3]] {
        let mut command = program();
        command.args([
            "--url",
            &mysql_url(mariadb_server::socket(), &store, "root"),
        ]);
        let output = import(command, &original.url(), &[]);
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        let report = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(figures(&report, 0).2, expected);
    }
    // The view of our own that looks like it is never a source.
    let output = import(
        Host::new().command(),
        &mysql_url(mariadb_server::socket(), &store, "root"),
        &[],
    );
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("has no table"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn many_pages_are_read_to_their_end() {
    let mut original = Original::create();
    original.run(create("trafstat_192_0_2_0_24", "InnoDB"));
    // Readings of 7,000 rows lie across the pages.
    original.run(format!(
        "INSERT INTO trafstat_192_0_2_0_24 ({COLUMNS})
         SELECT 6, 3221225985, seq, 443, 0, 1, 2, 3, 4, 0,
             '2024-01-31 12:00:00' + INTERVAL seq DIV 7000 MINUTE
         FROM seq_1_to_50000"
    ));
    let host = Host::new();
    let report = import_into(&host, &original, &[]);
    assert_eq!(figures(&report, 0).2, [8, 0, 50_000]);
    assert_eq!(host.sent_packets(), 50_000);
    assert_eq!(code(&host.run(&["check"])), Some(0));
}

#[test]
fn user_needs_no_more_than_select() {
    let mut original = Original::create();
    original.run(create("trafstat_192_0_2_0_24", "InnoDB"));
    original.insert("trafstat_192_0_2_0_24", &ROWS);
    let (user, name) = (format!("u{}", std::process::id()), original.name.clone());
    original.run(format!(
        "CREATE USER {user}@localhost IDENTIFIED BY 'sw0rdfish'"
    ));
    original.run(format!("GRANT SELECT ON {name}.* TO {user}@localhost"));
    let host = Host::new();
    let url = mysql_url(mariadb_server::socket(), &name, &user);
    let output = import(host.command(), &url, &[]);
    assert_eq!(code(&output), Some(1));
    assert!(stderr(&output).contains("refuses"), "{}", stderr(&output));
    let defaults: PathBuf = host.folder.path().join("original.cnf");
    fs::write(&defaults, "[client]\npassword=sw0rdfish\n").unwrap();
    let file = ["--from-defaults-file", defaults.to_str().unwrap()];
    let output = import(host.command(), &url, &file);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert_eq!(host.sent_packets(), 25);

    let shown = url.replace('@', ":sw0rdfish@");
    let output = import(host.command(), &shown, &[]);
    assert_eq!(code(&output), Some(2));
    assert!(
        !stderr(&output).contains("sw0rdfish"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn hostile_table_name_is_only_a_name() {
    let mut original = Original::create();
    let table = "x`; DROP TABLE trafstat_192_0_2_0_24; -- '\"\\ ÿ日";
    let quoted = format!("`{}`", table.replace('`', "``"));
    original.run(create(&quoted, "InnoDB"));
    original.insert(&quoted, &ROWS);
    original.run(create("trafstat_192_0_2_0_24", "InnoDB"));
    original.insert("trafstat_192_0_2_0_24", &ROWS[2..]);
    let host = Host::new();
    let net = ["--table", table, "--local-net", "192.0.2.0/24"];
    let report = import_into(&host, &original, &net);
    assert_eq!(figures(&report, 0), (table, "192.0.2.0_24", [2, 0, 3]));
    // The other table has been left alone, and its one reading is known.
    assert_eq!(figures(&import_into(&host, &original, &[]), 0).2, [0, 1, 1]);
    assert_eq!(sent_packets(&host.db()), 25);
}

#[test]
fn table_that_is_not_there_is_named() {
    let original = Original::create();
    let host = Host::new();
    let output = import(
        host.command(),
        &original.url(),
        &["--table", "trafstat_10_0_0_0_8"],
    );
    assert_eq!(code(&output), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains("table trafstat_10_0_0_0_8 is not imported"),
        "{error}"
    );
    assert!(error.contains("doesn't exist"), "{error}");
}

#[test]
fn row_that_cannot_be_is_named_and_its_reading_left_out() {
    let mut original = Original::create();
    original.run(create("trafstat_192_0_2_0_24", "InnoDB"));
    let wrong = ROWS[2].replace("NULL, NULL", "70000, 0");
    original.insert(
        "trafstat_192_0_2_0_24",
        &[ROWS[0], ROWS[1], ROWS[2], &wrong],
    );
    let host = Host::new();
    let output = import(host.command(), &original.url(), &[]);
    assert_eq!(code(&output), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains("row 4: local_port is 70000, more than 65535"),
        "{error}"
    );
    assert_eq!(host.sent_packets(), 15);
}
