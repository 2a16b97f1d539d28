// SPDX-License-Identifier: GPL-2.0-or-later
//! A day's epochs, appended.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mysql::prelude::Queryable;
use rusqlite::Connection;
use trafstat_store::backend::{Mysql, Sqlite};
use trafstat_store::snapshot::{Header, Record};
use trafstat_store::store::{Begun, Store};

use crate::mariadb;
use crate::traffic::{Traffic, origin};

/// Records that a collector reads from the kernel at once.
const BATCH: usize = 2730;

const INTERVAL_SECS: u64 = 300;

pub fn append(store: &mut dyn Store, header: &Header, records: &[Record]) -> Result<()> {
    let Begun::New(mut transaction) = store.begin(&origin(), header)? else {
        bail!("epoch {} is stored already", header.epoch);
    };
    for batch in records.chunks(BATCH) {
        transaction.write(batch)?;
    }
    Ok(transaction.commit()?)
}

/// Time by the clock, and time that this thread's instructions took.
#[derive(Clone, Copy, Default)]
struct Spent {
    wall: Duration,
    processor: Duration,
}

impl Spent {
    fn measure(&mut self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let (wall, processor) = (Instant::now(), processor_time()?);
        work()?;
        self.wall += wall.elapsed();
        self.processor += processor_time()? - processor;
        Ok(())
    }
}

fn processor_time() -> Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

fn rate(records: usize, time: Duration) -> String {
    format!("{:.0}k/s", records as f64 / time.as_secs_f64() / 1000.0)
}

fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64()
}

pub fn sqlite(folder: &Path, epochs: u32, keys: usize) -> Result<()> {
    let path = folder.join("day.db");
    let mut store = Sqlite::open(&path)?;
    store.migrate()?;
    let mut bare = bare(&folder.join("bare.db"))?;
    let mut traffic = Traffic::new(keys, INTERVAL_SECS);
    let (mut loops, mut ours) = (Spent::default(), Spent::default());
    for _ in 0..epochs {
        let (header, records) = traffic.next_epoch();
        loops.measure(|| insert_bare(&mut bare, header.epoch, &records))?;
        ours.measure(|| append(&mut store, &header, &records))?;
    }
    drop(store);
    drop(bare);
    let records = epochs as usize * keys;
    println!("SQLite, {epochs} epochs of {keys} keys");
    println!(
        "  bare prepared INSERT {} ({} of the processor's time)",
        rate(records, loops.wall),
        rate(records, loops.processor)
    );
    println!(
        "  trafstat {} ({} of the processor's time)",
        rate(records, ours.wall),
        rate(records, ours.processor)
    );
    println!(
        "  ratio {:.2} (by processor time {:.2}); to reach: 0.60",
        ratio(loops.wall, ours.wall),
        ratio(loops.processor, ours.processor)
    );
    sqlite_sizes(&path, records)
}

/// The size of the same traffic between addresses of IPv6.
pub fn ipv6_size(folder: &Path, epochs: u32, keys: usize) -> Result<()> {
    let path = folder.join("ipv6.db");
    let mut store = Sqlite::open(&path)?;
    store.migrate()?;
    let mut traffic = Traffic::new(keys, INTERVAL_SECS).ipv6();
    for _ in 0..epochs {
        let (header, records) = traffic.next_epoch();
        append(&mut store, &header, &records)?;
    }
    drop(store);
    println!("SQLite, {epochs} epochs of {keys} keys of IPv6");
    sqlite_sizes(&path, epochs as usize * keys)
}

fn bare(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = wal;
         PRAGMA synchronous = full;
         PRAGMA cache_size = -16384;
         CREATE TABLE record (
             host_id INTEGER, account_id INTEGER, epoch INTEGER, protocol INTEGER,
             local_ip BLOB, local_port INTEGER, remote_ip BLOB, remote_port INTEGER,
             flags INTEGER, sent_packets INTEGER, received_packets INTEGER,
             sent_bytes INTEGER, received_bytes INTEGER, syn_packets INTEGER) STRICT",
    )?;
    Ok(connection)
}

fn insert_bare(connection: &mut Connection, epoch: u64, records: &[Record]) -> Result<()> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(_) => unreachable!("the traffic is IPv4"),
    };
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO record VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,
             ?14)",
        )?;
        for record in records {
            let counters = &record.counters;
            insert.execute((
                1,
                1,
                epoch as i64,
                record.protocol,
                &octets(record.local.ip)[..],
                record.local.port,
                &octets(record.remote.ip)[..],
                record.remote.port,
                record.flags,
                counters.sent_packets as i64,
                counters.received_packets as i64,
                counters.sent_bytes as i64,
                counters.received_bytes as i64,
                counters.syn_packets as i64,
            ))?;
        }
    }
    Ok(transaction.commit()?)
}

/// Tables that hold sums, which the records do not need.
const ROLLUPS: [&str; 7] = [
    "local_hourly",
    "local_daily",
    "service_hourly",
    "service_daily",
    "local_service_",
    "remote_monthly",
    "remote_part",
];

fn sqlite_sizes(path: &Path, records: usize) -> Result<()> {
    let connection = Connection::open(path)?;
    let mut statement = connection.prepare("SELECT name, SUM(pgsize) FROM dbstat GROUP BY name")?;
    let mut rows = statement.query([])?;
    let (mut plain, mut sums) = (0, 0);
    while let Some(row) = rows.next()? {
        let (name, bytes): (String, i64) = (row.get(0)?, row.get(1)?);
        let rollup = ROLLUPS.iter().any(|rollup| name.contains(rollup));
        *(if rollup { &mut sums } else { &mut plain }) += bytes;
    }
    println!(
        "  {:.1} bytes a record with all keys (to reach with IPv4: 40), {:.1} for the sums beside them",
        plain as f64 / records as f64,
        sums as f64 / records as f64
    );
    Ok(())
}

/// The table of the original, with its keys.
const ORIGINAL: &str = "CREATE TABLE original (
    _traf_id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    protocol TINYINT UNSIGNED DEFAULT 0,
    local_ip INT UNSIGNED DEFAULT 0,
    remote_ip INT UNSIGNED DEFAULT 0,
    local_port MEDIUMINT UNSIGNED DEFAULT 0,
    remote_port MEDIUMINT UNSIGNED DEFAULT 0,
    local_pkt INT UNSIGNED DEFAULT 0,
    remote_pkt INT UNSIGNED DEFAULT 0,
    local_data BIGINT UNSIGNED DEFAULT 0,
    remote_data BIGINT UNSIGNED DEFAULT 0,
    syn_count INT UNSIGNED NOT NULL DEFAULT 0,
    timestamp TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    KEY (protocol), KEY (local_ip), KEY (remote_ip), KEY (local_port), KEY (remote_port),
    KEY (timestamp)) ENGINE = InnoDB";

pub fn mariadb(epochs: u32, keys: usize) -> Result<()> {
    let socket = mariadb::socket();
    let original = mariadb::create_database(socket);
    let mut connection = mariadb::connect(socket, Some(&original));
    connection.query_drop(ORIGINAL)?;
    let database = mariadb::create_database(socket);
    let mut store = Mysql::open(&mariadb::login(socket, &database))?;
    store.migrate()?;
    let csv = socket.with_file_name("snapshot.csv");
    let mut traffic = Traffic::new(keys, INTERVAL_SECS);
    let (mut loads, mut ours) = (Spent::default(), Spent::default());
    for _ in 0..epochs {
        let (header, records) = traffic.next_epoch();
        // The kernel wrote the original's file.
        write_csv(&csv, &records)?;
        loads.measure(|| {
            Ok(connection.query_drop(format!(
                "LOAD DATA INFILE '{}' INTO TABLE original FIELDS TERMINATED BY ','
                 (protocol, local_ip, remote_ip, local_port, remote_port, local_pkt, remote_pkt,
                 local_data, remote_data, syn_count)",
                csv.display()
            ))?)
        })?;
        ours.measure(|| append(&mut store, &header, &records))?;
    }
    let records = epochs as usize * keys;
    println!("MariaDB, {epochs} epochs of {keys} keys");
    println!(
        "  the original's LOAD DATA INFILE {}",
        rate(records, loads.wall)
    );
    println!("  trafstat {}", rate(records, ours.wall));
    println!(
        "  ratio {:.2}; to reach: 1.00",
        ratio(loads.wall, ours.wall)
    );
    let mut size = |condition: String| -> Result<f64> {
        let bytes: Option<u64> = connection.query_first(format!(
            "SELECT CAST(SUM(file_size) AS UNSIGNED) FROM information_schema.innodb_sys_tablespaces
             WHERE {condition}"
        ))?;
        Ok(bytes.unwrap_or_default() as f64 / records as f64)
    };
    let sums = ROLLUPS
        .map(|table| format!("'{database}/{table}'"))
        .join(", ");
    println!(
        "  {:.1} bytes a record with all keys, {:.1} for the sums beside them; the original's {:.1}",
        size(format!("name LIKE '{database}/%' AND name NOT IN ({sums})"))?,
        size(format!("name IN ({sums})"))?,
        size(format!("name LIKE '{original}/%'"))?
    );
    Ok(())
}

fn write_csv(path: &Path, records: &[Record]) -> Result<()> {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u32::from(ip),
        IpAddr::V6(_) => unreachable!("the traffic is IPv4"),
    };
    let mut text = Vec::new();
    for record in records {
        let counters = &record.counters;
        writeln!(
            text,
            "{},{},{},{},{},{},{},{},{},{}",
            record.protocol,
            number(record.local.ip),
            number(record.remote.ip),
            record.local.port,
            record.remote.port,
            counters.sent_packets,
            counters.received_packets,
            counters.sent_bytes,
            counters.received_bytes,
            counters.syn_packets
        )?;
    }
    Ok(fs::write(path, text)?)
}
