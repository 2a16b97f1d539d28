// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask ci`: all that must hold before a change goes in.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{
    abi, budget, build, command, deny, kernel_object, licences, packages, paths, test, vmtest,
};

/// Runs every check; the first that fails ends it.
///
/// # Errors
///
/// A check fails.
pub fn run() -> Result<()> {
    components()?;
    packages::install(abi::PACKAGES)?;
    packages::install(build::PLUGIN_PACKAGES)?;
    licences::check()?;
    abi::check()?;
    cargo("fmt --all --check")?;
    cargo("clippy --workspace --exclude trafstat-ffi --all-targets -- -D warnings")?;
    cargo(
        "clippy --package trafstat-store --package trafstat-store-cli --all-targets \
         --features kill-points -- -D warnings",
    )?;
    kernel_object::lint()?;
    kernel_object::build_with_oldest()?;
    document()?;
    budget::run(false)?;
    let mut tally = test::cargo_test(false)?;
    tally.add(&deny::run()?);
    ensure!(tally.is_clean(), "cargo test: {tally}");
    let cargo_tests = tally.to_string();
    cargo("bench --workspace --exclude trafstat-ffi --no-run")?;
    tally.add(&vmtest::run_always_tested()?);
    println!("cargo test: {cargo_tests}");
    println!("{tally}");
    ensure!(tally.is_clean(), "scenarios failed");
    Ok(())
}

/// Installs what rustup leaves out of a minimal toolchain.
fn components() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let version = Command::new(paths::cargo())
            .current_dir(paths::repository())
            .args([subcommand, "--version"])
            .output();
        if !version.is_ok_and(|output| output.status.success()) {
            command::run_visibly(
                Command::new("rustup")
                    .current_dir(paths::repository())
                    .args(["component", "add", component]),
            )?;
        }
    }
    Ok(())
}

/// Writes the documentation of all crates, whose links must lead somewhere.
fn document() -> Result<()> {
    eprintln!("cargo doc");
    command::run_visibly(
        Command::new(paths::cargo())
            .current_dir(paths::repository())
            .env("RUSTDOCFLAGS", "-D warnings")
            .args(["doc", "--quiet", "--no-deps", "--workspace"]),
    )
}

fn cargo(arguments: &str) -> Result<()> {
    eprintln!("cargo {arguments}");
    command::run_visibly(
        Command::new(paths::cargo())
            .current_dir(paths::repository())
            .args(arguments.split(' ')),
    )
}
