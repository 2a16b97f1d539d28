// SPDX-License-Identifier: GPL-2.0-or-later
//! Running other programs: what they print is kept, and shown when they fail.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::progress::Step;

/// Runs `command` to its end and returns all that it printed, both streams in the order of arrival.
///
/// # Errors
///
/// The program cannot be started or does not exit with 0; then the error has its output.
pub fn run(command: &mut Command, step: &Step) -> Result<String> {
    let mut output = String::new();
    let status = for_each_line(command, |line| {
        step.detail(line);
        output.push_str(line);
        output.push('\n');
    })?;
    if !status.success() {
        bail!("{} failed ({status}):\n{output}", step.what());
    }
    Ok(output)
}

/// Runs `command` to its end and hands every line of its standard output to `line`; its standard
/// error goes where ours goes.
///
/// # Errors
///
/// The program cannot be started. A failing exit status is the caller's to judge.
pub fn stream(command: &mut Command, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    if let Some(stdout) = child.stdout.take() {
        lines(stdout, &mut line);
    }
    Ok(child.wait()?)
}

/// Runs `command` with its streams where ours are.
///
/// # Errors
///
/// The program cannot be started or does not exit with 0.
pub fn run_visibly(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    check(command, status)
}

/// The standard output of a short `command`, without surrounding white space.
///
/// # Errors
///
/// The program cannot be started or does not exit with 0.
pub fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    check(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The program and its arguments as one would type them.
pub fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Hands every line of `source` to `line`, without its line end; bytes that are no UTF-8 are replaced.
pub fn lines(source: impl Read, line: &mut impl FnMut(&str)) {
    let mut source = BufReader::new(source);
    let mut bytes = Vec::new();
    while matches!(source.read_until(b'\n', &mut bytes), Ok(read) if read > 0) {
        line(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']));
        bytes.clear();
    }
}

fn for_each_line(command: &mut Command, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    let (sender, receiver) = mpsc::channel();
    let stdout = child
        .stdout
        .take()
        .map(|stream| forward(stream, sender.clone()));
    let stderr = child.stderr.take().map(|stream| forward(stream, sender));
    for text in receiver {
        line(&text);
    }
    for reader in [stdout, stderr].into_iter().flatten() {
        // The reader has ended, since its sender is gone; it does not panic.
        let _ = reader.join();
    }
    Ok(child.wait()?)
}

fn forward(stream: impl Read + Send + 'static, sender: Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        lines(stream, &mut |line: &str| {
            // Nobody listens any more only when the whole command is given up.
            let _ = sender.send(line.to_owned());
        });
    })
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{} failed: {status}", describe(command));
    }
    Ok(())
}
