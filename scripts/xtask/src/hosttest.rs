// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask hosttest`: tests of hosts in virtual machines with their own init, from the packages'
//! installation to their purge, each on a copy of one disk.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::build::Parts;
use crate::platform::{Platform, X86_64};
use crate::progress::Step;
use crate::rootfs::Rootfs;
use crate::vm::SUCCESS;
use crate::{command, package, packages, paths};

/// Two boots, a module built and a timer waited for, under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90 * 60);

/// The tests' names, as `host::run` of vmtests has them, and further kernel parameters.
const TESTS: [(&str, &str); 8] = [
    ("systemd", ""),
    ("mariadb", ""),
    ("cron", ""),
    ("no-ipv6", "ipv6.disable=1"),
    ("setups", ""),
    (ORIGINAL, ""),
    ("findings", ""),
    ("signature", "module.sig_enforce=1"),
];

/// The test that begins with the original xt_TRAFSTAT, whose sources are no part of this project:
/// [`ORIGINAL_SOURCES`] names their folder.
const ORIGINAL: &str = "original";
const ORIGINAL_SOURCES: &str = "TRAFSTAT_ORIGINAL";

/// Debian's packages that the tests install; the guest has no network.
const LATER_PACKAGES: &[&[&str]] = &[
    &["mariadb-server"],
    &["cron", "sysvinit-core", "systemd-sysv-"],
    &["nftables"],
    &["sqlite3"],
    &["iptables-persistent"],
    &["ufw"],
    &["docker.io"],
    &["firewalld"],
];

/// What makes the disk and boots it.
const PACKAGES: &[&str] = &["binutils", "dpkg-dev", "e2fsprogs", X86_64.qemu_package];

/// What a plain host has beyond the folder, and what the packages depend on.
const GUEST_PACKAGES: &[&str] = &["dbus", "dkms", "initramfs-tools", "systemd-sysv", "udev"];

/// Runs at each boot of the guest.
const UNIT: &str = "\
[Unit]
Description=The host test
After=multi-user.target

[Service]
Type=simple
ExecStart=/var/tmp/host-test/trafstat-vmtests host-test
ExecStopPost=/bin/sh -c 'test \"$$SERVICE_RESULT\" = success || systemctl poweroff'
StandardOutput=file:/dev/ttyS1
StandardError=inherit

[Install]
WantedBy=graphical.target
";

/// Runs the tests on `platform` whose names contain `filter`.
///
/// # Errors
///
/// Something does not build, or a host is not as it should be.
pub fn run(platform: &Platform, filter: Option<&str>) -> Result<()> {
    let filter = filter.unwrap_or_default();
    let original = env::var_os(ORIGINAL_SOURCES);
    let mut wanted: Vec<_> = TESTS
        .iter()
        .filter(|(name, _)| name.contains(filter))
        .collect();
    if wanted.is_empty() {
        let names: Vec<_> = TESTS.iter().map(|(name, _)| *name).collect();
        bail!("there is no such host test; there are {}", names.join(", "));
    }
    if original.is_none() {
        let named = wanted.len();
        wanted.retain(|(name, _)| *name != ORIGINAL);
        if wanted.len() < named {
            println!(
                "The host test {ORIGINAL} is skipped: there are no sources of the original; \
                 {ORIGINAL_SOURCES} names their folder"
            );
        }
    }
    packages::require_root("making the guest's disk", "hosttest")?;
    packages::install(PACKAGES)?;
    let parts = Parts::build()?;
    let rootfs = Rootfs::ensure(platform)?;
    let folder = paths::target().join("hosttest").join(platform.kernel);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let root = host_folder(&rootfs, &folder)?;
    let shared = root.path.join("var/tmp/host-test");
    for revision in [1, 2] {
        let to = shared.join(format!("packages-{revision}"));
        fs::create_dir_all(&to)?;
        for deb in package::make(&parts.programs, &parts.plugin, &parts.object, revision, "")? {
            fs::copy(
                &deb,
                to.join(deb.file_name().context("a package without a name")?),
            )?;
        }
    }
    fs::copy(&parts.programs.vmtests, shared.join("trafstat-vmtests"))?;
    if let Some(sources) = original {
        command::read(
            Command::new("cp")
                .args(["--recursive", "--no-target-directory"])
                .arg(sources)
                .arg(shared.join(ORIGINAL)),
        )?;
    }
    let disk = disk(&root, &folder)?;
    let mut failed = Vec::new();
    for (name, parameters) in &wanted {
        if let Err(error) = boot(&root, &folder, &disk, name, parameters) {
            eprintln!("{name}: {error:#}");
            failed.push(*name);
        }
    }
    fs::remove_dir_all(&root.path)?;
    fs::remove_file(&disk)?;
    println!(
        "hosts with kernel {}: {} passed, {} failed, {} skipped",
        platform.kernel,
        wanted.len() - failed.len(),
        failed.len(),
        TESTS.len() - wanted.len()
    );
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// A copy of the platform's folder with systemd and an initial RAM disk.
fn host_folder(rootfs: &Rootfs, folder: &Path) -> Result<Rootfs> {
    let step = Step::begin("Making a host of the Debian folder");
    let root = Rootfs {
        path: folder.join("root"),
        kernel: rootfs.kernel.clone(),
        is_debug: false,
        architecture: rootfs.architecture,
    };
    command::run(
        Command::new("cp")
            .args(["--archive", "--reflink=auto", "--no-target-directory"])
            .arg(&rootfs.path)
            .arg(&root.path),
        &step,
    )?;
    let shared = folder.join("shared");
    fs::create_dir_all(&shared)?;
    let run = |program: &str, arguments: &[&str]| {
        let mut command = root.command(&shared, program);
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(arguments);
        command::run(&mut command, &step)
    };
    run("apt-get", &["update"])?;
    // The folder's own udev is without its daemon.
    let install = ["install", "--yes", "--no-install-recommends", "--reinstall"];
    run("apt-get", &[&install[..], GUEST_PACKAGES].concat())?;
    run("apt-get", &["clean"])?;
    for packages in LATER_PACKAGES {
        let download = [
            "install",
            "--yes",
            "--no-install-recommends",
            "--download-only",
        ];
        run("apt-get", &[&download[..], packages].concat())?;
    }
    let modules = root.path.join("etc/initramfs-tools/modules");
    fs::write(modules, "virtio_blk\nvirtio_pci\next4\n")?;
    run("update-initramfs", &["-c", "-k", &root.kernel])?;
    fs::remove_file(root.path.join("usr/sbin/policy-rc.d"))?;
    fs::write(root.path.join("etc/hostname"), "gateway\n")?;
    fs::write(
        root.path.join("etc/fstab"),
        "/dev/vda / ext4 defaults 0 1\n",
    )?;
    fs::write(root.path.join("etc/systemd/system/host-test.service"), UNIT)?;
    run("systemctl", &["enable", "host-test.service"])?;
    run("systemctl", &["set-default", "graphical.target"])?;
    step.done();
    Ok(root)
}

fn disk(root: &Rootfs, folder: &Path) -> Result<PathBuf> {
    let step = Step::begin("Making the host's disk");
    let disk = folder.join("disk");
    command::run(
        Command::new("mkfs.ext4")
            .args(["-q", "-d"])
            .arg(&root.path)
            .arg(&disk)
            .arg("4G"),
        &step,
    )?;
    step.done();
    Ok(disk)
}

fn boot(root: &Rootfs, folder: &Path, disk: &Path, name: &str, parameters: &str) -> Result<()> {
    let step = Step::begin(format!("The host test {name} with kernel {}", root.kernel));
    let console = folder.join(format!("{name}.log"));
    let mut qemu = Command::new(root.architecture.qemu)
        .args(["-accel", "tcg,thread=single"])
        .args(["-cpu", "max", "-smp", "2", "-m", "1G"])
        .args(["-display", "none", "-nic", "none", "-kernel"])
        .arg(root.kernel_image())
        .arg("-initrd")
        .arg(
            root.path
                .join("boot")
                .join(format!("initrd.img-{}", root.kernel)),
        )
        .arg("-append")
        .arg(format!(
            "root=/dev/vda rw console=ttyS0 loglevel=5 net.ifnames=0 trafstat.host-test={name} {parameters}"
        ))
        .arg("-drive")
        .arg(format!(
            // What is written goes with the guest.
            "file={},format=raw,if=virtio,cache=unsafe,snapshot=on",
            disk.display()
        ))
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", root.architecture.qemu))?;
    let (sender, receiver) = mpsc::channel();
    let stdout = qemu.stdout.take().context("the guest has no output")?;
    thread::spawn(move || {
        command::lines(stdout, &mut |line: &str| {
            // Nobody listens any more when the guest is given up.
            let _ = sender.send(line.to_owned());
        });
    });
    let deadline = Instant::now() + PATIENCE;
    let mut succeeded = false;
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line.starts_with("error: ") => {
                step.print(&line);
                // The rest of it has no end of its own.
                thread::sleep(Duration::from_secs(2));
                receiver.try_iter().for_each(|line| step.print(&line));
                break;
            }
            Ok(line) => {
                step.print(&line);
                if line == SUCCESS {
                    succeeded = true;
                    break;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                step.print("The guest hung.");
                break;
            }
        }
    }
    // It may have ended by itself.
    let _ = qemu.kill();
    qemu.wait()?;
    if !succeeded {
        bail!("the host failed; its console is {}", console.display());
    }
    step.done();
    Ok(())
}
