// SPDX-License-Identifier: GPL-2.0-or-later
//! Every option survives being saved and restored, and what is wrong is refused in one clear line.
//!
//! The rules are those of `xt-plugin/libxt_TRAFSTAT.t` and, for ip6tables, `libxt_TRAFSTAT.ip6.t`,
//! in iptables' own test format: a line with the chains, then `RULE;SAVED FORM or =;OK or FAIL`.
//! The largest rule that the options allow is among them, and goes through both backends.

use std::fs;
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{Backend, Iptables};
use crate::kernel_log::KernelLog;
use crate::module;
use crate::topology::Topology;

/// iptables' exit status for wrong usage.
const WRONG_USAGE: i32 = 2;

/// The plugin's words and the kernel's about a rule that sees few packets.
const NAT_WARNING: &str = "TRAFSTAT: table nat sees only the first packet of each connection, so \
                           most of the traffic is not counted: put the rule into filter, mangle \
                           or raw";
const NAT_NOTICE: &str = "in table nat";

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let backends = Backend::all()?;
    for family in [Family::Ipv4, Family::Ipv6] {
        let rules = RuleTests::read(guest, family)?;
        let topology = Topology::new(family)?;
        for (number, backend) in backends.iter().enumerate() {
            let iptables = Iptables::new(guest, &topology.local, family).through(*backend);
            accepted_rules_are_saved_as_they_restore(&iptables, &rules)
                .and_then(|()| refused_rules_change_nothing(&iptables, &rules, family))
                .and_then(|()| rule_in_table_nat_is_warned_of(&iptables, family, number == 0))
                .with_context(|| iptables.program())?;
        }
    }
    Ok(())
}

fn accepted_rules_are_saved_as_they_restore(
    iptables: &Iptables<'_>,
    rules: &RuleTests,
) -> Result<()> {
    let mut typed = String::from("*filter\n");
    let mut expected = Vec::new();
    for chain in &rules.chains {
        for (rule, saved) in &rules.accepted {
            typed.push_str(&format!("-A {chain} {rule}\n"));
            expected.push(format!("-A {chain} {saved}"));
        }
    }
    typed.push_str("COMMIT\n");
    iptables.restore(&typed)?;
    let saved = iptables.save()?;
    let found: Vec<_> = saved
        .lines()
        .filter(|line| line.starts_with("-A"))
        .collect();
    ensure!(
        found.len() == expected.len(),
        "{} rules became {}",
        expected.len(),
        found.len()
    );
    for (found, expected) in found.iter().zip(&expected) {
        ensure!(
            found == expected,
            "saved as\n{found}\ninstead of\n{expected}"
        );
    }

    iptables.flush()?;
    iptables.restore(&saved)?;
    ensure!(
        iptables.save()? == saved,
        "restored rules are saved otherwise"
    );
    // A rule is found for deletion by comparing what user space gave.
    for chain in &rules.chains {
        let (rule, _) = rules.accepted.last().context("no rule is accepted")?;
        iptables.succeed(&format!("-D {chain} {rule}"))?;
    }
    iptables.flush()
}

fn refused_rules_change_nothing(
    iptables: &Iptables<'_>,
    rules: &RuleTests,
    family: Family,
) -> Result<()> {
    let local = family.local();
    iptables.succeed(&format!("-A INPUT -j TRAFSTAT --local-net {local}"))?;
    let before = iptables.save()?;
    // A program each, which is what takes the time: on all CPUs.
    let cpus = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let shares: Vec<_> = rules
            .refused
            .chunks(rules.refused.len().div_ceil(cpus))
            .map(|share| {
                scope.spawn(|| share.iter().try_for_each(|rule| is_refused(iptables, rule)))
            })
            .collect();
        shares.into_iter().try_for_each(|share| {
            share
                .join()
                .map_err(|_| anyhow!("a thread with refused rules panicked"))?
        })
    })?;
    ensure!(
        iptables.save()? == before,
        "a refused rule changed the others"
    );
    iptables.flush()
}

/// A rule in nat is taken. The plugin warns each time that one is added, and the kernel's log
/// once in a network namespace.
fn rule_in_table_nat_is_warned_of(
    iptables: &Iptables<'_>,
    family: Family,
    is_first: bool,
) -> Result<()> {
    let rule = format!("OUTPUT -j TRAFSTAT --local-net {}", family.local());
    let log = KernelLog::from_now()?;
    for (command, is_warned_of) in [("-A", true), ("-C", false), ("-D", false)] {
        let ended = iptables.end(&format!("-t nat {command} {rule}"))?;
        let has_warning = ended.stderr.lines().any(|line| line == NAT_WARNING);
        ensure!(
            ended.code == Some(0) && has_warning == is_warned_of,
            "{command} in nat: {ended:?}"
        );
    }
    ensure!(
        log.says(NAT_NOTICE)? == is_first,
        "the log should have '{NAT_NOTICE}' once"
    );
    Ok(())
}

fn is_refused(iptables: &Iptables<'_>, rule: &str) -> Result<()> {
    let ended = iptables.end(&format!("-A INPUT {rule}"))?;
    ensure!(ended.code == Some(WRONG_USAGE), "{rule}: {ended:?}");
    // iptables itself adds where to find its help.
    let lines: Vec<_> = ended
        .stderr
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("Try `ip"))
        .collect();
    ensure!(lines.len() == 1, "{rule}: not one clear line: {lines:?}");
    ensure!(ended.stdout.is_empty(), "{rule}: {ended:?}");
    Ok(())
}

struct RuleTests {
    chains: Vec<String>,
    /// Rule and its saved form.
    accepted: Vec<(String, String)>,
    refused: Vec<String>,
}

impl RuleTests {
    fn read(guest: &Guest, family: Family) -> Result<Self> {
        let file = match family {
            Family::Ipv4 => "libxt_TRAFSTAT.t",
            Family::Ipv6 => "libxt_TRAFSTAT.ip6.t",
        };
        let text = fs::read_to_string(guest.file(file))?;
        let mut tests = Self {
            chains: Vec::new(),
            accepted: Vec::new(),
            refused: Vec::new(),
        };
        for line in text.lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(chains) = line.strip_prefix(':') {
                tests.chains = chains.split(',').map(str::to_owned).collect();
                continue;
            }
            match line.split(';').collect::<Vec<_>>()[..] {
                [rule, "=", "OK"] => tests.accepted.push((rule.to_owned(), rule.to_owned())),
                [rule, saved, "OK"] => tests.accepted.push((rule.to_owned(), saved.to_owned())),
                [rule, _, "FAIL"] => tests.refused.push(rule.to_owned()),
                _ => bail!("not a test of a rule: {line}"),
            }
        }
        ensure!(
            !tests.chains.is_empty() && !tests.accepted.is_empty() && !tests.refused.is_empty(),
            "the file with the rules has none"
        );
        Ok(tests)
    }
}
