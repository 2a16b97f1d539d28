// SPDX-License-Identifier: GPL-2.0-or-later
//! An account's memory is charged to the cgroup of whoever made it, whoever's packets fill it; at the
//! cgroup's limit packets are folded and nothing else happens.

use std::fs;
use std::path::Path;
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables, RuleCounters};
use crate::module;
use crate::pktgen::{Flows, Generator, Protocol};
use crate::proc::{self, ACCOUNT, Snapshot};
use crate::topology::Topology;

const ROOT: &str = "/sys/fs/cgroup";

/// So many that their memory stands out of what the kernel takes for other purposes.
const FLOWS: u32 = 60_000;

const PATIENCE: Duration = Duration::from_secs(60);

/// Room that is left for many fewer flows.
const ROOM_BYTES: u64 = 1 << 20;

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let topology = Topology::new(Family::Ipv4)?;
    topology.fix_neighbours()?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    let local = topology.family.local();
    let cgroup = Cgroup::new()?;
    cgroup.run_within(|| {
        iptables.succeed(&format!(
            "-A INPUT -d {local} -j TRAFSTAT --local-net {local} {ALL_PORTS}"
        ))
    })?;
    let generator = Generator::new(&topology, Protocol::Udp)?;
    let memory_bytes = || -> Result<u64> {
        let account = proc::account(&topology.local, ACCOUNT)?.context("no account")?;
        proc::number(&account, "memory_bytes")
    };

    // The packets are those of another cgroup's process, handled in softirq context.
    let (charged_before, held_before) = (cgroup.number("memory.current")?, memory_bytes()?);
    generator.send(Flows::RandomSources, FLOWS)?;
    let counted = super::settled(&iptables)?;
    let held = memory_bytes()? - held_before;
    let charged = cgroup
        .number("memory.current")?
        .saturating_sub(charged_before);
    ensure!(
        held > u64::from(FLOWS) * 64 / 2 && charged > held * 3 / 4,
        "{held} bytes more are held, {charged} were charged to the account's creator"
    );

    let first = Snapshot::collect(&topology.local, ACCOUNT)?;
    ensure!(
        first.as_rules_count() == counted,
        "counted {counted:?}: {:?}",
        first.header
    );
    // The kernel frees in batches, some seconds later.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = cgroup
            .number("memory.current")?
            .saturating_sub(charged_before);
        if left < charged / 2 {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "{left} bytes of {charged} are charged after the epoch was acknowledged"
        );
        thread::sleep(Duration::from_millis(500));
    }

    let limit = cgroup.number("memory.current")? + ROOM_BYTES;
    cgroup.write("memory.max", &limit.to_string())?;
    generator.send(Flows::RandomSources, FLOWS)?;
    let all = super::settled(&iptables)?;
    let charged = cgroup.number("memory.current")?;
    let second = Snapshot::collect(&topology.local, ACCOUNT)?;
    let mut seen = first.as_rules_count();
    seen.add(second.as_rules_count());
    ensure!(seen == all, "counted {all:?}, seen {seen:?}");
    ensure!(
        second.header.folded_packets > 0,
        "nothing was folded for want of memory: {:?}",
        second.header
    );
    ensure!(
        charged <= limit,
        "{charged} bytes are charged, {limit} is the limit"
    );
    let events = cgroup.read("memory.events")?;
    ensure!(
        events.lines().any(|line| line == "oom_kill 0"),
        "a process was killed: {events}"
    );

    // With room again, the next epoch is exact again.
    cgroup.write("memory.max", "max")?;
    generator.send(Flows::RandomSources, FLOWS / 10)?;
    let all = super::settled(&iptables)?;
    let third = Snapshot::collect(&topology.local, ACCOUNT)?;
    seen.add(third.as_rules_count());
    ensure!(
        seen == all && seen != RuleCounters::default(),
        "counted {all:?}, seen {seen:?}"
    );
    ensure!(
        third.header.records > u64::from(FLOWS / 10) * 3 / 4,
        "few records with memory again: {:?}",
        third.header
    );
    Ok(())
}

/// A memory cgroup of its own, version 2, removed when this goes.
struct Cgroup;

impl Cgroup {
    const PATH: &str = "/sys/fs/cgroup/trafstat";

    fn new() -> Result<Self> {
        if !Path::new(ROOT).join("cgroup.controllers").exists() {
            crate::process::succeed(Command::new("mount").args(["-t", "cgroup2", "none", ROOT]))?;
        }
        let controllers = format!("{ROOT}/cgroup.subtree_control");
        fs::write(&controllers, "+memory").with_context(|| controllers.clone())?;
        fs::create_dir(Self::PATH)?;
        Ok(Self)
    }

    /// Runs `work`, and the programs that it starts, as a member.
    fn run_within(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let own = process::id().to_string();
        self.write("cgroup.procs", &own)?;
        let result = work();
        fs::write(format!("{ROOT}/cgroup.procs"), own)?;
        result
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = format!("{}/{file}", Self::PATH);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }

    fn number(&self, file: &str) -> Result<u64> {
        Ok(self.read(file)?.trim().parse()?)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = format!("{}/{file}", Self::PATH);
        fs::write(&path, text).with_context(|| format!("{text:?} to {path}"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(Self::PATH) {
            eprintln!("the cgroup {} is left over: {error}", Self::PATH);
        }
    }
}
