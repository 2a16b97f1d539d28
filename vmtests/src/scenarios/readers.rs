//! Whatever a reader does short of acknowledging, the same epoch is served to the next one, byte for byte.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables};
use crate::module;
use crate::proc::{self, ACCOUNT, Reader, Snapshot};
use crate::topology::Topology;
use crate::traffic;

/// So many flows that an epoch takes the kernel more than one read of a page or four.
const FLOWS: u16 = 400;

/// What is no acknowledgement.
const GARBAGE: &[&str] = &[
    "ack",
    "ack ",
    "ack x",
    "ack 1 2",
    "ack -1",
    "ACK 1",
    "nack 1",
    " ack 1",
    "ack 0x1",
    "ack 18446744073709551616",
    "ack 00000000000000000000000000001",
    "\0",
];

pub fn run(guest: &Guest) -> Result<()> {
    module::load(guest)?;
    let topology = Topology::new(Family::Ipv4)?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    iptables.count_local(ALL_PORTS)?;
    traffic::scan(&topology, 10_000, FLOWS)?;
    super::settled(&iptables)?;

    let epoch = Snapshot::peek(&topology.local, ACCOUNT)?;
    ensure!(
        epoch.records.len() > usize::from(FLOWS),
        "{} records",
        epoch.records.len()
    );
    let scenarios: [(&str, Misuse); 7] = [
        ("stopping half way", stops_half_way),
        ("reading at odd offsets", reads_at_odd_offsets),
        ("reading byte by byte", reads_byte_by_byte),
        ("passing the descriptor on", passes_its_descriptor_on),
        ("acknowledging wrongly", acknowledges_wrongly),
        ("being killed", is_killed),
        ("reading csv half way", reads_csv_half_way),
    ];
    for (what, misuse) in scenarios {
        topology
            .local
            .enter(|| misuse(&epoch.bytes))
            .with_context(|| what.to_owned())?;
        // What is counted meanwhile belongs to the next epoch.
        traffic::ping(&topology, 1)?;
        let again = Snapshot::peek(&topology.local, ACCOUNT)?;
        ensure!(
            again.bytes == epoch.bytes,
            "after {what} epoch {} is served otherwise",
            epoch.header.epoch
        );
    }
    topology.local.enter(csv_to_its_end_acknowledges)?;
    let next = Snapshot::peek(&topology.local, ACCOUNT)?;
    ensure!(
        next.header.epoch == epoch.header.epoch + 1
            && next.header.seen_packets == 2 * scenarios.len() as u64,
        "{:?} after the pings",
        next.header
    );
    topology
        .local
        .enter(|| write_only_acknowledges(next.header.epoch))
}

/// What a reader does, given what it is served.
type Misuse = fn(&[u8]) -> Result<()>;

fn stops_half_way(epoch: &[u8]) -> Result<()> {
    let mut half = vec![0; epoch.len() / 2];
    open("snapshot")?.read_exact(&mut half)?;
    ensure!(epoch.starts_with(&half), "the first half is another");
    Ok(())
}

fn reads_at_odd_offsets(epoch: &[u8]) -> Result<()> {
    let file = open("snapshot")?;
    let mut buffer = vec![0; 1001];
    // Coprime with the size of a record and larger than half of the epoch: back and forth.
    let step = epoch.len() / 2 + 1;
    for offset in (0..200).map(|turn| turn * step % epoch.len()) {
        let length = file.read_at(&mut buffer, offset as u64)?;
        let expected = &epoch[offset..(offset + buffer.len()).min(epoch.len())];
        ensure!(buffer[..length] == *expected, "{length} bytes at {offset}");
    }
    let farthest = i64::MAX as u64 - buffer.len() as u64;
    for beyond in [epoch.len() as u64, epoch.len() as u64 + 1, farthest] {
        let length = file.read_at(&mut buffer, beyond)?;
        ensure!(length == 0, "{length} bytes at {beyond}, behind the end");
    }
    let what = "reading across the largest offset";
    super::fails_with(
        file.read_at(&mut buffer, i64::MAX as u64),
        Errno::INVAL,
        what,
    )?;
    Ok(())
}

fn reads_byte_by_byte(epoch: &[u8]) -> Result<()> {
    let mut file = open("snapshot")?;
    let mut byte = [0];
    for expected in epoch {
        ensure!(file.read(&mut byte)? == 1, "it ends early");
        ensure!(byte[0] == *expected, "another byte");
    }
    ensure!(file.read(&mut byte)? == 0, "it goes on behind its end");
    Ok(())
}

fn passes_its_descriptor_on(epoch: &[u8]) -> Result<()> {
    let mut file = open("snapshot")?;
    let mut beginning = vec![0; 333];
    file.read_exact(&mut beginning)?;
    let output = Command::new("cat")
        .stdin(file.try_clone()?)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "cat ended with {}", output.status);
    ensure!(
        [beginning, output.stdout].concat() == epoch,
        "the heir reads something else"
    );
    // The heir had the same place in the file.
    ensure!(file.read(&mut [0])? == 0, "bytes are left");

    let mut heir = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()?;
    super::fails_with(Reader::open(ACCOUNT), Errno::BUSY, "opening beside an heir")
        .and(end(&mut heir))
}

fn acknowledges_wrongly(epoch: &[u8]) -> Result<()> {
    let mut reader = Reader::open(ACCOUNT)?;
    let number = reader.read()?.header.epoch;
    for other in [0, number - 1, number + 1, number + 2, u64::MAX] {
        let what = format!("epoch {other} acknowledged");
        super::fails_with(reader.acknowledge(other), Errno::STALE, &what)?;
    }
    for garbage in GARBAGE {
        let what = format!("{garbage:?} written");
        super::fails_with(reader.file().write(garbage.as_bytes()), Errno::INVAL, &what)?;
    }
    ensure!(
        reader.remaining()? == epoch.len(),
        "the epoch is gone before it was acknowledged"
    );
    Ok(())
}

fn is_killed(epoch: &[u8]) -> Result<()> {
    let mut reader = Command::new("sh");
    reader
        .args(["-c", "exec <\"$0\"; dd bs=100 count=3; exec sleep 600"])
        .arg(proc::path("snapshot", ACCOUNT))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut reader = reader.spawn()?;
    let mut beginning = [0; 300];
    let read = reader
        .stdout
        .as_mut()
        .context("no output")?
        .read_exact(&mut beginning);
    let busy = super::fails_with(Reader::open(ACCOUNT), Errno::BUSY, "opening meanwhile");
    end(&mut reader)?;
    read?;
    busy?;
    ensure!(epoch.starts_with(&beginning), "another beginning");
    Ok(())
}

fn reads_csv_half_way(_: &[u8]) -> Result<()> {
    let half_of = |csv: &mut File| -> Result<Vec<u8>> {
        let mut half = vec![0; usize::from(FLOWS) * 20];
        csv.read_exact(&mut half)?;
        Ok(half)
    };
    let mut csv = open("csv")?;
    super::fails_with(csv.read_at(&mut [0], 0), Errno::SPIPE, "csv at an offset")?;
    super::fails_with(Reader::open(ACCOUNT), Errno::BUSY, "a snapshot beside csv")?;
    let first = half_of(&mut csv)?;
    drop(csv);
    ensure!(
        half_of(&mut open("csv")?)? == first,
        "csv is another the second time"
    );
    Ok(())
}

fn csv_to_its_end_acknowledges() -> Result<()> {
    let mut text = String::new();
    open("csv")?.read_to_string(&mut text)?;
    ensure!(
        text.lines().count() > usize::from(FLOWS),
        "{} lines",
        text.lines().count()
    );
    Ok(())
}

/// Who writes only closes no epoch.
fn write_only_acknowledges(epoch: u64) -> Result<()> {
    let acknowledge = || -> Result<_> {
        let mut file = OpenOptions::new()
            .write(true)
            .open(proc::path("snapshot", ACCOUNT))?;
        Ok(file.write_all(format!("ack {epoch}\n").as_bytes()))
    };
    acknowledge()??;
    super::fails_with(acknowledge()?, Errno::STALE, "acknowledged once more")
}

/// Opened for reading alone: no sign of life is needed for the epoch to stay.
fn open(kind: &str) -> Result<File> {
    let path = proc::path(kind, ACCOUNT);
    File::open(&path).with_context(|| format!("cannot open {}", path.display()))
}

fn end(process: &mut Child) -> Result<()> {
    process.kill()?;
    process.wait()?;
    Ok(())
}
