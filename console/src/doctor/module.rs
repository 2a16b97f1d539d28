// SPDX-License-Identifier: GPL-2.0-or-later
//! Which builds of the module the host has: the loaded one, the installed one, and for which
//! kernels there is none.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use crate::kernel_module;
use crate::system::System;

/// The version and source checksum of one build of the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Build {
    /// Its version; modules have one since 0.2.0.
    pub version: Option<String>,
    /// The hash over its source, where the kernel keeps one.
    pub srcversion: Option<String>,
}

impl Build {
    /// The build that is loaded; none if the module is not.
    ///
    /// # Errors
    /// A file of the system cannot be read.
    pub fn loaded(system: &dyn System) -> Result<Option<Self>> {
        if !system.path(kernel_module::SYS).exists() {
            return Ok(None);
        }
        let field = |name: &str| {
            let text = system.read(&format!("{}/{name}", kernel_module::SYS))?;
            Ok::<_, anyhow::Error>(text.and_then(|text| not_empty(&text)))
        };
        Ok(Some(Self {
            version: field("version")?,
            srcversion: field("srcversion")?,
        }))
    }

    /// The build that modprobe would load; none where there is no such file.
    ///
    /// # Errors
    /// That modinfo cannot be run.
    pub fn installed(system: &dyn System) -> Result<Option<Self>> {
        if !system.has_program("modinfo") {
            return Ok(None);
        }
        let field = |name: &str| system.run(&["modinfo", "-F", name, "xt_TRAFSTAT"], "");
        let (version, srcversion) = (field("version")?, field("srcversion")?);
        Ok((version.code == Some(0)).then(|| Self {
            version: not_empty(&version.stdout),
            srcversion: not_empty(&srcversion.stdout),
        }))
    }

    /// Whether another one is known to be of other source.
    pub fn differs_from(&self, other: &Self) -> bool {
        let hashes_differ = self.srcversion.is_some()
            && other.srcversion.is_some()
            && self.srcversion != other.srcversion;
        self.version != other.version || hashes_differ
    }

    /// Its version in a sentence.
    pub fn version_name(&self) -> &str {
        self.version.as_deref().unwrap_or("older than 0.2.0")
    }
}

fn not_empty(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The installed kernels that have no module, in the order of their names.
///
/// # Errors
/// A folder or file of the system cannot be read.
pub fn kernels_without(system: &dyn System) -> Result<Vec<String>> {
    const FOLDER: &str = "/lib/modules";
    let folder = system.path(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let mut without = Vec::new();
    for entry in entries {
        let kernel = entry?.file_name().to_string_lossy().into_owned();
        let modules = system.read(&format!("{FOLDER}/{kernel}/modules.dep"))?;
        let image = [
            format!("/boot/vmlinuz-{kernel}"),
            format!("{FOLDER}/{kernel}/vmlinuz"),
        ];
        let is_installed =
            modules.is_some() || image.iter().any(|image| system.path(image).exists());
        let is_listed = modules.is_some_and(|modules| modules.contains("/xt_TRAFSTAT.ko"));
        if is_installed && !is_listed && !has_file(&folder.join(&kernel)) {
            without.push(kernel);
        }
    }
    without.sort_unstable();
    Ok(without)
}

/// Whether a kernel's folder has the module where DKMS and others put it, listed by depmod or
/// not.
fn has_file(folder: &Path) -> bool {
    ["updates/dkms", "updates", "extra"].iter().any(|place| {
        let mut endings = ["", ".xz", ".zst", ".gz"].iter();
        endings.any(|ending| {
            let name = format!("xt_TRAFSTAT.ko{ending}");
            folder.join(place).join(name).exists()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::FakeHost;

    fn build(version: &str, srcversion: &str) -> Build {
        Build {
            version: not_empty(version),
            srcversion: not_empty(srcversion),
        }
    }

    #[test]
    fn loaded_and_installed_module_are_told_apart() {
        let mut host = FakeHost::new();
        assert_eq!(Build::loaded(&host).unwrap(), None);
        assert_eq!(Build::installed(&host).unwrap(), None);
        host.file("/sys/module/xt_TRAFSTAT/srcversion", "AAA\n");
        host.file("/usr/sbin/modinfo", "");
        host.says("modinfo -F version xt_TRAFSTAT", "0.2.0\n");
        host.says("modinfo -F srcversion xt_TRAFSTAT", "BBB\n");
        let loaded = Build::loaded(&host).unwrap().unwrap();
        assert_eq!(loaded, build("", "AAA"));
        assert_eq!(loaded.version_name(), "older than 0.2.0");
        assert_eq!(
            Build::installed(&host).unwrap(),
            Some(build("0.2.0", "BBB"))
        );
        host.file("/sys/module/xt_TRAFSTAT/version", "0.2.0\n");
        let loaded = Build::loaded(&host).unwrap().unwrap();
        assert_eq!(loaded, build("0.2.0", "AAA"));
    }

    #[test]
    fn builds_differ_by_version_or_by_hashes_that_are_known() {
        let one = build("0.2.0", "AAA");
        for (other, differs) in [
            (build("0.2.0", "AAA"), false),
            (build("0.2.0", ""), false),
            (build("0.2.0", "BBB"), true),
            (build("0.3.0", "AAA"), true),
            (build("", "AAA"), true),
        ] {
            assert_eq!(one.differs_from(&other), differs, "{other:?}");
        }
    }

    #[test]
    fn kernels_without_a_module_are_found() {
        let host = FakeHost::new();
        assert_eq!(kernels_without(&host).unwrap(), [""; 0]);
        let dep = "kernel/net/netfilter/xt_LOG.ko:\n";
        for (file, text) in [
            ("/lib/modules/6.1/modules.dep", dep),
            (
                "/lib/modules/6.2/modules.dep",
                "updates/dkms/xt_TRAFSTAT.ko.xz: kernel/net/netfilter/x_tables.ko.xz\n",
            ),
            // Not listed by depmod yet.
            ("/lib/modules/6.3/modules.dep", dep),
            ("/lib/modules/6.3/updates/dkms/xt_TRAFSTAT.ko.zst", ""),
            // What a removed kernel left.
            ("/lib/modules/6.4/build/Makefile", ""),
            ("/lib/modules/6.5/build/Makefile", ""),
            ("/boot/vmlinuz-6.5", ""),
        ] {
            host.file(file, text);
        }
        assert_eq!(kernels_without(&host).unwrap(), ["6.1", "6.5"]);
    }
}
