//! `cargo xtask vmtest`: the scenarios of `vmtests/`, on each kernel one boot for all of them, and
//! one with a single CPU for those that count instructions.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::build::Parts;
use crate::progress::Step;
use crate::rootfs::{PLATFORMS, Platform};
use crate::tally::Tally;
use crate::vm::{self, Guest};
use crate::{command, paths};

/// All scenarios together, under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// The option of the guest's program for scenarios that count instructions.
const COUNTING: &str = "--counting";

/// The same with every checker on, and with faults injected for ten minutes.
const DEBUG_PATIENCE: Duration = Duration::from_secs(120 * 60);

/// Runs the scenarios whose name contains `filter`, on each of `platforms`; returns their numbers.
///
/// A kernel on which they cannot run counts as one failure, and the next one has its turn.
///
/// # Errors
///
/// The programs do not build, so that no scenario ran.
pub fn run<'a>(
    platforms: impl IntoIterator<Item = &'a Platform>,
    filter: Option<&str>,
) -> Result<Tally> {
    let parts = Parts::build()?;
    let mut all = Tally::default();
    let mut lines = Vec::new();
    for platform in platforms {
        let mut tally = Tally::default();
        let ran = run_on(platform, &parts, filter, &mut tally);
        if let Err(error) = ran {
            eprintln!("error: kernel {}: {error:#}", platform.kernel);
            if tally.is_clean() {
                tally.add_failure();
            }
        }
        lines.push(format!("kernel {}: {tally}", platform.kernel));
        all.add(&tally);
    }
    for line in lines {
        println!("{line}");
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

fn run_on(
    platform: &Platform,
    parts: &Parts,
    filter: Option<&str>,
    tally: &mut Tally,
) -> Result<()> {
    let (rootfs, share) = parts.stage_for(platform)?;
    let filter = filter.unwrap_or_default();
    let has_scenarios = |counting: &str| -> Result<bool> {
        let mut list = Command::new(&parts.programs.vmtests);
        list.arg("list").args(counting.split_whitespace());
        Ok(command::read(&mut list)?
            .lines()
            .any(|name| name.contains(filter)))
    };
    let some_count = has_scenarios(COUNTING)?;
    // A filter that fits none is for the guest to complain of.
    if has_scenarios("")? || !some_count {
        run_in(&Guest::ensure(&rootfs)?, "", filter, &share, tally)?;
    }
    if some_count {
        let guest = Guest::ensure_counting(&rootfs)?;
        run_in(&guest, COUNTING, filter, &share, tally)?;
    }
    Ok(())
}

fn run_in(
    guest: &Guest<'_>,
    option: &str,
    filter: &str,
    share: &Path,
    tally: &mut Tally,
) -> Result<()> {
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
    guest.run(&script, share, patience, |line| {
        step.print(line);
        tally.add_scenarios(line);
    })?;
    step.done();
    Ok(())
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
