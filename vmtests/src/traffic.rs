//! Traffic of known size between the two namespaces, started by the remote side.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::topology::{LOCAL, Topology};

/// No answer for so long on a working link means that something was lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// IP and UDP header.
const UDP_HEADERS: u64 = 28;
/// IP header, ICMP header and the 56 bytes that ping sends.
const PING_BYTES: u64 = 84;

/// What a conversation came to, as the local side must have seen it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Packets sent by the local side.
    pub sent_packets: u64,
    /// Layer-3 bytes of them.
    pub sent_bytes: u64,
    /// Packets received by the local side.
    pub received_packets: u64,
    /// Layer-3 bytes of them.
    pub received_bytes: u64,
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
            .enter(|| Ok(TcpListener::bind((LOCAL, port))?))?;
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
            let client = topology.remote.enter(|| fetch(self.port, size));
            let served = server.join().map_err(|_| anyhow!("the server panicked"))?;
            // The client's error says more than the server's, which follows from it.
            let port = client.context("the client")?;
            served.context("the server")?;
            Ok(port)
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
        let socket = topology.local.enter(|| bind_udp(LOCAL, port))?;
        Ok(Self { socket, port })
    }

    /// Exchanges `count` datagrams of `size` bytes with the remote side, each sent there and back.
    ///
    /// Returns the client's port and what it came to.
    ///
    /// # Errors
    ///
    /// A datagram does not come back.
    pub fn exchange(&self, topology: &Topology, count: u64, size: usize) -> Result<(u16, Volume)> {
        let client = topology
            .remote
            .enter(|| bind_udp(Ipv4Addr::UNSPECIFIED, 0))?;
        client.connect((LOCAL, self.port))?;
        let datagram = vec![0x55; size];
        let mut buffer = vec![0; size + 1];
        for _ in 0..count {
            client.send(&datagram)?;
            let (length, sender) = self.socket.recv_from(&mut buffer)?;
            self.socket.send_to(&buffer[..length], sender)?;
            let returned = client.recv(&mut buffer)?;
            ensure!(returned == size, "{returned} bytes of {size} came back");
        }
        let bytes = count * (UDP_HEADERS + size as u64);
        let volume = Volume {
            sent_packets: count,
            sent_bytes: bytes,
            received_packets: count,
            received_bytes: bytes,
        };
        Ok((client.local_addr()?.port(), volume))
    }
}

/// Pings the local side `count` times.
///
/// # Errors
///
/// An answer is missing.
pub fn ping(topology: &Topology, count: u64) -> Result<Volume> {
    topology.remote.succeed(
        Command::new("ping")
            .args(["-q", "-i", "0.02", "-c", &count.to_string()])
            .arg(LOCAL.to_string()),
    )?;
    Ok(Volume {
        sent_packets: count,
        sent_bytes: count * PING_BYTES,
        received_packets: count,
        received_bytes: count * PING_BYTES,
    })
}

/// Connects to a closed port of the local side.
///
/// # Errors
///
/// The connection is anything but refused.
pub fn refused_connection(topology: &Topology, port: u16) -> Result<()> {
    topology
        .remote
        .enter(|| match TcpStream::connect((LOCAL, port)) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => bail!("connecting to closed port {port}: {other:?}"),
        })
}

fn serve_one(listener: &TcpListener, size: usize) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        ensure!(stream.read(&mut byte)? == 1, "the request ends early");
        request.push(byte[0]);
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
    stream.write_all(&vec![b'x'; size])?;
    Ok(())
}

fn fetch(port: u16, size: usize) -> Result<u16> {
    let address = SocketAddrV4::new(LOCAL, port);
    let mut stream = TcpStream::connect_timeout(&address.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let client_port = stream.local_addr()?.port();
    write!(stream, "GET / HTTP/1.0\r\nHost: {LOCAL}\r\n\r\n")?;
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

fn bind_udp(address: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}
