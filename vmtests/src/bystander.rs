// SPDX-License-Identifier: GPL-2.0-or-later
//! What has nothing to do with a tenant and must not wait for it: the host's rules, other namespaces.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::Iptables;
use crate::process;
use crate::tenant::LIMIT;
use crate::topology::Netns;

/// Functions that whoever waits for a reader of the module's files is in.
const WAITING: &[&str] = &["trafstat_", "proc_entry_rundown"];

/// How long commands may take for which the kernel loads modules, under emulation.
const LOADING: Duration = Duration::from_secs(60);

/// The host, and a namespace whose rules come and go.
pub struct Bystander<'a> {
    guest: &'a Guest,
    netns: Netns,
}

impl<'a> Bystander<'a> {
    /// Makes the namespace, and has the kernel load what rules need.
    ///
    /// # Errors
    ///
    /// A command fails or is late.
    pub fn new(guest: &'a Guest) -> Result<Self> {
        let bystander = Self {
            guest,
            netns: Netns::new("trafstat-local")?,
        };
        bystander
            .go_on_within(LOADING)
            .context("before anybody is in the way")?;
        Ok(bystander)
    }

    /// Adds and deletes rules, tables and namespaces.
    ///
    /// # Errors
    ///
    /// A command fails or takes longer than [`LIMIT`].
    pub fn goes_on(&self) -> Result<()> {
        self.go_on_within(LIMIT).map(drop)
    }

    /// As [`Self::goes_on`] within another limit; gives how long the slowest command took.
    ///
    /// # Errors
    ///
    /// A command fails or takes longer.
    pub fn go_on_within(&self, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        let mut slowest = Duration::ZERO;
        let mut succeed = |command: &mut Command| -> Result<()> {
            let began = Instant::now();
            succeed_within(command, limit)?;
            slowest = slowest.max(began.elapsed());
            Ok(())
        };
        for command in [
            "iptables-nft -w -A INPUT -m conntrack --ctstate NEW -j ACCEPT",
            "iptables-nft -w -D INPUT -m conntrack --ctstate NEW -j ACCEPT",
            "nft list tables",
            "nft add table inet trafstat-vmtests",
            "nft delete table inet trafstat-vmtests",
            "unshare --net true",
            "ip netns add trafstat-coming",
            "ip netns delete trafstat-coming",
        ] {
            let (program, arguments) = command.split_once(' ').unwrap_or((command, ""));
            let mut command = Command::new(program);
            succeed(command.args(arguments.split(' '))).context("on the host")?;
        }
        let iptables = Iptables::new(self.guest, &self.netns, Family::Ipv4);
        for end in ["-A INPUT", "-D INPUT"] {
            let mut command = iptables.command_to_count(Family::Ipv4.local(), end);
            self.netns
                .enter(|| succeed(&mut command))
                .context("in another namespace")?;
        }
        println!(
            "the host went on for {:.1} s",
            began.elapsed().as_secs_f32()
        );
        Ok(slowest)
    }
}

/// Runs `command`, which must exit with 0 within [`LIMIT`].
///
/// # Errors
///
/// It does not.
pub fn succeed_in_time(command: &mut Command) -> Result<()> {
    succeed_within(command, LIMIT)
}

fn succeed_within(command: &mut Command, limit: Duration) -> Result<()> {
    let ended = process::end_within(command, limit)?;
    ensure!(ended.code == Some(0), "{command:?} ended with {ended:?}");
    Ok(())
}

/// Waits until no task is within the module or waits for its files.
///
/// # Errors
///
/// One is after [`LIMIT`].
pub fn nobody_waits() -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let tasks = process::tasks_within(WAITING)?;
        if tasks.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "still within the module:\n{}",
            tasks.join("\n")
        );
        thread::sleep(Duration::from_millis(100));
    }
}
