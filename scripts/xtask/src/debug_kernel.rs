// SPDX-License-Identifier: GPL-2.0-or-later
//! The kernel of platform `debug`: Debian's own source, built once with every checker on.
//!
//! It is built inside the folder that boots it. What stays there is what a kernel's packages would
//! have brought: the image, what modprobe reads, and what modules are built with.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::platform::Architecture;
use crate::progress::Step;
use crate::{command, paths};

/// The package of the source.
pub const SOURCE: &str = "linux-source-6.12";

/// What the source is built with, beside the compiler.
pub const PACKAGES: &[&str] = &[
    SOURCE,
    "bc",
    "bison",
    "flex",
    "libelf-dev",
    "libssl-dev",
    "xz-utils",
];

/// Boot options: a second report of KASAN is as good as the first, and one cache's allocations can
/// be made to fail without those of another's.
pub const BOOT_OPTIONS: &[&str] = &["kasan_multi_shot", "slab_nomerge"];

/// The configuration, but for what follows from it.
const CONFIG: &str = "scripts/xtask/debug.config";

/// What tells this configuration's kernel from another's.
///
/// # Errors
///
/// The configuration cannot be read.
pub fn recipe() -> Result<String> {
    let mut hasher = DefaultHasher::new();
    // Other reasons for the same options make the same kernel.
    for option in options(&fragment()?) {
        option.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Builds and installs `kernel` in the folder `root`, where [`PACKAGES`] are installed.
///
/// # Errors
///
/// The source is of another version, or does not take the configuration or does not build.
pub fn install(
    root: &Path,
    kernel: &str,
    architecture: &Architecture,
    chroot: impl Fn() -> Command,
    step: &Step,
) -> Result<()> {
    let run = |program: &str, arguments: &[&str]| {
        command::run(chroot().arg(program).args(arguments), step)
    };
    let source = format!("/usr/src/{SOURCE}");
    let headers = format!("/usr/src/linux-headers-{kernel}");
    let in_root = |path: &str| root.join(path.trim_start_matches('/'));

    let archive = format!("{source}.tar.xz");
    run("tar", &["-xf", &archive, "-C", "/usr/src"])?;
    let version = command::read(chroot().args(["make", "-sC", &source, "kernelversion"]))?;
    let local_version = kernel.strip_prefix(version.as_str()).with_context(|| {
        format!("{SOURCE} has version {version}, not that of {kernel}; the archive is being updated, try later")
    })?;

    let fragment = fragment()?;
    fs::write(in_root(&source).join("debug.config"), &fragment)?;
    run(
        "make",
        &[
            "-C",
            &source,
            "KCONFIG_ALLCONFIG=debug.config",
            "allnoconfig",
        ],
    )?;
    let refused = refused(
        &fragment,
        &fs::read_to_string(in_root(&source).join(".config"))?,
    );
    ensure!(
        refused.is_empty(),
        "the kernel does not take these lines of {CONFIG}:\n{}",
        refused.join("\n")
    );

    let jobs = format!("-j{}", thread::available_parallelism()?);
    let local_version = format!("LOCALVERSION={local_version}");
    let make = |target: &[&str]| run("make", &[&["-C", &source, &local_version], target].concat());
    make(&[&jobs])?;
    make(&["modules_install"])?;
    make(&[
        "run-command",
        &format!("KBUILD_RUN_COMMAND={source}/scripts/package/install-extmod-build {headers}"),
    ])?;
    fs::create_dir_all(in_root("/boot"))?;
    fs::rename(
        in_root(&source).join(architecture.kernel_image),
        in_root("/boot").join(format!("vmlinuz-{kernel}")),
    )?;
    let build = in_root("/lib/modules").join(kernel).join("build");
    fs::remove_file(&build)?;
    std::os::unix::fs::symlink(&headers, &build)?;
    fs::remove_dir_all(in_root(&source))?;
    Ok(())
}

fn fragment() -> Result<String> {
    fs::read_to_string(paths::repository().join(CONFIG))
        .with_context(|| format!("cannot read {CONFIG}"))
}

/// The options of `fragment` that `config` has otherwise or not at all.
fn refused<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let taken: BTreeSet<_> = config.lines().collect();
    options(fragment)
        .filter(|line| !taken.contains(line))
        .collect()
}

fn options(fragment: &str) -> impl Iterator<Item = &str> {
    fragment.lines().filter(|line| line.starts_with("CONFIG_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_that_kconfig_changed_or_dropped_is_refused() {
        let fragment = "# CONFIG_A is a comment\nCONFIG_A=y\nCONFIG_B=20\nCONFIG_C=y\n";
        let config = "CONFIG_A=y\nCONFIG_B=17\n# CONFIG_C is not set\n";
        assert_eq!(refused(fragment, config), ["CONFIG_B=20", "CONFIG_C=y"]);
    }
}
