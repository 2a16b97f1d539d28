// SPDX-License-Identifier: GPL-2.0-or-later
//! The module, built by a kernel's own build system from the glue's C and the Rust object.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::progress::Step;
use crate::rootfs::Rootfs;
use crate::{command, files, object_checks, paths};

/// The Rust object under the name that `module/Kbuild` copies it from.
pub const OBJECT: &str = "trafstat_core.prebuilt";
const MODULE: &str = "xt_TRAFSTAT.ko";

/// Builds the module for the kernel of a Debian folder; returns the module's path.
///
/// # Errors
///
/// The compiler, objtool or modpost fails or warns, or C takes the address of a function of the
/// Rust object.
pub fn for_rootfs(rootfs: &Rootfs, object: &[u8]) -> Result<PathBuf> {
    let folder = prepare(&rootfs.kernel, object)?;
    make_in_rootfs(rootfs, &folder, object, "")
}

/// Builds the module with what only tests have in it, instead of the one to be used; returns its
/// path.
///
/// # Errors
///
/// As for [`for_rootfs`].
pub fn with_tests(rootfs: &Rootfs, object: &[u8]) -> Result<PathBuf> {
    let folder = prepare(&format!("{}-tests", rootfs.kernel), object)?;
    make_in_rootfs(rootfs, &folder, object, "y")
}

fn make_in_rootfs(rootfs: &Rootfs, folder: &Path, object: &[u8], tests: &str) -> Result<PathBuf> {
    make(&rootfs.kernel, folder, object, |build| {
        let mut make = rootfs.command(folder, "make");
        make.arg("-C").arg(build).arg("M=/mnt");
        make.arg(format!("TRAFSTAT_TESTS={tests}"));
        make
    })
}

/// Builds the module for the kernel that runs here; returns the module's path.
///
/// # Errors
///
/// The kernel's headers are missing, or as for [`for_rootfs`].
pub fn for_host(kernel: &str, object: &[u8]) -> Result<PathBuf> {
    let folder = prepare(kernel, object)?;
    make(kernel, &folder, object, |build| {
        let mut make = Command::new("make");
        make.arg("-C")
            .arg(build)
            .arg(format!("M={}", folder.display()));
        make
    })
}

/// Where a kernel keeps what modules are built with.
pub fn headers(kernel: &str) -> PathBuf {
    Path::new("/lib/modules").join(kernel).join("build")
}

/// What the module is built from: the glue's sources and the Rust object, by file name.
///
/// # Errors
///
/// A source cannot be read.
pub fn sources(object: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let module = paths::repository().join("module");
    let mut sources = BTreeMap::from([
        (OBJECT.to_owned(), object.to_vec()),
        ("Kbuild".to_owned(), files::with_version("module/Kbuild")?),
    ]);
    for folder in ["glue", "uapi"] {
        for entry in fs::read_dir(module.join(folder))? {
            let path = entry?.path();
            if let (Some(name), Some("c" | "h")) = (
                path.file_name().and_then(|name| name.to_str()),
                path.extension().and_then(|extension| extension.to_str()),
            ) {
                sources.insert(name.to_owned(), fs::read(&path)?);
            }
        }
    }
    Ok(sources)
}

/// Puts sources and object together in `target/module/NAME`; what did not change keeps its time.
fn prepare(name: &str, object: &[u8]) -> Result<PathBuf> {
    let sources = sources(object)?;
    let folder = paths::target().join("module").join(name);
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_source = name.ends_with(".h") || name.ends_with(".c") && !name.ends_with(".mod.c");
        let stale = is_source && !sources.contains_key(&*name);
        if stale {
            fs::remove_file(&path)?;
        }
    }
    files::write_changed(&sources, &folder)?;
    Ok(folder)
}

fn make(
    kernel: &str,
    folder: &Path,
    object: &[u8],
    command: impl FnOnce(&Path) -> Command,
) -> Result<PathBuf> {
    let step = Step::begin(format!("Building the module for {kernel}"));
    let module = folder.join(MODULE);
    // Left over from an earlier build, it would look like this one's result.
    if module.exists() {
        fs::remove_file(&module)?;
    }
    let output = command::run(command(&headers(kernel)).arg("modules"), &step)?;
    let warnings: Vec<_> = output
        .lines()
        .filter(|line| line.to_lowercase().contains("warning"))
        // Said of a kernel that a compiler of another version built; it changes nothing.
        .filter(|line| !line.contains("the compiler differs from the one used to build the kernel"))
        .collect();
    if !warnings.is_empty() {
        // Make would take the objects for good the next time.
        fs::remove_dir_all(folder)?;
    }
    ensure!(warnings.is_empty(), "the module's build warns:\n{output}");
    ensure!(module.exists(), "the build made no {MODULE}:\n{output}");
    check_calls(folder, object)?;
    step.done();
    Ok(module)
}

/// Checks that the glue's objects, as this kernel's compiler made them, call the Rust object
/// directly.
fn check_calls(folder: &Path, object: &[u8]) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let source = entry?.path();
        let name = files::name(&source);
        // modpost writes the other source.
        if !name.ends_with(".c") || name.ends_with(".mod.c") {
            continue;
        }
        let c_object = source.with_extension("o");
        // Without tests, their sources are not compiled.
        if c_object.exists() {
            object_checks::calls(&name, &fs::read(c_object)?, object)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bash of the host, which dkms is a script of.
    fn dkms_builds_for(kernel: &str) -> bool {
        let conf = paths::repository().join("module/dkms.conf");
        let script =
            r#". "$1" && [[ $2 =~ $BUILD_EXCLUSIVE_KERNEL && x86_64 =~ $BUILD_EXCLUSIVE_ARCH ]]"#;
        Command::new("bash")
            .args(["-c", script, "bash"])
            .arg(conf)
            .arg(kernel)
            .status()
            .unwrap()
            .success()
    }

    #[test]
    fn dkms_builds_for_kernels_from_6_1_on() {
        for kernel in [
            "4.19.0-27-amd64",
            "5.10.0-33-amd64",
            "5.15.0-130-generic",
            "6.0.0-6-amd64",
            "6.0.12",
        ] {
            assert!(!dkms_builds_for(kernel), "{kernel}");
        }
        for kernel in [
            "6.1.0-57-amd64",
            "6.1",
            "6.10.1",
            "6.12.118+deb13-amd64",
            "7.0.1",
            "7.3.4+deb13-rt-amd64",
            "10.0.0",
        ] {
            assert!(dkms_builds_for(kernel), "{kernel}");
        }
    }

    #[test]
    fn dkms_refuses_other_architectures() {
        let conf = fs::read_to_string(paths::repository().join("module/dkms.conf")).unwrap();
        assert!(
            conf.contains("BUILD_EXCLUSIVE_ARCH=\"^x86_64$\"\n"),
            "{conf}"
        );
    }

    #[test]
    fn sources_have_the_version() {
        let sources = sources(&[]).unwrap();
        let kbuild = String::from_utf8_lossy(&sources["Kbuild"]);
        let version = env!("CARGO_PKG_VERSION");
        let flag = format!("-DTRAFSTAT_VERSION='\"{version}\"'");
        assert!(kbuild.contains(&flag), "{kbuild}");
    }

    /// The symbols that return_thunk.c defines.
    fn return_thunks(arguments: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let object = folder.path().join("return_thunk.o");
        let status = Command::new("cc")
            .args(["-c", "-Wall", "-Werror"])
            .args(arguments)
            .arg(paths::repository().join("module/glue/return_thunk.c"))
            .arg("-o")
            .arg(&object)
            .status()
            .unwrap();
        assert!(status.success());
        let symbols = command::read(Command::new("nm").arg("--defined-only").arg(object));
        let symbols = symbols.unwrap();
        let names = symbols.lines().filter_map(|line| line.rsplit(' ').next());
        names.map(str::to_owned).collect()
    }

    #[test]
    fn kernel_without_return_thunks_gets_one_from_the_glue() {
        assert_eq!(return_thunks(&[]), ["__x86_return_thunk"]);
        for option in ["-DCONFIG_RETHUNK=1", "-DCONFIG_MITIGATION_RETHUNK=1"] {
            assert!(return_thunks(&[option]).is_empty());
        }
    }
}
