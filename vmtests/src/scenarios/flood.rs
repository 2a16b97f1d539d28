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

    let alone = || {
        iptables.succeed("-A INPUT")?;
        iptables.succeed("-A INPUT -j DROP")?;
        let costs = (cost(KNOWN)?, cost(Flows::RandomSources)?);
        iptables.flush()?;
        anyhow::Ok(costs)
    };
    let before = alone()?;

    let local = topology.family.local();
    iptables.succeed(&format!(
        "-A INPUT -j TRAFSTAT --local-net {local} --max-entries {} {ALL_PORTS}",
        MAX_ENTRIES / 1000
    ))?;
    iptables.succeed("-A INPUT -j DROP")?;
    let known = cost(KNOWN)?;
    // These runs end before the limit.
    const { assert!(((RUNS + 1) * PACKETS) as u64 + 256 < MAX_ENTRIES) };
    let room = cost(Flows::RandomSources)?;
    for _ in 0..FLOOD / PORTION {
        generator.send(Flows::RandomSources, PORTION)?;
    }
    let no_room = cost(Flows::RandomSources)?;
    // Those that were there before the flood are still known.
    let known = known.min(cost(KNOWN)?);

    let sent = u64::from(FLOOD + 4 * (RUNS + 1) * PACKETS);
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
        counted.seen_packets == sent && counted.records <= MAX_RECORDS,
        "of {sent} packets: {counted:?}"
    );
    // 2^24 sources hardly ever repeat among so few packets.
    ensure!(
        counted.folded_packets > u64::from(FLOOD) * 9 / 10,
        "the account is not full: {counted:?}"
    );

    // With every checker on, what a packet takes without being counted drifts.
    iptables.flush()?;
    let after = alone()?;
    let (known_alone, random_alone) = (before.0.min(after.0), before.1.min(after.1));
    let (known, room, no_room) = (
        known - known_alone,
        room - random_alone,
        no_room - random_alone,
    );
    println!(
        "a packet of a known flow: {known:.0} instructions, of a new one: {room:.0}, \
         of one without room: {no_room:.0}"
    );
    ensure!(known > 0.0, "counting costs nothing: {known}");
    ensure!(
        no_room <= 2.0 * known,
        "a packet that finds no room costs {no_room:.0} instructions, one of a known flow {known:.0}"
    );
    Ok(())
}
