// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask check`: format, lints and the unit tests that a change can have broken.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::tally::Tally;
use crate::{abi, build, command, kernel_object, packages, paths, test};

/// Crates without unit tests that this host runs: a part of the kernel.
const EXCLUDED: &str = "trafstat-ffi";

/// A file for each test program that passed, with the time at which it was built.
const PASSED: &str = "passed";

/// Checks formatting and lints, then runs the unit tests of what changed since they last passed,
/// and of what depends on that.
///
/// Cargo's own dependency tracking tells what changed: a test program that it did not build again
/// since the program passed is not run again.
///
/// # Errors
///
/// A check or a test fails.
pub fn run() -> Result<()> {
    packages::install(abi::PACKAGES)?;
    packages::install(build::PLUGIN_PACKAGES)?;
    abi::check()?;
    cargo(&["fmt", "--all", "--check"])?;
    let workspace = ["--workspace", "--exclude", EXCLUDED];
    let lints = ["--all-targets", "--", "-D", "warnings"];
    cargo(&[&["clippy"], &workspace[..], &lints[..]].concat())?;
    kernel_object::lint()?;

    let folder = paths::target().join(PASSED);
    fs::create_dir_all(&folder)?;
    let mut tally = Tally::default();
    let mut unchanged = 0;
    for program in test_programs()? {
        let stamp = program.stamp()?;
        let passed = program.record_in(&folder);
        if fs::read_to_string(&passed).is_ok_and(|last| last == stamp) {
            unchanged += 1;
            continue;
        }
        let mut own = Tally::default();
        println!("{}", program.executable.display());
        test::run_tests(&mut program.test(), &mut own)?;
        if own.is_clean() {
            fs::write(&passed, stamp)?;
        }
        tally.add(&own);
    }
    println!("{tally}; {unchanged} test programs passed before and are unchanged");
    ensure!(tally.is_clean(), "unit tests failed");
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    eprintln!("cargo {}", arguments.join(" "));
    command::run_visibly(
        Command::new(paths::cargo())
            .current_dir(paths::repository())
            .args(arguments),
    )
}

/// The unit tests of a library or a program.
#[derive(Debug, PartialEq, Eq)]
struct TestProgram {
    manifest_path: PathBuf,
    executable: PathBuf,
}

/// A line that cargo prints with `--message-format json`.
#[derive(Deserialize)]
struct Message {
    manifest_path: Option<PathBuf>,
    executable: Option<PathBuf>,
}

impl TestProgram {
    /// The program that a line of cargo's tells of, if it tells of one.
    fn parse(line: &str) -> Option<Self> {
        let message: Message = serde_json::from_str(line).ok()?;
        Some(Self {
            manifest_path: message.manifest_path?,
            executable: message.executable?,
        })
    }

    /// When it was built.
    fn stamp(&self) -> Result<String> {
        let built = fs::metadata(&self.executable)
            .and_then(|file| file.modified())
            .with_context(|| format!("cannot read {}", self.executable.display()))?;
        Ok(built.duration_since(UNIX_EPOCH)?.as_nanos().to_string())
    }

    fn record_in(&self, folder: &Path) -> PathBuf {
        folder.join(self.executable.file_name().unwrap_or_default())
    }

    /// The command that runs it as cargo would. Cargo itself, told to test one package, would
    /// build what that package needs once more with fewer features.
    fn test(&self) -> Command {
        let mut test = Command::new(&self.executable);
        if let Some(package) = self.manifest_path.parent() {
            test.current_dir(package).env("CARGO_MANIFEST_DIR", package);
        }
        test
    }
}

/// Builds the unit tests of the whole workspace.
fn test_programs() -> Result<Vec<TestProgram>> {
    let mut cargo = Command::new(paths::cargo());
    cargo
        .current_dir(paths::repository())
        .args(["test", "--workspace", "--exclude", EXCLUDED])
        .args(["--lib", "--bins", "--no-run"])
        .args(["--message-format", "json-render-diagnostics"]);
    let mut programs = Vec::new();
    let status = command::stream(&mut cargo, |line| programs.extend(TestProgram::parse(line)))?;
    ensure!(status.success(), "the unit tests do not build");
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_read_from_cargos_messages() {
        let program = r#"{"reason":"compiler-artifact","manifest_path":"/p/store/Cargo.toml",
            "target":{"kind":["bin"],"name":"trafstat-store"},"executable":"/t/debug/deps/store-1"}"#;
        let library = r#"{"reason":"compiler-artifact","manifest_path":"/p/store/Cargo.toml",
            "target":{"kind":["lib"],"name":"trafstat_store"},"executable":null}"#;
        let read: Vec<_> = [
            program,
            library,
            r#"{"reason":"build-finished","success":true}"#,
        ]
        .into_iter()
        .filter_map(TestProgram::parse)
        .collect();
        assert_eq!(
            read,
            [TestProgram {
                manifest_path: "/p/store/Cargo.toml".into(),
                executable: "/t/debug/deps/store-1".into(),
            }]
        );
    }
}
