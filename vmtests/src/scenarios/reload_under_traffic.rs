// SPDX-License-Identifier: GPL-2.0-or-later
//! Rules and module come and go while packets pass.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables};
use crate::module;
use crate::proc::{self, ACCOUNT};
use crate::topology::Topology;
use crate::traffic;

const RELOADS: usize = 10;

/// Traffic that is not seen for so long is not there.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(guest: &Guest) -> Result<()> {
    let topology = Topology::new(Family::Ipv4)?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    traffic::during(&topology, || {
        (0..RELOADS).try_for_each(|_| {
            module::load(guest)?;
            iptables.count_local(ALL_PORTS)?;
            wait_for_packets(&topology)?;
            iptables.flush()?;
            module::unload()
        })
    })
}

fn wait_for_packets(topology: &Topology) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let account = proc::account(&topology.local, ACCOUNT)?.context("no account")?;
        if proc::number(&account, "seen_packets")? > 100 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "no packet is counted: {account:?}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}
