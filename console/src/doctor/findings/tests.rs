// SPDX-License-Identifier: GPL-2.0-or-later
//! What is found on hosts that a test makes up.

use super::*;
use crate::doctor::facts::SpoolCounts;
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
fn rule_in_a_file_that_a_firewall_loads_is_an_error() {
    let facts = Facts {
        firewall_files: vec!["/etc/iptables/rules.v4".to_owned()],
        ..well()
    };
    let [finding] = &examine(&facts)[..] else {
        panic!("not one finding");
    };
    assert_eq!(finding.kind, "rules-in-firewall");
    assert!(finding.is_error);
}

#[test]
fn module_that_does_not_load_is_found_with_its_reason() {
    for (failure, kind) in [
        (LoadFailure::NotTried, "module-not-loaded"),
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
        format!("*{table}\n[3:300] -A POSTROUTING -j TRAFSTAT --local-net 192.0.2.1/32\nCOMMIT\n")
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
        nft_ruleset: "table inet f {\n  chain c {\n    ip protocol tcp flow add @f\n".to_owned(),
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
        inexact: None,
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

#[test]
fn epochs_that_the_database_refuses_are_counted_and_waiting_ones_too() {
    let with = |waiting, refused| Facts {
        spool: Ok(SpoolCounts { waiting, refused }),
        ..well()
    };
    assert_eq!(kinds(&with(0, 0)), [""; 0]);
    assert_eq!(kinds(&with(2, 1)), ["epochs-refused", "epochs-waiting"]);
    let findings = examine(&with(0, 7));
    assert!(findings[0].is_error);
    assert!(findings[0].what.starts_with("7 epochs are set aside"));
    assert!(findings[0].remedy.contains("trafstat-store spool list"));
    let unreadable = Facts {
        spool: Err("the spool is damaged".to_owned()),
        ..well()
    };
    assert_eq!(kinds(&unreadable), ["spool-unreadable"]);
}
