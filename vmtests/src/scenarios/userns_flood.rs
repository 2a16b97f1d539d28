// SPDX-License-Identifier: GPL-2.0-or-later
//! An unprivileged user with namespaces of its own makes accounts and flows without end: it meets the
//! cap, and the host's own accounts go on as if it were not there.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables};
use crate::kernel_log::KernelLog;
use crate::module;
use crate::proc::{ACCOUNT, AccountKey, Snapshot};
use crate::tenant::{NOBODY, Tenant};
use crate::topology::Topology;
use crate::traffic;

/// Half of it is for users, and for any one of them.
const MAX_MEMORY: u64 = 8 << 20;

/// What the user's flows would take twenty times the room for.
const TENANT_FLOWS: u32 = 100_000;
const TENANT: AccountKey<'static> = AccountKey {
    family: Family::Ipv4,
    name: "flood",
};

/// No more than a user's socket to the kernel has room for.
const RULES_AT_ONCE: usize = 40;
/// Accounts for which there is no room, each with some kilobytes a CPU.
const TENANT_ACCOUNTS: usize = 4000;

/// Flows that the host has to itself.
const HOST_FLOWS: u16 = 4000;
const SCANNED_AT_ONCE: u16 = 100;

pub fn run(guest: &Guest) -> Result<()> {
    let parameters = [
        format!("max_memory={MAX_MEMORY}"),
        format!("max_tenant_memory={}", MAX_MEMORY / 2),
    ];
    module::load_with(guest, &parameters.each_ref().map(String::as_str))?;
    let topology = Topology::new(Family::Ipv4)?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    iptables.count_local(ALL_PORTS)?;

    let tenant = Tenant::new(guest, "trafstat-tenant", NOBODY)?;
    let log = KernelLog::from_now()?;
    let accounts = make_accounts(&tenant)?;
    println!("the user has {accounts} accounts");
    ensure!(
        accounts > 0 && log.says("no memory for account")?,
        "the kernel does not say why an account is refused"
    );
    tenant.restore("*filter\n-F FORWARD\nCOMMIT\n")?;

    // Room for flows again, but not for so many.
    tenant.restore(
        "*filter\n-A OUTPUT -o lo -p udp -j TRAFSTAT --local-net 127.0.0.0/8 --name flood \
         --local-udp-ports all --remote-udp-ports all\nCOMMIT\n",
    )?;
    tenant
        .netns()
        .enter(|| traffic::loopback_flows(Family::Ipv4, 0..TENANT_FLOWS))?;
    let held = tenant.memory()?;
    ensure!(
        held > MAX_MEMORY / 4 && held <= MAX_MEMORY / 2,
        "the user holds {held} bytes of {MAX_MEMORY}"
    );

    // The host makes one more account, and all of its flows have a record of their own.
    iptables.succeed("-A INPUT -j TRAFSTAT --local-net 192.0.2.0/24 --name late")?;
    // No faster than the worker prepares, whose delay would fold flows as well.
    for part in (0..HOST_FLOWS).step_by(usize::from(SCANNED_AT_ONCE)) {
        traffic::scan(&topology, 10_000 + part, SCANNED_AT_ONCE)?;
        thread::sleep(Duration::from_millis(100));
    }
    let counted = super::settled(&iptables)?;
    let host = Snapshot::collect(&topology.local, ACCOUNT)?;
    let late = Snapshot::collect(
        &topology.local,
        AccountKey {
            name: "late",
            ..ACCOUNT
        },
    )?;
    let mut seen = host.as_rules_count();
    seen.add(late.as_rules_count());
    ensure!(seen == counted, "counted {counted:?}, seen {seen:?}");
    ensure!(
        host.header.folded_packets == 0 && host.records.len() >= usize::from(HOST_FLOWS),
        "the host's flows were folded: {:?}",
        host.header
    );

    // The user's own flows were folded, and none was lost.
    let flooded = Snapshot::collect(tenant.netns(), TENANT)?;
    ensure!(
        flooded.header.folded_packets > 0 && flooded.header.seen_packets == u64::from(TENANT_FLOWS),
        "{:?}",
        flooded.header
    );
    sees_its_own_accounts_only(&tenant)
}

/// Makes accounts until one is refused; returns how many there are.
fn make_accounts(tenant: &Tenant) -> Result<usize> {
    for first in (0..TENANT_ACCOUNTS).step_by(RULES_AT_ONCE) {
        let mut rules = String::from("*filter\n");
        for number in first..first + RULES_AT_ONCE {
            rules.push_str(&format!(
                "-A FORWARD -j TRAFSTAT --local-net 10.0.0.0/8 --name a{number}\n"
            ));
        }
        rules.push_str("COMMIT\n");
        let ended = tenant.end(&["iptables-nft-restore", "--noflush"], &rules)?;
        if ended.code != Some(0) {
            ensure!(
                ended.stderr.contains("Cannot allocate memory"),
                "refused for another reason: {ended:?}"
            );
            return Ok(first);
        }
    }
    anyhow::bail!("{TENANT_ACCOUNTS} accounts are not too many")
}

fn sees_its_own_accounts_only(tenant: &Tenant) -> Result<()> {
    let listed = tenant.succeed(&["cat", "/proc/self/net/trafstat/accounts"])?;
    ensure!(
        listed.contains("ipv4 flood 127.0.0.0/8") && !listed.contains(ACCOUNT.name),
        "the user sees {listed:?}"
    );
    tenant.succeed(&["cat", "/proc/self/net/trafstat/snapshot/ipv4/flood"])?;
    for of_host in ["accounts", "snapshot/ipv4"] {
        let path = format!("/proc/1/net/trafstat/{of_host}");
        let refused = tenant.end(&["cat", &path], "")?;
        ensure!(
            refused.code == Some(1) && refused.stdout.is_empty(),
            "the user reads {path}: {refused:?}"
        );
    }
    Ok(())
}
