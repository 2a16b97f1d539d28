// SPDX-License-Identifier: GPL-2.0-or-later
//! The source of the module's Rust object: a workspace of its own that needs no network.
//!
//! The object is built from it and the DKMS package carries it. It has the crates that the object
//! is made of, without their tests, and the crates of others that those need.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::progress::Step;
use crate::{command, files, paths};

/// The crates of this repository that the object is made of.
const CRATES: [&str; 3] = ["module/abi", "module/core", "module/ffi"];

/// What their manifests have for tests and models alone.
const ONLY_FOR_TESTS: [&str; 2] = ["[dev-dependencies]", "[target.'cfg(loom)'.dependencies]"];

/// Where the crates of others are.
const VENDOR: &str = "vendor";
const CONFIGURATION: &str = "\
[source.crates-io]
replace-with = \"vendored\"

[source.vendored]
directory = \"vendor\"
";

/// The crate that rustc wants beside libcore. The object needs nothing of it.
pub const BUILTINS: &str = "compiler_builtins.rs";
const BUILTINS_SOURCE: &str = "\
#![no_std]
#![feature(compiler_builtins)]
#![compiler_builtins]
";

/// The files of a folder by their paths in it.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A crate of others in the source.
#[derive(Debug, PartialEq, Eq)]
pub struct Vendored {
    /// Its folder.
    pub path: String,
    /// The licences that its manifest gives.
    pub license: String,
    /// Who holds the copyright: its authors, and lines of its licence files that name others.
    pub holders: Vec<String>,
    /// The texts of those files but Apache's, which Debian has.
    pub texts: Vec<String>,
}

/// The source, from the repository in `repository`; `scratch` is a folder to be emptied and used.
///
/// # Errors
///
/// A file cannot be read, or a crate cannot be downloaded.
pub fn collect(repository: &Path, scratch: &Path, step: &Step) -> Result<Files> {
    let mut files = own_files(repository)?;
    if scratch.exists() {
        fs::remove_dir_all(scratch)?;
    }
    files::write_changed(&files, scratch)?;
    // It takes what is not needed out of the lock file, too.
    command::run(
        Command::new(paths::cargo())
            .current_dir(scratch)
            .args(["vendor", VENDOR]),
        step,
    )?;
    let lock = fs::read(scratch.join("Cargo.lock"))?;
    ensure_versions(&lock, &files["Cargo.lock"])?;
    files.insert("Cargo.lock".to_owned(), lock);
    for (path, content) in files::below(&scratch.join(VENDOR))? {
        if path.ends_with("/.cargo-checksum.json") {
            files.insert(format!("{VENDOR}/{path}"), without_files(&content)?);
        } else if is_needed(&path) {
            files.insert(format!("{VENDOR}/{path}"), content);
        }
    }
    files.insert(".cargo/config.toml".to_owned(), CONFIGURATION.into());
    fs::remove_dir_all(scratch)?;
    Ok(files)
}

/// The crates of others in a source.
///
/// # Errors
///
/// One has no licence.
pub fn vendored(source: &Files) -> Result<Vec<Vendored>> {
    source
        .keys()
        .filter_map(|path| {
            let folder = path.strip_suffix("/Cargo.toml")?;
            let name = folder.strip_prefix(VENDOR)?.strip_prefix('/')?;
            (!name.contains('/')).then_some(folder)
        })
        .map(|folder| {
            let manifest = text(&source[&format!("{folder}/Cargo.toml")]);
            let license = manifest
                .lines()
                .find_map(|line| line.strip_prefix("license = \"")?.strip_suffix('"'))
                .with_context(|| format!("{folder} has no licence"))?
                .to_owned();
            let (mut holders, mut texts) = (authors(&manifest), Vec::new());
            for (path, content) in source.range(format!("{folder}/")..format!("{folder}0")) {
                if !is_licence(&path[folder.len() + 1..]) {
                    continue;
                }
                let content = text(content);
                let named = content
                    .lines()
                    .filter_map(|line| line.trim().strip_prefix("Copyright "))
                    // Apache's has one to be filled in.
                    .filter(|line| !line.contains('['))
                    .map(|line| line.trim_end_matches('.').to_owned());
                for holder in named {
                    if !holders.contains(&holder) {
                        holders.push(holder);
                    }
                }
                if !content.contains("Apache License") {
                    texts.push(content);
                }
            }
            ensure!(!texts.is_empty(), "{folder} has no text of its licence");
            Ok(Vendored {
                path: folder.to_owned(),
                license,
                holders,
                texts,
            })
        })
        .collect()
}

fn authors(manifest: &str) -> Vec<String> {
    let list = manifest
        .split_once("\nauthors = [")
        .or_else(|| manifest.strip_prefix("authors = [").map(|list| ("", list)))
        .and_then(|(_, list)| list.split_once(']'));
    list.map_or(Vec::new(), |(list, _)| {
        let quoted = list.split('"').skip(1).step_by(2);
        quoted.map(str::to_owned).collect()
    })
}

fn own_files(repository: &Path) -> Result<Files> {
    let read = |path: &str| {
        fs::read_to_string(repository.join(path)).with_context(|| format!("cannot read {path}"))
    };
    let mut files = Files::new();
    let mut manifests = String::new();
    for folder in CRATES {
        let path = format!("{folder}/Cargo.toml");
        let manifest = without_sections(&read(&path)?, &ONLY_FOR_TESTS);
        manifests += &manifest;
        files.insert(path, manifest.into_bytes());
        let source = format!("{folder}/src");
        for (path, content) in files::below(&repository.join(&source))? {
            files.insert(format!("{source}/{path}"), content);
        }
    }
    let workspace = workspace_manifest(&read("Cargo.toml")?, &manifests);
    files.insert("Cargo.toml".to_owned(), workspace.into_bytes());
    files.insert("Cargo.lock".to_owned(), read("Cargo.lock")?.into_bytes());
    files.insert(BUILTINS.to_owned(), BUILTINS_SOURCE.into());
    Ok(files)
}

/// The sections of a manifest, each with its header and the comment above it.
fn sections(manifest: &str) -> Vec<String> {
    let mut sections = vec![String::new()];
    let mut comment = String::new();
    for line in manifest.lines() {
        if line.starts_with('#') {
            comment = comment + line + "\n";
            continue;
        }
        if line.starts_with('[') {
            sections.push(String::new());
        }
        if let Some(section) = sections.last_mut() {
            *section += &std::mem::take(&mut comment);
            *section = std::mem::take(section) + line + "\n";
        }
    }
    sections
}

fn header(section: &str) -> &str {
    section
        .lines()
        .find(|line| line.starts_with('['))
        .unwrap_or_default()
}

fn without_sections(manifest: &str, headers: &[&str]) -> String {
    sections(manifest)
        .into_iter()
        .filter(|section| !headers.contains(&header(section)))
        .collect()
}

/// The workspace's manifest with the object's crates alone, and the dependencies that their
/// `manifests` take from it.
fn workspace_manifest(manifest: &str, manifests: &str) -> String {
    let licence = match manifest.lines().next() {
        Some(line) if line.starts_with("# SPDX-") => format!("{line}\n\n"),
        _ => String::new(),
    };
    let members: String = CRATES
        .iter()
        .map(|folder| format!("    \"{folder}\",\n"))
        .collect();
    let mut trimmed =
        format!("{licence}[workspace]\nresolver = \"3\"\nmembers = [\n{members}]\n\n");
    for section in sections(manifest) {
        match header(&section) {
            "" | "[workspace]" | "[profile.dev]" => {}
            "[workspace.dependencies]" => {
                trimmed.extend(
                    section
                        .lines()
                        .filter(|line| {
                            let name = line.split(' ').next().unwrap_or_default();
                            let is_used = manifests
                                .lines()
                                .any(|line| line == format!("{name}.workspace = true"));
                            line.starts_with('[') || line.is_empty() || is_used
                        })
                        .flat_map(|line| [line, "\n"]),
                );
            }
            _ => trimmed += &section,
        }
    }
    trimmed
}

/// What a build needs of a crate of others, and its licences; the path begins with its name.
fn is_needed(path: &str) -> bool {
    let Some((_, path)) = path.split_once('/') else {
        return false;
    };
    path.starts_with("src/") || matches!(path, "Cargo.toml" | "build.rs") || is_licence(path)
}

/// Whether a file of a crate's folder is one of its licences.
fn is_licence(path: &str) -> bool {
    path.starts_with("LICENSE") && !path.contains('/')
}

/// Cargo's file of checksums without those of single files, some of which are left out.
fn without_files(checksums: &[u8]) -> Result<Vec<u8>> {
    let mut checksums: serde_json::Value = serde_json::from_slice(checksums)?;
    checksums["files"] = serde_json::json!({});
    Ok(checksums.to_string().into_bytes())
}

/// Checks that a trimmed lock file has the versions of the whole one.
fn ensure_versions(trimmed: &[u8], whole: &[u8]) -> Result<()> {
    let packages = |lock: &[u8]| -> Vec<String> {
        text(lock)
            .split("[[package]]\n")
            .skip(1)
            .map(|package| package.lines().take(2).collect::<Vec<_>>().join(" "))
            .collect()
    };
    let whole = packages(whole);
    for package in packages(trimmed) {
        if !whole.contains(&package) {
            bail!("cargo took {package} for the object, which is not in Cargo.lock");
        }
    }
    Ok(())
}

fn text(content: &[u8]) -> String {
    String::from_utf8_lossy(content).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "\
[workspace]
members = [
    \"module/core\",
    \"store\",
]

[workspace.dependencies]
trafstat-abi = { path = \"module/abi\" }
# Only for the store.
mysql = \"28\"

# Of all crates.
[workspace.lints.rust]
unsafe_code = \"deny\"
";

    #[test]
    fn workspace_keeps_what_the_crates_use() {
        let crates = "[dependencies]\ntrafstat-abi.workspace = true\n";
        let trimmed = workspace_manifest(MANIFEST, crates);
        assert!(trimmed.contains("    \"module/ffi\",\n"), "{trimmed}");
        assert!(trimmed.contains("\ntrafstat-abi = "), "{trimmed}");
        assert!(!trimmed.contains("mysql"), "{trimmed}");
        assert!(!trimmed.contains("store"), "{trimmed}");
        let lints = "# Of all crates.\n[workspace.lints.rust]\nunsafe_code = \"deny\"\n";
        assert!(trimmed.ends_with(lints), "{trimmed}");
    }

    #[test]
    fn section_is_left_out_with_the_comment_above_it() {
        let manifest = "[package]\nname = \"core\"\n\n# Models.\n[dev-dependencies]\nloom = \"0.7\"\n\n[lints]\n";
        assert_eq!(
            without_sections(manifest, &ONLY_FOR_TESTS),
            "[package]\nname = \"core\"\n\n[lints]\n"
        );
    }

    #[test]
    fn other_version_than_the_locked_one_is_an_error() {
        let lock = b"version = 4\n\n[[package]]\nname = \"syn\"\nversion = \"2.0.1\"\n";
        ensure_versions(lock, lock).unwrap();
        let other = b"version = 4\n\n[[package]]\nname = \"syn\"\nversion = \"2.0.2\"\n";
        ensure_versions(other, lock).unwrap_err();
    }

    #[test]
    fn source_is_the_same_wherever_the_repository_is() {
        let folder = tempfile::tempdir().unwrap();
        let step = Step::begin("Collecting the object's source twice");
        let here = paths::repository();
        let elsewhere = folder.path().join("a clone/of it");
        for name in ["Cargo.toml", "Cargo.lock", "module"] {
            fs::create_dir_all(&elsewhere).unwrap();
            let status = Command::new("cp")
                .arg("-r")
                .arg(here.join(name))
                .arg(&elsewhere)
                .status();
            assert!(status.unwrap().success());
        }
        let scratch = folder.path().join("scratch");
        let first = collect(&here, &scratch, &step).unwrap();
        let second = collect(&elsewhere, &scratch, &step).unwrap();
        assert!(first == second);
        assert!(first.contains_key("module/ffi/src/lib.rs"));
        assert!(first.contains_key("vendor/zerocopy/src/lib.rs"));
        for path in first.keys() {
            let belongs_to_tests = path.contains("/tests/") || path.contains("proptest");
            assert!(!path.starts_with("module") || !belongs_to_tests, "{path}");
        }
        let crates = vendored(&first).unwrap();
        let zerocopy = crates
            .iter()
            .find(|found| found.path == "vendor/zerocopy")
            .unwrap();
        assert!(zerocopy.license.contains("BSD-2-Clause"), "{zerocopy:?}");
        assert!(
            zerocopy
                .holders
                .contains(&"2023 The Fuchsia Authors".to_owned())
        );
    }
}
