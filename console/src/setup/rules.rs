// SPDX-License-Identifier: GPL-2.0-or-later
//! Rules of iptables: those that setup wants, and those that stand.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What the comment of every rule that setup made begins with; after it comes a number that
/// follows from all of the rule.
pub const MARK: &str = "trafstat-setup-";

/// iptables-restore takes no parameter of more than 1,023 bytes.
const MAX_PARAMETER_LEN: usize = 1000;

/// A rule that counts, as a chain and the words after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The chain that it stands in, at its beginning.
    pub chain: String,
    /// Its match, its mark and its target, as iptables-restore reads them.
    pub words: String,
}

/// The local ports that keep their number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LocalPorts {
    /// None does.
    #[default]
    None,
    /// All do.
    All,
    /// These do, for TCP and for UDP.
    Listed {
        /// TCP's, in ascending order.
        tcp: Vec<u16>,
        /// UDP's, in ascending order.
        udp: Vec<u16>,
    },
}

impl Rule {
    /// A rule in `chain` for packets that fit `matches`, counted for `net`.
    pub fn new(
        chain: &str,
        matches: &str,
        net: IpNet,
        name: Option<&str>,
        ports: &LocalPorts,
    ) -> Self {
        let mut target = format!("-j TRAFSTAT --local-net {net}");
        for (option, text) in ports.options() {
            // Writing to a string does not fail.
            let _ = write!(target, " --{option} {text}");
        }
        if let Some(name) = name {
            let _ = write!(target, " --name {name}");
        }
        let mark = fnv1a(&format!("{chain} {matches} {target}"));
        Self {
            chain: chain.to_owned(),
            words: format!("{matches} -m comment --comment {MARK}{mark:08x} {target}"),
        }
    }

    /// The mark in the rule's comment.
    pub fn mark(&self) -> &str {
        mark(&self.words).unwrap_or_default()
    }
}

impl LocalPorts {
    /// The rule's options for local ports and their values.
    fn options(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::None => Vec::new(),
            Self::All => vec![
                ("local-tcp-ports", "all".to_owned()),
                ("local-udp-ports", "all".to_owned()),
            ],
            Self::Listed { tcp, udp } => [("local-tcp-ports", tcp), ("local-udp-ports", udp)]
                .into_iter()
                .flat_map(|(option, ports)| {
                    lists(ports).into_iter().map(move |text| (option, text))
                })
                .collect(),
        }
    }
}

/// The account's name where the rule must give one: the plugin's own default has no room for long
/// IPv6 addresses. The side within its net tells hosts apart.
pub fn account_name(net: IpNet, taken: &[String]) -> Option<String> {
    let IpAddr::V6(address) = net.addr() else {
        return None;
    };
    if format!("{address}_{}", net.prefix_len()).len() <= 31 {
        return None;
    }
    let interface = address.segments()[4..]
        .iter()
        .map(|group| format!("{group:x}"))
        .collect::<Vec<_>>()
        .join(":");
    let free = |name: &String| !taken.contains(name);
    (1..)
        .map(|number| match number {
            1 => format!("{interface}_{}", net.prefix_len()),
            _ => format!("{interface}_{}.{number}", net.prefix_len()),
        })
        .find(free)
}

/// The rules of a table that setup made, from what iptables-save prints.
pub fn made_by_setup(saved: &str) -> Vec<Rule> {
    saved
        .lines()
        .filter_map(|line| {
            let (chain, words) = line.strip_prefix("-A ")?.split_once(' ')?;
            mark(words)?;
            Some(Rule {
                chain: chain.to_owned(),
                words: words.to_owned(),
            })
        })
        .collect()
}

/// One transaction of iptables-restore that turns the standing rules into the wanted ones; none if
/// they are that already. Rules that stay are not touched, nor are others' rules.
pub fn transaction(standing: &[Rule], wanted: &[Rule]) -> Option<String> {
    let same = |a: &Rule, b: &Rule| a.chain == b.chain && a.mark() == b.mark();
    let mut lines = String::new();
    for (index, rule) in standing.iter().enumerate() {
        let doubled = standing[..index].iter().any(|other| same(other, rule));
        if doubled || !wanted.iter().any(|other| same(other, rule)) {
            let _ = writeln!(lines, "-D {} {}", rule.chain, rule.words);
        }
    }
    for rule in wanted.iter().rev() {
        if !standing.iter().any(|other| same(other, rule)) {
            let _ = writeln!(lines, "-I {} 1 {}", rule.chain, rule.words);
        }
    }
    (!lines.is_empty()).then(|| format!("*filter\n{lines}COMMIT\n"))
}

/// A file of iptables-save without the rules that setup made; every other line stays as it is.
pub fn without_made(text: &str) -> String {
    text.split_inclusive('\n')
        .filter(|line| !(line.contains("-A ") && mark(line).is_some()))
        .collect()
}

/// Whether a file of iptables-save holds no rule and no chain of anybody's.
pub fn is_empty(saved: &str) -> bool {
    saved.lines().all(|line| {
        let builtin = [":INPUT ACCEPT", ":FORWARD ACCEPT", ":OUTPUT ACCEPT"];
        line.is_empty()
            || line.starts_with(['#', '*'])
            || line == "COMMIT"
            || builtin.iter().any(|chain| line.starts_with(chain))
    })
}

/// FNV-1a: the same in every release, so that a rule keeps its mark.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

fn mark(words: &str) -> Option<&str> {
    words.split([' ', '"']).find(|word| word.starts_with(MARK))
}

/// Ports as the option's values: runs as ranges, each value short enough for iptables-restore.
fn lists(ports: &[u16]) -> Vec<String> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some((_, last)) if u32::from(*last) + 1 == u32::from(port) => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    let mut lists: Vec<String> = Vec::new();
    for (first, last) in ranges {
        let text = match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}:{last}"),
        };
        match lists.last_mut() {
            Some(list) if list.len() + text.len() < MAX_PARAMETER_LEN => {
                list.push(',');
                list.push_str(&text);
            }
            _ => lists.push(text),
        }
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(port: u16) -> Rule {
        let ports = LocalPorts::Listed {
            tcp: vec![port],
            udp: Vec::new(),
        };
        let net = "192.0.2.1/32".parse().unwrap();
        Rule::new("INPUT", "-d 192.0.2.1/32", net, None, &ports)
    }

    /// As iptables-save writes it.
    fn saved(rule: &Rule) -> String {
        format!("-A {} {}\n", rule.chain, rule.words)
    }

    #[test]
    fn mark_follows_from_the_whole_rule() {
        assert_eq!(rule(80).mark(), rule(80).mark());
        assert_ne!(rule(80).mark(), rule(81).mark());
        assert!(rule(80).words.contains(" --local-tcp-ports 80"));
    }

    #[test]
    fn nothing_is_done_where_the_wanted_rules_stand() {
        let text = format!("*filter\n-A INPUT -j ACCEPT\n{}COMMIT\n", saved(&rule(80)));
        let standing = made_by_setup(&text);
        assert_eq!(standing.len(), 1);
        assert_eq!(transaction(&standing, &[rule(80)]), None);
    }

    #[test]
    fn changed_and_doubled_rules_are_replaced_in_one_transaction() {
        let standing = [rule(80), rule(81), rule(81)];
        let text = transaction(&standing, &[rule(81), rule(82)]).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(lines[1].starts_with("-D INPUT") && lines[1].contains(rule(80).mark()));
        assert!(lines[2].starts_with("-D INPUT") && lines[2].contains(rule(81).mark()));
        assert!(lines[3].starts_with("-I INPUT 1") && lines[3].contains(rule(82).mark()));
    }

    #[test]
    fn only_the_rules_that_setup_made_are_taken_out_of_a_file() {
        let others = "# Generated\n*filter\n:INPUT DROP [1:2]\n[3:4] -A INPUT -i lo -j ACCEPT\n\
                      -A INPUT -p tcp -m comment --comment \"web site\" -j ACCEPT\n\
                      -A INPUT -j TRAFSTAT --local-net 192.0.2.9\nCOMMIT";
        let (begin, end) = others.split_at(others.find("[3:4]").unwrap());
        let counted = format!("[5:6] {}", saved(&rule(81)));
        let text = format!("{begin}{}{counted}{end}", saved(&rule(80)));
        assert_eq!(without_made(&text), others);
        assert_eq!(without_made(others), others);
    }

    #[test]
    fn file_of_nothing_but_setups_rules_is_empty_without_them() {
        let text = format!("*filter\n:INPUT ACCEPT [0:0]\n{}COMMIT\n", saved(&rule(80)));
        assert!(is_empty(&without_made(&text)));
        assert!(!is_empty(&text));
    }

    #[test]
    fn two_hundred_ports_go_into_parameters_that_restore_takes() {
        let tcp: Vec<u16> = (0..200).map(|number| 20_000 + 3 * number).collect();
        let lists = lists(&tcp);
        assert!(lists.len() > 1);
        assert!(lists.iter().all(|list| list.len() < 1023));
        assert_eq!(lists.join(",").split(',').count(), 200);
    }

    #[test]
    fn neighbouring_ports_are_a_range() {
        assert_eq!(
            lists(&[22, 80, 81, 8000, 8001, 8002, 65535]),
            ["22,80,81,8000:8002,65535"]
        );
    }

    #[test]
    fn long_ipv6_address_gets_a_name_of_its_own() {
        let net: IpNet = "2001:db8:1111:2222:5054:ff:fe12:3456/128".parse().unwrap();
        let name = account_name(net, &[]).unwrap();
        assert_eq!(name, "5054:ff:fe12:3456_128");
        assert_eq!(
            account_name(net, &[name]).unwrap(),
            "5054:ff:fe12:3456_128.2"
        );
        assert_eq!(account_name("2001:db8::1/128".parse().unwrap(), &[]), None);
        assert_eq!(account_name("192.0.2.1/32".parse().unwrap(), &[]), None);
    }
}
