//! Running programs: what they print and how they end.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
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
pub fn end(command: &mut Command) -> Result<Ended> {
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
pub fn end_with_input(command: &mut Command, input: &str) -> Result<Ended> {
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

fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code(),
        signal: output.status.signal(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
