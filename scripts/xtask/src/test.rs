// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask test`: every test there is, in user space and in guests.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::kernel_object::Variant;
use crate::tally::Tally;
use crate::{abi, build, command, files, kernel_object, package, packages, paths, rootfs, vmtest};

/// What judges how captures and live interfaces are counted: tshark, capinfos and the kernel.
const CAPTURE_PACKAGES: &[&str] = &["tshark", "iproute2", "iptables", "procps"];

/// The servers that the store's tests start for themselves, and the clients that they run.
const STORE_PACKAGES: &[&str] = &["mariadb-server", "galera-4", "rsync", "sqlite3"];

/// Runs all tests, those too that need MySQL's own server if `with_mysql`; the closing line has
/// their numbers.
///
/// # Errors
///
/// A test fails, or something does not build.
pub fn run(with_mysql: bool) -> Result<()> {
    let mut tally = cargo_test(with_mysql)?;
    println!("cargo test: {tally}");
    match vmtest::run_always_tested() {
        Ok(scenarios) => tally.add(&scenarios),
        Err(error) => {
            eprintln!("error: {error:#}");
            tally.add_failure();
        }
    }
    println!("{tally}");
    ensure!(tally.is_clean(), "tests failed");
    Ok(())
}

/// Runs the workspace's own tests, the iptables plugin's too; a failing one does not keep the
/// others from running. Those that need MySQL's own server are skipped unless `with_mysql`.
///
/// # Errors
///
/// What the tests need cannot be installed.
pub fn cargo_test(with_mysql: bool) -> Result<Tally> {
    packages::install(abi::PACKAGES)?;
    packages::install(build::PLUGIN_PACKAGES)?;
    packages::install(STORE_PACKAGES)?;
    packages::install(CAPTURE_PACKAGES)?;
    let mut tally = Tally::default();
    let mut cargo = Command::new(paths::cargo());
    cargo.current_dir(paths::repository()).args([
        "test",
        "--workspace",
        // A part of the kernel, which has no tests.
        "--exclude",
        "trafstat-ffi",
        "--no-fail-fast",
    ]);
    match with_mysql {
        true => {
            cargo.env("TRAFSTAT_TEST_MYSQL", rootfs::ensure_mysql()?);
            cargo.args(["--", "--include-ignored"]);
        }
        false => println!("MySQL's own server: not run; cargo xtask test --all"),
    }
    run_tests(&mut cargo, &mut tally)?;
    check_model(&mut tally)?;
    interpret(&mut tally)?;
    rebuild(&mut tally);
    Ok(tally)
}

/// Builds the module's Rust object again from what the DKMS package has of its source.
fn rebuild(tally: &mut Tally) {
    let rebuilt = kernel_object::build(Variant::Plain)
        .and_then(|object| package::rebuild_object(&files::module_sources(&object)?));
    match rebuilt {
        Ok(()) => tally.add_pass(),
        Err(error) => {
            eprintln!("error: {error:#}");
            tally.add_failure();
        }
    }
}

/// Runs `cargo`, which runs tests, and adds their numbers to `tally`.
///
/// # Errors
///
/// Cargo cannot be started.
pub fn run_tests(cargo: &mut Command, tally: &mut Tally) -> Result<()> {
    let mut own = Tally::default();
    let status = command::stream(cargo, |line| {
        println!("{line}");
        own.add_cargo(line);
    })?;
    if !status.success() && own.is_clean() {
        // A test program that did not build or that crashed has no numbers.
        own.add_failure();
    }
    tally.add(&own);
    Ok(())
}

/// Has loom check the model of core's epochs.
fn check_model(tally: &mut Tally) -> Result<()> {
    let mut cargo = Command::new(paths::cargo());
    cargo
        .current_dir(paths::repository())
        .args(["test", "--release", "--package", "trafstat-core"])
        .args(["--test", "epochs"])
        // Everything is built anew with the flag.
        .env("CARGO_TARGET_DIR", paths::target().join("loom"))
        .env("RUSTFLAGS", "--cfg loom")
        .env("LOOM_MAX_PREEMPTIONS", "3");
    run_tests(&mut cargo, tally)
}

/// Has Miri interpret the tests of what the kernel's object is made of, where the toolchain has
/// it. trafstat-ffi, the unsafe half, is a part of the kernel without tests of its own; the
/// debug kernel's KASAN watches that.
fn interpret(tally: &mut Tally) -> Result<()> {
    let version = Command::new(paths::cargo())
        .args(["miri", "--version"])
        .output();
    if !version.is_ok_and(|output| output.status.success()) {
        println!("Miri over trafstat-abi and trafstat-core: skipped: this toolchain has no Miri");
        tally.add_skip();
        return Ok(());
    }
    let mut cargo = Command::new(paths::cargo());
    cargo
        .current_dir(paths::repository())
        .args(["miri", "test", "--lib"])
        .args(["--package", "trafstat-abi", "--package", "trafstat-core"])
        .env("CARGO_TARGET_DIR", paths::target().join("miri"))
        // proptest looks for its file of failures, and at the clock.
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("PROPTEST_CASES", "4");
    run_tests(&mut cargo, tally)
}
