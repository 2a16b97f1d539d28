// SPDX-License-Identifier: GPL-2.0-or-later
//! The kernel module: loaded and unloaded.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::guest::Guest;
use crate::process;

/// A deleted namespace lets go of its rules some time after `ip netns delete` returned.
const PATIENCE: Duration = Duration::from_secs(60);

/// Loads the module and what it depends on.
///
/// # Errors
///
/// The kernel refuses it.
pub fn load(guest: &Guest) -> Result<()> {
    load_with(guest, &[])
}

/// Loads the module with `parameters`, such as `max_memory=1000000`.
///
/// # Errors
///
/// The kernel refuses it.
pub fn load_with(guest: &Guest, parameters: &[&str]) -> Result<()> {
    insert(guest, "xt_TRAFSTAT.ko", parameters)
}

/// Loads the module with what only tests have in it, with `parameters`.
///
/// # Errors
///
/// The kernel refuses it.
pub fn load_with_tests(guest: &Guest, parameters: &[&str]) -> Result<()> {
    insert(guest, "xt_TRAFSTAT-tests.ko", parameters)
}

fn insert(guest: &Guest, file: &str, parameters: &[&str]) -> Result<()> {
    process::succeed(Command::new("modprobe").arg("x_tables"))?;
    let mut insmod = Command::new("insmod");
    insmod.arg(guest.file(file)).args(parameters);
    process::succeed(&mut insmod).map(drop)
}

/// Unloads the module, once nothing uses it any more.
///
/// # Errors
///
/// It stays in use.
pub fn unload() -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ended = process::end_within(&mut rmmod(), PATIENCE)?;
        if ended.code == Some(0) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the module cannot be unloaded: {}", ended.stderr.trim());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The command that unloads the module, once.
pub fn rmmod() -> Command {
    let mut rmmod = Command::new("rmmod");
    rmmod.arg("xt_TRAFSTAT");
    rmmod
}

/// Waits until nothing uses the module any more.
///
/// # Errors
///
/// It stays in use.
pub fn wait_until_unused() -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let users = fs::read_to_string("/sys/module/xt_TRAFSTAT/refcnt")?;
        if users.trim() == "0" {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{} users are left", users.trim());
        thread::sleep(Duration::from_millis(100));
    }
}

/// Whether the module is loaded.
pub fn is_loaded() -> bool {
    Path::new("/sys/module/xt_TRAFSTAT").exists()
}
