// SPDX-License-Identifier: GPL-2.0-or-later
//! A million random sources, ten times what the account has room for: memory stays within what the
//! limit allows, every packet is counted, and every packet passes.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables, RuleCounters};
use crate::module;
use crate::pktgen::{Flows, Generator, Protocol};
use crate::proc::{self, ACCOUNT, Snapshot};
use crate::topology::Topology;

const PACKETS: u32 = 1_000_000;
const THOUSAND_ENTRIES: u64 = 100;

/// What one record takes at most, its part of the index and of what is prepared ahead included:
/// records of 64 bytes, an eighth ahead, an eighth of them empty; index entries of 8 bytes, between
/// 9/32 and 9/16 of them used, and half as many in the old index while it grows.
const BYTES_PER_RECORD: u64 = 160;
/// An eighth more records than max-entries, less than that: one fold record for 16 of them.
const RECORDS: u64 = THOUSAND_ENTRIES * 1000 * 17 / 16;
/// What one CPU's empty table, and its first steps, take.
const BYTES_PER_CPU: u64 = 64 << 10;
/// What the rest of the system may take meanwhile.
const BYTES_OF_OTHERS: u64 = 24 << 20;

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let topology = Topology::new(Family::Ipv4)?;
    topology.fix_neighbours()?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    let local = topology.family.local();
    iptables.succeed(&format!(
        "-A INPUT -d {local} -j TRAFSTAT --local-net {local} {ALL_PORTS} \
         --max-entries {THOUSAND_ENTRIES}"
    ))?;
    // The second CPU finds little room left.
    let flood = || -> Result<()> {
        for cpu in [0, 1] {
            let generator = Generator::new(&topology, Protocol::Udp)?.on_cpu(cpu);
            generator.send(Flows::RandomSources, PACKETS / 4)?;
        }
        Ok(())
    };
    let available_before = available_memory()?;
    let passed_before = passed(&topology)?;

    // The first epoch stays unread while the second one fills.
    flood()?;
    check_memory(&topology, 1)?;
    Snapshot::peek(&topology.local, ACCOUNT)?;
    flood()?;
    let counted = super::settled(&iptables)?;
    let limit = check_memory(&topology, 2)?;
    let taken = available_before.saturating_sub(available_memory()?);
    ensure!(
        taken <= limit + BYTES_OF_OTHERS,
        "{taken} bytes less are available, {limit} is the limit"
    );

    let mut seen = RuleCounters::default();
    for _ in 0..2 {
        let snapshot = Snapshot::collect(&topology.local, ACCOUNT)?;
        let h = &snapshot.header;
        // Each CPU has a last record beside its part of the limit.
        ensure!(
            h.folded_packets > 0 && h.records <= RECORDS + 1,
            "not at its limit: {h:?}"
        );
        ensure!(
            h.records >= THOUSAND_ENTRIES * 1000 / 2,
            "far from its limit: {h:?}"
        );
        seen.add(snapshot.as_rules_count());
    }
    let passed = passed(&topology)? - passed_before;
    println!("{passed} packets passed, {seen:?} counted, {taken} bytes taken");
    ensure!(seen == counted, "counted {counted:?}, seen {seen:?}");
    ensure!(
        passed == counted.packets,
        "{passed} packets passed, {counted:?} were counted"
    );
    // What the link had no room for was not counted either.
    let sent = u64::from(PACKETS);
    ensure!(
        passed > sent / 2 && passed <= sent,
        "{passed} of {sent} packets passed"
    );
    Ok(())
}

/// The account holds no more than so many epochs may; returns that.
fn check_memory(topology: &Topology, epochs: u64) -> Result<u64> {
    let account = proc::account(&topology.local, ACCOUNT)?.context("no account")?;
    let taken = proc::number(&account, "memory_bytes")?;
    let limit = epochs * RECORDS * BYTES_PER_RECORD + 2 * possible_cpus()? * BYTES_PER_CPU;
    ensure!(taken <= limit, "{taken} bytes, {limit} is the limit");
    Ok(limit)
}

/// Datagrams that came through the rule to where nobody waits for them.
fn passed(topology: &Topology) -> Result<u64> {
    let text = topology
        .local
        .enter(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    // Names, then numbers, in the same order.
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, numbers) = (lines.next(), lines.next());
    let column = names
        .and_then(|names| names.split(' ').position(|name| name == "NoPorts"))
        .context("no NoPorts")?;
    let number = numbers.and_then(|numbers| numbers.split(' ').nth(column));
    Ok(number.context("no number of NoPorts")?.parse()?)
}

fn available_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix("kB"))
        .context("no MemAvailable")?;
    Ok(kilobytes.trim().parse::<u64>()? << 10)
}

fn possible_cpus() -> Result<u64> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or_default();
    Ok(last.parse::<u64>()? + 1)
}
