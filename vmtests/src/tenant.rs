// SPDX-License-Identifier: GPL-2.0-or-later
//! A user with namespaces of its own: root in them, an ordinary user to everybody else.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::guest::{Guest, Skipped};
use crate::proc;
use crate::process::{self, ProgramOutput};
use crate::topology::Netns;

/// What everything that a tenant may make hang has to end within.
pub const LIMIT: Duration = Duration::from_secs(5);

/// The user that owns nothing on Debian.
pub const NOBODY: u32 = 65534;

/// Namespaces and their readers are made in no time, but on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// Files that a tenant may have open at a time.
const OPEN_FILES: u64 = 20_000;

/// The program that blocks readers.
const BLOCKED: &str = include_str!("blocked.py");

const USERFAULTFD_FOR_USERS: &str = "/proc/sys/vm/unprivileged_userfaultfd";

/// User, network and mount namespaces of one user, for as long as this lives.
pub struct Tenant {
    // Before the process that holds it: namespaces end when nothing is left in them.
    netns: Netns,
    holder: Holder,
    plugin_path: OsString,
}

struct Holder(Child);

impl Tenant {
    /// Makes the namespaces as user `uid`; the network's name is `name`.
    ///
    /// # Errors
    ///
    /// The kernel lets users make none.
    pub fn new(guest: &Guest, name: &'static str, uid: u32) -> Result<Self> {
        let uid = uid.to_string();
        let mut unshare = Command::new("nsenter");
        // Who lives in a chroot, as this guest does, may make no user namespace.
        unshare
            .arg("--mount=/proc/1/ns/mnt")
            .args(["setpriv", "--reuid", &uid, "--regid", &uid])
            .arg("--clear-groups");
        Self::hold(unshare, name, guest.plugin_path())
    }

    /// Makes a user namespace within this one, with a network of its own called `name`.
    ///
    /// # Errors
    ///
    /// As for [`Tenant::new`].
    pub fn nested(&self, name: &'static str) -> Result<Self> {
        let mut unshare = self.enter("--mount");
        unshare.args(["--setuid", "0", "--setgid", "0"]);
        Self::hold(unshare, name, self.plugin_path.clone())
    }

    fn hold(mut unshare: Command, name: &'static str, plugin_path: OsString) -> Result<Self> {
        unshare.args(["unshare", "--user", "--map-root-user", "--net", "--mount"]);
        let holder = Holder(unshare.args(["sleep", "3600"]).spawn()?);
        let pid = holder.0.id();
        let deadline = Instant::now() + PATIENCE;
        // All are in place once the last program runs.
        while fs::read_to_string(format!("/proc/{pid}/comm"))?.trim() != "sleep" {
            ensure!(Instant::now() < deadline, "no namespaces were made");
            thread::sleep(Duration::from_millis(50));
        }
        let tenant = Self {
            netns: Netns::attach(name, pid)?,
            holder,
            plugin_path,
        };
        tenant.succeed(&["ip", "link", "set", "lo", "up"])?;
        Ok(tenant)
    }

    /// The tenant's network.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A program as the namespaces' own root.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.enter("--net");
        command
            .args(["--setuid", "0", "--setgid", "0"])
            .args(arguments)
            .env("XTABLES_LIBDIR", &self.plugin_path);
        command
    }

    /// Runs a program as the namespaces' own root, with `input` on its standard input.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn end(&self, arguments: &[&str], input: &str) -> Result<ProgramOutput> {
        process::end_with_input(&mut self.command(arguments), input)
    }

    /// Runs a program as the namespaces' own root; it must exit with 0.
    ///
    /// # Errors
    ///
    /// It exits otherwise.
    pub fn succeed(&self, arguments: &[&str]) -> Result<String> {
        process::succeed(&mut self.command(arguments))
    }

    /// Adds `rules`, as `iptables-save` prints them, to those that are there.
    ///
    /// # Errors
    ///
    /// One is refused.
    pub fn restore(&self, rules: &str) -> Result<()> {
        let ended = self.end(&["iptables-nft-restore", "--noflush"], rules)?;
        ensure!(ended.code == Some(0), "{ended:?}");
        Ok(())
    }

    /// The bytes that its accounts say that they hold, all together.
    ///
    /// # Errors
    ///
    /// As for [`proc::accounts`].
    pub fn memory(&self) -> Result<u64> {
        proc::accounts(&self.netns)?
            .iter()
            .map(|account| proc::number(account, "memory_bytes"))
            .sum()
    }

    /// Makes accounts, one after the other, until one is refused or there are `most`; returns how
    /// many there were, and deletes them again.
    ///
    /// # Errors
    ///
    /// One is refused for another reason than want of memory.
    pub fn count_possible_accounts(&self, most: usize) -> Result<usize> {
        let rules: String = (0..most)
            .map(|number| {
                format!(
                    "*filter\n-A FORWARD -j TRAFSTAT --local-net 10.0.0.0/8 --name a{number}\nCOMMIT\n"
                )
            })
            .collect();
        let ended = self.end(&["iptables-nft-restore", "--noflush"], &rules)?;
        ensure!(
            ended.code == Some(0) || ended.stderr.contains("Cannot allocate memory"),
            "refused for another reason: {ended:?}"
        );
        let accounts = proc::accounts(&self.netns)?.len();
        self.succeed(&["iptables-nft", "-F", "FORWARD"])?;
        Ok(accounts)
    }

    fn enter(&self, namespace: &str) -> Command {
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--nofile={OPEN_FILES}:{OPEN_FILES}"))
            .args(["nsenter", "--target", &self.holder.0.id().to_string()])
            .args(["--user", "--net", namespace]);
        command
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("the user's namespaces are left over: {error}");
        }
    }
}

/// How a tenant has user memory that never comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A page of a file that a server of its own never answers for.
    Fuse,
    /// A page whose fault it asked to handle and does not.
    Userfaultfd,
}

impl Way {
    /// The ways that this kernel has, open to users.
    ///
    /// # Errors
    ///
    /// [`Skipped`] where it has none.
    pub fn all() -> Result<Vec<Self>> {
        let mut ways = Vec::new();
        // Built in, or there is none.
        let _ = process::end(Command::new("modprobe").args(["--quiet", "fuse"]))?;
        let device = Path::new("/dev/fuse");
        if device.exists() {
            // As udev leaves it.
            fs::set_permissions(device, Permissions::from_mode(0o666))?;
            ways.push(Self::Fuse);
        }
        if Path::new(USERFAULTFD_FOR_USERS).exists() {
            fs::write(USERFAULTFD_FOR_USERS, "1")?;
            ways.push(Self::Userfaultfd);
        }
        if ways.is_empty() {
            bail!(Skipped("this kernel has neither FUSE nor userfaultfd"));
        }
        Ok(ways)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Fuse => "fuse",
            Self::Userfaultfd => "userfaultfd",
        }
    }
}

/// Readers that are blocked, for as long as this lives.
pub struct Blocked {
    leader: Child,
    /// Each reader's process and its file.
    pub readers: Vec<(u32, String)>,
    servers: Vec<u32>,
}

impl Blocked {
    /// Blocks a reader of each of `files`, paths below the module's folder, in `netns`.
    ///
    /// # Errors
    ///
    /// One does not block.
    pub fn new(tenant: &Tenant, netns: &Netns, way: Way, files: &[&str]) -> Result<Self> {
        Self::start(tenant, netns, way, &["0", ""], files)
    }

    /// Makes `namespaces` networks with `rules` and blocks a reader in each, of one of `files`.
    ///
    /// # Errors
    ///
    /// One does not block.
    pub fn in_namespaces(
        tenant: &Tenant,
        way: Way,
        namespaces: usize,
        rules: &str,
        files: &[&str],
    ) -> Result<Self> {
        let namespaces = namespaces.to_string();
        Self::start(tenant, &tenant.netns, way, &[&namespaces, rules], files)
    }

    fn start(
        tenant: &Tenant,
        netns: &Netns,
        way: Way,
        arguments: &[&str],
        files: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new("nsenter");
        let mut leader = command
            .args(["--target", &tenant.holder.0.id().to_string()])
            .args(["--user", "--mount", "--setuid", "0", "--setgid", "0"])
            .arg(format!("--net={}", netns.path()))
            .args(["chroot", root_seen_by_init()?])
            .args(["python3", "-c", BLOCKED, way.name()])
            .args(arguments)
            .args(files)
            .env("XTABLES_LIBDIR", &tenant.plugin_path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let stdout = leader.stdout.take().context("no output")?;
        let mut blocked = Self {
            leader,
            readers: Vec::new(),
            servers: Vec::new(),
        };
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            // Nobody listens any more once all are blocked.
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.map(|line| sender.send(line)).all(|sent| sent.is_ok())
        });
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = receiver.recv_timeout(left);
            let line = line.with_context(|| format!("no reader of {files:?} is blocked"))?;
            let mut words = line.split(' ');
            let what = words.next();
            let pid = words.next().and_then(|pid| pid.parse().ok());
            match (what, pid, words.next()) {
                (Some("ready"), ..) => return Ok(blocked),
                (Some("reader"), Some(pid), Some(file)) => {
                    blocked.readers.push((pid, file.to_owned()));
                }
                (Some("error"), ..) => bail!("a reader is not blocked: {line}"),
                (Some("server"), Some(pid), _) => blocked.servers.push(pid),
                _ => bail!("{line:?} instead of a process"),
            }
        }
    }

    /// Kills the readers and whatever keeps them waiting; all must be gone within [`LIMIT`].
    ///
    /// # Errors
    ///
    /// One is not.
    pub fn kill(mut self) -> Result<()> {
        self.signal();
        self.wait_until_gone()
    }

    fn wait_until_gone(&mut self) -> Result<()> {
        let readers = self.readers.iter().map(|(pid, _)| *pid);
        let pids: Vec<_> = readers.chain(self.servers.drain(..)).collect();
        process::wait_until_gone(&pids, LIMIT)
    }

    fn signal(&mut self) {
        let leader = Pid::from_child(&self.leader);
        let killed = kill_process_group(leader, Signal::KILL);
        if let Err(error) = killed.map_err(Into::into).and_then(|()| self.leader.wait()) {
            eprintln!("blocked readers are left over: {error}");
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // The leader is reaped once it was killed; its number could be another's by then.
        if matches!(self.leader.try_wait(), Ok(None)) {
            self.signal();
        }
    }
}

/// This program's root folder, as the first process sees it: a guest's programs live in a chroot.
fn root_seen_by_init() -> Result<&'static str> {
    let identity = |path: &str| -> Result<_> {
        let metadata = fs::metadata(path).with_context(|| format!("no {path}"))?;
        Ok((metadata.dev(), metadata.ino()))
    };
    let own = identity("/")?;
    for root in ["/", "/mnt"] {
        if identity(&format!("/proc/1/root{root}"))? == own {
            return Ok(root);
        }
    }
    bail!("the first process does not see this program's root folder")
}
