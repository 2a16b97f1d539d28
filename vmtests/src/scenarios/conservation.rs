//! Under any rules and traffic no packet and no byte is lost or invented, from the link to the records.
//!
//! Rules and traffic are drawn at random, from a seed that a failure names:
//!
//! ```text
//!   link counters, less Ethernet headers = rule counters of the rules at the link
//!                                        + what is fragmented behind those rules
//!   rule counters                        = seen - gso_extra
//!   seen + extrapolated                  = recorded + outside + skipped
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Backend, Iptables, RuleCounters};
use crate::module;
use crate::proc::{self, AccountKey, Snapshot};
use crate::topology::{DEVICE, Topology};
use crate::traffic::{self, EchoServer, HttpServer};

const INPUT: (&str, &str) = ("filter", "INPUT");
const CHAINS: [(&str, &str); 6] = [
    ("raw", "PREROUTING"),
    ("raw", "OUTPUT"),
    ("mangle", "PREROUTING"),
    ("mangle", "POSTROUTING"),
    INPUT,
    ("filter", "OUTPUT"),
];

/// The account whose rules see what the link sees.
const LINK: &str = "link";

/// More flows than an account of the least size has room for.
const SCANNED_PORTS: u16 = 1200;

/// Larger than a frame.
const LARGE_ECHO: u64 = 3000;

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let mut rng = Rng::with_seed(guest.seed());
    let mut reached = Reached::default();
    let backends = Backend::all()?;
    for family in [Family::Ipv4, Family::Ipv6] {
        for offload in [true, false] {
            let backend = *pick(backends, &mut rng);
            let round = Round::draw(family, backend, offload, &mut rng);
            round
                .run(guest, &mut rng, &mut reached)
                .with_context(|| format!("--seed {}, {round:#?}", guest.seed()))?;
        }
    }
    reached
        .is_all()
        .with_context(|| format!("--seed {}", guest.seed()))
}

/// One topology with its rules and traffic.
#[derive(Debug)]
struct Round {
    family: Family,
    backend: Backend,
    offload: bool,
    accounts: Vec<Account>,
}

#[derive(Debug)]
struct Account {
    name: String,
    /// Table, chain and rule, as iptables-save prints it.
    rules: Vec<(&'static str, String)>,
}

/// One kind of traffic, of random size.
type Traffic<'a> = dyn Fn(&mut Rng) -> Result<()> + 'a;

/// What the rounds must have had among them, for the sums to say something.
#[derive(Debug, Default)]
struct Reached {
    outside: u64,
    skipped: u64,
    extrapolated: u64,
    folded: u64,
    gso_extra: u64,
}

/// All counters that must agree, read at about the same time.
#[derive(Debug, PartialEq)]
struct Counters {
    rules: BTreeMap<String, RuleCounters>,
    link: RuleCounters,
}

impl Round {
    fn draw(family: Family, backend: Backend, offload: bool, rng: &mut Rng) -> Self {
        let (local, bits) = (family.local(), family.address_len());
        let subnet = family.subnet_len();
        let drawn_len = rng.u8(1..=bits);
        // One account each whose records have not enough room, that leaves packets out, and for
        // which all is outside; the others take what comes.
        let kinds = [
            ("small", local, bits, format!("{ALL_PORTS} --max-entries 1")),
            (
                "sampled",
                local,
                subnet,
                format!("--sample-udp-any {}", rng.u32(2..20)),
            ),
            (
                "elsewhere",
                family.elsewhere(),
                rng.u8(bits / 4..=bits),
                String::new(),
            ),
            ("any-length", local, drawn_len, String::new()),
            (
                "remote",
                family.remote(),
                rng.u8(subnet..=bits),
                String::new(),
            ),
        ];
        let accounts = kinds.map(|(name, address, length, options)| {
            Account::draw(name, address, length, &options, rng)
        });
        let mut round = Self {
            family,
            backend,
            offload,
            accounts: vec![Account::at_link(family)],
        };
        round.accounts.extend(accounts);
        round
    }

    fn run(&self, guest: &Guest, rng: &mut Rng, reached: &mut Reached) -> Result<()> {
        let topology = Topology::new(self.family)?;
        topology.fix_neighbours()?;
        if !self.offload {
            topology.forbid_segmentation_offload()?;
        }
        let iptables = Iptables::new(guest, &topology.local, self.family).through(self.backend);
        // The kernel itself may say something between two readings; then they are read again.
        let link_before = loop {
            let before = topology.link_counters()?;
            iptables.restore(&self.rules())?;
            if topology.link_counters()? == before {
                break before;
            }
            self.discard(&topology, &iptables)?;
        };

        let mut snapshots = Vec::new();
        let mut collect = || -> Result<()> {
            for account in &self.accounts {
                let snapshot = Snapshot::collect(&topology.local, self.key(account))?;
                snapshots.push((account.name.clone(), snapshot));
            }
            Ok(())
        };
        let mut fragmented = self.exchange(&topology, rng)?;
        collect()?;
        fragmented.add(self.exchange(&topology, rng)?);
        let counters = super::collect_all(
            || {
                Ok(Counters {
                    rules: iptables.counters_by_name()?,
                    link: topology.link_counters()?,
                })
            },
            collect,
        )?;

        let mut seen = BTreeMap::<_, RuleCounters>::new();
        for (name, snapshot) in &snapshots {
            seen.entry(name.clone())
                .or_default()
                .add(snapshot.as_rules_count());
            reached.add(snapshot);
            ensure!(
                self.offload || snapshot.header.gso_extra_packets == 0,
                "{name} saw several packets in one buffer: {:?}",
                snapshot.header
            );
        }
        ensure!(
            seen == counters.rules,
            "the epochs saw {seen:#?}, the rules {:#?}",
            counters.rules
        );
        let mut at_link = link_before;
        at_link.add(*seen.get(LINK).context("no rule at the link")?);
        at_link.add(fragmented);
        ensure!(
            at_link == counters.link,
            "from {link_before:?} on, with {fragmented:?} of fragmentation, the link should be at \
             {at_link:?} and is at {:?}",
            counters.link
        );
        Ok(())
    }

    /// Traffic of every kind; returns what the local side's fragmentation added behind its rules.
    fn exchange(&self, topology: &Topology, rng: &mut Rng) -> Result<RuleCounters> {
        let http = HttpServer::listen(topology, *pick(&[80, 443, 8080], rng))?;
        let echo = EchoServer::bind(topology, *pick(&[53, 5000], rng))?;
        let echoes = rng.u64(1..5);
        let mut kinds: [&Traffic<'_>; 6] = [
            &|rng| http.download(topology, rng.usize(1..300_000)).map(drop),
            &|rng| http.upload(topology, rng.usize(1..300_000)),
            &|rng| {
                let (count, size) = (rng.u64(20..60), rng.usize(1..1400));
                echo.exchange(topology, count, size).map(drop)
            },
            &|rng| traffic::scan(topology, rng.u16(6000..60_000), SCANNED_PORTS),
            &|_| traffic::ping_with(topology, echoes, LARGE_ECHO).map(drop),
            &|rng| traffic::refused_connection(topology, rng.u16(1..50)),
        ];
        rng.shuffle(&mut kinds);
        for kind in kinds {
            kind(rng)?;
        }
        let each = self.family.echo_fragmentation(LARGE_ECHO);
        Ok(RuleCounters {
            packets: echoes * each.packets,
            bytes: echoes * each.bytes,
        })
    }

    /// Takes the rules away and then what they counted, so that nothing comes after it.
    fn discard(&self, topology: &Topology, iptables: &Iptables<'_>) -> Result<()> {
        iptables.restore("*raw\nCOMMIT\n*mangle\nCOMMIT\n*filter\nCOMMIT\n")?;
        for account in &self.accounts {
            let key = self.key(account);
            if let Err(error) = Snapshot::collect(&topology.local, key) {
                // An account without rules and counts is gone.
                ensure!(proc::account(&topology.local, key)?.is_none(), error);
            }
        }
        Ok(())
    }

    fn rules(&self) -> String {
        let mut text = String::new();
        for table in ["raw", "mangle", "filter"] {
            text.push_str(&format!("*{table}\n"));
            for (_, rule) in self
                .accounts
                .iter()
                .flat_map(|account| &account.rules)
                .filter(|(of, _)| *of == table)
            {
                text.push_str(&format!("{rule}\n"));
            }
            text.push_str("COMMIT\n");
        }
        text
    }

    fn key<'a>(&self, account: &'a Account) -> AccountKey<'a> {
        AccountKey {
            family: self.family,
            name: &account.name,
        }
    }
}

impl Account {
    /// Every packet that comes from the link or goes to it, once.
    fn at_link(family: Family) -> Self {
        let target = format!("TRAFSTAT --local-net {}/0 --name {LINK}", family.local());
        Self {
            name: LINK.to_owned(),
            rules: vec![
                ("mangle", format!("-A PREROUTING -i {DEVICE} -j {target}")),
                ("mangle", format!("-A POSTROUTING -o {DEVICE} -j {target}")),
            ],
        }
    }

    fn draw(name: &str, address: IpAddr, length: u8, options: &str, rng: &mut Rng) -> Self {
        let spoof = match rng.bool() {
            true => format!("--min-pkt-spoof {}", rng.u32(2..6)),
            false => String::new(),
        };
        let rules = (0..rng.usize(1..4))
            .map(|index| {
                // One rule is sure to see all that comes in.
                let (table, chain) = match index {
                    0 => INPUT,
                    _ => *pick(&CHAINS, rng),
                };
                let mut rule = format!(
                    "-A {chain} -j TRAFSTAT --local-net {address}/{length} {options} {spoof}"
                );
                for option in [
                    "--local-tcp-ports",
                    "--local-udp-ports",
                    "--remote-tcp-ports",
                    "--remote-udp-ports",
                ] {
                    if !options.contains(option) {
                        rule.push_str(&draw_ports(option, rng));
                    }
                }
                for option in ["--sample-tcp-syn", "--sample-tcp-any", "--sample-udp-any"] {
                    if !options.contains(option) && rng.u8(..4) == 0 {
                        rule.push_str(&format!(" {option} {}", rng.u32(1..10)));
                    }
                }
                (table, format!("{rule} --name {name}"))
            })
            .collect();
        Self {
            name: name.to_owned(),
            rules,
        }
    }
}

impl Reached {
    fn add(&mut self, Snapshot { header, .. }: &Snapshot) {
        self.outside += header.outside_packets;
        self.skipped += header.skipped_packets;
        self.extrapolated += header.extrapolated_packets;
        self.folded += header.folded_packets;
        self.gso_extra += header.gso_extra_packets;
    }

    fn is_all(&self) -> Result<()> {
        let Self {
            outside,
            skipped,
            extrapolated,
            folded,
            gso_extra,
        } = self;
        ensure!(
            [outside, skipped, extrapolated, folded, gso_extra]
                .iter()
                .all(|packets| **packets > 0),
            "not all ways of a packet were among the rounds: {self:?}"
        );
        Ok(())
    }
}

fn draw_ports(option: &str, rng: &mut Rng) -> String {
    let ports = match rng.u8(..3) {
        0 => return String::new(),
        1 => "all".to_owned(),
        _ => {
            let mut listed: Vec<_> = (0..rng.usize(1..20)).map(|_| rng.u16(1..)).collect();
            listed.extend([53, 80]);
            let ranges: Vec<_> = listed
                .iter()
                .map(|&first| match rng.bool() {
                    true => format!("{first}:{}", first.saturating_add(rng.u16(1..5000))),
                    false => first.to_string(),
                })
                .collect();
            ranges.join(",")
        }
    };
    format!(" {option} {ports}")
}

fn pick<'a, T>(choices: &'a [T], rng: &mut Rng) -> &'a T {
    &choices[rng.usize(..choices.len())]
}
