// SPDX-License-Identifier: GPL-2.0-or-later
//! The kernel's log since a moment, and what in it means that something is wrong.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use rustix::fs::OFlags;

/// Numerically at most this: warnings, errors and worse (syslog(2)).
const WARNING: u32 = 4;

/// Said at any level by a kernel that is in trouble.
const TROUBLE: &[&str] = &[
    "WARNING:",
    "BUG:",
    "Oops",
    "Call Trace",
    "general protection fault",
    "refcount",
    "unregister_netdevice",
    "possible recursive locking",
    "INFO: task",
    "rcu_sched",
];

/// Warnings that say nothing about the module: that it is not signed, that the clock of an
/// emulated machine on a busy host is late, and what scenarios send and fail on purpose.
const HARMLESS: &[&str] = &[
    "loading out-of-tree module taints kernel",
    "module verification failed",
    "clocksource:",
    "TSC found unstable",
    "hrtimer: interrupt took",
    "sched: RT throttling",
    // Packets that are malformed.
    "dccp_invalid_packet:",
    "net_ratelimit:",
    // An allocation was made to fail where the module asks for a workqueue, and the module's
    // loading with it.
    "workqueue: Failed to allocate a worker",
    "workqueue: Failed to create a worker thread: -12",
    // A page was made to fail that the kernel asks for while it opens or reads a file of the module:
    // four lines.
    "SLUB: Unable to allocate memory on CPU",
    "  cache: kmalloc-",
    " debugging increased min order, use slab_debug=O to disable.",
    "  node 0: slabs: ",
];

/// A place in the log.
pub struct KernelLog {
    file: File,
}

impl KernelLog {
    /// The log from now on.
    ///
    /// # Errors
    ///
    /// /dev/kmsg cannot be read.
    pub fn from_now() -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open("/dev/kmsg")
            .context("cannot open /dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file })
    }

    /// The lines since then that mean trouble.
    ///
    /// # Errors
    ///
    /// The log cannot be read, or grew faster than it was read.
    pub fn trouble(mut self) -> Result<Vec<String>> {
        self.select(is_trouble)
    }

    /// Whether a line since then contains `text`.
    ///
    /// # Errors
    ///
    /// As for [`KernelLog::trouble`].
    pub fn says(mut self, text: &str) -> Result<bool> {
        Ok(!self.select(|_, line| line.contains(text))?.is_empty())
    }

    /// All lines since then.
    ///
    /// # Errors
    ///
    /// As for [`KernelLog::trouble`].
    pub fn lines(mut self) -> Result<Vec<String>> {
        self.select(|_, _| true)
    }

    /// The lines since the last call, or since then.
    ///
    /// # Errors
    ///
    /// As for [`KernelLog::trouble`].
    pub fn new_lines(&mut self) -> Result<Vec<String>> {
        self.select(|_, _| true)
    }

    fn select(&mut self, is_wanted: impl Fn(u32, &str) -> bool) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            // Every read is one record: "LEVEL,SEQUENCE,TIME,FLAGS;MESSAGE\n KEY=VALUE...".
            let length = match self.file.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(found),
                Err(error) => return Err(error).context("cannot read /dev/kmsg"),
            };
            let record = String::from_utf8_lossy(&buffer[..length]);
            let (prefix, message) = record.split_once(';').unwrap_or(("", &record));
            let priority: u32 = prefix
                .split(',')
                .next()
                .and_then(|priority| priority.parse().ok())
                .with_context(|| format!("no priority in {record:?}"))?;
            let line = message.lines().next().unwrap_or_default();
            if is_wanted(priority, line) {
                found.push(line.to_owned());
            }
        }
    }
}

/// Whether the module says in this line that a rule stands in the nat table.
pub fn warns_of_nat(line: &str) -> bool {
    line.starts_with("xt_TRAFSTAT: ") && (line.contains("nat table") || line.contains("table nat"))
}

fn is_trouble(priority: u32, line: &str) -> bool {
    // The facility, in the higher bits, is 0 for the kernel itself.
    let (facility, level) = (priority >> 3, priority & 7);
    TROUBLE.iter().any(|text| line.contains(text))
        || facility == 0
            && level <= WARNING
            && !HARMLESS.iter().any(|text| line.contains(text))
            && !warns_of_nat(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_of_the_kernel_is_trouble() {
        assert!(is_trouble(4, "xt_TRAFSTAT: something odd"));
        assert!(!is_trouble(6, "xt_TRAFSTAT: loaded"));
    }

    #[test]
    fn trace_is_trouble_at_any_level() {
        assert!(is_trouble(6, "Call Trace:"));
    }

    #[test]
    fn taint_and_user_space_are_harmless() {
        assert!(!is_trouble(
            4,
            "xt_TRAFSTAT: loading out-of-tree module taints kernel."
        ));
        assert!(!is_trouble(12, "init: cannot find something"));
    }
}
