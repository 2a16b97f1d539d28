// SPDX-License-Identifier: GPL-2.0-or-later
//! A month's top 10, from the rollups and over the records.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use trafstat_store::backend::{Mysql, Sqlite};
use trafstat_store::query::{Answer, Field, Filter, Order, Query};
use trafstat_store::store::Store;

use crate::day::append;
use crate::mariadb;
use crate::traffic::Traffic;

const EPOCHS: usize = 31 * 24;

pub fn sqlite(folder: &Path, records: usize) -> Result<()> {
    let mut store = Sqlite::open(&folder.join("month.db"))?;
    store.migrate()?;
    top_10("SQLite", &mut store, records)
}

pub fn mariadb(records: usize) -> Result<()> {
    let socket = mariadb::socket();
    let database = mariadb::create_database(socket);
    let mut store = Mysql::open(&mariadb::login(socket, &database))?;
    store.migrate()?;
    top_10("MariaDB", &mut store, records)
}

fn top_10(name: &str, store: &mut dyn Store, records: usize) -> Result<()> {
    let mut traffic = Traffic::new(records / EPOCHS, 3600);
    for _ in 0..EPOCHS {
        let (header, records) = traffic.next_epoch();
        append(store, &header, &records)?;
    }
    println!("{name}, top 10 of a month with {records} records");
    for (by, what, least) in [
        (&[Field::LocalIp][..], "local address", 100),
        (&[Field::Protocol, Field::LocalPort], "service", 100),
        (&[Field::RemoteIp], "remote address", 10),
    ] {
        let mut query = Query {
            by: by.to_vec(),
            filter: Filter {
                since: Some("2026-01-01T00:00:00Z".parse()?),
                until: Some("2026-02-01T00:00:00Z".parse()?),
                ..Filter::default()
            },
            order: Order::Bytes,
            limit: Some(10),
            ..Query::default()
        };
        let (sums, from_sums) = fastest(store, &query, 5)?;
        // All remote ports are 0; that a filter names one is what needs the records.
        query.filter.remote_ports = vec![0..=0];
        let (over_records, from_records) = fastest(store, &query, 2)?;
        ensure!(from_sums == from_records, "{what}: the answers differ");
        println!(
            "  by {what}: {:.1} ms from sums, {:.0} ms over records, {:.0} times; to reach: {least}",
            sums.as_secs_f64() * 1000.0,
            over_records.as_secs_f64() * 1000.0,
            over_records.as_secs_f64() / sums.as_secs_f64()
        );
    }
    Ok(())
}

/// The least time of several tries, which others on the machine disturb least.
fn fastest(store: &mut dyn Store, query: &Query, tries: usize) -> Result<(Duration, Answer)> {
    let mut fastest = Duration::MAX;
    let mut answer = None;
    for _ in 0..tries {
        let begin = Instant::now();
        let found = store.query(query)?;
        fastest = fastest.min(begin.elapsed());
        answer = Some(found);
    }
    answer
        .map(|answer| (fastest, answer))
        .ok_or_else(|| anyhow::anyhow!("no tries"))
}
