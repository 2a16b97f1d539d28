// SPDX-License-Identifier: GPL-2.0-or-later
//! The built extension inside the installed iptables, without a kernel module.
//!
//! `iptables-translate` and `ip6tables-translate` load extensions and parse rules as
//! iptables and ip6tables do, but ask the kernel for nothing. `XT_TRAFSTAT_DIR` may name the folder of a built
//! `libxt_TRAFSTAT.so`; without it the extension is built here.

use std::{
    env,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

#[path = "../../rule/src/t_file.rs"]
mod t_file;

const IPV4: Family = Family {
    translate: "iptables-translate",
    restore_translate: "iptables-restore-translate",
    t_file: include_str!("../libxt_TRAFSTAT.t"),
};

const IPV6: Family = Family {
    translate: "ip6tables-translate",
    restore_translate: "ip6tables-restore-translate",
    t_file: include_str!("../libxt_TRAFSTAT.ip6.t"),
};

/// The programs of an address family, and what its rule tests are.
struct Family {
    translate: &'static str,
    restore_translate: &'static str,
    t_file: &'static str,
}

#[test]
fn t_file_rules_are_taken_or_refused_as_it_says() {
    for family in [IPV4, IPV6] {
        let cases = t_file::parse(family.t_file).unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let words: Vec<&str> = case.rule.split_whitespace().collect();
            let output = family.translate(&[&["-A", "INPUT"], &words[..]].concat());
            let expected = if case.saved.is_some() { 0 } else { 2 };
            assert_eq!(
                output.status.code(),
                Some(expected),
                "{}, line {}: {}\n{}",
                family.translate,
                case.line,
                case.rule,
                stderr(&output)
            );
        }
    }
}

#[test]
fn saved_rules_of_the_t_file_are_taken_by_restore() {
    for family in [IPV4, IPV6] {
        let cases = t_file::parse(family.t_file).unwrap();
        let saved: Vec<&str> = cases.iter().filter_map(|case| case.saved).collect();
        let rules: String = saved
            .iter()
            .map(|rule| format!("-A INPUT {rule}\n"))
            .collect();
        let output =
            family.restore_translate(&format!("*filter\n:INPUT ACCEPT [0:0]\n{rules}COMMIT\n"));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            stdout.matches("-j TRAFSTAT").count(),
            saved.len(),
            "{stdout}"
        );
    }
}

#[test]
fn restore_takes_no_parameter_longer_than_those_saved() {
    let rule = |len: usize| {
        let ports = vec!["22"; len / 3 + 1].join(",");
        let net = "-A INPUT -j TRAFSTAT --local-net 10.0.0.1/32";
        format!("*filter\n{net} --local-tcp-ports {ports}\nCOMMIT\n")
    };
    assert_eq!(IPV4.restore_translate(&rule(1022)).status.code(), Some(0));
    let output = IPV4.restore_translate(&rule(1025));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("Parameter too long"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn help_is_printed_with_the_defaults() {
    for family in [IPV4, IPV6] {
        let output = family.translate(&["-j", "TRAFSTAT", "-h"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let help = String::from_utf8(output.stdout).unwrap();
        for text in [
            "TRAFSTAT target options:",
            "--local-net",
            "(default 1000)",
            "Examples:",
        ] {
            assert!(help.contains(text), "{help}");
        }
        // Each revision of the target has the same.
        assert_eq!(help.matches("TRAFSTAT target options:").count(), 1);
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
        IPV4.refuses(options, reason);
    }
}

#[test]
fn ipv6_refusal_is_one_line_that_names_the_option() {
    let refusals = [
        (
            &["--local-net", "example.org"][..],
            "--local-net: 'example.org' is not an IPv6 address",
        ),
        (
            &["--local-net", "192.0.2.0/24"],
            "--local-net: '192.0.2.0' is an IPv4 address",
        ),
        (
            &["--local-net", "2001:db8::/ffff:0:ffff::"],
            "--local-net: mask ffff:0:ffff:: is not contiguous",
        ),
        (
            &["--local-net", "2001:db8:1111:2222:3333:4444:5555:6666"],
            "--name must be given: the default \
             '2001:db8:1111:2222:3333:4444:5555:6666_128' has 42 characters",
        ),
        (
            &["--name", "web"],
            "option \"--local-net\" must be specified",
        ),
    ];
    for (options, reason) in refusals {
        IPV6.refuses(options, reason);
    }
}

#[test]
fn rule_in_table_nat_is_taken_with_a_warning() {
    let warning = "TRAFSTAT: table nat sees only the first packet of each connection, so most of \
                   the traffic is not counted: put the rule into filter, mangle or raw\n";
    for (family, net) in [(IPV4, "192.0.2.1"), (IPV6, "2001:db8::1")] {
        let rule = ["OUTPUT", "-j", "TRAFSTAT", "--local-net", net];
        for (command, expected) in [
            (&["-t", "nat", "-A"][..], warning),
            (&["-vt", "nat", "-I"], warning),
            (&["--table=nat", "--append"], warning),
            (&["-t", "mangle", "-A"], ""),
            (&["-A"], ""),
        ] {
            let output = family.translate(&[command, &rule].concat());
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            assert_eq!(stderr(&output), expected, "{command:?}");
        }
    }
}

#[test]
fn value_that_is_not_utf8_is_refused() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    let rule = ["-A", "INPUT", "-j", "TRAFSTAT", "--name"];
    let output = command("iptables-translate")
        .args(rule)
        .arg(OsStr::from_bytes(b"\xff"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--name: the value is not UTF-8 text"));
}

impl Family {
    fn translate(&self, args: &[&str]) -> Output {
        command(self.translate)
            .args(args)
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}; is iptables installed?", self.translate))
    }

    /// What the family's restore makes of a file that its save could have written.
    fn restore_translate(&self, saved: &str) -> Output {
        let program = self.restore_translate;
        let mut restore = command(program)
            .args(["-f", "/dev/stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; is iptables installed?"));
        let mut stdin = restore.stdin.take().unwrap();
        // It stops reading at the first rule that it refuses, which its status then tells.
        if let Err(error) = stdin.write_all(saved.as_bytes()) {
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
        drop(stdin);
        restore.wait_with_output().unwrap()
    }

    /// Asserts that a rule with these options is refused in one line that has the reason.
    fn refuses(&self, options: &[&str], reason: &str) {
        let output = self.translate(&[&["-A", "INPUT", "-j", "TRAFSTAT"], options].concat());
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

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("XTABLES_LIBDIR", plugin_dir())
        .env("LC_ALL", "C");
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
