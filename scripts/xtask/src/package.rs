//! `cargo xtask package`: Debian packages of the programs and of the module.
//!
//! The programs come from this host's compiler, so they need no newer C library than Debian 12
//! has; that is checked. The module's Rust object comes built: a host that installs the packages
//! needs gcc and its kernel's headers, and no Rust.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build::Built;
use crate::files::{self, Installed};
use crate::progress::Step;
use crate::{abi, build, command, kernel_object, packages, paths};

/// What makes packages.
const PACKAGES: &[&str] = &["binutils", "dpkg-dev"];

/// The C library of Debian 12.
const OLDEST_GLIBC: (u32, u32) = (2, 36);

const MAINTAINER: &str = "the trafstat authors <trafstat@localhost>";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A package, but for its files.
struct Package {
    name: &'static str,
    architecture: &'static str,
    /// Fields from Section on, `Depends` left open where libraries are still to be found out.
    relations: String,
    description: &'static str,
    scripts: &'static [&'static str],
}

/// Builds everything and makes the packages; `revision` tells packages of one version apart.
/// Returns their paths.
///
/// # Errors
///
/// Something does not build, or would not run on Debian 12.
pub fn run(revision: u32) -> Result<Vec<PathBuf>> {
    packages::install(abi::PACKAGES)?;
    packages::install(build::PLUGIN_PACKAGES)?;
    packages::install(PACKAGES)?;
    abi::check()?;
    let object = kernel_object::build(kernel_object::Variant::Plain)?;
    let (programs, plugin) = (build::programs()?, build::plugin()?);
    let made = make(&programs, &plugin, &object, revision)?;
    for path in &made {
        println!("{}", path.display());
    }
    Ok(made)
}

/// Makes the packages of what is built.
///
/// # Errors
///
/// As for [`run`].
pub fn make(programs: &Built, plugin: &Path, object: &[u8], revision: u32) -> Result<Vec<PathBuf>> {
    let step = Step::begin("Making Debian packages");
    let folder = paths::target().join("packages");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let version = format!("{VERSION}-{revision}");

    let user_space = files::user_space(programs, plugin)?;
    let libraries = library_dependencies(&folder, &user_space)?;
    let trafstat = Package {
        name: "trafstat",
        architecture: "amd64",
        relations: format!(
            "Depends: {libraries}, iptables, kmod, passwd\n\
             Recommends: trafstat-dkms\n\
             Suggests: systemd | cron, mariadb-server\n"
        ),
        description: "traffic accounting for a host or router, counted in the kernel\n \
             An iptables rule says which network is local and which ports matter; from\n \
             then on every packet is counted by protocol, local and remote address and\n \
             port. trafstat-store collects what was counted into SQLite or MySQL, exactly\n \
             once, and trafstat sets it all up and shows it.\n",
        scripts: &["preinst", "postinst", "prerm", "postrm"],
    };
    let dkms = Package {
        name: "trafstat-dkms",
        architecture: "amd64",
        relations: "Depends: dkms, gcc, make, libc6-dev\n\
             Recommends: trafstat, linux-headers-amd64\n"
            .to_owned(),
        description: "kernel module xt_TRAFSTAT of trafstat, built by DKMS\n \
             The target TRAFSTAT of iptables and ip6tables counts packets by flow. Its\n \
             Rust part comes built, the rest is compiled for each kernel: that needs gcc\n \
             and the kernel's headers only.\n",
        scripts: &["postinst", "prerm"],
    };
    let made = vec![
        trafstat.make(&folder, &version, user_space)?,
        dkms.make(&folder, &version, files::module_sources(object)?)?,
    ];
    step.done();
    Ok(made)
}

impl Package {
    fn make(&self, folder: &Path, version: &str, mut installed: Vec<Installed>) -> Result<PathBuf> {
        let root = folder.join(self.name);
        let doc = format!("usr/share/doc/{}", self.name);
        installed.push(files::plain(
            &format!("{doc}/copyright"),
            copyright()?.into_bytes(),
        ));
        installed.push(files::plain(
            &format!("{doc}/changelog.Debian.gz"),
            files::gzip(self.changelog(version)?.as_bytes())?,
        ));
        installed.push(files::plain(
            &format!("{doc}/changelog.gz"),
            files::gzip(&fs::read(paths::repository().join("CHANGELOG.md"))?)?,
        ));
        for file in &installed {
            file.write(&root)?;
        }

        let kib = installed
            .iter()
            .map(|file| file.content.len().div_ceil(1024))
            .sum::<usize>();
        let control = format!(
            "Package: {}\nVersion: {version}\nArchitecture: {}\nMaintainer: {MAINTAINER}\n\
             Installed-Size: {kib}\n{}Section: net\nPriority: optional\nDescription: {}",
            self.name, self.architecture, self.relations, self.description
        );
        let debian = root.join("DEBIAN");
        fs::create_dir(&debian)?;
        fs::write(debian.join("control"), control)?;
        fs::write(debian.join("md5sums"), md5sums(&root, &installed)?)?;
        for script in self.scripts {
            let path = debian.join(script);
            fs::write(
                &path,
                files::maintainer_script(&format!("{}.{script}", self.name))?,
            )?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        let deb = folder.join(format!("{}_{version}_{}.deb", self.name, self.architecture));
        command::read(
            Command::new("dpkg-deb")
                .env("SOURCE_DATE_EPOCH", commit_time()?)
                .args(["--root-owner-group", "--build"])
                .arg(&root)
                .arg(&deb),
        )?;
        fs::remove_dir_all(&root)?;
        Ok(deb)
    }

    fn changelog(&self, version: &str) -> Result<String> {
        let date = command::read(
            Command::new("date")
                .env("LC_ALL", "C.UTF-8")
                .args(["--utc", "--rfc-email", "--date"])
                .arg(format!("@{}", commit_time()?)),
        )?;
        Ok(format!(
            "{} ({version}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n \
             -- {MAINTAINER}  {date}\n",
            self.name
        ))
    }
}

/// Seconds since 1970 of the newest commit: what is packaged twice is the same twice.
fn commit_time() -> Result<String> {
    command::read(Command::new("git").current_dir(paths::repository()).args([
        "log",
        "-1",
        "--format=%ct",
    ]))
}

fn copyright() -> Result<String> {
    let licences = paths::repository().join("LICENSES");
    let mit = fs::read_to_string(licences.join("MIT.txt"))?;
    let paragraphs: String = mit
        .lines()
        .skip_while(|line| !line.starts_with("Permission"))
        .map(|line| match line {
            "" => " .\n".to_owned(),
            line => format!(" {line}\n"),
        })
        .collect();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: trafstat\n\n\
         Files: *\nCopyright: 2026 the trafstat authors\nLicense: GPL-2.0-only\n \
         The text is in /usr/share/common-licenses/GPL-2.\n\n\
         Files: module/uapi/* module/abi/*\nCopyright: 2026 the trafstat authors\n\
         License: GPL-2.0-only or Expat\n\nLicense: Expat\n{paragraphs}"
    ))
}

fn md5sums(root: &Path, installed: &[Installed]) -> Result<String> {
    let mut md5sum = Command::new("md5sum");
    md5sum
        .current_dir(root)
        .args(installed.iter().map(|file| &file.path));
    Ok(command::read(&mut md5sum)? + "\n")
}

/// The libraries that the programs and the plugin need, as `Depends` has them.
fn library_dependencies(folder: &Path, installed: &[Installed]) -> Result<String> {
    let work = folder.join("libraries");
    fs::create_dir_all(work.join("debian"))?;
    // dpkg-shlibdeps wants to stand in a source package.
    fs::write(
        work.join("debian/control"),
        "Source: trafstat\n\nPackage: trafstat\nArchitecture: amd64\n",
    )?;
    let mut objects = Vec::new();
    for file in installed {
        if file.content.starts_with(b"\x7fELF") {
            file.write(&work)?;
            objects.push(&file.path);
        }
    }
    let output = command::read(
        Command::new("dpkg-shlibdeps")
            .current_dir(&work)
            // iptables brings libxtables along, and the plugin needs no certain version of it.
            .args(["-O", "-xlibxtables12"])
            .args(objects),
    )?;
    fs::remove_dir_all(&work)?;
    let found = output
        .strip_prefix("shlibs:Depends=")
        .with_context(|| format!("dpkg-shlibdeps says {output:?}"))?;
    let needed = found
        .split_once("libc6 (>= ")
        .and_then(|(_, rest)| rest.split_once(')'))
        .and_then(|(version, _)| glibc_version(version))
        .with_context(|| format!("no version of the C library in {found:?}"))?;
    ensure!(
        needed <= OLDEST_GLIBC,
        "the programs need glibc {}.{}, and Debian 12 has {}.{}: build on Debian 12",
        needed.0,
        needed.1,
        OLDEST_GLIBC.0,
        OLDEST_GLIBC.1
    );
    Ok(found.to_owned())
}

fn glibc_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', '-', '+', '~']);
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glibc_versions_compare_as_numbers() {
        assert_eq!(glibc_version("2.36"), Some((2, 36)));
        assert_eq!(glibc_version("2.36-9+deb12u1"), Some((2, 36)));
        assert!(glibc_version("2.4") < glibc_version("2.36"));
        assert_eq!(glibc_version("none"), None);
    }
}
