// SPDX-License-Identifier: GPL-2.0-or-later
//! What a CPU counts is exact whatever else happens on it: the process's own packets with bottom
//! halves enabled while others arrive, and its going offline and coming back.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::cpu::{self, SwitchedCpu};
use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Backend, Iptables, RuleCounters};
use crate::module;
use crate::proc::{ACCOUNT, Snapshot};
use crate::topology::{PEER, Topology};
use crate::traffic;

/// The CPU that comes and goes.
const CPU: usize = 1;
/// One beyond it, offline since boot.
const BEYOND: usize = 2;

const DATAGRAMS: u64 = 20_000;
const PORTS: u16 = 500;
const ROUNDS: u64 = 5;

pub fn run(guest: &Guest) -> Result<()> {
    println!(
        "possible CPUs {}, online {}",
        cpu::numbers("possible")?,
        cpu::numbers("online")?
    );
    module::load(guest)?;
    let topology = Topology::new(Family::Ipv4)?;
    topology.fix_neighbours()?;
    let iptables = Iptables::new(guest, &topology.local, topology.family).through(Backend::Nft);
    iptables.count_local(ALL_PORTS)?;
    process_and_softirq_share_a_cpu(&topology, &iptables)?;
    offline_cpu_is_read(&topology, &iptables)?;
    cpus_on_both_sides_of_a_hole_count(&topology, &iptables)?;
    cpu_goes_and_comes_under_traffic(&topology, &iptables)
}

/// The local side sends from process context; what it receives is delayed, so that it comes in
/// softirqs that interrupt that.
fn process_and_softirq_share_a_cpu(topology: &Topology, iptables: &Iptables<'_>) -> Result<()> {
    let before = iptables.counters()?;
    topology.remote.tc(&format!(
        "qdisc add dev {PEER} root netem delay 1ms limit 100000"
    ))?;
    let (local, remote) = (topology.family.local(), topology.family.remote());
    thread::scope(|scope| {
        let sides = [
            (&topology.local, local, remote),
            (&topology.remote, remote, local),
        ]
        .map(|(netns, from, to)| {
            scope.spawn(move || {
                netns.enter(|| {
                    cpu::stay_on(CPU)?;
                    let socket = UdpSocket::bind((from, 7000))?;
                    for _ in 0..DATAGRAMS {
                        // The other side may have no room; both count what was sent.
                        socket.send_to(&[0; 100], (to, 7000))?;
                    }
                    Ok(())
                })
            })
        });
        sides.into_iter().try_for_each(|side| {
            side.join()
                .map_err(|_| anyhow!("a sending thread panicked"))?
        })
    })?;
    let counted = super::settled(iptables)?;
    topology.remote.tc(&format!("qdisc del dev {PEER} root"))?;
    let snapshot = Snapshot::collect(&topology.local, ACCOUNT)?;
    let seen = snapshot.as_rules_count();
    ensure!(
        seen == less(counted, before) && seen.packets > DATAGRAMS * 3 / 2,
        "{before:?} before, {counted:?} counted, {seen:?} seen"
    );
    Ok(())
}

fn offline_cpu_is_read(topology: &Topology, iptables: &Iptables<'_>) -> Result<()> {
    let before = iptables.counters()?;
    // One epoch is closed, the next open, when the CPU goes.
    send(topology, CPU, 20_000)?;
    super::settled(iptables)?;
    let closed = Snapshot::peek(&topology.local, ACCOUNT)?;
    send(topology, CPU, 30_000)?;
    let counted = super::settled(iptables)?;
    let offline = SwitchedCpu::off(CPU)?;
    let again = Snapshot::collect(&topology.local, ACCOUNT)?;
    ensure!(
        again.bytes == closed.bytes,
        "the closed epoch is another once its CPU is offline"
    );
    let open = Snapshot::collect(&topology.local, ACCOUNT)?;
    drop(offline);
    let mut seen = closed.as_rules_count();
    seen.add(open.as_rules_count());
    // A datagram that was long under way is in the second epoch.
    let records = closed.records.len() + open.records.len();
    ensure!(
        seen == less(counted, before) && records >= 2 * usize::from(PORTS),
        "{before:?} before, {counted:?} counted, {seen:?} seen, in {records} records: {:?}, {:?}",
        closed.header,
        open.header
    );
    Ok(())
}

fn cpus_on_both_sides_of_a_hole_count(topology: &Topology, iptables: &Iptables<'_>) -> Result<()> {
    let before = iptables.counters()?;
    let beyond = SwitchedCpu::on(BEYOND)?;
    let hole = SwitchedCpu::off(CPU)?;
    println!("online {}", cpu::numbers("online")?);
    send(topology, 0, 20_000)?;
    send(topology, BEYOND, 30_000)?;
    let counted = super::settled(iptables)?;
    let snapshot = Snapshot::collect(&topology.local, ACCOUNT)?;
    drop(hole);
    drop(beyond);
    let seen = snapshot.as_rules_count();
    let records = snapshot.records.len();
    ensure!(
        seen == less(counted, before) && records >= 2 * usize::from(PORTS),
        "{before:?} before, {counted:?} counted, {seen:?} seen, in {records} records"
    );
    Ok(())
}

/// The remote side sends a datagram to each of many ports from one CPU, which receives them, too.
fn send(topology: &Topology, cpu: usize, first: u16) -> Result<()> {
    topology.remote.enter(|| {
        cpu::stay_on(cpu)?;
        let socket = UdpSocket::bind((topology.family.remote(), 0))?;
        for port in first..first + PORTS {
            socket.send_to(b"?", (topology.family.local(), port))?;
        }
        Ok(())
    })
}

fn cpu_goes_and_comes_under_traffic(topology: &Topology, iptables: &Iptables<'_>) -> Result<()> {
    let before = iptables.counters()?;
    let mut seen = RuleCounters::default();
    traffic::during(topology, || {
        for _ in 0..ROUNDS {
            for offline in [Some(SwitchedCpu::off(CPU)?), None] {
                thread::sleep(Duration::from_millis(500));
                seen.add(Snapshot::collect(&topology.local, ACCOUNT)?.as_rules_count());
                drop(offline);
            }
        }
        Ok(())
    })?;
    let counted = super::settled(iptables)?;
    seen.add(Snapshot::collect(&topology.local, ACCOUNT)?.as_rules_count());
    ensure!(
        seen == less(counted, before) && seen.packets > 0,
        "{before:?} before, {counted:?} counted, {seen:?} seen"
    );
    Ok(())
}

fn less(counters: RuleCounters, part: RuleCounters) -> RuleCounters {
    RuleCounters {
        packets: counters.packets - part.packets,
        bytes: counters.bytes - part.bytes,
    }
}
