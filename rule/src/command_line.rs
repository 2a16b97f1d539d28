// SPDX-License-Identifier: GPL-2.0-or-later
//! The words of an iptables command, as far as they tell where a rule goes.
//!
//! libxtables tells an extension the rule but not its table.

use std::ffi::OsString;

/// Said of a rule in table nat.
pub const NAT_WARNING: &str = "table nat sees only the first packet of each connection, so most \
                               of the traffic is not counted: put the rule into filter, mangle \
                               or raw";

/// Short options of iptables without a value.
const FLAGS: [char; 6] = ['4', '6', 'f', 'n', 'v', 'x'];

/// Short and long commands that add a rule, rather than delete one or look for it.
const SHORT_COMMANDS: [char; 3] = ['A', 'I', 'R'];
const LONG_COMMANDS: [&str; 3] = ["append", "insert", "replace"];

/// Whether an iptables command with these arguments, the program's name aside, adds a rule to
/// table nat.
///
/// Reads options as getopt_long(3) does: short ones bundled, long ones abbreviated. iptables
/// itself refuses abbreviations of more than one option.
pub fn adds_to_nat(arguments: impl IntoIterator<Item = OsString>) -> bool {
    let mut arguments = arguments
        .into_iter()
        // What is not UTF-8 is neither an option nor nat.
        .map(|argument| argument.into_string().unwrap_or_default());
    let (mut adds, mut is_nat) = (false, false);
    while let Some(argument) = arguments.next() {
        let (is_table, value) = if let Some(option) = argument.strip_prefix("--") {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            adds |= LONG_COMMANDS.iter().any(|long| abbreviates(name, long));
            (abbreviates(name, "table"), value)
        } else if let Some(bundle) = argument.strip_prefix('-') {
            let option = bundle.trim_start_matches(FLAGS);
            adds |= option.starts_with(SHORT_COMMANDS);
            let value = option.strip_prefix('t');
            (value.is_some(), value.filter(|value| !value.is_empty()))
        } else {
            (false, None)
        };
        if is_table {
            let value = value.map(str::to_owned).or_else(|| arguments.next());
            is_nat = value.as_deref() == Some("nat");
        }
    }
    adds && is_nat
}

fn abbreviates(name: &str, option: &str) -> bool {
    !name.is_empty() && option.starts_with(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adds(command: &str) -> bool {
        adds_to_nat(command.split_whitespace().map(OsString::from))
    }

    #[test]
    fn table_is_found_however_it_is_written() {
        for table in [
            "-t nat",
            "-tnat",
            "-vt nat",
            "-nvxtnat",
            "-4t nat",
            "--table nat",
            "--table=nat",
            "--tab nat",
            "--t=nat",
            "-t filter -t nat",
        ] {
            for rest in ["-A POSTROUTING -j TRAFSTAT", "-w 5 -j TRAFSTAT -IOUTPUT"] {
                assert!(adds(&format!("{table} {rest}")), "{table} {rest}");
                assert!(adds(&format!("{rest} {table}")), "{rest} {table}");
            }
        }
    }

    #[test]
    fn other_tables_are_not_nat() {
        for command in [
            "-A INPUT",
            "-t mangle -A PREROUTING",
            "-t nat -t raw -A PREROUTING",
            "--table=natural -A INPUT",
            "-A nat",
            "-A INPUT -m comment --comment nat",
            "-A INPUT -s nat --to nat --tables nat",
            "-Itnat",
            "-A INPUT -t",
            "-A INPUT --",
            "-A INPUT -",
        ] {
            assert!(!adds(command), "{command}");
        }
    }

    #[test]
    fn only_commands_that_add_a_rule_count() {
        for command in [
            "-A OUTPUT",
            "-AOUTPUT",
            "-vA OUTPUT",
            "-I OUTPUT 3",
            "-R OUTPUT 1",
            "--append OUTPUT",
            "--ins OUTPUT",
            "--replace=OUTPUT 1",
        ] {
            assert!(adds(&format!("-t nat {command} -j TRAFSTAT")), "{command}");
        }
        for command in [
            "-D OUTPUT",
            "-C OUTPUT",
            "--delete OUTPUT",
            "--check OUTPUT",
            "-L",
            "-S OUTPUT",
            "-F",
        ] {
            assert!(!adds(&format!("-t nat {command} -j TRAFSTAT")), "{command}");
        }
    }

    #[test]
    fn argument_that_is_not_utf8_is_passed_over() {
        use std::os::unix::ffi::OsStringExt;

        let words = ["-t", "nat", "-A", "OUTPUT", "-i"].map(OsString::from);
        let odd = OsString::from_vec(vec![b'-', 0xff]);
        assert!(adds_to_nat(words.into_iter().chain([odd.clone()])));
        assert!(!adds_to_nat(["-A".into(), "-t".into(), odd]));
    }
}
