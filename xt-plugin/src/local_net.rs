//! The local net as each address family writes it.

use std::net::{Ipv4Addr, Ipv6Addr};

use trafstat_abi::ADDR_LEN;

use crate::decimal;

/// An address and the length of the prefix that makes it a net.
///
/// The address is in network byte order, at the front of the array, and keeps its
/// host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalNet {
    pub addr: [u8; ADDR_LEN as usize],
    pub prefix_len: u8,
}

/// An address family that the target is registered for.
pub trait Family {
    /// Reads `ADDRESS`, `ADDRESS/PREFIX` or `ADDRESS/MASK`; a bare address is a host.
    fn parse(text: &str) -> Result<LocalNet, String>;

    /// Writes the address alone.
    fn format_addr(addr: &[u8; ADDR_LEN as usize]) -> String;
}

/// The family of iptables.
pub enum Ipv4 {}

impl Family for Ipv4 {
    fn parse(text: &str) -> Result<LocalNet, String> {
        let (host, prefix) = match text.split_once('/') {
            Some((host, prefix)) => (host, Some(prefix)),
            None => (text, None),
        };
        let host = parse_ipv4(host)?;
        let mut addr = [0; ADDR_LEN as usize];
        addr[..4].copy_from_slice(&host.octets());
        Ok(LocalNet {
            addr,
            prefix_len: prefix.map_or(Ok(32), parse_ipv4_prefix)?,
        })
    }

    fn format_addr(addr: &[u8; ADDR_LEN as usize]) -> String {
        Ipv4Addr::new(addr[0], addr[1], addr[2], addr[3]).to_string()
    }
}

fn parse_ipv4(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| {
        let quoted = text.escape_debug();
        if text.parse::<Ipv6Addr>().is_ok() {
            format!("'{quoted}' is an IPv6 address, but a rule of iptables needs an IPv4 address")
        } else {
            format!(
                "'{quoted}' is not an IPv4 address; give four numbers from 0 to 255, \
                 such as 192.0.2.1 (names are not looked up)"
            )
        }
    })
}

fn parse_ipv4_prefix(text: &str) -> Result<u8, String> {
    if !text.contains('.') {
        return match decimal::parse(text, 0, 32) {
            Ok(prefix_len) => Ok(prefix_len as u8),
            Err(reason) => Err(format!("prefix length {reason}")),
        };
    }
    let mask: Ipv4Addr = text
        .parse()
        .map_err(|_| format!("'{}' is not a network mask", text.escape_debug()))?;
    let bits = u32::from(mask);
    if bits.leading_ones() + bits.trailing_zeros() < 32 {
        return Err(format!(
            "mask {mask} is not contiguous; its ones must all come before its zeros"
        ));
    }
    Ok(bits.leading_ones() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(a: u8, b: u8, c: u8, d: u8, prefix_len: u8) -> LocalNet {
        let mut addr = [0; ADDR_LEN as usize];
        addr[..4].copy_from_slice(&[a, b, c, d]);
        LocalNet { addr, prefix_len }
    }

    #[test]
    fn bare_address_is_a_host() {
        assert_eq!(Ipv4::parse("192.0.2.1"), Ok(ipv4(192, 0, 2, 1, 32)));
    }

    #[test]
    fn host_bits_stay_as_typed() {
        assert_eq!(Ipv4::parse("10.1.2.3/8"), Ok(ipv4(10, 1, 2, 3, 8)));
    }

    #[test]
    fn mask_and_prefix_length_are_the_same_net() {
        for prefix_len in 0..=32_u8 {
            let mask = Ipv4Addr::from(
                u32::MAX
                    .checked_shl(32 - u32::from(prefix_len))
                    .unwrap_or(0),
            );
            assert_eq!(
                Ipv4::parse(&format!("10.1.2.3/{mask}")),
                Ipv4::parse(&format!("10.1.2.3/{prefix_len}")),
            );
            assert_eq!(
                Ipv4::parse(&format!("10.1.2.3/{mask}")),
                Ok(ipv4(10, 1, 2, 3, prefix_len)),
            );
        }
    }

    #[test]
    fn mask_with_a_hole_is_refused() {
        for mask in ["255.0.255.0", "0.0.0.255", "255.255.255.1", "127.0.0.0"] {
            let error = Ipv4::parse(&format!("10.0.0.0/{mask}")).unwrap_err();
            assert!(error.contains("not contiguous"), "{error}");
        }
    }

    #[test]
    fn ipv6_is_named_as_such() {
        for text in ["2001:db8::1", "2001:db8::/32", "::ffff:192.0.2.1"] {
            let error = Ipv4::parse(text).unwrap_err();
            assert!(error.contains("IPv6"), "{error}");
        }
    }

    #[test]
    fn anything_but_four_numbers_is_refused() {
        for text in [
            "",
            "/",
            "/24",
            "10",
            "10.0.0",
            "10.0.0.256",
            "10.0.0.0.0",
            "example.org",
            "010.0.0.1",
            " 10.0.0.1",
        ] {
            let error = Ipv4::parse(text).unwrap_err();
            assert!(error.contains("is not an IPv4 address"), "{text}: {error}");
        }
    }

    #[test]
    fn prefix_outside_the_address_is_refused() {
        for text in [
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/08",
            "10.0.0.0/24/24",
            "10.0.0.0/255.255",
            "10.0.0.0/x",
        ] {
            assert!(Ipv4::parse(text).is_err(), "{text}");
        }
    }
}
