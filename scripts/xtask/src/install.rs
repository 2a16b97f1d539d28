// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask install` and `uninstall`: on this host, what the packages would install, built for
//! the kernel that runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::files::{self, Installed};
use crate::{abi, build, command, kbuild, kernel_object, packages};

/// Which files were installed, a path a line.
const MANIFEST: &str = "usr/share/doc/trafstat/installed-files";

/// Builds everything for this host and installs it, or below `root` for other uses of the tree.
///
/// # Errors
///
/// Not root, the packages are installed, something does not build or a file cannot be written.
pub fn install(root: Option<&Path>) -> Result<()> {
    packages::require_root("installing", "install")?;
    refuse_beside_packages(root)?;
    let kernel = command::read(Command::new("uname").arg("-r"))?;
    let headers = kbuild::headers(&kernel);
    ensure!(
        headers.exists(),
        "{} is missing: this kernel's headers are not installed; on Debian\n\n    \
         apt-get install linux-headers-{kernel}\n",
        headers.display()
    );
    packages::install(abi::PACKAGES)?;
    packages::install(build::PLUGIN_PACKAGES)?;
    packages::install(&["binutils", "gcc", "kmod", "make"])?;
    abi::check()?;
    let module = kbuild::for_host(
        &kernel,
        &kernel_object::build(kernel_object::Variant::Plain)?,
    )?;
    let mut installed = files::user_space(&build::programs()?, &build::plugin()?)?;
    installed.push(files::plain(
        &format!("lib/modules/{kernel}/updates/xt_TRAFSTAT.ko"),
        fs::read(module)?,
    ));
    // An upgrade finds its own plugin there.
    if root.is_none() && !Path::new("/").join(MANIFEST).exists() {
        run_script("trafstat.preinst", "install")?;
    }
    put(installed, root.unwrap_or(Path::new("/")))?;
    depmod(root, &kernel)?;
    if root.is_none() {
        run_script("trafstat.postinst", "configure")?;
        println!("Installed. Next: trafstat setup --dry-run");
    }
    Ok(())
}

/// Takes away what [`install`] put there, and with `purge` what was counted and configured.
///
/// # Errors
///
/// Not root, nothing is installed, or a file cannot be removed.
pub fn uninstall(root: Option<&Path>, purge: bool) -> Result<()> {
    packages::require_root("uninstalling", "uninstall")?;
    let base = root.unwrap_or(Path::new("/"));
    let manifest = fs::read_to_string(base.join(MANIFEST)).with_context(|| {
        format!(
            "{} is missing: cargo xtask install did not install here",
            base.join(MANIFEST).display()
        )
    })?;
    if root.is_none() {
        run_script("trafstat.prerm", "remove")?;
    }
    remove(&manifest, base)?;
    let kernels = manifest
        .lines()
        .filter_map(|path| path.strip_prefix("lib/modules/")?.split('/').next());
    for kernel in kernels {
        depmod(root, kernel)?;
    }
    if root.is_none() {
        run_script("trafstat.postrm", if purge { "purge" } else { "remove" })?;
    }
    Ok(())
}

/// Writes the files and their list. The list comes first: what an interrupted run has written is
/// on it.
fn put(mut installed: Vec<Installed>, root: &Path) -> Result<()> {
    let before = fs::read_to_string(root.join(MANIFEST)).unwrap_or_default();
    let mut paths: Vec<_> = installed.iter().map(|file| file.path.clone()).collect();
    paths.push(MANIFEST.to_owned());
    let left_over: String = before
        .lines()
        .filter(|path| !paths.iter().any(|kept| kept == path))
        .flat_map(|path| [path, "\n"])
        .collect();
    let list = |paths: &[String]| paths.join("\n") + "\n";
    files::plain(MANIFEST, (list(&paths) + &left_over).into_bytes()).write(root)?;
    for file in installed.drain(..) {
        file.write(root)?;
    }
    // What an older installation had beyond this one's.
    remove(&left_over, root)?;
    files::plain(MANIFEST, list(&paths).into_bytes()).write(root)
}

fn remove(manifest: &str, root: &Path) -> Result<()> {
    for path in manifest.lines() {
        let path = root.join(path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => remove_empty_folders(&path, root),
        }
    }
    Ok(())
}

/// Removes the folders above `path` that are named after the project and empty.
fn remove_empty_folders(path: &Path, root: &Path) {
    let ours = |folder: &&Path| {
        let below = folder.strip_prefix(root).unwrap_or(folder);
        below
            .components()
            .any(|part| part.as_os_str() == "trafstat")
    };
    for folder in path.ancestors().skip(1).take_while(ours) {
        // One that still holds something stays.
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
}

fn refuse_beside_packages(root: Option<&Path>) -> Result<()> {
    let package: PathBuf = "/var/lib/dpkg/info/trafstat.list".into();
    if root.is_none() && package.exists() {
        bail!("the package trafstat is installed; remove it first: apt-get remove trafstat");
    }
    Ok(())
}

fn depmod(root: Option<&Path>, kernel: &str) -> Result<()> {
    let mut depmod = Command::new("depmod");
    if let Some(root) = root {
        depmod.arg("-b").arg(root);
    }
    command::run_visibly(depmod.arg(kernel))
}

fn run_script(name: &str, argument: &str) -> Result<()> {
    let script = String::from_utf8(files::maintainer_script(name)?)?;
    command::run_visibly(Command::new("sh").args(["-c", &script, name, argument]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        // Left by an earlier run of the same number.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    fn everything_below(root: &Path) -> Vec<String> {
        let listed = command::read(Command::new("find").arg(root).args(["-type", "f"])).unwrap();
        let prefix = format!("{}/", root.display());
        let mut lines: Vec<_> = listed
            .lines()
            .map(|line| line.replace(&prefix, ""))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn what_is_put_is_removed_and_nothing_else() {
        let root = scratch("install");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("usr/bin/other"), "").unwrap();
        let first = vec![
            files::plain("usr/bin/trafstat", b"1".to_vec()),
            files::plain("usr/share/doc/trafstat/old", Vec::new()),
        ];
        put(first, &root).unwrap();
        // An upgrade takes away what it no longer has.
        put(vec![files::plain("usr/bin/trafstat", b"2".to_vec())], &root).unwrap();
        assert_eq!(
            everything_below(&root),
            ["usr/bin/other", "usr/bin/trafstat", MANIFEST]
        );
        uninstall_below(&root);
        assert_eq!(everything_below(&root), ["usr/bin/other"]);
        assert!(!root.join("usr/share/doc/trafstat").exists());
        fs::remove_dir_all(&root).unwrap();
    }

    fn uninstall_below(root: &Path) {
        let manifest = fs::read_to_string(root.join(MANIFEST)).unwrap();
        remove(&manifest, root).unwrap();
    }
}
