// SPDX-License-Identifier: GPL-2.0-or-later
//! From facts about the host to what is wrong with them, and what to do.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::doctor::facts::{COLLECTED_WITHIN_MINUTES, Facts, LoadFailure};
use crate::doctor::rule::SavedRule;

/// A store with less room than this is nearly full: a large account's epoch, and its log.
const LEAST_BYTES: u64 = 200 << 20;

/// Something that makes figures wrong or missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind it is; one word for scripts.
    pub kind: &'static str,
    /// Whether figures are wrong or missing now, and not only may be.
    pub is_error: bool,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// What is wrong; nothing on a host that is well.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(module(facts));
    findings.extend(outdated_module(facts));
    findings.extend(kernels_without_module(facts));
    findings.extend(nft_compat(facts));
    for (program, saved) in &facts.saved_rules {
        let rules = SavedRule::of_table(saved, "filter");
        findings.extend(shadowed(program, &rules));
        findings.extend(counted_twice(program, &rules));
        findings.extend(untracked(program, saved, &rules));
    }
    for (program, saved) in facts.saved_rules.iter().chain(&facts.other_saved_rules) {
        findings.extend(nat(program, saved));
    }
    findings.extend(firewall_files(facts));
    findings.extend(no_rules(facts));
    findings.extend(offloaded(facts));
    findings.extend(ports(facts));
    findings.extend(configuration(facts));
    findings.extend(collector(facts));
    findings.extend(spool(facts));
    findings.extend(clock(facts));
    findings.extend(unattributed(facts));
    findings.extend(folded(facts));
    findings.extend(space(facts));
    findings.extend(quotas(facts));
    findings
}

fn error(kind: &'static str, what: String, remedy: impl Into<String>) -> Finding {
    Finding {
        kind,
        is_error: true,
        what,
        remedy: remedy.into(),
    }
}

fn warning(kind: &'static str, what: String, remedy: impl Into<String>) -> Finding {
    Finding {
        is_error: false,
        ..error(kind, what, remedy)
    }
}

fn module(facts: &Facts) -> Option<Finding> {
    let kernel = &facts.kernel;
    Some(match facts.load_failure.as_ref()? {
        LoadFailure::NotTried => error(
            "module-not-loaded",
            "the module xt_TRAFSTAT is not loaded: nothing is counted".to_owned(),
            "trafstat doctor tries to load it and tells why it fails; trafstat setup sets it up",
        ),
        LoadFailure::NotBuilt => error(
            "module-missing",
            format!("there is no module xt_TRAFSTAT for this kernel, {kernel}"),
            format!(
                "apt-get install linux-headers-{kernel} trafstat-dkms; \"dkms status\" says \
                 whether it was built, /var/lib/dkms/trafstat has the build's log"
            ),
        ),
        LoadFailure::SignatureRefused => error(
            "signature-refused",
            "the kernel refuses the module for its signature: Secure Boot is on".to_owned(),
            "mokutil --import /var/lib/dkms/mok.pub, reboot, and enrol the key on the console",
        ),
        LoadFailure::Other(words) => error(
            "module-refused",
            format!("the module cannot be loaded: {words}"),
            "look at the kernel's log: dmesg | tail",
        ),
    })
}

/// A loaded module that is not the installed one, as after an upgrade of the package.
fn outdated_module(facts: &Facts) -> Option<Finding> {
    let loaded = facts.loaded_module.as_ref()?;
    let installed = facts.installed_module.as_ref()?;
    let what = match loaded.version == installed.version {
        true => "the loaded module is another build than the installed one".to_owned(),
        false => format!(
            "the loaded module is not the installed one: its version is {}, the installed one's {}",
            loaded.version_name(),
            installed.version_name()
        ),
    };
    loaded.differs_from(installed).then(|| {
        warning(
            "module-outdated",
            what,
            "reboot; or trafstat-store --once, delete the rules, modprobe -r xt_TRAFSTAT, modprobe \
             xt_TRAFSTAT, and restore the rules: systemctl restart trafstat-rules.service, or \
             trafstat setup",
        )
    })
}

/// Kernels that would count nothing once they are booted.
fn kernels_without_module(facts: &Facts) -> Vec<Finding> {
    // Another finding is about the running one.
    let is_running = |kernel: &&String| {
        facts.load_failure == Some(LoadFailure::NotBuilt) && **kernel == facts.kernel
    };
    let kernels = facts.kernels_without_module.iter();
    kernels
        .filter(|kernel| !is_running(kernel))
        .map(|kernel| {
            warning(
                "kernel-without-module",
                format!(
                    "kernel {kernel} is installed and has no module xt_TRAFSTAT: once it is \
                     booted, nothing is counted"
                ),
                format!("apt-get install linux-headers-{kernel}; dkms autoinstall -k {kernel}"),
            )
        })
        .collect()
}

fn nft_compat(facts: &Facts) -> Option<Finding> {
    facts.nft_compat_missing.then(|| {
        error(
            "nft-compat-missing",
            "iptables puts its rules into nftables, but this kernel has no nft_compat, without \
             which no extension works there"
                .to_owned(),
            "boot a kernel with CONFIG_NFT_COMPAT, or \"update-alternatives --set iptables \
             /usr/sbin/iptables-legacy\"",
        )
    })
}

/// Files that a firewall does not load where the module is missing.
fn firewall_files(facts: &Facts) -> Vec<Finding> {
    let files = facts.firewall_files.iter();
    files
        .map(|path| {
            error(
                "rules-in-firewall",
                format!(
                    "{path} names TRAFSTAT: if the module is missing at boot, nothing of the file \
                     is loaded, and the host stands without its firewall"
                ),
                "trafstat setup takes its own rules out and has a unit set them after the firewall; \
                 take others out by hand, and set them in a unit that is ordered after the firewall's",
            )
        })
        .collect()
}

fn no_rules(facts: &Facts) -> Option<Finding> {
    let counts = |(_, saved): &(String, String)| {
        SavedRule::of_table(saved, "filter")
            .iter()
            .any(SavedRule::counts)
            || saved.contains("-j TRAFSTAT")
    };
    (!facts.saved_rules.iter().any(counts)).then(|| {
        error(
            "no-rules",
            "no rule counts anything".to_owned(),
            "trafstat setup; or systemctl restart trafstat-rules.service, if it was set up",
        )
    })
}

/// Quotas whose warnings are due: figures are right, and more than was wanted.
fn quotas(facts: &Facts) -> Vec<Finding> {
    match &facts.quotas {
        // Another finding says so where nothing can be asked.
        Err(_) if facts.recent_epochs.is_err() || facts.configuration_error.is_some() => Vec::new(),
        Err(reason) => vec![warning(
            "quota-unknown",
            format!("how much of the quotas is used cannot be told: {reason}"),
            "trafstat-store check, which says what the database lacks",
        )],
        Ok(usages) => usages
            .iter()
            .filter(|usage| usage.reached(&facts.warn_at).next().is_some())
            .map(|usage| {
                warning(
                    "quota",
                    format!("quota {}", usage.sentence()),
                    format!(
                        "trafstat show tells what used it; it begins anew at {}",
                        usage.end
                    ),
                )
            })
            .collect(),
    }
}

/// Rules before it in its chain that took packets away.
fn shadowed(program: &str, rules: &[SavedRule]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.counts()) {
        let before = rules[..index].iter().filter(|other| {
            // What passes over the loopback device never leaves the host.
            other.chain == rule.chain
                && other.ends_the_walk()
                && other.value("-i") != Some("lo")
                && other.value("-o") != Some("lo")
        });
        let taken: u64 = before.map(|other| other.packets).sum();
        if taken > 0 {
            findings.push(error(
                "shadowed",
                format!(
                    "{program}: rules before the one that counts into {} took {taken} packets \
                     of {} away, uncounted",
                    rule.account(),
                    rule.chain
                ),
                format!(
                    "put it first: {program} -I {} 1 ..., or trafstat setup",
                    rule.chain
                ),
            ));
        }
    }
    findings
}

/// Two rules of a chain through which one packet goes into one account.
fn counted_twice(program: &str, rules: &[SavedRule]) -> Vec<Finding> {
    let counting: Vec<_> = rules.iter().filter(|rule| rule.counts()).collect();
    let mut findings = Vec::new();
    for (index, first) in counting.iter().enumerate() {
        for second in &counting[index + 1..] {
            let same_account = first.account() == second.account();
            if same_account && first.chain == second.chain && !are_disjoint(first, second) {
                findings.push(error(
                    "counted-twice",
                    format!(
                        "{program}: two rules of {} count a packet with both sides in {} twice",
                        first.chain,
                        first.account()
                    ),
                    format!(
                        "let one leave out what the other has: -A {} ! -s NET -d NET ...",
                        first.chain
                    ),
                ));
            }
        }
    }
    let passes_loopback = |chain: &str| {
        counting.iter().find(|rule| {
            let device = if chain == "INPUT" { "-i" } else { "-o" };
            rule.chain == chain
                && rule.excluded(device) != Some("lo")
                && rule.value(device).is_none()
        })
    };
    if let (Some(input), Some(output)) = (passes_loopback("INPUT"), passes_loopback("OUTPUT"))
        && input.account() == output.account()
    {
        findings.push(warning(
            "own-traffic-twice",
            format!(
                "{program}: what this host sends to itself is counted into {} in OUTPUT and \
                     in INPUT",
                input.account()
            ),
            "add \"! -i lo\" to the rule in INPUT, as trafstat setup does",
        ));
    }
    findings
}

/// Whether no packet fits both, as far as their matches tell.
fn are_disjoint(a: &SavedRule, b: &SavedRule) -> bool {
    ["-s", "-d", "-i", "-o", "-p"].iter().any(|option| {
        let (in_a, in_b) = (a.value(option), b.value(option));
        let both_differ = in_a.is_some() && in_b.is_some() && in_a != in_b;
        // Addresses may be nets that overlap; only what is excluded by name is known to be apart.
        let may_overlap = ["-s", "-d"].contains(option);
        both_differ && !may_overlap
            || in_a.is_some() && in_a == b.excluded(option)
            || in_b.is_some() && in_b == a.excluded(option)
    })
}

/// Rules that ask connection tracking, on a host that keeps packets from it.
fn untracked(program: &str, saved: &str, rules: &[SavedRule]) -> Option<Finding> {
    let raw = SavedRule::of_table(saved, "raw");
    let notrack = raw.iter().any(|rule| {
        rule.value("-j") == Some("NOTRACK") || rule.words.iter().any(|word| word == "--notrack")
    });
    let asks = |rule: &&SavedRule| {
        rule.counts()
            && rule
                .values("-m")
                .any(|name| ["conntrack", "state"].contains(&name))
    };
    let asking = rules.iter().find(asks)?;
    notrack.then(|| {
        error(
            "untracked",
            format!(
                "{program}: the rule that counts into {} asks for a connection's state, and rules \
                 of the table raw keep packets untracked: they pass it by",
                asking.account()
            ),
            "count without -m conntrack",
        )
    })
}

/// Rules that count where only the first packet of each connection passes.
fn nat(program: &str, saved: &str) -> Vec<Finding> {
    let rules = SavedRule::of_table(saved, "nat").into_iter();
    rules
        .filter(SavedRule::counts)
        .map(|rule| {
            error(
                "nat-table",
                format!(
                    "{program}: the rule that counts into {} is in chain {} of the table nat, \
                     which sees only the first packet of each connection: its figures are far \
                     too small",
                    rule.account(),
                    rule.chain
                ),
                format!(
                    "move it to the table mangle or filter: {program} -t mangle -A {} ...",
                    rule.chain
                ),
            )
        })
        .collect()
}

fn offloaded(facts: &Facts) -> Option<Finding> {
    let adds = |line: &str| {
        let line = line.trim();
        line.contains("flow add @") || line.contains("flow offload @")
    };
    let is_offloaded = facts.nft_ruleset.lines().any(adds)
        || facts
            .saved_rules
            .iter()
            .any(|(_, saved)| saved.contains("-j FLOWOFFLOAD"));
    is_offloaded.then(|| {
        error(
            "flow-offload",
            "a flowtable forwards packets past all rules: of an offloaded connection only the \
             first packets are counted"
                .to_owned(),
            "take the rule \"flow add\" away, or leave out what shall be counted",
        )
    })
}

/// Ports that listen and would count as port 0.
fn ports(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let all_rules: Vec<_> = facts
        .saved_rules
        .iter()
        .flat_map(|(_, saved)| SavedRule::of_table(saved, "filter"))
        .filter(|rule| rule.counts() && rule.is_in_builtin_chain() && rule.chain != "FORWARD")
        .collect();
    for (protocol, option, listening) in [
        ("TCP", "--local-tcp-ports", &facts.tcp_ports),
        ("UDP", "--local-udp-ports", &facts.udp_ports),
    ] {
        let lists: Vec<_> = all_rules
            .iter()
            .flat_map(|rule| rule.values(option))
            .collect();
        // A rule without a list is one that wants none.
        if lists.is_empty() || lists.contains(&"all") {
            continue;
        }
        let listed: BTreeSet<u16> = lists.iter().flat_map(|list| ports_in(list)).collect();
        let missing: Vec<_> = listening.difference(&listed).map(u16::to_string).collect();
        if !missing.is_empty() {
            findings.push(warning(
                "port-not-listed",
                format!(
                    "{protocol} ports that listen are counted as port 0: {}",
                    missing.join(", ")
                ),
                "trafstat setup, or the option of the rule",
            ));
        }
    }
    findings
}

fn ports_in(list: &str) -> Vec<u16> {
    list.split(',')
        .filter_map(|element| {
            let (first, last) = element.split_once(':').unwrap_or((element, element));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

fn configuration(facts: &Facts) -> Option<Finding> {
    facts.configuration_error.as_ref().map(|reason| {
        error(
            "configuration-wrong",
            format!("nothing is collected with this configuration: {reason}"),
            "correct it; trafstat.toml(5) explains every key",
        )
    })
}

fn collector(facts: &Facts) -> Option<Finding> {
    if facts.accounts.is_empty() || facts.configuration_error.is_some() {
        return None;
    }
    let remedy = "systemctl status trafstat-collect.timer trafstat-collect.service; by hand: \
                  trafstat-store --once";
    match &facts.recent_epochs {
        Err(reason) => Some(error("store-unreadable", reason.clone(), remedy)),
        Ok(0) => Some(error(
            "not-collected",
            format!("nothing was collected in the last {COLLECTED_WITHIN_MINUTES} minutes"),
            remedy,
        )),
        Ok(_) => None,
    }
}

/// Epochs that the database does not have.
fn spool(facts: &Facts) -> Vec<Finding> {
    let counts = match &facts.spool {
        Ok(counts) => counts,
        Err(reason) => {
            return vec![error(
                "spool-unreadable",
                reason.clone(),
                "trafstat-store spool list, once that is mended",
            )];
        }
    };
    let mut findings = Vec::new();
    if counts.refused > 0 {
        findings.push(error(
            "epochs-refused",
            format!(
                "{} epochs are set aside in the spool, since the database refuses them",
                counts.refused
            ),
            "trafstat-store spool list tells why; \"spool retry\" offers one again, \"spool export\" \
             and \"spool drop\" save and delete it",
        ));
    }
    if counts.waiting > 0 {
        findings.push(warning(
            "epochs-waiting",
            format!(
                "{} epochs wait in the spool for the database",
                counts.waiting
            ),
            "trafstat-store --once says what is wrong with the database, if something still is",
        ));
    }
    findings
}

fn clock(facts: &Facts) -> Option<Finding> {
    (facts.future_epochs > 0).then(|| {
        error(
            "clock-skew",
            format!(
                "{} epochs in the store are later than this host's clock",
                facts.future_epochs
            ),
            "set the clock (timedatectl); figures by time are wrong for that while",
        )
    })
}

/// Accounts with packets that are in no local address's figures.
fn unattributed(facts: &Facts) -> Vec<Finding> {
    let accounts = facts.accounts.iter();
    accounts
        .filter_map(|account| {
            let packets = account
                .unattributed_packets
                .filter(|&packets| packets > 0)?;
            Some(error(
                "unattributed",
                format!(
                    "account {}: {packets} packets found no room even for their local address, \
                     since an epoch has at most {} records",
                    account.name, account.max_entries
                ),
                "a larger --max-entries in its rules",
            ))
        })
        .collect()
}

fn folded(facts: &Facts) -> Vec<Finding> {
    // Those without a local address are folded, too, and have a finding of their own.
    let folded = facts
        .accounts
        .iter()
        .filter(|account| account.folded_packets > account.unattributed_packets.unwrap_or(0));
    folded
        .map(|account| {
            warning(
                "folded",
                format!(
                    "account {}: {} packets lost their remote side, since an epoch has at most \
                     {} records",
                    account.name, account.folded_packets, account.max_entries
                ),
                "a larger --max-entries in its rules, fewer ports listed, or --min-pkt-spoof",
            )
        })
        .collect()
}

fn space(facts: &Facts) -> Option<Finding> {
    let (free, total) = facts.store_space?;
    (free < LEAST_BYTES || free < total / 20).then(|| {
        error(
            "store-nearly-full",
            format!("the store's file system has {} MiB left", free >> 20),
            "trafstat-store prune --before 90d frees room inside the database; or make room",
        )
    })
}
