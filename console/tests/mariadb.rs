// SPDX-License-Identifier: GPL-2.0-or-later
//! The commands that ask a store, with a MariaDB server as the store.

#[path = "../../store/tests/common/mod.rs"]
mod common;
#[path = "../../store/tests/common/mariadb.rs"]
mod mariadb_server;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{SnapshotBuilder, record};
use trafstat_store::backend::{Mysql, Sqlite};
use trafstat_store::collect::append;
use trafstat_store::origin::Origin;
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::Store;

fn fill(store: &mut dyn Store) {
    store.migrate().unwrap();
    let origin = Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    };
    for (name, epoch) in [("lan", 1), ("lan", 2), ("dmz", 1)] {
        let records = vec![
            record(1, 7, 6, 443, 1000 * epoch),
            record(1, 8, 6, 22, 10),
            record(2, 7, 17, 53, 100),
        ];
        let bytes = SnapshotBuilder::new(name, epoch, records).bytes();
        append(store, &origin, &mut Snapshot::open(&bytes[..]).unwrap()).unwrap();
    }
}

fn answer(configuration: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
        .args(arguments)
        .env("TRAFSTAT_CONFIG", configuration)
        .env("TZ", "Europe/Berlin")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn answers_are_those_of_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let limits = "[[quota.limit]]\nname = \"web\"\nbytes = \"1 GB\"\nlocal-ip = \"192.0.2.1\"\n";

    let path = folder.path().join("trafstat.db");
    fill(&mut Sqlite::open(&path).unwrap());
    let sqlite = folder.path().join("sqlite.toml");
    fs::write(
        &sqlite,
        format!("[store]\ndb = \"{}\"\n{limits}", path.display()),
    )
    .unwrap();

    let socket = mariadb_server::socket();
    let name = mariadb_server::create_database(socket);
    fill(&mut Mysql::open(&mariadb_server::login(socket, &name)).unwrap());
    let mariadb = folder.path().join("mariadb.toml");
    let text = format!(
        "[store]\nbackend = \"mysql\"\nsocket = \"{}\"\nuser = \"root\"\ndatabase = \"{name}\"\n\
         ssl-mode = \"DISABLED\"\n{limits}",
        socket.display()
    );
    fs::write(&mariadb, text).unwrap();

    let every_filter = "show --by hour,remote-ip --local-ip 192.0.2.0/30 --local-port https,20-30 \
                        --protocol tcp --host gateway --account lan --format json";
    for command in [
        "show",
        "show --by day,host,account --format csv",
        "show --by 5min,protocol --rates --format json",
        "show --by remote-ip --format json",
        every_filter,
        "report day 2026-01-31 --format json",
        "report day 2026-01-31 --sample 5m --top 1 --format csv",
        "report month 2026-01 --format html",
        "quota --format json",
    ] {
        let words: Vec<&str> = command.split_whitespace().collect();
        let expected = answer(&sqlite, &words);
        assert_eq!(answer(&mariadb, &words), expected, "{command}");
        assert!(expected.len() > 60, "{expected}");
    }
}
