// SPDX-License-Identifier: GPL-2.0-or-later
//! The Debian packages that a command needs on this host.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command;
use crate::progress::Step;

/// Packages ask this program before they start a service (invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs those of `packages` that are missing.
///
/// # Errors
///
/// Not root: the error has the command to run. Or apt-get fails.
pub fn install(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root()? {
        bail!(
            "these Debian packages are missing; install them with\n\n    sudo apt-get install {}\n",
            missing.join(" ")
        );
    }
    let step = Step::begin(format!("Installing {}", missing.join(" ")));
    let _policy = NoServices::begin()?;
    // Package lists may be stale or absent; the first failure fetches them.
    if command::run(&mut apt_get(&missing), &step).is_err() {
        command::run(Command::new("apt-get").arg("update"), &step)?;
        command::run(&mut apt_get(&missing), &step)?;
    }
    step.done();
    Ok(())
}

/// While it lives, no package starts the service that it brings.
struct NoServices {
    created: bool,
}

impl NoServices {
    /// Leaves a policy of the host's own as it is.
    fn begin() -> Result<Self> {
        let new = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY);
        match new {
            Ok(mut file) => {
                // 101: not allowed by policy.
                file.write_all(b"#!/bin/sh\nexit 101\n")
                    .with_context(|| format!("cannot write {POLICY}"))?;
                Ok(Self { created: true })
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Self { created: false }),
            Err(error) => Err(error).with_context(|| format!("cannot write {POLICY}")),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.created
            && let Err(error) = std::fs::remove_file(POLICY)
        {
            eprintln!("cannot remove {POLICY}, which keeps services from starting: {error}");
        }
    }
}

/// Refuses to go on without root, with the command that has it.
///
/// # Errors
///
/// Not root.
pub fn require_root(purpose: &str, subcommand: &str) -> Result<()> {
    if !is_root()? {
        bail!(
            "{purpose} needs root; run\n\n    sudo env PATH=\"$PATH\" cargo xtask {subcommand}\n"
        );
    }
    Ok(())
}

fn is_root() -> Result<bool> {
    let own = std::fs::metadata("/proc/self").context("cannot read /proc/self")?;
    Ok(own.uid() == 0)
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut missing = Vec::new();
    for package in packages {
        // dpkg-query fails for a package it never heard of, which is missing like any other.
        let output = Command::new("dpkg-query")
            .args(["--show", "--showformat=${db:Status-Status}", package])
            .stderr(Stdio::null())
            .output()
            .with_context(|| {
                format!(
                    "dpkg-query is not there; on a system other than Debian install the counterparts \
                     of these packages: {}",
                    packages.join(" ")
                )
            })?;
        if output.stdout != b"installed" {
            missing.push(*package);
        }
    }
    Ok(missing)
}

fn apt_get(packages: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages);
    command
}
