// SPDX-License-Identifier: GPL-2.0-or-later
//! Whatever a reader does short of acknowledging, the same epoch is served to the next one, byte for byte.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::io::Errno;

use crate::family::Family;
use crate::guest::Guest;
use crate::iptables::{ALL_PORTS, Iptables};
use crate::module;
use crate::proc::{self, ACCOUNT, Reader, Snapshot};
use crate::process;
use crate::topology::Topology;
use crate::traffic;

/// So many flows that an epoch is more than the kernel hands out at once.
const FLOWS: u16 = 400;
const READ_BYTES: usize = 4 * 4096;

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
    // More packets than wait for an unknown neighbour.
    topology.fix_neighbours()?;
    let iptables = Iptables::new(guest, &topology.local, topology.family);
    iptables.count_local(ALL_PORTS)?;
    traffic::scan(&topology, 10_000, FLOWS)?;
    super::settled(&iptables)?;

    let epoch = Snapshot::peek(&topology.local, ACCOUNT)?;
    ensure!(
        epoch.bytes.len() > READ_BYTES,
        "{} bytes, which one read takes",
        epoch.bytes.len()
    );
    let scenarios: [(&str, Misuse); 10] = [
        ("stopping half way", stops_half_way),
        ("reading at odd offsets", reads_at_odd_offsets),
        ("reading byte by byte", reads_byte_by_byte),
        ("seeking", seeks),
        ("passing the descriptor on", passes_its_descriptor_on),
        ("sharing the descriptor", shares_its_descriptor),
        ("mapping and reading to nowhere", asks_for_what_is_not_there),
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
    topology
        .local
        .enter(|| csv_to_its_end_acknowledges(epoch.records.len()))?;
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

fn seeks(epoch: &[u8]) -> Result<()> {
    let mut file = open("snapshot")?;
    let mut buffer = [0; 500];
    for (to, expected) in [
        (SeekFrom::Start(777), 777),
        (SeekFrom::Current(-100), 1177),
        (SeekFrom::Current(321), 1998),
        (SeekFrom::Start(0), 0),
    ] {
        let offset = file.seek(to)?;
        ensure!(offset == expected, "{to:?} leads to {offset}");
        file.read_exact(&mut buffer)?;
        let at = usize::try_from(offset)?;
        ensure!(epoch[at..].starts_with(&buffer), "another part at {offset}");
    }
    let what = "seeking before the start";
    super::fails_with(file.seek(SeekFrom::Current(-1000)), Errno::INVAL, what)?;
    ensure!(file.stream_position()? == 500, "a failed seek moves");
    for kind in ["csv", "live"] {
        drop(file);
        file = open(kind)?;
        super::fails_with(file.seek(SeekFrom::Start(0)), Errno::SPIPE, kind)?;
    }
    Ok(())
}

/// Two threads read through one open file: what one has the other has not.
fn shares_its_descriptor(epoch: &[u8]) -> Result<()> {
    let file = open("snapshot")?;
    let read_all = |mut file: &File| -> Result<Vec<Vec<u8>>> {
        let mut pieces = Vec::new();
        loop {
            let mut piece = vec![0; 333];
            match file.read(&mut piece)? {
                0 => return Ok(pieces),
                length => piece.truncate(length),
            }
            pieces.push(piece);
        }
    };
    let pieces = thread::scope(|scope| -> Result<_> {
        let other = scope.spawn(|| read_all(&file));
        let mut pieces = read_all(&file)?;
        pieces.extend(
            other
                .join()
                .map_err(|_| anyhow!("the other thread panicked"))??,
        );
        Ok(pieces)
    })?;
    let mut expected: Vec<_> = epoch.chunks(333).map(<[u8]>::to_vec).collect();
    let mut pieces = pieces;
    expected.sort();
    pieces.sort();
    ensure!(pieces == expected, "the pieces of both are not the epoch");
    Ok(())
}

/// What safe Rust cannot ask for: maps the files, reads them to addresses that are not there or end,
/// and lets the kernel move their bytes itself.
const ODD_WAYS: &str = r#"
import ctypes, errno, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.read.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
fd = os.open(sys.argv[1], os.O_RDONLY)
os.read(fd, 100)
pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
libc.mprotect(start + mmap.PAGESIZE, mmap.PAGESIZE, 0)
def name(failed): return errno.errorcode[ctypes.get_errno()] if failed else "done"
def attempt(way):
    try:
        way()
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
print("mmap", name(libc.mmap(None, 4096, 1, 2, fd, 0) == 2**64 - 1))
print("nowhere", name(libc.read(fd, 8, 4096) < 0))
print("kernel", name(libc.read(fd, 2**64 - 2**30, 4096) < 0))
print("end", name(libc.read(fd, start + mmap.PAGESIZE - 10, 4096) < 0))
out, into = os.pipe()
print("sendfile", attempt(lambda: os.sendfile(into, fd, None, 100)))
print("splice", attempt(lambda: os.splice(fd, into, 100)))
print("left", len(b"".join(iter(lambda: os.read(fd, 1000), b""))) if sys.argv[2] == "read" else "")
"#;

fn asks_for_what_is_not_there(epoch: &[u8]) -> Result<()> {
    for kind in ["snapshot", "csv", "live"] {
        // The end of csv would acknowledge it.
        let rest = if kind == "csv" { "leave" } else { "read" };
        let mut python = Command::new("python3");
        python
            .args(["-c", ODD_WAYS])
            .arg(proc::path(kind, ACCOUNT))
            .arg(rest);
        let answers = process::succeed(&mut python)?;
        let expected = "mmap EIO\nnowhere EFAULT\nkernel EFAULT\nend EFAULT\n\
                        sendfile EINVAL\nsplice EINVAL\nleft ";
        let left = answers.strip_prefix(expected);
        let left = left.with_context(|| format!("{kind}: {answers}"))?.trim();
        ensure!(
            kind != "snapshot" || left == (epoch.len() - 100).to_string(),
            "{left} bytes of {} are left after 100 and failures",
            epoch.len()
        );
    }
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

fn csv_to_its_end_acknowledges(records: usize) -> Result<()> {
    let mut text = String::new();
    open("csv")?.read_to_string(&mut text)?;
    ensure!(
        text.lines().count() == records,
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
