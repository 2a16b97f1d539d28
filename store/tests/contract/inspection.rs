// SPDX-License-Identifier: GPL-2.0-or-later
//! What checks, plans and views show, whatever names are.

use std::path::Path;

use trafstat_store::collect::append;
use trafstat_store::origin::Origin;
use trafstat_store::query::{Field, Filter, Query};
use trafstat_store::snapshot::Snapshot;

use crate::common::{HOUR_NS, NOON_NS, SnapshotBuilder, record};
use crate::databases::{Database, SqliteDatabase};
use crate::support::{NOTHING_WRONG, by, lan, origin, pruned, recorded, stored, time};

pub fn check_finds_what_does_not_sum_up<D: Database>() {
    for damage in [
        "UPDATE record SET sent_packets = sent_packets + 1 WHERE protocol = 17",
        "DELETE FROM record WHERE protocol = 6",
        "UPDATE local_hourly SET sent_bytes = sent_bytes + 1",
        "DELETE FROM local_daily",
        "UPDATE service_hourly SET received_packets = 0",
        "DELETE FROM service_daily WHERE protocol = 17",
        "UPDATE local_service_quarterly SET sent_packets = sent_packets + 1",
        "DELETE FROM local_service_hourly",
        "DELETE FROM local_service_daily WHERE local_port = 22",
        "DELETE FROM remote_part",
        "UPDATE account SET counted_bytes = counted_bytes - 1",
    ] {
        let database = D::create();
        let mut store = database.open();
        stored(&mut *store, &lan(1)).unwrap();
        assert_eq!(store.check().unwrap(), NOTHING_WRONG);
        database.run(damage);
        assert_ne!(store.check().unwrap(), NOTHING_WRONG, "{damage}");
    }
}

pub fn every_query_uses_its_key<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    for number in 0..3 {
        let mut origin = origin();
        origin.machine_id = format!("{number:032}");
        for epoch in 1..=40 {
            let bytes = lan(epoch).bytes();
            append(
                &mut *store,
                &origin,
                &mut Snapshot::open(&bytes[..]).unwrap(),
            )
            .unwrap();
        }
    }
    for query in every_query() {
        let steps = store.explain(&query).unwrap();
        let mut used = 0;
        for step in &steps {
            used += u32::from(uses_its_key(step).unwrap_or_else(|| panic!("{query:?}: {steps:?}")));
        }
        assert!(used > 0, "{query:?}: {steps:?}");
    }
}

/// Whether a step reads a table that grows; none if without the key that is made for it.
pub fn uses_its_key(step: &str) -> Option<bool> {
    let words: Vec<&str> = step.split_whitespace().collect();
    // Aliases of snapshots, records and sums.
    let grows = |word: &str| ["s", "r", "t"].contains(&word);
    match words[..] {
        // SQLite: SEARCH or SCAN, the table, and how.
        ["SEARCH", table, "USING", ref key @ ..] if grows(table) => {
            let key = key.join(" ");
            [
                "INDEX snapshot_counted (host_id=? AND account_id=?",
                "PRIMARY KEY (host_id=?",
                "COVERING INDEX snapshot_counted (host_id=?",
                "INTEGER PRIMARY KEY (rowid>?",
                "INDEX sqlite_autoindex_remote_part_1 (host_id=? AND account_id=?",
            ]
            .iter()
            .any(|expected| key.starts_with(expected))
            .then_some(true)
        }
        ["SCAN", table, ..] if grows(table) => None,
        // MariaDB: table, access, key.
        [table, access, key] if grows(table) => (["ref", "eq_ref", "range"].contains(&access)
            && ["PRIMARY", "snapshot_counted"].contains(&key))
        .then_some(true),
        _ => Some(false),
    }
}

/// Every grouping with every kind of filter, such as the console asks for.
pub fn every_query() -> Vec<Query> {
    let fields = [
        Field::Protocol,
        Field::LocalIp,
        Field::RemoteIp,
        Field::LocalPort,
        Field::RemotePort,
    ];
    let filters: [fn(&mut Filter); 9] = [
        |_| {},
        |filter| {
            filter.since = Some(time(NOON_NS + HOUR_NS / 2));
            filter.until = Some(time(NOON_NS + 39 * HOUR_NS + 1));
        },
        |filter| filter.accounts = vec!["lan".parse().unwrap()],
        |filter| filter.protocols = vec![6],
        |filter| filter.local = vec!["192.0.2.0/24".parse().unwrap()],
        |filter| filter.remote = vec!["198.51.100.0/24".parse().unwrap()],
        |filter| filter.local_ports = vec![22..=22],
        |filter| filter.remote_ports = vec![0..=0],
        |filter| filter.hosts = vec!["gateway".to_owned()],
    ];
    let mut groupings: Vec<Vec<Field>> = (0..1_u32 << fields.len())
        .map(|set| {
            (0..fields.len())
                .filter(|bit| set & 1 << bit != 0)
                .map(|bit| fields[bit])
                .collect()
        })
        .collect();
    groupings.extend([
        vec![Field::Hour, Field::LocalIp],
        vec![Field::Host, Field::Account, Field::Day],
        vec![Field::FiveMinutes, Field::Protocol, Field::LocalPort],
    ]);
    let mut queries = Vec::new();
    for grouping in &groupings {
        let mut query = by(grouping);
        // Each filter alone, and all of them.
        for filter in filters {
            let mut query = query.clone();
            filter(&mut query.filter);
            queries.push(query);
        }
        filters.iter().for_each(|filter| filter(&mut query.filter));
        queries.push(query);
    }
    queries
}

pub fn account_has_a_view_with_the_originals_columns<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let snapshot = SnapshotBuilder::new("192.0.2.0_24", 1, vec![record(200, 1, 6, 22, 10)]);
    stored(&mut *store, &snapshot).unwrap();
    let rows = database.run(
        "SELECT protocol, local_ip, remote_ip, local_port, remote_port, local_pkt, remote_pkt,
             local_data, remote_data, syn_count FROM trafstat_192_0_2_0_24",
    );
    let expected: [u32; 10] = [
        6,
        u32::from_be_bytes([192, 0, 2, 200]),
        u32::from_be_bytes([198, 51, 100, 1]),
        22,
        0,
        10,
        20,
        1000,
        15_000,
        1,
    ];
    assert_eq!(rows, [expected.map(|value| value.to_string())]);
    let rows = database.run(
        "SELECT COUNT(*) FROM trafstat_192_0_2_0_24 WHERE _traf_id > 0 AND timestamp IS NOT NULL",
    );
    assert_eq!(rows, [["1"]]);
}

pub fn rows_of_an_account_view_have_ids_of_their_own<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    // Two hosts, two lives of an account, and numbers as large as those of imported epochs.
    for (number, life) in [(1, 1), (1, 2), (2, 1)] {
        let mut origin = origin();
        origin.machine_id = format!("{number:032}");
        for epoch in [1, 2, i64::MAX as u64] {
            let records = vec![record(1, 1, 6, 22, 1), record(1, 2, 6, 22, 1)];
            let mut snapshot = SnapshotBuilder::new("192.0.2.0_24", 1, records);
            snapshot.header.account_id = [life; 16];
            snapshot.header.epoch = epoch;
            let bytes = snapshot.bytes();
            append(
                &mut *store,
                &origin,
                &mut Snapshot::open(&bytes[..]).unwrap(),
            )
            .unwrap();
        }
    }
    let rows = database.run(
        "SELECT COUNT(*), COUNT(DISTINCT _traf_id), SUM(local_pkt) FROM trafstat_192_0_2_0_24",
    );
    assert_eq!(rows, [["18", "18", "18"]]);
}

pub fn views_show_addresses_as_people_write_them<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    let rows = database
        .run("SELECT host, account, local_ip, remote_ip, sent_packets FROM flow ORDER BY local_ip");
    assert_eq!(
        rows,
        [
            ["gateway", "lan", "192.0.2.1", "198.51.100.1", "10"],
            ["gateway", "lan", "192.0.2.2", "198.51.100.1", "20"],
        ]
    );
    let pending = database.run("SELECT remote_ip, SUM(sent_packets) FROM remote_month GROUP BY 1");
    assert_eq!(pending, [["198.51.100.1", "30"]]);
    let nothing = SnapshotBuilder::new("lan", 2, Vec::new());
    stored(&mut *store, &nothing).unwrap();
    assert_eq!(pruned(&mut *store, NOON_NS + HOUR_NS), (1, 2));
    let added = database.run("SELECT remote_ip, SUM(sent_packets) FROM remote_month GROUP BY 1");
    assert_eq!(added, pending);
    for (view, keys) in [
        ("local_service_quarter", "local_ip"),
        ("local_service_hour", "local_port"),
        ("local_service_day", "protocol"),
        ("local_hour", "local_ip"),
        ("local_day", "local_ip"),
        ("service_hour", "local_port"),
        ("service_day", "local_port"),
    ] {
        let rows = database.run(&format!(
            "SELECT {keys}, sent_packets FROM {view} ORDER BY 2"
        ));
        assert_eq!([&rows[0][1], &rows[1][1]], ["10", "20"], "{view}");
    }
}

pub fn views_show_ipv6_addresses_in_their_short_form<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    let addresses = [
        "::",
        "::1",
        "1::",
        "2001:db8::7",
        "2001:db8:0:1::",
        "1:0:0:2::3",
        "1::2:0:0:3",
        "1:2:3:4:5:6:7:8",
        "10:200:3000::ff:0:abcd",
        "1::3:4:5:6:7:8",
        "1:2:3:4:5:6:7::",
        "::2:3:4:5:6:7:8",
        "::192.0.2.7",
        "::ffff:192.0.2.7",
        "::fffe:c000:207",
        "192.0.2.200",
    ];
    for address in addresses {
        let octets = match address.parse::<std::net::IpAddr>().unwrap() {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let digits: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        database.run(&format!("UPDATE record SET remote_ip = x'{digits}'"));
        let shown = database.run("SELECT DISTINCT remote_ip FROM flow");
        assert_eq!(shown, [[address]]);
    }
}

pub fn views_show_times_in_utc<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    stored(&mut *store, &lan(1)).unwrap();
    let flow = database.run("SELECT DISTINCT closed FROM flow WHERE closed >= '2026-01-31'");
    assert_eq!(flow, [["2026-01-31 13:00:00"]]);
    let day = database.run("SELECT DISTINCT day FROM local_day WHERE day < '2026-02-01'");
    assert_eq!(day, [["2026-01-31 00:00:00"]]);
}

pub fn hostile_names_are_only_names<D: Database>() {
    let database = D::create();
    let mut store = database.open();
    let names = [
        "'; DROP TABLE record; --",
        "\\'; DROP TABLE record; #",
        "%s%n\u{1b}[2J\n\t\"`",
        "`; DROP TABLE record; -- \"; DROP TABLE record; --",
        "ÿ日本",
    ];
    for (name, number) in names.iter().zip(1..) {
        let origin = Origin {
            machine_id: format!("{number}{name}"),
            hostname: (*name).to_owned(),
            netns: (*name).to_owned(),
        };
        for epoch in 1..=2 {
            let bytes = lan(epoch).bytes();
            append(
                &mut *store,
                &origin,
                &mut Snapshot::open(&bytes[..]).unwrap(),
            )
            .unwrap();
        }
    }
    assert_eq!(recorded(&mut *store), (10, 300));
    let mut stored: Vec<String> = database
        .run("SELECT hostname FROM host")
        .into_iter()
        .flatten()
        .collect();
    stored.sort();
    let mut expected = names.map(str::to_owned);
    expected.sort();
    assert_eq!(stored, expected);
    // An account's name cannot be hostile, but nearly an identifier is not one.
    let snapshot = SnapshotBuilder::new("a-b.c:d", 1, vec![record(1, 1, 6, 22, 1)]);
    self::stored(&mut *store, &snapshot).unwrap();
    assert_eq!(
        database.run("SELECT local_pkt FROM trafstat_a_b_c_d"),
        [["1"]]
    );
}

pub fn hostile_names_in_a_backup_are_refused<D: Database>() {
    let folder = tempfile::tempdir().unwrap();
    let backup = SqliteDatabase(folder);
    stored(&mut *backup.open(), &lan(1)).unwrap();
    for name in [
        "'; DROP TABLE record; --",
        "`; DROP TABLE record; --",
        "\"; DROP TABLE record; --",
        "",
        "ÿ日本",
        "a\\",
    ] {
        let text = name.replace('\'', "''");
        backup.run(&format!(
            "UPDATE account SET name = '{text}', view_name = '{text}'"
        ));
        for there in [false, true] {
            let database = D::create();
            let mut store = database.open();
            if there {
                stored(&mut *store, &lan(2)).unwrap();
            }
            let error = store
                .restore(Path::new(&backup.location()))
                .unwrap_err()
                .to_string();
            assert!(error.contains("is not an account name"), "{error}");
            assert_eq!(recorded(&mut *store).1, if there { 30 } else { 0 });
            assert_eq!(store.check().unwrap(), NOTHING_WRONG);
        }
    }
}
