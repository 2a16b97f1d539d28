// SPDX-License-Identifier: GPL-2.0-or-later
//! SCTP (RFC 9260) between the kernel's own sockets, where it has them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::net::{AddressFamily, SocketType, bind, connect, ipproto, listen, socket};

use super::PATIENCE;
use crate::family::Family;
use crate::process;
use crate::topology::Topology;

/// A server on the local side that sends every message back.
pub struct SctpServer {
    // A socket of one association is used like one of TCP.
    listener: TcpListener,
    port: u16,
}

impl SctpServer {
    /// Listens on `port`; `None` where this kernel has no SCTP.
    ///
    /// # Errors
    ///
    /// The port is in use.
    pub fn listen(topology: &Topology, port: u16) -> Result<Option<Self>> {
        let mut modprobe = Command::new("modprobe");
        if process::end(modprobe.args(["--quiet", "sctp"]))?.code != Some(0) {
            return Ok(None);
        }
        topology.local.enter(|| {
            let socket = sctp_socket(topology.family)?;
            bind(&socket, &SocketAddr::from((topology.family.local(), port)))?;
            listen(&socket, 1)?;
            Ok(Some(Self {
                listener: socket.into(),
                port,
            }))
        })
    }

    /// Exchanges `count` messages of `size` bytes with the remote side, each sent there and back.
    ///
    /// # Errors
    ///
    /// A message does not come back.
    pub fn exchange(&self, topology: &Topology, count: usize, size: usize) -> Result<()> {
        let family = topology.family;
        thread::scope(|scope| {
            let server = scope.spawn(|| self.send_back(count, size));
            let client = topology.remote.enter(|| {
                let socket = sctp_socket(family)?;
                connect(&socket, &SocketAddr::from((family.local(), self.port)))?;
                let mut stream = TcpStream::from(socket);
                stream.set_read_timeout(Some(PATIENCE))?;
                let (message, mut returned) = (vec![0x5c; size], vec![0; size]);
                for _ in 0..count {
                    stream.write_all(&message)?;
                    stream.read_exact(&mut returned)?;
                    ensure!(returned == message, "another message came back");
                }
                Ok(())
            });
            let served = server.join().map_err(|_| anyhow!("the server panicked"))?;
            client.context("the SCTP client")?;
            served.context("the SCTP server")
        })
    }

    fn send_back(&self, count: usize, size: usize) -> Result<()> {
        let (mut stream, _) = self.listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut message = vec![0; size];
        for _ in 0..count {
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
        }
        Ok(())
    }
}

fn sctp_socket(family: Family) -> Result<OwnedFd> {
    let family = match family {
        Family::Ipv4 => AddressFamily::INET,
        Family::Ipv6 => AddressFamily::INET6,
    };
    Ok(socket(family, SocketType::STREAM, Some(ipproto::SCTP))?)
}
