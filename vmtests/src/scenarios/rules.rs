//! Every option survives being saved and restored, and what is wrong is refused in one clear line.
//!
//! The rules are those of `xt-plugin/libxt_TRAFSTAT.t`, in iptables' own test format: a line with
//! the chains, then `RULE;SAVED FORM or =;OK or FAIL`.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use crate::guest::Guest;
use crate::iptables::Iptables;
use crate::module;
use crate::topology::Topology;

/// iptables' exit status for wrong usage.
const WRONG_USAGE: i32 = 2;

pub fn run(guest: &Guest) -> Result<()> {
    let rules = RuleTests::read(guest)?;
    module::load(guest)?;
    let topology = Topology::new()?;
    let iptables = Iptables::new(guest, &topology.local);
    accepted_rules_are_saved_as_they_restore(&iptables, &rules)?;
    refused_rules_change_nothing(&iptables, &rules)
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

fn refused_rules_change_nothing(iptables: &Iptables<'_>, rules: &RuleTests) -> Result<()> {
    iptables.succeed("-A INPUT -j TRAFSTAT --local-net 192.0.2.1")?;
    let before = iptables.save()?;
    for rule in &rules.refused {
        let ended = iptables.end(&format!("-A INPUT {rule}"))?;
        ensure!(ended.code == Some(WRONG_USAGE), "{rule}: {ended:?}");
        // iptables itself adds where to find its help.
        let lines: Vec<_> = ended
            .stderr
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("Try `iptables -h'"))
            .collect();
        ensure!(lines.len() == 1, "{rule}: not one clear line: {lines:?}");
        ensure!(ended.stdout.is_empty(), "{rule}: {ended:?}");
    }
    ensure!(
        iptables.save()? == before,
        "a refused rule changed the others"
    );
    iptables.flush()
}

struct RuleTests {
    chains: Vec<String>,
    /// Rule and its saved form.
    accepted: Vec<(String, String)>,
    refused: Vec<String>,
}

impl RuleTests {
    fn read(guest: &Guest) -> Result<Self> {
        let text = fs::read_to_string(guest.file("libxt_TRAFSTAT.t"))?;
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
