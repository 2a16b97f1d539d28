// SPDX-License-Identifier: GPL-2.0-or-later
//! A hundred namespaces, each with a reader that never comes back and whose rules are deleted: they
//! end with their readers, and nobody else notices.
//!
//! Each deletion leaves the kernel something to do that must not wait for the reader, or a hundred
//! of them have all of the kernel's workers wait.

use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result};

use crate::bystander::{self, Bystander};
use crate::checkers::Checkers;
use crate::guest::Guest;
use crate::module;
use crate::tenant::{Blocked, LIMIT, NOBODY, Tenant, Way};

const NAMESPACES: usize = 100;

/// The most that a command may take beside namespaces that end without a reader.
const MOST: Duration = Duration::from_secs(60);

/// Room for an account in each of them.
const MEMORY: &[&str] = &[
    "max_memory=200000000",
    "max_user_memory=100000000",
    "max_tenant_memory=100000000",
];

/// The first account's rules are deleted first.
const RULES: &str = "*filter\n\
                     -A FORWARD -j TRAFSTAT --local-net 10.0.0.0/8 --name ending\n\
                     -A FORWARD -j TRAFSTAT --local-net 10.0.0.0/8 --name other\n\
                     -A INPUT -j TRAFSTAT --local-net 10.0.0.0/8 --name other\n\
                     COMMIT\n";
const FILES: [&str; 3] = ["live/ipv4/ending", "snapshot/ipv4/ending", "accounts"];

pub fn run(guest: &Guest) -> Result<()> {
    let ways = Way::all()?;
    module::load_with(guest, MEMORY)?;
    let bystander = Bystander::new(guest)?;
    let limit = limit(&bystander)?;
    // Making them takes most of the time, so each way has its part of them.
    let namespaces = NAMESPACES / ways.len();
    let mut blocked = Vec::new();
    let mut tenants = Vec::new();
    for way in ways {
        let name = match way {
            Way::Fuse => "trafstat-tenant",
            Way::Userfaultfd => "trafstat-tenant2",
        };
        let tenant = Tenant::new(guest, name, NOBODY)?;
        let began = Instant::now();
        blocked.push(Blocked::in_namespaces(
            &tenant, way, namespaces, RULES, &FILES,
        )?);
        println!(
            "{namespaces} namespaces with a reader, by {way:?}: made in {:.1} s",
            began.elapsed().as_secs_f32()
        );
        tenants.push(tenant);
    }
    bystander.goes_on().context("beside blocked readers")?;

    for blocked in blocked {
        blocked.kill()?;
    }
    drop(tenants);
    bystander
        .go_on_within(limit)
        .context("while namespaces end")?;
    module::wait_until_unused()?;
    bystander::nobody_waits()
}

/// How long a command may take while namespaces end.
///
/// They end one after the other under the lock of all devices' settings, which the kernel's checkers
/// make so slow that a command waits for longer than [`LIMIT`] with nothing of the module in them:
/// there it may take twice what it takes beside as many namespaces that have no reader.
fn limit(bystander: &Bystander<'_>) -> Result<Duration> {
    if Checkers::find()?.is_none() {
        return Ok(LIMIT);
    }
    let mut plain = Vec::new();
    for _ in 0..NAMESPACES {
        let mut command = Command::new("unshare");
        plain.push(command.args(["--net", "sleep", "infinity"]).spawn()?);
    }
    for child in &plain {
        let name = format!("/proc/{}/comm", child.id());
        while fs::read_to_string(&name)?.trim() != "sleep" {
            thread::sleep(Duration::from_millis(100));
        }
    }
    for mut child in plain {
        child.kill()?;
        child.wait()?;
    }
    let slowest = bystander.go_on_within(MOST)?;
    println!(
        "{NAMESPACES} namespaces without a reader: the slowest command took {:.1} s",
        slowest.as_secs_f32()
    );
    Ok(LIMIT.max(2 * slowest))
}
