// SPDX-License-Identifier: GPL-2.0-or-later
//! A cap of 0 refuses users accounts, and one of -1 is the default.

use anyhow::{Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::Iptables;
use crate::kernel_log::KernelLog;
use crate::module;
use crate::tenant::{NOBODY, Tenant};
use crate::topology::Netns;

const RULE: &str = "FORWARD -j TRAFSTAT --local-net 192.0.2.1";

pub fn run(guest: &Guest) -> Result<()> {
    module::load_with(guest, &["max_user_memory=0"])?;
    host_has_accounts(guest)?;
    let log = KernelLog::from_now()?;
    let refused = add_as_user(guest)?;
    ensure!(
        refused.code != Some(0) && refused.stderr.contains("Operation not permitted"),
        "with max_user_memory=0 a user's rule: {refused:?}"
    );
    ensure!(
        log.says("max_user_memory is 0")?,
        "the log does not say why"
    );
    module::unload()?;

    let defaults = ["max_memory", "max_user_memory", "max_tenant_memory"];
    let defaults = defaults.map(|name| format!("{name}=-1"));
    module::load_with(guest, &defaults.each_ref().map(String::as_str))?;
    host_has_accounts(guest)?;
    let taken = add_as_user(guest)?;
    ensure!(taken.code == Some(0), "by default a user's rule: {taken:?}");
    Ok(())
}

fn host_has_accounts(guest: &Guest) -> Result<()> {
    let host = Netns::new("trafstat-local")?;
    Iptables::new(guest, &host, Family::Ipv4).succeed(&format!("-A {RULE}"))
}

fn add_as_user(guest: &Guest) -> Result<crate::process::ProgramOutput> {
    let tenant = Tenant::new(guest, "trafstat-tenant", NOBODY)?;
    let rules = format!("*filter\n-A {RULE}\nCOMMIT\n");
    tenant.end(&["iptables-nft-restore", "--noflush"], &rules)
}
