// SPDX-License-Identifier: GPL-2.0-or-later
//! Recorded traffic, malformed on purpose for the most part, is counted but for what the kernel's own
//! receive path refused; the kernel lives on and has nothing to say.
//!
//! ```text
//!   namespace local                              namespace remote, which says nothing itself
//!  +----------------------------------+         +---------------------------+
//!  |  rules in raw PREROUTING         |         |                tcpreplay  |
//!  |  that drop       veth-local      +---------+  veth-remote              |
//!  +----------------------------------+         +---------------------------+
//!
//!   frames of IPv4 = InReceives,  InReceives - InHdrErrors - InTruncatedPkts - InDiscards = seen
//! ```
//!
//! and the same for IPv6. Where nothing was refused, the program that counts captures makes the same
//! records of the same frames. The rules drop what they have counted, so that nothing behind them counts
//! in the same counters.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use pcap_parser::pcap::{parse_pcap_frame, parse_pcap_frame_be, parse_pcap_header};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables, RuleCounters};
use crate::kernel_log::KernelLog;
use crate::module;
use crate::proc::{AccountKey, Record, Snapshot, Tuple};
use crate::process;
use crate::topology::{DEVICE, Netns, PEER};
use crate::traffic::FlowCounters;

const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// Two accounts of each family: one to which all is local, and one for a common private net.
const ACCOUNTS: [&str; 2] = ["all", "lan"];

/// Captures that are replayed at once; where something is wrong, they are replayed again in halves.
const AT_ONCE: usize = 16;

/// LINKTYPE_ETHERNET, in the lower bits of a capture's link type; above are those of the frame check
/// sequence.
const ETHERNET: i32 = 1;
const LINK_TYPE_BITS: i32 = 0x03ff_ffff;

const ETHERNET_HEADER: usize = 14;
/// The largest MTU that a device of Ethernet can have, and what tcpreplay sends at most.
const LONGEST_FRAME: usize = 65_535;

/// The kernel takes what was sent in off the queue some time after it was sent.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(guest: &Guest) -> Result<()> {
    let mut left_out = LeftOut::default();
    let captures = read_captures(guest.captures()?, &mut left_out)?;
    println!(
        "{} captures with {} frames are replayed, {left_out} are left out",
        captures.len(),
        captures.iter().map(|c| c.frames.len()).sum::<usize>(),
        left_out = left_out.describe(),
    );
    ensure!(!captures.is_empty(), "no capture is of Ethernet");

    module::load(guest)?;
    let wire = Wire::new(guest)?;
    let all: Vec<_> = captures.iter().collect();
    let mut sums = Sums::default();
    for group in all.chunks(AT_ONCE) {
        if let Err(error) = wire.check(group, &mut sums) {
            return Err(wire.narrow_down(group, error));
        }
    }
    for family in FAMILIES {
        let Received { receives, refused } =
            sums.received.get(&family).copied().unwrap_or_default();
        let compared = sums.compared.get(&family).copied().unwrap_or_default();
        println!(
            "{family:?}: {receives} packets came in, {refused} of them were refused; of {compared} \
             the records were compared with those of the capture"
        );
        ensure!(
            refused > 0 && compared > 0,
            "no capture has a packet of {family:?} that is refused, or all have"
        );
        let counted = wire.iptables(family).counters_by_name()?;
        for account in ACCOUNTS {
            let seen = sums.seen.get(&(family, account));
            ensure!(
                seen.is_some() && seen == counted.get(account),
                "{family:?}, account {account}: seen {seen:?}, the rules {counted:?}"
            );
        }
    }
    Ok(())
}

/// One file of frames that a device of Ethernet can send.
struct Capture {
    path: PathBuf,
    frames: Vec<Vec<u8>>,
}

/// What cannot be replayed, and how often.
#[derive(Default)]
struct LeftOut {
    files_by_link_type: BTreeMap<i32, u64>,
    short_frames: u64,
    long_frames: u64,
}

impl LeftOut {
    fn describe(&self) -> String {
        let files: u64 = self.files_by_link_type.values().sum();
        let types: Vec<_> = self
            .files_by_link_type
            .iter()
            .map(|(link_type, files)| format!("{link_type}: {files}"))
            .collect();
        format!(
            "{files} captures of other link types ({}), {} frames shorter than an Ethernet header \
             and {} longer than {LONGEST_FRAME} bytes",
            types.join(", "),
            self.short_frames,
            self.long_frames
        )
    }
}

/// What the kernel counts of packets that come in, before any rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Received {
    receives: u64,
    refused: u64,
}

/// The two namespaces with the rules.
struct Wire<'a> {
    guest: &'a Guest,
    local: Netns,
    remote: Netns,
    /// Of the local end.
    hardware_address: [u8; 6],
    scratch: &'static Path,
}

/// All groups together.
#[derive(Default)]
struct Sums {
    /// What the accounts saw.
    seen: BTreeMap<(Family, &'static str), RuleCounters>,
    received: BTreeMap<Family, Received>,
    /// Packets of records that are the same where the capture is counted without the module.
    compared: BTreeMap<Family, u64>,
}

/// The options of an account's rule.
fn options(family: Family, account: &str) -> String {
    let [all, _] = ACCOUNTS;
    match (account == all, family) {
        (true, Family::Ipv4) => format!("--local-net 0.0.0.0/0 {ALL_PORTS}"),
        (true, Family::Ipv6) => format!("--local-net ::/0 {ALL_PORTS}"),
        (false, Family::Ipv4) => "--local-net 10.0.0.0/8".to_owned(),
        (false, Family::Ipv6) => "--local-net fe80::/10".to_owned(),
    }
}

impl<'a> Wire<'a> {
    fn new(guest: &'a Guest) -> Result<Self> {
        let (local, remote) = (
            Netns::new("trafstat-local")?,
            Netns::new("trafstat-remote")?,
        );
        local.ip(&format!(
            "link add {DEVICE} mtu {LONGEST_FRAME} type veth \
             peer name {PEER} mtu {LONGEST_FRAME} netns trafstat-remote"
        ))?;
        remote.speak_no_ipv6(PEER)?;
        remote.ip(&format!("link set {PEER} arp off up"))?;
        local.ip(&format!("link set {DEVICE} up"))?;
        // Of what is sent at once nothing may be lost for want of room.
        fs::write("/proc/sys/net/core/netdev_max_backlog", "200000")?;
        let hardware_address = local.hardware_address(DEVICE)?;
        let hardware_address = parse_hardware_address(&hardware_address)
            .with_context(|| format!("{hardware_address} is no hardware address"))?;
        let wire = Self {
            guest,
            local,
            remote,
            hardware_address,
            scratch: guest.scratch()?,
        };
        for family in FAMILIES {
            let [all, lan] = ACCOUNTS;
            let [everything, net] = ACCOUNTS.map(|name| options(family, name));
            wire.iptables(family).restore(&format!(
                "*raw\n\
                 -A PREROUTING -j TRAFSTAT {everything} --name {all}\n\
                 -A PREROUTING -j TRAFSTAT {net} --name {lan} --traf-policy drop\n\
                 COMMIT\n"
            ))?;
        }
        Ok(wire)
    }

    fn iptables(&self, family: Family) -> Iptables<'_> {
        Iptables::new(self.guest, &self.local, family)
    }

    /// Replays `captures` and checks what became of them, in the log too.
    fn check(&self, captures: &[&Capture], sums: &mut Sums) -> Result<()> {
        let log = KernelLog::from_now()?;
        let before = self.received()?;
        let sent_before = self.sent()?;
        self.replay(captures)?;

        let frames: u64 = captures.iter().map(|c| c.frames.len() as u64).sum();
        let sent = self.sent()? - sent_before;
        ensure!(sent == frames, "of {frames} frames {sent} were sent");
        let deadline = Instant::now() + PATIENCE;
        for (family, before) in FAMILIES.into_iter().zip(before) {
            let frames = captures.iter().flat_map(|capture| &capture.frames);
            let frames: Vec<_> = frames
                .filter(|frame| carried(frame) == Some(family))
                .collect();
            let carried = frames.len() as u64;
            let [receives, refused] = loop {
                let now = self.received()?[family as usize];
                let since = [now.receives - before.receives, now.refused - before.refused];
                if since[0] >= carried || Instant::now() > deadline {
                    break since;
                }
                thread::sleep(Duration::from_millis(20));
            };
            ensure!(
                receives == carried,
                "{carried} frames carry {family:?}, and {receives} packets came in"
            );
            let sum = sums.received.entry(family).or_default();
            sum.receives += receives;
            sum.refused += refused;
            for name in ACCOUNTS {
                let snapshot = Snapshot::collect(&self.local, AccountKey { family, name })?;
                if refused == 0 && carried > 0 {
                    self.source_agrees(&frames, family, name, &snapshot.records)?;
                    *sums.compared.entry(family).or_default() += snapshot.header.recorded_packets;
                }
                let seen = snapshot.header.seen_packets;
                ensure!(
                    seen == receives - refused,
                    "{family:?}: of {receives} packets {refused} were refused, and account {name} \
                     saw {seen}"
                );
                sums.seen
                    .entry((family, name))
                    .or_default()
                    .add(snapshot.as_rules_count());
            }
        }
        let trouble = log.trouble()?;
        ensure!(
            trouble.is_empty(),
            "the kernel says:\n{}",
            trouble.join("\n")
        );
        Ok(())
    }

    /// Counts `frames` without the module; the records are to be `counted`.
    fn source_agrees(
        &self,
        frames: &[&Vec<u8>],
        family: Family,
        account: &str,
        counted: &[Record],
    ) -> Result<()> {
        let path = self.scratch.join("counted.pcap");
        fs::write(&path, self.readdressed(frames.iter().copied())?)?;
        let mut show = Command::new(self.guest.file("trafstat"));
        show.args(["show", "--top", "0", "--format", "csv", "--by"])
            .arg("protocol,local-ip,remote-ip,local-port,remote-port")
            .args(["--source", &format!("pcap:{}", path.display())])
            .args(options(family, account).split(' '));
        let shown = process::succeed(&mut show)?;
        let mut records = shown
            .lines()
            .skip(1)
            .map(|line| parse_record(line).with_context(|| format!("no record: {line}")))
            .collect::<Result<Vec<_>>>()?;
        let mut counted = counted.to_vec();
        records.sort();
        counted.sort();
        if let Some((module, source)) = counted.iter().zip(&records).find(|(a, b)| a != b) {
            bail!("the module's record {module:?}, the capture's {source:?}");
        }
        ensure!(
            records.len() == counted.len(),
            "{} records of the module, {} of the capture",
            counted.len(),
            records.len()
        );
        Ok(())
    }

    /// Names the fewest captures that still make an error like `error`, which all of them made.
    fn narrow_down(&self, captures: &[&Capture], error: anyhow::Error) -> anyhow::Error {
        // What the failed run left behind is none of the next one's.
        for family in FAMILIES {
            for name in ACCOUNTS {
                if let Err(error) = Snapshot::collect(&self.local, AccountKey { family, name }) {
                    return error;
                }
            }
        }
        let halves = captures.split_at(captures.len() / 2);
        for half in [halves.0, halves.1] {
            if half.is_empty() || half.len() == captures.len() {
                continue;
            }
            if let Err(error) = self.check(half, &mut Sums::default()) {
                return self.narrow_down(half, error);
            }
        }
        let names: Vec<_> = captures
            .iter()
            .map(|capture| capture.path.display().to_string())
            .collect();
        error.context(names.join(", "))
    }

    fn replay(&self, captures: &[&Capture]) -> Result<()> {
        let path = self.scratch.join("frames.pcap");
        let frames = captures.iter().flat_map(|capture| &capture.frames);
        fs::write(&path, self.readdressed(frames)?)?;
        self.remote.succeed(
            Command::new("tcpreplay")
                .args(["--quiet", "--topspeed", "--intf1", PEER])
                .arg(&path),
        )?;
        Ok(())
    }

    /// A capture of `frames`, sent to the local end.
    fn readdressed<'f>(&self, frames: impl Iterator<Item = &'f Vec<u8>>) -> Result<Vec<u8>> {
        // Magic, version 2.4, no time zone, no accuracy, longest frame, link type.
        let mut file = Vec::new();
        file.extend(0xa1b2_c3d4_u32.to_le_bytes());
        file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.extend(u32::try_from(LONGEST_FRAME)?.to_le_bytes());
        file.extend(ETHERNET.to_le_bytes());
        for frame in frames {
            let length = u32::try_from(frame.len())?.to_le_bytes();
            // Time is of no account: seconds, microseconds.
            file.extend([0; 8]);
            file.extend(length);
            file.extend(length);
            file.extend(self.hardware_address);
            file.extend(&frame[self.hardware_address.len()..]);
        }
        Ok(file)
    }

    fn sent(&self) -> Result<u64> {
        let link = self.remote.link(PEER)?;
        link["stats64"]["tx"]["packets"]
            .as_u64()
            .with_context(|| format!("no packets in {link}"))
    }

    /// In the order of [`FAMILIES`].
    fn received(&self) -> Result<[Received; 2]> {
        let read = |name: &str| {
            let path = format!("/proc/thread-self/net/{name}");
            self.local
                .enter(|| fs::read_to_string(&path).with_context(|| path.clone()))
        };
        let (snmp, netstat, snmp6) = (read("snmp")?, read("netstat")?, read("snmp6")?);
        let ip = paired_lines(&snmp, "Ip:");
        let ip_ext = paired_lines(&netstat, "IpExt:");
        let ip6: BTreeMap<_, _> = snmp6
            .lines()
            .filter_map(|line| line.split_once(char::is_whitespace))
            .map(|(name, value)| (name, value.trim()))
            .collect();
        let number = |table: &BTreeMap<&str, &str>, name: &str| -> Result<u64> {
            table
                .get(name)
                .and_then(|value| value.parse().ok())
                .with_context(|| format!("no counter {name}"))
        };
        Ok([
            Received {
                receives: number(&ip, "InReceives")?,
                refused: number(&ip, "InHdrErrors")?
                    + number(&ip, "InDiscards")?
                    + number(&ip_ext, "InTruncatedPkts")?,
            },
            Received {
                receives: number(&ip6, "Ip6InReceives")?,
                refused: number(&ip6, "Ip6InHdrErrors")?
                    + number(&ip6, "Ip6InDiscards")?
                    + number(&ip6, "Ip6InTruncatedPkts")?,
            },
        ])
    }
}

fn read_captures(folder: &Path, left_out: &mut LeftOut) -> Result<Vec<Capture>> {
    let mut paths = Vec::new();
    for folder in [folder.to_owned(), folder.join("malformed")] {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "pcap")
            {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let mut captures = Vec::new();
    for path in paths {
        let bytes = fs::read(&path)?;
        let (link_type, frames) =
            read_capture(&bytes).with_context(|| path.display().to_string())?;
        if link_type != ETHERNET {
            *left_out.files_by_link_type.entry(link_type).or_default() += 1;
            continue;
        }
        let mut capture = Capture {
            path,
            frames: Vec::new(),
        };
        for frame in frames {
            match frame.len() {
                ..ETHERNET_HEADER => left_out.short_frames += 1,
                ETHERNET_HEADER..=LONGEST_FRAME => capture.frames.push(frame.to_owned()),
                _ => left_out.long_frames += 1,
            }
        }
        captures.push(capture);
    }
    Ok(captures)
}

/// The link type and the frames, as far as the file goes.
fn read_capture(bytes: &[u8]) -> Result<(i32, Vec<&[u8]>)> {
    let (mut rest, header) =
        parse_pcap_header(bytes).map_err(|error| anyhow!("no capture: {error}"))?;
    let parse = match header.is_bigendian() {
        true => parse_pcap_frame_be,
        false => parse_pcap_frame,
    };
    let mut frames = Vec::new();
    while let Ok((after, frame)) = parse(rest) {
        frames.push(frame.data);
        rest = after;
    }
    Ok((header.network.0 & LINK_TYPE_BITS, frames))
}

/// A line of `trafstat show --format csv`.
fn parse_record(line: &str) -> Option<Record> {
    let columns: Vec<_> = line.split(',').collect();
    let [
        protocol,
        local_ip,
        remote_ip,
        local_port,
        remote_port,
        counters @ ..,
    ] = &columns[..]
    else {
        return None;
    };
    let counters: Vec<u64> = counters
        .iter()
        .map(|counter| counter.parse().ok())
        .collect::<Option<_>>()?;
    let [
        sent_packets,
        received_packets,
        sent_bytes,
        received_bytes,
        syn_packets,
    ] = counters.try_into().ok()?;
    Some(Record {
        tuple: Tuple {
            protocol: protocol.parse().ok()?,
            local_ip: local_ip.parse().ok()?,
            remote_ip: remote_ip.parse().ok()?,
            local_port: local_port.parse().ok()?,
            remote_port: remote_port.parse().ok()?,
        },
        counters: FlowCounters {
            sent_packets,
            sent_bytes,
            received_packets,
            received_bytes,
        },
        syn_packets,
    })
}

/// The family of the packet that the kernel finds in a frame to itself.
///
/// A tag of VLAN 0 gives a priority alone; what is in another VLAN is for a device of that VLAN, which
/// there is none of.
fn carried(frame: &[u8]) -> Option<Family> {
    let mut rest = frame.get(12..)?;
    loop {
        match *rest {
            [0x08, 0x00, ..] => return Some(Family::Ipv4),
            [0x86, 0xdd, ..] => return Some(Family::Ipv6),
            [0x81, 0x00, priority, vlan, ref inner @ ..]
            | [0x88, 0xa8, priority, vlan, ref inner @ ..]
                if (priority & 0x0f, vlan) == (0, 0) && inner.len() >= 4 =>
            {
                rest = inner;
            }
            _ => return None,
        }
    }
}

/// Names and values of /proc/net/snmp and netstat: a line of names, then one of values.
fn paired_lines<'t>(text: &'t str, prefix: &str) -> BTreeMap<&'t str, &'t str> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    let (names, values) = (lines.next(), lines.next());
    let words = |line: Option<&'t str>| line.unwrap_or_default().split_whitespace();
    words(names).zip(words(values)).collect()
}

fn parse_hardware_address(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(rest: &[u8]) -> Vec<u8> {
        [&[0; 12], rest].concat()
    }

    #[test]
    fn priority_tag_is_looked_through_and_vlan_is_not() {
        assert_eq!(carried(&frame(&[8, 0, 0x45])), Some(Family::Ipv4));
        let tagged = |vlan| frame(&[0x81, 0, 0xe0, vlan, 0x86, 0xdd, 0x60, 0]);
        assert_eq!(carried(&tagged(0)), Some(Family::Ipv6));
        assert_eq!(carried(&tagged(1)), None);
        assert_eq!(carried(&frame(&[0x81, 0, 0, 0, 8, 0])), None);
        assert_eq!(carried(&frame(&[0x08, 0x06])), None);
    }

    #[test]
    fn counters_are_found_by_name() {
        let text = "Ip: Forwarding InReceives\nIp: 1 42\nIcmp: InMsgs\nIcmp: 7\n";
        assert_eq!(paired_lines(text, "Ip:").get("InReceives"), Some(&"42"));
    }
}
