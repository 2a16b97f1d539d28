//! `cargo xtask vmtest`: the scenarios of `vmtests/`, one boot for all.

use std::time::Duration;

use anyhow::Result;

use crate::build;
use crate::progress::Step;
use crate::tally::Tally;
use crate::vm::{self, Guest};

/// All scenarios together, under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// Runs the scenarios whose name contains `filter`; returns their numbers and whether they passed.
///
/// # Errors
///
/// Something does not build, so that no scenario ran.
pub fn run(filter: Option<&str>) -> Result<(Tally, Result<()>)> {
    let (built, rootfs, module) = build::build()?;
    let share = built.stage(&module)?;
    let guest = Guest::ensure(&rootfs)?;
    let step = Step::begin(format!("Scenarios on {}", guest.describe()));
    let script = format!(
        "{}/trafstat-vmtests run {}",
        vm::PROGRAMS,
        filter.unwrap_or_default()
    );
    let mut tally = Tally::default();
    let ran = guest.run(&script, &share, PATIENCE, |line| {
        step.print(line);
        tally.add_scenarios(line);
    });
    if ran.is_ok() {
        step.done();
    }
    Ok((tally, ran))
}

/// Runs one shell command in a guest.
///
/// # Errors
///
/// Something does not build, or the command fails.
pub fn run_command(script: &str) -> Result<()> {
    let (built, rootfs, module) = build::build()?;
    let share = built.stage(&module)?;
    let script = format!("( {script} ) && echo {}", vm::SUCCESS);
    Guest::ensure(&rootfs)?.run(&script, &share, PATIENCE, |line| println!("{line}"))
}
