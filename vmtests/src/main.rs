// SPDX-License-Identifier: GPL-2.0-or-later
//! Runs in a guest as root: scenarios with the real module, the real iptables and the real collector.
//!
//! Everything built lies in one folder beside this program. Its last line says whether all went
//! well; whoever started the guest trusts nothing else.

#![forbid(unsafe_code)]

mod bystander;
mod checkers;
mod collector;
mod cost;
mod cpu;
mod demo;
mod family;
mod guest;
mod host;
mod iptables;
mod kernel_log;
mod module;
mod peers;
mod pktgen;
mod proc;
mod process;
mod scenarios;
mod tenant;
mod topology;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::guest::{Guest, Skipped};
use crate::scenarios::Scenario;

/// The line that says that all went well.
const SUCCESS: &str = "TRAFSTAT GUEST SUCCEEDED";

/// Scenarios with the real module, iptables and collector.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the names of the scenarios that `run` runs.
    List {
        /// Of those that need a guest whose clock counts instructions.
        #[arg(long)]
        counting: bool,
    },
    /// Run the scenarios, or those whose name contains FILTER.
    Run {
        /// Part of the names.
        filter: Option<String>,
        /// Those that need a guest whose clock counts instructions, instead of the others.
        #[arg(long)]
        counting: bool,
        /// What random choices follow from; a failure says which it was.
        #[arg(long)]
        seed: Option<u64>,
        /// A folder with recorded traffic.
        #[arg(long)]
        captures: Option<PathBuf>,
    },
    /// Count the instructions that a packet costs under different rules, in a guest that counts
    /// them; with FILTER only in rows whose name contains it.
    Costs {
        /// Part of the rows' names.
        filter: Option<String>,
    },
    /// Continue a host test with the packages after a boot; for a guest of its own.
    HostTest,
    /// Show the way of a packet from rule to report, and that all its counters agree.
    Demo {
        /// Where to leave the database.
        #[arg(long)]
        database: PathBuf,
    },
}

fn main() -> ExitCode {
    let succeeded = match Arguments::parse().command {
        Command::List { counting } => {
            for scenario in scenarios(counting) {
                println!("{}", scenario.name);
            }
            return ExitCode::SUCCESS;
        }
        Command::HostTest => match host::run() {
            Ok(host::BootEnd::Reboot) => return ExitCode::SUCCESS,
            ended => ended.map(drop),
        },
        Command::Run {
            filter,
            counting,
            seed,
            captures,
        } => Guest::new(seed).and_then(|guest| {
            let guest = guest.with_captures(captures);
            run(&guest, filter.as_deref().unwrap_or_default(), counting)
        }),
        Command::Costs { filter } => {
            Guest::new(None).and_then(|guest| cost::run(&guest, filter.as_deref().unwrap_or("")))
        }
        Command::Demo { database } => {
            Guest::new(None).and_then(|guest| demo::run(&guest, &database))
        }
    };
    match succeeded {
        Ok(()) => {
            println!("{SUCCESS}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn scenarios(counting: bool) -> &'static [Scenario] {
    match counting {
        true => scenarios::COUNTING,
        false => scenarios::ALL,
    }
}

fn run(guest: &Guest, filter: &str, counting: bool) -> Result<()> {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for scenario in scenarios(counting) {
        if !scenario.name.contains(filter) {
            skipped += 1;
            continue;
        }
        let started = Instant::now();
        let result = scenario.run(guest);
        let seconds = started.elapsed().as_secs_f32();
        match result {
            Ok(()) => {
                passed += 1;
                println!("test {} ... ok ({seconds:.1} s)", scenario.name);
            }
            Err(error) if error.is::<Skipped>() => {
                skipped += 1;
                println!("test {} ... skipped: {error}", scenario.name);
            }
            Err(error) => {
                failed += 1;
                println!(
                    "test {} ... FAILED ({seconds:.1} s)\n{error:#}",
                    scenario.name
                );
            }
        }
    }
    println!("scenarios: {passed} passed, {failed} failed, {skipped} skipped");
    anyhow::ensure!(failed == 0, "{failed} scenarios failed");
    let is_known = scenarios(counting).iter().any(|s| s.name.contains(filter));
    anyhow::ensure!(is_known, "no scenario is called {filter}");
    Ok(())
}
