// SPDX-License-Identifier: GPL-2.0-or-later
//! Running programs: what they print and how they end.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::iter;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// The exit status and the output of a program.
#[derive(Debug)]
pub struct ProgramOutput {
    /// Its exit status, where no signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs `command` to its end, however that is.
///
/// # Errors
///
/// It cannot be started.
pub fn end(command: &mut Command) -> Result<ProgramOutput> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    Ok(ended(output))
}

/// Runs `command` with `input` on its standard input.
///
/// # Errors
///
/// It cannot be started.
pub fn end_with_input(command: &mut Command, input: &str) -> Result<ProgramOutput> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    Ok(ended(child.wait_with_output()?))
}

/// Runs `command`, which must exit with 0; returns its standard output.
///
/// # Errors
///
/// It ends otherwise; the error has what it printed.
pub fn succeed(command: &mut Command) -> Result<String> {
    let ended = end(command)?;
    if ended.code != Some(0) {
        bail!("{command:?} ended with {ended:?}");
    }
    Ok(ended.stdout)
}

/// Runs `command` to its end, which must come within `limit`.
///
/// A command that is late is killed and left alone: the kernel may never let go of it.
///
/// # Errors
///
/// It cannot be started, or it is late; the error says where in the kernel it waits.
pub fn end_within(command: &mut Command, limit: Duration) -> Result<ProgramOutput> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let pid = Pid::from_child(&child);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens any more when the command is late.
        let _ = sender.send(child.wait_with_output());
    });
    match receiver.recv_timeout(limit) {
        Ok(output) => Ok(ended(output?)),
        Err(_) => {
            let stack = kernel_stack(pid.as_raw_nonzero());
            // It may have ended by now.
            let _ = kill_process(pid, Signal::KILL);
            bail!(
                "{} has not ended after {} s; it waits in the kernel:\n{stack}",
                describe(command),
                limit.as_secs()
            )
        }
    }
}

/// The words of `command`.
fn describe(command: &Command) -> String {
    let words = iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

/// Waits until none of `pids` runs any more; a process that nobody has reaped does not run.
///
/// # Errors
///
/// One still runs after `limit`; the error says where in the kernel it waits.
pub fn wait_until_gone(pids: &[u32], limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    for pid in pids {
        while is_running(*pid) {
            ensure!(
                Instant::now() < deadline,
                "process {pid} still runs {} s after it was killed; it waits in the kernel:\n{}",
                limit.as_secs(),
                kernel_stack(pid)
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Every task whose kernel stack contains one of `functions`, with its stack.
///
/// # Errors
///
/// /proc cannot be read.
pub fn tasks_within(functions: &[&str]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        let stack = kernel_stack(pid);
        if functions.iter().any(|function| stack.contains(function)) {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.push(format!("{} ({pid}):\n{stack}", comm.trim()));
        }
    }
    Ok(found)
}

fn is_running(pid: u32) -> bool {
    // PID (COMM) STATE ...
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with('Z'))
    })
}

/// The kernel stacks of all of the process's threads; empty for a process that is gone.
fn kernel_stack(pid: impl Display) -> String {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return String::new();
    };
    tasks
        .flatten()
        .flat_map(|task| fs::read_to_string(task.path().join("stack")))
        .collect()
}

fn ended(output: Output) -> ProgramOutput {
    ProgramOutput {
        code: output.status.code(),
        signal: output.status.signal(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
