//! What a packet costs under different rules, in a guest whose clock counts instructions.
//!
//! The rule stands in INPUT in front of one that drops everything, so that nothing behind them is
//! counted. A cost is the least of three runs after one that made the flows known.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Backend, Iptables};
use crate::module;
use crate::pktgen::{Flows, Generator, Protocol};
use crate::proc;
use crate::topology::Topology;

/// What a line with a measurement begins with; JSON follows.
const MEASURED: &str = "measured ";

const RUNS: u32 = 3;
/// Packets of a run.
const PACKETS: u32 = 10_000;
/// A million flows fit, however little memory the guest has.
const MAX_MEMORY: &str = "max_memory=1000000000";

/// Room for every flow: with 2000 thousand entries, an account has it; with one thousand, it is
/// full.
const ROOM: &str = "--max-entries 2000";
const NO_ROOM: &str = "--max-entries 1";
const ROOM_IN_NO_ROOM: u32 = 1000;

const LISTED_PORTS: &str = "--local-tcp-ports 22,80,443,1000:2000 --local-udp-ports 53,1000:2000 \
                            --remote-tcp-ports 1024:65535 --remote-udp-ports 1024:65535";

/// A rule in front of the one that drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// None.
    Absent,
    /// Neither match nor target.
    Empty,
    /// TRAFSTAT with these ports.
    Trafstat(&'static str),
    /// TRAFSTAT with all ports and an account of a thousand records.
    TrafstatFull,
}

/// The columns of the report.
const RULES: [Rule; 6] = [
    Rule::Absent,
    Rule::Empty,
    Rule::Trafstat(""),
    Rule::Trafstat(LISTED_PORTS),
    Rule::Trafstat(ALL_PORTS),
    Rule::TrafstatFull,
];

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::Absent => "no rule",
            Self::Empty => "empty rule",
            Self::Trafstat("") => "TRAFSTAT, no ports",
            Self::Trafstat(ALL_PORTS) => "TRAFSTAT, all ports",
            Self::Trafstat(_) => "TRAFSTAT, listed ports",
            Self::TrafstatFull => "TRAFSTAT, account full",
        })
    }
}

/// What comes in: a row of the report.
#[derive(Clone, Copy, Debug)]
struct Traffic {
    family: Family,
    protocol: Protocol,
    flows: Flows,
    backend: Backend,
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            family,
            protocol,
            flows,
            backend,
        } = self;
        let flows = flows.number();
        let family = match family {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        };
        let protocol = match protocol {
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
        };
        let backend = match backend {
            Backend::Nft => "iptables-nft",
            Backend::Legacy => "iptables-legacy",
        };
        write!(f, "{family} {protocol}, {flows} flows, {backend}")
    }
}

/// The rows of the report.
fn traffic() -> Result<Vec<Traffic>> {
    use Family::{Ipv4, Ipv6};
    use Flows::{Few, Million};
    use Protocol::{Tcp, Udp};
    let mut rows = Vec::new();
    for &backend in Backend::all()? {
        for (family, protocol, flows) in [
            (Ipv4, Udp, Few(1)),
            (Ipv4, Udp, Few(256)),
            (Ipv4, Udp, Few(60_000)),
            (Ipv4, Udp, Million),
            (Ipv4, Tcp, Few(256)),
            (Ipv4, Tcp, Few(60_000)),
            (Ipv6, Udp, Few(256)),
            (Ipv6, Udp, Few(60_000)),
            (Ipv6, Udp, Million),
            (Ipv6, Tcp, Few(256)),
            (Ipv6, Tcp, Few(60_000)),
        ] {
            rows.push(Traffic {
                family,
                protocol,
                flows,
                backend,
            });
        }
    }
    Ok(rows)
}

/// Measures all rows whose name contains `filter` and prints a line for each value.
///
/// # Errors
///
/// Something does not run, or packets went another way than through the rules.
pub fn run(guest: &Guest, filter: &str) -> Result<()> {
    let mut measured = 0;
    for row in traffic()? {
        let name = row.to_string();
        if !name.contains(filter) {
            continue;
        }
        let topology = Topology::new(row.family)?;
        let stand = Stand::new(guest, &topology, row.protocol, row.backend)?;
        for rule in RULES {
            if rule == Rule::TrafstatFull && row.flows.number() <= ROOM_IN_NO_ROOM {
                continue;
            }
            let instructions = stand
                .cost(rule, row.flows)
                .with_context(|| format!("{name}: {rule}"))?;
            let value = json!({
                "traffic": name,
                "rule": rule.to_string(),
                "instructions": instructions,
            });
            println!("{MEASURED}{value}");
            measured += 1;
        }
    }
    ensure!(measured > 0, "no row is called {filter}");
    Ok(())
}

/// Where costs are measured.
pub struct Stand<'a> {
    guest: &'a Guest,
    topology: &'a Topology,
    generator: Generator<'a>,
    iptables: Iptables<'a>,
}

impl<'a> Stand<'a> {
    /// Readies the link for packets of `protocol` and rules through `backend`.
    ///
    /// # Errors
    ///
    /// The kernel lacks something.
    pub fn new(
        guest: &'a Guest,
        topology: &'a Topology,
        protocol: Protocol,
        backend: Backend,
    ) -> Result<Self> {
        topology.fix_neighbours()?;
        Ok(Self {
            guest,
            topology,
            generator: Generator::new(topology, protocol)?,
            iptables: Iptables::new(guest, &topology.local, topology.family).through(backend),
        })
    }

    /// The instructions of one packet under `rule`, its generation and its way to the rule
    /// included.
    ///
    /// # Errors
    ///
    /// A rule is refused, or not every packet met it.
    pub fn cost(&self, rule: Rule, flows: Flows) -> Result<f64> {
        self.iptables.flush()?;
        let options = match rule {
            Rule::Absent => None,
            Rule::Empty => {
                self.iptables.succeed("-A INPUT")?;
                None
            }
            Rule::Trafstat(ports) => Some([ROOM, ports]),
            Rule::TrafstatFull => Some([NO_ROOM, ALL_PORTS]),
        };
        if let Some([room, ports]) = options {
            module::load_with(self.guest, &[MAX_MEMORY])?;
            let local = self.topology.family.local();
            self.iptables.succeed(&format!(
                "-A INPUT -j TRAFSTAT --local-net {local} {room} {ports}"
            ))?;
        }
        self.iptables.succeed("-A INPUT -j DROP")?;

        let known = flows.number().max(PACKETS);
        self.generator.send(flows, known)?;
        let least = self.generator.least_cost(flows, PACKETS, RUNS)?;
        let sent = u64::from(known + RUNS * PACKETS);
        self.all_met(rule, sent)?;
        self.iptables.flush()?;
        if options.is_some() {
            module::unload()?;
        }
        Ok(least)
    }

    /// Nothing was lost on the way, and nothing folded unless it had to be.
    fn all_met(&self, rule: Rule, sent: u64) -> Result<()> {
        let dropped = self.iptables.counters_of("DROP")?.packets;
        ensure!(dropped == sent, "{dropped} packets of {sent} met the rules");
        let (Rule::Trafstat(_) | Rule::TrafstatFull) = rule else {
            return Ok(());
        };
        let account = proc::account(&self.topology.local, self.topology.family.account())?
            .context("no account")?;
        let number = |column| proc::number(&account, column);
        let (seen, folded) = (number("seen_packets")?, number("folded_packets")?);
        ensure!(seen == sent, "{seen} packets of {sent} were counted");
        ensure!(
            (folded > 0) == (rule == Rule::TrafstatFull),
            "{folded} packets of {sent} were folded"
        );
        Ok(())
    }
}
