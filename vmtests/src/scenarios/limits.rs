// SPDX-License-Identifier: GPL-2.0-or-later
//! An account's limits are those of the rules that exist, the last one checked first; a rule that
//! never came to be leaves none.

use anyhow::{Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{Backend, Iptables};
use crate::module;
use crate::proc::{AccountKey, Snapshot};
use crate::topology::Topology;

const NAME: &str = "limits";

const FIRST: Limits = (5, 2);
const ABORTED: Limits = (7, 3);
const SECOND: Limits = (9, 4);

/// A limit in thousands of records, and the packets below which a remote side is spoofed.
type Limits = (u64, u32);

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    for backend in Backend::all()? {
        let topology = Topology::new(Family::Ipv4)?;
        let iptables = Iptables::new(guest, &topology.local, Family::Ipv4).through(*backend);
        let has = |expected: Limits, when: &str| {
            has_limits(&topology, expected)
                .map_err(|error| error.context(format!("{backend:?}: {when}")))
        };
        iptables.succeed(&format!("-A {}", rule(FIRST)))?;
        has(FIRST, "with its only rule")?;

        // The kernel has checked the first of these rules when it refuses the second.
        let refused = iptables.end_restore_more(&format!(
            "*filter\n-A {}\n-A FORWARD -j TRAFSTAT --local-net 10.0.0.0/8 --name {NAME}\nCOMMIT\n",
            rule(ABORTED)
        ))?;
        ensure!(refused.code != Some(0), "{refused:?}");
        has(FIRST, "after rules that were refused")?;

        iptables.succeed(&format!("-A {}", rule(SECOND)))?;
        has(SECOND, "with a second rule")?;
        iptables.succeed(&format!("-D {}", rule(SECOND)))?;
        has(FIRST, "with the second rule deleted again")?;
        iptables.flush()?;
    }
    Ok(())
}

fn rule((max_entries, min_pkt_spoof): Limits) -> String {
    let local = Family::Ipv4.local();
    format!(
        "INPUT -j TRAFSTAT --local-net {local} --name {NAME} --max-entries {max_entries} \
         --min-pkt-spoof {min_pkt_spoof}"
    )
}

/// The limits of the epoch that begins now.
fn has_limits(topology: &Topology, (max_entries, min_pkt_spoof): Limits) -> Result<()> {
    let key = AccountKey {
        family: Family::Ipv4,
        name: NAME,
    };
    Snapshot::collect(&topology.local, key)?;
    let header = Snapshot::collect(&topology.local, key)?.header;
    let found = (header.max_entries, header.min_pkt_spoof);
    ensure!(
        found == (max_entries * 1000, min_pkt_spoof),
        "max-entries and min-pkt-spoof are {found:?}, not ({}, {min_pkt_spoof})",
        max_entries * 1000
    );
    Ok(())
}
