// SPDX-License-Identifier: GPL-2.0-or-later
//! Where something is called /proc/trafstat already, the module leaves it alone and says so.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::guest::Guest;
use crate::kernel_log::KernelLog;
use crate::module;
use crate::process;

const LINK: &str = "/proc/trafstat";

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    ensure!(
        fs::read_link(LINK)? == Path::new("self/net/trafstat/csv/ipv4"),
        "{LINK} leads to {:?}",
        fs::read_link(LINK)?
    );
    module::unload()?;
    ensure!(fs::read_link(LINK).is_err(), "{LINK} outlives the module");

    // No user can make an entry in /proc, but in a mount namespace of its own the module's loader
    // finds another folder there.
    let log = KernelLog::from_now()?;
    process::succeed(
        Command::new("unshare")
            .args(["--mount", "sh", "-ec"])
            .arg("mount -t tmpfs none /proc; mkdir /proc/trafstat; exec insmod \"$0\"")
            .arg(guest.file("xt_TRAFSTAT.ko")),
    )?;
    ensure!(
        log.says("/proc/trafstat is another's")?,
        "the module says nothing about {LINK}"
    );
    ensure!(
        fs::read_link(LINK).is_err() && Path::new("/proc/self/net/trafstat/accounts").exists(),
        "the module did not do without {LINK}"
    );
    module::unload()
}
