// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest: the kernel of a Debian folder, booted with virtme-ng on that folder, read-only.
//!
//! The guest's own programs speak on its second serial line, which is this side's stdout pipe; the
//! first line is the kernel's console, which is kept and shown when the run does not succeed. A
//! run succeeds by saying so ([`SUCCESS`]) and in no other way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::platform::X86_64;
use crate::progress::{self, Step};
use crate::rootfs::{self, Rootfs};
use crate::tools::FromPypi;
use crate::{command, debug_kernel, packages, paths};

/// The line by which the program in the guest says that all went well.
pub const SUCCESS: &str = "TRAFSTAT GUEST SUCCEEDED";

const VIRTME_NG: FromPypi = FromPypi {
    package: "virtme-ng",
    version: "1.42",
    sha256: None,
    folder: "virtme-ng",
};
const PACKAGES: &[&str] = &["binutils", "file", "kmod", "procps", X86_64.qemu_package];

/// Where the guest has its own copy of what it shares with this host: a program that is started
/// from there does not come over 9p each time.
pub const PROGRAMS: &str = "/run/trafstat";

/// Where the guest has the host's recorded traffic, where that has any.
pub const CAPTURES: &str = "/run/captures";

/// What a guest's script begins with. The first root is 9p without a cache, on which each program
/// that is started is read anew, so a second mount with a cache takes its place.
const PROLOGUE: &str = "\
exec >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 raw
mount -t 9p -o ro,version=9p2000.L,trans=virtio,msize=524288,cache=loose rootfs /mnt
mkdir -p /run/captures
mount -t 9p -o ro,version=9p2000.L,trans=virtio,msize=524288 captures /run/captures 2>/dev/null ||
  rmdir /run/captures
for folder in proc sys dev run trafstat; do mount --rbind /$folder /mnt/$folder; done
cp -r /trafstat /run
exec chroot /mnt sh /run/trafstat/";

/// How long a kernel may take to its first line under KVM; under emulation it takes longer.
const KVM_PATIENCE: Duration = Duration::from_secs(8);

/// What runs a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Machine {
    /// Eight CPUs, two of them online, on this host's.
    Kvm,
    /// Eight emulated CPUs, two of them online, that take turns. When they run in parallel, QEMU 7.2
    /// can go on with code that the kernel has just patched: the guest dies of a breakpoint of its
    /// own, or hangs at it.
    Emulated,
    /// One emulated CPU whose clock advances by 1 ns an instruction and does not wait for this
    /// host's, so that a time in the guest is a number of instructions, the same on any host.
    Counting,
}

impl Machine {
    /// For names of files: guests of one kernel may run side by side on different ones.
    fn name(self) -> &'static str {
        match self {
            Machine::Kvm => "kvm",
            Machine::Emulated => "emulated",
            Machine::Counting => "counting",
        }
    }
}

/// What a guest is made of.
pub struct Guest<'a> {
    rootfs: &'a Rootfs,
    virtme_run: PathBuf,
    machine: Machine,
}

impl<'a> Guest<'a> {
    /// Installs what booting needs and finds out whether KVM works.
    ///
    /// # Errors
    ///
    /// Something cannot be installed.
    pub fn ensure(rootfs: &'a Rootfs) -> Result<Self> {
        let mut guest = Self::ensure_counting(rootfs)?;
        guest.machine = match guest.kvm_works()? {
            true => Machine::Kvm,
            false => Machine::Emulated,
        };
        Ok(guest)
    }

    /// Installs what booting a guest needs whose clock counts instructions.
    ///
    /// # Errors
    ///
    /// Something cannot be installed.
    pub fn ensure_counting(rootfs: &'a Rootfs) -> Result<Self> {
        packages::install(PACKAGES)?;
        Ok(Self {
            rootfs,
            virtme_run: VIRTME_NG.ensure()?.join("bin/virtme-run"),
            machine: Machine::Counting,
        })
    }

    /// Boots, runs `script` and hands each line that it prints to `line`.
    ///
    /// `share` is writable at [`rootfs::SHARE`]; a copy of what it held lies in [`PROGRAMS`].
    ///
    /// # Errors
    ///
    /// The guest does not say [`SUCCESS`], or not within `patience`; its console is printed.
    pub fn run(
        &self,
        script: &str,
        share: &Path,
        patience: Duration,
        line: impl FnMut(&str),
    ) -> Result<()> {
        let ended = self.boot(script, share, self.machine, patience, line)?;
        let failure = match ended.outcome {
            Outcome::Succeeded => return Ok(()),
            Outcome::Stopped => "The guest stopped without saying that it succeeded.".to_owned(),
            Outcome::HungUp => format!("The guest hung for {} s.", patience.as_secs()),
        };
        let console = ended.console;
        progress::above(|| eprintln!("{failure}\n---- the guest's console\n{console}\n----"));
        bail!("the run in the guest failed")
    }

    /// Whether its kernel is the one with every checker.
    pub fn is_debug(&self) -> bool {
        self.rootfs.is_debug
    }

    /// The kernel's release and how it is run, for a report.
    pub fn describe(&self) -> String {
        let machine = match self.machine {
            Machine::Kvm => "under KVM",
            Machine::Emulated => "under emulation",
            Machine::Counting => "with instructions counted",
        };
        format!("kernel {} {machine}", self.rootfs.kernel)
    }

    /// Tries KVM once for each boot of this host: it can be there without being usable.
    fn kvm_works(&self) -> Result<bool> {
        if fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            return Ok(false);
        }
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let remembered = paths::cache()?.join(format!("kvm-{}", self.rootfs.kernel));
        if let Some((known_id, works)) = fs::read_to_string(&remembered)
            .ok()
            .as_deref()
            .and_then(|text| text.split_once(' '))
            && known_id == boot_id.trim()
        {
            return Ok(works == "works");
        }
        let step = Step::begin("Trying KVM");
        let share = paths::target().join("stage/kvm");
        fs::create_dir_all(&share)?;
        let script = format!("echo {SUCCESS}");
        let ended = self.boot(&script, &share, Machine::Kvm, KVM_PATIENCE, |_| ())?;
        let works = matches!(ended.outcome, Outcome::Succeeded);
        let verdict = if works { "works" } else { "fails" };
        fs::write(&remembered, format!("{} {verdict}", boot_id.trim()))?;
        step.done();
        Ok(works)
    }

    fn boot(
        &self,
        script: &str,
        share: &Path,
        machine: Machine,
        patience: Duration,
        mut line: impl FnMut(&str),
    ) -> Result<Ended> {
        let run_dir =
            paths::target()
                .join("vm")
                .join(format!("{}-{}", self.rootfs.kernel, machine.name()));
        fs::create_dir_all(&run_dir)?;
        let console_path = run_dir.join("console.log");
        let pid_path = run_dir.join("qemu.pid");
        if pid_path.exists() {
            fs::remove_file(&pid_path)?;
        }
        // In files: virtme-ng puts a script that is too long for the kernel's command line into
        // the root folder instead.
        let script_file = format!("run-{}.sh", machine.name());
        let prologue_file = format!("boot-{}.sh", machine.name());
        fs::write(share.join(&script_file), script)?;
        fs::write(
            share.join(&prologue_file),
            format!("{PROLOGUE}{script_file}\n"),
        )?;
        let mut virtme = self.command(share, &prologue_file, machine, &pid_path);
        let mut child = virtme
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&console_path)?)
            .spawn()
            .with_context(|| format!("cannot run {}", command::describe(&virtme)))?;

        let (sender, receiver) = mpsc::channel();
        let stdout = child.stdout.take().context("the guest has no output")?;
        thread::spawn(move || {
            command::lines(stdout, &mut |line: &str| {
                // Nobody listens any more when the guest is given up.
                let _ = sender.send(line.to_owned());
            });
        });

        let deadline = Instant::now() + patience;
        let mut outcome = Outcome::Stopped;
        loop {
            match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(text) if text == SUCCESS => outcome = Outcome::Succeeded,
                Ok(text) => line(&text),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    // A guest that succeeded and then hangs has not succeeded.
                    outcome = Outcome::HungUp;
                    kill(&mut child, &pid_path)?;
                    break;
                }
            }
        }
        child.wait()?;
        let console = fs::read(&console_path)?;
        Ok(Ended {
            outcome,
            console: String::from_utf8_lossy(&console).replace('\r', ""),
        })
    }

    fn command(
        &self,
        share: &Path,
        prologue_file: &str,
        machine: Machine,
        pid_path: &Path,
    ) -> Command {
        let root = &self.rootfs.path;
        let (memory, boot_options) = if self.rootfs.is_debug {
            ("2G", debug_kernel::BOOT_OPTIONS)
        } else {
            ("1G", &[][..])
        };
        let mut command = Command::new(&self.virtme_run);
        command
            // virtme-run looks for the share's mount point from here.
            .current_dir(root)
            .arg("--kimg")
            .arg(self.rootfs.kernel_image())
            .arg("--root")
            .arg(root)
            .arg("--rwdir")
            .arg(format!("{}={}", rootfs::SHARE, share.display()))
            // A kernel with no modules would get no initial RAM disk otherwise, and find no root.
            .args(["--force-9p", "--force-initramfs", "--mods", "auto"])
            .args(match machine {
                Machine::Kvm | Machine::Emulated => ["--cpus", "2", "--memory", memory],
                // A million flows of every kind that are compared, at once.
                Machine::Counting => ["--cpus", "1", "--memory", "2G"],
            })
            // Up to warnings: what a failed run's console should show.
            .args(["--show-boot-console", "--kopt", "loglevel=5"])
            .args(["--kopt", "maxcpus=2"])
            .args(boot_options.iter().flat_map(|option| ["--kopt", *option]))
            .arg("--script-sh")
            .arg(format!("sh {}/{prologue_file}", rootfs::SHARE));
        if machine != Machine::Kvm {
            command.arg("--disable-kvm");
        }
        // The last option of virtme-run: everything after it is QEMU's.
        command
            .args([
                "--qemu-opts",
                "-chardev",
                "file,id=guest,path=/proc/self/fd/1",
            ])
            .args(["-serial", "chardev:guest", "-pidfile"])
            .arg(pid_path)
            .arg("-virtfs")
            .arg(format!(
                "local,path={},mount_tag=rootfs,security_model=none,readonly=on",
                root.display()
            ));
        match machine {
            Machine::Kvm => &mut command,
            Machine::Emulated => command.args(["-accel", "tcg,thread=single"]),
            Machine::Counting => command.args(["-icount", "shift=0,sleep=off"]),
        };
        if machine != Machine::Counting {
            // All but two are offline until a scenario has them online.
            command.args(["-smp", "8"]);
        }
        if let Some(captures) = paths::captures() {
            command.arg("-virtfs").arg(format!(
                "local,path={},mount_tag=captures,security_model=none,readonly=on",
                captures.display()
            ));
        }
        command
    }
}

struct Ended {
    outcome: Outcome,
    console: String,
}

enum Outcome {
    Succeeded,
    Stopped,
    HungUp,
}

/// Ends QEMU, which is a child of `virtme`, and with it `virtme`.
fn kill(virtme: &mut Child, pid_path: &Path) -> Result<()> {
    match fs::read_to_string(pid_path) {
        Ok(pid) => command::run_visibly(Command::new("kill").args(["-KILL", pid.trim()])),
        // QEMU never started.
        Err(_) => Ok(virtme.kill()?),
    }
}
