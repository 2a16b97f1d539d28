// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask package`: Debian packages of the programs and of the module.
//!
//! The programs come from this host's compiler, so they need no newer C library than Debian 12
//! has; that is checked. The module's Rust object comes built: a host that installs the packages
//! needs gcc and its kernel's headers, and no Rust.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use crate::build::Built;
use crate::files::{self, Installed};
use crate::kernel_source::{self, Files, Vendored};
use crate::platform::X86_64;
use crate::progress::Step;
use crate::{abi, build, command, kbuild, kernel_object, packages, paths};

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
    /// Whether it asks by debconf.
    has_questions: bool,
}

/// Builds everything and makes the packages; `revision` tells packages of one version apart, and
/// `linked` has the paragraphs about libraries for the copyright of what links them. Returns the
/// packages' paths.
///
/// # Errors
///
/// Something does not build, or would not run on Debian 12.
pub fn run(revision: u32, linked: &str) -> Result<Vec<PathBuf>> {
    packages::install(abi::PACKAGES)?;
    packages::install(build::PLUGIN_PACKAGES)?;
    packages::install(PACKAGES)?;
    abi::check()?;
    let object = kernel_object::build(kernel_object::Variant::Plain)?;
    let (programs, plugin) = (build::programs()?, build::plugin()?);
    let made = make(&programs, &plugin, &object, revision, linked)?;
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
pub fn make(
    programs: &Built,
    plugin: &Path,
    object: &[u8],
    revision: u32,
    linked: &str,
) -> Result<Vec<PathBuf>> {
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
        architecture: X86_64.debian,
        relations: format!(
            "Depends: {libraries}, debconf (>= 0.5) | debconf-2.0, iptables, kmod, passwd\n\
             Recommends: trafstat-dkms\n\
             Suggests: systemd | cron, mariadb-server\n"
        ),
        description: "traffic accounting for a host or router, counted in the kernel\n \
             An iptables rule says which network is local and which ports matter; from\n \
             then on every packet is counted by protocol, local and remote address and\n \
             port. trafstat-store collects what was counted into SQLite or MySQL, exactly\n \
             once, and trafstat sets it all up and shows it.\n",
        scripts: &["preinst", "postinst", "prerm", "postrm"],
        has_questions: true,
    };
    let dkms = Package {
        name: "trafstat-dkms",
        architecture: X86_64.debian,
        relations: "Depends: dkms, gcc, make, libc6-dev\n\
             Recommends: trafstat, linux-headers-amd64\n"
            .to_owned(),
        description: "kernel module xt_TRAFSTAT of trafstat, built by DKMS\n \
             The target TRAFSTAT of iptables and ip6tables counts packets by flow. Its\n \
             Rust part comes built, the rest is compiled for each kernel: that needs gcc\n \
             and the kernel's headers only. The source of the Rust part is included, with\n \
             a script that builds the same object from it.\n",
        scripts: &["postinst", "prerm"],
        has_questions: false,
    };
    let made = vec![
        trafstat.make(&folder, &version, user_space, linked)?,
        dkms.make(&folder, &version, files::module_sources(object)?, "")?,
    ];
    step.done();
    Ok(made)
}

/// Builds the module's Rust object from its source in the DKMS package, in a fresh folder and with
/// the command that the package records: without network, and without what cargo has downloaded.
///
/// # Errors
///
/// It does not build, or is not the packaged object bit for bit.
pub fn rebuild_object(packaged: &[Installed]) -> Result<()> {
    let step = Step::begin("Building the module's Rust object from its package");
    let root = env::temp_dir().join(format!("trafstat-package-{}", process::id()));
    let folder = root.join(files::module_folder());
    let rebuild = || {
        for file in packaged {
            file.write(&root)?;
        }
        command::run(
            Command::new("sh")
                .arg(folder.join("rust/rebuild.sh"))
                .env("CARGO_HOME", root.join("cargo-home")),
            &step,
        )?;
        let object = fs::read(folder.join(kbuild::OBJECT))?;
        let rebuilt = fs::read(folder.join("rust").join(kbuild::OBJECT))?;
        ensure!(
            rebuilt == object,
            "the object that the package's source makes is not the packaged one"
        );
        Ok(())
    };
    let outcome = rebuild();
    fs::remove_dir_all(&root)?;
    outcome?;
    step.done();
    Ok(())
}

impl Package {
    fn make(
        &self,
        folder: &Path,
        version: &str,
        mut installed: Vec<Installed>,
        linked: &str,
    ) -> Result<PathBuf> {
        let root = folder.join(self.name);
        let doc = format!("usr/share/doc/{}", self.name);
        installed.push(files::plain(
            &format!("{doc}/copyright"),
            (copyright(&installed)? + linked).into_bytes(),
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
        if self.has_questions {
            let templates = format!("scripts/dist/debian/{}.templates", self.name);
            fs::copy(
                paths::repository().join(templates),
                debian.join("templates"),
            )?;
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

fn copyright(installed: &[Installed]) -> Result<String> {
    let licences = paths::repository().join("LICENSES");
    let text = |name: &str| fs::read_to_string(licences.join(name));
    let permission: Vec<_> = text("MIT.txt")?
        .lines()
        .skip_while(|line| !line.starts_with("Permission"))
        .map(str::to_owned)
        .collect();
    let own = "Copyright: 2026 the trafstat authors";
    let mut copyright = format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: trafstat\n\n\
         Files: *\n{own}\nLicense: GPL-2.0-or-later\n\n"
    );
    let module = format!("{}/", files::module_folder());
    if installed.iter().any(|file| file.path.starts_with(&module)) {
        copyright += &format!(
            "Files: *.c *.h Kbuild dkms.conf rust/module/ffi/* rust/rebuild.sh\n{own}\n\
             License: GPL-2.0-only\n\n\
             Files: xt_TRAFSTAT.h rust/module/abi/*\n{own}\n\
             License: GPL-2.0-only with Linux-syscall-note or Expat\n\n{}\
             License: GPL-2.0-only\n The text is in /usr/share/common-licenses/GPL-2.\n\n\
             License: GPL-2.0-only with Linux-syscall-note\n{}\n\
             License: Expat\n{}\n",
            rust_copyright(installed)?,
            paragraphs(&text("Linux-syscall-note.txt")?),
            paragraphs(&permission.join("\n"))
        );
    }
    copyright += "License: GPL-2.0-or-later\n \
                  Version 2 is in /usr/share/common-licenses/GPL-2, version 3 in\n \
                  /usr/share/common-licenses/GPL-3.\n\n";
    Ok(copyright)
}

/// The parts for the module's Rust object and the crates of others whose source is installed.
fn rust_copyright(installed: &[Installed]) -> Result<String> {
    let folder = format!("{}/rust/", files::module_folder());
    let source: Files = installed
        .iter()
        .filter_map(|file| {
            let path = file.path.strip_prefix(&folder)?;
            Some((path.to_owned(), file.content.clone()))
        })
        .collect();
    let crates = kernel_source::vendored(&source)?;
    if crates.is_empty() {
        return Ok(String::new());
    }
    let mut copyright = format!(
        "Files: {}\nCopyright: 2026 the trafstat authors\n The Rust Project contributors\n\
         License: GPL-2.0-only and (Expat or Apache-2.0)\n \
         It contains parts of Rust's core library, which are under Expat or Apache-2.0.\n\n\
         License: Apache-2.0\n The text is in /usr/share/common-licenses/Apache-2.0.\n\n",
        kbuild::OBJECT
    );
    for Vendored {
        path,
        license,
        holders,
        texts,
    } in crates
    {
        copyright += &format!(
            "Files: rust/{path}/*\nCopyright: {}\nLicense: {}\n{}\n",
            holders.join("\n "),
            license.replace(" OR ", " or ").replace(" AND ", " and "),
            paragraphs(&texts.join("\n\n"))
        );
    }
    Ok(copyright)
}

/// A text as a field of the copyright file goes on with it.
pub fn paragraphs(text: &str) -> String {
    text.trim_end()
        .lines()
        .map(|line| match line.trim_end() {
            "" => " .\n".to_owned(),
            line => format!(" {line}\n"),
        })
        .collect()
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

    #[test]
    fn copyright_has_the_licences_of_vendored_crates() {
        let crates = [
            (
                "Cargo.toml",
                "authors = [\"An Author <a@example.org>\"]\nlicense = \"MIT OR Apache-2.0\"\n",
            ),
            (
                "LICENSE-MIT",
                "Copyright 2020 Others\n\nPermission is hereby granted.\n",
            ),
            (
                "LICENSE-APACHE",
                "Apache License\n\nCopyright [yyyy] [name]\n",
            ),
        ];
        let folder = files::module_folder();
        let installed: Vec<_> = crates
            .iter()
            .map(|(name, text)| {
                files::plain(&format!("{folder}/rust/vendor/some/{name}"), (*text).into())
            })
            .collect();
        let copyright = copyright(&installed).unwrap();
        let part = "Files: rust/vendor/some/*\nCopyright: An Author <a@example.org>\n 2020 Others\n\
                    License: MIT or Apache-2.0\n \
                    Copyright 2020 Others\n .\n Permission is hereby granted.\n";
        assert!(copyright.contains(part), "{copyright}");
        assert!(!copyright.contains("yyyy"), "{copyright}");
    }
}
