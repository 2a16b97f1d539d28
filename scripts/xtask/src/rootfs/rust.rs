// SPDX-License-Identifier: GPL-2.0-or-later
//! A folder with the Rust compiler of a Debian release.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::ensure_base;
use super::folder::{INSTALL, apt_get, copy, lock, may_make_folders, package_version};
use crate::paths;
use crate::progress::Step;

const RELEASE: &str = "trixie";
const PACKAGES: &[&str] = &["cargo", "rustc", "rust-src"];

/// Counts changes of what the folder is made of.
const RECIPE: u32 = 1;

/// A folder with the Rust compiler of Debian 13 and the source of its libraries, and nothing of a
/// kernel's.
///
/// # Errors
///
/// Not root while the folder must be made, or Debian's archive cannot be reached.
pub fn ensure_rust() -> Result<PathBuf> {
    let path = paths::cache()?.join(format!("{RELEASE}-rust-{RECIPE}"));
    let _lock = lock()?;
    if !path.exists() {
        let base = ensure_base(RELEASE)?;
        may_make_folders()?;
        let step = Step::begin(format!(
            "Making a Debian {RELEASE} folder with Rust in {}",
            path.display()
        ));
        let unfinished = copy(&base, &path, &step)?;
        apt_get(&unfinished, &["update"], &step)?;
        apt_get(&unfinished, &[&INSTALL[..], PACKAGES].concat(), &step)?;
        apt_get(&unfinished, &["clean"], &step)?;
        fs::rename(&unfinished, &path)?;
        step.done();
    }
    let version = package_version(&path, "rustc")?;
    eprintln!("Debian {RELEASE}: rustc {version}");
    Ok(path)
}
