// SPDX-License-Identifier: GPL-2.0-or-later
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
//!
//! Devices that cut a buffer of several packets themselves, behind the rules, count what is on the
//! wire, and then it is `seen` that they agree with.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Backend, Iptables, RuleCounters};
use crate::module;
use crate::proc::{self, AccountKey, Snapshot, Tuple};
use crate::topology::{DEVICES, Topology};
use crate::traffic::packet::{self, Packet};
use crate::traffic::{self, EchoServer, HttpServer, SctpServer};

/// Tables and chains that a host's traffic goes through; the first one sees all that comes in.
const HOST_CHAINS: [(&str, &str); 6] = [
    ("filter", "INPUT"),
    ("raw", "PREROUTING"),
    ("raw", "OUTPUT"),
    ("mangle", "PREROUTING"),
    ("mangle", "POSTROUTING"),
    ("filter", "OUTPUT"),
];

/// The same for what a router passes on.
const ROUTER_CHAINS: [(&str, &str); 5] = [
    ("filter", "FORWARD"),
    ("raw", "PREROUTING"),
    ("mangle", "PREROUTING"),
    ("mangle", "FORWARD"),
    ("mangle", "POSTROUTING"),
];

/// The account whose rules see what the link sees.
const LINK: &str = "link";

/// The account that has every packet to the local address as it came from the link.
const ARRIVED: &str = "arrived";

/// More flows than an account of the least size has room for.
const SCANNED_PORTS: u16 = 1200;

/// Packets made by hand, each way.
const BY_HAND: usize = 60;

/// Larger than a frame.
const LARGE_ECHO: u64 = 3000;

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let mut rng = Rng::with_seed(guest.seed());
    let mut reached = Reached::default();
    let backends = Backend::all()?;
    // Every way to offload is tried in both roles, each with one of the families.
    let mut roles = [Role::Host, Role::Router];
    rng.shuffle(&mut roles);
    for offload in Offload::ALL {
        for (family, role) in [Family::Ipv4, Family::Ipv6].into_iter().zip(roles) {
            let backend = *pick(backends, &mut rng);
            let round = Round::draw(family, role, backend, offload, &mut rng);
            round
                .run(guest, &mut rng, &mut reached)
                .with_context(|| format!("--seed {}, {round:#?}", guest.seed()))?;
        }
        roles.reverse();
    }
    reached
        .is_all()
        .with_context(|| format!("--seed {}", guest.seed()))
}

/// What the counting namespace is to the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// One of those who talk.
    Host,
    /// Between them.
    Router,
}

/// How many packets a socket buffer is, where, and what the link counts it as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offload {
    /// Buffers of several packets pass over the link, and count once there.
    Whole,
    /// They are cut on their way to the link: it carries what the wire would.
    Cut,
    /// The same, and what arrives is merged again before it comes to the rules.
    Merged,
    /// Nobody makes such buffers.
    Never,
}

impl Offload {
    const ALL: [Self; 4] = [Self::Whole, Self::Cut, Self::Merged, Self::Never];

    fn set(self, topology: &Topology) -> Result<()> {
        // `tso` is of TCP alone.
        let sctp = "tx-sctp-segmentation";
        match self {
            Self::Whole => topology.set_features("tso on gso on gro off"),
            Self::Cut => topology.set_features(&format!("tso off gso off {sctp} off gro off")),
            Self::Merged => topology.set_features(&format!("tso off gso on {sctp} off gro on")),
            Self::Never => {
                topology.set_features(&format!("tso off gso off {sctp} off gro off"))?;
                topology.forbid_segmentation_offload()
            }
        }
    }

    /// What the link counts of what `snapshot` saw.
    fn at_link(self, snapshot: &Snapshot) -> RuleCounters {
        match self {
            Self::Whole => snapshot.as_rules_count(),
            Self::Cut | Self::Merged | Self::Never => RuleCounters {
                packets: snapshot.header.seen_packets,
                bytes: snapshot.header.seen_bytes,
            },
        }
    }

    /// Whether a buffer that comes from the link may be several packets.
    fn may_arrive_whole(self) -> bool {
        matches!(self, Self::Whole | Self::Merged)
    }
}

/// One topology with its rules and traffic.
#[derive(Debug)]
struct Round {
    family: Family,
    role: Role,
    backend: Backend,
    offload: Offload,
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
    sctp_by_the_kernel: bool,
    /// Packets in buffers of several, that came from a link that carried them one by one.
    merged: u64,
    /// The same, in front of a link that cut them.
    cut: u64,
}

/// What is known of the traffic of a round beyond the counters.
#[derive(Debug, Default)]
struct Exchanged {
    /// What fragmentation added behind the rules.
    fragmented: RuleCounters,
    /// Packets made by hand for the local side, by what must be recorded of them.
    by_hand: BTreeMap<Tuple, RuleCounters>,
}

/// All counters that must agree, read at about the same time.
#[derive(Debug, PartialEq)]
struct Counters {
    rules: BTreeMap<String, RuleCounters>,
    link: RuleCounters,
}

impl Round {
    fn draw(family: Family, role: Role, backend: Backend, offload: Offload, rng: &mut Rng) -> Self {
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
            Account::draw(name, address, length, &options, role, rng)
        });
        let mut round = Self {
            family,
            role,
            backend,
            offload,
            accounts: vec![Account::at_link(family), Account::arrived(family)],
        };
        round.accounts.extend(accounts);
        round
    }

    fn run(&self, guest: &Guest, rng: &mut Rng, reached: &mut Reached) -> Result<()> {
        let topology = match self.role {
            Role::Host => Topology::new(self.family)?,
            Role::Router => Topology::routed(self.family)?,
        };
        topology.fix_neighbours()?;
        self.offload.set(&topology)?;
        let link_counters = || match self.offload {
            Offload::Merged => topology.polled_link_counters(),
            _ => topology.link_counters(),
        };
        let netns = topology.counted();
        let iptables = Iptables::new(guest, netns, self.family).through(self.backend);
        // The kernel itself may say something between two readings; then they are read again.
        let link_before = loop {
            let before = link_counters()?;
            iptables.restore(&self.rules())?;
            if link_counters()? == before {
                break before;
            }
            self.discard(&topology, &iptables)?;
        };

        let mut snapshots = Vec::new();
        let mut collect = || -> Result<()> {
            for account in &self.accounts {
                let snapshot = Snapshot::collect(netns, self.key(account))?;
                snapshots.push((account.name.clone(), snapshot));
            }
            Ok(())
        };
        let mut exchanged = Exchanged::default();
        reached.sctp_by_the_kernel |= self.exchange(&topology, rng, &mut exchanged)?;
        collect()?;
        self.exchange(&topology, rng, &mut exchanged)?;
        let counters = super::collect_all(
            || {
                Ok(Counters {
                    rules: iptables.counters_by_name()?,
                    link: link_counters()?,
                })
            },
            collect,
        )?;

        let mut seen = BTreeMap::<_, RuleCounters>::new();
        let mut at_link = link_before;
        let mut arrived = BTreeMap::<_, RuleCounters>::new();
        for (name, snapshot) in &snapshots {
            seen.entry(name.clone())
                .or_default()
                .add(snapshot.as_rules_count());
            match name.as_str() {
                LINK => at_link.add(self.offload.at_link(snapshot)),
                ARRIVED => {
                    for record in &snapshot.records {
                        arrived
                            .entry(record.tuple)
                            .or_default()
                            .add(record.counters.total());
                    }
                }
                _ => (),
            }
            self.buffers_are_as_the_devices_make_them(name, snapshot)?;
            reached.add(self.offload, name, snapshot);
        }
        ensure!(
            seen == counters.rules,
            "the epochs saw {seen:#?}, the rules {:#?}",
            counters.rules
        );
        at_link.add(exchanged.fragmented);
        ensure!(
            at_link == counters.link,
            "from {link_before:?} on, with {:?} of fragmentation, the link should be at \
             {at_link:?} and is at {:?}",
            exchanged.fragmented,
            counters.link
        );
        for (tuple, sent) in &exchanged.by_hand {
            let found = arrived.get(tuple);
            ensure!(
                found == Some(sent),
                "of {tuple:?} {sent:?} was sent and {found:?} recorded"
            );
        }
        Ok(())
    }

    fn buffers_are_as_the_devices_make_them(&self, name: &str, snapshot: &Snapshot) -> Result<()> {
        let may_be_several = match name {
            ARRIVED => self.offload.may_arrive_whole(),
            _ => self.offload != Offload::Never,
        };
        ensure!(
            may_be_several || snapshot.header.gso_extra_packets == 0,
            "{name} saw several packets in one buffer: {:?}",
            snapshot.header
        );
        Ok(())
    }

    /// Traffic of every kind; says whether the kernel's own SCTP was among it.
    fn exchange(
        &self,
        topology: &Topology,
        rng: &mut Rng,
        exchanged: &mut Exchanged,
    ) -> Result<bool> {
        let http = HttpServer::listen(topology, *pick(&[80, 443, 8080], rng))?;
        let echo = EchoServer::bind(topology, *pick(&[53, 5000], rng))?;
        let sctp = SctpServer::listen(topology, *pick(&[80, 3868], rng))?;
        let (local, remote) = (self.family.local(), self.family.remote());
        let received: Vec<_> = (0..BY_HAND)
            .map(|_| Packet::draw(remote, local, rng))
            .collect();
        let sent: Vec<_> = (0..BY_HAND)
            .map(|_| Packet::draw(local, remote, rng))
            .collect();
        let echoes = rng.u64(1..5);
        let mut kinds: [&Traffic<'_>; 9] = [
            &|rng| http.download(topology, rng.usize(1..300_000)).map(drop),
            &|rng| http.upload(topology, rng.usize(1..300_000)),
            &|rng| {
                let (count, size) = (rng.u64(20..60), rng.usize(1..1400));
                echo.exchange(topology, count, size).map(drop)
            },
            &|rng| match &sctp {
                Some(sctp) => sctp.exchange(topology, rng.usize(1..8), rng.usize(1..40_000)),
                None => Ok(()),
            },
            &|_| packet::send(topology, &topology.remote, &received),
            &|_| packet::send(topology, &topology.local, &sent),
            &|rng| traffic::scan(topology, rng.u16(6000..60_000), SCANNED_PORTS),
            &|_| traffic::ping_with(topology, echoes, LARGE_ECHO).map(drop),
            &|rng| traffic::refused_connection(topology, rng.u16(1..50)),
        ];
        rng.shuffle(&mut kinds);
        for kind in kinds {
            kind(rng)?;
        }
        for packet in &received {
            exchanged
                .by_hand
                .entry(packet.tuple(local))
                .or_default()
                .add(RuleCounters {
                    packets: 1,
                    bytes: packet.len() as u64,
                });
        }
        if self.role == Role::Host {
            let each = self.family.echo_fragmentation(LARGE_ECHO);
            exchanged.fragmented.add(RuleCounters {
                packets: echoes * each.packets,
                bytes: echoes * each.bytes,
            });
        }
        Ok(sctp.is_some())
    }

    /// Takes the rules away and then what they counted, so that nothing comes after it.
    fn discard(&self, topology: &Topology, iptables: &Iptables<'_>) -> Result<()> {
        iptables.restore("*raw\nCOMMIT\n*mangle\nCOMMIT\n*filter\nCOMMIT\n")?;
        for account in &self.accounts {
            let key = self.key(account);
            if let Err(error) = Snapshot::collect(topology.counted(), key) {
                // An account without rules and counts is gone.
                ensure!(proc::account(topology.counted(), key)?.is_none(), error);
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
                ("mangle", format!("-A PREROUTING -i {DEVICES} -j {target}")),
                ("mangle", format!("-A POSTROUTING -o {DEVICES} -j {target}")),
            ],
        }
    }

    /// Every packet to the local address, each flow by itself.
    fn arrived(family: Family) -> Self {
        let local = family.local();
        Self {
            name: ARRIVED.to_owned(),
            rules: vec![(
                "raw",
                format!(
                    "-A PREROUTING -i {DEVICES} -d {local} -j TRAFSTAT --local-net {local} \
                     {ALL_PORTS} --name {ARRIVED}"
                ),
            )],
        }
    }

    fn draw(
        name: &str,
        address: IpAddr,
        length: u8,
        options: &str,
        role: Role,
        rng: &mut Rng,
    ) -> Self {
        let chains: &[_] = match role {
            Role::Host => &HOST_CHAINS,
            Role::Router => &ROUTER_CHAINS,
        };
        let spoof = match rng.bool() {
            true => format!("--min-pkt-spoof {}", rng.u32(2..6)),
            false => String::new(),
        };
        let rules = (0..rng.usize(1..4))
            .map(|index| {
                // One rule is sure to see all that comes in.
                let (table, chain) = match index {
                    0 => chains[0],
                    _ => *pick(chains, rng),
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
    fn add(&mut self, offload: Offload, account: &str, Snapshot { header, .. }: &Snapshot) {
        self.outside += header.outside_packets;
        self.skipped += header.skipped_packets;
        self.extrapolated += header.extrapolated_packets;
        self.folded += header.folded_packets;
        match (offload, account) {
            (Offload::Merged, ARRIVED) => self.merged += header.gso_extra_packets,
            (Offload::Cut, LINK) => self.cut += header.gso_extra_packets,
            _ => (),
        }
    }

    fn is_all(&self) -> Result<()> {
        let Self {
            outside,
            skipped,
            extrapolated,
            folded,
            sctp_by_the_kernel,
            merged,
            cut,
        } = self;
        if !sctp_by_the_kernel {
            println!("this kernel has no SCTP: its packets were made by hand only");
        }
        ensure!(
            [outside, skipped, extrapolated, folded, merged, cut]
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
