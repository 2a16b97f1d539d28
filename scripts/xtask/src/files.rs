// SPDX-License-Identifier: GPL-2.0-or-later
//! What an installation consists of: one list, which packages and `cargo xtask install` share.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::build::Built;
use crate::platform::X86_64;
use crate::{command, kernel_object, paths};

/// Where systemd finds units that packages bring.
const UNITS: &str = "usr/lib/systemd/system";
const DOC: &str = "usr/share/doc/trafstat";
const MAN: &str = "usr/share/man";

/// The files in `scripts/dist` whose places their names do not tell.
const EXAMPLES: &[&str] = &[
    "trafstat-last-collect.init",
    "trafstat.cron",
    "trafstat.toml",
];

/// A file of an installation.
pub struct Installed {
    /// Where it goes, from the root folder and without its slash.
    pub path: String,
    /// Its permissions.
    pub mode: u32,
    /// What it holds.
    pub content: Vec<u8>,
}

/// The programs, the plugin, units, manual and completions; all but the module.
///
/// # Errors
///
/// A file cannot be read, or a program does not write its manual.
pub fn user_space(built: &Built, plugin: &Path) -> Result<Vec<Installed>> {
    let dist = paths::repository().join("scripts/dist");
    let mut files = vec![
        program("usr/bin/trafstat", &built.console)?,
        program("usr/bin/trafstat-store", &built.store)?,
        Installed {
            path: format!("usr/lib/{}/xtables/libxt_TRAFSTAT.so", X86_64.multiarch),
            mode: 0o644,
            content: stripped(plugin)?,
        },
        plain(
            "usr/lib/modprobe.d/trafstat.conf",
            fs::read(dist.join("trafstat.modprobe"))?,
        ),
        Installed {
            path: "usr/share/netfilter-persistent/plugins.d/50-trafstat".to_owned(),
            mode: 0o755,
            content: fs::read(dist.join("trafstat.netfilter-persistent"))?,
        },
    ];
    for unit in units()? {
        let content = fs::read(dist.join(&unit))?;
        files.push(plain(&format!("{UNITS}/{unit}"), content));
    }
    for example in EXAMPLES {
        let content = fs::read(dist.join(example))?;
        files.push(plain(&format!("{DOC}/examples/{example}"), content));
    }
    files.push(plain(
        &format!("{DOC}/README.md"),
        fs::read(paths::repository().join("README.md"))?,
    ));
    files.extend(manual(built)?);
    // The order of folders is nobody's; a package made twice is the same.
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

impl Installed {
    /// Writes the file below `root`; the old one is replaced whole, never written into.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&self, root: &Path) -> Result<()> {
        let path = root.join(&self.path);
        let write = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let new = path.with_extension("trafstat-new");
            fs::write(&new, &self.content)?;
            fs::set_permissions(&new, fs::Permissions::from_mode(self.mode))?;
            fs::rename(&new, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A file that everybody may read.
pub fn plain(path: &str, content: Vec<u8>) -> Installed {
    Installed {
        path: path.to_owned(),
        mode: 0o644,
        content,
    }
}

/// The files below a folder, by their paths from there.
///
/// # Errors
///
/// A folder or file cannot be read.
pub fn below(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = name(&path);
        if path.is_dir() {
            let below = below(&path)?.into_iter();
            files.extend(below.map(|(path, content)| (format!("{name}/{path}"), content)));
        } else {
            files.insert(name, fs::read(&path)?);
        }
    }
    Ok(files)
}

/// Writes files into a folder; one that did not change keeps its time.
///
/// # Errors
///
/// A file cannot be written.
pub fn write_changed(files: &BTreeMap<String, Vec<u8>>, folder: &Path) -> Result<()> {
    for (path, content) in files {
        let path = folder.join(path);
        if fs::read(&path).ok().as_ref() != Some(content) {
            let write = || {
                fs::create_dir_all(path.parent().unwrap_or(folder))?;
                fs::write(&path, content)
            };
            write().with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// What gzip makes of `content`, the same whenever it is called.
///
/// # Errors
///
/// None in memory, but the type has them.
pub fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    use std::io::Write;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}

fn program(path: &str, built: &Path) -> Result<Installed> {
    Ok(Installed {
        path: path.to_owned(),
        mode: 0o755,
        content: stripped(built)?,
    })
}

fn stripped(built: &Path) -> Result<Vec<u8>> {
    let copy = paths::target().join("stripped");
    command::run_visibly(
        Command::new("strip")
            .args(["--strip-unneeded", "--remove-section=.comment", "-o"])
            .arg(&copy)
            .arg(built),
    )?;
    let content = fs::read(&copy)?;
    fs::remove_file(&copy)?;
    Ok(content)
}

/// Manual pages and completions, as the programs themselves write them, and the plugin's page.
fn manual(built: &Built) -> Result<Vec<Installed>> {
    let folder = paths::target().join("manual");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    for program in [&built.console, &built.store] {
        command::run_visibly(Command::new(program).arg("manual").arg(&folder))?;
    }
    let mut files = Vec::new();
    for (written, place, suffix) in [
        ("bash", "usr/share/bash-completion/completions", ".bash"),
        ("zsh", "usr/share/zsh/vendor-completions", ""),
        ("fish", "usr/share/fish/vendor_completions.d", ""),
    ] {
        for entry in fs::read_dir(folder.join(written))? {
            let path = entry?.path();
            let name = name(&path).trim_end_matches(suffix).to_owned();
            files.push(plain(&format!("{place}/{name}"), fs::read(&path)?));
        }
    }
    for section in ["man5", "man8"] {
        for entry in fs::read_dir(folder.join(section))? {
            let path = entry?.path();
            let page = gzip(&fs::read(&path)?)?;
            files.push(plain(&format!("{MAN}/{section}/{}.gz", name(&path)), page));
        }
    }
    ensure!(!files.is_empty(), "the programs wrote no manual");
    files.push(plain(
        &format!("{MAN}/man8/iptables-TRAFSTAT.8.gz"),
        gzip(plugin_page()?.as_bytes())?,
    ));
    Ok(files)
}

/// The plugin's part of iptables-extensions(8) as a page of its own.
fn plugin_page() -> Result<String> {
    let part = fs::read_to_string(paths::repository().join("xt-plugin/libxt_TRAFSTAT.man"))?;
    Ok(format!(
        ".TH IPTABLES-TRAFSTAT 8 \"\" \"trafstat {}\" \"System administration\"\n\
         .SH NAME\niptables-TRAFSTAT \\- target that counts traffic by flow\n\
         .SH SYNOPSIS\n\\fBiptables\\fP|\\fBip6tables\\fP ... \\fB\\-j TRAFSTAT\\fP \
         \\fB\\-\\-local\\-net\\fP \\fIaddress\\fP[\\fB/\\fP\\fIprefix\\fP] [\\fIoptions\\fP]\n\
         .SH DESCRIPTION\n{part}\
         .SH SEE ALSO\n\\fBiptables\\-extensions\\fP(8), \\fBtrafstat\\fP(8), \
         \\fBtrafstat\\-store\\fP(8)\n",
        env!("CARGO_PKG_VERSION")
    ))
}

/// The last part of a path.
pub fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The folder of the module's sources, for DKMS.
pub fn module_folder() -> String {
    format!("usr/src/trafstat-{}", env!("CARGO_PKG_VERSION"))
}

/// The module's sources with the prebuilt object and the source of that, for DKMS.
///
/// # Errors
///
/// A source cannot be read.
pub fn module_sources(object: &[u8]) -> Result<Vec<Installed>> {
    let folder = module_folder();
    let mut files: Vec<_> = crate::kbuild::sources(object)?
        .into_iter()
        .map(|(name, content)| plain(&format!("{folder}/{name}"), content))
        .collect();
    files.push(plain(
        &format!("{folder}/dkms.conf"),
        with_version("module/dkms.conf")?,
    ));
    for (name, content) in kernel_object::source_package(object)? {
        files.push(plain(&format!("{folder}/rust/{name}"), content));
    }
    Ok(files)
}

/// The names of systemd's units in `scripts/dist`.
fn units() -> Result<Vec<String>> {
    let mut units = Vec::new();
    for entry in fs::read_dir(paths::repository().join("scripts/dist"))? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("service" | "timer")) {
            units.push(name(&path));
        }
    }
    units.sort();
    Ok(units)
}

/// A script of `scripts/dist/debian`, for this version, with the names of units, templates left out, where it has
/// `@UNITS@`, of those that can be enabled for `@ENABLEABLE_UNITS@`, of timers for `@TIMERS@`.
///
/// # Errors
///
/// It cannot be read.
pub fn maintainer_script(name: &str) -> Result<Vec<u8>> {
    let mut units = units()?;
    // A template is neither stopped nor enabled; what runs of one ends by itself.
    units.retain(|unit| !unit.contains('@'));
    let mut enableable = Vec::new();
    for unit in &units {
        let path = format!("scripts/dist/{unit}");
        if with_version(&path)?
            .windows(10)
            .any(|part| part == b"\n[Install]")
        {
            enableable.push(unit.as_str());
        }
    }
    let timers: Vec<_> = units
        .iter()
        .filter(|unit| unit.ends_with(".timer"))
        .map(String::as_str)
        .collect();
    let script = String::from_utf8(with_version(&format!("scripts/dist/debian/{name}"))?)?
        .replace("@UNITS@", &units.join(" "))
        .replace("@ENABLEABLE_UNITS@", &enableable.join(" "))
        .replace("@TIMERS@", &timers.join(" "));
    ensure!(
        !script.contains('@'),
        "{name} has a word that stands for nothing:\n{script}"
    );
    Ok(script.into_bytes())
}

/// A file of the repository, with this version wherever it says `@VERSION@`.
///
/// # Errors
///
/// It cannot be read.
pub fn with_version(path: &str) -> Result<Vec<u8>> {
    let text = fs::read_to_string(paths::repository().join(path))
        .with_context(|| format!("cannot read {path}"))?;
    Ok(text
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maintainer_scripts_name_the_units_that_can_be_enabled() {
        let script = String::from_utf8(maintainer_script("trafstat.postrm").unwrap()).unwrap();
        let purged = "deb-systemd-helper purge trafstat-collect.timer trafstat-last-collect.service \
                      trafstat-prune.timer trafstat-quota.timer trafstat-report.timer \
                      trafstat-rules.service \
                      trafstat-store.service >";
        assert!(script.contains(purged), "{script}");
    }
}
