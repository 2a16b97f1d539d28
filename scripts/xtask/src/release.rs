// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask release`: a version, its packages and an apt repository that serves them.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::apt_repository::{self, Key};
use crate::progress::Step;
use crate::{changelog, command, linked, package, paths};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const CHANGELOG: &str = "CHANGELOG.md";
/// Both workspaces.
const MANIFESTS: [&str; 2] = ["Cargo.toml", "fuzz/Cargo.toml"];

/// Sets the version everywhere and moves what is unreleased in the changelog under its heading.
///
/// # Errors
///
/// It is not newer than the one that there is, or the changelog has nothing to release.
pub fn prepare(version: &str) -> Result<()> {
    let (new, old) = (numbers(version)?, numbers(VERSION)?);
    ensure!(new > old, "{version} is not newer than {VERSION}");
    let repository = paths::repository();
    let today = command::read(Command::new("date").args(["--utc", "+%Y-%m-%d"]))?;
    let text = changelog::release(&read(CHANGELOG)?, version, &today)?;
    for manifest in MANIFESTS {
        let (before, after) = (
            format!("\nversion = \"{VERSION}\"\n"),
            format!("\nversion = \"{version}\"\n"),
        );
        let text = read(manifest)?;
        ensure!(
            text.matches(&before).count() == 1,
            "{manifest} does not say {VERSION} once"
        );
        fs::write(repository.join(manifest), text.replace(&before, &after))?;
        // The lock file has the versions of the workspace's own packages.
        command::run_visibly(Command::new(paths::cargo()).current_dir(&repository).args([
            "update",
            "--quiet",
            "--workspace",
            "--manifest-path",
            manifest,
        ]))?;
    }
    fs::write(repository.join(CHANGELOG), text)?;
    println!(
        "Version {version}, of {today}. Check it, commit it, and make the release:\n\n    \
         git commit --all --message 'release: {version}'\n    \
         git tag --sign --message 'trafstat {version}' v{version}\n    \
         cargo xtask release --key KEY --verify"
    );
    Ok(())
}

/// Makes packages and repository of the version that is set, signed by `key`; with `is_verified`,
/// Debian installs them from there.
///
/// # Errors
///
/// Versions differ, the version has no date or there are changes without a version, something does
/// not build, or the repository does not serve it. With a key for tests, no state is refused.
pub fn make(key: &Key, revision: u32, is_verified: bool) -> Result<()> {
    let step = Step::begin("Checking versions and changelog");
    check_versions()?;
    let changelog = read(CHANGELOG)?;
    let mut reasons = Vec::new();
    let section = changelog::section(&changelog, VERSION);
    if section.is_none_or(|(_, changes)| changes.is_empty()) {
        reasons.push(format!("{CHANGELOG} has no dated changes for {VERSION}"));
    }
    if !changelog::unreleased(&changelog)?.is_empty() {
        reasons.push(format!("{CHANGELOG} has changes that are unreleased"));
    }
    let changed = command::read(
        Command::new("git")
            .current_dir(paths::repository())
            .args(["status", "--porcelain"]),
    )?;
    if !changed.is_empty() {
        reasons.push("not everything is committed".to_owned());
    }
    for reason in &reasons {
        step.note(&format!("no release: {reason}"));
    }
    if !reasons.is_empty() && !key.is_for_tests() {
        bail!("cargo xtask release VERSION makes a version of what is here");
    }
    step.done();

    let packages = package::run(revision, &linked::copyright()?)?;
    let notes = section.map_or("", |(_, changes)| changes);
    let repository = apt_repository::make(&packages, notes, key)?;
    if is_verified {
        for release in ["bookworm", "trixie"] {
            apt_repository::verify(&repository, release, VERSION)?;
        }
    }
    println!("{}", repository.display());
    Ok(())
}

/// Checks that all packages of both workspaces have the version, in the lock files, too.
fn check_versions() -> Result<()> {
    for manifest in MANIFESTS {
        let json = command::read(
            Command::new(paths::cargo())
                .current_dir(paths::repository())
                .args(["metadata", "--format-version=1", "--no-deps"])
                .args(["--manifest-path", manifest]),
        )?;
        let metadata: Value = serde_json::from_str(&json)?;
        for package in metadata["packages"].as_array().into_iter().flatten() {
            ensure!(
                package["version"] == VERSION,
                "{} has version {}, not {VERSION}",
                package["name"],
                package["version"]
            );
        }
        let lock = manifest.replace(".toml", ".lock");
        let text = read(&lock)?;
        for package in text.split("[[package]]\n").skip(1) {
            // What comes from a registry has a source.
            let is_own = !package.contains("\nsource = ");
            ensure!(
                !is_own || package.contains(&format!("\nversion = \"{VERSION}\"\n")),
                "{lock} has another version than {VERSION}:\n{package}"
            );
        }
    }
    Ok(())
}

/// The three numbers of a version.
fn numbers(version: &str) -> Result<[u64; 3]> {
    let numbers: Vec<u64> = version
        .split('.')
        .map(|number| number.parse())
        .collect::<Result<_, _>>()
        .with_context(|| format!("{version} is no version like 1.2.3"))?;
    <[u64; 3]>::try_from(numbers)
        .ok()
        .with_context(|| format!("{version} is no version like 1.2.3"))
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(paths::repository().join(path))
        .with_context(|| format!("cannot read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_packages_have_one_version() {
        check_versions().unwrap();
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("0.10.0").unwrap() > numbers("0.9.9").unwrap());
        for wrong in ["1.2", "1.2.3.4", "1.2.x", ""] {
            numbers(wrong).unwrap_err();
        }
    }

    #[test]
    fn changelog_has_a_date_for_the_version() {
        let changelog = read(CHANGELOG).unwrap();
        let (_, changes) = changelog::section(&changelog, VERSION).unwrap();
        assert!(changes.starts_with("### "), "{changes}");
    }
}
