// SPDX-License-Identifier: GPL-2.0-or-later
//! Flows chosen to collide cost what random ones do while the hash's key is not known; whoever knew
//! it would have all but a few folded, at a cost that does not rise with their number.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::guest::Guest;
use crate::module;

const PARAMETER: &str = "/sys/module/xt_TRAFSTAT/parameters/collide";
const FLOWS: u64 = 20_000;
/// Index entries that may have one home (`index::PROBE` of core).
const PROBE: u64 = 256;
/// The lengths of probes are a matter of chance.
const CHANCE: f64 = 1.25;

/// What counting `flows` came to, each counted twice.
#[derive(Debug)]
struct Outcome {
    flows: u64,
    records: u64,
    folded_packets: u64,
    /// Of a packet the second time; instructions, where the clock counts them.
    ns_per_packet: u64,
}

/// Needs a clock that counts instructions.
pub fn run(guest: &Guest) -> Result<()> {
    module::load_with_tests(guest, &[])?;
    let [random, blindly, by_key] = count(FLOWS)?;
    println!("of {FLOWS} flows: random {random:?}, chosen blindly {blindly:?}, by key {by_key:?}");
    for all in [&random, &blindly] {
        ensure!(
            (all.flows, all.records, all.folded_packets) == (FLOWS, FLOWS, 0),
            "{all:?}"
        );
    }
    let cost = |outcome: &Outcome| outcome.ns_per_packet as f64;
    ensure!(
        cost(&blindly) <= CHANCE * cost(&random),
        "{blindly:?}, random ones {random:?}"
    );
    // One record is for all that are folded.
    let expected = (PROBE + 1, 2 * (FLOWS - PROBE));
    ensure!(
        (by_key.records, by_key.folded_packets) == expected,
        "{by_key:?}"
    );
    let [.., fewer] = count(FLOWS / 10)?;
    println!("of {} flows by key {fewer:?}", FLOWS / 10);
    ensure!(
        cost(&by_key) <= CHANCE * cost(&fewer),
        "{by_key:?}, of fewer {fewer:?}"
    );
    Ok(())
}

/// Random flows, flows that would collide under another key, and flows that do.
fn count(flows: u64) -> Result<[Outcome; 3]> {
    fs::write(PARAMETER, flows.to_string()).context("the module refuses to count")?;
    let shown = fs::read_to_string(PARAMETER)?;
    let outcomes: Option<Vec<_>> = shown.lines().map(outcome).collect();
    outcomes
        .and_then(|outcomes| outcomes.try_into().ok())
        .with_context(|| format!("the module says {shown}"))
}

fn outcome(line: &str) -> Option<Outcome> {
    let (_, numbers) = line.split_once(": ")?;
    let numbers: Result<Vec<u64>, _> = numbers.split(' ').map(str::parse).collect();
    let [flows, records, folded_packets, ns_per_packet] = numbers.ok()?.try_into().ok()?;
    Some(Outcome {
        flows,
        records,
        folded_packets,
        ns_per_packet,
    })
}
