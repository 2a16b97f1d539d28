// SPDX-License-Identifier: GPL-2.0-or-later
//! Where things lie: the repository, what is built, what is kept between builds.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository's root.
pub fn repository() -> PathBuf {
    // Cargo sets it when it runs this program; the compiled-in value serves a direct start.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.ancestors().nth(2).unwrap_or(&manifest).to_owned()
}

/// What the project's own commands make: kernel modules, the guest's folder, the demo's database.
pub fn target() -> PathBuf {
    repository().join("target")
}

/// Where cargo puts programs and libraries.
pub fn cargo_target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(target, |folder| repository().join(folder))
}

/// `~/.cache/trafstat`: what is downloaded once, each entry named by its version.
///
/// # Errors
///
/// Neither XDG_CACHE_HOME nor HOME is set.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("trafstat"))
}

/// The folder with recorded traffic, where there is one: TRAFSTAT_CAPTURES, or `shared/captures`
/// beside the repository.
pub fn captures() -> Option<PathBuf> {
    shared("TRAFSTAT_CAPTURES", "captures")
}

/// The folder that the environment's `variable` names, or `name` in `shared` beside the repository,
/// where there is one.
pub fn shared(variable: &str, name: &str) -> Option<PathBuf> {
    let folder = match std::env::var_os(variable) {
        Some(folder) => repository().join(folder),
        None => repository().parent()?.join("shared").join(name),
    };
    folder.is_dir().then_some(folder)
}

/// The cargo that runs this program, or the one on the path.
pub fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
