// SPDX-License-Identifier: GPL-2.0-or-later
//! Names of hosts in `trafstat show`.

#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::fs;
use std::process::Command;

use common::{SnapshotBuilder, record};
use serde_json::Value;
use trafstat_store::backend::Sqlite;
use trafstat_store::collect::append;
use trafstat_store::origin::Origin;
use trafstat_store::snapshot::Snapshot;
use trafstat_store::store::Store;

/// What `trafstat show --by local-ip` writes of 192.0.2.1, which the configuration calls printer.
fn shown(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let [database, config] = ["trafstat.db", "trafstat.toml"].map(|name| folder.path().join(name));
    fs::write(&config, "[name]\n\"192.0.2.1\" = \"printer\\u001b\"\n").unwrap();
    let mut store = Sqlite::open(&database).unwrap();
    store.migrate().unwrap();
    let bytes = SnapshotBuilder::new("lan", 1, vec![record(1, 7, 6, 443, 10)]).bytes();
    let origin = Origin {
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        hostname: "gateway".to_owned(),
        netns: "init".to_owned(),
    };
    append(
        &mut store,
        &origin,
        &mut Snapshot::open(&bytes[..]).unwrap(),
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
        .args(["show", "--by", "local-ip", "--db"])
        .arg(&database)
        .args(arguments)
        .env("TRAFSTAT_CONFIG", &config)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn host_of_a_name_is_shown_with_it_and_without_control_characters() {
    let table = shown(&[]);
    assert!(table.contains("192.0.2.1 printer\\u{1b} "), "{table}");
    let json: Value = serde_json::from_str(&shown(&["--format", "json"])).unwrap();
    assert_eq!(json["records"][0]["local_ip"], "192.0.2.1");
    assert_eq!(json["records"][0]["local_ip_name"], "printer\u{1b}");
}

#[test]
fn numeric_shows_addresses_alone() {
    assert!(!shown(&["--numeric"]).contains("printer"));
    assert!(!shown(&["--numeric", "--format", "json"]).contains("printer"));
}
