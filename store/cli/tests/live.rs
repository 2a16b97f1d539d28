// SPDX-License-Identifier: GPL-2.0-or-later
//! Live interfaces, counted by the program `trafstat-store` in network namespaces of their
//! own, against the counters of the kernel: those of iptables' rules and of the link.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use trafstat_store::snapshot::Volume;
use trafstat_store::source::Namespace;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const LOCAL: &str = "10.1.0.1";
const REMOTE: &str = "10.2.0.1";
const ETHERNET_HEADER: u64 = 14;

/// Two hosts with a cable between them, of which the near one is counted: its interface
/// `near`.
struct Hosts {
    near: String,
    far: String,
    folder: tempfile::TempDir,
}

impl Hosts {
    /// None, with the reason said, where namespaces cannot be made.
    fn new(test: &str) -> Option<Self> {
        if !geteuid().is_root() {
            println!("skipped: network namespaces are root's to make");
            return None;
        }
        let name = |side: &str| format!("trafstat-{test}-{side}-{}", std::process::id());
        let hosts = Self {
            near: name("near"),
            far: name("far"),
            folder: tempfile::tempdir().unwrap(),
        };
        for netns in [&hosts.near, &hosts.far] {
            let made = Command::new("ip").args(["netns", "add", netns]).output();
            match made {
                Ok(made) if made.status.success() => {}
                Ok(made) => {
                    let reason = String::from_utf8_lossy(&made.stderr).into_owned();
                    println!("skipped: no network namespace: {reason}");
                    return None;
                }
                Err(error) => {
                    println!("skipped: ip(8): {error}");
                    return None;
                }
            }
        }
        hosts.connect();
        Some(hosts)
    }

    /// Nothing but what the tests send goes over the cable: no IPv6, no ARP.
    fn connect(&self) {
        let (near, far) = (self.near.clone(), self.far.clone());
        let sides = [
            (&near, "near", "02:00:00:00:00:01", LOCAL),
            (&far, "far", "02:00:00:00:00:02", REMOTE),
        ];
        for (netns, ..) in sides {
            let off = "net.ipv6.conf.default.disable_ipv6=1";
            self.within(netns, "sysctl", &["-qw", off]);
            self.within(netns, "ip", &["link", "set", "lo", "up"]);
        }
        let [(_, near_device, near_mac, ..), (_, far_device, far_mac, ..)] = sides;
        let veth = format!(
            "link add {near_device} address {near_mac} type veth peer name {far_device} address \
             {far_mac} netns {far}"
        );
        self.within(&near, "ip", &veth.split(' ').collect::<Vec<_>>());
        for (this, that) in [(0, 1), (1, 0)] {
            let (netns, device, _, address) = sides[this];
            let (_, _, mac, peer) = sides[that];
            for arguments in [
                format!("link set {device} up"),
                format!("address add {address} peer {peer} dev {device}"),
                format!("neigh add {peer} lladdr {mac} nud permanent dev {device}"),
            ] {
                self.within(netns, "ip", &arguments.split(' ').collect::<Vec<_>>());
            }
        }
    }

    fn within(&self, netns: &str, program: &str, arguments: &[&str]) -> String {
        self.try_within(netns, program, arguments).unwrap()
    }

    fn try_within(&self, netns: &str, program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("ip")
            .args(["netns", "exec", netns, program])
            .args(arguments)
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(format!("{program} {arguments:?}: {output:?}")),
        }
    }

    fn db(&self) -> PathBuf {
        self.folder.path().join("live.db")
    }

    fn collect(&self, arguments: &[&str]) -> Collector {
        Collector::started(self.command().arg("--db").arg(self.db()).args(arguments))
    }

    /// The program that counts the near host's interface, without a database.
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trafstat-store"));
        command
            .env("TRAFSTAT_CONFIG", "/dev/null")
            .arg("--spool")
            .arg(self.folder.path().join("spool.db"))
            .args(["--netns", &self.near, "--source", "live:near"])
            .args(["--local-net", "10.1.0.0/16", "--local-udp-ports", "all"])
            .stderr(Stdio::piped());
        command
    }

    /// Counts what passes all interfaces of the near host; false where iptables cannot.
    fn count_by_iptables(&self) -> bool {
        for rule in [
            ["-t", "raw", "-A", "PREROUTING"],
            ["-t", "mangle", "-A", "POSTROUTING"],
        ] {
            if let Err(reason) = self.try_within(&self.near, "iptables", &rule) {
                println!("skipped: iptables' counters: {reason}");
                return false;
            }
        }
        true
    }

    fn counted_by_iptables(&self) -> Volume {
        let mut sum = Volume::default();
        for (table, chain) in [("raw", "PREROUTING"), ("mangle", "POSTROUTING")] {
            let arguments = ["-t", table, "-nvxL", chain];
            let listing = self.within(&self.near, "iptables", &arguments);
            let rule = listing.lines().nth(2).expect("a rule");
            let mut numbers = rule.split_whitespace().map(|word| word.parse::<u64>());
            sum.packets += numbers.next().unwrap().unwrap();
            sum.bytes += numbers.next().unwrap().unwrap();
        }
        sum
    }

    /// What `ip -s link` has of the near host's interface, both ways, without the links'
    /// headers.
    fn counted_by_link(&self) -> Volume {
        let text = self.within(&self.near, "ip", &["-j", "-s", "link", "show", "near"]);
        let links: serde_json::Value = serde_json::from_str(&text).unwrap();
        let of = |way: &str, what: &str| links[0]["stats64"][way][what].as_u64().unwrap();
        let packets = of("rx", "packets") + of("tx", "packets");
        let bytes = of("rx", "bytes") + of("tx", "bytes");
        Volume {
            packets,
            bytes: bytes - packets * ETHERNET_HEADER,
        }
    }

    /// Connections of both ways, datagrams, and fragments.
    fn send(&self) {
        self.transfer(&self.near, &self.far, REMOTE, 3_000_000);
        self.transfer(&self.far, &self.near, LOCAL, 3_000_000);
        let socket = |netns: &str, address: &str| {
            let address = SocketAddr::new(address.parse().unwrap(), 5300);
            let bound = named(netns).within(|| UdpSocket::bind(address));
            bound.unwrap().unwrap()
        };
        let (near, far) = (socket(&self.near, LOCAL), socket(&self.far, REMOTE));
        for _ in 0..100 {
            near.send_to(&[1; 100], (REMOTE, 5300)).unwrap();
        }
        // Three fragments each.
        for _ in 0..10 {
            far.send_to(&[2; 4000], (LOCAL, 5300)).unwrap();
        }
        // The last acknowledgements are under way.
        let start = Instant::now();
        let mut before = self.counted_by_link();
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = self.counted_by_link();
            if now == before {
                return;
            }
            before = now;
            assert!(start.elapsed() < PATIENCE, "traffic does not end");
        }
    }

    fn transfer(&self, from: &str, to: &str, address: &str, bytes: usize) {
        let listener = named(to).within(|| TcpListener::bind((address, 0)));
        let listener = listener.unwrap().unwrap();
        let to = listener.local_addr().unwrap();
        let sender = named(from).within(|| TcpStream::connect(to));
        let mut sender = sender.unwrap().unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        let receiving = std::thread::spawn(move || {
            let mut received = Vec::new();
            receiver.read_to_end(&mut received).unwrap();
            received.len()
        });
        sender.write_all(&vec![7; bytes]).unwrap();
        drop(sender);
        assert_eq!(receiving.join().unwrap(), bytes);
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for netns in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", netns]).output();
        }
    }
}

fn named(netns: &str) -> Namespace {
    Namespace::named(netns).unwrap()
}

/// The program while it counts.
struct Collector {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Collector {
    fn started(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr }
    }

    /// Waits until the interface has the program's ring.
    fn wait_for_ring(&self, hosts: &Hosts) {
        let start = Instant::now();
        let has_ring = || {
            let text = named(&hosts.near)
                .within(|| std::fs::read_to_string("/proc/thread-self/net/packet"))
                .unwrap()
                .unwrap();
            text.lines().count() > 1
        };
        while !has_ring() {
            assert!(start.elapsed() < PATIENCE, "the program does not count");
            std::thread::sleep(Duration::from_millis(20));
        }
        // It is listed before it is bound.
        std::thread::sleep(Duration::from_millis(500));
    }

    /// Reads what the program says until it says this; gives the line.
    fn hear(&mut self, expected: &str) -> String {
        let mut line = String::new();
        while !line.contains(expected) {
            line.clear();
            let read = self.stderr.read_line(&mut line).unwrap();
            assert!(read > 0, "{expected:?} was not said");
        }
        line
    }

    fn stop(self) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.end()
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        self.stderr.read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
    }
}

/// The sums over all snapshots: what was seen, and what of it were several packets in one
/// buffer.
fn stored(db: &Path) -> (Volume, Volume) {
    let connection = Connection::open(db).unwrap();
    let sums = "SELECT SUM(seen_packets), SUM(seen_bytes), SUM(gso_extra_packets), \
                SUM(gso_extra_bytes) FROM snapshot";
    let volumes = connection.query_row(sums, [], |row| {
        let volume = |first: usize| -> rusqlite::Result<Volume> {
            Ok(Volume {
                packets: row.get::<_, i64>(first)? as u64,
                bytes: row.get::<_, i64>(first + 1)? as u64,
            })
        };
        Ok((volume(0)?, volume(2)?))
    });
    volumes.unwrap()
}

fn agrees_with_the_kernel(test: &str, prepare: impl FnOnce(&Hosts), has_offload: bool) {
    let Some(hosts) = Hosts::new(test) else {
        return;
    };
    prepare(&hosts);
    // What the kernel sent when the links came up, if anything, is in no counter of ours.
    let link_before = hosts.counted_by_link();
    let by_iptables = hosts.count_by_iptables();
    let collector = hosts.collect(&["--every", "2s"]);
    collector.wait_for_ring(&hosts);
    hosts.send();
    let link = hosts.counted_by_link();
    let iptables = by_iptables.then(|| hosts.counted_by_iptables());
    assert_eq!(collector.stop(), (Some(0), String::new()));

    let (seen, extra) = stored(&hosts.db());
    assert_eq!(extra.packets > 0, has_offload, "{extra:?}");
    let buffers = Volume {
        packets: seen.packets - extra.packets,
        bytes: seen.bytes - extra.bytes,
    };
    let link = Volume {
        packets: link.packets - link_before.packets,
        bytes: link.bytes - link_before.bytes,
    };
    assert_eq!(buffers, link);
    if let Some(iptables) = iptables {
        assert_eq!(buffers, iptables);
    }
    assert_eq!(datagrams(&hosts.db()), (100, 12_800, 30, 40_680));
    if has_offload {
        // 6 MB in packets of 1,448 bytes at most, and what acknowledges them.
        assert!(seen.packets > 6_000_000 / 1448, "{seen:?}");
    }
}

/// Packets and bytes sent and received by UDP. The fragments of 4,008 bytes are of 1,500,
/// 1,500 and 1,068 bytes, headers included; the later ones have no ports.
fn datagrams(db: &Path) -> (i64, i64, i64, i64) {
    let connection = Connection::open(db).unwrap();
    let sums = "SELECT SUM(sent_packets), SUM(sent_bytes), SUM(received_packets), \
                SUM(received_bytes) FROM record WHERE protocol = 17";
    connection
        .query_row(sums, [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .unwrap()
}

#[test]
fn offloaded_packets_agree_with_the_kernels_counters() {
    agrees_with_the_kernel("gso", |_| (), true);
}

#[test]
fn packets_without_offload_agree_with_the_kernels_counters() {
    let without = |hosts: &Hosts| {
        for (netns, device) in [(&hosts.near, "near"), (&hosts.far, "far")] {
            let arguments = ["link", "set", device, "gso_max_segs", "1"];
            hosts.within(netns, "ip", &arguments);
        }
    };
    agrees_with_the_kernel("plain", without, false);
}

#[test]
fn packets_that_found_no_room_are_told_and_none_is_counted_twice() {
    let Some(hosts) = Hosts::new("drops") else {
        return;
    };
    let mut collector = hosts.collect(&["--every", "1s"]);
    collector.wait_for_ring(&hosts);
    let signal = |collector: &Collector, signal| {
        kill_process(Pid::from_child(&collector.child), signal).unwrap();
    };
    signal(&collector, Signal::STOP);
    let socket = named(&hosts.near).within(|| UdpSocket::bind((LOCAL, 5300)));
    let socket = socket.unwrap().unwrap();
    // A full kept frame each, of which the ring has room for some 45,000.
    for _ in 0..70_000 {
        // Nobody listens, and the far host may say so.
        let _ = socket.send_to(&[1; 1000], (REMOTE, 5300));
    }
    signal(&collector, Signal::CONT);
    let line = collector.hear("the kernel dropped");
    let words: Vec<&str> = line.split(' ').collect();
    let at = words.iter().position(|word| *word == "dropped").unwrap();
    let dropped: u64 = words[at + 1].parse().unwrap();
    let (code, text) = collector.stop();
    assert_eq!((code, text.as_str()), (Some(0), ""));
    let (seen, _) = stored(&hosts.db());
    assert_eq!(seen.packets + dropped, hosts.counted_by_link().packets);
    assert!(seen.packets > 40_000, "{seen:?}");
}

#[test]
fn epochs_wait_in_the_spool_while_the_database_is_away() {
    let Some(hosts) = Hosts::new("spool") else {
        return;
    };
    let url = "mysql://trafstat@127.0.0.1:1/trafstat";
    let mut command = hosts.command();
    command.args(["--url", url, "--every", "1s"]);
    let mut collector = Collector::started(&mut command);
    collector.wait_for_ring(&hosts);
    hosts.send();
    let link = hosts.counted_by_link();
    collector.hear("the database is away");
    let (code, text) = collector.stop();
    assert_eq!(code, Some(3), "{text}");
    // The same spool, and a database that is there.
    let mut again = hosts.command();
    again.arg("--db").arg(hosts.db()).args(["--every", "1h"]);
    let again = Collector::started(&mut again);
    again.wait_for_ring(&hosts);
    let (code, text) = again.stop();
    assert_eq!(code, Some(0), "{text}");
    let (seen, extra) = stored(&hosts.db());
    assert_eq!(seen.packets - extra.packets, link.packets);
}

#[test]
fn interface_that_goes_away_leaves_its_counts() {
    let Some(hosts) = Hosts::new("gone") else {
        return;
    };
    let collector = hosts.collect(&["--epoch", "1h"]);
    collector.wait_for_ring(&hosts);
    hosts.send();
    let link = hosts.counted_by_link();
    hosts.within(&hosts.near, "ip", &["link", "del", "near"]);
    let (code, text) = collector.end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("near is gone"), "{text}");
    let (seen, extra) = stored(&hosts.db());
    assert_eq!(seen.packets - extra.packets, link.packets);
}

#[test]
fn interface_that_is_down_is_said_to_be_and_counted_again_once_it_is_up() {
    let Some(hosts) = Hosts::new("down") else {
        return;
    };
    hosts.within(&hosts.near, "ip", &["link", "set", "near", "down"]);
    let mut collector = hosts.collect(&["--every", "1s"]);
    collector.hear("near is down");
    hosts.within(&hosts.near, "ip", &["link", "set", "near", "up"]);
    let route = ["route", "replace", REMOTE, "dev", "near"];
    hosts.within(&hosts.near, "ip", &route);
    let neighbour =
        format!("neigh replace {REMOTE} lladdr 02:00:00:00:00:02 nud permanent dev near");
    hosts.within(&hosts.near, "ip", &neighbour.split(' ').collect::<Vec<_>>());
    hosts.send();
    let link = hosts.counted_by_link();
    collector.hear("near is up again");
    let (code, text) = collector.stop();
    assert_eq!(code, Some(0), "{text}");
    let (seen, extra) = stored(&hosts.db());
    assert_eq!(seen.packets - extra.packets, link.packets);
}

#[test]
fn interface_that_cannot_be_counted_is_an_error_that_says_why() {
    let program = env!("CARGO_BIN_EXE_trafstat-store");
    let source = ["--local-net", "10.1.0.0/16", "--source"];
    let error = |command: &mut Command| {
        let output = command.args(source).arg("live:absent0").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    if geteuid().is_root() {
        let text = error(&mut Command::new(program));
        assert!(text.contains("there is no interface \"absent0\""), "{text}");
        let mut bound = Command::new("setpriv");
        let text = error(bound.args(["--bounding-set=-all", "--inh-caps=-all", program]));
        assert!(text.contains("with CAP_NET_RAW"), "{text}");
    } else {
        let text = error(&mut Command::new(program));
        assert!(text.contains("with CAP_NET_RAW"), "{text}");
    }
}

#[test]
fn live_interface_is_not_collected_once() {
    let output = Command::new(env!("CARGO_BIN_EXE_trafstat-store"))
        .args(["--once", "--source", "live:lo", "--local-net", "10.1.0.1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
