// SPDX-License-Identifier: GPL-2.0-or-later
//! A folder with MySQL's own server.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::archive::{Archive, debootstrap};
use super::folder::{lock, may_make_folders, package_version, unfinished};
use crate::paths;
use crate::progress::Step;

/// The release that is never finished.
const UNSTABLE: &str = "sid";

const MYSQL_SERVER: &str = "mysql-server-core";

/// Counts changes of what MySQL's folder is made of.
const MYSQL_RECIPE: u32 = 1;

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
