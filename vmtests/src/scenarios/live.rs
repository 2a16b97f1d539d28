// SPDX-License-Identifier: GPL-2.0-or-later
//! The open epoch is readable while it counts, by several at once, and none the worse for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::io::Errno;

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables, RuleCounters};
use crate::module;
use crate::proc::{self, AccountKey, Snapshot, Tuple};
use crate::topology::Topology;
use crate::traffic::{self, EchoServer, FlowCounters, HttpServer};

const READERS: usize = 3;
const DOWNLOADS: usize = 4;
const DOWNLOAD_BYTES: usize = 500_000;

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    for family in [Family::Ipv4, Family::Ipv6] {
        let topology = Topology::new(family)?;
        let iptables = Iptables::new(guest, &topology.local, family);
        iptables.count_local(ALL_PORTS)?;
        counting_goes_on_under_readers(&topology)?;
        live_and_closed_epoch_have_the_same(&topology, &iptables)?;
        closed_epoch_is_stale(&topology)?;
    }
    Ok(())
}

fn counting_goes_on_under_readers(topology: &Topology) -> Result<()> {
    let http = HttpServer::listen(topology, 80)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|_| scope.spawn(|| topology.local.enter(|| watch(topology, &stop))))
            .collect();
        let downloaded =
            (0..DOWNLOADS).try_for_each(|_| http.download(topology, DOWNLOAD_BYTES).map(drop));
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().map_err(|_| anyhow!("a reader panicked"))??;
        }
        downloaded
    })
}

/// Reads the first epoch again and again: it stays open, and its counters only grow.
fn watch(topology: &Topology, stop: &AtomicBool) -> Result<()> {
    let mut before = RuleCounters::default();
    let mut grown = 0;
    while !stop.load(Ordering::Relaxed) || grown == 0 {
        let live = Snapshot::live(topology.family.account())?;
        ensure!(live.header.epoch == 1, "epoch {}", live.header.epoch);
        let seen = RuleCounters {
            packets: live.header.seen_packets,
            bytes: live.header.seen_bytes,
        };
        ensure!(
            seen.packets >= before.packets && seen.bytes >= before.bytes,
            "{seen:?} after {before:?}"
        );
        grown += usize::from(seen.packets > before.packets);
        before = seen;
    }
    Ok(())
}

fn live_and_closed_epoch_have_the_same(topology: &Topology, iptables: &Iptables<'_>) -> Result<()> {
    EchoServer::bind(topology, 5000)?.exchange(topology, 40, 100)?;
    traffic::ping(topology, 3)?;
    let account = topology.family.account();
    let mut live = None;
    let counted = super::collect_all(
        || iptables.counters(),
        || {
            live = Some(topology.local.enter(|| Snapshot::live(account))?);
            Ok(())
        },
    )?;
    let live = live.context("nothing was read")?;
    ensure!(
        live.as_rules_count() == counted,
        "live {:?}, the rules {counted:?}",
        live.header
    );
    let state = proc::account(&topology.local, account)?.context("no account")?;
    ensure!(
        (
            proc::number(&state, "epoch")?,
            proc::number(&state, "unread")?
        ) == (1, 0),
        "reading closed the epoch: {state:?}"
    );

    let closed = Snapshot::peek(&topology.local, account)?;
    ensure!(closed.header.epoch == 1, "epoch {}", closed.header.epoch);
    let [in_live, in_closed] = [by_tuple(&live), by_tuple(&closed)];
    for (tuple, (counters, syn_packets)) in &in_live {
        let (then, then_syn) = in_closed
            .get(tuple)
            .with_context(|| format!("{tuple:?} is live only"))?;
        ensure!(
            then.less(counters).is_some() && then_syn >= syn_packets,
            "{tuple:?}: live {counters:?}, closed {then:?}"
        );
    }
    // Not a packet between the two readings: then all is equal.
    ensure!(
        closed.as_rules_count() != counted || in_live == in_closed,
        "live {in_live:?}, closed {in_closed:?}"
    );
    Ok(())
}

fn closed_epoch_is_stale(topology: &Topology) -> Result<()> {
    let account = topology.family.account();
    let mut begun = open(topology, account)?;
    let mut beginning = [0; 100];
    begun.read_exact(&mut beginning)?;
    super::fails_with(
        begun.read_at(&mut beginning, 0),
        Errno::SPIPE,
        "reading at an offset",
    )?;

    // Epoch 1 waits to be acknowledged; 2 is the one that is open, and begun.
    Snapshot::collect(&topology.local, account)?;
    begun.read_exact(&mut beginning)?;
    let closed = Snapshot::collect(&topology.local, account)?;
    ensure!(closed.header.epoch == 2, "epoch {}", closed.header.epoch);
    let mut unread = open(topology, account)?;
    let what = "reading on in a closed epoch";
    super::fails_with(begun.read(&mut beginning), Errno::STALE, what)?;
    // Epoch 4 counts where epoch 2 did.
    for epoch in [3, 4] {
        let closed = Snapshot::collect(&topology.local, account)?;
        ensure!(closed.header.epoch == epoch, "{:?}", closed.header);
        super::fails_with(begun.read(&mut beginning), Errno::STALE, what)?;
        super::fails_with(
            unread.read(&mut beginning),
            Errno::STALE,
            "the first read of a closed epoch",
        )?;
    }
    let live = topology.local.enter(|| Snapshot::live(account))?;
    ensure!(live.header.epoch == 5, "epoch {}", live.header.epoch);
    Ok(())
}

fn open(topology: &Topology, account: AccountKey<'_>) -> Result<File> {
    topology
        .local
        .enter(|| Ok(File::open(proc::path("live", account))?))
}

/// A live epoch has a flow once for each CPU.
fn by_tuple(snapshot: &Snapshot) -> BTreeMap<Tuple, (FlowCounters, u64)> {
    let mut flows = BTreeMap::<_, (FlowCounters, u64)>::new();
    for record in &snapshot.records {
        let (counters, syn_packets) = flows.entry(record.tuple).or_default();
        counters.add(&record.counters);
        *syn_packets += record.syn_packets;
    }
    flows
}
