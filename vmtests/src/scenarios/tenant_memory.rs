// SPDX-License-Identifier: GPL-2.0-or-later
//! A user takes no more kernel memory than the cap says, however it goes about it: ten thousand open
//! files, and epochs that are filled, closed and acknowledged faster than the kernel frees.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::checkers::Checkers;
use crate::family::Family;
use crate::guest::Guest;
use crate::module;
use crate::proc::{AccountKey, Snapshot};
use crate::tenant::{NOBODY, Tenant};
use crate::traffic;

/// What the user may take, of which the files need the larger part.
const CAP: u64 = 256 << 20;
const FILES: u64 = 10_000;

/// The flows of an epoch: with the files, well over half the cap.
const FLOWS: u32 = 500_000;
/// As many take a kernel with checkers minutes.
const FLOWS_WITH_CHECKERS: u32 = 50_000;
const EPOCHS: u32 = 3;

const ACCOUNT: AccountKey<'static> = AccountKey {
    family: Family::Ipv6,
    name: "fill",
};

/// Opens a file over and over, until it is refused, and prints how often; closes it when told to.
const OPENER: &str = r#"
import os, sys
files = []
try:
    while len(files) < int(sys.argv[2]):
        files.append(os.open(sys.argv[1], os.O_RDONLY))
except OSError as error:
    print(error, file=sys.stderr)
print(len(files), flush=True)
sys.stdin.readline()
"#;

const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(guest: &Guest) -> Result<()> {
    // Checkers take memory of their own for each allocation, and keep what is freed for a while.
    let is_exact = Checkers::find()?.is_none();
    let flows = if is_exact { FLOWS } else { FLOWS_WITH_CHECKERS };
    let max_memory = format!("max_memory={}", 2 * CAP);
    let caps = ["max_user_memory", "max_tenant_memory"].map(|cap| format!("{cap}={CAP}"));
    module::load_with(guest, &[&max_memory, &caps[0], &caps[1]])?;
    let _lists = ShortPageLists::new()?;
    let tenant = Tenant::new(guest, "trafstat-tenant", NOBODY)?;
    let route = format!("-6 route add local {} dev lo", traffic::LOOPBACK_FLOWS);
    tenant.netns().ip(&route)?;
    tenant.restore("*filter\n-A FORWARD -j ACCEPT\nCOMMIT\n")?;

    let before = kernel_memory()?;
    let files = Files::open(&tenant, "/proc/self/net/dev")?;
    ensure!(files.number == FILES, "{} files can be open", files.number);
    let by_files = kernel_memory()?.saturating_sub(before);
    drop(files);
    if is_exact {
        wait_until_below(before + by_files / 10)?;
    }

    let before = kernel_memory()?;
    let add = "-A OUTPUT -o lo -p udp -j TRAFSTAT --local-net ::1 --name fill \
               --local-udp-ports all --remote-udp-ports all";
    let mut ip6tables = vec!["ip6tables-nft"];
    ip6tables.extend(add.split_whitespace());
    tenant.succeed(&ip6tables)?;
    let watched = Watched::new(before);
    let (seen, files) = watched.during(|| {
        let path = "/proc/self/net/trafstat/live/ipv6/fill";
        let files = Files::open(&tenant, path)?;
        let mut seen = 0;
        for _ in 0..EPOCHS {
            let send = || traffic::loopback_flows(Family::Ipv6, 0..flows);
            tenant.netns().enter(send)?;
            seen += Snapshot::collect(tenant.netns(), ACCOUNT)?
                .header
                .seen_packets;
        }
        Ok((seen, files))
    })?;
    let most = watched.most.load(Relaxed);
    println!(
        "{} files of the module's and {EPOCHS} epochs take {} KiB, {FILES} other files {} KiB",
        files.number,
        most >> 10,
        by_files >> 10
    );
    if is_exact {
        ensure!(
            most <= CAP + CAP / 20 + by_files,
            "{most} bytes are taken, {CAP} is the cap, and as many other files take {by_files}"
        );
        ensure!(
            most > CAP / 2,
            "{most} bytes are taken: the cap of {CAP} was never near"
        );
    }
    ensure!(
        seen == u64::from(flows * EPOCHS),
        "{seen} packets of {} were seen",
        flows * EPOCHS
    );
    drop(files);
    drop(tenant);
    module::wait_until_unused()?;
    if is_exact {
        wait_until_below(before + CAP / 10)?;
    }
    Ok(())
}

/// Files that the tenant has open, for as long as this lives.
struct Files {
    process: Child,
    /// What it waits for.
    stdin: Option<ChildStdin>,
    number: u64,
}

impl Files {
    fn open(tenant: &Tenant, path: &str) -> Result<Self> {
        let most = FILES.to_string();
        let mut python = tenant.command(&["python3", "-c", OPENER, path, &most]);
        let mut process = python
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = process.stdout.take().context("no output")?;
        let read = BufReader::new(stdout).read_line(&mut line);
        let mut files = Self {
            stdin: process.stdin.take(),
            process,
            number: 0,
        };
        read?;
        files.number = line.trim().parse()?;
        Ok(files)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let told = self.stdin.take().map(|mut stdin| stdin.write_all(b"\n"));
        let ended = told.unwrap_or(Ok(())).and_then(|()| self.process.wait());
        if let Err(error) = ended {
            eprintln!("files stay open: {error}");
        }
    }
}

/// The most kernel memory that was taken at any time, beyond what was before.
struct Watched {
    before: u64,
    most: AtomicU64,
}

impl Watched {
    fn new(before: u64) -> Self {
        Self {
            before,
            most: AtomicU64::new(0),
        }
    }

    fn during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let watch = scope.spawn(|| -> Result<()> {
                while !ended.load(Relaxed) {
                    let taken = kernel_memory()?.saturating_sub(self.before);
                    self.most.fetch_max(taken, Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            });
            let result = work();
            ended.store(true, Relaxed);
            watch.join().map_err(|_| anyhow!("a thread panicked"))??;
            result
        })
    }
}

/// Short lists of free pages for each CPU, for as long as this lives: a page on a list is free, but
/// not counted as such.
struct ShortPageLists;

impl ShortPageLists {
    const SETTING: &str = "/proc/sys/vm/percpu_pagelist_high_fraction";
    /// Of a zone's pages; the kernel makes a list no shorter than some hundred pages.
    const FRACTION: &str = "10000";
    const DEFAULT: &str = "0";

    fn new() -> Result<Self> {
        fs::write(Self::SETTING, Self::FRACTION)?;
        Ok(Self)
    }
}

impl Drop for ShortPageLists {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::SETTING, Self::DEFAULT) {
            eprintln!("lists of free pages stay short: {error}");
        }
    }
}

/// The bytes that are neither free nor a process's or a file's: slabs, pages and all else.
fn kernel_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let bytes = |name: &str| -> Result<u64> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kilobytes
            .with_context(|| format!("no {name}"))?
            .parse::<u64>()?
            << 10)
    };
    let mut taken = bytes("MemTotal")?;
    for other in ["MemFree", "Buffers", "Cached", "SwapCached", "AnonPages"] {
        taken = taken.saturating_sub(bytes(other)?);
    }
    Ok(taken)
}

/// Waits until the kernel has freed, which it does in batches.
fn wait_until_below(bytes: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let taken = kernel_memory()?;
        if taken < bytes {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{taken} bytes of kernel memory are taken, which should be less than {bytes}"
        );
        thread::sleep(Duration::from_millis(200));
    }
}
