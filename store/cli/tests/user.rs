// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store create-user`: a database and a user with rights on it alone, on a real server.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/mariadb.rs"]
mod mariadb_server;
mod program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::lan;
use mysql::Conn;
use mysql::prelude::Queryable;
use program::{Host, code, mysql_url, program, stderr, stdout};

const PASSWORD: &str = "sw0rd'fish\\";

/// A database and a user that are not there yet.
struct Wanted {
    host: Host,
    database: String,
    user: String,
    password_file: PathBuf,
    administrator_file: PathBuf,
}

impl Wanted {
    fn new(name: &str) -> Self {
        let host = Host::new();
        let file = |name: &str, text: &str| {
            let path = host.folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let quoted = PASSWORD.replace('\\', "\\\\");
        let password_file = file("my.cnf", &format!("[client]\npassword=\"{quoted}\"\n"));
        let administrator_file = file("administrator.cnf", "[client]\nuser=root\n");
        Self {
            database: format!("{name}_{}", std::process::id()),
            user: format!("{name}{}", std::process::id()),
            password_file,
            administrator_file,
            host,
        }
    }

    fn url(&self) -> String {
        mysql_url(socket(), &self.database, &self.user)
    }

    fn command(&self) -> Command {
        let mut command = program();
        command
            .args(["--url", &self.url(), "--defaults-file"])
            .arg(&self.password_file)
            .arg("--spool")
            .arg(self.host.spool())
            .arg("--proc-root")
            .arg(self.host.proc.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(code(&output), Some(0), "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    }

    fn administer(&self, command: &str) -> Output {
        self.command()
            .args([command, "--admin-defaults-file"])
            .arg(&self.administrator_file)
            .output()
            .unwrap()
    }

    fn create(&self) {
        let output = self.administer("create-user");
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    }

    fn connect(&self) -> mysql::Result<Conn> {
        Conn::new(
            mysql::OptsBuilder::new()
                .socket(socket().to_str())
                .user(Some(&self.user))
                .pass(Some(PASSWORD)),
        )
    }
}

fn socket() -> &'static Path {
    mariadb_server::socket()
}

fn root() -> Conn {
    mariadb_server::connect(socket(), None)
}

#[test]
fn rights_are_enough_for_all_that_the_store_does() {
    let wanted = Wanted::new("enough");
    wanted.create();
    // Again, it changes nothing.
    wanted.create();
    for epoch in [1, 2] {
        wanted.host.proc.serve(&[("lan", &lan(epoch))]);
        wanted.succeed(&["--once"]);
    }
    wanted.succeed(&["check"]);
    wanted.succeed(&["hosts"]);
    wanted.succeed(&["migrate"]);
    let file = wanted.host.folder.path().join("exported");
    let exported = wanted.succeed(&["export", "--restorable"]);
    fs::write(&file, exported).unwrap();
    let archive = wanted.host.folder.path().join("archive");
    wanted.succeed(&[
        "rotate",
        "--keep-records",
        "1s",
        "--keep-hourly",
        "1s",
        "--archive",
        archive.to_str().unwrap(),
    ]);
    wanted.succeed(&["restore", file.to_str().unwrap()]);
    wanted.succeed(&["prune", "--before", "1s"]);
}

#[test]
fn rights_end_at_the_database() {
    let wanted = Wanted::new("ends_here");
    wanted.create();
    // A name that fits, where "_" stands for any sign.
    let alike = wanted.database.replace('_', "x");
    let mut administrator = root();
    administrator
        .query_drop(format!("CREATE DATABASE {alike}"))
        .unwrap();
    let mut connection = wanted.connect().unwrap();
    for refused in [
        format!("CREATE TABLE {alike}.t (n INT)"),
        "SELECT * FROM mysql.user".to_owned(),
        "CREATE DATABASE another_one".to_owned(),
        format!("SELECT 1 INTO OUTFILE '/tmp/{alike}'"),
        "CREATE USER another_one".to_owned(),
        format!("GRANT SELECT ON {}.* TO root@localhost", wanted.database),
    ] {
        let error = connection.query_drop(&refused).unwrap_err();
        assert!(
            matches!(&error, mysql::Error::MySqlError(server)
                if [1044, 1045, 1142, 1227].contains(&server.code)),
            "{refused}: {error}"
        );
    }
    let databases: Vec<String> = connection.query("SHOW DATABASES").unwrap();
    assert_eq!(
        databases,
        [wanted.database.as_str(), "information_schema"],
        "as a sorted list"
    );
}

#[test]
fn interrupted_between_user_and_rights_it_is_run_again() {
    let wanted = Wanted::new("halfway");
    root()
        .query_drop(format!(
            "CREATE USER {}@localhost IDENTIFIED BY {}",
            wanted.user,
            mysql::Value::from(PASSWORD).as_sql(false)
        ))
        .unwrap();
    wanted.create();
    wanted.succeed(&["hosts"]);
}

#[test]
fn user_of_somebody_else_keeps_password_and_rights() {
    let wanted = Wanted::new("taken");
    let name = format!("{}@localhost", wanted.user);
    root()
        .query_drop(format!("CREATE USER {name} IDENTIFIED BY 'another'"))
        .unwrap();
    let grants = || -> Vec<String> { root().query(format!("SHOW GRANTS FOR {name}")).unwrap() };
    let before = grants();
    let output = wanted.administer("create-user");
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("with another password: name another user"),
        "{}",
        stderr(&output)
    );
    assert_eq!(grants(), before);
    let database: Option<String> = root()
        .query_first(format!("SHOW DATABASES LIKE '{}'", wanted.database))
        .unwrap();
    assert_eq!(database, None);
}

#[test]
fn dropped_user_is_gone_and_the_database_stays() {
    let wanted = Wanted::new("dropped");
    wanted.create();
    for _ in 0..2 {
        let output = wanted.administer("drop-user");
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        assert!(wanted.connect().is_err());
    }
    let tables: Option<u64> = root()
        .exec_first(
            "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = ?",
            (&wanted.database,),
        )
        .unwrap();
    assert!(tables.is_some_and(|tables| tables > 5), "{tables:?}");
    // And another one finds what is there.
    wanted.create();
    wanted.succeed(&["check"]);
}

#[test]
fn what_is_missing_is_said() {
    let wanted = Wanted::new("missing");
    fs::write(&wanted.password_file, "[client]\n").unwrap();
    let output = wanted.administer("create-user");
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("needs a password"),
        "{}",
        stderr(&output)
    );
    // The store's own user may not create users.
    let wanted = Wanted::new("powerless");
    wanted.create();
    let other = Wanted::new("powerless_too");
    let login = format!(
        "[client]\nuser={}\npassword=\"{}\"\n",
        wanted.user,
        PASSWORD.replace('\\', "\\\\")
    );
    fs::write(&other.administrator_file, login).unwrap();
    let output = other.administer("create-user");
    assert_eq!(code(&output), Some(1));
    assert!(stderr(&output).contains("denied"), "{}", stderr(&output));
    let host = Host::new();
    let output = host.run(&["create-user"]);
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("users are a MySQL server's"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn hostile_database_name_is_only_a_name_in_url_and_configuration() {
    let socket = mariadb_server::socket();
    let name = format!("u{}`'\"; DROP TABLE record; -- \\%ÿ日", std::process::id());
    let quoted = format!("`{}`", name.replace('`', "``"));
    let mut root = mariadb_server::connect(socket, None);
    root.query_drop(format!("CREATE DATABASE {quoted}"))
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("trafstat.toml");
    fs::write(
        &config,
        format!(
            "[store]\nbackend = \"mysql\"\nuser = \"root\"\nsocket = {socket:?}\n\
             database = {name:?}\n"
        ),
    )
    .unwrap();
    let url = mysql_url(socket, &name, "root");
    for store in [["--config", config.to_str().unwrap()], ["--url", &url]] {
        for command in ["init", "migrate", "check"] {
            let output = program()
                .env("HOME", "/nonexistent")
                .args(store)
                .arg(command)
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    root.query_drop(format!("USE {quoted}")).unwrap();
    let hosts: Option<u64> = root.query_first("SELECT COUNT(*) FROM host").unwrap();
    assert_eq!(hosts, Some(0));
}
