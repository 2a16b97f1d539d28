//! `cargo xtask vmtest`: the scenarios of `vmtests/`, one boot for all of them on each kernel.

use std::time::Duration;

use anyhow::Result;

use crate::build::Parts;
use crate::progress::Step;
use crate::rootfs::{PLATFORMS, Platform};
use crate::tally::Tally;
use crate::vm::{self, Guest};

/// All scenarios together, under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

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
    let guest = Guest::ensure(&rootfs)?;
    let step = Step::begin(format!("Scenarios on {}", guest.describe()));
    let script = format!(
        "{}/trafstat-vmtests run {}",
        vm::PROGRAMS,
        filter.unwrap_or_default()
    );
    guest.run(&script, &share, PATIENCE, |line| {
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
