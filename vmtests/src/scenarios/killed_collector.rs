// SPDX-License-Identifier: GPL-2.0-or-later
//! A collector killed anywhere loses nothing and counts nothing twice.

use anyhow::{Context, Result, ensure};

use crate::collector::{Collector, StoredEpoch};
use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables};
use crate::module;
use crate::proc::{self, ACCOUNT, Record, Snapshot};
use crate::topology::Topology;
use crate::traffic::{self, EchoServer, HttpServer};

const SIGKILL: i32 = 9;

/// Where the collector dies, and what it leaves: is the epoch stored, does it wait in the kernel?
const POINTS: [(&str, bool, bool); 3] = [
    ("before-commit", false, true),
    ("before-ack", true, true),
    ("after-ack", true, false),
];

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let topology = Topology::new(Family::Ipv4)?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    iptables.count_local(ALL_PORTS)?;
    let collector = Collector::new(guest, guest.scratch()?);
    collector.collect(&topology.local)?;
    let http = HttpServer::listen(&topology, 80)?;
    let echo = EchoServer::bind(&topology, 5000)?;

    let mut served = Vec::new();
    for (point, is_stored, is_unread) in POINTS {
        http.download(&topology, 200_000)?;
        echo.exchange(&topology, 20, 100)?;
        traffic::refused_connection(&topology, 81)?;
        let snapshot = Snapshot::peek(&topology.local, ACCOUNT)?;
        let epoch = StoredEpoch {
            account_id: hex(&snapshot.header.account_id),
            epoch: snapshot.header.epoch,
        };
        // Counted while the closed epoch waits: it belongs to the next one.
        traffic::ping(&topology, 3)?;

        let killed = collector.collect_killed(&topology.local, point)?;
        ensure!(killed.signal == Some(SIGKILL), "{point}: {killed:?}");
        ensure!(
            collector.epochs()?.contains(&epoch) == is_stored,
            "{point}: wrongly {}stored",
            if is_stored { "not " } else { "" }
        );
        let account = proc::account(&topology.local, ACCOUNT)?.context("no account")?;
        ensure!(
            (proc::number(&account, "unread")? == epoch.epoch) == is_unread,
            "{point}: {account:?}"
        );
        collector.collect(&topology.local)?;
        served.push((epoch, snapshot.records));
    }
    collector.collect(&topology.local)?;

    for (epoch, records) in served {
        let stored = sorted(collector.records(&epoch)?);
        ensure!(
            stored == sorted(records),
            "epoch {} is not stored as the kernel served it",
            epoch.epoch
        );
    }
    let epochs: Vec<_> = collector
        .epochs()?
        .iter()
        .map(|stored| stored.epoch)
        .collect();
    let once: Vec<_> = (1..=epochs.len() as u64).collect();
    ensure!(epochs == once, "not every epoch once: {epochs:?}");
    let totals = collector.totals()?;
    let counted = iptables.counters()?;
    ensure!(
        totals.as_rules_count() == counted && totals.records == totals.seen,
        "the database has {totals:?}, the rules {counted:?}"
    );
    Ok(())
}

fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_unstable();
    records
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
