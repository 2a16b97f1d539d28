// SPDX-License-Identifier: GPL-2.0-or-later
//! CPUs that go and come, and threads that stay on one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

const ROOT: &str = "/sys/devices/system/cpu";

/// A CPU that is offline, or online, for as long as this lives.
pub struct SwitchedCpu {
    cpu: usize,
    back: &'static str,
}

impl SwitchedCpu {
    /// Takes an online CPU offline.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn off(cpu: usize) -> Result<Self> {
        switch(cpu, "0")?;
        Ok(Self { cpu, back: "1" })
    }

    /// Brings an offline CPU online.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn on(cpu: usize) -> Result<Self> {
        switch(cpu, "1")?;
        Ok(Self { cpu, back: "0" })
    }
}

impl Drop for SwitchedCpu {
    fn drop(&mut self) {
        if let Err(error) = switch(self.cpu, self.back) {
            eprintln!("CPU {} stays as it is: {error:#}", self.cpu);
        }
    }
}

/// Whether this machine has such a CPU, online or not.
pub fn exists(cpu: usize) -> bool {
    folder(cpu).exists()
}

/// Whether the CPU is online; the first one always is.
///
/// # Errors
///
/// There is no such CPU.
pub fn is_online(cpu: usize) -> Result<bool> {
    if cpu == 0 {
        return Ok(true);
    }
    let path = folder(cpu).join("online");
    let state = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    Ok(state.trim() == "1")
}

/// The numbers of the CPUs that are `which`: `possible` or `online`.
///
/// # Errors
///
/// The kernel has no such list.
pub fn numbers(which: &str) -> Result<String> {
    let text = fs::read_to_string(Path::new(ROOT).join(which))?;
    Ok(text.trim().to_owned())
}

/// Keeps this thread on one CPU.
///
/// # Errors
///
/// It is not online.
pub fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("no CPU {cpu}"))
}

fn folder(cpu: usize) -> PathBuf {
    Path::new(ROOT).join(format!("cpu{cpu}"))
}

fn switch(cpu: usize, online: &str) -> Result<()> {
    let path = folder(cpu).join("online");
    fs::write(&path, online).with_context(|| format!("{online} to {}", path.display()))
}
