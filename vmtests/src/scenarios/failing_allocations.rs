// SPDX-License-Identifier: GPL-2.0-or-later
//! Each allocation fails in turn: the first one, the second, until what is done needs no more.
//!
//! Whatever does not come about for it leaves nothing behind, and no packet uncounted.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::checkers::{Checkers, Faults, Nth};
use crate::family::Family;
use crate::guest::{Guest, Skipped};
use crate::iptables::{ALL_PORTS, Backend, Iptables};
use crate::module;
use crate::proc::{self, Snapshot};
use crate::process::{self, ProgramOutput};
use crate::topology::Topology;

/// More than anything here needs.
const MOST: u64 = 2000;

pub fn run(guest: &Guest) -> Result<()> {
    let Some(checkers) = Checkers::find()? else {
        return Err(Skipped("on this kernel no allocation fails on demand").into());
    };
    checkers.forget_leaks()?;
    process::succeed(Command::new("modprobe").arg("x_tables"))?;
    {
        let topology = Topology::new(Family::Ipv4)?;
        in_turn("loading", &checkers.fail_initialisation()?, |nth| {
            let mut insmod = Command::new("insmod");
            insmod.arg(guest.file("xt_TRAFSTAT.ko"));
            process::end(&mut nth.of(&insmod))?;
            if module::is_loaded() {
                module::unload()
            } else {
                Ok(())
            }
        })?;

        module::load(guest)?;
        let faults = checkers.fail_allocations(0)?;
        in_turn("a namespace", &faults, |nth| {
            let add = ip("netns add trafstat-failing");
            process::end(&mut nth.of(&add))?;
            // Left behind only where it came about.
            process::end(&mut ip("netns delete trafstat-failing")).map(drop)
        })?;
        for backend in Backend::all()? {
            for family in [Family::Ipv4, Family::Ipv6] {
                let netns = &topology.local;
                let rules = Iptables::new(guest, netns, family).through(*backend);
                let what = format!("a rule of {}", rules.program());
                in_turn(&what, &faults, |nth| {
                    let add = rules.command_to_count(family.local(), "-A OUTPUT");
                    let ended = netns.end(&mut nth.of(&add))?;
                    rules.flush()?;
                    ensure!(
                        proc::accounts(netns)?.is_empty(),
                        "{ended:?} leaves an account"
                    );
                    Ok(())
                })?;
            }
        }
        packets_are_counted(guest, &topology, &faults)?;
        snapshot_is_served_again(guest, &topology, &faults)?;
    }
    module::wait_until_unused()?;
    let leaks = checkers.leaks()?;
    ensure!(leaks.is_empty(), "memory is lost:\n{leaks}");
    checkers.lockdep_is_on()
}

/// Packets that need memory and get none are counted all the same.
fn packets_are_counted(guest: &Guest, topology: &Topology, faults: &Faults) -> Result<()> {
    let rules = Iptables::new(guest, &topology.local, topology.family);
    let account = topology.family.account();
    in_turn("a packet", faults, |nth| {
        rules.count_local(ALL_PORTS)?;
        let mut ping = Command::new("ping");
        ping.args(["-q", "-c", "3", "-i", "0.02", "-w", "20"])
            .arg(topology.family.remote().to_string());
        answered(topology.local.end(&mut nth.of(&ping))?)?;
        let counted = rules.counters()?;
        let seen = Snapshot::collect(&topology.local, account)?.as_rules_count();
        ensure!(
            seen == counted && seen.packets == 6,
            "the epoch saw {seen:?}, the rules {counted:?}"
        );
        rules.flush()
    })
}

/// An epoch whose reader finds no memory waits for the next one.
fn snapshot_is_served_again(guest: &Guest, topology: &Topology, faults: &Faults) -> Result<()> {
    let rules = Iptables::new(guest, &topology.local, topology.family);
    let account = topology.family.account();
    rules.count_local(ALL_PORTS)?;
    let mut ping = Command::new("ping");
    ping.args(["-q", "-c", "3", "-i", "0.02", "-w", "20"])
        .arg(topology.family.remote().to_string());
    answered(topology.local.end(&mut ping)?)?;
    for kind in ["snapshot", "live"] {
        in_turn(kind, faults, |nth| {
            let mut cat = Command::new("cat");
            cat.arg(proc::path(kind, account));
            topology.local.end(&mut nth.of(&cat)).map(drop)
        })?;
    }
    let seen = Snapshot::collect(&topology.local, account)?;
    ensure!(
        seen.header.seen_packets == 6,
        "not all of it: {:?}",
        seen.header
    );
    rules.flush()
}

fn answered(ended: ProgramOutput) -> Result<()> {
    ensure!(ended.code == Some(0), "ping: {ended:?}");
    Ok(())
}

fn ip(arguments: &str) -> Command {
    let mut ip = Command::new("ip");
    ip.args(arguments.split(' '));
    ip
}

/// Calls `act` with the number of the allocation that is to fail, until none of that number is made.
fn in_turn(what: &str, faults: &Faults, act: impl Fn(&Nth) -> Result<()>) -> Result<()> {
    for nth in 1..MOST {
        let before = faults.injected()?;
        act(&Nth(nth)).with_context(|| format!("{what}, with allocation {nth} failing"))?;
        if faults.injected()? == before {
            println!("{what}: each of {} allocations failed in turn", nth - 1);
            ensure!(nth > 1, "{what} allocates nothing");
            return Ok(());
        }
    }
    bail!("{what} makes more than {MOST} allocations")
}
