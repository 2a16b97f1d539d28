// SPDX-License-Identifier: GPL-2.0-or-later
//! What sampling estimates is right for whatever pattern packets come in, and its errors are as
//! large as the snapshot says.
//!
//! Each pattern is one that a counter would keep step with. Estimates may be five standard errors
//! off.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use trafstat_abi::{SAMPLE_TCP_ANY, SAMPLE_TCP_SYN, SAMPLE_UDP_ANY, Sample};

use crate::cpu;
use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{Iptables, RuleCounters};
use crate::module;
use crate::proc::{AccountKey, Record, Snapshot};
use crate::topology::Netns;

/// Every packet of a pattern is of this size.
const PAYLOAD: usize = 20;
const UDP_BYTES: u64 = 48;

const ERRORS: f64 = 5.0;

const TCP: u8 = 6;

const PATIENCE: Duration = Duration::from_secs(20);

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let mut failures = Vec::new();
    for pattern in [two_rates, echoes, bursts, refusals] {
        let netns = Netns::new("trafstat-local")?;
        let iptables = Iptables::new(guest, &netns, Family::Ipv4);
        let sampled = Sampled {
            netns: &netns,
            iptables: &iptables,
        };
        failures.extend(pattern(&sampled).err().map(|error| format!("{error:#}")));
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// Where a pattern is sent and counted.
struct Sampled<'a> {
    netns: &'a Netns,
    iptables: &'a Iptables<'a>,
}

impl Sampled<'_> {
    /// Counts what `end` matches into the one account, with `options`.
    fn count(&self, end: &str, options: &str) -> Result<()> {
        self.iptables.succeed(&format!(
            "-A {end} -j TRAFSTAT --local-net 127.0.0.2 --name sampled \
             --local-tcp-ports all --remote-udp-ports all --local-udp-ports all {options}"
        ))
    }

    /// Runs `work` in the namespace, on one CPU.
    fn send(&self, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
        self.netns.enter(|| {
            cpu::stay_on(0)?;
            work()
        })
    }

    fn collect(&self) -> Result<Snapshot> {
        let key = AccountKey {
            family: Family::Ipv4,
            name: "sampled",
        };
        Snapshot::collect(self.netns, key)
    }
}

/// Two rules of one account, whose packets come in turn.
fn two_rates(sampled: &Sampled<'_>) -> Result<()> {
    const EACH: u64 = 50_000;
    for (port, rate) in [(1000, 2), (2000, 1000)] {
        sampled.count(
            &format!("OUTPUT -p udp --dport {port}"),
            &format!("--sample-udp-any {rate}"),
        )?;
    }
    sampled.send(|| {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0))?;
        for _ in 0..EACH {
            for port in [1000, 2000] {
                socket.send_to(&[0; PAYLOAD], (Ipv4Addr::LOCALHOST, port))?;
            }
        }
        Ok(())
    })?;
    let snapshot = sampled.collect()?;
    for (port, rate) in [(1000, 2), (2000, 1000)] {
        let found = sum(&snapshot, |record| record.tuple.remote_port == port);
        is_near(found.packets, EACH, variance(EACH, rate))
            .with_context(|| format!("one in {rate}, in turn with another rate"))?;
    }
    let class = Class {
        index: SAMPLE_UDP_ANY,
        highest_rate: 1000,
        found: snapshot.recorded(),
        truth: udp(2 * EACH),
    };
    class.is_right(&snapshot).context("two rates in turn")
}

/// A conversation in which each request has its answer.
fn echoes(sampled: &Sampled<'_>) -> Result<()> {
    const EACH: u64 = 4000;
    const RATE: u64 = 10;
    for end in ["INPUT -p udp -d 127.0.0.2", "OUTPUT -p udp -s 127.0.0.2"] {
        sampled.count(end, &format!("--sample-udp-any {RATE}"))?;
    }
    sampled.send(|| {
        let server = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 5353))?;
        let client = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 9), 0))?;
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        let mut buffer = [0; PAYLOAD];
        for _ in 0..EACH {
            client.send_to(&[0; PAYLOAD], server.local_addr()?)?;
            server.recv(&mut buffer)?;
            server.send_to(&buffer, client.local_addr()?)?;
            client.recv(&mut buffer)?;
        }
        Ok(())
    })?;
    let snapshot = sampled.collect()?;
    let mut sent = 0;
    let mut received = 0;
    for Record { counters, .. } in &snapshot.records {
        sent += counters.sent_packets;
        received += counters.received_packets;
    }
    for (found, direction) in [(sent, "sent"), (received, "received")] {
        is_near(found, EACH, variance(EACH, RATE))
            .with_context(|| format!("{direction} in a conversation, one in {RATE}"))?;
    }
    let class = Class {
        index: SAMPLE_UDP_ANY,
        highest_rate: RATE,
        found: snapshot.recorded(),
        truth: udp(2 * EACH),
    };
    class.is_right(&snapshot).context("a conversation")
}

/// Bursts as long as the rate, each of whose packets has its place.
fn bursts(sampled: &Sampled<'_>) -> Result<()> {
    const BURSTS: u64 = 3000;
    const RATE: u64 = 10;
    const FIRST_PORT: u16 = 3000;
    let rate = u16::try_from(RATE)?;
    sampled.count("OUTPUT -p udp", &format!("--sample-udp-any {RATE}"))?;
    sampled.send(|| {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0))?;
        for _ in 0..BURSTS {
            for place in 0..rate {
                let port = FIRST_PORT + place;
                socket.send_to(&[0; PAYLOAD], (Ipv4Addr::LOCALHOST, port))?;
            }
        }
        Ok(())
    })?;
    let snapshot = sampled.collect()?;
    for place in 0..rate {
        let port = FIRST_PORT + place;
        let found = sum(&snapshot, |record| record.tuple.remote_port == port);
        is_near(found.packets, BURSTS, variance(BURSTS, RATE))
            .with_context(|| format!("packet {place} of each burst of {RATE}, one in {RATE}"))?;
    }
    let class = Class {
        index: SAMPLE_UDP_ANY,
        highest_rate: RATE,
        found: snapshot.recorded(),
        truth: udp(BURSTS * RATE),
    };
    class.is_right(&snapshot).context("bursts")
}

/// Connections that are refused: a packet with SYN, then another kind, in turn.
fn refusals(sampled: &Sampled<'_>) -> Result<()> {
    const EACH: u64 = 3000;
    const SYN_RATE: u64 = 2;
    const RATE: u64 = 7;
    /// A reset has no options.
    const RESET_BYTES: u64 = 40;
    sampled.count(
        "OUTPUT -p tcp -s 127.0.0.2",
        &format!("--sample-tcp-syn {SYN_RATE} --sample-tcp-any {RATE}"),
    )?;
    sampled.count(
        "INPUT -p tcp -d 127.0.0.2",
        &format!("--sample-tcp-syn {SYN_RATE} --sample-tcp-any {RATE}"),
    )?;
    sampled.send(|| {
        let closed = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 81);
        for _ in 0..EACH {
            ensure!(TcpStream::connect(closed).is_err(), "port 81 is open");
        }
        Ok(())
    })?;
    let snapshot = sampled.collect()?;
    let all = sum(&snapshot, |record| record.tuple.protocol == TCP);
    let syn = snapshot.records.iter().map(|record| record.syn_packets);
    let syn: u64 = syn.sum();
    is_near(syn, EACH, variance(EACH, SYN_RATE)).context("SYN, in turn with RST")?;
    let rest = all.packets - syn;
    is_near(rest, EACH, variance(EACH, RATE)).context("RST, in turn with SYN")?;
    let classes = [
        (SAMPLE_TCP_SYN, SYN_RATE, syn),
        (SAMPLE_TCP_ANY, RATE, rest),
    ];
    for (index, highest_rate, found) in classes {
        // Bytes of both classes are one sum in a record, so only packets can be told apart.
        let sample = snapshot.header.sample[index as usize];
        has_rate(&sample, highest_rate)?;
        is_near(found, EACH, number(sample.packet_variance))
            .with_context(|| format!("class {index} of refused connections"))?;
    }
    ensure!(
        number(snapshot.header.sample[SAMPLE_TCP_ANY as usize].byte_variance)
            == number(snapshot.header.sample[SAMPLE_TCP_ANY as usize].packet_variance)
                * (RESET_BYTES * RESET_BYTES) as f64,
        "bytes of packets of one size do not vary as the packets do: {:?}",
        snapshot.header.sample
    );
    Ok(())
}

/// What is sampled at a rate of its own, all of it.
struct Class {
    index: u32,
    highest_rate: u64,
    found: RuleCounters,
    truth: RuleCounters,
}

impl Class {
    /// That the estimates are as near as the header says.
    fn is_right(&self, snapshot: &Snapshot) -> Result<()> {
        let sample = snapshot.header.sample[self.index as usize];
        has_rate(&sample, self.highest_rate)?;
        let (packets, bytes) = (sample.packet_variance, sample.byte_variance);
        is_near(self.found.packets, self.truth.packets, number(packets)).context("packets")?;
        is_near(self.found.bytes, self.truth.bytes, number(bytes)).context("bytes")
    }
}

fn has_rate(sample: &Sample, highest_rate: u64) -> Result<()> {
    ensure!(
        u64::from(sample.highest_rate) == highest_rate,
        "the highest rate is {highest_rate}, the header has {}",
        sample.highest_rate
    );
    Ok(())
}

/// That an estimate is not too many standard errors off.
fn is_near(found: u64, truth: u64, variance: f64) -> Result<()> {
    let off = found as f64 - truth as f64;
    let standard_error = variance.sqrt();
    ensure!(
        off.abs() <= ERRORS * standard_error,
        "{found} instead of {truth}, whose standard error is {standard_error:.0}"
    );
    Ok(())
}

/// Of the estimate of `packets` that are taken with a probability of one in `rate`.
fn variance(packets: u64, rate: u64) -> f64 {
    (packets * (rate - 1)) as f64
}

/// 128 bits, the lower 64 first.
fn number([low, high]: [u64; 2]) -> f64 {
    (u128::from(high) << 64 | u128::from(low)) as f64
}

fn udp(packets: u64) -> RuleCounters {
    RuleCounters {
        packets,
        bytes: packets * UDP_BYTES,
    }
}

/// The sum over the records that `is_wanted` picks.
fn sum(snapshot: &Snapshot, is_wanted: impl Fn(&Record) -> bool) -> RuleCounters {
    let mut sum = RuleCounters::default();
    for record in snapshot.records.iter().filter(|record| is_wanted(record)) {
        sum.add(record.counters.total());
    }
    sum
}
