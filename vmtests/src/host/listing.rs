// SPDX-License-Identifier: GPL-2.0-or-later
//! What there is on the host, so that before and after can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{FOLDER, succeed};

/// Where packages and setup put things, or could.
const LISTED: &[&str] = &[
    "/boot",
    "/etc",
    "/lib/modules",
    "/usr",
    "/var/lib",
    "/var/spool",
];

/// What changes by itself, or is another's account of what was installed.
const NOT_LISTED: &[&str] = &[
    "/etc/resolv.conf",
    // hwclock's, at shutdown.
    "/etc/adjtime",
    // The databases of groups as they were before the last change.
    "/etc/group-",
    "/etc/gshadow-",
    "/usr/share/man/man",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/mysql",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/catalog",
    "/var/lib/systemd/timers/stamp-apt",
    "/var/lib/systemd/timers/stamp-dpkg",
    "/var/lib/systemd/timers/stamp-e2scrub",
    "/var/lib/systemd/timers/stamp-fstrim",
    "/var/lib/systemd/timesync",
];

/// Files that say when something ran, or that depmod or insserv writes anew.
const CONTENT_NOT_COMPARED: &[&str] = &[
    "/etc/.pwd.lock",
    "/etc/init.d/.depend",
    "/lib/modules",
    "/usr/lib/modules",
];

/// What there is on the host: files with their kind, mode, owner and content, rules, groups.
pub struct Listing(BTreeMap<String, String>);

impl Listing {
    pub fn now() -> Result<Self> {
        let mut entries = BTreeMap::new();
        let mut folders: Vec<PathBuf> = LISTED.iter().map(PathBuf::from).collect();
        while let Some(folder) = folders.pop() {
            let Ok(listed) = fs::read_dir(&folder) else {
                continue;
            };
            for entry in listed {
                let path = entry?.path();
                let text = path.to_string_lossy().into_owned();
                if NOT_LISTED.iter().any(|left_out| text.starts_with(left_out)) {
                    continue;
                }
                let metadata = fs::symlink_metadata(&path)?;
                let mut what = format!(
                    "{:o} {}:{}",
                    metadata.permissions().mode(),
                    metadata.uid(),
                    metadata.gid()
                );
                let is_compared = text.starts_with("/etc")
                    && !CONTENT_NOT_COMPARED
                        .iter()
                        .any(|other| text.starts_with(other));
                if metadata.is_symlink() {
                    what += &format!(" -> {}", fs::read_link(&path)?.display());
                } else if metadata.is_dir() {
                    folders.push(path);
                } else if is_compared {
                    what += &format!("\n{}", String::from_utf8_lossy(&fs::read(&path)?));
                }
                entries.insert(without_place(text), what);
            }
        }
        for program in ["iptables-save", "ip6tables-save"] {
            let rules = succeed(program)?;
            let rules = rules.lines().filter(|line| line.starts_with("-A"));
            entries.insert(program.to_owned(), rules.collect::<Vec<_>>().join("\n"));
        }
        Ok(Self(entries))
    }

    pub fn write(&self) -> Result<()> {
        let text = serde_json::to_string(&self.0)?;
        Ok(fs::write(Path::new(FOLDER).join("listing"), text)?)
    }

    pub fn read() -> Result<Self> {
        let text = fs::read_to_string(Path::new(FOLDER).join("listing"))?;
        Ok(Self(serde_json::from_str(&text)?))
    }

    pub fn differences(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, what) in &self.0 {
            match before.0.get(path) {
                None => lines.push(format!("new: {path}")),
                Some(was) if was != what => {
                    lines.push(format!("changed: {path}\n{was}\nis now\n{what}"))
                }
                Some(_) => {}
            }
        }
        let gone = before.0.keys().filter(|path| !self.0.contains_key(*path));
        lines.extend(gone.map(|path| format!("gone: {path}")));
        lines
    }
}

/// The path of a script's link for one of System V's runlevels without its place in the order, which
/// insserv works out anew for all when one comes or goes: `/etc/rc0.d/K05halt` is `/etc/rc0.d/Khalt`.
fn without_place(path: String) -> String {
    match path.rsplit_once('/') {
        Some((folder, link)) if folder.starts_with("/etc/rc") && folder.ends_with(".d") => {
            format!(
                "{folder}/{}",
                link.replace(|c: char| c.is_ascii_digit(), "")
            )
        }
        _ => path,
    }
}
