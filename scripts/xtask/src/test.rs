//! `cargo xtask test`: every test there is, in user space and in guests.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::tally::Tally;
use crate::{abi, build, command, packages, paths, rootfs, vmtest};

/// What judges how captures and live interfaces are counted: tshark, capinfos and the kernel.
const CAPTURE_PACKAGES: &[&str] = &["tshark", "iproute2", "iptables", "procps"];

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
    let status = command::stream(&mut cargo, |line| {
        println!("{line}");
        tally.add_cargo(line);
    })?;
    if !status.success() && tally.is_clean() {
        // A test program that did not build or that crashed has no numbers.
        tally.add_failure();
    }
    Ok(tally)
}

/// The servers that the store's tests start for themselves, and the clients that they run.
const STORE_PACKAGES: &[&str] = &["mariadb-server", "galera-4", "rsync", "sqlite3"];
