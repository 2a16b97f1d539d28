// SPDX-License-Identifier: GPL-2.0-or-later
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
//!
//! or, where the counting host is a router:
//!
//! ```text
//!   namespace local             namespace router              namespace remote
//!                               rules, accounts, collector
//!  +--------------------+      +------------------------+      +---------------------+
//!  |   192.0.2.1/32     |      |    192.0.2.254/32      |      |    192.0.2.2/32     |
//!  |  2001:db8::1/128   |      |   2001:db8::fe/128     |      |   2001:db8::2/128   |
//!  |        veth-local  +------+  veth-lan    veth-wan  +------+  veth-remote        |
//!  +--------------------+      +------------------------+      +---------------------+
//! ```

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::family::Family;
use crate::iptables::RuleCounters;
use crate::process::{self, ProgramOutput};

/// The ends of all links, as iptables' `-i` and `-o` take them.
pub const DEVICES: &str = "veth+";

/// The local end of the link.
pub const DEVICE: &str = "veth-local";
/// Its remote end.
pub const PEER: &str = "veth-remote";
const LAN: &str = "veth-lan";
const WAN: &str = "veth-wan";

/// What a device counts of each frame in front of the IP header.
const ETHERNET_HEADER: u64 = 14;

/// The namespaces, for as long as this lives.
pub struct Topology {
    /// The side that is counted.
    pub local: Netns,
    /// The other side.
    pub remote: Netns,
    /// What is between them, if anything.
    pub router: Option<Netns>,
    /// What they speak.
    pub family: Family,
}

/// One end of a link.
#[derive(Clone, Copy)]
struct End<'a> {
    netns: &'a Netns,
    device: &'static str,
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
            router: None,
            family,
        };
        topology.link_up()?;
        for (end, address) in topology.hosts() {
            end.add_address(address, family.subnet_len(), family)?;
        }
        Ok(topology)
    }

    /// Makes both namespaces, a router that counts between them, and the links.
    ///
    /// # Errors
    ///
    /// `ip` fails.
    pub fn routed(family: Family) -> Result<Self> {
        let topology = Self {
            local: Netns::new("trafstat-local")?,
            remote: Netns::new("trafstat-remote")?,
            router: Some(Netns::new("trafstat-router")?),
            family,
        };
        topology.link_up()?;
        let (gateway, length) = (family.router(), family.address_len());
        for (end, address) in topology.hosts() {
            end.add_address(address, length, family)?;
            end.ip(&format!("route add {gateway}/{length} dev"), "")?;
            end.ip("route add default dev", &format!("via {gateway}"))?;
        }
        if let Some(router) = &topology.router {
            for (device, host) in [(LAN, family.local()), (WAN, family.remote())] {
                let end = End {
                    netns: router,
                    device,
                };
                end.add_address(gateway, length, family)?;
                end.ip(&format!("route add {host}/{length} dev"), "")?;
            }
            router.write_sysctl(match family {
                Family::Ipv4 => "ipv4/ip_forward",
                Family::Ipv6 => "ipv6/conf/all/forwarding",
            })?;
        }
        Ok(topology)
    }

    /// The namespace that the rules are in.
    pub fn counted(&self) -> &Netns {
        self.router.as_ref().unwrap_or(&self.local)
    }

    /// Lets no socket buffer be more than one packet: what TCP sends is cut by itself.
    ///
    /// # Errors
    ///
    /// `ip` fails.
    pub fn forbid_segmentation_offload(&self) -> Result<()> {
        for end in self.links().into_iter().flatten() {
            end.ip("link set", "gso_max_segs 1")?;
        }
        Ok(())
    }

    /// Switches features of all devices, as `ethtool -K` takes them: `tso off gro on`.
    ///
    /// # Errors
    ///
    /// `ethtool` fails.
    pub fn set_features(&self, features: &str) -> Result<()> {
        for End { netns, device } in self.links().into_iter().flatten() {
            netns.succeed(
                Command::new("ethtool")
                    .args(["-K", device])
                    .args(features.split_whitespace()),
            )?;
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
        for [left, right] in self.links() {
            for (end, other) in [(left, right), (right, left)] {
                let hardware = other.netns.hardware_address(other.device)?;
                end.ip(
                    &format!("neighbour replace {} dev", self.address(other)),
                    &format!("lladdr {hardware} nud permanent"),
                )?;
            }
        }
        Ok(())
    }

    /// What the counted namespace's ends of the links counted, both directions, less the Ethernet
    /// headers.
    ///
    /// # Errors
    ///
    /// `ip` fails.
    pub fn link_counters(&self) -> Result<RuleCounters> {
        self.links_less(ETHERNET_HEADER)
    }

    /// The same, where devices have `gro on`: then veth polls, and counts frames without their
    /// Ethernet headers.
    ///
    /// # Errors
    ///
    /// `ip` fails.
    pub fn polled_link_counters(&self) -> Result<RuleCounters> {
        self.links_less(0)
    }

    fn links_less(&self, header: u64) -> Result<RuleCounters> {
        let devices: &[_] = match self.router {
            Some(_) => &[LAN, WAN],
            None => &[DEVICE],
        };
        let mut sum = RuleCounters::default();
        for device in devices {
            let link = self.counted().link(device)?;
            for direction in ["rx", "tx"] {
                let number = |counter: &str| {
                    link["stats64"][direction][counter]
                        .as_u64()
                        .with_context(|| format!("no {direction} {counter} in {link}"))
                };
                sum.packets += number("packets")?;
                sum.bytes += number("bytes")? - header * number("packets")?;
            }
        }
        Ok(sum)
    }

    fn links(&self) -> Vec<[End<'_>; 2]> {
        let end = |netns, device| End { netns, device };
        let (local, remote) = (end(&self.local, DEVICE), end(&self.remote, PEER));
        match &self.router {
            Some(router) => vec![[local, end(router, LAN)], [end(router, WAN), remote]],
            None => vec![[local, remote]],
        }
    }

    fn link_up(&self) -> Result<()> {
        for ends in self.links() {
            let [left, right] = ends;
            left.ip(
                "link add",
                &format!(
                    "type veth peer name {} netns {}",
                    right.device, right.netns.name
                ),
            )?;
            for end in ends {
                if self.family == Family::Ipv4 {
                    end.netns.speak_no_ipv6(end.device)?;
                }
                end.ip("link set", "up")?;
            }
        }
        Ok(())
    }

    fn hosts(&self) -> [(End<'_>, IpAddr); 2] {
        let host = |netns, device, address| (End { netns, device }, address);
        [
            host(&self.local, DEVICE, self.family.local()),
            host(&self.remote, PEER, self.family.remote()),
        ]
    }

    fn address(&self, end: End<'_>) -> IpAddr {
        match end.device {
            DEVICE => self.family.local(),
            PEER => self.family.remote(),
            _ => self.family.router(),
        }
    }
}

impl End<'_> {
    /// Runs `ip` in the end's namespace, with the device between the arguments.
    fn ip(self, before: &str, after: &str) -> Result<String> {
        self.netns.ip(&format!("{before} {} {after}", self.device))
    }

    fn add_address(self, address: IpAddr, length: u8, family: Family) -> Result<()> {
        let nodad = match family {
            Family::Ipv4 => "",
            // No other host is on the link: the address is usable at once.
            Family::Ipv6 => "nodad",
        };
        self.ip(&format!("address add {address}/{length} dev"), nodad)
            .map(drop)
    }
}

/// A named network namespace, deleted when this goes.
pub struct Netns {
    name: &'static str,
}

impl Netns {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// There is one of that name.
    pub fn new(name: &'static str) -> Result<Self> {
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

    /// The file that stands for the namespace.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
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
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn link(&self, device: &str) -> Result<Value> {
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
    ///
    /// # Errors
    ///
    /// There is no such device.
    pub fn speak_no_ipv6(&self, device: &str) -> Result<()> {
        self.write_sysctl(&format!("ipv6/conf/{device}/disable_ipv6"))
    }

    /// Switches on what is below /proc/sys/net.
    fn write_sysctl(&self, name: &str) -> Result<()> {
        self.enter(|| {
            let path = format!("/proc/sys/net/{name}");
            fs::write(&path, "1").with_context(|| format!("cannot write {path}"))
        })
    }

    /// Runs `command` in the namespace to its end, however that is.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn end(&self, command: &mut Command) -> Result<ProgramOutput> {
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
        let file =
            File::open(self.path()).with_context(|| format!("no namespace {}", self.name))?;
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
