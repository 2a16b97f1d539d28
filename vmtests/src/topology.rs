//! Where the traffic runs.
//!
//! ```text
//!   namespace local                          namespace remote
//!   rules, accounts, collector
//!  +---------------------------+            +-----------------+
//!  |            192.0.2.1/24   |            |  192.0.2.2/24   |
//!  |    or  2001:db8::1/64     |            |  2001:db8::2/64 |
//!  |   lo          veth-local  +------------+  veth-remote    |
//!  +---------------------------+            +-----------------+
//! ```

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::family::Family;
use crate::iptables::RuleCounters;
use crate::process::{self, Ended};

/// The local end of the link.
pub const DEVICE: &str = "veth-local";
/// Its remote end.
pub const PEER: &str = "veth-remote";

/// What a device counts of each frame in front of the IP header.
const ETHERNET_HEADER: u64 = 14;

/// The two namespaces, for as long as this lives.
pub struct Topology {
    /// The side that is counted.
    pub local: Netns,
    /// The other side.
    pub remote: Netns,
    /// What they speak.
    pub family: Family,
}

impl Topology {
    /// Makes both namespaces and the link between them.
    ///
    /// # Errors
    ///
    /// `ip` fails.
    pub fn new(family: Family) -> Result<Self> {
        let topology = Self {
            local: Netns::new("trafstat-local")?,
            remote: Netns::new("trafstat-remote")?,
            family,
        };
        let Self { local, remote, .. } = &topology;
        local.ip(&format!(
            "link add {DEVICE} type veth peer name {PEER} netns {}",
            remote.name
        ))?;
        for (netns, device, address) in [
            (local, DEVICE, family.local()),
            (remote, PEER, family.remote()),
        ] {
            let length = family.subnet_len();
            match family {
                Family::Ipv4 => netns.speak_no_ipv6(device)?,
                Family::Ipv6 => (),
            }
            let nodad = match family {
                Family::Ipv4 => "",
                // No other host is on the link: the address is usable at once.
                Family::Ipv6 => "nodad",
            };
            netns.ip(&format!(
                "address add {address}/{length} dev {device} {nodad}"
            ))?;
            netns.ip(&format!("link set {device} up"))?;
        }
        Ok(topology)
    }

    /// Lets no socket buffer be more than one packet: what TCP sends is cut by itself.
    ///
    /// # Errors
    ///
    /// `ip` fails.
    pub fn forbid_segmentation_offload(&self) -> Result<()> {
        for (netns, device) in [(&self.local, DEVICE), (&self.remote, PEER)] {
            netns.ip(&format!("link set {device} gso_max_segs 1"))?;
        }
        Ok(())
    }

    /// Lets the local side's TCP build buffers of up to `bytes`, which are cut into packets before
    /// they come to the link. Returns whether the kernel and `ip` can do that.
    ///
    /// # Errors
    ///
    /// `ethtool` fails.
    pub fn allow_big_tcp(&self, bytes: u32) -> Result<bool> {
        let limit = match self.family {
            Family::Ipv4 => "gso_ipv4_max_size",
            Family::Ipv6 => "gso_max_size",
        };
        self.local
            .succeed(Command::new("ethtool").args(["-K", DEVICE, "tso", "off"]))?;
        Ok(self
            .local
            .ip(&format!("link set {DEVICE} {limit} {bytes}"))
            .is_ok())
    }

    /// Tells each side the other's hardware address, so that nobody asks for it with ARP.
    ///
    /// # Errors
    ///
    /// `ip` fails.
    pub fn fix_neighbours(&self) -> Result<()> {
        let (local, remote) = (self.family.local(), self.family.remote());
        for (netns, device, neighbour, hardware) in [
            (
                &self.local,
                DEVICE,
                remote,
                self.remote.hardware_address(PEER)?,
            ),
            (
                &self.remote,
                PEER,
                local,
                self.local.hardware_address(DEVICE)?,
            ),
        ] {
            netns.ip(&format!(
                "neighbour replace {neighbour} lladdr {hardware} dev {device} nud permanent"
            ))?;
        }
        Ok(())
    }

    /// What the local end of the link counted, both directions, less the Ethernet headers.
    ///
    /// # Errors
    ///
    /// `ip` fails.
    pub fn link_counters(&self) -> Result<RuleCounters> {
        let link = self.local.link(DEVICE)?;
        let mut sum = RuleCounters::default();
        for direction in ["rx", "tx"] {
            let number = |counter: &str| {
                link["stats64"][direction][counter]
                    .as_u64()
                    .with_context(|| format!("no {direction} {counter} in {link}"))
            };
            sum.packets += number("packets")?;
            sum.bytes += number("bytes")? - ETHERNET_HEADER * number("packets")?;
        }
        Ok(sum)
    }
}

/// A named network namespace, deleted when this goes.
pub struct Netns {
    name: &'static str,
}

impl Netns {
    fn new(name: &'static str) -> Result<Self> {
        ip(&format!("netns add {name}"))?;
        let netns = Self { name };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Names the network namespace of process `pid`, to be used like any other until it goes.
    ///
    /// # Errors
    ///
    /// `ip` fails.
    pub fn attach(name: &'static str, pid: u32) -> Result<Self> {
        ip(&format!("netns attach {name} {pid}"))?;
        Ok(Self { name })
    }

    /// Runs `ip` on the namespace's devices, with `arguments` separated by spaces.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// Runs `tc` on the namespace's devices, with `arguments` separated by spaces.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn tc(&self, arguments: &str) -> Result<String> {
        process::succeed(
            Command::new("tc")
                .args(["-n", self.name])
                .args(arguments.split_whitespace()),
        )
    }

    /// What `ip` says about a device.
    fn link(&self, device: &str) -> Result<Value> {
        let printed = self.ip(&format!("-json -statistics link show {device}"))?;
        let mut links: Vec<Value> =
            serde_json::from_str(&printed).with_context(|| printed.clone())?;
        links.pop().with_context(|| format!("no device {device}"))
    }

    /// The hardware address of a device.
    ///
    /// # Errors
    ///
    /// There is no such device.
    pub fn hardware_address(&self, device: &str) -> Result<String> {
        let link = self.link(device)?;
        let address = link["address"].as_str();
        address.map(str::to_owned).context("no hardware address")
    }

    /// Keeps the kernel from announcing a device's IPv6 address by itself.
    fn speak_no_ipv6(&self, device: &str) -> Result<()> {
        self.enter(|| {
            let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
            fs::write(&path, "1").with_context(|| format!("cannot write {path}"))
        })
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
        if let Err(error) = ip(&format!("netns delete {}", self.name)) {
            eprintln!("namespace {} is left over: {error:#}", self.name);
        }
    }
}

fn ip(arguments: &str) -> Result<String> {
    process::succeed(Command::new("ip").args(arguments.split_whitespace()))
}
