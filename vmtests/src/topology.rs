//! Where the traffic runs.
//!
//! ```text
//!   namespace local                          namespace remote
//!   rules, accounts, collector
//!  +---------------------------+            +-----------------+
//!  |            192.0.2.1/24   |            |  192.0.2.2/24   |
//!  |   lo          veth-local  +------------+  veth-remote    |
//!  +---------------------------+            +-----------------+
//! ```

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{self, Ended};

/// The address that is counted for.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The address that it talks to.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// The two namespaces, for as long as this lives.
pub struct Topology {
    /// The side that is counted.
    pub local: Netns,
    /// The other side.
    pub remote: Netns,
}

impl Topology {
    /// Makes both namespaces and the link between them.
    ///
    /// # Errors
    ///
    /// `ip` fails.
    pub fn new() -> Result<Self> {
        let topology = Self {
            local: Netns::new("trafstat-local")?,
            remote: Netns::new("trafstat-remote")?,
        };
        let Self { local, remote } = &topology;
        ip(&[
            "-n",
            local.name,
            "link",
            "add",
            "veth-local",
            "type",
            "veth",
            "peer",
            "name",
            "veth-remote",
            "netns",
            remote.name,
        ])?;
        for (netns, device, address) in [
            (local, "veth-local", LOCAL),
            (remote, "veth-remote", REMOTE),
        ] {
            let address = format!("{address}/24");
            ip(&["-n", netns.name, "address", "add", &address, "dev", device])?;
            ip(&["-n", netns.name, "link", "set", device, "up"])?;
        }
        Ok(topology)
    }
}

/// A named network namespace, deleted when this goes.
pub struct Netns {
    name: &'static str,
}

impl Netns {
    fn new(name: &'static str) -> Result<Self> {
        ip(&["netns", "add", name])?;
        let netns = Self { name };
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Runs `command` in the namespace to its end, however that is.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn end(&self, command: &mut Command) -> Result<Ended> {
        self.enter(|| process::end(command))
    }

    /// Runs `command` in the namespace; it must exit with 0. Returns its standard output.
    ///
    /// # Errors
    ///
    /// It ends otherwise.
    pub fn succeed(&self, command: &mut Command) -> Result<String> {
        self.enter(|| process::succeed(command))
    }

    /// Runs `work` on a thread in the namespace; its sockets, files and programs belong there, too.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered, or those of `work`.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(format!("/run/netns/{}", self.name))
            .with_context(|| format!("no namespace {}", self.name))?;
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                    work()
                })
                .join()
                .map_err(|_| anyhow!("the thread in {} panicked", self.name))?
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", self.name]) {
            eprintln!("namespace {} is left over: {error:#}", self.name);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    process::succeed(Command::new("ip").args(arguments)).map(drop)
}
