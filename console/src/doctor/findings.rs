//! From facts about the host to what is wrong with them, and what to do.

use std::collections::BTreeSet;

use serde::Serialize;

use super::facts::{Facts, LoadFailure};
use super::rule::SavedRule;

/// The collector's timer, and two runs that a busy host may have missed.
pub const COLLECTED_WITHIN_MINUTES: i64 = 16;

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
    findings.extend(no_rules(facts));
    findings.extend(offloaded(facts));
    findings.extend(ports(facts));
    findings.extend(configuration(facts));
    findings.extend(collector(facts));
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
    const LEAST_BYTES: u64 = 200 << 20;
    let (free, total) = facts.store_space?;
    (free < LEAST_BYTES || free < total / 20).then(|| {
        error(
            "store-nearly-full",
            format!("the store's file system has {} MiB left", free >> 20),
            "trafstat-store prune --before 90d frees room inside the database; or make room",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::module::Build;
    use crate::kernel_accounts::KernelAccount;
    use crate::quota::Usage;

    fn well() -> Facts {
        Facts {
            kernel: "6.1.0-56-amd64".to_owned(),
            saved_rules: vec![("iptables".to_owned(), saved(&[IN, OUT]))],
            tcp_ports: [22, 80].into(),
            accounts: vec![account()],
            recent_epochs: Ok(3),
            store_space: Some((10 << 30, 20 << 30)),
            ..Facts::default()
        }
    }

    const IN: &str = "[5:500] -A INPUT -d 192.0.2.1/32 ! -i lo -m comment --comment \
                      trafstat-setup-1 -j TRAFSTAT --local-net 192.0.2.1/32 \
                      --local-tcp-ports 22,80";
    const OUT: &str = "[5:500] -A OUTPUT -s 192.0.2.1/32 -j TRAFSTAT --local-net 192.0.2.1/32 \
                       --local-tcp-ports 22,80";

    fn account() -> KernelAccount {
        KernelAccount {
            family: "ipv4".to_owned(),
            name: "192.0.2.1_32".to_owned(),
            local_net: "192.0.2.1/32".to_owned(),
            rules: 2,
            epoch: 2,
            unread: 0,
            seen_packets: 10,
            outside_packets: 0,
            folded_packets: 0,
            records: 1,
            max_entries: 1_000_000,
            memory_bytes: 4096,
            unattributed_packets: Some(0),
            unattributed_bytes: Some(0),
        }
    }

    fn saved(rules: &[&str]) -> String {
        format!(
            "*filter\n:INPUT ACCEPT [0:0]\n{}\nCOMMIT\n",
            rules.join("\n")
        )
    }

    fn with_rules(rules: &[&str]) -> Facts {
        Facts {
            saved_rules: vec![("iptables".to_owned(), saved(rules))],
            ..well()
        }
    }

    fn kinds(facts: &Facts) -> Vec<&'static str> {
        examine(facts).iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn host_that_is_well_has_no_findings() {
        assert_eq!(examine(&well()), []);
    }

    #[test]
    fn module_that_does_not_load_is_found_with_its_reason() {
        for (failure, kind) in [
            (LoadFailure::NotBuilt, "module-missing"),
            (LoadFailure::SignatureRefused, "signature-refused"),
            (LoadFailure::Other("no memory".to_owned()), "module-refused"),
        ] {
            let facts = Facts {
                load_failure: Some(failure),
                ..well()
            };
            assert_eq!(kinds(&facts), [kind]);
        }
    }

    fn build(version: Option<&str>, srcversion: &str) -> Option<Build> {
        Some(Build {
            version: version.map(str::to_owned),
            srcversion: Some(srcversion.to_owned()),
        })
    }

    #[test]
    fn loaded_module_that_is_not_the_installed_one_is_found() {
        for (loaded, what) in [
            (
                build(None, "A"),
                "its version is older than 0.2.0, the installed one's 0.3.0",
            ),
            (build(Some("0.2.0"), "A"), "its version is 0.2.0"),
            (build(Some("0.3.0"), "A"), "another build"),
        ] {
            let facts = Facts {
                loaded_module: loaded,
                installed_module: build(Some("0.3.0"), "B"),
                ..well()
            };
            let findings = examine(&facts);
            assert_eq!(kinds(&facts), ["module-outdated"]);
            assert!(findings[0].what.contains(what), "{findings:?}");
            assert!(!findings[0].is_error);
        }
        for (loaded, installed) in [
            (build(Some("0.3.0"), "B"), build(Some("0.3.0"), "B")),
            (build(Some("0.3.0"), "B"), None),
            (None, build(Some("0.3.0"), "B")),
        ] {
            let facts = Facts {
                loaded_module: loaded,
                installed_module: installed,
                ..well()
            };
            assert_eq!(examine(&facts), []);
        }
    }

    #[test]
    fn installed_kernel_without_a_module_is_found() {
        let mut facts = Facts {
            kernels_without_module: vec!["6.1.0-57-amd64".to_owned()],
            ..well()
        };
        assert_eq!(kinds(&facts), ["kernel-without-module"]);
        let [finding] = &examine(&facts)[..] else {
            panic!("one finding");
        };
        assert!(
            finding
                .remedy
                .contains("dkms autoinstall -k 6.1.0-57-amd64")
        );
        // The running one has its own finding.
        facts.kernels_without_module.push(facts.kernel.clone());
        facts.load_failure = Some(LoadFailure::NotBuilt);
        assert_eq!(kinds(&facts), ["module-missing", "kernel-without-module"]);
    }

    #[test]
    fn rule_in_table_nat_is_found_in_every_program() {
        let nat = |table: &str| {
            format!(
                "*{table}\n[3:300] -A POSTROUTING -j TRAFSTAT --local-net 192.0.2.1/32\nCOMMIT\n"
            )
        };
        for program in ["iptables", "ip6tables", "iptables-legacy", "ip6tables-nft"] {
            let mut facts = well();
            facts
                .other_saved_rules
                .push((program.to_owned(), nat("nat")));
            let findings = examine(&facts);
            assert_eq!(kinds(&facts), ["nat-table"]);
            assert!(findings[0].is_error);
            assert!(findings[0].what.starts_with(program), "{findings:?}");
            assert!(findings[0].remedy.contains("-t mangle -A POSTROUTING"));
        }
        let mut facts = well();
        facts.saved_rules[0].1 += &nat("nat");
        assert_eq!(kinds(&facts), ["nat-table"]);
        // In mangle, every packet passes.
        let mut facts = well();
        facts.saved_rules[0].1 += &nat("mangle");
        assert_eq!(kinds(&facts), [""; 0]);
    }

    #[test]
    fn missing_nft_compat_is_found() {
        let facts = Facts {
            nft_compat_missing: true,
            ..well()
        };
        assert_eq!(kinds(&facts), ["nft-compat-missing"]);
    }

    #[test]
    fn host_without_rules_is_found() {
        assert_eq!(
            kinds(&with_rules(&["[1:1] -A INPUT -j ACCEPT"])),
            ["no-rules"]
        );
    }

    #[test]
    fn rule_behind_one_that_took_packets_is_found() {
        let accept = "[7:700] -A INPUT -p tcp -j ACCEPT";
        assert_eq!(kinds(&with_rules(&[accept, IN, OUT])), ["shadowed"]);
        // Behind it, in another chain, over loopback, or without a packet it does no harm.
        for harmless in [
            "[7:700] -A FORWARD -j DROP",
            "[7:700] -A INPUT -i lo -j ACCEPT",
            "[0:0] -A INPUT -p tcp -j ACCEPT",
        ] {
            assert_eq!(
                kinds(&with_rules(&[harmless, IN, OUT])),
                [""; 0],
                "{harmless}"
            );
        }
        assert_eq!(kinds(&with_rules(&[IN, accept, OUT])), [""; 0]);
    }

    #[test]
    fn packet_with_both_sides_local_counted_twice_is_found() {
        let lan = "-j TRAFSTAT --local-net 10.0.0.0/24";
        let sent = format!("[1:1] -A FORWARD -s 10.0.0.0/24 {lan}");
        let received = format!("[1:1] -A FORWARD -d 10.0.0.0/24 {lan}");
        let received_only = format!("[1:1] -A FORWARD ! -s 10.0.0.0/24 -d 10.0.0.0/24 {lan}");
        assert_eq!(kinds(&with_rules(&[&sent, &received])), ["counted-twice"]);
        assert_eq!(kinds(&with_rules(&[&sent, &received_only])), [""; 0]);
        assert_eq!(kinds(&with_rules(&[IN, IN, OUT])), ["counted-twice"]);
    }

    #[test]
    fn traffic_to_itself_counted_in_both_chains_is_found() {
        let input = IN.replace("! -i lo ", "");
        assert_eq!(kinds(&with_rules(&[&input, OUT])), ["own-traffic-twice"]);
    }

    #[test]
    fn offloaded_flows_are_found() {
        let facts = Facts {
            nft_ruleset: "table inet f {\n  chain c {\n    ip protocol tcp flow add @f\n"
                .to_owned(),
            ..well()
        };
        assert_eq!(kinds(&facts), ["flow-offload"]);
    }

    #[test]
    fn rule_that_asks_for_the_state_of_untracked_packets_is_found() {
        let asking = IN.replace("-m comment", "-m conntrack --ctstate NEW -m comment");
        let raw = "*raw\n[9:9] -A PREROUTING -p udp -j CT --notrack\nCOMMIT\n";
        let facts = |rules: &[&str]| Facts {
            saved_rules: vec![("iptables".to_owned(), raw.to_owned() + &saved(rules))],
            ..well()
        };
        assert_eq!(kinds(&facts(&[&asking, OUT])), ["untracked"]);
        assert_eq!(kinds(&facts(&[IN, OUT])), [""; 0]);
    }

    #[test]
    fn listening_port_that_is_not_listed_is_found() {
        let facts = Facts {
            tcp_ports: [22, 80, 8080].into(),
            ..well()
        };
        let findings = examine(&facts);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].kind, "port-not-listed");
        assert!(findings[0].what.ends_with(": 8080"));
    }

    #[test]
    fn collector_that_did_not_run_is_found() {
        let facts = Facts {
            recent_epochs: Ok(0),
            ..well()
        };
        assert_eq!(kinds(&facts), ["not-collected"]);
        let facts = Facts {
            recent_epochs: Err("there is no database".to_owned()),
            ..well()
        };
        assert_eq!(kinds(&facts), ["store-unreadable"]);
    }

    #[test]
    fn wrong_configuration_is_found_once() {
        let facts = Facts {
            configuration_error: Some("line 2".to_owned()),
            recent_epochs: Err("line 2".to_owned()),
            quotas: Err("line 2".to_owned()),
            ..well()
        };
        assert_eq!(kinds(&facts), ["configuration-wrong"]);
    }

    #[test]
    fn epochs_of_the_future_are_found() {
        let facts = Facts {
            future_epochs: 1,
            ..well()
        };
        assert_eq!(kinds(&facts), ["clock-skew"]);
    }

    #[test]
    fn folded_packets_are_found() {
        let mut facts = well();
        facts.accounts[0].folded_packets = 1;
        assert_eq!(kinds(&facts), ["folded"]);
    }

    #[test]
    fn packets_without_their_local_address_are_found() {
        let mut facts = well();
        facts.accounts[0].folded_packets = 3;
        facts.accounts[0].unattributed_packets = Some(3);
        assert_eq!(kinds(&facts), ["unattributed"]);
        assert!(examine(&facts)[0].is_error);
        facts.accounts[0].folded_packets = 4;
        assert_eq!(kinds(&facts), ["unattributed", "folded"]);
        // An older module does not tell.
        facts.accounts[0].unattributed_packets = None;
        assert_eq!(kinds(&facts), ["folded"]);
    }

    #[test]
    fn store_that_is_nearly_full_is_found() {
        for space in [(100 << 20, 1 << 30), (1 << 30, 100 << 30)] {
            let facts = Facts {
                store_space: Some(space),
                ..well()
            };
            assert_eq!(kinds(&facts), ["store-nearly-full"]);
        }
    }

    #[test]
    fn quota_is_told_from_its_first_warning_on() {
        let usage = |used_bytes| Usage {
            name: "web".to_owned(),
            begin: jiff::Timestamp::UNIX_EPOCH,
            end: jiff::Timestamp::UNIX_EPOCH,
            used_bytes,
            limit_bytes: 1000,
        };
        let found = |quotas| {
            let facts = Facts {
                quotas,
                warn_at: vec![80, 100],
                ..well()
            };
            let kinds = examine(&facts).into_iter();
            kinds
                .map(|finding| (finding.kind, finding.is_error))
                .collect::<Vec<_>>()
        };
        assert!(found(Ok(vec![usage(799)])).is_empty());
        assert_eq!(found(Ok(vec![usage(799), usage(800)])), [("quota", false)]);
        assert_eq!(found(Err("no".to_owned())), [("quota-unknown", false)]);
    }
}
