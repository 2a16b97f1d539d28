// SPDX-License-Identifier: GPL-2.0-or-later
//! Buffers beyond 65,535 bytes (BIG TCP) count as the packets that the link carries.
//!
//! The local side builds such buffers; its device does not take them whole, so the kernel cuts
//! them behind the rule, and the link's own counters have what the wire has.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables, RuleCounters};
use crate::module;
use crate::proc::{AccountKey, Snapshot};
use crate::topology::{DEVICE, Topology};
use crate::traffic::HttpServer;

const GSO_MAX_BYTES: u32 = 180_000;
const DOWNLOAD_BYTES: usize = 12_000_000;
/// Whether TCP gets as far as such a buffer is a matter of pace.
const DOWNLOADS: usize = 10;

/// Counts buffers that no 16-bit length describes.
const NFT_COUNTER: &str = "\
table inet oracle {
    chain post {
        type filter hook postrouting priority 300;
        meta length > 65535 counter
    }
}
";

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    for family in [Family::Ipv6, Family::Ipv4] {
        let topology = Topology::new(family)?;
        if !topology.allow_big_tcp(GSO_MAX_BYTES)? {
            println!("this kernel or its iproute2 has no BIG TCP for {family:?}");
            continue;
        }
        count_as_the_link_does(guest, &topology).with_context(|| format!("{family:?}"))?;
    }
    Ok(())
}

fn count_as_the_link_does(guest: &Guest, topology: &Topology) -> Result<()> {
    let family = topology.family;
    topology.fix_neighbours()?;
    let iptables = Iptables::new(guest, &topology.local, family);
    let target = format!(
        "TRAFSTAT --local-net {}/0 --name link {ALL_PORTS}",
        family.local()
    );
    iptables.succeed(&format!("-t mangle -A PREROUTING -i {DEVICE} -j {target}"))?;
    iptables.succeed(&format!("-t mangle -A POSTROUTING -o {DEVICE} -j {target}"))?;
    topology
        .local
        .succeed(Command::new("nft").arg(NFT_COUNTER))?;
    let account = AccountKey {
        family,
        name: "link",
    };
    // The link's counters, and what the account saw since the last time.
    let collected = || {
        let mut seen = RuleCounters::default();
        let link = super::collect_all(
            || topology.link_counters(),
            || {
                let header = Snapshot::collect(&topology.local, account)?.header;
                seen.add(RuleCounters {
                    packets: header.seen_packets,
                    bytes: header.seen_bytes,
                });
                Ok(())
            },
        )?;
        anyhow::Ok((link, seen))
    };
    let (before, _) = collected()?;
    let http = HttpServer::listen(topology, 80)?;
    let mut oracle = String::new();
    let mut is_large = false;
    for _ in 0..DOWNLOADS {
        http.download(topology, DOWNLOAD_BYTES)?;
        oracle = topology
            .local
            .succeed(Command::new("nft").args(["list", "table", "inet", "oracle"]))?;
        is_large = !oracle.contains("counter packets 0 ");
        if is_large {
            break;
        }
    }
    ensure!(is_large, "no buffer was larger than 65,535 bytes: {oracle}");
    let (link, seen) = collected()?;
    let on_the_link = RuleCounters {
        packets: link.packets - before.packets,
        bytes: link.bytes - before.bytes,
    };
    ensure!(
        seen == on_the_link,
        "seen {seen:?}, on the link {on_the_link:?}"
    );
    Ok(())
}
