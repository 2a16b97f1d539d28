// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask build`: programs, iptables plugin and kernel module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::kernel_object::Variant;
use crate::platform::Platform;
use crate::rootfs::Rootfs;
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
}

/// Module and plugin with what only tests have in them.
pub struct ForTests<'a> {
    module: &'a Path,
    plugin: &'a Path,
}

/// What is the same on every kernel.
pub struct Parts {
    /// The programs.
    pub programs: Built,
    /// The plugin.
    pub plugin: PathBuf,
    /// The plugin that can act as one of another version.
    pub plugin_of_other_versions: PathBuf,
    /// The module's Rust object.
    pub object: Vec<u8>,
}

impl Parts {
    /// Builds them.
    ///
    /// # Errors
    ///
    /// A part does not build; the error has the compiler's words.
    pub fn build() -> Result<Self> {
        packages::install(abi::PACKAGES)?;
        packages::install(PLUGIN_PACKAGES)?;
        abi::check()?;
        Ok(Self {
            object: kernel_object::build(Variant::Plain)?,
            programs: programs()?,
            plugin_of_other_versions: plugin_of_other_versions()?,
            plugin: plugin()?,
        })
    }

    /// Builds the module for `platform` and stages it with all else; returns the platform's folder
    /// and what a guest on it shares.
    ///
    /// # Errors
    ///
    /// The folder cannot be made, or the module does not build.
    pub fn stage_for(&self, platform: &Platform) -> Result<(Rootfs, PathBuf)> {
        let rootfs = Rootfs::ensure(platform)?;
        let checked;
        let object = if platform.is_debug() {
            checked = kernel_object::build(Variant::Kasan)?;
            &checked
        } else {
            &self.object
        };
        let module = kbuild::for_rootfs(&rootfs, object)?;
        let with_tests = ForTests {
            module: &kbuild::with_tests(&rootfs, object)?,
            plugin: &self.plugin_of_other_versions,
        };
        let share =
            self.programs
                .stage(platform.kernel, &module, &self.plugin, Some(with_tests))?;
        Ok((rootfs, share))
    }
}

/// Builds the plugin; returns its path. It serves every libxtables that it knows the layout of.
///
/// # Errors
///
/// Cargo fails.
pub fn plugin() -> Result<PathBuf> {
    command::run_visibly(&mut cargo_build(&["--package", "xt-trafstat"]))?;
    Ok(paths::cargo_target().join("release/libxt_TRAFSTAT.so"))
}

/// Builds the plugin that can act as one of another version; returns its path.
fn plugin_of_other_versions() -> Result<PathBuf> {
    command::run_visibly(&mut cargo_build(&[
        "--package",
        "xt-trafstat",
        "--features",
        "other-versions",
    ]))?;
    // Cargo gives both builds one name.
    let built = paths::target().join("libxt_TRAFSTAT-other-versions.so");
    fs::create_dir_all(paths::target())?;
    copy(
        &paths::cargo_target().join("release/libxt_TRAFSTAT.so"),
        &built,
    )?;
    Ok(built)
}

/// Builds the programs.
///
/// # Errors
///
/// Cargo fails.
pub fn programs() -> Result<Built> {
    let release = paths::cargo_target().join("release");
    // Cargo keeps both builds apart but gives both programs one name: the other is copied away.
    command::run_visibly(&mut cargo_build(&[
        "--package",
        "trafstat-store-cli",
        "--features",
        "kill-points",
    ]))?;
    let store_with_kill_points = paths::target().join("trafstat-store-with-kill-points");
    fs::create_dir_all(paths::target())?;
    copy(&release.join("trafstat-store"), &store_with_kill_points)?;

    command::run_visibly(&mut cargo_build(&[
        "--package",
        "trafstat-store-cli",
        "--package",
        "trafstat-console",
    ]))?;
    command::run_visibly(&mut cargo_build(&["--package", "trafstat-vmtests"]))?;
    Ok(Built {
        store: release.join("trafstat-store"),
        store_with_kill_points,
        console: release.join("trafstat"),
        vmtests: release.join("trafstat-vmtests"),
    })
}

impl Built {
    /// Puts everything that `host`, a guest or this one, runs into a folder of its own; returns that
    /// folder.
    ///
    /// # Errors
    ///
    /// A file cannot be copied.
    pub fn stage(
        &self,
        host: &str,
        module: &Path,
        plugin: &Path,
        with_tests: Option<ForTests<'_>>,
    ) -> Result<PathBuf> {
        let folder = paths::target().join("stage").join(host);
        fs::create_dir_all(&folder)?;
        let rule_tests = paths::repository().join("xt-plugin");
        for (from, name) in [
            (self.store.as_path(), "trafstat-store"),
            (
                &self.store_with_kill_points,
                "trafstat-store-with-kill-points",
            ),
            (&self.console, "trafstat"),
            (&self.vmtests, "trafstat-vmtests"),
            (plugin, "libxt_TRAFSTAT.so"),
            (&rule_tests.join("libxt_TRAFSTAT.t"), "libxt_TRAFSTAT.t"),
            (
                &rule_tests.join("libxt_TRAFSTAT.ip6.t"),
                "libxt_TRAFSTAT.ip6.t",
            ),
            (module, "xt_TRAFSTAT.ko"),
        ] {
            copy(from, &folder.join(name))?;
        }
        if let Some(ForTests { module, plugin }) = with_tests {
            copy(module, &folder.join("xt_TRAFSTAT-tests.ko"))?;
            // libxtables wants this name, so it lies in a folder of its own.
            let other_versions = folder.join("other-versions");
            fs::create_dir_all(&other_versions)?;
            copy(plugin, &other_versions.join("libxt_TRAFSTAT.so"))?;
        }
        Ok(folder)
    }
}

fn cargo_build(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(paths::cargo());
    cargo
        .current_dir(paths::repository())
        .args(["build", "--release"])
        .args(arguments);
    cargo
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
