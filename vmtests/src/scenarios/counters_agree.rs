// SPDX-License-Identifier: GPL-2.0-or-later
//! What the module recorded is, to the packet and the byte, what the rules counted.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables, RuleCounters};
use crate::module;
use crate::proc::{Snapshot, Tuple};
use crate::topology::Topology;
use crate::traffic::{self, EchoServer, FlowCounters, HttpServer};

const HTTP: u16 = 80;
const ECHO: u16 = 5000;
const CLOSED: u16 = 81;
const DOWNLOAD_BYTES: usize = 3_000_000;

/// Layer-3 bytes of a neighbour solicitation or advertisement, without and with the sender's
/// hardware address (RFC 4861 sections 4.3 and 4.4).
const NEIGHBOUR_DISCOVERY_BYTES: [u64; 2] = [64, 72];

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Epochs that must close while traffic runs.
const EPOCHS: usize = 4;

pub fn run(guest: &Guest, family: Family) -> Result<()> {
    let cpus = thread::available_parallelism()?.get();
    ensure!(
        cpus >= 2,
        "on {cpus} CPU the per-CPU tables are never merged"
    );
    module::load(guest)?;
    let topology = Topology::new(family)?;
    let iptables = Iptables::new(guest, &topology.local, family);
    iptables.count_local(ALL_PORTS)?;

    let stop = AtomicBool::new(false);
    let http = HttpServer::listen(&topology, HTTP)?;
    let echo = EchoServer::bind(&topology, ECHO)?;
    let conversations = Conversations::new(family);
    let mut snapshots = Vec::new();
    let rounds: [&(dyn Fn() -> Result<()> + Sync); 4] = [
        &|| conversations.download(&topology, &http),
        &|| conversations.exchange(&topology, &echo),
        &|| conversations.ping(&topology),
        &|| conversations.refused_connection(&topology),
    ];
    thread::scope(|scope| {
        let stop = &stop;
        let traffic = rounds.map(|round| {
            scope.spawn(move || {
                // At least once, however soon the epochs are through.
                loop {
                    round()?;
                    if stop.load(Ordering::Relaxed) {
                        return anyhow::Ok(());
                    }
                }
            })
        });
        let closed = (0..EPOCHS).try_for_each(|_| {
            thread::sleep(Duration::from_millis(500));
            let snapshot = Snapshot::collect(&topology.local, family.account())?;
            ensure!(
                snapshot.header.seen_packets > 0,
                "an epoch under traffic is empty"
            );
            snapshots.push(snapshot);
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        for kind in traffic {
            kind.join()
                .map_err(|_| anyhow!("a traffic thread panicked"))??;
        }
        closed
    })?;

    let counted = super::collect_all(
        || iptables.counters(),
        || {
            snapshots.push(Snapshot::collect(&topology.local, family.account())?);
            Ok(())
        },
    )?;

    identities_follow_each_other(&snapshots)?;
    let mut seen = RuleCounters::default();
    for snapshot in &snapshots {
        let header = &snapshot.header;
        seen.add(snapshot.as_rules_count());
        ensure!(
            header.extrapolated_packets + header.outside_packets + header.skipped_packets == 0,
            "nothing was sampled, and all of it was local: {header:?}"
        );
    }
    ensure!(
        seen == counted,
        "the epochs saw {seen:?}, the rules {counted:?}"
    );
    let segmented: u64 = snapshots.iter().map(|s| s.header.gso_extra_packets).sum();
    ensure!(
        segmented > 0,
        "no buffer of several segments was among the traffic"
    );

    conversations.are_recorded(&snapshots)
}

/// What the epochs have of each flow, with its SYN packets.
type Recorded = BTreeMap<Tuple, (FlowCounters, u64)>;

/// What was exchanged, by who with whom.
struct Conversations {
    family: Family,
    /// Where every packet is known.
    exact: Mutex<BTreeMap<Tuple, FlowCounters>>,
    /// Downloads: TCP decides on its own how many packets it takes.
    downloads: Mutex<Vec<Tuple>>,
    refused: Mutex<u64>,
}

impl Conversations {
    fn new(family: Family) -> Self {
        Self {
            family,
            exact: Mutex::default(),
            downloads: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    fn download(&self, topology: &Topology, server: &HttpServer) -> Result<()> {
        let remote_port = server.download(topology, DOWNLOAD_BYTES)?;
        let mut downloads = self.downloads.lock().map_err(|_| anyhow!("poisoned"))?;
        downloads.push(self.tuple(TCP, HTTP, remote_port));
        Ok(())
    }

    fn exchange(&self, topology: &Topology, server: &EchoServer) -> Result<()> {
        let (remote_port, counters) = server.exchange(topology, 200, 300)?;
        self.add(self.tuple(UDP, ECHO, remote_port), counters)
    }

    fn ping(&self, topology: &Topology) -> Result<()> {
        let counters = traffic::ping(topology, 5)?;
        self.add(self.tuple(self.family.icmp(), 0, 0), counters)
    }

    fn refused_connection(&self, topology: &Topology) -> Result<()> {
        traffic::refused_connection(topology, CLOSED)?;
        *self.refused.lock().map_err(|_| anyhow!("poisoned"))? += 1;
        // Else this kind alone would fill the guest's time.
        thread::sleep(Duration::from_millis(50));
        Ok(())
    }

    fn add(&self, key: Tuple, counters: FlowCounters) -> Result<()> {
        let mut exact = self.exact.lock().map_err(|_| anyhow!("poisoned"))?;
        exact.entry(key).or_default().add(&counters);
        Ok(())
    }

    fn are_recorded(&self, snapshots: &[Snapshot]) -> Result<()> {
        let mut recorded: Recorded = BTreeMap::new();
        for snapshot in snapshots {
            let mut in_epoch = BTreeMap::new();
            for record in &snapshot.records {
                let key = record.tuple;
                ensure!(
                    in_epoch.insert(key, ()).is_none(),
                    "{key:?} twice in an epoch"
                );
                let (counters, syn_packets) = recorded.entry(key).or_default();
                counters.add(&record.counters);
                *syn_packets += record.syn_packets;
            }
        }
        if self.family == Family::Ipv6 {
            self.take_neighbour_discovery(&mut recorded)?;
        }
        let exact = self.exact.lock().map_err(|_| anyhow!("poisoned"))?;
        for (key, counters) in exact.iter() {
            let (found, _) = recorded
                .remove(key)
                .with_context(|| format!("no {key:?}"))?;
            ensure!(
                found == *counters,
                "{key:?}: {found:?} instead of {counters:?}"
            );
        }
        let downloads = self.downloads.lock().map_err(|_| anyhow!("poisoned"))?;
        for key in downloads.iter() {
            let (found, syn_packets) = recorded
                .remove(key)
                .with_context(|| format!("no {key:?}"))?;
            let headers = self.family.tcp_bytes() * found.sent_packets;
            ensure!(
                found.sent_bytes >= DOWNLOAD_BYTES as u64 + headers
                    && found.sent_packets >= DOWNLOAD_BYTES as u64 / 1460
                    && found.received_packets > 2
                    && syn_packets == 1,
                "{key:?}: {found:?}, {syn_packets} SYN"
            );
        }
        // What is left went to the closed port: a SYN in, a reset out.
        let refused = *self.refused.lock().map_err(|_| anyhow!("poisoned"))?;
        ensure!(
            recorded.len() as u64 == refused,
            "{refused} refused connections: {recorded:?}"
        );
        for (key, (counters, syn_packets)) in recorded {
            ensure!(
                key.local_port == CLOSED
                    && (
                        counters.sent_packets,
                        counters.received_packets,
                        syn_packets
                    ) == (1, 1, 1),
                "{key:?}: {counters:?}, {syn_packets} SYN"
            );
        }
        Ok(())
    }

    /// Takes out what the kernel itself said in ICMPv6, partly between the same addresses as ping.
    fn take_neighbour_discovery(&self, recorded: &mut Recorded) -> Result<()> {
        let ping = self.tuple(self.family.icmp(), 0, 0);
        let exact = self.exact.lock().map_err(|_| anyhow!("poisoned"))?;
        let pinged = *exact.get(&ping).context("no ping")?;
        let mut discovery = FlowCounters::default();
        recorded.retain(|tuple, (counters, _)| {
            if tuple.protocol == ping.protocol {
                discovery.add(counters);
            }
            tuple.protocol != ping.protocol
        });
        recorded.insert(ping, (pinged, 0));
        let Some(discovery) = discovery.less(&pinged) else {
            bail!("less than ping sent: {discovery:?}, {pinged:?}")
        };
        // The remote side speaks first, so that the local one has to say where it is.
        ensure!(
            discovery.sent_packets > 0,
            "the neighbour is not discovered"
        );
        let [least, most] = NEIGHBOUR_DISCOVERY_BYTES;
        for (packets, bytes) in [
            (discovery.sent_packets, discovery.sent_bytes),
            (discovery.received_packets, discovery.received_bytes),
        ] {
            ensure!(
                (packets * least..=packets * most).contains(&bytes),
                "{discovery:?} is no neighbour discovery"
            );
        }
        Ok(())
    }

    fn tuple(&self, protocol: u8, local_port: u16, remote_port: u16) -> Tuple {
        Tuple {
            protocol,
            local_ip: self.family.local(),
            remote_ip: self.family.remote(),
            local_port,
            remote_port,
        }
    }
}

fn identities_follow_each_other(snapshots: &[Snapshot]) -> Result<()> {
    for pair in snapshots.windows(2) {
        let [before, after] = [&pair[0].header, &pair[1].header];
        ensure!(
            before.account_id == after.account_id
                && after.epoch == before.epoch + 1
                && after.opened_ns <= after.closed_ns
                && before.closed_ns <= after.opened_ns,
            "{before:?} is followed by {after:?}"
        );
    }
    Ok(())
}
