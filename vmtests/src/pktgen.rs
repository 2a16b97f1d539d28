// SPDX-License-Identifier: GPL-2.0-or-later
//! Packets from the kernel's own generator, timed by it.
//!
//! pktgen sends on the remote end of the link, and each packet has gone through the local side's
//! rules before the next one is made. In a guest whose clock counts instructions, the time of a run
//! is all that its packets cost: generator, link, stack and rules. What a rule costs is the
//! difference to a run without it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::family::Family;
use crate::process;
use crate::topology::{DEVICE, PEER, Topology};

/// pktgen's files, of the namespace that a thread is in.
const ROOT: &str = "/proc/thread-self/net/pktgen";
/// Bytes of a frame: room for pktgen's own header behind IPv6 and UDP.
const FRAME_BYTES: u32 = 100;
const FIRST_PORT: u32 = 1024;
/// What makes a frame's UDP header and the first bytes behind it one of TCP: data offset, ACK.
const TCP_OFFSET_AND_FLAGS: [(u32, u8); 2] = [(12, 0x50), (13, 0x10)];

/// What the local side receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// As pktgen makes it.
    Udp,
    /// Made of that on its way in, before the rules.
    Tcp,
}

/// The flows that packets belong to, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// So many, at most 60,000.
    Few(u32),
    /// 1,001,000 of them: a thousand source ports and one destination port more.
    Million,
    /// From random ones of 2^24 IPv4 sources.
    RandomSources,
}

impl Flows {
    /// How many there are.
    pub fn number(self) -> u32 {
        match self {
            Self::Few(flows) => flows,
            Self::Million => 1000 * 1001,
            Self::RandomSources => 1 << 24,
        }
    }
}

/// The generator, for one kind of packet.
pub struct Generator<'a> {
    topology: &'a Topology,
    cpu: usize,
}

impl<'a> Generator<'a> {
    /// Readies the link for packets of `protocol`.
    ///
    /// # Errors
    ///
    /// The kernel has no pktgen, or tc fails.
    pub fn new(topology: &'a Topology, protocol: Protocol) -> Result<Self> {
        process::succeed(Command::new("modprobe").arg("pktgen"))?;
        if protocol == Protocol::Tcp {
            make_tcp(topology)?;
        }
        Ok(Self { topology, cpu: 0 })
    }

    /// The same, on the CPU with this id.
    pub fn on_cpu(self, cpu: usize) -> Self {
        Self { cpu, ..self }
    }

    /// Sends `packets`, the flows in turn; returns the nanoseconds of one on average.
    ///
    /// # Errors
    ///
    /// pktgen refuses something.
    pub fn send(&self, flows: Flows, packets: u32) -> Result<f64> {
        let hardware = self.topology.local.hardware_address(DEVICE)?;
        let mut commands = vec![
            format!("count {packets}"),
            "delay 0".to_owned(),
            format!("pkt_size {FRAME_BYTES}"),
            format!("dst_mac {hardware}"),
        ];
        let (local, remote) = (self.topology.family.local(), self.topology.family.remote());
        commands.extend(match self.topology.family {
            Family::Ipv4 => [format!("dst_min {local}"), format!("src_min {remote}")],
            Family::Ipv6 => [format!("dst6 {local}"), format!("src6 {remote}")],
        });
        let (sources, destinations) = match flows {
            Flows::Few(flows) => (flows, 1),
            Flows::Million => (1000, 1001),
            Flows::RandomSources => (1, 1),
        };
        for (end, ports) in [("src", sources), ("dst", destinations)] {
            // The maximum is left out, except where it is the minimum.
            let end_port = FIRST_PORT + if ports == 1 { 0 } else { ports };
            commands.push(format!("udp_{end}_min {FIRST_PORT}"));
            commands.push(format!("udp_{end}_max {end_port}"));
        }
        if flows == Flows::RandomSources {
            commands.push("flag IPSRC_RND".to_owned());
            commands.push("src_min 10.0.0.0".to_owned());
            commands.push("src_max 10.255.255.255".to_owned());
        }
        let shown = self.topology.remote.enter(|| {
            let thread = format!("kpktgend_{}", self.cpu);
            write(&thread, &format!("add_device {PEER}"))?;
            for command in &commands {
                write(PEER, command)?;
            }
            // Returns when all are sent.
            write("pgctrl", "start")?;
            let path = format!("{ROOT}/{PEER}");
            let shown = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            // Nothing is left for a later run, on whichever CPU.
            write(&thread, "rem_device_all")?;
            Ok(shown)
        })?;
        let microseconds = elapsed(&shown).with_context(|| format!("pktgen says {shown}"))?;
        Ok(microseconds as f64 * 1000.0 / f64::from(packets))
    }

    /// The instructions that a packet costs, where the clock counts them: the least of `runs`.
    ///
    /// # Errors
    ///
    /// As for [`Generator::send`].
    pub fn least_cost(&self, flows: Flows, packets: u32, runs: u32) -> Result<f64> {
        let mut least = f64::INFINITY;
        for _ in 0..runs {
            least = least.min(self.send(flows, packets)?);
        }
        Ok(least)
    }
}

/// The first number of `Result: OK: 1234(c1000+d234) usec, ...`: packets are handled in what
/// pktgen takes for idle, too.
fn elapsed(shown: &str) -> Option<u64> {
    let (_, result) = shown.split_once("Result: OK: ")?;
    result.split_once('(')?.0.parse().ok()
}

fn write(file: &str, command: &str) -> Result<()> {
    fs::write(format!("{ROOT}/{file}"), format!("{command}\n"))
        .with_context(|| format!("pktgen: {command}"))
}

/// Turns all UDP that reaches the local end into TCP.
fn make_tcp(topology: &Topology) -> Result<()> {
    let (protocol, next_header, header_bytes, checksum) = match topology.family {
        Family::Ipv4 => ("ip", "ip protocol", 20, "pipe action csum ip4h"),
        Family::Ipv6 => ("ipv6", "ip6 nexthdr", 40, ""),
    };
    let flags: String = TCP_OFFSET_AND_FLAGS
        .iter()
        .map(|(offset, value)| {
            format!(
                "pipe action pedit munge offset {} u8 set {value} ",
                header_bytes + offset
            )
        })
        .collect();
    for arguments in [
        format!("qdisc add dev {DEVICE} clsact"),
        format!(
            "filter add dev {DEVICE} ingress protocol {protocol} matchall \
             action pedit ex munge {next_header} set 6 {flags} {checksum}"
        ),
    ] {
        topology
            .local
            .succeed(Command::new("tc").args(arguments.split_whitespace()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_a_run_is_with_what_pktgen_takes_for_idle() {
        let shown = "Current:\n     pkts-sofar: 20  errors: 0\n\
                     Result: OK: 5150(c4119+d1031) usec, 20 (100byte,0frags)\n";
        assert_eq!(elapsed(shown), Some(5150));
        assert_eq!(elapsed("Result: Idle"), None);
    }
}
