// SPDX-License-Identifier: GPL-2.0-or-later
//! A rule takes the name of an account that is over at once, for whatever network.

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{Backend, Iptables};
use crate::module;
use crate::proc;
use crate::topology::Topology;

const ROUNDS: usize = 200;
/// The same where each takes two programs.
const NFT_ROUNDS: usize = 50;

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let topology = Topology::new(Family::Ipv4)?;
    for backend in Backend::all()? {
        let iptables = Iptables::new(guest, &topology.local, Family::Ipv4).through(*backend);
        match backend {
            // The kernel destroys deleted rules before the program that deleted them ends.
            Backend::Nft => {
                for round in 0..NFT_ROUNDS {
                    let rule = rule(round);
                    iptables
                        .succeed(&format!("-A {rule}"))
                        .and_then(|()| iptables.succeed(&format!("-D {rule}")))
                        .with_context(|| format!("round {round}"))?;
                }
            }
            // Before each commit ends.
            Backend::Legacy => {
                let tables: String = (0..ROUNDS)
                    .map(|round| {
                        let rule = rule(round);
                        format!("*filter\n-A {rule}\nCOMMIT\n*filter\n-D {rule}\nCOMMIT\n")
                    })
                    .collect();
                let ended = iptables.end_restore_more(&tables)?;
                ensure!(ended.code == Some(0), "{backend:?}: {ended:?}");
            }
        }
    }
    let left = proc::accounts(&topology.local)?;
    ensure!(left.is_empty(), "accounts are left: {left:?}");
    Ok(())
}

/// The same name, another network each time.
fn rule(round: usize) -> String {
    let (network, host) = (round / 250, round % 250);
    format!("FORWARD -j TRAFSTAT --local-net 10.0.{network}.{host} --name replaced")
}
