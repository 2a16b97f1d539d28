//! The built extension inside the installed iptables, without a kernel module.
//!
//! `iptables-translate` loads extensions and parses rules as iptables does, but asks the
//! kernel for nothing. `XT_TRAFSTAT_DIR` may name the folder of a built
//! `libxt_TRAFSTAT.so`; without it the extension is built here.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

#[path = "../src/t_file.rs"]
mod t_file;

/// Debian's and the plain build's folders of the extensions that come with iptables.
const SYSTEM_DIRS: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/xtables",
    "/usr/lib/aarch64-linux-gnu/xtables",
    "/usr/lib/xtables",
    "/usr/lib64/xtables",
];

#[test]
fn t_file_rules_are_taken_or_refused_as_it_says() {
    let cases = t_file::parse(include_str!("../libxt_TRAFSTAT.t")).unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let words: Vec<&str> = case.rule.split_whitespace().collect();
        let output = iptables_translate(&[&["-A", "INPUT"], &words[..]].concat());
        let expected = if case.saved.is_some() { 0 } else { 2 };
        assert_eq!(
            output.status.code(),
            Some(expected),
            "line {}: {}\n{}",
            case.line,
            case.rule,
            stderr(&output)
        );
    }
}

#[test]
fn help_is_printed_with_the_defaults() {
    let output = iptables_translate(&["-j", "TRAFSTAT", "-h"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let help = String::from_utf8(output.stdout).unwrap();
    for text in [
        "TRAFSTAT target options:",
        "--local-net",
        "(default 1000)",
        "Example:",
    ] {
        assert!(help.contains(text), "{help}");
    }
}

#[test]
fn refusal_is_one_line_that_names_the_option() {
    let refusals = [
        (
            &["--local-net", "example.org"][..],
            "--local-net: 'example.org' is not an IPv4 address",
        ),
        (
            &["--local-net", "2001:db8::/32"],
            "--local-net: '2001:db8::' is an IPv6 address",
        ),
        (
            &["--local-net", "10.0.0.1/255.0.255.0"],
            "--local-net: mask 255.0.255.0 is not contiguous",
        ),
        (
            &["--local-tcp-ports", "22,0"],
            "--local-tcp-ports: port '0' is not",
        ),
        (
            &["--remote-udp-ports", "nosuch"],
            "--remote-udp-ports: 'nosuch' is neither a port",
        ),
        (
            &["--max-entries", "0"],
            "--max-entries: '0' is not a whole number from 1 to 4194304",
        ),
        (
            &["--traf-policy", "reject"],
            "--traf-policy: 'reject' is no policy",
        ),
        (
            &["--name", "a\nb %s%n"],
            "--name: 'a\\nb %s%n' has '\\n' in it",
        ),
        (
            &["--name", "a", "--name", "b"],
            "option \"--name\" can only be used once",
        ),
        (
            &["!", "--fast-aggregate"],
            "option \"--fast-aggregate\" cannot be inverted",
        ),
        (
            &["--name", "web"],
            "option \"--local-net\" must be specified",
        ),
    ];
    for (options, reason) in refusals {
        let output = iptables_translate(&[&["-A", "INPUT", "-j", "TRAFSTAT"], options].concat());
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        let stderr = stderr(&output);
        // iptables itself adds a line on where to find help.
        let own: Vec<&str> = stderr
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("Try `"))
            .collect();
        assert_eq!(own.len(), 1, "{stderr}");
        assert!(own[0].contains(&format!("TRAFSTAT: {reason}")), "{stderr}");
    }
}

#[test]
fn value_that_is_not_utf8_is_refused() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    let rule = ["-A", "INPUT", "-j", "TRAFSTAT", "--name"];
    let output = translate_command()
        .args(rule)
        .arg(OsStr::from_bytes(b"\xff"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--name: the value is not UTF-8 text"));
}

fn iptables_translate(args: &[&str]) -> Output {
    translate_command()
        .args(args)
        .output()
        .expect("iptables-translate starts; is iptables installed?")
}

fn translate_command() -> Command {
    let mut libdirs = plugin_dir().as_os_str().to_owned();
    for dir in SYSTEM_DIRS {
        libdirs.push(":");
        libdirs.push(dir);
    }
    let mut command = Command::new("iptables-translate");
    command.env("XTABLES_LIBDIR", libdirs).env("LC_ALL", "C");
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn plugin_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| env::var_os("XT_TRAFSTAT_DIR").map_or_else(build_plugin, PathBuf::from))
}

/// Builds the extension, which cargo does not do for the tests of a cdylib.
fn build_plugin() -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = Command::new(cargo)
        .args(["build", "--package", env!("CARGO_PKG_NAME")])
        .args(["--message-format", "json-render-diagnostics"])
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .output()
        .expect("cargo starts");
    assert!(build.status.success(), "{}", stderr(&build));
    let artifacts = String::from_utf8(build.stdout).expect("cargo writes JSON");
    artifacts
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a JSON line"))
        .filter_map(|artifact| artifact["filenames"].as_array().cloned())
        .flatten()
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|file| file.ends_with("libxt_TRAFSTAT.so"))
        .and_then(|file| file.parent().map(Path::to_owned))
        .expect("cargo names the extension that it built")
}
