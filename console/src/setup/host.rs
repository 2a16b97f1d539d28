// SPDX-License-Identifier: GPL-2.0-or-later
//! What the host is like, as far as setup must know.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use procfs_core::net::{TcpNetEntries, TcpState, UdpNetEntries, UdpState};
use procfs_core::{ExplicitSystemInfo, FromBufReadSI, ProcResult};
use trafstat_store::options::config::DEFAULT_CONFIG_PATH;

use crate::system::System;

/// All that the files of sockets need of it is the byte order.
const SYSTEM: ExplicitSystemInfo = ExplicitSystemInfo {
    boot_time_secs: 0,
    ticks_per_second: 100,
    page_size: 4096,
    is_little_endian: cfg!(target_endian = "little"),
};

/// Facts about a host.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Addresses of the devices that have a default route, each a net of its own.
    pub addresses: Vec<IpNet>,
    /// TCP ports that wait for connections from elsewhere.
    pub tcp_ports: BTreeSet<u16>,
    /// UDP ports that wait for packets from elsewhere.
    pub udp_ports: BTreeSet<u16>,
    /// The programs of iptables and ip6tables in use, as far as the host has them.
    pub iptables: Option<String>,
    /// The same for IPv6.
    pub ip6tables: Option<String>,
    /// systemd runs.
    pub systemd: bool,
    /// There is a folder for cron's files.
    pub cron: bool,
    /// System V's init starts and stops what has a script in `/etc/init.d`.
    pub init_scripts: bool,
    /// netfilter-persistent restores iptables' rules.
    pub netfilter_persistent: bool,
    /// firewalld runs.
    pub firewalld: bool,
    /// ufw is enabled and flushes chains that are not its own.
    pub ufw_manages_builtins: bool,
    /// Docker has its chain for others' rules.
    pub docker: bool,
    /// The configuration's text, empty if there is none.
    pub configuration: String,
}

impl Host {
    /// Finds the facts out.
    ///
    /// # Errors
    /// A file of the system cannot be read.
    pub fn of(system: &dyn System) -> Result<Self> {
        let ufw = system.read("/etc/ufw/ufw.conf")?.unwrap_or_default();
        let ufw_default = system.read("/etc/default/ufw")?.unwrap_or_default();
        let iptables = program_in_use(system, "iptables")?;
        let docker = match &iptables {
            Some(program) => {
                system
                    .run(&[program, "-w", "-n", "-L", "DOCKER-USER"], "")?
                    .code
                    == Some(0)
            }
            None => false,
        };
        let (tcp_ports, udp_ports) = listening(system)?;
        Ok(Self {
            addresses: addresses(system)?,
            tcp_ports,
            udp_ports,
            iptables,
            ip6tables: match system.path("/proc/net/if_inet6").exists() {
                true => program_in_use(system, "ip6tables")?,
                false => None,
            },
            systemd: system.path("/run/systemd/system").exists(),
            cron: system.path("/etc/cron.d").exists(),
            init_scripts: system.has_program("update-rc.d") && system.path("/etc/rc0.d").exists(),
            netfilter_persistent: system.has_program("netfilter-persistent")
                && system
                    .path("/usr/share/netfilter-persistent/plugins.d/15-ip4tables")
                    .exists(),
            firewalld: system.path("/run/firewalld").exists()
                || system.path("/run/firewalld.pid").exists(),
            ufw_manages_builtins: says(&ufw, "ENABLED", "yes")
                && says(&ufw_default, "MANAGE_BUILTINS", "yes"),
            docker,
            configuration: system.read(DEFAULT_CONFIG_PATH)?.unwrap_or_default(),
        })
    }
}

/// The program whose rules the host uses: the alternative that is chosen, but where only the other
/// one has rules, that.
fn program_in_use(system: &dyn System, family: &str) -> Result<Option<String>> {
    if !system.has_program(family) {
        return Ok(None);
    }
    let Some(other) = other_program(system, family)? else {
        return Ok(Some(family.to_owned()));
    };
    let has_rules = |program: &str| -> Result<bool> {
        let saved = system.run(&[&format!("{program}-save"), "-t", "filter"], "")?;
        Ok(saved.stdout.lines().any(|line| line.starts_with("-A ")))
    };
    let takes_other = !has_rules(family)? && has_rules(&other)?;
    Ok(Some(match takes_other {
        true => other,
        false => family.to_owned(),
    }))
}

/// The program of the other variant, legacy or nft, where the host has it and it can have rules.
///
/// # Errors
/// A file of the system cannot be read, or a program cannot be run.
pub fn other_program(system: &dyn System, program: &str) -> Result<Option<String>> {
    let family = program.split('-').next().unwrap_or(program);
    let version = system.run(&[program, "-V"], "")?.stdout;
    let other = match version.contains("legacy") {
        true => "nft",
        false => "legacy",
    };
    let other = format!("{family}-{other}");
    if !system.has_program(&other) {
        return Ok(None);
    }
    // Asking the legacy program makes its table, which then makes iptables-nft warn for ever.
    let legacy_tables = system
        .read(match family {
            "iptables" => "/proc/net/ip_tables_names",
            _ => "/proc/net/ip6_tables_names",
        })?
        .unwrap_or_default();
    let can_have_rules = other.ends_with("nft") || !legacy_tables.trim().is_empty();
    Ok(can_have_rules.then_some(other))
}

/// The addresses of the devices with a default route.
fn addresses(system: &dyn System) -> Result<Vec<IpNet>> {
    let mut found = Vec::new();
    if let Some(routes) = system.read("/proc/net/route")? {
        let devices = default_devices_ipv4(&routes);
        for interface in ipv4_addresses(system)? {
            if devices.contains(&interface.0) && interface.1.is_ipv4() {
                found.push(IpNet::from(interface.1));
            }
        }
    }
    if let (Some(routes), Some(interfaces)) = (
        system.read("/proc/net/ipv6_route")?,
        system.read("/proc/net/if_inet6")?,
    ) {
        let devices = default_devices_ipv6(&routes);
        found.extend(
            global_ipv6(&interfaces)
                .filter(|(device, _)| devices.iter().any(|found| found == device))
                .map(|(_, address)| IpNet::from(IpAddr::V6(address))),
        );
    }
    found.dedup();
    Ok(found)
}

/// Devices and their IPv4 addresses.
fn ipv4_addresses(system: &dyn System) -> Result<Vec<(String, IpAddr)>> {
    let listed = system.succeed(
        &["ip", "-o", "-4", "address", "show", "scope", "global"],
        "",
    )?;
    Ok(listed
        .lines()
        .filter_map(|line| {
            // 2: eth0    inet 192.0.2.1/24 brd ...
            let mut words = line.split_whitespace();
            let device = words.nth(1)?;
            let address = words.skip_while(|word| *word != "inet").nth(1)?;
            let address = address.split('/').next()?.parse().ok()?;
            Some((device.to_owned(), address))
        })
        .collect())
}

/// Devices of routes to 0.0.0.0/0 in /proc/net/route.
fn default_devices_ipv4(routes: &str) -> Vec<String> {
    routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            // Iface Destination Gateway Flags RefCnt Use Metric Mask ...
            let [device, "00000000", _, _, _, _, _, "00000000", ..] = fields[..] else {
                return None;
            };
            Some(device.to_owned())
        })
        .collect()
}

/// Devices of routes to ::/0 in /proc/net/ipv6_route, but the loopback device's refusals.
fn default_devices_ipv6(routes: &str) -> Vec<String> {
    routes
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (destination, length, device) = (fields.first()?, fields.get(1)?, fields.last()?);
            let is_default = destination.bytes().all(|digit| digit == b'0') && *length == "00";
            (is_default && *device != "lo").then(|| (*device).to_owned())
        })
        .collect()
}

/// Devices and their global addresses in /proc/net/if_inet6, but temporary ones (RFC 8981), which
/// change within days.
fn global_ipv6(interfaces: &str) -> impl Iterator<Item = (&str, Ipv6Addr)> {
    const GLOBAL: u8 = 0x00;
    const TEMPORARY: u8 = 0x01;
    interfaces.lines().filter_map(|line| {
        // address index prefix scope flags device
        let fields: Vec<_> = line.split_whitespace().collect();
        let [address, _, _, scope, flags, device] = fields[..] else {
            return None;
        };
        let number = |text| u8::from_str_radix(text, 16).ok();
        let is_lasting = number(scope)? == GLOBAL && number(flags)? & TEMPORARY == 0;
        let address = u128::from_str_radix(address, 16).ok()?;
        is_lasting.then_some((device, Ipv6Addr::from(address)))
    })
}

/// TCP and UDP ports that wait for others, not for this host alone.
fn listening(system: &dyn System) -> Result<(BTreeSet<u16>, BTreeSet<u16>)> {
    let range = system
        .read("/proc/sys/net/ipv4/ip_local_port_range")?
        .unwrap_or_default();
    let mut bounds = range
        .split_whitespace()
        .filter_map(|text| text.parse().ok());
    let ephemeral = bounds.next().unwrap_or(32_768)..=bounds.next().unwrap_or(60_999);
    let mut tcp = BTreeSet::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = system.read(file)?.unwrap_or_default();
        tcp.extend(listening_tcp(&text).with_context(|| format!("cannot understand {file}"))?);
    }
    let mut udp = BTreeSet::new();
    for file in ["/proc/net/udp", "/proc/net/udp6"] {
        let text = system.read(file)?.unwrap_or_default();
        udp.extend(listening_udp(&text).with_context(|| format!("cannot understand {file}"))?);
    }
    // A client that asks has such a port for a moment, too.
    udp.retain(|port| !ephemeral.contains(port));
    Ok((tcp, udp))
}

fn listening_tcp(text: &str) -> ProcResult<BTreeSet<u16>> {
    let sockets = TcpNetEntries::from_buf_read(text.as_bytes(), &SYSTEM)?.0;
    let listening = sockets
        .iter()
        .filter(|socket| socket.state == TcpState::Listen);
    Ok(listening
        .filter_map(|socket| public_port(socket.local_address))
        .collect())
}

fn listening_udp(text: &str) -> ProcResult<BTreeSet<u16>> {
    let sockets = UdpNetEntries::from_buf_read(text.as_bytes(), &SYSTEM)?.0;
    // One that is connected has the state of an established connection.
    let waiting = sockets
        .iter()
        .filter(|socket| socket.state == UdpState::Close);
    Ok(waiting
        .filter_map(|socket| public_port(socket.local_address))
        .collect())
}

/// The port of a socket that others than this host reach.
fn public_port(socket: SocketAddr) -> Option<u16> {
    let is_loopback = match socket.ip() {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback()
                || address
                    .to_ipv4_mapped()
                    .is_some_and(|address| address.is_loopback())
        }
    };
    (!is_loopback).then_some(socket.port())
}

/// Whether a file of shell variables gives one this value.
fn says(text: &str, name: &str, value: &str) -> bool {
    text.lines().any(|line| {
        line.trim()
            .split_once('=')
            .is_some_and(|(key, given)| key == name && given.trim_matches(['"', '\'']) == value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_of_the_default_route_is_found() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
                      eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                      eth1\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_devices_ipv4(routes), ["eth0"]);
        let routes = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                      fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n\
                      00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                      00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";
        assert_eq!(default_devices_ipv6(routes), ["eth0"]);
    }

    #[test]
    fn temporary_and_link_local_addresses_are_left_out() {
        let text = "20010db8000000000000000000000001 02 40 00 80     eth0\n\
                    20010db80000000000000000deadbeef 02 40 00 01     eth0\n\
                    fe800000000000000000000000000001 02 40 20 80     eth0\n\
                    00000000000000000000000000000001 01 80 10 80       lo\n";
        let found: Vec<_> = global_ipv6(text).collect();
        assert_eq!(found, [("eth0", "2001:db8::1".parse().unwrap())]);
    }

    #[test]
    fn ports_that_only_this_host_reaches_are_left_out() {
        let sockets = |lines: &[&str]| {
            let mut text = "  sl  local_address rem_address   st tx_queue\n".to_owned();
            for line in lines {
                text += &format!("{line} 00000000:00000000 00:00000000 00000000 0 0 1 2 0\n");
            }
            text
        };
        let text = sockets(&[
            "0: 00000000:0016 00000000:0000 0A",
            "1: 0100007F:0CEA 00000000:0000 0A",
            "2: 0102A8C0:01BB 0202A8C0:9C40 01",
            "3: 0102A8C0:0050 00000000:0000 0A",
        ]);
        assert_eq!(listening_tcp(&text).unwrap(), [22, 80].into());
        let any = "00000000000000000000000000000000:0000";
        let text = sockets(&[
            &format!("0: 00000000000000000000000000000000:0050 {any} 0A"),
            &format!("1: 00000000000000000000000001000000:0277 {any} 0A"),
            &format!("2: 0000000000000000FFFF00000100007F:1F90 {any} 0A"),
        ]);
        assert_eq!(listening_tcp(&text).unwrap(), [80].into());
        let text = sockets(&[
            "0: 00000000:007B 00000000:0000 07",
            "1: 0102A8C0:9C40 0202A8C0:0035 01",
        ]);
        assert_eq!(listening_udp(&text).unwrap(), [123].into());
    }

    #[test]
    fn shell_variable_is_read_with_and_without_quotes() {
        assert!(says("# x\nENABLED=yes\n", "ENABLED", "yes"));
        assert!(says("MANAGE_BUILTINS=\"yes\"", "MANAGE_BUILTINS", "yes"));
        assert!(!says("#ENABLED=yes", "ENABLED", "yes"));
    }
}
