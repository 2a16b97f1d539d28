// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask fuzz`: the fuzz targets under AddressSanitizer, long or for a fixed number
//! of inputs.

use std::fs;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::{command, packages, paths, tools};

const CARGO_FUZZ_VERSION: &str = "0.13.2";
/// libFuzzer is C++.
const PACKAGES: &[&str] = &["g++"];

const TARGETS: [&str; 9] = [
    "parse",
    "extension_headers",
    "flow_table",
    "capture",
    "rule_blob",
    "rule_options",
    "snapshot",
    "import",
    "config",
];

/// The targets whose inputs have no constants that comparisons tell: following them takes half of
/// their time.
const PROGRAMS: [&str; 2] = ["flow_table", "rule_blob"];

/// How long each target runs.
#[derive(Clone, Copy)]
pub enum Length {
    /// So many minutes.
    Minutes(u64),
    /// So many inputs, whatever the time.
    Inputs(u64),
}

/// Runs the target of this name, or all.
///
/// What a run finds interesting is kept in `target/fuzz/corpus`; `fuzz/corpus` has the
/// few inputs that are committed.
///
/// # Errors
///
/// No target has the name, one does not build, or one has a finding; then its input is in
/// `fuzz/artifacts`.
pub fn run(name: Option<&str>, length: Length) -> Result<()> {
    packages::install(PACKAGES)?;
    let wanted: Vec<&str> = TARGETS
        .into_iter()
        .filter(|target| name.is_none_or(|name| name == *target))
        .collect();
    if wanted.is_empty() {
        bail!("there is no such target; there are {}", TARGETS.join(", "));
    }
    let cargo_fuzz = tools::build("cargo-fuzz", CARGO_FUZZ_VERSION, &[])?;
    let mut findings = Vec::new();
    for target in wanted {
        eprintln!("fuzzing {}", target);
        let cargo_fuzz = |verb| {
            let mut fuzz = Command::new(&cargo_fuzz);
            fuzz.current_dir(paths::repository())
                // Sanitizers are unstable options of the compiler that is there.
                .env("RUSTC_BOOTSTRAP", "1")
                .args(["fuzz", verb, "--target-dir"]);
            if PROGRAMS.contains(&target) {
                fuzz.arg(paths::target().join("fuzz-programs"))
                    .arg("--no-trace-compares");
            } else {
                fuzz.arg(paths::target().join("fuzz"));
            }
            fuzz.arg(target);
            fuzz
        };
        // A failure of what follows is a finding.
        command::run_visibly(&mut cargo_fuzz("build"))?;
        let kept = paths::target().join("fuzz/corpus").join(target);
        fs::create_dir_all(&kept)?;
        let mut fuzz = cargo_fuzz("run");
        fuzz.arg(kept);
        let committed = paths::repository().join("fuzz/corpus").join(target);
        if committed.is_dir() {
            fuzz.arg(committed);
        }
        fuzz.args(["--", "-print_final_stats=1", "-verbosity=0", "-timeout=60"]);
        match length {
            Length::Minutes(minutes) => fuzz.arg(format!("-max_total_time={}", minutes * 60)),
            // The same inputs every time.
            Length::Inputs(inputs) => fuzz.args([&format!("-runs={inputs}"), "-seed=1"]),
        };
        if !fuzz.status()?.success() {
            findings.push(target);
        }
    }
    ensure!(
        findings.is_empty(),
        "findings in {}; their inputs are in fuzz/artifacts",
        findings.join(", ")
    );
    Ok(())
}
