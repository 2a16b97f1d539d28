// SPDX-License-Identifier: GPL-2.0-or-later
//! The way of a packet, as an administrator goes it: rules, traffic, collector, report; then the
//! proof that every counter on that way says the same.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::collector::Collector;
use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{Iptables, RuleCounters};
use crate::module;
use crate::proc::{self, ACCOUNT};
use crate::process;
use crate::scenarios::settled;
use crate::topology::{Netns, Topology};
use crate::traffic::{self, EchoServer};

const PORTS: &str = "--local-tcp-ports 22,80,443 --local-udp-ports 53,5000";
const DOWNLOAD_BYTES: u64 = 2_000_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the demo and leaves its database at `database`.
///
/// # Errors
///
/// A step fails, or two counters disagree.
pub fn run(guest: &Guest, database: &Path) -> Result<()> {
    ensure!(
        !module::is_loaded(),
        "xt_TRAFSTAT is loaded already; unload it (rmmod xt_TRAFSTAT) and run the demo again"
    );
    let topology = Topology::new(Family::Ipv4)?;
    let scratch = guest.scratch()?;

    show("insmod xt_TRAFSTAT.ko");
    module::load(guest)?;
    let shown = count(guest, &topology, scratch, database);
    drop(topology);
    let unloaded = module::unload();
    shown.and(unloaded)
}

fn count(guest: &Guest, topology: &Topology, scratch: &Path, database: &Path) -> Result<()> {
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    let local = topology.family.local();
    for end in ["INPUT -d", "OUTPUT -s"] {
        let rule = format!("-I {end} {local} -j TRAFSTAT --local-net {local} {PORTS}");
        show(&format!("iptables {rule}"));
        iptables.succeed(&rule)?;
    }
    let web = WebServer::start(&topology.local, scratch)?;
    let echo = EchoServer::bind(topology, 5000)?;
    let collector = Collector::new(guest, scratch);
    for round in 1..=2 {
        println!(
            "\n# Traffic, round {round}: a download, UDP both ways, ping, a refused connection"
        );
        exchange(topology, &echo)?;
        settled(&iptables)?;
        show("trafstat-store --backend sqlite --db trafstat.db");
        print!("{}", collector.collect(&topology.local)?);
    }
    drop(web);

    println!();
    show("trafstat show --db trafstat.db --by protocol,local-port,remote-ip");
    let by = "protocol,local-port,remote-ip";
    print!(
        "{}",
        process::succeed(&mut show_command(guest, &collector, by, "table"))?
    );
    println!();
    show("iptables -nvxL");
    print!("{}", iptables.list()?);
    println!();
    agreement(guest, topology, &iptables, &collector)?;

    let backup = scratch.join("backup.db");
    collector.back_up(&backup)?;
    fs::copy(&backup, database)
        .map(drop)
        .with_context(|| format!("cannot write {}", database.display()))
}

/// Compares all counters with each other and says what they are.
fn agreement(
    guest: &Guest,
    topology: &Topology,
    iptables: &Iptables<'_>,
    collector: &Collector<'_>,
) -> Result<()> {
    let rules = iptables.counters()?;
    let stored = collector.totals()?;
    let account = proc::account(&topology.local, ACCOUNT)?.context("the account is gone")?;
    let kernel = RuleCounters {
        packets: proc::number(&account, "seen_packets")?
            - proc::number(&account, "gso_extra_packets")?,
        bytes: proc::number(&account, "seen_bytes")? - proc::number(&account, "gso_extra_bytes")?,
    };
    let by = "protocol,local-ip,remote-ip,local-port,remote-port";
    let json = process::succeed(&mut show_command(guest, collector, by, "json"))?;
    let report = sum(&serde_json::from_str(&json).context("trafstat show prints no JSON")?)?;

    println!("records in the database  {}", counters(stored.records));
    println!("trafstat show            {}", counters(report));
    println!("seen by the rules        {}", counters(stored.seen));
    println!("  less segmentation      {}", counters(stored.gso_extra));
    println!("  the module's account   {}", counters(kernel));
    println!("iptables' rule counters  {}", counters(rules));
    ensure!(
        stored.records == stored.seen
            && report == stored.seen
            && stored.as_rules_count() == rules
            && kernel == rules
            && rules.packets > 0,
        "the counters disagree"
    );
    println!("All agree, to the packet and to the byte.");
    Ok(())
}

fn exchange(topology: &Topology, echo: &EchoServer) -> Result<()> {
    let local = topology.family.local();
    let address = format!("http://{local}/download");
    show(&format!("curl {address}"));
    let size = topology.remote.succeed(
        Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--noproxy", "*"])
            .args([
                "--output",
                "/dev/null",
                "--write-out",
                "%{size_download}",
                &address,
            ]),
    )?;
    ensure!(
        size == DOWNLOAD_BYTES.to_string(),
        "{size} bytes arrived, not {DOWNLOAD_BYTES}"
    );
    echo.exchange(topology, 25, 400)?;
    show(&format!("ping -c 5 {local}"));
    traffic::ping(topology, 5)?;
    traffic::refused_connection(topology, 81)
}

fn show_command(guest: &Guest, collector: &Collector<'_>, by: &str, format: &str) -> Command {
    let mut command = Command::new(guest.file("trafstat"));
    command
        .args(["show", "--top", "0", "--by", by, "--format", format, "--db"])
        .arg(collector.database());
    command
}

fn sum(report: &Value) -> Result<RuleCounters> {
    let mut sum = RuleCounters::default();
    for record in report["records"].as_array().context("no records")? {
        let number = |name: &str| record[name].as_u64().with_context(|| format!("no {name}"));
        sum.packets += number("sent_packets")? + number("received_packets")?;
        sum.bytes += number("sent_bytes")? + number("received_bytes")?;
    }
    Ok(sum)
}

fn counters(of: RuleCounters) -> String {
    format!("{:>8} packets {:>12} bytes", of.packets, of.bytes)
}

fn show(command: &str) {
    println!("$ {command}");
}

/// Python's web server, ended when this goes.
struct WebServer {
    process: Child,
}

impl WebServer {
    fn start(netns: &Netns, scratch: &Path) -> Result<Self> {
        let folder = scratch.join("www");
        fs::create_dir(&folder)?;
        fs::File::create(folder.join("download"))?.set_len(DOWNLOAD_BYTES)?;
        let process = netns.enter(|| {
            Command::new("python3")
                .args(["-m", "http.server", "80", "--directory"])
                .arg(&folder)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("cannot run python3")
        })?;
        let mut server = Self { process };
        server.wait_until_it_listens(netns)?;
        Ok(server)
    }

    /// Asks over the loopback device, which no rule counts.
    fn wait_until_it_listens(&mut self, netns: &Netns) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while netns
            .enter(|| Ok(std::net::TcpStream::connect(("127.0.0.1", 80))?))
            .is_err()
        {
            ensure!(
                self.process.try_wait()?.is_none(),
                "python3 -m http.server ended"
            );
            ensure!(
                Instant::now() < deadline,
                "python3 -m http.server does not listen"
            );
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        // Already ended: nothing is left to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
