//! Names of ports, from services(5).

use trafstat_rule::ports::Transport;

/// The port that `/etc/services` knows by this name.
pub(super) fn port(name: &str, transport: Transport) -> Option<u16> {
    let text = std::fs::read_to_string("/etc/services").ok()?;
    port_in(&text, name, transport)
}

fn port_in(text: &str, name: &str, transport: Transport) -> Option<u16> {
    let protocol = match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    text.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let official = words.next()?;
        let (port, of) = words.next()?.split_once('/')?;
        let is_named = official == name || words.any(|alias| alias == name);
        (of == protocol && is_named).then(|| port.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &str = "\
# Network services
ssh\t\t22/tcp\t\t\t# SSH
domain\t53/tcp
domain\t53/udp
http 80/tcp www  # WorldWideWeb
broken
";

    #[test]
    fn service_is_found_by_name_or_alias_of_its_protocol() {
        assert_eq!(port_in(SERVICES, "ssh", Transport::Tcp), Some(22));
        assert_eq!(port_in(SERVICES, "ssh", Transport::Udp), None);
        assert_eq!(port_in(SERVICES, "domain", Transport::Udp), Some(53));
        assert_eq!(port_in(SERVICES, "www", Transport::Tcp), Some(80));
        assert_eq!(port_in(SERVICES, "WorldWideWeb", Transport::Tcp), None);
        assert_eq!(port_in(SERVICES, "broken", Transport::Tcp), None);
    }
}
