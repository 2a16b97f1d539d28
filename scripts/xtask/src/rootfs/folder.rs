// SPDX-License-Identifier: GPL-2.0-or-later
//! Folders with a root file system: made, copied, and worked in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::progress::Step;
use crate::{command, packages, paths};

/// What installs packages and nothing that they only recommend.
pub(super) const INSTALL: [&str; 3] = ["install", "--yes", "--no-install-recommends"];

/// Ensures that this process can make folders of a release.
pub(super) fn may_make_folders() -> Result<()> {
    packages::require_root("making the Debian folder", "build")?;
    packages::install(&["debootstrap"])
}

/// A copy of the folder `base`, to be completed and renamed to `path`.
pub(super) fn copy(base: &Path, path: &Path, step: &Step) -> Result<PathBuf> {
    let unfinished = unfinished(path)?;
    command::run(
        Command::new("cp")
            .args(["--archive", "--reflink=auto", "--no-target-directory"])
            .arg(base)
            .arg(&unfinished),
        step,
    )?;
    Ok(unfinished)
}

/// Held while a folder is looked for and made: another command may be making the same one.
pub(super) fn lock() -> Result<fs::File> {
    let cache = paths::cache()?;
    fs::create_dir_all(&cache)
        .with_context(|| format!("cannot make the folder {}", cache.display()))?;
    let lock = fs::File::create(cache.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

/// Where a folder is made: renamed when complete, it is never half made under its final name.
pub(super) fn unfinished(path: &Path) -> Result<PathBuf> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)
            .with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    fs::create_dir_all(&unfinished)?;
    Ok(unfinished)
}

/// Runs apt-get inside a folder.
pub(super) fn apt_get(root: &Path, arguments: &[&str], step: &Step) -> Result<()> {
    command::run(
        chroot(root, None)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // The guest boots with an initial RAM disk of its own.
            .env("INITRD", "No")
            .arg("apt-get")
            .args(arguments),
        step,
    )
    .map(drop)
}

/// `chroot ROOT`, with /proc, /sys and, at /mnt, `folder`, all mounted in a mount namespace of
/// their own, so that they are gone with the command however it ends.
pub(super) fn chroot(root: &Path, folder: Option<&Path>) -> Command {
    const MOUNTS: &str = r#"
        set -e
        root=$1 folder=$2
        shift 2
        mount -t proc proc "$root/proc"
        mount -t sysfs -o ro sysfs "$root/sys"
        if [ -n "$folder" ]; then mount --bind "$folder" "$root/mnt"; fi
        exec chroot "$root" "$@"
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--", "sh", "-c", MOUNTS, "sh"])
        .arg(root)
        .arg(folder.unwrap_or_else(|| Path::new("")))
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", "/root");
    command
}

/// Keeps packages from starting their services inside a folder.
pub(super) fn start_no_services(root: &Path) -> Result<()> {
    let policy = root.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The version of a package that a folder has.
pub(super) fn package_version(root: &Path, package: &str) -> Result<String> {
    command::read(
        Command::new("dpkg-query")
            .arg(format!(
                "--admindir={}",
                root.join("var/lib/dpkg").display()
            ))
            .args(["--show", "--showformat=${Version}", package]),
    )
}
