//! What the module recorded is, to the packet and the byte, what the rules counted.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables, RuleCounters};
use crate::module;
use crate::proc::{ACCOUNT, Snapshot, Tuple, tuple};
use crate::topology::{LOCAL, REMOTE, Topology};
use crate::traffic::{self, EchoServer, HttpServer, Volume};

const HTTP: u16 = 80;
const ECHO: u16 = 5000;
const CLOSED: u16 = 81;
const DOWNLOAD_BYTES: usize = 3_000_000;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Epochs that must close while traffic runs.
const EPOCHS: usize = 4;

pub fn run(guest: &Guest) -> Result<()> {
    let cpus = thread::available_parallelism()?.get();
    ensure!(
        cpus >= 2,
        "on {cpus} CPU the per-CPU tables are never merged"
    );
    module::load(guest)?;
    let topology = Topology::new()?;
    let iptables = Iptables::new(guest, &topology.local);
    iptables.count_local(ALL_PORTS)?;

    let stop = AtomicBool::new(false);
    let http = HttpServer::listen(&topology, HTTP)?;
    let echo = EchoServer::bind(&topology, ECHO)?;
    let conversations = Conversations::default();
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
            let snapshot = Snapshot::collect(&topology.local, ACCOUNT)?;
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

    let counted = super::settled(&iptables)?;
    snapshots.push(Snapshot::collect(&topology.local, ACCOUNT)?);
    ensure!(iptables.counters()? == counted, "there still was traffic");

    identities_follow_each_other(&snapshots)?;
    let mut seen = RuleCounters::default();
    for Snapshot { header, .. } in &snapshots {
        seen.packets += header.seen_packets - header.gso_extra_packets;
        seen.bytes += header.seen_bytes - header.gso_extra_bytes;
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

/// What was exchanged, by who with whom.
#[derive(Default)]
struct Conversations {
    /// Where every packet is known.
    exact: Mutex<BTreeMap<Tuple, Volume>>,
    /// Downloads: TCP decides on its own how many packets it takes.
    downloads: Mutex<Vec<Tuple>>,
    refused: Mutex<u64>,
}

impl Conversations {
    fn download(&self, topology: &Topology, server: &HttpServer) -> Result<()> {
        let remote_port = server.download(topology, DOWNLOAD_BYTES)?;
        let mut downloads = self.downloads.lock().map_err(|_| anyhow!("poisoned"))?;
        downloads.push(conversation(TCP, HTTP, remote_port));
        Ok(())
    }

    fn exchange(&self, topology: &Topology, server: &EchoServer) -> Result<()> {
        let (remote_port, volume) = server.exchange(topology, 200, 300)?;
        self.add(conversation(UDP, ECHO, remote_port), volume)
    }

    fn ping(&self, topology: &Topology) -> Result<()> {
        let volume = traffic::ping(topology, 5)?;
        self.add(conversation(ICMP, 0, 0), volume)
    }

    fn refused_connection(&self, topology: &Topology) -> Result<()> {
        traffic::refused_connection(topology, CLOSED)?;
        *self.refused.lock().map_err(|_| anyhow!("poisoned"))? += 1;
        // Else this kind alone would fill the guest's time.
        thread::sleep(Duration::from_millis(50));
        Ok(())
    }

    fn add(&self, key: Tuple, volume: Volume) -> Result<()> {
        let mut exact = self.exact.lock().map_err(|_| anyhow!("poisoned"))?;
        let sum = exact.entry(key).or_default();
        sum.sent_packets += volume.sent_packets;
        sum.sent_bytes += volume.sent_bytes;
        sum.received_packets += volume.received_packets;
        sum.received_bytes += volume.received_bytes;
        Ok(())
    }

    fn are_recorded(&self, snapshots: &[Snapshot]) -> Result<()> {
        let mut recorded: BTreeMap<Tuple, (Volume, u64)> = BTreeMap::new();
        for snapshot in snapshots {
            let mut in_epoch = BTreeMap::new();
            for record in &snapshot.records {
                let key = tuple(record);
                ensure!(
                    in_epoch.insert(key, ()).is_none(),
                    "{key:?} twice in an epoch"
                );
                let (volume, syn_packets) = recorded.entry(key).or_default();
                volume.sent_packets += record.sent_packets;
                volume.sent_bytes += record.sent_bytes;
                volume.received_packets += record.received_packets;
                volume.received_bytes += record.received_bytes;
                *syn_packets += record.syn_packets;
            }
        }
        let exact = self.exact.lock().map_err(|_| anyhow!("poisoned"))?;
        for (key, volume) in exact.iter() {
            let (found, _) = recorded
                .remove(key)
                .with_context(|| format!("no {key:?}"))?;
            ensure!(found == *volume, "{key:?}: {found:?} instead of {volume:?}");
        }
        let downloads = self.downloads.lock().map_err(|_| anyhow!("poisoned"))?;
        for key in downloads.iter() {
            let (found, syn_packets) = recorded
                .remove(key)
                .with_context(|| format!("no {key:?}"))?;
            let headers = 40 * found.sent_packets;
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
        for (key, (volume, syn_packets)) in recorded {
            ensure!(
                key.local_port == CLOSED
                    && (volume.sent_packets, volume.received_packets, syn_packets) == (1, 1, 1),
                "{key:?}: {volume:?}, {syn_packets} SYN"
            );
        }
        Ok(())
    }
}

fn conversation(protocol: u8, local_port: u16, remote_port: u16) -> Tuple {
    Tuple {
        protocol,
        local_ip: LOCAL,
        remote_ip: REMOTE,
        local_port,
        remote_port,
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
