// SPDX-License-Identifier: GPL-2.0-or-later
//! What a packet costs under different rules, in a guest whose clock counts instructions.
//!
//! The rule stands in INPUT in front of one that drops everything, so that nothing behind them is
//! counted. A cost is the least of three runs after one that made the flows known. Where there are
//! a million flows, what the system's memory has less of when they are known is measured, too.

use std::fmt;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Backend, Iptables};
use crate::module;
use crate::peers::{Peer, PeerContext};
use crate::pktgen::{Flows, Generator, Protocol};
use crate::proc::{self, Snapshot};
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
    /// TRAFSTAT with all ports; each run begins with an epoch that knows no flow.
    TrafstatEpochs,
    /// Something else that counts.
    Peer(Peer),
}

/// The columns of the report.
const RULES: [Rule; 14] = [
    Rule::Absent,
    Rule::Empty,
    Rule::Trafstat(""),
    Rule::Trafstat(LISTED_PORTS),
    Rule::Trafstat(ALL_PORTS),
    Rule::TrafstatFull,
    Rule::TrafstatEpochs,
    Rule::Peer(Peer::Netflow),
    Rule::Peer(Peer::Account),
    Rule::Peer(Peer::NftMatch),
    Rule::Peer(Peer::NftSet),
    Rule::Peer(Peer::Nfacct),
    Rule::Peer(Peer::Conntrack),
    Rule::Peer(Peer::ConntrackAccounting),
];

/// What was freed is free after a grace period, and some workers' time.
const SETTLES: Duration = Duration::from_secs(3);

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::Absent => "no rule",
            Self::Empty => "empty rule",
            Self::Trafstat("") => "TRAFSTAT, no ports",
            Self::Trafstat(ALL_PORTS) => "TRAFSTAT, all ports",
            Self::Trafstat(_) => "TRAFSTAT, listed ports",
            Self::TrafstatFull => "TRAFSTAT, account full",
            Self::TrafstatEpochs => "TRAFSTAT, an epoch each 10,000 packets",
            Self::Peer(peer) => peer.name(),
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
    /// Whether what else counts is measured, too: once, as it is compared with the target and not
    /// with what carries it.
    has_peers: bool,
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            family,
            protocol,
            flows,
            backend,
            ..
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

impl Traffic {
    /// Whether this rule says something about it.
    fn has(&self, rule: Rule) -> Result<bool> {
        match rule {
            Rule::TrafstatFull => Ok(self.flows.number() > ROOM_IN_NO_ROOM),
            Rule::Peer(peer) => Ok(self.has_peers && peer.counts(self.family, self.protocol)?),
            _ => Ok(true),
        }
    }
}

/// The rows of the report.
fn traffic() -> Result<Vec<Traffic>> {
    use Family::{Ipv4, Ipv6};
    use Flows::{Few, Million};
    use Protocol::{Tcp, Udp};
    let mut rows = Vec::new();
    let backends = Backend::all()?;
    for &backend in backends {
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
                has_peers: backends.last() == Some(&backend),
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
    let rows = traffic()?;
    let names: Vec<_> = rows.iter().map(ToString::to_string).collect();
    ensure!(
        names.iter().any(|name| name.contains(filter)),
        "no row has \"{filter}\" in its name; there are: {}",
        names.join("; ")
    );
    for (row, name) in rows.into_iter().zip(names) {
        if !name.contains(filter) {
            continue;
        }
        let topology = Topology::new(row.family)?;
        let stand = TestBed::new(guest, &topology, &row)?;
        for rule in RULES {
            if !row.has(rule)? {
                continue;
            }
            let Cost {
                instructions,
                memory,
            } = stand
                .cost(rule, row.flows)
                .with_context(|| format!("{name}: {rule}"))?;
            let value = json!({
                "traffic": name,
                "rule": rule.to_string(),
                "instructions": instructions,
                "memory": memory,
            });
            println!("{MEASURED}{value}");
        }
    }
    Ok(())
}

/// What one packet costs, and one flow.
struct Cost {
    instructions: f64,
    memory: Option<Memory>,
}

/// Bytes of memory, of the whole system or for each flow.
#[derive(Clone, Copy, Serialize)]
struct Memory {
    /// Of pages that are not free.
    taken: f64,
    /// Of slab caches.
    slab: f64,
    /// Of vmalloc().
    vmalloc: f64,
    /// Of what each CPU has its own of.
    percpu: f64,
}

impl Memory {
    /// What is taken now, files' contents aside.
    fn now() -> Result<Self> {
        thread::sleep(SETTLES);
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        let shown = fs::read_to_string("/proc/meminfo")?;
        let bytes = |name: &str| {
            shown
                .lines()
                .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"))
                .and_then(|kilobytes| kilobytes.parse::<f64>().ok())
                .map(|kilobytes| kilobytes * 1024.0)
                .with_context(|| format!("{name} in {shown}"))
        };
        Ok(Self {
            taken: -bytes("MemFree:")?,
            slab: bytes("Slab:")?,
            vmalloc: bytes("VmallocUsed:")?,
            percpu: bytes("Percpu:")?,
        })
    }

    /// What each of so many flows has taken since.
    fn of_each(self, flows: u32) -> Result<Self> {
        let now = Self::now()?;
        let of_each = |now: f64, before: f64| (now - before) / f64::from(flows);
        Ok(Self {
            taken: of_each(now.taken, self.taken),
            slab: of_each(now.slab, self.slab),
            vmalloc: of_each(now.vmalloc, self.vmalloc),
            percpu: of_each(now.percpu, self.percpu),
        })
    }
}

/// Where costs are measured.
struct TestBed<'a> {
    guest: &'a Guest,
    topology: &'a Topology,
    generator: Generator<'a>,
    iptables: Iptables<'a>,
}

impl<'a> TestBed<'a> {
    /// Readies the link for the packets and the rules of a row.
    fn new(guest: &'a Guest, topology: &'a Topology, row: &Traffic) -> Result<Self> {
        topology.fix_neighbours()?;
        Ok(Self {
            guest,
            topology,
            generator: Generator::new(topology, row.protocol)?,
            iptables: Iptables::new(guest, &topology.local, row.family).through(row.backend),
        })
    }

    /// What a packet costs under `rule`, its generation and its way to the rule included.
    ///
    /// # Errors
    ///
    /// A rule is refused, or not every packet met it.
    fn cost(&self, rule: Rule, flows: Flows) -> Result<Cost> {
        self.iptables.flush()?;
        let before = (flows == Flows::Million).then(Memory::now).transpose()?;
        self.set_up(rule)?;

        let known = flows.number().max(PACKETS);
        let mut sent = known;
        if matches!(rule, Rule::Peer(peer) if peer.needs_acceptance()) {
            self.iptables.succeed("-A INPUT -j ACCEPT")?;
            self.generator.send(flows, known)?;
            self.all_met("ACCEPT", known)?;
            self.iptables.succeed("-D INPUT -j ACCEPT")?;
            self.iptables.succeed("-A INPUT -j DROP")?;
            sent = 0;
        } else {
            self.iptables.succeed("-A INPUT -j DROP")?;
            self.generator.send(flows, known)?;
        }
        let memory = before
            .map(|before| before.of_each(flows.number()))
            .transpose()?;
        let mut instructions = f64::INFINITY;
        for _ in 0..RUNS {
            if rule == Rule::TrafstatEpochs {
                Snapshot::collect(&self.topology.local, self.topology.family.account())?;
            }
            instructions = instructions.min(self.generator.send(flows, PACKETS)?);
            sent += PACKETS;
        }
        self.all_met("DROP", sent)?;
        self.all_counted(rule, flows, sent)?;

        self.iptables.flush()?;
        self.tear_down(rule)?;
        Ok(Cost {
            instructions,
            memory,
        })
    }

    fn peer_context(&self) -> PeerContext<'_> {
        PeerContext {
            netns: &self.topology.local,
            family: self.topology.family,
            iptables: &self.iptables,
        }
    }

    fn set_up(&self, rule: Rule) -> Result<()> {
        let options = match rule {
            Rule::Absent => return Ok(()),
            Rule::Empty => return self.iptables.succeed("-A INPUT"),
            Rule::Peer(peer) => return peer.set_up(&self.peer_context()),
            Rule::Trafstat(ports) => [ROOM, ports],
            Rule::TrafstatEpochs => [ROOM, ALL_PORTS],
            Rule::TrafstatFull => [NO_ROOM, ALL_PORTS],
        };
        module::load_with(self.guest, &[MAX_MEMORY])?;
        let local = self.topology.family.local();
        self.iptables.succeed(&format!(
            "-A INPUT -j TRAFSTAT --local-net {local} {}",
            options.join(" ")
        ))
    }

    fn tear_down(&self, rule: Rule) -> Result<()> {
        match rule {
            Rule::Absent | Rule::Empty => Ok(()),
            Rule::Peer(peer) => peer.tear_down(&self.peer_context()),
            Rule::Trafstat(_) | Rule::TrafstatEpochs | Rule::TrafstatFull => module::unload(),
        }
    }

    /// Nothing was lost on the way.
    fn all_met(&self, target: &str, sent: u32) -> Result<()> {
        let met = self.iptables.counters_of(target)?.packets;
        ensure!(
            met == u64::from(sent),
            "{met} packets of {sent} met {target}"
        );
        Ok(())
    }

    /// Whoever counts has all packets, and nothing is folded unless it has to be.
    fn all_counted(&self, rule: Rule, flows: Flows, sent: u32) -> Result<()> {
        match rule {
            Rule::Absent | Rule::Empty => return Ok(()),
            Rule::Peer(peer) => return peer.knows(&self.peer_context(), flows.number()),
            Rule::Trafstat(_) | Rule::TrafstatEpochs | Rule::TrafstatFull => (),
        }
        let account = proc::account(&self.topology.local, self.topology.family.account())?
            .context("no account")?;
        let number = |column| proc::number(&account, column);
        let (seen, folded) = (number("seen_packets")?, number("folded_packets")?);
        ensure!(
            seen == u64::from(sent),
            "{seen} packets of {sent} were counted"
        );
        let (epoch, closed) = (
            number("epoch")?,
            if rule == Rule::TrafstatEpochs {
                RUNS
            } else {
                0
            },
        );
        ensure!(epoch == 1 + u64::from(closed), "epoch {epoch} is open");
        ensure!(
            (folded > 0) == (rule == Rule::TrafstatFull),
            "{folded} packets of {sent} were folded"
        );
        Ok(())
    }
}
