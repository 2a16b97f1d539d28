// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask vmtest`: the scenarios of `vmtests/`, on each kernel one boot for all of them, and
//! one with a single CPU for those that count instructions; boots run side by side.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::build::Parts;
use crate::platform::{PLATFORMS, Platform};
use crate::progress::{self, Step};
use crate::tally::Tally;
use crate::vm::{self, Guest};
use crate::{command, lanes, paths};

/// All scenarios together, under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// The option of the guest's program for scenarios that count instructions.
const COUNTING: &str = "--counting";

/// The same with every checker on, and with faults injected for ten minutes.
const DEBUG_PATIENCE: Duration = Duration::from_secs(120 * 60);

/// Runs the scenarios whose name contains `filter`, on each of `platforms`; returns their numbers.
///
/// A kernel on which they cannot run counts as one failure.
///
/// # Errors
///
/// The programs do not build or no guest can be booted here, so that no scenario ran.
pub fn run<'a>(
    platforms: impl IntoIterator<Item = &'a Platform>,
    filter: Option<&str>,
) -> Result<Tally> {
    let parts = Parts::build()?;
    let filter = filter.unwrap_or_default();
    let has_counting = has_scenarios(&parts, COUNTING, filter)?;
    // A filter that fits none is for the guest to complain of.
    let has_others = has_scenarios(&parts, "", filter)? || !has_counting;

    let mut tallies = Vec::new();
    let mut staged = Vec::new();
    for platform in platforms {
        let kernel = platform.kernel;
        match parts.stage_for(platform) {
            Ok((rootfs, share)) => staged.push((kernel, rootfs, share)),
            Err(error) => tallies.push((format!("kernel {kernel}"), failure(kernel, &error))),
        }
    }
    // The longest ones first.
    let mut boots = Vec::new();
    for (kernel, rootfs, share) in staged.iter().filter(|_| has_others) {
        boots.push((*kernel, Guest::ensure(rootfs)?, "", share));
    }
    for (kernel, rootfs, share) in staged.iter().filter(|_| has_counting) {
        boots.push((*kernel, Guest::ensure_counting(rootfs)?, COUNTING, share));
    }
    tallies.extend(lanes::run(boots, |(kernel, guest, option, share)| {
        let tally = run_in(kernel, &guest, option, filter, share);
        (guest.describe(), tally)
    }));

    let mut all = Tally::default();
    for (what, tally) in tallies {
        println!("{what}: {tally}");
        all.add(&tally);
    }
    Ok(all)
}

/// Runs all scenarios on the kernels that every run of all tests includes, and says which others
/// there are.
///
/// # Errors
///
/// As for [`run`].
pub fn run_always_tested() -> Result<Tally> {
    let (tested, left_out): (Vec<_>, Vec<_>) = PLATFORMS
        .iter()
        .partition(|platform| platform.always_tested);
    let tally = run(tested, None)?;
    for platform in left_out {
        println!(
            "kernel {kernel}: not run; cargo xtask vmtest --kernel {kernel}",
            kernel = platform.kernel
        );
    }
    Ok(tally)
}

/// Whether scenarios that count instructions, or the others, have `filter` in their names.
fn has_scenarios(parts: &Parts, option: &str, filter: &str) -> Result<bool> {
    let mut list = Command::new(&parts.programs.vmtests);
    list.arg("list").args(option.split_whitespace());
    let names = command::read(&mut list)?;
    Ok(names.lines().any(|name| name.contains(filter)))
}

fn run_in(kernel: &str, guest: &Guest<'_>, option: &str, filter: &str, share: &Path) -> Tally {
    let step = Step::begin(format!("Scenarios on {}", guest.describe()));
    let captures = match paths::captures() {
        Some(_) => format!("--captures {}", vm::CAPTURES),
        None => String::new(),
    };
    let script = format!(
        "{}/trafstat-vmtests run {option} {captures} {filter}",
        vm::PROGRAMS
    );
    let patience = if guest.is_debug() {
        DEBUG_PATIENCE
    } else {
        PATIENCE
    };
    let mut tally = Tally::default();
    let ran = guest.run(&script, share, patience, |line| {
        step.print(&format!("{kernel}: {line}"));
        tally.add_scenarios(line);
    });
    match ran {
        Ok(()) => step.done(),
        Err(error) => {
            let failure = failure(kernel, &error);
            // Its numbers may tell already that something failed.
            if tally.is_clean() {
                tally.add(&failure);
            }
        }
    }
    tally
}

/// What stands for scenarios that did not run or did not end.
fn failure(kernel: &str, error: &anyhow::Error) -> Tally {
    progress::above(|| eprintln!("error: kernel {kernel}: {error:#}"));
    let mut tally = Tally::default();
    tally.add_failure();
    tally
}

/// Runs one shell command in a guest of `platform`, one whose clock counts instructions if
/// `counting`.
///
/// # Errors
///
/// Something does not build, or the command fails.
pub fn run_command(platform: &Platform, script: &str, counting: bool) -> Result<()> {
    let (rootfs, share) = Parts::build()?.stage_for(platform)?;
    let script = format!("( {script} ) && echo {}", vm::SUCCESS);
    let guest = match counting {
        true => Guest::ensure_counting(&rootfs)?,
        false => Guest::ensure(&rootfs)?,
    };
    guest.run(&script, &share, PATIENCE, |line| println!("{line}"))
}
