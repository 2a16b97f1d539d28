// SPDX-License-Identifier: GPL-2.0-or-later
//! Debian's archive: which kernels it has, and what comes from it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::folder::{apt_get, chroot, may_make_folders};
use crate::command;
use crate::progress::Step;

const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const DEFAULT_SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// How long the archive is not asked again.
const KERNELS_STAY_NEWEST: Duration = Duration::from_secs(24 * 3600);

/// Nothing comes from backports but the kernel's image, its headers and what these are made of.
const BACKPORTED: &str = "linux-image-* linux-headers-* linux-kbuild-* linux-base linux-base-* \
                          linux-binary-* linux-modules-*";

/// Debian's archive as this host reaches it.
pub(super) struct Archive {
    main: String,
    security: String,
    proxy: Option<String>,
}

impl Archive {
    pub(super) fn of_host() -> Result<Self> {
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

    pub(super) fn configure(&self, release: &str, root: &Path) -> Result<()> {
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

/// Makes a folder of a release with these packages besides the smallest set.
pub(super) fn debootstrap(
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

/// The kernels that Debian's archive has for `release`, as `apt-cache search` lists them, asked for
/// once a day; without the archive, as `remembered` has them listed last.
pub(super) fn kernels(release: &str, base: &Path, remembered: &Path) -> Result<String> {
    let listed = fs::read_to_string(remembered);
    let is_fresh = fs::metadata(remembered)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < KERNELS_STAY_NEWEST));
    if is_fresh {
        return Ok(listed?);
    }
    match list_kernels(release, base) {
        Ok(now) => {
            fs::write(remembered, &now)?;
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

/// Without this nothing comes from backports.
pub(super) fn prefer_backported_kernels(release: &str, root: &Path) -> Result<()> {
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
