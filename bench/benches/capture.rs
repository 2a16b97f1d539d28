// SPDX-License-Identifier: GPL-2.0-or-later
//! How fast a recorded capture is counted, beside nfdump's nfpcapd and softflowd.
//!
//! Each program reads the same files, which lie in the page cache: one with a thousand flows, one
//! with a million, those of 250 local hosts with services on the Internet, every flow as often as
//! any other, in an order without locality. All keep a million flows at once. `trafstat show`
//! answers by every flow and prints the greatest, trafstat-store stores all in SQLite; nfpcapd
//! writes all flows into a file of nfdump's, softflowd sends them to a socket. Processor time is
//! that of user and kernel; a figure is the least of the runs, in which the programs take turns.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use trafstat_bench::random;
use trafstat_core::synthetic::{Flow, header};

/// Of a capture's packets, however few flows they have.
const FLOWS: [u32; 2] = [1_000, 1_000_000];

const OURS: [Program; 2] = [Program::Show, Program::Store];
const OTHERS: [Program; 2] = [Program::Nfpcapd, Program::Softflowd];

/// Measures what counts captures; prints ratios.
#[derive(Debug, Parser)]
struct Options {
    /// Packets of each capture.
    #[arg(long, default_value_t = 8_000_000)]
    packets: u32,

    /// Runs of each program over each capture.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Folder for the captures and what the programs write.
    #[arg(long)]
    folder: Option<PathBuf>,

    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy)]
enum Program {
    Show,
    Store,
    Nfpcapd,
    Softflowd,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Show => "trafstat show",
            Self::Store => "trafstat-store",
            Self::Nfpcapd => "nfpcapd",
            Self::Softflowd => "softflowd",
        })
    }
}

/// What a run took.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    processor: Duration,
}

impl Cost {
    const MOST: Self = Self {
        wall: Duration::MAX,
        processor: Duration::MAX,
    };

    fn min(self, other: Self) -> Self {
        Self {
            wall: self.wall.min(other.wall),
            processor: self.processor.min(other.processor),
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?,
    };
    let stand = TestBed {
        programs: build()?,
        // Nobody reads what comes here; without it each packet would be answered by an error.
        exported: UdpSocket::bind("127.0.0.1:0")?,
        folder: folder.path().to_owned(),
    };
    for package in ["nfdump", "softflowd"] {
        println!("{package} {}", version(package)?);
    }
    for n in FLOWS {
        let capture = stand.folder.join("capture.pcap");
        let bytes = write_capture(&capture, n, options.packets)
            .with_context(|| format!("cannot write {}", capture.display()))?;
        println!("{n} flows, {} packets, {bytes} bytes", options.packets);
        let (mut ours, mut others) = ([Cost::MOST; 2], [Cost::MOST; 2]);
        for _ in 0..options.runs {
            for (least, program) in ours.iter_mut().zip(OURS) {
                *least = least.min(stand.run(program, &capture)?);
            }
            for (least, program) in others.iter_mut().zip(OTHERS) {
                *least = least.min(stand.run(program, &capture)?);
            }
        }
        print(ours, others, options.packets);
    }
    Ok(())
}

fn print(ours: [Cost; 2], others: [Cost; 2], packets: u32) {
    let rate = |time: Duration| f64::from(packets) / time.as_secs_f64();
    let times = |ours: Duration, other: Duration| other.as_secs_f64() / ours.as_secs_f64();
    for (program, cost) in OURS
        .into_iter()
        .zip(ours)
        .chain(OTHERS.into_iter().zip(others))
    {
        println!(
            "  {program:14} {:>11.0} packets/s, {:>11.0} a second of processor time",
            rate(cost.wall),
            rate(cost.processor)
        );
    }
    for (program, cost) in OURS.into_iter().zip(ours) {
        for (other, base) in OTHERS.into_iter().zip(others) {
            println!(
                "  {program} has {:.1} times the packets/s of {other}, by processor time {:.1}",
                times(cost.wall, base.wall),
                times(cost.processor, base.processor)
            );
        }
    }
}

/// Where the programs run.
struct TestBed {
    /// The folder with trafstat's.
    programs: PathBuf,
    exported: UdpSocket,
    folder: PathBuf,
}

impl TestBed {
    fn run(&self, program: Program, capture: &Path) -> Result<Cost> {
        let written = self.folder.join("written");
        fs::create_dir(&written)?;
        let mut command = self.command(program, capture, &written)?;
        let (start, processor) = (Instant::now(), processor_time_of_children()?);
        let output = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {command:?}"))?;
        let cost = Cost {
            wall: start.elapsed(),
            processor: processor_time_of_children()? - processor,
        };
        ensure!(
            output.status.success(),
            "{command:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        fs::remove_dir_all(&written)?;
        Ok(cost)
    }

    fn command(&self, program: Program, capture: &Path, written: &Path) -> Result<Command> {
        let ours = |name: &str, subcommand: &[&str]| {
            let mut command = Command::new(self.programs.join(name));
            command
                .args(subcommand)
                .arg("--source")
                .arg(format!("pcap:{}", capture.display()))
                .args(["--local-net", "10.0.0.0/8", "--max-entries", "2000"]);
            for ports in ["local-tcp", "local-udp", "remote-tcp", "remote-udp"] {
                command.args([&format!("--{ports}-ports"), "all"]);
            }
            command
        };
        Ok(match program {
            Program::Show => ours("trafstat", &["show"]),
            Program::Store => {
                let mut command = ours("trafstat-store", &[]);
                command.arg("--db").arg(written.join("trafstat.db"));
                command
            }
            Program::Nfpcapd => {
                let mut command = Command::new("nfpcapd");
                // Room for as many nodes as there are flows.
                command.args(["-B", "2000000", "-r"]).arg(capture);
                command.arg("-w").arg(written);
                command
            }
            Program::Softflowd => {
                let mut command = Command::new("softflowd");
                command.args(["-d", "-m", "2000000", "-r"]).arg(capture);
                command
                    .args(["-v", "9", "-n"])
                    .arg(self.exported.local_addr()?.to_string())
                    .arg("-p")
                    .arg(written.join("pid"))
                    // It would wait there for a command before it reads.
                    .args(["-c", "none"]);
                command
            }
        })
    }
}

/// Builds trafstat's programs; returns the folder that they are in.
fn build() -> Result<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo says of this bench would have build scripts run again.
    for (name, _) in env::vars_os() {
        let is_of_bench = |prefix| name.as_encoded_bytes().starts_with(str::as_bytes(prefix));
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .into_iter()
            .any(is_of_bench)
        {
            cargo.env_remove(&name);
        }
    }
    let status = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--release", "--package", "trafstat-store-cli"])
        .args(["--package", "trafstat-console"])
        .status()?;
    ensure!(status.success(), "the programs do not build");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    Ok(target.context("no target folder")?.join("release"))
}

fn version(package: &str) -> Result<String> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Version}", package])
        .output()?;
    ensure!(
        output.status.success(),
        "{package} is needed: apt install {package}"
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// That of all that have ended (`proc_pid_stat(5)`), in hundredths of a second.
fn processor_time_of_children() -> Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat")?;
    // The name, in parentheses, may have spaces.
    let (_, fields) = text.rsplit_once(')').context("/proc/self/stat")?;
    let mut ticks = 0;
    for field in fields.split_ascii_whitespace().skip(13).take(2) {
        ticks += field.parse::<u64>()?;
    }
    Ok(Duration::from_millis(ticks * 10))
}

/// A pcap file of so many packets of `n` flows, a microsecond apart, which is in the page cache
/// then; returns its length.
fn write_capture(path: &Path, n: u32, packets: u32) -> io::Result<u64> {
    const ETHERNET: u32 = 1;
    const FRAME: u32 = 14 + 40;
    let mut random = random();
    let mut known: Vec<Flow> = (0..n).map(flow).collect();
    random.shuffle(&mut known);

    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&0xa1b2_c3d4_u32.to_ne_bytes())?;
    file.write_all(&[2_u16.to_ne_bytes(), 4_u16.to_ne_bytes()].concat())?;
    for word in [0, 0, 65535, ETHERNET] {
        file.write_all(&u32::to_ne_bytes(word))?;
    }
    for (packet, i) in (0..packets).zip((0..n).cycle()) {
        let (seconds, microseconds) = (1_700_000_000 + packet / 1_000_000, packet % 1_000_000);
        for word in [seconds, microseconds, FRAME, FRAME] {
            file.write_all(&word.to_ne_bytes())?;
        }
        file.write_all(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0])?;
        file.write_all(&whole_header(&known[i as usize], random.bool()))?;
    }
    file.into_inner()?.metadata().map(|metadata| metadata.len())
}

/// One of many flows, no two of which have the same remote address.
fn flow(i: u32) -> Flow {
    const LOCAL_HOSTS: u32 = 250;
    const SERVICES: [(u8, u16); 4] = [(6, 443), (17, 443), (6, 80), (17, 53)];
    const EPHEMERAL: std::ops::Range<u16> = 32_768..61_000;
    let (protocol, remote_port) = SERVICES[i as usize % SERVICES.len()];
    Flow {
        protocol,
        local: [10, 0, 0, 1 + (i % LOCAL_HOSTS) as u8],
        // Of 128.0.0.0/1; the factor is odd, so no two are the same.
        remote: ((1 << 31) | (i.wrapping_mul(0x1e37_79b1) % (1 << 31))).to_be_bytes(),
        local_port: EPHEMERAL.start + (i.wrapping_mul(7919) % EPHEMERAL.len() as u32) as u16,
        remote_port,
    }
}

/// A packet that every program takes for a good one.
fn whole_header(flow: &Flow, sent: bool) -> [u8; 40] {
    const DATA_OFFSET_5: u8 = 0x50;
    let mut bytes = header(flow, sent, false);
    match flow.protocol {
        6 => bytes[32] = DATA_OFFSET_5,
        _ => bytes[25] = 20,
    }
    let sum: u32 = bytes[..20]
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes
}
