// SPDX-License-Identifier: GPL-2.0-or-later
//! Traffic of known size between the two namespaces, started by the remote side.

pub mod packet;
mod sctp;

use std::io::{ErrorKind, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::family::Family;
use crate::iptables::RuleCounters;
use crate::topology::Topology;

pub use sctp::SctpServer;

/// No answer for so long on a working link means that something was lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// What ping sends where it is not told otherwise.
const PING_PAYLOAD: u64 = 56;

/// Where [`loopback_flows`] sends to over IPv6.
pub const LOOPBACK_FLOWS: &str = "fd00::/64";

/// The packets and bytes of a flow, as the local side must have seen them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowCounters {
    /// Packets sent by the local side.
    pub sent_packets: u64,
    /// Layer-3 bytes of them.
    pub sent_bytes: u64,
    /// Packets received by the local side.
    pub received_packets: u64,
    /// Layer-3 bytes of them.
    pub received_bytes: u64,
}

impl FlowCounters {
    /// Counts `other`, too.
    pub fn add(&mut self, other: &Self) {
        self.sent_packets += other.sent_packets;
        self.sent_bytes += other.sent_bytes;
        self.received_packets += other.received_packets;
        self.received_bytes += other.received_bytes;
    }

    /// Both directions together.
    pub fn total(&self) -> RuleCounters {
        RuleCounters {
            packets: self.sent_packets + self.received_packets,
            bytes: self.sent_bytes + self.received_bytes,
        }
    }

    /// What is left without `other`, which is part of it.
    pub fn less(&self, other: &Self) -> Option<Self> {
        Some(Self {
            sent_packets: self.sent_packets.checked_sub(other.sent_packets)?,
            sent_bytes: self.sent_bytes.checked_sub(other.sent_bytes)?,
            received_packets: self.received_packets.checked_sub(other.received_packets)?,
            received_bytes: self.received_bytes.checked_sub(other.received_bytes)?,
        })
    }
}

/// An HTTP server on the local side.
///
/// It listens for as long as it lives, not for one download: a program that is started meanwhile
/// has a copy of the socket until its exec(2), so the port could not be bound again at once.
pub struct HttpServer {
    listener: TcpListener,
    port: u16,
}

impl HttpServer {
    /// Listens on `port`.
    ///
    /// # Errors
    ///
    /// The port is in use.
    pub fn listen(topology: &Topology, port: u16) -> Result<Self> {
        let listener = topology
            .local
            .enter(|| Ok(TcpListener::bind((topology.family.local(), port))?))?;
        Ok(Self { listener, port })
    }

    /// Downloads `size` bytes to the remote side; returns the client's port.
    ///
    /// # Errors
    ///
    /// Something else than `size` bytes arrives.
    pub fn download(&self, topology: &Topology, size: usize) -> Result<u16> {
        thread::scope(|scope| {
            let server = scope.spawn(|| serve_one(&self.listener, size));
            let address = (topology.family.local(), self.port).into();
            let client = topology.remote.enter(|| fetch(address, size));
            let served = server.join().map_err(|_| anyhow!("the server panicked"))?;
            // The client's error says more than the server's, which follows from it.
            let port = client.context("the client")?;
            served.context("the server")?;
            Ok(port)
        })
    }

    /// Uploads `size` bytes from the remote side.
    ///
    /// # Errors
    ///
    /// Something else than `size` bytes arrives.
    pub fn upload(&self, topology: &Topology, size: usize) -> Result<()> {
        thread::scope(|scope| {
            let server = scope.spawn(|| take_one(&self.listener, size));
            let address = (topology.family.local(), self.port).into();
            let client = topology.remote.enter(|| post(address, size));
            let taken = server.join().map_err(|_| anyhow!("the server panicked"))?;
            client.context("the client")?;
            taken.context("the server")
        })
    }
}

/// A UDP server on the local side that sends everything back.
pub struct EchoServer {
    socket: UdpSocket,
    port: u16,
}

impl EchoServer {
    /// Waits on `port`.
    ///
    /// # Errors
    ///
    /// The port is in use.
    pub fn bind(topology: &Topology, port: u16) -> Result<Self> {
        let socket = topology
            .local
            .enter(|| bind_udp(topology.family.local(), port))?;
        Ok(Self { socket, port })
    }

    /// Exchanges `count` datagrams of `size` bytes with the remote side, each sent there and back.
    ///
    /// Returns the client's port and what it came to.
    ///
    /// # Errors
    ///
    /// A datagram does not come back.
    pub fn exchange(
        &self,
        topology: &Topology,
        count: u64,
        size: usize,
    ) -> Result<(u16, FlowCounters)> {
        let family = topology.family;
        let client = topology.remote.enter(|| bind_udp(family.remote(), 0))?;
        client.connect((family.local(), self.port))?;
        let datagram = vec![0x55; size];
        let mut buffer = vec![0; size + 1];
        for _ in 0..count {
            client.send(&datagram)?;
            let (length, sender) = self.socket.recv_from(&mut buffer)?;
            self.socket.send_to(&buffer[..length], sender)?;
            let returned = client.recv(&mut buffer)?;
            ensure!(returned == size, "{returned} bytes of {size} came back");
        }
        let bytes = count * family.datagram_bytes(size as u64);
        let counters = FlowCounters {
            sent_packets: count,
            sent_bytes: bytes,
            received_packets: count,
            received_bytes: bytes,
        };
        Ok((client.local_addr()?.port(), counters))
    }
}

/// Downloads and echoes go on, again and again, until `work` has ended.
///
/// # Errors
///
/// Those of `work`, or something is lost.
pub fn during<T>(topology: &Topology, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let http = HttpServer::listen(topology, 80)?;
    let echo = EchoServer::bind(topology, 5000)?;
    let rounds: [&(dyn Fn() -> Result<()> + Sync); 2] =
        [&|| http.download(topology, 500_000).map(drop), &|| {
            echo.exchange(topology, 50, 200).map(drop)
        }];
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let traffic = rounds.map(|round| {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    round()?;
                }
                anyhow::Ok(())
            })
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        for kind in traffic {
            kind.join()
                .map_err(|_| anyhow!("a traffic thread panicked"))??;
        }
        result
    })
}

/// Sends a datagram to each of the local side's ports from `first` on, on which nobody waits.
///
/// # Errors
///
/// A datagram cannot be sent.
pub fn scan(topology: &Topology, first: u16, ports: u16) -> Result<()> {
    let family = topology.family;
    let client = topology.remote.enter(|| bind_udp(family.remote(), 0))?;
    for port in first..first + ports {
        client.send_to(b"?", (family.local(), port))?;
    }
    Ok(())
}

/// Sends a datagram of each of `flows` from the loopback address, to others of the same device.
///
/// For IPv6 these are [`LOOPBACK_FLOWS`], which a route has to lead there.
///
/// # Errors
///
/// A datagram cannot be sent.
pub fn loopback_flows(family: Family, flows: Range<u32>) -> Result<()> {
    let source: IpAddr = match family {
        Family::Ipv4 => Ipv4Addr::LOCALHOST.into(),
        Family::Ipv6 => Ipv6Addr::LOCALHOST.into(),
    };
    let socket = UdpSocket::bind((source, 0))?;
    for flow in flows {
        let [_, a, b, c] = flow.to_be_bytes();
        let destination: (IpAddr, u16) = match family {
            Family::Ipv4 => {
                let address = Ipv4Addr::new(127, a, b, c.max(1));
                (address.into(), 1000 + u16::from(c))
            }
            // Few addresses and many ports: 6.12 keeps a neighbour for each address.
            Family::Ipv6 => {
                let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(c));
                (address.into(), u16::from_be_bytes([a, b]) + 1)
            }
        };
        socket.send_to(b"?", destination)?;
    }
    Ok(())
}

/// Pings the local side `count` times.
///
/// # Errors
///
/// An answer is missing.
pub fn ping(topology: &Topology, count: u64) -> Result<FlowCounters> {
    ping_with(topology, count, PING_PAYLOAD)
}

/// Pings the local side `count` times with so many bytes; the counters are those before fragmentation.
///
/// # Errors
///
/// An answer is missing.
pub fn ping_with(topology: &Topology, count: u64, payload: u64) -> Result<FlowCounters> {
    topology.remote.succeed(
        Command::new("ping")
            .args(["-q", "-i", "0.02", "-c", &count.to_string()])
            // Without a deadline, one answer of many is enough for it.
            .args(["-w", &PATIENCE.as_secs().to_string()])
            .args(["-s", &payload.to_string()])
            .arg(topology.family.local().to_string()),
    )?;
    let bytes = count * topology.family.echo_bytes(payload);
    Ok(FlowCounters {
        sent_packets: count,
        sent_bytes: bytes,
        received_packets: count,
        received_bytes: bytes,
    })
}

/// Connects to a closed port of the local side.
///
/// # Errors
///
/// The connection is anything but refused.
pub fn refused_connection(topology: &Topology, port: u16) -> Result<()> {
    topology.remote.enter(
        || match TcpStream::connect((topology.family.local(), port)) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => bail!("connecting to closed port {port}: {other:?}"),
        },
    )
}

fn serve_one(listener: &TcpListener, size: usize) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    read_head(&mut stream)?;
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
    stream.write_all(&vec![b'x'; size])?;
    Ok(())
}

fn take_one(listener: &TcpListener, size: usize) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    read_head(&mut stream)?;
    let mut body = Vec::new();
    stream.read_to_end(&mut body)?;
    ensure!(
        body.len() == size,
        "{} bytes arrived, not {size}",
        body.len()
    );
    write!(stream, "HTTP/1.0 204 No Content\r\n\r\n")?;
    Ok(())
}

fn read_head(stream: &mut TcpStream) -> Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(stream.read(&mut byte)? == 1, "the request ends early");
        head.push(byte[0]);
    }
    Ok(())
}

fn fetch(address: SocketAddr, size: usize) -> Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let client_port = stream.local_addr()?.port();
    write!(stream, "GET / HTTP/1.0\r\n\r\n")?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    let head = response
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the response has no head")?;
    let received = response.len() - head - 4;
    ensure!(received == size, "{received} bytes arrived, not {size}");
    Ok(client_port)
}

fn post(address: SocketAddr, size: usize) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "POST / HTTP/1.0\r\nContent-Length: {size}\r\n\r\n")?;
    stream.write_all(&vec![b'x'; size])?;
    stream.shutdown(Shutdown::Write)?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    ensure!(response.contains(" 204 "), "answered with {response:?}");
    Ok(())
}

fn bind_udp(address: IpAddr, port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}
