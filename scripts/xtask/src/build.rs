//! `cargo xtask build`: programs, iptables plugin and kernel module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::rootfs::{self, Rootfs};
use crate::{abi, command, kbuild, kernel_object, packages, paths};

/// What the plugin needs.
pub const PLUGIN_PACKAGES: &[&str] = &["iptables", "libxtables-dev", "pkg-config"];

/// What a guest and a host's demo run.
pub struct Built {
    /// The collector.
    pub store: PathBuf,
    /// The collector that can kill itself at given points.
    pub store_with_kill_points: PathBuf,
    /// The console program.
    pub console: PathBuf,
    /// The program that runs in the guest.
    pub vmtests: PathBuf,
    /// `libxt_TRAFSTAT.so`.
    pub plugin: PathBuf,
}

/// Builds everything, the module for the kernel of Debian 12.
///
/// # Errors
///
/// A part does not build; the error has the compiler's words.
pub fn build() -> Result<(Built, Rootfs, PathBuf)> {
    packages::install(abi::PACKAGES)?;
    packages::install(PLUGIN_PACKAGES)?;
    abi::check()?;
    let rootfs = Rootfs::ensure(&rootfs::BOOKWORM)?;
    let object = kernel_object::build()?;
    let module = kbuild::for_rootfs(&rootfs, &object)?;
    Ok((programs()?, rootfs, module))
}

/// Builds programs and plugin.
///
/// # Errors
///
/// Cargo fails.
pub fn programs() -> Result<Built> {
    let release = paths::cargo_target().join("release");
    // Cargo keeps both builds apart but gives both programs one name: the other is copied away.
    cargo_build(&["--package", "trafstat-store", "--features", "kill-points"])?;
    let store_with_kill_points = paths::target().join("trafstat-store-with-kill-points");
    fs::create_dir_all(paths::target())?;
    copy(&release.join("trafstat-store"), &store_with_kill_points)?;

    cargo_build(&[
        "--package",
        "trafstat-store",
        "--package",
        "trafstat-console",
    ])?;
    cargo_build(&["--package", "trafstat-vmtests", "--package", "xt-trafstat"])?;
    Ok(Built {
        store: release.join("trafstat-store"),
        store_with_kill_points,
        console: release.join("trafstat"),
        vmtests: release.join("trafstat-vmtests"),
        plugin: release.join("libxt_TRAFSTAT.so"),
    })
}

impl Built {
    /// Puts everything that a guest runs, and `module`, into one folder; returns that folder.
    ///
    /// # Errors
    ///
    /// A file cannot be copied.
    pub fn stage(&self, module: &Path) -> Result<PathBuf> {
        let folder = paths::target().join("guest");
        fs::create_dir_all(&folder)?;
        let rule_tests = paths::repository().join("xt-plugin/libxt_TRAFSTAT.t");
        for (from, name) in [
            (self.store.as_path(), "trafstat-store"),
            (
                &self.store_with_kill_points,
                "trafstat-store-with-kill-points",
            ),
            (&self.console, "trafstat"),
            (&self.vmtests, "trafstat-vmtests"),
            (&self.plugin, "libxt_TRAFSTAT.so"),
            (&rule_tests, "libxt_TRAFSTAT.t"),
            (module, "xt_TRAFSTAT.ko"),
        ] {
            copy(from, &folder.join(name))?;
        }
        Ok(folder)
    }
}

fn cargo_build(arguments: &[&str]) -> Result<()> {
    command::run_visibly(
        Command::new(paths::cargo())
            .current_dir(paths::repository())
            .args(["build", "--release"])
            .args(arguments),
    )
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    // The old file may be a program that still runs; a new one under its name is no writing to it.
    if to.exists() {
        fs::remove_file(to)?;
    }
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
