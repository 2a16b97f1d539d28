// SPDX-License-Identifier: GPL-2.0-or-later
//! A user that takes all memory it can get, by whatever namespaces, leaves another user its share and
//! the host everything.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables};
use crate::module;
use crate::proc::{ACCOUNT, AccountKey, Snapshot};
use crate::tenant::{NOBODY, Tenant};
use crate::topology::Topology;
use crate::traffic;

const MAX_TENANT_MEMORY: u64 = 6 << 20;

/// Twice the room that one tenant may have.
const GREEDY_FLOWS: u32 = 120_000;
/// Far less than that.
const MODEST_FLOWS: u32 = 8000;
const HOST_FLOWS: u16 = 4000;

/// New flows for which no worker has to be quick.
const BURST: u16 = 500;
const PAUSE: Duration = Duration::from_millis(100);

const MODEST: u32 = 1234;
const FLOWS: AccountKey<'static> = AccountKey {
    family: Family::Ipv4,
    name: "flows",
};
const RULE: &str = "*filter\n\
                    -A OUTPUT -o lo -p udp -j TRAFSTAT --local-net 127.0.0.1 --name flows \
                    --local-udp-ports all --remote-udp-ports all\n\
                    COMMIT\n";

pub fn run(guest: &Guest) -> Result<()> {
    let caps = [
        format!("max_memory={}", 4 * MAX_TENANT_MEMORY),
        format!("max_user_memory={}", 2 * MAX_TENANT_MEMORY),
        format!("max_tenant_memory={MAX_TENANT_MEMORY}"),
    ];
    module::load_with(guest, &caps.each_ref().map(String::as_str))?;
    let topology = Topology::new(Family::Ipv4)?;
    topology.fix_neighbours()?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    iptables.count_local(ALL_PORTS)?;

    let greedy = Tenant::new(guest, "trafstat-greedy", NOBODY)?;
    let nested = greedy.nested("trafstat-nested")?;
    let modest = Tenant::new(guest, "trafstat-modest", MODEST)?;
    for tenant in [&greedy, &nested] {
        tenant.restore(RULE)?;
        let fill = || traffic::loopback_flows(Family::Ipv4, 0..GREEDY_FLOWS);
        tenant.netns().enter(fill)?;
    }
    let held = greedy.memory()? + nested.memory()?;
    println!("the greedy user holds {held} bytes, {MAX_TENANT_MEMORY} is its cap");

    modest.restore(RULE)?;
    for part in (0..MODEST_FLOWS).step_by(usize::from(BURST)) {
        let burst = || traffic::loopback_flows(Family::Ipv4, part..part + u32::from(BURST));
        modest.netns().enter(burst)?;
        thread::sleep(PAUSE);
    }
    for part in (0..HOST_FLOWS).step_by(usize::from(BURST)) {
        traffic::scan(&topology, 10_000 + part, BURST)?;
        thread::sleep(PAUSE);
    }
    let counted = super::settled(&iptables)?;

    let seen = Snapshot::collect(modest.netns(), FLOWS)?;
    ensure!(
        seen.header.folded_packets == 0 && seen.header.records == u64::from(MODEST_FLOWS),
        "{} packets of another user's {MODEST_FLOWS} flows were folded, {} records are left",
        seen.header.folded_packets,
        seen.header.records
    );
    let host = Snapshot::collect(&topology.local, ACCOUNT)?;
    ensure!(
        host.header.folded_packets == 0 && host.as_rules_count() == counted,
        "the host's flows were folded: {:?}",
        host.header
    );
    ensure!(
        held > MAX_TENANT_MEMORY / 2 && held <= MAX_TENANT_MEMORY,
        "the greedy user holds {held} bytes, {MAX_TENANT_MEMORY} is its cap"
    );
    for tenant in [&greedy, &nested] {
        let flows = Snapshot::collect(tenant.netns(), FLOWS)?.header;
        ensure!(
            flows.seen_packets == u64::from(GREEDY_FLOWS),
            "of {GREEDY_FLOWS} packets: {flows:?}"
        );
    }
    Ok(())
}
