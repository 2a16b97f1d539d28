// SPDX-License-Identifier: GPL-2.0-or-later
//! A hundred namespaces, each with a reader that never comes back and whose rules are deleted: they
//! end with their readers, and nobody else notices.
//!
//! Each deletion leaves the kernel something to do that must not wait for the reader, or a hundred
//! of them have all of the kernel's workers wait.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::bystander::{self, Bystander};
use crate::guest::Guest;
use crate::module;
use crate::tenant::{Blocked, NOBODY, Tenant, Way};

const NAMESPACES: usize = 100;

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
    bystander.goes_on().context("while namespaces end")?;
    module::wait_until_unused()?;
    bystander::nobody_waits()
}
