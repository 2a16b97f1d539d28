//! `cargo xtask build`: programs, iptables plugin and kernel module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::rootfs::{Platform, Rootfs};
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

/// What is the same on every kernel.
pub struct Parts {
    /// The programs.
    pub programs: Built,
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
            object: kernel_object::build()?,
            programs: programs()?,
        })
    }

    /// Builds module and plugin for `platform` and stages them with the programs; returns the
    /// platform's folder and what a guest on it shares.
    ///
    /// # Errors
    ///
    /// The folder cannot be made, or the module or the plugin does not build.
    pub fn stage_for(&self, platform: &Platform) -> Result<(Rootfs, PathBuf)> {
        let rootfs = Rootfs::ensure(platform)?;
        let module = kbuild::for_rootfs(&rootfs, &self.object)?;
        let plugin = plugin_for_rootfs(&rootfs)?;
        let share = self.programs.stage(&module, &plugin)?;
        Ok((rootfs, share))
    }
}

/// Builds the plugin for this host's iptables; returns its path.
///
/// # Errors
///
/// Cargo fails.
pub fn plugin() -> Result<PathBuf> {
    build_plugin(None)
}

/// Builds the plugin for the iptables of a Debian folder: libxtables changes the layout of its
/// structures under one soname.
fn plugin_for_rootfs(rootfs: &Rootfs) -> Result<PathBuf> {
    // By themselves: with them would come the C library's, which this host's own must not mix with.
    let headers = paths::target().join("xtables").join(&rootfs.kernel);
    fs::create_dir_all(&headers)?;
    for name in ["xtables.h", "xtables-version.h"] {
        let path = headers.join(name);
        let content = fs::read(rootfs.path.join("usr/include").join(name))
            .with_context(|| format!("{} has no {name}", rootfs.path.display()))?;
        // What did not change keeps its time, so that cargo has nothing to do.
        if fs::read(&path).ok().as_ref() != Some(&content) {
            fs::write(&path, content)?;
        }
    }
    build_plugin(Some(&headers))
}

fn build_plugin(headers: Option<&Path>) -> Result<PathBuf> {
    let mut cargo = cargo_build(&["--package", "xt-trafstat"]);
    match headers {
        Some(folder) => cargo.env("XTABLES_INCLUDE_DIR", folder),
        None => cargo.env_remove("XTABLES_INCLUDE_DIR"),
    };
    command::run_visibly(&mut cargo)?;
    Ok(paths::cargo_target().join("release/libxt_TRAFSTAT.so"))
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
        "trafstat-store",
        "--features",
        "kill-points",
    ]))?;
    let store_with_kill_points = paths::target().join("trafstat-store-with-kill-points");
    fs::create_dir_all(paths::target())?;
    copy(&release.join("trafstat-store"), &store_with_kill_points)?;

    command::run_visibly(&mut cargo_build(&[
        "--package",
        "trafstat-store",
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
    /// Puts everything that a guest runs into one folder; returns that folder.
    ///
    /// # Errors
    ///
    /// A file cannot be copied.
    pub fn stage(&self, module: &Path, plugin: &Path) -> Result<PathBuf> {
        let folder = paths::target().join("guest");
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
