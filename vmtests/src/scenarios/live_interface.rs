// SPDX-License-Identifier: GPL-2.0-or-later
//! An interface that the collector counts by itself has the module's records, through VLAN tags, too.
//!
//! The collector sees the frames of the link; the rules, which see what is in them, have the kernel's
//! own counters.

use std::collections::BTreeMap;
use std::fs;
use std::process::Child;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::collector::Collector;
use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables};
use crate::module;
use crate::proc::{Record, Snapshot};
use crate::topology::{DEVICE, PEER, Topology};
use crate::traffic::{self, EchoServer, HttpServer};

/// How the tags of a frame are added, the outermost first.
const TAGS: [&[&str]; 3] = [
    &[],
    &["protocol 802.1Q id 5"],
    &["protocol 802.1ad id 6", "protocol 802.1Q id 7"],
];

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    for family in [Family::Ipv4, Family::Ipv6] {
        for tags in TAGS {
            has_the_modules_records(guest, family, tags)
                .with_context(|| format!("{family:?}, tags: {tags:?}"))?;
        }
    }
    Ok(())
}

fn has_the_modules_records(guest: &Guest, family: Family, tags: &[&str]) -> Result<()> {
    let topology = Topology::new(family)?;
    let (local, remote) = (family.local(), family.remote());
    for (netns, device, address) in [
        (&topology.local, DEVICE, local),
        (&topology.remote, PEER, remote),
    ] {
        let mut link = device.to_owned();
        for (tag, depth) in tags.iter().zip(1..) {
            let tagged = format!("tagged-{depth}");
            netns.ip(&format!(
                "link add link {link} name {tagged} type vlan {tag}"
            ))?;
            netns.ip(&format!("link set {tagged} up"))?;
            link = tagged;
        }
        if !tags.is_empty() {
            netns.ip(&format!("address flush dev {device}"))?;
            let nodad = if family == Family::Ipv6 { "nodad" } else { "" };
            let length = family.subnet_len();
            netns.ip(&format!(
                "address add {address}/{length} dev {link} {nodad}"
            ))?;
        }
    }
    let iptables = Iptables::new(guest, &topology.local, family);
    iptables.count_local(ALL_PORTS)?;
    let collector = Collector::new(guest, guest.scratch()?);
    let options = format!("--source live:{DEVICE} --every 1h --local-net {local} {ALL_PORTS}");
    let running = topology.local.enter(|| collector.start(&options))?;
    let counted = wait_for_ring(&topology).and_then(|()| {
        let http = HttpServer::listen(&topology, 80)?;
        let echo = EchoServer::bind(&topology, 5000)?;
        traffic::ping(&topology, 5)?;
        http.download(&topology, 2_000_000)?;
        http.upload(&topology, 2_000_000)?;
        echo.exchange(&topology, 20, 400)?;
        traffic::refused_connection(&topology, 81)?;
        super::settled(&iptables)
    });
    let stopped = stop(running);
    let counted = counted?;
    stopped?;

    let snapshot = Snapshot::collect(&topology.local, family.account())?;
    ensure!(
        snapshot.as_rules_count() == counted,
        "the rules counted {counted:?}, the module {:?}",
        snapshot.as_rules_count()
    );
    let mut of_module = snapshot.records;
    of_module.sort();
    let of_interface = stored(&collector)?;
    ensure!(
        of_module == of_interface,
        "the module's records: {of_module:#?}\nthe interface's: {of_interface:#?}"
    );
    ensure!(of_module.len() >= 5, "few records: {of_module:?}");
    Ok(())
}

/// What is stored of each flow, in order: a full hour, which may pass meanwhile, ends an epoch.
fn stored(collector: &Collector) -> Result<Vec<Record>> {
    let mut sums = BTreeMap::<_, Record>::new();
    for epoch in collector.epochs()? {
        for record in collector.records(&epoch)? {
            sums.entry(record.tuple)
                .and_modify(|sum| {
                    sum.counters.add(&record.counters);
                    sum.syn_packets += record.syn_packets;
                })
                .or_insert(record);
        }
    }
    Ok(sums.into_values().collect())
}

/// Waits until the collector's socket is bound to the interface and runs (`net/packet` of proc).
fn wait_for_ring(topology: &Topology) -> Result<()> {
    let index = topology.local.link(DEVICE)?["ifindex"]
        .as_u64()
        .context("no index")?
        .to_string();
    for _ in 0..600 {
        let sockets = topology
            .local
            .enter(|| Ok(fs::read_to_string("/proc/thread-self/net/packet")?))?;
        // sk RefCnt Type Proto Iface R ...
        let is_running = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.get(4..6) == Some(&[index.as_str(), "1"])
        };
        if sockets.lines().any(is_running) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    bail!("the collector does not count")
}

/// Lets the collector store what it counted.
fn stop(collector: Child) -> Result<()> {
    kill_process(Pid::from_child(&collector), Signal::TERM)?;
    let output = collector.wait_with_output()?;
    ensure!(output.status.success(), "the collector: {output:?}");
    Ok(())
}
