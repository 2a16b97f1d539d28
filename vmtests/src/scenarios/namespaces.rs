// SPDX-License-Identifier: GPL-2.0-or-later
//! One collector, outside of them, collects from network namespaces: one, several, all.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Result, ensure};

use crate::collector::Collector;
use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{Iptables, RuleCounters};
use crate::module;
use crate::topology::Topology;
use crate::traffic;

const LOCAL: &str = "trafstat-local";
const REMOTE: &str = "trafstat-remote";

/// A file that is left where a namespace was.
const STALE: &str = "/run/netns/trafstat-stale";

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let topology = Topology::new(Family::Ipv4)?;
    let family = topology.family;
    let local = Iptables::new(guest, &topology.local, family);
    let remote = Iptables::new(guest, &topology.remote, family);
    local.count_local("")?;
    // Accounts of one name, whose figures differ.
    remote.succeed(&format!(
        "-A INPUT -j TRAFSTAT --local-net {} --name {}_{}",
        family.remote(),
        family.local(),
        family.address_len()
    ))?;
    let collector = Collector::new(guest, guest.scratch()?);
    let stored = || collector.seen_by_netns();

    traffic::ping(&topology, 5)?;
    let first = local.counters()?;
    collector.collect_from(&[LOCAL])?;
    ensure!(
        stored()? == BTreeMap::from([(LOCAL.to_owned(), first)]),
        "from {LOCAL} alone: {:?}",
        stored()?
    );

    traffic::ping(&topology, 3)?;
    let expected = || -> Result<BTreeMap<String, RuleCounters>> {
        Ok(BTreeMap::from([
            (LOCAL.to_owned(), local.counters()?),
            (REMOTE.to_owned(), remote.counters()?),
        ]))
    };
    collector.collect_from(&[LOCAL, REMOTE])?;
    ensure!(
        stored()? == expected()?,
        "from both: {:?}, not {:?}",
        stored()?,
        expected()?
    );

    traffic::ping(&topology, 4)?;
    fs::write(STALE, "")?;
    let all = collector.end_collecting_from(&["all"]);
    fs::remove_file(STALE)?;
    let all = all?;
    ensure!(
        all.code == Some(0) && all.stderr.contains("no network namespace any more"),
        "all, with a stale one: {all:?}"
    );
    ensure!(
        stored()? == expected()?,
        "from all: {:?}, not {:?}",
        stored()?,
        expected()?
    );

    let missing = collector.end_collecting_from(&["trafstat-missing"])?;
    ensure!(
        missing.code == Some(1) && missing.stderr.contains("ip netns list"),
        "a namespace that is not there: {missing:?}"
    );
    Ok(())
}
