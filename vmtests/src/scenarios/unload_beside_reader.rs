// SPDX-License-Identifier: GPL-2.0-or-later
//! Unloading the module beside a reader that never comes back is refused, and the log says who it is.
//!
//! Otherwise whoever unloads would wait with the namespaces' lock held, and everybody for it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bystander::{self, Bystander};
use crate::guest::Guest;
use crate::kernel_log::KernelLog;
use crate::module;
use crate::process;
use crate::tenant::{Blocked, LIMIT, NOBODY, Tenant, Way};

/// The account that is read; its file and what the log calls that.
const FILES: [(&str, &str); 3] = [
    ("live/ipv4/busy", "busy"),
    ("snapshot/ipv4/busy", "busy"),
    ("accounts", "accounts"),
];

/// How rmmod and the kernel say that somebody uses the module.
const IN_USE: [&str; 3] = ["in use", "busy", "temporarily unavailable"];

/// The program that reads.
const READER: &str = "python3";

pub fn run(guest: &Guest) -> Result<()> {
    let ways = Way::all()?;
    for (turn, (file, name)) in FILES.into_iter().enumerate() {
        let way = ways[turn % ways.len()];
        module::load(guest)?;
        let bystander = Bystander::new(guest)?;
        unload_is_refused(guest, &bystander, way, file, name)
            .with_context(|| format!("{file} is read, by {way:?}"))?;
    }
    Ok(())
}

fn unload_is_refused(
    guest: &Guest,
    bystander: &Bystander<'_>,
    way: Way,
    file: &str,
    name: &str,
) -> Result<()> {
    let rule = "FORWARD -j TRAFSTAT --local-net 10.0.0.0/8 --name busy";
    let tenant = Tenant::new(guest, "trafstat-tenant", NOBODY)?;
    tenant.restore(&format!("*filter\n-A {rule}\nCOMMIT\n"))?;
    let blocked = Blocked::new(&tenant, tenant.netns(), way, &[file])?;
    let (pid, _) = blocked.readers[0];
    // A rule of its own keeps the module from being unloaded.
    tenant.restore(&format!("*filter\n-D {rule}\nCOMMIT\n"))?;
    thread::sleep(Duration::from_secs(1));

    let log = KernelLog::from_now()?;
    let refused = process::end_within(&mut module::rmmod(), LIMIT)?;
    let message = refused.stderr.to_lowercase();
    ensure!(
        refused.code != Some(0) && IN_USE.iter().any(|text| message.contains(text)),
        "unloading beside a reader: {refused:?}"
    );
    let named = [&pid.to_string(), READER, name].map(str::to_owned);
    wait_for_line(log, &named)?;
    bystander.goes_on()?;

    blocked.kill()?;
    bystander::succeed_in_time(&mut module::rmmod()).context("once the reader is killed")?;
    bystander::nobody_waits()
}

/// Waits until a line contains all of `words`.
fn wait_for_line(mut log: KernelLog, words: &[String]) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut lines = Vec::new();
    loop {
        lines.extend(log.new_lines()?);
        let names = |line: &String| words.iter().all(|word| line.contains(word));
        if lines.iter().any(names) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "the log has no line with {words:?}: {lines:?}"
        );
        thread::sleep(Duration::from_millis(100));
    }
}
