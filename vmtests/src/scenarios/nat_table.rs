// SPDX-License-Identifier: GPL-2.0-or-later
//! A rule in the nat table, which sees the first packet of each connection only, is taken with a
//! warning, once.

use anyhow::{Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{Backend, Iptables};
use crate::kernel_log::{self, KernelLog};
use crate::module;
use crate::topology::Netns;

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let netns = Netns::new("trafstat-local")?;
    let backends = Backend::all()?;
    let mut log = KernelLog::from_now()?;
    let mut add = |table: &str, chain: &str| -> Result<usize> {
        for backend in backends {
            for family in [Family::Ipv4, Family::Ipv6] {
                let local = family.local();
                Iptables::new(guest, &netns, family)
                    .through(*backend)
                    .succeed(&format!(
                        "-t {table} -A {chain} -j TRAFSTAT --local-net {local}"
                    ))?;
            }
        }
        let lines = log.new_lines()?;
        Ok(lines
            .iter()
            .filter(|line| kernel_log::warns_of_nat(line))
            .count())
    };
    let warnings = add("mangle", "PREROUTING")?;
    ensure!(warnings == 0, "{warnings} warnings of rules in mangle");
    let warnings = add("nat", "PREROUTING")? + add("nat", "POSTROUTING")?;
    ensure!(
        warnings == 1,
        "{warnings} warnings instead of one, of rules in nat"
    );
    Ok(())
}
