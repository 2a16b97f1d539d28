// SPDX-License-Identifier: GPL-2.0-or-later
//! What a scenario finds around it: the built programs, a folder to write in.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where the system's own iptables extensions lie, on Debian.
const SYSTEM_EXTENSIONS: &str = "/usr/lib/x86_64-linux-gnu/xtables";

/// The machine that the scenarios run on.
pub struct Guest {
    folder: PathBuf,
    seed: u64,
    captures: Option<PathBuf>,
}

/// Why a scenario says nothing here: what it needs is not there.
#[derive(Debug)]
pub struct Skipped(pub &'static str);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Skipped {}

impl Guest {
    /// Everything built lies beside this program. Random choices follow from `seed`, or from chance.
    ///
    /// # Errors
    ///
    /// This program does not know its own path.
    pub fn new(seed: Option<u64>) -> Result<Self> {
        let program = env::current_exe()?;
        let folder = program.parent().context("a program without a folder")?;
        Ok(Self {
            folder: folder.to_owned(),
            seed: seed.unwrap_or_else(|| fastrand::u64(..)),
            captures: None,
        })
    }

    /// With recorded traffic in `folder`.
    pub fn with_captures(self, folder: Option<PathBuf>) -> Self {
        Self {
            captures: folder,
            ..self
        }
    }

    /// The folder with recorded traffic.
    ///
    /// # Errors
    ///
    /// [`Skipped`] where there is none.
    pub fn captures(&self) -> Result<&Path> {
        let skipped = Skipped("there are no captures; TRAFSTAT_CAPTURES names their folder");
        self.captures.as_deref().ok_or(skipped.into())
    }

    /// What random choices follow from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A built file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The value of XTABLES_LIBDIR with which iptables finds the plugin.
    pub fn plugin_path(&self) -> OsString {
        self.plugin_path_of(&self.folder)
    }

    /// The same for the plugin that can act as one of another version.
    pub fn path_of_other_versions(&self) -> OsString {
        self.plugin_path_of(&self.file("other-versions"))
    }

    fn plugin_path_of(&self, folder: &Path) -> OsString {
        let mut path = folder.to_owned().into_os_string();
        path.push(":");
        path.push(SYSTEM_EXTENSIONS);
        path
    }

    /// A new empty folder for the scenario's own files.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn scratch(&self) -> Result<&'static Path> {
        // /run is the one folder that is writable in a guest as well as on a host.
        let path = Path::new("/run/trafstat-vmtests");
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        fs::create_dir_all(path)?;
        Ok(path)
    }
}
