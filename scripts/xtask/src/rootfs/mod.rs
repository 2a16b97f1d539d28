// SPDX-License-Identifier: GPL-2.0-or-later
//! A folder with a whole Debian release: its kernel, headers, compiler and iptables belong together.
//!
//! The module is built inside the folder and the folder is booted; nothing of one release is ever
//! installed on a host of another. Each kernel has a folder of its own: a backported kernel takes
//! the place of its release's, under the same package names.

mod archive;
mod folder;
mod mysql;
mod rust;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::platform::{Architecture, Origin, Platform};
use crate::progress::Step;
use crate::{debug_kernel, paths};

use archive::{Archive, debootstrap, kernels, prefer_backported_kernels};
use folder::{
    INSTALL, apt_get, chroot, copy, lock, may_make_folders, package_version, start_no_services,
    unfinished,
};

pub use mysql::ensure_mysql;
pub use rust::ensure_rust;

/// Counts changes of what a folder is made of; an older folder is then made anew.
const RECIPE: u32 = 3;

/// What builds module and plugin, boots the folder and serves the tests.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "curl",
    "ethtool",
    "gcc",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "libc6-dev",
    "libcap2-bin",
    "libxtables-dev",
    "make",
    "procps",
    "python3-minimal",
    "libpython3-stdlib",
    "netbase",
    "nftables",
    "sqlite3",
    "tcpdump",
    "tcpreplay",
    "util-linux",
];

/// What else counts traffic, or shows what does.
const PEERS: &[&str] = &["conntrack", "nfacct", "xtables-addons-common"];
/// What has modules that are built for the kernel: of ipt_NETFLOW, and of xt_ACCOUNT among others.
const PEER_MODULES: &[&str] = &["iptables-netflow-dkms", "xtables-addons-dkms"];
/// Counts changes of what a copy with them is made of.
const PEERS_RECIPE: u32 = 1;

/// The folder's mount point for what a guest shares with this host.
pub const SHARE: &str = "/trafstat";

/// A complete folder.
pub struct Rootfs {
    /// The folder.
    pub path: PathBuf,
    /// Its kernel, as `uname -r` says it.
    pub kernel: String,
    /// Whether that is the one with every checker.
    pub is_debug: bool,
    /// What the processor calls for.
    pub architecture: &'static Architecture,
}

impl Rootfs {
    /// Finds the folder with the newest kernel of `platform`, or makes it.
    ///
    /// # Errors
    ///
    /// Not root while the folder must be made, Debian's archive cannot be reached, or it no longer
    /// has a kernel of the series.
    pub fn ensure(platform: &Platform) -> Result<Self> {
        let release = platform.release;
        let cache = paths::cache()?;
        let _lock = lock()?;
        let base = ensure_base(release)?;
        let remembered = cache.join(format!("{release}-kernels-{RECIPE}"));
        let mut kernel = platform
            .newest_kernel(&kernels(release, &base, &remembered)?)?
            .to_owned();
        let mut folder = format!("{release}-{kernel}-{RECIPE}");
        let mut package = format!("linux-image-{kernel}");
        if platform.is_debug() {
            // What is packaged is built from the source as it is packaged, too.
            kernel = kernel.replace(platform.flavour, "-debug");
            folder = format!("{release}-{kernel}-{RECIPE}-{}", debug_kernel::recipe()?);
            package = debug_kernel::SOURCE.to_owned();
        }
        let path = cache.join(folder);
        if !path.exists() {
            may_make_folders()?;
            make(platform, &kernel, &base, &path)?;
        }
        let version = package_version(&path, &package)?;
        eprintln!("Debian {release}: kernel {kernel} ({package} {version})");
        let is_debug = platform.is_debug();
        Ok(Self {
            path,
            kernel,
            is_debug,
            architecture: platform.architecture,
        })
    }

    /// The kernel's image.
    pub fn kernel_image(&self) -> PathBuf {
        self.path
            .join("boot")
            .join(format!("vmlinuz-{}", self.kernel))
    }

    /// The version of one of its packages.
    ///
    /// # Errors
    ///
    /// It is not installed.
    pub fn package_version(&self, package: &str) -> Result<String> {
        package_version(&self.path, package)
    }

    /// A copy of the folder with what else counts traffic, as Debian packages it.
    ///
    /// # Errors
    ///
    /// Not root while the copy must be made, or Debian's archive cannot be reached.
    pub fn with_peers(&self) -> Result<Self> {
        let mut path = self.path.as_os_str().to_owned();
        path.push(format!("-peers-{PEERS_RECIPE}"));
        let path = PathBuf::from(path);
        let _lock = lock()?;
        if !path.exists() {
            may_make_folders()?;
            self.copy_with_peers(&path)?;
        }
        Ok(Self {
            path,
            kernel: self.kernel.clone(),
            is_debug: self.is_debug,
            architecture: self.architecture,
        })
    }

    fn copy_with_peers(&self, path: &Path) -> Result<()> {
        let step = Step::begin(format!(
            "Making a copy with other accounting in {}",
            path.display()
        ));
        let unfinished = copy(&self.path, path, &step)?;
        apt_get(&unfinished, &["update"], &step)?;
        apt_get(&unfinished, &[&INSTALL[..], PEERS].concat(), &step)?;
        // What fails afterwards is the build, which is part of installing them.
        let download = [&INSTALL[..], &["--download-only"], PEER_MODULES].concat();
        apt_get(&unfinished, &download, &step)?;
        for package in PEER_MODULES {
            let installed = apt_get(&unfinished, &[&INSTALL[..], &[*package]].concat(), &step);
            if installed.is_err() {
                step.note(&format!("{package} does not build for {}", self.kernel));
                apt_get(&unfinished, &["purge", "--yes", package], &step)?;
            }
        }
        apt_get(&unfinished, &["clean"], &step)?;
        fs::rename(&unfinished, path)?;
        step.done();
        Ok(())
    }

    /// The versions of the packages that [`Rootfs::with_peers`] adds; none where a module does not
    /// build for this kernel.
    pub fn peer_versions(&self) -> Vec<(&'static str, Option<String>)> {
        // What was once known and is not installed has an empty one.
        let installed = |version: &String| !version.is_empty();
        let version = |package| {
            let version = self.package_version(package).ok();
            (package, version.filter(installed))
        };
        PEERS
            .iter()
            .chain(PEER_MODULES)
            .copied()
            .map(version)
            .collect()
    }

    /// A command that runs inside the folder, with `folder` of this host at /mnt.
    pub fn command(&self, folder: &Path, program: &str) -> Command {
        command_in(&self.path, folder, program)
    }
}

/// A copy of the user space of `release` in `path`, to be changed and removed.
///
/// # Errors
///
/// Not root, or Debian's archive cannot be reached.
pub fn copy_of_base(release: &str, path: &Path) -> Result<PathBuf> {
    may_make_folders()?;
    let base = {
        let _lock = lock()?;
        ensure_base(release)?
    };
    let step = Step::begin(format!("Copying the Debian {release} folder"));
    let copied = copy(&base, path, &step)?;
    step.done();
    Ok(copied)
}

/// A command that runs inside the folder `root`, with `folder` of this host at /mnt.
pub fn command_in(root: &Path, folder: &Path, program: &str) -> Command {
    let mut command = chroot(root, Some(folder));
    command.arg(program);
    command
}

fn make(platform: &Platform, kernel: &str, base: &Path, path: &Path) -> Result<()> {
    let step = Step::begin(format!(
        "Making a Debian {} folder with kernel {kernel} in {}",
        platform.release,
        path.display()
    ));
    let unfinished = copy(base, path, &step)?;
    let install =
        |packages: &[&str]| apt_get(&unfinished, &[&INSTALL[..], packages].concat(), &step);
    if platform.is_debug() {
        install(debug_kernel::PACKAGES)?;
        debug_kernel::install(
            &unfinished,
            kernel,
            platform.architecture,
            || chroot(&unfinished, None),
            &step,
        )?;
    } else {
        if platform.origin == Origin::Backports {
            prefer_backported_kernels(platform.release, &unfinished)?;
        }
        let image = format!("linux-image-{kernel}");
        let headers = format!("linux-headers-{kernel}");
        install(&[&image, &headers])?;
    }
    apt_get(&unfinished, &["clean"], &step)?;

    // virtme-ng starts udev where it finds it, whose search for hardware takes longer under
    // emulation than the rest of the boot. Packages of kernels bring it.
    let udev = unfinished.join("lib/systemd/systemd-udevd");
    if udev.exists() {
        fs::remove_file(udev)?;
    }
    fs::rename(&unfinished, path)?;
    step.done();
    Ok(())
}

/// A folder with the user space of `release`, which the folders of its kernels are copies of.
fn ensure_base(release: &str) -> Result<PathBuf> {
    let path = paths::cache()?.join(format!("{release}-base-{RECIPE}"));
    if path.exists() {
        return Ok(path);
    }
    may_make_folders()?;
    let step = Step::begin(format!(
        "Making a Debian {release} folder in {}",
        path.display()
    ));
    let unfinished = unfinished(&path)?;
    let archive = Archive::of_host()?;
    debootstrap(release, &[], &unfinished, &archive, &step)?;
    archive.configure(release, &unfinished)?;
    start_no_services(&unfinished)?;
    fs::create_dir(unfinished.join(SHARE.trim_start_matches('/')))?;
    for arguments in [
        &["update"][..],
        &["upgrade", "--yes"],
        &[&INSTALL[..], PACKAGES].concat(),
        &["clean"],
    ] {
        apt_get(&unfinished, arguments, &step)?;
    }
    fs::rename(&unfinished, &path)?;
    step.done();
    Ok(path)
}
