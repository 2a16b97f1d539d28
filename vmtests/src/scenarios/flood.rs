// SPDX-License-Identifier: GPL-2.0-or-later
//! A million random sources reach an account's limit: nothing is left out, memory stays in bounds,
//! and its packets cost at most twice the instructions that one of a known flow costs.

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables};
use crate::module;
use crate::pktgen::{Flows, Generator, Protocol};
use crate::proc::{self, Snapshot};
use crate::topology::Topology;

/// `--max-entries 20`, and a sixteenth of it again for records that flows are folded into.
const MAX_ENTRIES: u64 = 20_000;
const MAX_RECORDS: u64 = MAX_ENTRIES + MAX_ENTRIES / 16;
/// The record's cache line, as much again for its part of the index and for what is prepared.
const MAX_MEMORY_BYTES: u64 = MAX_RECORDS * 128;
const KNOWN: Flows = Flows::Few(256);
const FLOOD: u32 = 1_000_000;
/// Packets of the flood that are sent at once: the generator leaves the only CPU to nobody, and with
/// every checker on, memory runs out that is free only once others have run.
const PORTION: u32 = 10_000;
/// Packets of a run that is counted, and the least of how many runs counts.
const PACKETS: u32 = 4000;
const RUNS: u32 = 3;
/// Rules alike that a packet passes in these runs: with every checker on, what the packet itself
/// costs differs from run to run by more than one rule's part.
const RULES: u32 = 16;

/// Needs a clock that counts instructions.
pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let topology = Topology::new(Family::Ipv4)?;
    topology.fix_neighbours()?;
    let generator = Generator::new(&topology, Protocol::Udp)?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    // The first packets of a flow are another matter.
    let cost = |flows| {
        generator.send(flows, PACKETS)?;
        generator.least_cost(flows, PACKETS, RUNS)
    };
    let repeat = |change: &str, times| (0..times).try_for_each(|_| iptables.succeed(change));

    let alone = || {
        repeat("-I INPUT", RULES)?;
        iptables.succeed("-A INPUT -j DROP")?;
        let costs = (cost(KNOWN)?, cost(Flows::RandomSources)?);
        iptables.flush()?;
        anyhow::Ok(costs)
    };
    let before = alone()?;

    let local = topology.family.local();
    let count = format!(
        "INPUT -j TRAFSTAT --local-net {local} --max-entries {} {ALL_PORTS}",
        MAX_ENTRIES / 1000
    );
    let count_again = format!("-I {count}");
    iptables.succeed("-A INPUT -j DROP")?;
    repeat(&count_again, RULES)?;
    let known = cost(KNOWN)?;
    repeat(&format!("-D {count}"), RULES - 1)?;
    for _ in 0..FLOOD / PORTION {
        generator.send(Flows::RandomSources, PORTION)?;
    }
    repeat(&count_again, RULES - 1)?;
    let no_room = cost(Flows::RandomSources)?;
    // Those that were there before the flood are still known.
    let known = known.min(cost(KNOWN)?);

    let by_all_rules = u64::from(3 * (RUNS + 1) * PACKETS);
    let sent = u64::from(FLOOD) + by_all_rules;
    let seen = u64::from(FLOOD) + u64::from(RULES) * by_all_rules;
    let passed = iptables.counters_of("DROP")?.packets;
    ensure!(passed == sent, "{passed} packets of {sent} passed the rule");
    let account = proc::account(&topology.local, topology.family.account())?;
    let memory_bytes = proc::number(&account.context("no account")?, "memory_bytes")?;
    ensure!(
        memory_bytes <= MAX_MEMORY_BYTES,
        "{memory_bytes} bytes of {MAX_MEMORY_BYTES}"
    );
    let counted = Snapshot::collect(&topology.local, topology.family.account())?.header;
    ensure!(
        counted.seen_packets == seen && counted.records <= MAX_RECORDS,
        "of {seen} packets: {counted:?}"
    );
    // 2^24 sources hardly ever repeat among so few packets.
    ensure!(
        counted.folded_packets > u64::from(FLOOD) * 9 / 10,
        "the account is not full: {counted:?}"
    );

    // What a packet costs with every checker on also drifts.
    iptables.flush()?;
    let after = alone()?;
    let a_rule = |cost: f64, before: f64, after: f64| (cost - before.min(after)) / f64::from(RULES);
    let known = a_rule(known, before.0, after.0);
    let no_room = a_rule(no_room, before.1, after.1);
    println!(
        "a packet of a known flow: {known:.0} instructions a rule, \
         one without room: {no_room:.0}"
    );
    ensure!(known > 0.0, "counting costs nothing: {known}");
    ensure!(
        no_room <= 2.0 * known,
        "a packet that finds no room costs {no_room:.0} instructions, one of a known flow {known:.0}"
    );
    Ok(())
}
