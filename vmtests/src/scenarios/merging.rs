// SPDX-License-Identifier: GPL-2.0-or-later
//! Eight CPUs count the same flows: the snapshot has each flow once, with what all of them counted.
//!
//! Opening it merges what the CPUs have. Whoever is killed meanwhile is gone at once, and the next
//! one is served the epoch all the same.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::net::UdpSocket;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::checkers::Checkers;
use crate::cpu::{self, SwitchedCpu};
use crate::family::Family;
use crate::guest::{Guest, Skipped};
use crate::iptables::{ALL_PORTS, Iptables};
use crate::module;
use crate::pktgen::{Flows, Generator, Protocol};
use crate::proc::{self, ACCOUNT, Snapshot};
use crate::topology::Topology;

const CPUS: usize = 8;

/// Ports that every CPU sends to, and those that each has to itself.
const SHARED_PORTS: u16 = 1000;
const OWN_PORTS: u16 = 300;
const FIRST_SHARED_PORT: u16 = 10_000;
const FIRST_OWN_PORT: u16 = 20_000;

/// Flows of random sources on each CPU, so that merging takes some time.
const FLOWS: u32 = 60_000;
/// The same where the kernel checks every access.
const CHECKED_FLOWS: u32 = 10_000;

/// Room for two epochs of them.
const MAX_MEMORY: &str = "max_memory=400000000";

/// How long merging has to take for whoever is killed in the middle of it.
const LONG_ENOUGH: Duration = Duration::from_millis(100);
/// The parts of a whole merge after which one is killed, and within which the first is gone then.
const KILLED_AFTER: [u32; 3] = [20, 8, 4];
const GONE_WITHIN: u32 = 4;

pub fn run(guest: &Guest) -> Result<()> {
    let cpus = online(CPUS)?;
    module::load_with(guest, &[MAX_MEMORY])?;
    for family in [Family::Ipv4, Family::Ipv6] {
        let topology = Topology::new(family)?;
        topology.fix_neighbours()?;
        each_flow_is_there_once(guest, &topology)?;
    }
    let topology = Topology::new(Family::Ipv4)?;
    topology.fix_neighbours()?;
    killed_merge_gives_up(guest, &topology)?;
    drop(cpus);
    Ok(())
}

fn count_input<'a>(guest: &'a Guest, topology: &'a Topology) -> Result<Iptables<'a>> {
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    let local = topology.family.local();
    // Answers to what nobody waits for are not counted.
    iptables.succeed(&format!(
        "-A INPUT -d {local} -p udp -j TRAFSTAT --local-net {local} {ALL_PORTS}"
    ))?;
    Ok(iptables)
}

fn each_flow_is_there_once(guest: &Guest, topology: &Topology) -> Result<()> {
    let iptables = count_input(guest, topology)?;
    let (local, remote) = (topology.family.local(), topology.family.remote());
    let socket = topology
        .remote
        .enter(|| Ok(UdpSocket::bind((remote, 7000))?))?;
    let send = |ports: Range<u16>| -> Result<()> {
        for port in ports {
            socket.send_to(&[0; 100], (local, port))?;
        }
        Ok(())
    };
    for cpu in 0..CPUS {
        let own = FIRST_OWN_PORT + cpu as u16 * OWN_PORTS;
        on_cpu(cpu, || {
            send(FIRST_SHARED_PORT..FIRST_SHARED_PORT + SHARED_PORTS)?;
            send(own..own + OWN_PORTS)
        })?;
    }
    let counted = super::settled(&iptables)?;
    let snapshot = Snapshot::collect(&topology.local, topology.family.account())?;
    ensure!(
        snapshot.as_rules_count() == counted && snapshot.header.folded_packets == 0,
        "{counted:?} counted: {:?}",
        snapshot.header
    );
    let bytes = topology.family.datagram_bytes(100);
    let flows: BTreeSet<_> = snapshot.records.iter().map(|record| record.tuple).collect();
    let own_flows = CPUS * usize::from(OWN_PORTS);
    ensure!(
        flows.len() == snapshot.records.len()
            && flows.len() == own_flows + usize::from(SHARED_PORTS),
        "{} records of {} flows",
        snapshot.records.len(),
        flows.len()
    );
    for record in &snapshot.records {
        let is_shared = record.tuple.local_port < FIRST_OWN_PORT;
        let packets = if is_shared { CPUS as u64 } else { 1 };
        let counters = record.counters;
        ensure!(
            (counters.received_packets, counters.received_bytes) == (packets, packets * bytes),
            "{packets} packets were sent: {record:?}"
        );
    }
    Ok(())
}

fn killed_merge_gives_up(guest: &Guest, topology: &Topology) -> Result<()> {
    let iptables = count_input(guest, topology)?;
    let flows = match Checkers::find()? {
        Some(_) => CHECKED_FLOWS,
        None => FLOWS,
    };
    let fill = || -> Result<()> {
        for cpu in 0..CPUS {
            Generator::new(topology, Protocol::Udp)?
                .on_cpu(cpu)
                .send(Flows::RandomSources, flows)?;
        }
        Ok(())
    };

    // How long an open takes that nobody kills.
    fill()?;
    let whole = time_of_opening(topology)?;
    let first = Snapshot::collect(&topology.local, ACCOUNT)?;
    println!("{} records are opened in {whole:?}", first.records.len());
    let mut seen = first.as_rules_count();

    fill()?;
    let counted = super::settled(&iptables)?;
    for (turn, part) in KILLED_AFTER.into_iter().enumerate() {
        let mut opening = Opening::start(topology)?;
        thread::sleep(whole / part);
        let was_under_way = opening.is_under_way();
        let gone = opening.kill()?;
        println!(
            "killed after {:?}, under way: {was_under_way}, gone {gone:?} later",
            whole / part
        );
        // What one merged need not be merged again by the next.
        if turn == 0 && whole >= LONG_ENOUGH {
            ensure!(was_under_way, "an open of {whole:?} was through at once");
            ensure!(
                gone < whole / GONE_WITHIN,
                "an open of {whole:?} that was killed after {:?} was gone {gone:?} later",
                whole / part
            );
        }
    }
    let served = Snapshot::peek(&topology.local, ACCOUNT)?;
    let again = Snapshot::peek(&topology.local, ACCOUNT)?;
    seen.add(served.as_rules_count());
    ensure!(
        seen == counted,
        "{counted:?} counted, {seen:?} seen: {:?}",
        served.header
    );
    let tuples: BTreeSet<_> = served.records.iter().map(|record| record.tuple).collect();
    ensure!(
        tuples.len() == served.records.len(),
        "{} records of {} flows",
        served.records.len(),
        tuples.len()
    );
    ensure!(
        served.bytes == again.bytes,
        "the epoch is served otherwise the second time"
    );
    Ok(())
}

fn time_of_opening(topology: &Topology) -> Result<Duration> {
    topology.local.enter(|| {
        let began = Instant::now();
        let file = File::open(proc::path("snapshot", ACCOUNT))?;
        let took = began.elapsed();
        drop(file);
        Ok(took)
    })
}

/// A process that opens the snapshot, and another program once it has.
struct Opening(Child);

impl Opening {
    const OPENS: &str = "sh";

    fn start(topology: &Topology) -> Result<Self> {
        let mut sh = Command::new(Self::OPENS);
        sh.args(["-c", "read line && exec sleep 600 <\"$0\""])
            .arg("/proc/self/net/trafstat/snapshot/ipv4/192.0.2.1_32")
            .stdin(Stdio::piped());
        let mut opening = Self(topology.local.enter(|| Ok(sh.spawn()?))?);
        // It is started by now and waits for this.
        thread::sleep(Duration::from_millis(200));
        let mut stdin = opening.0.stdin.take().context("no input")?;
        stdin.write_all(b"\n")?;
        Ok(opening)
    }

    fn is_under_way(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/comm", self.0.id()))
            .is_ok_and(|comm| comm.trim() == Self::OPENS)
    }

    /// Kills it; returns how long it takes to be gone.
    fn kill(&mut self) -> Result<Duration> {
        let killed = Instant::now();
        self.0.kill()?;
        self.0.wait()?;
        Ok(killed.elapsed())
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.kill();
        }
    }
}

/// Brings the first so many CPUs online, as long as the result lives.
fn online(cpus: usize) -> Result<Vec<SwitchedCpu>> {
    if !cpu::exists(cpus - 1) {
        bail!(Skipped("this machine has fewer than eight CPUs"));
    }
    let mut switched = Vec::new();
    for number in 0..cpus {
        if !cpu::is_online(number)? {
            switched.push(SwitchedCpu::on(number)?);
        }
    }
    Ok(switched)
}

fn on_cpu(number: usize, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cpu::stay_on(number)?;
            work()
        });
        thread.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}
