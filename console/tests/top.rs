// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat top`, run as users run it: in a terminal.

#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::{SnapshotBuilder, record};

/// A folder laid out as `/proc/net/trafstat`, whose live file has been recorded.
struct Live {
    folder: tempfile::TempDir,
}

impl Live {
    fn new() -> Self {
        let live = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let folder = live.folder.path();
        fs::create_dir_all(folder.join("live/ipv4")).unwrap();
        fs::write(folder.join("accounts"), "family name epoch\nipv4 lan 1\n").unwrap();
        live.count(10);
        live
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// In one step: the program may be reading.
    fn count(&self, packets: u64) {
        let mut snapshot = SnapshotBuilder::new("lan", 1, vec![record(1, 7, 6, 443, packets)]);
        snapshot.header.flags = 1;
        snapshot.header.records = 0;
        let new = self.path().join("new");
        fs::write(&new, snapshot.bytes()).unwrap();
        fs::rename(new, self.path().join("live/ipv4/lan")).unwrap();
    }
}

/// A terminal of 100 columns with the program in it, and the terminal's settings after it.
struct Terminal {
    script: Child,
}

impl Terminal {
    fn new(live: &Live, before: &str) -> Self {
        let command = format!(
            "stty cols 100 rows 20; {before} {} top --every 1s --proc-root {}; echo status $?; stty -a",
            env!("CARGO_BIN_EXE_trafstat"),
            live.path().display()
        );
        let script = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { script }
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.script.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// What came until there was this text.
    fn until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let stdout = self.script.stdout.as_mut().unwrap();
        let mut bytes = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains(text) {
            let count = stdout.read(&mut bytes).unwrap();
            assert!(
                count > 0,
                "ended before {text:?}: {}",
                String::from_utf8_lossy(&seen)
            );
            seen.extend(&bytes[..count]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// What is left of the output when all has ended.
    fn end(mut self) -> String {
        let mut rest = String::new();
        let stdout = self.script.stdout.as_mut().unwrap();
        stdout.read_to_string(&mut rest).unwrap();
        self.script.wait().unwrap();
        rest
    }
}

/// Cooked, with echo, on the screen that was there before.
fn assert_given_back(text: &str) {
    assert!(text.contains("\u{1b}[?1049l"), "{text:?}");
    for setting in ["icanon", "echo", "isig"] {
        let is_set = text.split_whitespace().any(|word| word == setting);
        assert!(is_set, "{setting}: {text}");
    }
}

#[test]
fn shows_rates_and_gives_the_terminal_back() {
    let live = Live::new();
    let mut terminal = Terminal::new(&live, "");
    terminal.until("192.0.2.1");
    live.count(1_000_000);
    // A rate of a second or a little more.
    terminal.until("Gbit/s");
    terminal.press("q");
    let rest = terminal.end();
    assert!(rest.contains("status 0"), "{rest}");
    assert_given_back(&rest);
}

#[test]
fn error_while_it_runs_gives_the_terminal_back() {
    let live = Live::new();
    let mut terminal = Terminal::new(&live, "");
    terminal.until("192.0.2.1");
    fs::remove_file(live.path().join("accounts")).unwrap();
    let rest = terminal.end();
    assert!(
        rest.contains("modprobe xt_TRAFSTAT") && rest.contains("status 1"),
        "{rest}"
    );
    assert_given_back(&rest);
}

#[test]
fn signal_gives_the_terminal_back() {
    let live = Live::new();
    // timeout(1) sends SIGTERM, and then has status 124.
    let mut terminal = Terminal::new(&live, "timeout --foreground 3");
    terminal.until("192.0.2.1");
    let rest = terminal.end();
    assert!(rest.contains("status 124"), "{rest}");
    assert_given_back(&rest);
}

#[test]
fn without_a_module_it_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
        .args(["top", "--proc-root"])
        .arg(folder.path().join("trafstat"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("modprobe xt_TRAFSTAT"), "{error}");
    assert_eq!(output.stdout, b"");
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let live = Live::new();
    let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
        .args(["top", "--proc-root"])
        .arg(live.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("trafstat show"), "{error}");
}

#[test]
fn wrong_usage_ends_with_2() {
    for (arguments, expected) in [
        (&["--by", "host"][..], "local-ip"),
        (&["--by", "day"], "local-ip"),
        (&["--every", "0s"], "30s"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_trafstat"))
            .arg("top")
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn ends_with_its_terminal() {
    let live = Live::new();
    let mut terminal = Terminal::new(&live, "sh -c 'echo process $$ here; exec \"$@\"' sh");
    let shown = terminal.until(" here");
    let (_, process) = shown.split_once("process ").unwrap();
    let process = Path::new("/proc").join(process.split(' ').next().unwrap());
    terminal.until("192.0.2.1");
    terminal.script.kill().unwrap();
    terminal.script.wait().unwrap();
    // Of a process that nobody waits for, the name stays.
    let runs = || fs::read(process.join("cmdline")).is_ok_and(|line| !line.is_empty());
    for _ in 0..600 {
        if !runs() {
            return;
        }
        sleep(Duration::from_millis(100));
    }
    panic!("{} still runs", process.display());
}
