//! A folder with a whole Debian release: its kernel, headers, compiler and iptables belong together.
//!
//! The module is built inside the folder and the folder is booted; nothing of one release is ever
//! installed on a host of another. Each kernel has a folder of its own: a backported kernel takes
//! the place of its release's, under the same package names.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::progress::Step;
use crate::{command, debug_kernel, packages, paths};

/// Counts changes of what a folder is made of; an older folder is then made anew.
const RECIPE: u32 = 3;

/// A kernel that the module is built for and tested on, with the Debian release it runs under.
pub struct Platform {
    /// Its name, as `--kernel` takes it.
    pub kernel: &'static str,
    /// Whether every run of all tests includes it.
    pub always_tested: bool,
    /// The release's code name.
    release: &'static str,
    /// Where the kernel, and nothing else, comes from.
    origin: Origin,
    /// What the versions of the series begin with.
    series: &'static str,
    /// Debian's build of it.
    flavour: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The release itself.
    Release,
    /// The release's backports.
    Backports,
    /// The release's source, built here with every checker on.
    Source,
}

/// Every platform; the first is the one that commands take unless told otherwise.
pub const PLATFORMS: [Platform; 5] = [
    Platform {
        kernel: "6.1",
        always_tested: true,
        release: "bookworm",
        origin: Origin::Release,
        series: "6.1.",
        flavour: "-amd64",
    },
    Platform {
        kernel: "6.12",
        always_tested: true,
        release: "trixie",
        origin: Origin::Release,
        series: "6.12.",
        flavour: "-amd64",
    },
    Platform {
        kernel: "7.3",
        always_tested: true,
        release: "trixie",
        origin: Origin::Backports,
        series: "7.3.",
        flavour: "-amd64",
    },
    Platform {
        kernel: "7.3-rt",
        always_tested: false,
        release: "trixie",
        origin: Origin::Backports,
        series: "7.3.",
        flavour: "-rt-amd64",
    },
    Platform {
        kernel: "debug",
        always_tested: false,
        release: "trixie",
        origin: Origin::Source,
        series: "6.12.",
        flavour: "-amd64",
    },
];

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

const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const DEFAULT_SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// How long the archive is not asked again.
const KERNELS_STAY_NEWEST: Duration = Duration::from_secs(24 * 3600);

/// The folder's mount point for what a guest shares with this host.
pub const SHARE: &str = "/trafstat";

/// Nothing comes from backports but the kernel's image, its headers and what these are made of.
const BACKPORTED: &str = "linux-image-* linux-headers-* linux-kbuild-* linux-base linux-base-* \
                          linux-binary-* linux-modules-*";

impl Platform {
    /// The platform that `--kernel` calls `kernel`; all of them for `all`.
    pub fn select(kernel: &str) -> &'static [Self] {
        match PLATFORMS
            .iter()
            .position(|platform| platform.kernel == kernel)
        {
            Some(index) => &PLATFORMS[index..=index],
            None => &PLATFORMS,
        }
    }

    /// The newest kernel of this platform among packages that `apt-cache search` lists.
    fn newest_kernel<'a>(&self, listed: &'a str) -> Result<&'a str> {
        listed
            .lines()
            .filter_map(|line| line.split(' ').next()?.strip_prefix("linux-image-"))
            .filter(|kernel| kernel.starts_with(self.series))
            // Any other letters are another flavour's, or those of its debug symbols.
            .filter(|kernel| {
                kernel.strip_suffix(self.flavour).is_some_and(|version| {
                    !version.replace("+deb", "").contains(char::is_alphabetic)
                })
            })
            .max_by_key(|kernel| version_numbers(kernel))
            .with_context(|| {
                format!(
                    "the archive of Debian {} has no kernel {}",
                    self.release, self.kernel
                )
            })
    }

    /// Whether the kernel checks what the module does, so that the Rust object should help it to.
    pub fn is_debug(&self) -> bool {
        self.origin == Origin::Source
    }
}

/// A complete folder.
pub struct Rootfs {
    /// The folder.
    pub path: PathBuf,
    /// Its kernel, as `uname -r` says it.
    pub kernel: String,
    /// Whether that is the one with every checker.
    pub is_debug: bool,
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
        let mut kernel = platform
            .newest_kernel(&kernels(release, &base)?)?
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
        let mut command = chroot(&self.path, Some(folder));
        command.arg(program);
        command
    }
}

fn may_make_folders() -> Result<()> {
    packages::require_root("making the Debian folder", "build")?;
    packages::install(&["debootstrap"])
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
        debug_kernel::install(&unfinished, kernel, || chroot(&unfinished, None), &step)?;
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

/// A copy of the folder `base`, to be completed and renamed to `path`.
fn copy(base: &Path, path: &Path, step: &Step) -> Result<PathBuf> {
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

/// The kernels that Debian's archive has for `release`, as `apt-cache search` lists them, asked for
/// once a day; without the archive, as they were last listed.
fn kernels(release: &str, base: &Path) -> Result<String> {
    let remembered = paths::cache()?.join(format!("{release}-kernels-{RECIPE}"));
    let listed = fs::read_to_string(&remembered);
    let is_fresh = fs::metadata(&remembered)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < KERNELS_STAY_NEWEST));
    if is_fresh {
        return Ok(listed?);
    }
    match list_kernels(release, base) {
        Ok(now) => {
            fs::write(&remembered, &now)?;
            Ok(now)
        }
        Err(error) => {
            let before = listed.map_err(|_| error)?;
            eprintln!(
                "Debian's archive does not answer: the newest kernels may be newer than those used here"
            );
            Ok(before)
        }
    }
}

fn list_kernels(release: &str, base: &Path) -> Result<String> {
    may_make_folders()?;
    let step = Step::begin(format!("Asking for the newest kernels of Debian {release}"));
    apt_get(base, &["update"], &step)?;
    let listed = command::read(chroot(base, None).args([
        "apt-cache",
        "search",
        "--names-only",
        "^linux-image-[0-9]",
    ]))?;
    step.done();
    Ok(listed)
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

/// A folder with the newest MySQL server, which only Debian's unstable release has, and nothing
/// of a kernel's.
///
/// # Errors
///
/// Not root while the folder must be made, or Debian's archive cannot be reached.
pub fn ensure_mysql() -> Result<PathBuf> {
    let path = paths::cache()?.join(format!("{UNSTABLE}-mysql-{MYSQL_RECIPE}"));
    let _lock = lock()?;
    if !path.exists() {
        may_make_folders()?;
        let step = Step::begin(format!(
            "Making a Debian {UNSTABLE} folder with MySQL in {}",
            path.display()
        ));
        let unfinished = unfinished(&path)?;
        let archive = Archive::of_host()?;
        debootstrap(UNSTABLE, &[MYSQL_SERVER], &unfinished, &archive, &step)?;
        fs::rename(&unfinished, &path)?;
        step.done();
    }
    let version = package_version(&path, MYSQL_SERVER)?;
    eprintln!("Debian {UNSTABLE}: {MYSQL_SERVER} {version}");
    Ok(path)
}

/// The release that is never finished.
const UNSTABLE: &str = "sid";

const MYSQL_SERVER: &str = "mysql-server-core";

/// Counts changes of what MySQL's folder is made of.
const MYSQL_RECIPE: u32 = 1;

fn debootstrap(
    release: &str,
    packages: &[&str],
    path: &Path,
    archive: &Archive,
    step: &Step,
) -> Result<()> {
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.arg("--variant=minbase");
    if !packages.is_empty() {
        debootstrap.arg(format!("--include={}", packages.join(",")));
    }
    debootstrap.arg(release).arg(path).arg(&archive.main);
    if let Some(proxy) = &archive.proxy {
        debootstrap.env("http_proxy", proxy);
    }
    command::run(&mut debootstrap, step).map(drop)
}

/// Held while a folder is looked for and made: another command may be making the same one.
fn lock() -> Result<fs::File> {
    let cache = paths::cache()?;
    fs::create_dir_all(&cache)
        .with_context(|| format!("cannot make the folder {}", cache.display()))?;
    let lock = fs::File::create(cache.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

/// Where a folder is made: renamed when complete, it is never half made under its final name.
fn unfinished(path: &Path) -> Result<PathBuf> {
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

const INSTALL: [&str; 3] = ["install", "--yes", "--no-install-recommends"];

fn apt_get(root: &Path, arguments: &[&str], step: &Step) -> Result<()> {
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

/// Without this nothing comes from backports.
fn prefer_backported_kernels(release: &str, root: &Path) -> Result<()> {
    let suite = format!("{release}-backports");
    fs::write(
        root.join("etc/apt/preferences.d/backports"),
        format!(
            "Package: *\nPin: release n={suite}\nPin-Priority: -1\n\n\
             Package: {BACKPORTED}\nPin: release n={suite}\nPin-Priority: 990\n"
        ),
    )
    .map_err(Into::into)
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

    fn configure(&self, release: &str, root: &Path) -> Result<()> {
        let Self {
            main,
            security,
            proxy,
        } = self;
        let sources = format!(
            "deb {main} {release} main\n\
             deb {main} {release}-updates main\n\
             deb {main} {release}-backports main\n\
             deb {security} {release}-security main\n"
        );
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

/// The numbers in the name of a kernel, which order it among its series.
fn version_numbers(kernel: &str) -> Vec<u64> {
    kernel
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn start_no_services(root: &Path) -> Result<()> {
    let policy = root.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "\
linux-image-7.3.9+deb13-amd64 - Linux 7.3 for 64-bit PCs (signed)
linux-image-7.3.10+deb13-amd64 - Linux 7.3 for 64-bit PCs (signed)
linux-image-7.3.10+deb13-amd64-dbg - Debug symbols for linux-image-7.3.10+deb13-amd64
linux-image-7.3.11+deb13-amd64-unsigned - Linux 7.3 for 64-bit PCs
linux-image-7.3.11+deb13-cloud-amd64 - Linux 7.3 for x86-64 cloud (signed)
linux-image-7.3.11+deb13-rt-amd64 - Linux 7.3 for 64-bit PCs, PREEMPT_RT (signed)
linux-image-7.4.1+deb13-amd64 - Linux 7.4 for 64-bit PCs (signed)
";

    fn newest(kernel: &str) -> Result<&'static str> {
        Platform::select(kernel)[0].newest_kernel(LISTED)
    }

    #[test]
    fn newest_kernel_of_series_and_flavour_is_taken() {
        assert_eq!(newest("7.3").unwrap(), "7.3.10+deb13-amd64");
        assert_eq!(newest("7.3-rt").unwrap(), "7.3.11+deb13-rt-amd64");
    }

    #[test]
    fn series_that_left_the_archive_is_an_error() {
        assert!(newest("6.12").is_err());
    }

    #[test]
    fn all_selects_every_platform() {
        assert_eq!(Platform::select("all").len(), PLATFORMS.len());
        assert_eq!(Platform::select("6.12").len(), 1);
    }
}
