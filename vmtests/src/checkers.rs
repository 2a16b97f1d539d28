// SPDX-License-Identifier: GPL-2.0-or-later
//! What a kernel with checkers does on demand: it lets allocations fail, and looks for leaks.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process;

const DEBUGFS: &str = "/sys/kernel/debug";
const SLAB_CACHES: &str = "/sys/kernel/slab";

/// kmemleak takes nothing younger for lost (MSECS_MIN_AGE).
const LOST_AFTER: Duration = Duration::from_secs(6);

/// More than ever fail.
const FAILURES: u64 = 1_000_000_000;

/// Longer than the module's last function.
const LAST_FUNCTION_BYTES: u64 = 0x1_0000;

/// The checkers of this kernel.
pub struct Checkers;

impl Checkers {
    /// Those of this kernel, if it has any.
    ///
    /// # Errors
    ///
    /// Debugfs cannot be mounted.
    pub fn find() -> Result<Option<Self>> {
        if fs::read_dir(DEBUGFS)?.next().is_none() {
            process::succeed(Command::new("mount").args(["-t", "debugfs", "debugfs", DEBUGFS]))?;
        }
        let found = [KmemLeak::FILE, "failslab", "fail_page_alloc"]
            .iter()
            .all(|name| Path::new(DEBUGFS).join(name).exists());
        Ok(found.then_some(Self))
    }

    /// Lets so many percent of the allocations fail that the loaded module makes, itself or by what
    /// it calls, for as long as the result lives.
    ///
    /// # Errors
    ///
    /// The module is not loaded, or the kernel takes a setting otherwise.
    pub fn fail_allocations(&self, percent: u32) -> Result<Faults> {
        Faults::new(module_text()?, percent)
    }

    /// Lets allocations fail as [`Nth`] says, while the module is being initialised.
    ///
    /// # Errors
    ///
    /// The kernel takes a setting otherwise.
    pub fn fail_initialisation(&self) -> Result<Faults> {
        Faults::new(initcall_text()?, 0)
    }

    /// Looks for memory that nothing points to, since [`Self::forget_leaks`].
    ///
    /// # Errors
    ///
    /// Kmemleak has switched itself off.
    pub fn leaks(&self) -> Result<String> {
        thread::sleep(LOST_AFTER);
        // What changes between two scans is still in use.
        for _ in 0..3 {
            KmemLeak::write("scan")?;
        }
        fs::read_to_string(KmemLeak::path()).context("cannot read what is lost")
    }

    /// Says of what is lost so far that it is not.
    ///
    /// # Errors
    ///
    /// Kmemleak has switched itself off.
    pub fn forget_leaks(&self) -> Result<()> {
        KmemLeak::write("scan")?;
        KmemLeak::write("clear")
    }

    /// That lockdep still looks: it switches itself off at its first report, and at anyone's that
    /// leaves the kernel in doubt.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn lockdep_is_on(&self) -> Result<()> {
        let stats = fs::read_to_string("/proc/lockdep_stats")?;
        let is_on = stats
            .lines()
            .filter_map(|line| line.trim().strip_prefix("debug_locks:"))
            .any(|value| value.trim() == "1");
        ensure!(is_on, "lockdep has switched itself off");
        Ok(())
    }
}

/// Allocations fail, for as long as this lives.
pub struct Faults;

impl Faults {
    const KINDS: [&str; 2] = ["failslab", "fail_page_alloc"];

    /// Those that code from `start` to `end` makes.
    fn new((start, end): (u64, u64), percent: u32) -> Result<Self> {
        // Not kmemleak's own, say: without it, it switches itself off.
        for cache in fs::read_dir(SLAB_CACHES)? {
            let cache = cache?;
            let name = cache.file_name().to_string_lossy().into_owned();
            if name.starts_with("kmalloc-") || name == "proc_dir_entry" {
                write(&cache.path().join("failslab"), "1")?;
            }
        }
        let faults = Self;
        for (attribute, setting) in [
            ("require-start", format!("{start:#x}")),
            ("require-end", format!("{end:#x}")),
            ("stacktrace-depth", "32".to_owned()),
            ("interval", "1".to_owned()),
            ("times", FAILURES.to_string()),
            ("verbose", "0".to_owned()),
            ("ignore-gfp-wait", "N".to_owned()),
            ("probability", percent.to_string()),
        ] {
            for kind in Self::KINDS {
                write(&Self::file(kind, attribute), &setting)?;
            }
        }
        write(&Self::file("failslab", "cache-filter"), "Y")?;
        write(&Self::file("fail_page_alloc", "min-order"), "0")?;
        write(&Self::file("fail_page_alloc", "ignore-gfp-highmem"), "N")?;
        Ok(faults)
    }

    /// How many failed so far, by kind.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn injected(&self) -> Result<[u64; 2]> {
        let mut injected = [0; 2];
        for (count, kind) in injected.iter_mut().zip(Self::KINDS) {
            let left = fs::read_to_string(Self::file(kind, "times"))?;
            *count = FAILURES - left.trim().parse::<u64>()?;
        }
        Ok(injected)
    }

    fn file(kind: &str, attribute: &str) -> PathBuf {
        Path::new(DEBUGFS).join(kind).join(attribute)
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        for kind in Self::KINDS {
            if let Err(error) = write(&Self::file(kind, "probability"), "0") {
                eprintln!("allocations go on failing: {error:#}");
            }
        }
    }
}

/// A program one of whose allocations fails, of those that [`Faults`] are about.
pub struct Nth(pub u64);

impl Nth {
    /// Makes `command` such a program.
    pub fn of(&self, command: &Command) -> Command {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "echo $0 >/proc/thread-self/fail-nth && exec \"$@\""])
            .arg(self.0.to_string())
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            shell.envs(value.map(|value| (name, value)));
        }
        shell
    }
}

struct KmemLeak;

impl KmemLeak {
    const FILE: &str = "kmemleak";

    fn path() -> PathBuf {
        Path::new(DEBUGFS).join(Self::FILE)
    }

    fn write(command: &str) -> Result<()> {
        write(&Self::path(), command)
    }
}

/// From the first of the module's functions to the end of the last.
fn module_text() -> Result<(u64, u64)> {
    let functions = functions(|name| name.ends_with("[xt_TRAFSTAT]"))?;
    let first = functions.iter().min();
    let last = functions.iter().max();
    let (first, last) = first.zip(last).context("the module has no symbols")?;
    Ok((*first, *last + LAST_FUNCTION_BYTES))
}

/// The function that calls a module's first one.
fn initcall_text() -> Result<(u64, u64)> {
    let functions = functions(|_| true)?;
    let start = self::functions(|name| name == "do_one_initcall")?
        .pop()
        .context("do_one_initcall is not there")?;
    let end = functions
        .into_iter()
        .filter(|address| *address > start)
        .min();
    Ok((start, end.context("do_one_initcall has no end")?))
}

/// Addresses of functions by name, which a module's follows.
fn functions(is_wanted: impl Fn(&str) -> bool) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    // ADDRESS TYPE NAME[\t[MODULE]]
    for line in fs::read_to_string("/proc/kallsyms")?.lines() {
        let mut fields = line.splitn(3, ' ');
        if let (Some(address), Some("t" | "T"), Some(name)) =
            (fields.next(), fields.next(), fields.next())
            && is_wanted(name)
        {
            found.push(u64::from_str_radix(address, 16)?);
        }
    }
    ensure!(!found.contains(&0), "the kernel hides its addresses");
    Ok(found)
}

fn write(path: &Path, setting: &str) -> Result<()> {
    match fs::write(path, setting) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error)
            .with_context(|| format!("{} refuses {setting:?}: is it off?", path.display())),
        other => other.with_context(|| format!("cannot write {setting:?} to {}", path.display())),
    }
}
