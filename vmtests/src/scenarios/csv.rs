// SPDX-License-Identifier: GPL-2.0-or-later
//! Programs written for the original module find its CSV at its path, and reading it clears it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables, RuleCounters};
use crate::module;
use crate::topology::{Netns, Topology};
use crate::traffic::{self, EchoServer, HttpServer};

/// The folder that the original had, too.
pub const FOLDER: &str = "/proc/trafstat/";
const NAME: &str = "192.0.2.1_32";

/// 192.0.2.1 and 192.0.2.2.
pub const LOCAL: u64 = 0xc000_0201;
pub const REMOTE: u64 = 0xc000_0202;

/// A program that reads where a file has no positions.
const FAR_READ: &str = include_str!("../far_read.py");

/// Protocol, local IP, remote IP, local port, remote port, local packets, remote packets, local
/// bytes, remote bytes, SYN count.
pub type Line = [u64; 10];

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let topology = Topology::new(Family::Ipv4)?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    iptables.count_local(ALL_PORTS)?;

    // No more bytes than one segment has: each buffer is one packet, as in the rule counters.
    let web = HttpServer::listen(&topology, 80)?.download(&topology, 1000)?;
    let (echo, udp) = EchoServer::bind(&topology, 5000)?.exchange(&topology, 12, 100)?;
    let icmp = traffic::ping(&topology, 4)?;
    traffic::refused_connection(&topology, 81)?;
    let counted = super::settled(&iptables)?;

    let lines = read(&topology.local, NAME)?;
    let mut sum = RuleCounters::default();
    for line in &lines {
        ensure!(
            (line[1], line[2]) == (LOCAL, REMOTE),
            "not the addresses as decimal numbers: {line:?}"
        );
        sum.add(counters(line).total());
    }
    ensure!(sum == counted, "the CSV has {sum:?}, the rules {counted:?}");

    let find = |protocol: u64, local_port: u64, remote_port: Option<u64>| {
        lines
            .iter()
            .find(|line| {
                line[0] == protocol
                    && line[3] == local_port
                    && remote_port.is_none_or(|port| line[4] == port)
            })
            .with_context(|| format!("no protocol {protocol}, local port {local_port}: {lines:?}"))
    };
    ensure!(
        counters(find(17, 5000, Some(echo.into()))?) == udp,
        "UDP: {lines:?}"
    );
    ensure!(counters(find(1, 0, Some(0))?) == icmp, "ping: {lines:?}");
    let refused = find(6, 81, None)?;
    ensure!(
        (refused[5], refused[6], refused[9]) == (1, 1, 1),
        "closed port: {refused:?}"
    );
    ensure!(
        find(6, 80, Some(web.into()))?[9] == 1,
        "not one SYN: {lines:?}"
    );

    let again = read(&topology.local, NAME)?;
    ensure!(again.is_empty(), "reading did not clear: {again:?}");
    let mode = topology.local.enter(|| {
        Ok(
            fs::metadata("/proc/thread-self/net/trafstat/csv/ipv4/192.0.2.1_32")?
                .permissions()
                .mode(),
        )
    })?;
    ensure!(mode & 0o777 == 0o400, "mode {mode:o}");
    is_not_passed_over(&topology)
}

/// What clears the account is that all of it was read, not that a read came to its end.
fn is_not_passed_over(topology: &Topology) -> Result<()> {
    traffic::ping(topology, 4)?;
    let mut python = Command::new("python3");
    python.args(["-c", FAR_READ]).arg(format!("{FOLDER}{NAME}"));
    let result = topology.local.succeed(&mut python)?;
    ensure!(
        matches!(result.trim(), "ESPIPE" | "none"),
        "a read behind the end: {result}"
    );
    let lines = read(&topology.local, NAME)?;
    ensure!(!lines.is_empty(), "counts were passed over");
    Ok(())
}

/// Packets and bytes of a line.
pub fn counters(line: &Line) -> traffic::FlowCounters {
    traffic::FlowCounters {
        sent_packets: line[5],
        received_packets: line[6],
        sent_bytes: line[7],
        received_bytes: line[8],
    }
}

/// The lines of the account `name` in `netns`, which reading clears.
///
/// # Errors
///
/// `cat` fails, or a line is not ten numbers.
pub fn read(netns: &Netns, name: &str) -> Result<Vec<Line>> {
    let text = netns.succeed(Command::new("cat").arg(format!("{FOLDER}{name}")))?;
    text.lines()
        .map(|line| {
            let fields: Result<Vec<u64>, _> = line.split(',').map(str::parse).collect();
            fields
                .ok()
                .and_then(|fields| Line::try_from(fields).ok())
                .with_context(|| format!("not ten numbers: {line:?}"))
        })
        .collect()
}
