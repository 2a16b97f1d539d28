// SPDX-License-Identifier: GPL-2.0-or-later
//! Where `csv_mode` lets others read csv files, none of them keeps the collector out.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use crate::bystander;
use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables};
use crate::module;
use crate::proc::{ACCOUNT, Reader, Snapshot};
use crate::tenant::{Blocked, NOBODY, Tenant, Way};
use crate::topology::Topology;
use crate::traffic;

/// So many flows that a read does not take all of them.
const FLOWS: u16 = 100;

/// Reads the beginning of a file, waits for a line and reads on; prints how either ended.
const READER: &str = r#"
import errno, os, sys
file = None
for part in range(2):
    try:
        file = file or os.open(sys.argv[1], os.O_RDONLY)
        print("read", len(os.read(file, 100)), flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
    sys.stdin.readline()
"#;

pub fn run(guest: &Guest) -> Result<()> {
    module::load_with(guest, &["csv_mode=0444"])?;
    let topology = Topology::new(Family::Ipv4)?;
    topology.fix_neighbours()?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    iptables.count_local(ALL_PORTS)?;
    traffic::scan(&topology, 10_000, FLOWS)?;
    super::settled(&iptables)?;

    collector_takes_over(&topology)?;
    for way in Way::all()? {
        traffic::scan(&topology, 10_000, FLOWS)?;
        super::settled(&iptables)?;
        collector_does_not_wait(guest, &topology, way).with_context(|| format!("{way:?}"))?;
    }
    Ok(())
}

fn collector_takes_over(topology: &Topology) -> Result<()> {
    let mut other = Other::open(topology)?;
    ensure!(other.line()? == "read 100", "csv cannot be read by others");
    topology.local.enter(|| {
        let mut reader = Reader::open(ACCOUNT).context("the collector, beside another user")?;
        let snapshot = reader.read()?;
        ensure!(
            snapshot.records.len() >= usize::from(FLOWS),
            "{:?}",
            snapshot.header
        );
        other.go_on()?;
        let next = other.line()?;
        ensure!(next == "ESTALE", "the other user's next read: {next}");
        super::fails_with(Reader::open(ACCOUNT), Errno::BUSY, "a second collector")?;
        reader.acknowledge(snapshot.header.epoch)?;
        Ok(())
    })
}

fn collector_does_not_wait(guest: &Guest, topology: &Topology, way: Way) -> Result<()> {
    let tenant = Tenant::new(guest, "trafstat-tenant", NOBODY)?;
    let csv = format!("csv/ipv4/{}", ACCOUNT.name);
    let blocked = Blocked::new(&tenant, &topology.local, way, &[&csv])?;
    let mut cat = Command::new("cat");
    cat.arg("/proc/self/net/trafstat/snapshot/ipv4/192.0.2.1_32");
    topology
        .local
        .enter(|| bystander::succeed_in_time(&mut cat))?;
    let snapshot = Snapshot::collect(&topology.local, ACCOUNT)?;
    ensure!(
        snapshot.records.len() >= usize::from(FLOWS),
        "{:?}",
        snapshot.header
    );
    blocked.kill()?;
    let next = Snapshot::collect(&topology.local, ACCOUNT)?.header.epoch;
    ensure!(
        next == snapshot.header.epoch + 1,
        "epoch {next} after {}",
        snapshot.header.epoch
    );
    Ok(())
}

/// Another user, who reads the account's csv file.
struct Other {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Other {
    fn open(topology: &Topology) -> Result<Self> {
        let user = NOBODY.to_string();
        let mut python = Command::new("setpriv");
        python
            .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
            .args(["python3", "-c", READER])
            .arg(format!("/proc/self/net/trafstat/csv/ipv4/{}", ACCOUNT.name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = topology.local.enter(|| Ok(python.spawn()?))?;
        let lines = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self { process, lines })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn go_on(&mut self) -> Result<()> {
        let stdin = self.process.stdin.as_mut().context("no input")?;
        stdin.write_all(b"\n").map_err(Into::into)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("a reader is left over: {error}");
        }
    }
}
