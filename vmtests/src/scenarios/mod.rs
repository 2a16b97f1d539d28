//! The scenarios, one a module; each is a function that returns an error when it fails.

mod access;
mod counters_agree;
mod csv;
mod killed_collector;
mod lifecycle;
mod reload_under_traffic;
mod rules;

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::guest::Guest;
use crate::iptables::{Iptables, RuleCounters};
use crate::kernel_log::KernelLog;
use crate::module;

/// One scenario.
pub struct Scenario {
    /// What its module is called.
    pub name: &'static str,
    scenario: fn(&Guest) -> Result<()>,
}

/// All of them, in the order in which they run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "counters_agree",
        scenario: counters_agree::run,
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
        name: "rules",
        scenario: rules::run,
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
        name: "access",
        scenario: access::run,
    },
];

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
            trouble.is_empty(),
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
    let mut counted = iptables.counters()?;
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = iptables.counters()?;
        if now == counted {
            return Ok(now);
        }
        counted = now;
    }
}
