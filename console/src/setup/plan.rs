// SPDX-License-Identifier: GPL-2.0-or-later
//! From what the host is like and what the user wants to the steps that bring it about.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::configuration;
use super::host::Host;
use super::rules::{self, LocalPorts, Rule};
use super::step::{Server, Step};

/// What `--restore` sets, where nothing else restores the rules.
pub const RULES_PATH: &str = "/etc/trafstat/rules.json";
/// The files that netfilter-persistent loads.
pub const FIREWALL_FILES: [&str; 2] = ["/etc/iptables/rules.v4", "/etc/iptables/rules.v6"];
/// The collector's file where cron runs it.
pub const CRON_PATH: &str = "/etc/cron.d/trafstat";

const CRON: &str = include_str!("../../../scripts/dist/trafstat.cron");
/// Collects at shutdown, where no unit of this name does.
const LAST_COLLECT: &str = "trafstat-last-collect";
const LAST_COLLECT_SCRIPT: &str = include_str!("../../../scripts/dist/trafstat-last-collect.init");

const RULES_UNIT: &str = "trafstat-rules.service";

/// What collects, deletes what is old, and warns, where systemd runs.
const COLLECTION_UNITS: [&str; 4] = [
    "trafstat-collect.timer",
    "trafstat-last-collect.service",
    "trafstat-prune.timer",
    "trafstat-quota.timer",
];

/// What the user asks setup for.
#[derive(Debug, Clone, Default)]
pub struct SetupRequest {
    /// The local nets; none means the host's own addresses.
    pub local_nets: Vec<IpNet>,
    /// The nets lie behind this host, which forwards for them.
    pub router: bool,
    /// Which local ports keep their number.
    pub ports: PortChoice,
    /// Whose place this takes: its rules count, and no other.
    pub original: Option<Original>,
    /// The MySQL server that setup makes the store on; without one, the store is where the
    /// configuration says.
    pub server: Option<Server>,
}

/// What the original xt_TRAFSTAT left on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// The server and database of its tables, where it stored in any.
    pub tables: Option<String>,
}

/// Which local ports keep their number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PortChoice {
    /// Those that listen; none on a router.
    #[default]
    Auto,
    /// All.
    All,
    /// None.
    None,
    /// These, for TCP and UDP.
    Listed(Vec<u16>),
}

/// The rules of one program of iptables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSet {
    /// `iptables`, `ip6tables`, or one with `-nft` or `-legacy`.
    pub program: String,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// The steps, in their order.
///
/// # Errors
/// The host cannot be served; the error says what to do instead.
pub fn steps(host: &Host, request: &SetupRequest) -> Result<Vec<Step>> {
    if let Some(original) = &request.original {
        return from_original(host, request, original);
    }
    let sets = rule_sets(host, request)?;
    if host.firewalld {
        bail!(
            "firewalld runs here and would take the rules away at its next reload. Have it set \
             them itself:\n\n{}    firewall-cmd --reload\n    systemctl enable --now {}\n",
            firewalld_commands(&sets),
            COLLECTION_UNITS.join(" ")
        );
    }
    if host.ufw_manages_builtins {
        bail!(
            "ufw flushes the chains INPUT, OUTPUT and FORWARD here: set MANAGE_BUILTINS=no in \
             /etc/default/ufw, run \"ufw reload\", and then this again"
        );
    }
    // Undone in the reverse order: the last collection still finds the store.
    let mut steps = store(host, request)?;
    steps.push(Step::Module);
    steps.extend(sets.iter().map(|set| Step::Rules {
        program: set.program.clone(),
        rules: set.rules.clone(),
    }));
    steps.extend(persistence(host, &sets)?);
    steps.extend(collection(host)?);
    Ok(steps)
}

/// What makes the store, where setup makes it.
fn store(host: &Host, request: &SetupRequest) -> Result<Vec<Step>> {
    let Some(server) = &request.server else {
        return Ok(Vec::new());
    };
    configuration::check(&host.configuration, &server.url)?;
    let (login, database) = match &server.login {
        Some(login) => (Step::Login(login.clone()), Step::Schema(server.clone())),
        None => (Step::Password, Step::Database(server.clone())),
    };
    let url = server.url.clone();
    Ok(vec![login, Step::Configuration { url }, database])
}

/// The steps where the original's rules stay: whatever restored them at boot goes on to do so.
fn from_original(host: &Host, request: &SetupRequest, original: &Original) -> Result<Vec<Step>> {
    let Some(program) = &host.iptables else {
        bail!("there is no iptables here: install it (apt-get install iptables)");
    };
    let database = |url: &str| url.rsplit('/').next().map(str::to_owned);
    if let (Some(server), Some(tables)) = (&request.server, &original.tables) {
        // A view of the store has the name that the original's table has.
        if database(&server.url) == database(tables) {
            bail!(
                "the original's tables are in the database of {tables}: name another one for the \
                 store, such as --url mysql://trafstat@localhost/accounting"
            );
        }
    }
    let mut steps = store(host, request)?;
    steps.push(Step::Original {
        program: program.clone(),
    });
    steps.extend(collection(host)?);
    steps.push(Step::Import {
        url: original.tables.clone(),
    });
    Ok(steps)
}

fn rule_sets(host: &Host, request: &SetupRequest) -> Result<Vec<RuleSet>> {
    let Some(iptables) = &host.iptables else {
        bail!("there is no iptables here: install it (apt-get install iptables)");
    };
    if request.router && request.local_nets.is_empty() {
        bail!("--router needs --local-net: the nets behind this host, such as 192.168.1.0/24");
    }
    let nets = match request.local_nets.is_empty() {
        true => &host.addresses,
        false => &request.local_nets,
    };
    if nets.is_empty() {
        bail!("no address with a default route is found: give --local-net ADDRESS");
    }
    let ports = ports(host, request);
    let mut sets = Vec::new();
    for (program, ipv6) in [(Some(iptables), false), (host.ip6tables.as_ref(), true)] {
        let mut names = Vec::new();
        let mut rules = Vec::new();
        for net in nets.iter().filter(|net| net.addr().is_ipv6() == ipv6) {
            let name = rules::account_name(*net, &names);
            rules.extend(rules_for(
                *net,
                name.as_deref(),
                request.router,
                host.docker,
                &ports,
            ));
            names.extend(name);
        }
        match program {
            Some(program) if !rules.is_empty() => sets.push(RuleSet {
                program: program.clone(),
                rules,
            }),
            None if !rules.is_empty() => {
                bail!("--local-net has an IPv6 net, but this host has no IPv6 or no ip6tables")
            }
            _ => {}
        }
    }
    Ok(sets)
}

/// Both directions, no packet twice: what a host sends to itself passes both its chains, and what
/// one host of a net sends to another is sent and received by the net.
fn rules_for(
    net: IpNet,
    name: Option<&str>,
    router: bool,
    docker: bool,
    ports: &LocalPorts,
) -> [Rule; 2] {
    let rule = |chain: &str, matches: String| Rule::new(chain, &matches, net, name, ports);
    if router {
        // Docker puts its own chains before all others, but this one before its own.
        let chain = if docker { "DOCKER-USER" } else { "FORWARD" };
        [
            rule(chain, format!("-s {net}")),
            rule(chain, format!("! -s {net} -d {net}")),
        ]
    } else {
        [
            rule("INPUT", format!("-d {net} ! -i lo")),
            rule("OUTPUT", format!("-s {net}")),
        ]
    }
}

fn ports(host: &Host, request: &SetupRequest) -> LocalPorts {
    match &request.ports {
        PortChoice::Auto if request.router => LocalPorts::None,
        PortChoice::Auto => LocalPorts::Listed {
            tcp: host.tcp_ports.iter().copied().collect(),
            udp: host.udp_ports.iter().copied().collect(),
        },
        PortChoice::All => LocalPorts::All,
        PortChoice::None => LocalPorts::None,
        PortChoice::Listed(ports) => {
            let ports: BTreeSet<_> = ports.iter().copied().collect();
            let ports: Vec<_> = ports.into_iter().collect();
            LocalPorts::Listed {
                tcp: ports.clone(),
                udp: ports,
            }
        }
    }
}

/// How the rules come back after a reboot: by a unit of their own, after whatever sets a firewall.
///
/// A file that a firewall loads never names the module: where that is missing, none of the file's
/// rules would be loaded.
pub fn persistence(host: &Host, sets: &[RuleSet]) -> Result<Vec<Step>> {
    let mut steps = vec![Step::File {
        path: RULES_PATH.to_owned(),
        text: serde_json::to_string_pretty(sets)? + "\n",
    }];
    if host.systemd {
        steps.push(unit(RULES_UNIT));
    }
    if host.netfilter_persistent {
        steps.extend(FIREWALL_FILES.map(|path| Step::SavedRules {
            path: path.to_owned(),
        }));
    }
    Ok(steps)
}

/// What collects, deletes what is old, and warns.
fn collection(host: &Host) -> Result<Vec<Step>> {
    if host.systemd {
        return Ok(COLLECTION_UNITS.map(unit).to_vec());
    }
    if !host.cron {
        bail!("neither systemd nor cron is here to run the collector: install cron");
    }
    let mut steps = vec![Step::File {
        path: CRON_PATH.to_owned(),
        text: CRON.to_owned(),
    }];
    if host.init_scripts {
        steps.push(Step::InitScript {
            name: LAST_COLLECT.to_owned(),
            text: LAST_COLLECT_SCRIPT.to_owned(),
        });
    }
    Ok(steps)
}

fn unit(name: &str) -> Step {
    Step::Unit {
        name: name.to_owned(),
    }
}

fn firewalld_commands(sets: &[RuleSet]) -> String {
    let mut commands = String::new();
    for set in sets {
        let family = match set.program.starts_with("ip6") {
            true => "ipv6",
            false => "ipv4",
        };
        for Rule { chain, words } in &set.rules {
            commands.push_str(&format!(
                "    firewall-cmd --permanent --direct --add-rule {family} filter {chain} 0 {words}\n"
            ));
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            addresses: vec![
                "192.0.2.1/32".parse().unwrap(),
                "2001:db8::1/128".parse().unwrap(),
            ],
            tcp_ports: [22, 80, 443].into(),
            udp_ports: [123].into(),
            iptables: Some("iptables".to_owned()),
            ip6tables: Some("ip6tables".to_owned()),
            systemd: true,
            ..Host::default()
        }
    }

    fn keys(steps: &[Step]) -> Vec<String> {
        steps.iter().map(Step::key).collect()
    }

    fn all_rules(steps: &[Step]) -> Vec<String> {
        steps
            .iter()
            .filter_map(|step| match step {
                Step::Rules { rules, .. } => Some(rules),
                _ => None,
            })
            .flatten()
            .map(|rule| format!("{} {}", rule.chain, rule.words))
            .collect()
    }

    #[test]
    fn host_with_systemd_gets_rules_units_and_a_timer() {
        let steps = steps(&host(), &SetupRequest::default()).unwrap();
        assert_eq!(
            keys(&steps),
            [
                "module",
                "rules iptables",
                "rules ip6tables",
                "file /etc/trafstat/rules.json",
                "unit trafstat-rules.service",
                "unit trafstat-collect.timer",
                "unit trafstat-last-collect.service",
                "unit trafstat-prune.timer",
                "unit trafstat-quota.timer",
            ]
        );
        let rules = all_rules(&steps);
        assert_eq!(rules.len(), 4);
        assert!(rules[0].starts_with("INPUT -d 192.0.2.1/32 ! -i lo -m comment"));
        assert!(rules[0].ends_with("--local-tcp-ports 22,80,443 --local-udp-ports 123"));
        assert!(rules[3].starts_with("OUTPUT -s 2001:db8::1/128 "));
    }

    #[test]
    fn host_without_systemd_gets_a_cron_file() {
        let mut host = Host {
            systemd: false,
            cron: true,
            ..host()
        };
        let planned = steps(&host, &SetupRequest::default()).unwrap();
        assert_eq!(keys(&planned).last().unwrap(), "file /etc/cron.d/trafstat");
        assert!(!keys(&planned).iter().any(|key| key.starts_with("unit")));
        host.init_scripts = true;
        let planned = keys(&steps(&host, &SetupRequest::default()).unwrap());
        assert_eq!(planned.last().unwrap(), "init script trafstat-last-collect");
        host.cron = false;
        assert!(steps(&host, &SetupRequest::default()).is_err());
    }

    #[test]
    fn host_without_ipv6_gets_rules_for_ipv4_only() {
        let mut host = host();
        host.ip6tables = None;
        host.addresses.truncate(1);
        assert_eq!(
            all_rules(&steps(&host, &SetupRequest::default()).unwrap()).len(),
            2
        );
    }

    #[test]
    fn no_file_that_a_firewall_loads_gets_a_rule() {
        let host = Host {
            netfilter_persistent: true,
            ..host()
        };
        let planned = steps(&host, &SetupRequest::default()).unwrap();
        assert!(keys(&planned).contains(&"unit trafstat-rules.service".to_owned()));
        for path in FIREWALL_FILES {
            assert!(planned.contains(&Step::SavedRules {
                path: path.to_owned()
            }));
        }
    }

    #[test]
    fn router_counts_both_ways_and_nothing_twice() {
        let request = SetupRequest {
            local_nets: vec!["10.0.0.0/24".parse().unwrap()],
            router: true,
            ..SetupRequest::default()
        };
        let rules = all_rules(&steps(&host(), &request).unwrap());
        assert!(rules[0].starts_with("FORWARD -s 10.0.0.0/24 -m"));
        assert!(rules[1].starts_with("FORWARD ! -s 10.0.0.0/24 -d 10.0.0.0/24 -m"));
        assert!(!rules[0].contains("ports"));
        let docker = Host {
            docker: true,
            ..host()
        };
        let rules = all_rules(&steps(&docker, &request).unwrap());
        assert!(rules.iter().all(|rule| rule.starts_with("DOCKER-USER ")));
        let nowhere = SetupRequest {
            router: true,
            ..SetupRequest::default()
        };
        assert!(steps(&host(), &nowhere).is_err());
    }

    #[test]
    fn firewalls_that_clear_others_rules_are_refused_with_instructions() {
        let firewalld = Host {
            firewalld: true,
            ..host()
        };
        let error = steps(&firewalld, &SetupRequest::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("--direct --add-rule ipv4 filter INPUT 0 -d 192.0.2.1/32"));
        assert!(error.contains("--direct --add-rule ipv6 filter OUTPUT 0"));
        for unit in COLLECTION_UNITS {
            assert!(error.contains(unit), "no {unit} in {error}");
        }
        let ufw = Host {
            ufw_manages_builtins: true,
            ..host()
        };
        let error = steps(&ufw, &SetupRequest::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("MANAGE_BUILTINS=no"));
    }

    #[test]
    fn listed_ports_are_sorted_and_single() {
        let request = SetupRequest {
            ports: PortChoice::Listed(vec![443, 22, 443]),
            ..SetupRequest::default()
        };
        let rules = all_rules(&steps(&host(), &request).unwrap());
        assert!(rules[0].contains("--local-tcp-ports 22,443 --local-udp-ports 22,443"));
    }
}
