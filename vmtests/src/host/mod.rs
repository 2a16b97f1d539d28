// SPDX-License-Identifier: GPL-2.0-or-later
//! Host tests: hosts with the packages installed, with systemd or without it, each in a virtual
//! machine with a disk of its own.
//!
//! The kernel's command line names the test. This program runs at each boot; a file keeps the stage
//! that the test has reached.

mod findings;
mod listing;
mod original;
mod packages;
mod setups;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process;

/// The folder with the packages and with what a test must know after a reboot.
const FOLDER: &str = "/var/tmp/host-test";
const LOCAL: &str = "192.0.2.1";
const REMOTE: &str = "192.0.2.2";
/// What setup's rules have in their comment.
const MARK: &str = "trafstat-setup-";
/// For what waits for a timer of five minutes.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// How a boot ends.
pub enum BootEnd {
    /// The test is complete.
    Complete,
    /// A reboot is under way.
    Reboot,
}

/// Continues the test from the stage that the last boot reached.
///
/// # Errors
///
/// Something is not as it should be.
pub fn run() -> Result<BootEnd> {
    connect()?;
    let line = fs::read_to_string("/proc/cmdline")?;
    let name = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("trafstat.host-test="))
        .context("the kernel's command line names no host test")?;
    match name {
        "systemd" => packages::run(packages::Kind::Systemd),
        "mariadb" => packages::run(packages::Kind::Mariadb),
        "cron" => packages::run(packages::Kind::Cron),
        "no-ipv6" => packages::run(packages::Kind::WithoutIpv6),
        "setups" => setups::run().map(|()| BootEnd::Complete),
        "original" => original::run(),
        "findings" => findings::run().map(|()| BootEnd::Complete),
        "signature" => findings::signature().map(|()| BootEnd::Complete),
        name => bail!("there is no host test called {name}"),
    }
}

/// A link to another host, over which the default route goes.
fn connect() -> Result<()> {
    for command in [
        "ip netns add remote",
        "ip link add wan type veth peer name wan netns remote",
        &format!("ip address add {LOCAL}/24 dev wan"),
        "ip link set wan up",
        &format!("ip -n remote address add {REMOTE}/24 dev wan"),
        "ip -n remote link set wan up",
        &format!("ip route add default via {REMOTE}"),
    ] {
        succeed(command)?;
    }
    Ok(())
}

/// Rules that are not setup's keep their place and their counters; no reboot, as nobody saves them.
fn set_other_rules() -> Result<()> {
    succeed("iptables -A INPUT -i lo -j ACCEPT")?;
    succeed(&format!("iptables -A INPUT -s {REMOTE} -p icmp")).map(drop)
}

/// Installs trafstat's own packages.
fn install(revision: u32) -> Result<()> {
    let mut packages: Vec<_> =
        fs::read_dir(Path::new(FOLDER).join(format!("packages-{revision}")))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
    packages.sort();
    print!(
        "{}",
        process::succeed(Command::new("dpkg").arg("--install").args(packages))?
    );
    Ok(())
}

/// Installs Debian's packages, which lie in apt's cache: there is no network.
fn install_debian(packages: &[&str]) -> Result<()> {
    process::succeed(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "--yes", "--no-install-recommends"])
            .arg("--no-download")
            .args(packages),
    )
    .map(drop)
}

/// Setup's rules.
fn rules() -> Result<Vec<String>> {
    let saved = succeed("iptables-save -t filter")?;
    Ok(saved
        .lines()
        .filter(|line| line.contains(MARK))
        .map(str::to_owned)
        .collect())
}

/// The packets that setup's rules counted.
fn counted_by_mark() -> Result<u64> {
    let saved = succeed("iptables-save -c -t filter")?;
    let counters = saved.lines().filter(|line| line.contains(MARK));
    counters
        .map(|line| {
            // [PACKETS:BYTES] -A ...
            line.strip_prefix('[')
                .and_then(|rest| rest.split(':').next())
                .and_then(|packets| packets.parse::<u64>().ok())
                .with_context(|| line.to_owned())
        })
        .sum()
}

/// The packets in the store.
fn stored_packets() -> Result<u64> {
    let json = succeed("trafstat show --top 0 --format json")?;
    let answer: Value = serde_json::from_str(&json)?;
    let records = answer["records"].as_array().context("no records")?;
    let number = |record: &Value, name: &str| record[name].as_u64().with_context(|| json.clone());
    records
        .iter()
        .map(|record| Ok(number(record, "sent_packets")? + number(record, "received_packets")?))
        .sum()
}

/// Waits until something holds that a timer, a unit or cron brings about.
fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < deadline, "this does not happen: {what}");
        thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}

fn ping(count: u32) -> Result<()> {
    succeed(&format!(
        "ip netns exec remote ping -q -i 0.2 -c {count} {LOCAL}"
    ))
    .map(drop)
}

/// Pings until they are stopped.
struct Pings(Child);

impl Pings {
    fn start() -> Result<Self> {
        let command = format!("netns exec remote ping -q -i 0.2 {LOCAL}");
        let child = Command::new("ip")
            .args(command.split_whitespace())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    fn stop(mut self) -> Result<()> {
        ensure!(self.0.try_wait()?.is_none(), "ping ended by itself");
        self.0.kill()?;
        self.0.wait()?;
        // The last reply may still be under way.
        thread::sleep(Duration::from_secs(1));
        Ok(())
    }
}

fn step(what: &str) -> Result<()> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds = uptime.split('.').next().unwrap_or_default();
    println!("# {what} ({seconds} s after boot)");
    Ok(())
}

/// Runs a command line without quotes; it must exit with 0.
fn succeed(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("no program")?;
    process::succeed(Command::new(program).args(words))
}
