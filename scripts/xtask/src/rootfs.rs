//! A folder with a whole Debian release: its kernel, headers, compiler and iptables belong together.
//!
//! The module is built inside the folder and the folder is booted; nothing of one release is ever
//! installed on a host of another.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress::Step;
use crate::{command, packages, paths};

/// Counts changes of what a folder is made of; an older folder is then made anew.
const RECIPE: u32 = 1;

/// A Debian release that the module is built for and tested on.
pub struct Release {
    /// The release's code name.
    pub name: &'static str,
    /// The suites of the main archive beside NAME itself.
    suites: &'static [&'static str],
    /// The kernel's image and headers.
    kernel: [&'static str; 2],
}

/// Debian 12 with its newest 6.1 kernel.
pub const BOOKWORM: Release = Release {
    name: "bookworm",
    suites: &["bookworm-updates"],
    kernel: ["linux-image-amd64", "linux-headers-amd64"],
};

/// What builds the module, boots the folder and serves the tests.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "curl",
    "gcc",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "libc6-dev",
    "make",
    "procps",
    "python3-minimal",
    "libpython3-stdlib",
    "netbase",
    "sqlite3",
    "tcpdump",
    "util-linux",
];

const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const DEFAULT_SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// The folder's mount point for what a guest shares with this host.
pub const SHARE: &str = "/trafstat";

/// A complete folder.
pub struct Rootfs {
    /// The folder.
    pub path: PathBuf,
    /// Its kernel, as `uname -r` says it.
    pub kernel: String,
}

impl Rootfs {
    /// Finds the folder of `release`, or makes it.
    ///
    /// # Errors
    ///
    /// Not root while the folder must be made, or Debian's archive cannot be reached.
    pub fn ensure(release: &Release) -> Result<Self> {
        let path = paths::cache()?.join(format!("{}-{RECIPE}", release.name));
        if !path.exists() {
            packages::require_root("making the Debian folder", "build")?;
            packages::install(&["debootstrap"])?;
            make(release, &path)?;
        }
        let kernel = newest_kernel(&path)?;
        let version = package_version(&path, &format!("linux-image-{kernel}"))?;
        eprintln!(
            "Debian {}: kernel {kernel} (linux-image {version})",
            release.name
        );
        Ok(Self { path, kernel })
    }

    /// The kernel's image.
    pub fn kernel_image(&self) -> PathBuf {
        self.path
            .join("boot")
            .join(format!("vmlinuz-{}", self.kernel))
    }

    /// A command that runs inside the folder, with `folder` of this host at /mnt.
    pub fn command(&self, folder: &Path, program: &str) -> Command {
        let mut command = chroot(&self.path, Some(folder));
        command.arg(program);
        command
    }
}

fn make(release: &Release, path: &Path) -> Result<()> {
    let step = Step::begin(format!(
        "Making a Debian {} folder in {}",
        release.name,
        path.display()
    ));
    // Renamed when complete: a folder under its final name is never half made.
    let unfinished = path.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)
            .with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    fs::create_dir_all(&unfinished)?;

    let archive = Archive::of_host()?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap
        .args(["--variant=minbase", release.name])
        .arg(&unfinished)
        .arg(&archive.main);
    if let Some(proxy) = &archive.proxy {
        debootstrap.env("http_proxy", proxy);
    }
    command::run(&mut debootstrap, &step)?;

    archive.configure(release, &unfinished)?;
    start_no_services(&unfinished)?;
    let apt_get = |arguments: &[&str]| {
        command::run(
            chroot(&unfinished, None)
                .env("DEBIAN_FRONTEND", "noninteractive")
                // The guest boots with an initial RAM disk of its own.
                .env("INITRD", "No")
                .arg("apt-get")
                .args(arguments),
            &step,
        )
    };
    apt_get(&["update"])?;
    apt_get(&["upgrade", "--yes"])?;
    let install = ["install", "--yes", "--no-install-recommends"];
    apt_get(&[&install[..], &release.kernel[..], PACKAGES].concat())?;
    apt_get(&["clean"])?;

    // virtme-ng starts udev where it finds it, whose search for hardware takes longer under
    // emulation than the rest of the boot.
    fs::remove_file(unfinished.join("lib/systemd/systemd-udevd"))?;
    fs::create_dir(unfinished.join(SHARE.trim_start_matches('/')))?;
    fs::rename(&unfinished, path)?;
    step.done();
    Ok(())
}

/// Debian's archive as this host reaches it.
struct Archive {
    main: String,
    security: String,
    proxy: Option<String>,
}

impl Archive {
    fn of_host() -> Result<Self> {
        let listed = command::read(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(LABEL)|$(REPO_URI)",
        ]))?;
        let mirror = |label: &str| {
            listed
                .lines()
                .filter_map(|line| line.split_once('|'))
                .find(|(found, _)| *found == label)
                .map(|(_, address)| address.trim_end_matches('/').to_owned())
        };
        let proxy = command::read(Command::new("apt-config").args([
            "shell",
            "PROXY",
            "Acquire::http::Proxy",
        ]))?;
        Ok(Self {
            main: mirror("Debian").unwrap_or_else(|| DEFAULT_MIRROR.to_owned()),
            security: mirror("Debian-Security")
                .unwrap_or_else(|| DEFAULT_SECURITY_MIRROR.to_owned()),
            proxy: proxy
                .strip_prefix("PROXY='")
                .and_then(|rest| rest.strip_suffix('\''))
                .map(str::to_owned),
        })
    }

    fn configure(&self, release: &Release, root: &Path) -> Result<()> {
        let Self {
            main,
            security,
            proxy,
        } = self;
        let name = release.name;
        let mut sources = format!("deb {main} {name} main\n");
        for suite in release.suites {
            sources.push_str(&format!("deb {main} {suite} main\n"));
        }
        sources.push_str(&format!("deb {security} {name}-security main\n"));
        fs::write(root.join("etc/apt/sources.list"), sources)?;
        if let Some(proxy) = proxy {
            fs::write(
                root.join("etc/apt/apt.conf.d/proxy"),
                format!("Acquire::http::Proxy \"{proxy}\";\n"),
            )?;
        }
        Ok(())
    }
}

/// `chroot ROOT`, with /proc, /sys and, at /mnt, `folder`, all mounted in a mount namespace of
/// their own, so that they are gone with the command however it ends.
fn chroot(root: &Path, folder: Option<&Path>) -> Command {
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

fn start_no_services(root: &Path) -> Result<()> {
    let policy = root.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn newest_kernel(root: &Path) -> Result<String> {
    let link = fs::read_link(root.join("vmlinuz"))
        .with_context(|| format!("{} has no kernel", root.display()))?;
    match link
        .file_name()
        .and_then(|name| name.to_str()?.strip_prefix("vmlinuz-"))
    {
        Some(release) => Ok(release.to_owned()),
        None => bail!("{} is not the link to a kernel image", link.display()),
    }
}

fn package_version(root: &Path, package: &str) -> Result<String> {
    command::read(
        Command::new("dpkg-query")
            .arg(format!(
                "--admindir={}",
                root.join("var/lib/dpkg").display()
            ))
            .args(["--show", "--showformat=${Version}", package]),
    )
}
