// SPDX-License-Identifier: GPL-2.0-or-later
//! Where recorded captures are, and whether the programs that judge them are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The captures in a folder of recorded traffic, by name; none, and a line that says so,
/// where the folder is not there.
pub fn recorded(subfolder: &str) -> Vec<PathBuf> {
    let folder = std::env::var_os("TRAFSTAT_CAPTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures"),
        PathBuf::from,
    );
    let folder = folder.join(subfolder);
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: there is no folder {}", folder.display());
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "pcap")
        })
        .collect();
    files.sort();
    files
}

/// Whether a program of Wireshark's is installed; says so where it is not.
pub fn is_installed(program: &str) -> bool {
    let run = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let installed = run.is_ok_and(|status| status.success());
    if !installed {
        println!("skipped: {program} is not installed");
    }
    installed
}
