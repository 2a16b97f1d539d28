// SPDX-License-Identifier: GPL-2.0-or-later
//! The scenarios, one a module; each is a function that returns an error when it fails.

mod access;
mod act_ipt;
mod autoload;
mod big_tcp;
mod blocked_readers;
mod captures;
mod collide;
mod conservation;
mod counters_agree;
mod cpus;
mod crowded_log;
mod csv;
mod csv_mode;
mod duration;
mod ending_namespaces;
mod failing_allocations;
mod flood;
mod hidden_names;
mod killed_collector;
mod lifecycle;
mod limits;
mod live;
mod live_interface;
mod max_entries;
mod memory_cgroup;
mod merging;
mod namespaces;
mod nat_table;
mod original_rules;
mod planted_faults;
mod proc_name;
mod readers;
mod reload_under_traffic;
mod replaced_account;
mod revisions;
mod rules;
mod sampling;
mod stress;
mod tenant_memory;
mod tenant_shares;
mod unload_beside_reader;
mod user_caps;
mod userns_flood;
mod worst;

use std::fmt::Debug;
use std::io;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::io::Errno;

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{Iptables, RuleCounters};
use crate::kernel_log::KernelLog;
use crate::module;

/// One scenario.
pub struct Scenario {
    /// What its module is called, and what sets it apart where one module has several.
    pub name: &'static str,
    scenario: fn(&Guest) -> Result<()>,
}

/// Those that need a guest whose clock counts instructions; it has one CPU.
pub const COUNTING: &[Scenario] = &[
    Scenario {
        name: "flood",
        scenario: flood::run,
    },
    Scenario {
        name: "collide",
        scenario: collide::run,
    },
    Scenario {
        name: "worst",
        scenario: worst::run,
    },
];

/// Those of any other guest, in the order in which they run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "counters_agree",
        scenario: |guest| counters_agree::run(guest, Family::Ipv4),
    },
    Scenario {
        name: "counters_agree_ipv6",
        scenario: |guest| counters_agree::run(guest, Family::Ipv6),
    },
    Scenario {
        name: "conservation",
        scenario: conservation::run,
    },
    Scenario {
        name: "big_tcp",
        scenario: big_tcp::run,
    },
    Scenario {
        name: "autoload",
        scenario: autoload::run,
    },
    Scenario {
        name: "captures",
        scenario: captures::run,
    },
    Scenario {
        name: "killed_collector",
        scenario: killed_collector::run,
    },
    Scenario {
        name: "lifecycle",
        scenario: lifecycle::run,
    },
    Scenario {
        name: "replaced_account",
        scenario: replaced_account::run,
    },
    Scenario {
        name: "namespaces",
        scenario: namespaces::run,
    },
    Scenario {
        name: "rules",
        scenario: rules::run,
    },
    Scenario {
        name: "revisions",
        scenario: revisions::run,
    },
    Scenario {
        name: "limits",
        scenario: limits::run,
    },
    Scenario {
        name: "nat_table",
        scenario: nat_table::run,
    },
    Scenario {
        name: "act_ipt",
        scenario: act_ipt::run,
    },
    Scenario {
        name: "original_rules",
        scenario: original_rules::run,
    },
    Scenario {
        name: "reload_under_traffic",
        scenario: reload_under_traffic::run,
    },
    Scenario {
        name: "csv",
        scenario: csv::run,
    },
    Scenario {
        name: "csv_mode",
        scenario: csv_mode::run,
    },
    Scenario {
        name: "hidden_names",
        scenario: hidden_names::run,
    },
    Scenario {
        name: "crowded_log",
        scenario: crowded_log::run,
    },
    Scenario {
        name: "access",
        scenario: access::run,
    },
    Scenario {
        name: "live",
        scenario: live::run,
    },
    Scenario {
        name: "duration",
        scenario: duration::run,
    },
    Scenario {
        name: "live_interface",
        scenario: live_interface::run,
    },
    Scenario {
        name: "readers",
        scenario: readers::run,
    },
    Scenario {
        name: "proc_name",
        scenario: proc_name::run,
    },
    Scenario {
        name: "memory_cgroup",
        scenario: memory_cgroup::run,
    },
    Scenario {
        name: "userns_flood",
        scenario: userns_flood::run,
    },
    Scenario {
        name: "user_caps",
        scenario: user_caps::run,
    },
    Scenario {
        name: "tenant_shares",
        scenario: tenant_shares::run,
    },
    Scenario {
        name: "tenant_memory",
        scenario: tenant_memory::run,
    },
    Scenario {
        name: "blocked_readers",
        scenario: blocked_readers::run,
    },
    Scenario {
        name: "ending_namespaces",
        scenario: ending_namespaces::run,
    },
    Scenario {
        name: "unload_beside_reader",
        scenario: unload_beside_reader::run,
    },
    Scenario {
        name: "max_entries",
        scenario: max_entries::run,
    },
    Scenario {
        name: "sampling",
        scenario: sampling::run,
    },
    Scenario {
        name: "cpus",
        scenario: cpus::run,
    },
    Scenario {
        name: "merging",
        scenario: merging::run,
    },
    Scenario {
        name: "failing_allocations",
        scenario: failing_allocations::run,
    },
    Scenario {
        name: "stress",
        scenario: stress::run,
    },
    Scenario {
        name: PLANTED_FAULTS,
        scenario: planted_faults::run,
    },
];

/// The scenario that is about the kernel's reports, and reads them itself.
const PLANTED_FAULTS: &str = "planted_faults";

impl Scenario {
    /// Runs it; trouble in the kernel's log fails it, too.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn run(&self, guest: &Guest) -> Result<()> {
        let log = KernelLog::from_now()?;
        let mut result = (self.scenario)(guest);
        if module::is_loaded() {
            // Whatever the scenario came to, nothing may use the module any more: its sockets and
            // namespaces are gone.
            result = result.and(module::unload());
        }
        let trouble = log.trouble()?;
        result?;
        ensure!(
            trouble.is_empty() || self.name == PLANTED_FAULTS,
            "the kernel says:\n{}",
            trouble.join("\n")
        );
        Ok(())
    }
}

/// The rule counters once the last acknowledgements of TCP are through.
///
/// # Errors
///
/// iptables fails.
pub fn settled(iptables: &Iptables<'_>) -> Result<RuleCounters> {
    settle(|| iptables.counters())
}

/// Counters that `collect` has all of: none moved shortly before, nor while it ran.
///
/// Where one did, a neighbour was asked for by the kernel itself, say, `collect` runs again.
fn collect_all<T: PartialEq>(
    counters: impl Fn() -> Result<T>,
    mut collect: impl FnMut() -> Result<()>,
) -> Result<T> {
    loop {
        let before = settle(&counters)?;
        collect()?;
        if counters()? == before {
            return Ok(before);
        }
    }
}

fn settle<T: PartialEq>(counters: impl Fn() -> Result<T>) -> Result<T> {
    let mut counted = counters()?;
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = counters()?;
        if now == counted {
            return Ok(now);
        }
        counted = now;
    }
}

/// Passes if `result` is the error `errno`.
fn fails_with<T: Debug>(result: io::Result<T>, errno: Errno, what: &str) -> Result<()> {
    let is_expected = matches!(&result, Err(error) if Errno::from_io_error(error) == Some(errno));
    ensure!(is_expected, "{what}: {result:?} instead of {errno:?}");
    Ok(())
}
