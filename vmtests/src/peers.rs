// SPDX-License-Identifier: GPL-2.0-or-later
//! What else counts traffic in the kernel, as Debian packages it, set up for the link's local end.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::iptables::Iptables;
use crate::pktgen::Protocol;
use crate::process;
use crate::topology::Netns;

/// Flows besides those that are sent.
const SPARE: u64 = 8;
/// Room for every flow, where there is a limit.
const FLOWS: u32 = 2_000_000;
/// As many as conntrack takes by itself for so many entries, but a power of two.
const CONNTRACK_BUCKETS: u32 = 1 << 20;
/// What is counted by name, and nftables' table.
const NAME: &str = "peer";

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// ipt_NETFLOW, which exports flows.
    Netflow,
    /// xt_ACCOUNT: local addresses alone.
    Account,
    /// A rule of nftables that matches, and does nothing; the next one is compared with it.
    NftMatch,
    /// nftables' dynamic set of protocol, addresses and ports, with counters.
    NftSet,
    /// nfacct: one counter with a name.
    Nfacct,
    /// conntrack, which a rule that asks for a state switches on.
    Conntrack,
    /// The same, with packets and bytes counted.
    ConntrackAccounting,
}

impl Peer {
    /// What it is called in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Netflow => "ipt_NETFLOW",
            Self::Account => "xt_ACCOUNT (per IP only)",
            Self::NftMatch => "nftables rule",
            Self::NftSet => "nftables set",
            Self::Nfacct => "nfacct (one counter)",
            Self::Conntrack => "conntrack",
            Self::ConntrackAccounting => "conntrack, accounting",
        }
    }

    /// Whether this kernel has it and it counts such packets.
    ///
    /// # Errors
    ///
    /// There is no modinfo.
    pub fn counts(self, family: Family, protocol: Protocol) -> Result<bool> {
        let is_fit = match self {
            Self::Account => family == Family::Ipv4,
            // What the link makes of UDP is no connection to conntrack: its checksum is UDP's.
            Self::Conntrack | Self::ConntrackAccounting => protocol == Protocol::Udp,
            _ => true,
        };
        let is_built = match self.module() {
            None => true,
            Some(module) => {
                let mut modinfo = Command::new("modinfo");
                process::end(modinfo.args(["--filename", module]))?.code == Some(0)
            }
        };
        Ok(is_fit && is_built)
    }

    /// The module that is built for each kernel.
    fn module(self) -> Option<&'static str> {
        match self {
            Self::Netflow => Some("ipt_NETFLOW"),
            Self::Account => Some("xt_ACCOUNT"),
            _ => None,
        }
    }

    /// Whether it knows a flow only once a packet of it was accepted.
    pub fn needs_acceptance(self) -> bool {
        matches!(self, Self::Conntrack | Self::ConntrackAccounting)
    }

    /// Has it count what the local end receives.
    ///
    /// # Errors
    ///
    /// The kernel or a program refuses something.
    pub fn set_up(self, context: &PeerContext<'_>) -> Result<()> {
        let PeerContext {
            netns,
            family,
            iptables,
        } = context;
        match self {
            Self::Netflow => {
                // Its default has no IPv6.
                let mut modprobe = Command::new("modprobe");
                process::succeed(modprobe.args(self.module()).arg("protocol=9"))?;
                iptables.succeed("-A INPUT -j NETFLOW")
            }
            Self::Account => iptables.succeed(&format!(
                "-A INPUT -j ACCOUNT --addr {}/{} --tname {NAME}",
                family.local(),
                family.subnet_len()
            )),
            Self::NftMatch => context.add_nft_table("", ""),
            Self::NftSet => {
                let (protocol, address) = context.nft_words();
                let set = format!(
                    "set flows {{ type inet_proto . {address} . {address} . inet_service . \
                     inet_service; size {FLOWS}; flags dynamic; }};"
                );
                let count = format!(
                    "update @flows {{ meta l4proto . {protocol} saddr . {protocol} daddr . \
                     th sport . th dport counter }}"
                );
                context.add_nft_table(&set, &count)
            }
            Self::Nfacct => {
                netns.succeed(Command::new("nfacct").args(["add", NAME]))?;
                iptables.succeed(&format!("-A INPUT -m nfacct --nfacct-name {NAME}"))
            }
            Self::Conntrack | Self::ConntrackAccounting => {
                process::succeed(Command::new("modprobe").arg("nf_conntrack"))?;
                write(
                    "/sys/module/nf_conntrack/parameters/hashsize",
                    CONNTRACK_BUCKETS,
                )?;
                write("/proc/sys/net/netfilter/nf_conntrack_max", FLOWS)?;
                let accounting = u32::from(self == Self::ConntrackAccounting);
                netns.enter(|| write("/proc/sys/net/netfilter/nf_conntrack_acct", accounting))?;
                iptables.succeed("-A INPUT -m conntrack --ctstate NEW,ESTABLISHED")
            }
        }
    }

    /// Passes if it knows so many flows, where it tells.
    ///
    /// # Errors
    ///
    /// It knows others, or cannot be asked.
    pub fn knows(self, context: &PeerContext<'_>, flows: u32) -> Result<()> {
        let known = match self {
            Self::Netflow => {
                let path = "/proc/net/stat/ipt_netflow";
                let shown = fs::read_to_string(path).with_context(|| path.to_owned())?;
                number_after(&shown, "Flows: active ").context(shown)?
            }
            Self::Conntrack | Self::ConntrackAccounting => {
                let mut count = Command::new("conntrack");
                let shown = context.netns.succeed(count.arg("--count"))?;
                number_after(&shown, "").context(shown)?
            }
            // A long list takes longer than all else.
            Self::NftSet if flows <= 1000 => {
                let (protocol, _) = context.nft_words();
                let shown = context.nft(&format!("list set {protocol} {NAME} flows"))?;
                shown.matches("counter packets").count() as u64
            }
            _ => return Ok(()),
        };
        // There may be one of the answer to a packet, or of a neighbour, too.
        ensure!(
            (flows.into()..=u64::from(flows) + SPARE).contains(&known),
            "{} knows {known} flows of {flows}",
            self.name()
        );
        Ok(())
    }

    /// Undoes all but rules of iptables, which are gone already.
    ///
    /// # Errors
    ///
    /// It is still in use.
    pub fn tear_down(self, context: &PeerContext<'_>) -> Result<()> {
        match self {
            Self::Netflow | Self::Account => {
                process::succeed(Command::new("rmmod").args(self.module()))?;
            }
            Self::NftMatch | Self::NftSet => {
                let (protocol, _) = context.nft_words();
                context.nft(&format!("delete table {protocol} {NAME}"))?;
            }
            Self::Nfacct => {
                context.netns.succeed(Command::new("nfacct").arg("flush"))?;
            }
            Self::Conntrack | Self::ConntrackAccounting => {
                let mut conntrack = Command::new("conntrack");
                context.netns.succeed(conntrack.arg("--flush"))?;
            }
        }
        Ok(())
    }
}

/// The namespace and the rules that a peer is set up in.
pub struct PeerContext<'a> {
    /// The link's local end.
    pub netns: &'a Netns,
    /// Of its packets.
    pub family: Family,
    /// Its rules.
    pub iptables: &'a Iptables<'a>,
}

impl PeerContext<'_> {
    /// nftables' words for the family and for the type of its addresses.
    fn nft_words(&self) -> (&'static str, &'static str) {
        match self.family {
            Family::Ipv4 => ("ip", "ipv4_addr"),
            Family::Ipv6 => ("ip6", "ipv6_addr"),
        }
    }

    /// A chain in front of iptables' own, with a rule that matches what is received.
    fn add_nft_table(&self, set: &str, statement: &str) -> Result<()> {
        let (protocol, _) = self.nft_words();
        let local = self.family.local();
        self.nft(&format!(
            "table {protocol} {NAME} {{ {set} chain input {{ \
             type filter hook input priority -1; \
             {protocol} daddr {local} {statement}; }}; }}"
        ))
        .map(drop)
    }

    fn nft(&self, commands: &str) -> Result<String> {
        self.netns.succeed(Command::new("nft").arg(commands))
    }
}

fn number_after(text: &str, before: &str) -> Option<u64> {
    let (_, after) = text.split_once(before)?;
    let end = after
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(after.len());
    after[..end].parse().ok()
}

fn write(path: &str, number: u32) -> Result<()> {
    fs::write(path, number.to_string()).with_context(|| format!("cannot write {path}"))
}
