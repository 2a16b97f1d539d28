// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask demo`: from rule to report, in a guest or on this host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::build::Parts;
use crate::kernel_object::Variant;
use crate::platform::Platform;
use crate::vm::{self, Guest};
use crate::{abi, build, command, kbuild, kernel_object, packages, paths, rootfs};

/// Booting and all of the demo, under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// What the demo runs on this host.
const HOST_PACKAGES: &[&str] = &[
    "curl",
    "gcc",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "make",
    "python3",
    "sqlite3",
];

/// Runs the demo in a guest of `platform`.
///
/// # Errors
///
/// Something does not build, or the counters disagree.
pub fn in_guest(platform: &Platform) -> Result<()> {
    let (rootfs, share) = Parts::build()?.stage_for(platform)?;
    let guest = Guest::ensure(&rootfs)?;
    let database = database()?;
    let in_share = share.join("trafstat.db");
    eprintln!("Booting {}", guest.describe());
    let script = format!(
        "{}/trafstat-vmtests demo --database {}/trafstat.db",
        vm::PROGRAMS,
        rootfs::SHARE
    );
    guest.run(&script, &share, PATIENCE, |line| println!("{line}"))?;
    fs::rename(&in_share, &database).context("the guest left no database")?;
    println!("The database is {}.", database.display());
    Ok(())
}

/// Runs the demo on this host, in network namespaces of its own.
///
/// # Errors
///
/// This kernel takes no modules or has no headers here, or as for [`in_guest`].
pub fn on_host() -> Result<()> {
    packages::require_root("loading the module", "demo --host")?;
    let kernel = command::read(Command::new("uname").arg("-r"))?;
    require_modules(&kernel)?;
    packages::install(HOST_PACKAGES)?;
    packages::install(abi::PACKAGES)?;
    packages::install(build::PLUGIN_PACKAGES)?;
    abi::check()?;
    let module = kbuild::for_host(&kernel, &kernel_object::build(Variant::Plain)?)?;
    let share = build::programs()?.stage("host", &module, &build::plugin()?, None)?;
    let database = database()?;
    let status = command::stream(
        Command::new(share.join("trafstat-vmtests"))
            .args(["demo", "--database"])
            .arg(&database),
        |line| {
            if line != vm::SUCCESS {
                println!("{line}");
            }
        },
    )?;
    ensure!(status.success(), "the demo failed");
    println!("The database is {}.", database.display());
    Ok(())
}

fn require_modules(kernel: &str) -> Result<()> {
    let disabled = fs::read_to_string("/proc/sys/kernel/modules_disabled");
    if !Path::new("/proc/modules").exists() || !disabled.is_ok_and(|value| value.trim() == "0") {
        bail!(
            "this kernel ({kernel}) cannot load modules; run the demo in a guest: cargo xtask demo"
        );
    }
    let headers = kbuild::headers(kernel);
    if !headers.exists() {
        bail!(
            "{} is missing: this kernel's headers are not installed; on Debian\n\n    \
             sudo apt-get install linux-headers-{kernel}\n",
            headers.display()
        );
    }
    Ok(())
}

fn database() -> Result<PathBuf> {
    let folder = paths::target().join("demo");
    fs::create_dir_all(&folder)?;
    let database = folder.join("trafstat.db");
    if database.exists() {
        fs::remove_file(&database)?;
    }
    Ok(database)
}
