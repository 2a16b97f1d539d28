// SPDX-License-Identifier: GPL-2.0-or-later
//! An apt repository of a release's packages, signed with OpenPGP.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::progress::Step;
use crate::{command, packages, paths, rootfs};

/// What makes and signs a repository.
const PACKAGES: &[&str] = &["apt-utils", "gpg", "gpg-agent"];

/// The suite and component that a host's sources name.
const SUITE: &str = "stable";
const COMPONENT: &str = "main";
const KEYRING: &str = "trafstat.asc";
const SUMS: &str = "SHA256SUMS";

/// Which key signs.
pub enum Key {
    /// The user's, as gpg knows it: a fingerprint or an address.
    Given(String),
    /// One that is made on the spot and signs nothing but trials.
    ForTests,
}

impl Key {
    /// Whether nobody is to trust it.
    pub fn is_for_tests(&self) -> bool {
        matches!(self, Self::ForTests)
    }

    fn signer(&self) -> Result<Signer> {
        match self {
            Self::Given(name) => Ok(Signer {
                home: None,
                name: name.clone(),
            }),
            Self::ForTests => Signer::generate("release-key"),
        }
    }
}

/// A key that gpg has.
struct Signer {
    /// gpg's folder where it is not the user's own.
    home: Option<PathBuf>,
    name: String,
}

impl Signer {
    /// A new key without a passphrase, in a folder of its own below the target folder.
    fn generate(folder: &str) -> Result<Self> {
        let home = paths::target().join(folder);
        if home.exists() {
            fs::remove_dir_all(&home)?;
        }
        fs::create_dir_all(&home)?;
        command::read(Command::new("chmod").arg("0700").arg(&home))?;
        let signer = Self {
            home: Some(home),
            name: "trafstat test key <trafstat@localhost>".to_owned(),
        };
        command::read(
            signer
                .gpg()
                .args(["--quiet", "--passphrase", "", "--quick-generate-key"])
                .args([&signer.name, "ed25519", "sign", "1d"]),
        )?;
        Ok(signer)
    }

    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.args(["--batch", "--yes"]);
        if let Some(home) = &self.home {
            gpg.arg("--homedir").arg(home);
        }
        gpg
    }

    fn sign(&self, how: &str, file: &Path, to: &Path) -> Result<()> {
        command::read(
            self.gpg()
                .args(["--armor", "--digest-algo", "SHA512", "--local-user"])
                .args([&self.name, how, "--output"])
                .args([to, file]),
        )
        .map(drop)
    }

    fn public_key(&self) -> Result<String> {
        let key = command::read(self.gpg().args(["--armor", "--export", &self.name]))?;
        ensure!(!key.is_empty(), "gpg has no key {}", self.name);
        Ok(key + "\n")
    }
}

impl Drop for Signer {
    /// Ends the agent that gpg started for a folder of its own, and removes the key.
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let mut gpgconf = Command::new("gpgconf");
            gpgconf.arg("--homedir").arg(home);
            // An agent without its folder ends by itself, later.
            let _ = command::read(gpgconf.args(["--kill", "gpg-agent"]));
            let _ = fs::remove_dir_all(home);
        }
    }
}

/// Makes the repository in `target/release-repo` and returns its folder.
///
/// # Errors
///
/// gpg does not sign, or a file cannot be written.
pub fn make(debs: &[PathBuf], notes: &str, key: &Key) -> Result<PathBuf> {
    packages::install(PACKAGES)?;
    let step = Step::begin("Making the apt repository");
    let signer = key.signer()?;
    let repository = paths::target().join("release-repo");
    if repository.exists() {
        fs::remove_dir_all(&repository)?;
    }
    let pool = repository.join("pool");
    let dist = repository.join("dists").join(SUITE);
    let lists = dist.join(COMPONENT).join("binary-amd64");
    fs::create_dir_all(&pool)?;
    fs::create_dir_all(&lists)?;
    for deb in debs {
        let name = deb.file_name().context("a package without a name")?;
        fs::copy(deb, pool.join(name))?;
    }
    fs::write(repository.join(KEYRING), signer.public_key()?)?;
    fs::write(repository.join("CHANGES.md"), format!("{notes}\n"))?;

    let archive = |arguments: &[&str]| {
        let mut command = Command::new("apt-ftparchive");
        command::read(command.current_dir(&repository).args(arguments))
    };
    let list = lists.join("Packages");
    fs::write(&list, archive(&["packages", "pool"])? + "\n\n")?;
    command::read(Command::new("gzip").args(["--keep", "-9n"]).arg(&list))?;
    let fields = [
        ("Origin", "trafstat"),
        ("Label", "trafstat"),
        ("Suite", SUITE),
        ("Codename", SUITE),
        ("Architectures", "amd64"),
        ("Components", COMPONENT),
        ("Description", "trafstat for Debian 12 and 13"),
    ]
    .map(|(name, value)| format!("-oAPT::FTPArchive::Release::{name}={value}"));
    let folder = format!("dists/{SUITE}");
    let mut arguments: Vec<_> = fields.iter().map(String::as_str).collect();
    arguments.extend(["release", &folder]);
    let release = dist.join("Release");
    // Written at once: the file is not to list itself.
    let text = archive(&arguments)? + "\n";
    fs::write(&release, text)?;
    signer.sign("--detach-sign", &release, &dist.join("Release.gpg"))?;
    signer.sign("--clear-sign", &release, &dist.join("InRelease"))?;

    let sums = command::read(
        Command::new("sh")
            .current_dir(&repository)
            .args(["-c", "sha256sum pool/*"]),
    )? + "\n";
    let sums_path = repository.join(SUMS);
    fs::write(&sums_path, sums)?;
    let signature = repository.join(format!("{SUMS}.asc"));
    signer.sign("--detach-sign", &sums_path, &signature)?;
    step.done();
    Ok(repository)
}

/// Installs the packages with apt from the repository in a folder of a Debian release, and purges
/// them. apt must refuse the repository for another key and with a changed list of packages.
///
/// # Errors
///
/// apt takes what it must not, or does not install the packages of `version`.
pub fn verify(repository: &Path, release: &str, version: &str) -> Result<()> {
    let root = rootfs::copy_of_base(release, &paths::target().join("release-root"))?;
    let step = Step::begin(format!(
        "Installing from the repository in Debian {release}"
    ));
    let other = Signer::generate("release-other-key")?;
    let outcome = install(repository, &root, version, &other, &step);
    fs::remove_dir_all(&root)?;
    outcome.with_context(|| format!("in Debian {release}"))?;
    step.done();
    Ok(())
}

fn install(
    repository: &Path,
    root: &Path,
    version: &str,
    other: &Signer,
    step: &Step,
) -> Result<()> {
    let run = |folder: &Path, words: &[&str]| {
        let mut command = rootfs::command_in(root, folder, words[0]);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command::run(command.args(&words[1..]), step)
    };
    let etc = root.join("etc/apt");
    fs::write(
        etc.join("sources.list.d/trafstat.sources"),
        format!(
            "Types: deb\nURIs: file:///mnt\nSuites: {SUITE}\nComponents: {COMPONENT}\n\
             Signed-By: /etc/apt/keyrings/{KEYRING}\n"
        ),
    )?;
    let keyrings = etc.join("keyrings");
    fs::create_dir_all(&keyrings)?;
    let trust = |key: String| fs::write(keyrings.join(KEYRING), key);
    let update = [
        "apt-get",
        "update",
        "-oDir::Etc::SourceList=/etc/apt/sources.list.d/trafstat.sources",
        "-oDir::Etc::SourceParts=-",
        "-oAPT::Get::List-Cleanup=0",
    ];

    trust(other.public_key()?)?;
    refuses(run(repository, &update), "a key that it does not know")?;
    trust(fs::read_to_string(repository.join(KEYRING))?)?;
    let changed = paths::target().join("release-changed");
    if changed.exists() {
        fs::remove_dir_all(&changed)?;
    }
    command::read(
        Command::new("cp")
            .args(["--recursive", "--no-target-directory"])
            .args([repository, &changed]),
    )?;
    let inside = changed.join("dists").join(SUITE).join("InRelease");
    let text = fs::read_to_string(&inside)?;
    fs::write(
        &inside,
        text.replace("Origin: trafstat", "Origin: somebody"),
    )?;
    refuses(run(&changed, &update), "a list that was changed")?;
    fs::remove_dir_all(&changed)?;

    run(repository, &["apt-get", "update"])?;
    let install = ["install", "--yes", "--no-install-recommends"];
    let ours = ["trafstat", "trafstat-dkms"];
    run(repository, &[&["apt-get"], &install[..], &ours].concat())?;
    let says = |words: &[&str]| run(repository, words);
    for program in ["trafstat", "trafstat-store"] {
        let said = says(&[program, "--version"])?;
        ensure!(said.trim().ends_with(version), "{program} says {said}");
    }
    let policy = says(&["apt-cache", "policy", "trafstat"])?;
    ensure!(
        policy.contains(&format!("Installed: {version}-"))
            && policy.contains("file:/mnt stable/main amd64 Packages"),
        "apt knows the package from elsewhere:\n{policy}"
    );
    let copyright = fs::read_to_string(root.join("usr/share/doc/trafstat/copyright"))?;
    ensure!(
        copyright.contains("Files: crates/"),
        "the package's copyright names no libraries"
    );
    // The extension's page and options come from the package alone.
    says(&["iptables", "-j", "TRAFSTAT", "--help"])?;
    run(
        repository,
        &[&["apt-get", "purge", "--yes"], &ours[..]].concat(),
    )?;
    let left = says(&["sh", "-c", "find /etc/systemd /var/lib -name '*trafstat*'"])?;
    let left: Vec<_> = left
        .lines()
        .filter(|path| !path.starts_with("/var/lib/apt/lists/"))
        .collect();
    ensure!(left.is_empty(), "the purge leaves {}", left.join(", "));
    Ok(())
}

/// apt must have failed because of a signature.
fn refuses(outcome: Result<String>, what: &str) -> Result<()> {
    let Err(error) = outcome else {
        anyhow::bail!("apt takes a repository that is signed by {what}");
    };
    let error = error.to_string();
    ensure!(
        [
            "NO_PUBKEY",
            "BADSIG",
            "Missing key",
            "is not signed",
            "Bad signature"
        ]
        .iter()
        .any(|word| error.contains(word)),
        "apt fails for another reason than {what}:\n{error}"
    );
    Ok(())
}
