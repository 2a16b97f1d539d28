// SPDX-License-Identifier: GPL-2.0-or-later
//! Names of ports, from services(5).

use std::collections::HashMap;

use trafstat_rule::ports::Transport;

/// What `/etc/services` says.
#[derive(Debug, Clone, Default)]
pub struct Services {
    ports: HashMap<(Of, String), u16>,
    names: HashMap<(Of, u16), String>,
}

/// The protocols that services are listed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Of {
    Tcp,
    Udp,
}

/// The port that `/etc/services` knows by this name.
pub fn port(name: &str, transport: Transport) -> Option<u16> {
    let of = match transport {
        Transport::Tcp => Of::Tcp,
        Transport::Udp => Of::Udp,
    };
    Services::read().ports.get(&(of, name.to_owned())).copied()
}

impl Services {
    /// Reads this host's; nothing where there are none.
    pub fn read() -> Self {
        std::fs::read_to_string("/etc/services")
            .map(|text| Self::parse(&text))
            .unwrap_or_default()
    }

    /// The port of a name or an alias, of TCP rather than of UDP.
    pub fn port(&self, name: &str) -> Option<u16> {
        let port = |of| self.ports.get(&(of, name.to_owned()));
        port(Of::Tcp).or_else(|| port(Of::Udp)).copied()
    }

    /// The name of a port of an IANA protocol number, or of TCP or UDP where none is known.
    ///
    /// SCTP and DCCP have the names of TCP, UDP-Lite those of UDP.
    pub fn name(&self, port: u16, protocol: Option<u8>) -> Option<&str> {
        let name = |of| self.names.get(&(of, port));
        match protocol {
            Some(6 | 33 | 132) => name(Of::Tcp),
            Some(17 | 136) => name(Of::Udp),
            Some(_) => None,
            None => name(Of::Tcp).or_else(|| name(Of::Udp)),
        }
        .map(String::as_str)
    }

    fn parse(text: &str) -> Self {
        let mut services = Self::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let (Some(official), Some(place)) = (words.next(), words.next()) else {
                continue;
            };
            let Some((Ok(port), of)) = place.split_once('/').and_then(|(port, protocol)| {
                let of = match protocol {
                    "tcp" => Of::Tcp,
                    "udp" => Of::Udp,
                    _ => return None,
                };
                Some((port.parse::<u16>(), of))
            }) else {
                continue;
            };
            // As getservbyname(3): the first line that fits.
            for name in std::iter::once(official).chain(words) {
                services.ports.entry((of, name.to_owned())).or_insert(port);
            }
            services
                .names
                .entry((of, port))
                .or_insert_with(|| official.to_owned());
        }
        services
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &str = "\
# Network services
ssh\t\t22/tcp\t\t\t# SSH
domain\t53/tcp
domain\t53/udp
ntp 123/udp
http 80/tcp www  # WorldWideWeb
broken
shell 514/tcp
syslog 514/udp
";

    #[test]
    fn service_is_found_by_name_or_alias_of_its_protocol() {
        let services = Services::parse(SERVICES);
        let port = |of, name: &str| services.ports.get(&(of, name.to_owned())).copied();
        assert_eq!(port(Of::Tcp, "ssh"), Some(22));
        assert_eq!(port(Of::Udp, "ssh"), None);
        assert_eq!(port(Of::Udp, "domain"), Some(53));
        assert_eq!(port(Of::Tcp, "www"), Some(80));
        assert_eq!(port(Of::Tcp, "WorldWideWeb"), None);
        assert_eq!(port(Of::Tcp, "broken"), None);
        assert_eq!(services.port("ntp"), Some(123));
    }

    #[test]
    fn port_has_the_name_of_its_protocol() {
        let services = Services::parse(SERVICES);
        assert_eq!(services.name(514, Some(6)), Some("shell"));
        assert_eq!(services.name(514, Some(132)), Some("shell"));
        assert_eq!(services.name(514, Some(17)), Some("syslog"));
        assert_eq!(services.name(514, Some(1)), None);
        assert_eq!(services.name(514, None), Some("shell"));
        assert_eq!(services.name(123, None), Some("ntp"));
        assert_eq!(services.name(0, None), None);
    }
}
