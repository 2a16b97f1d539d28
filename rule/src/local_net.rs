// SPDX-License-Identifier: GPL-2.0-or-later
//! The local net as each address family writes it.

use std::{
    fmt::Display,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use trafstat_abi::ADDR_LEN;

use crate::decimal;

/// An address as it stands in the rule: network byte order, at the front of the array.
pub type AddrField = [u8; ADDR_LEN as usize];

/// An address, with its host bits, and the length of the prefix that makes it a net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalNet {
    /// The address, host bits as typed.
    pub addr: AddrField,
    /// Bits of the net.
    pub prefix_len: u8,
}

/// An address family that the target is registered for.
pub trait Family {
    /// An address, read and written as text; IPv6 is written as RFC 5952 has it.
    type Addr: FromStr + Display;
    /// The family whose addresses are most likely given in place of this one's.
    type Other: Family;

    /// `IPv4` or `IPv6`.
    const NAME: &'static str;
    /// The program that makes rules of this family.
    const PROGRAM: &'static str;
    /// What an address looks like, for those who gave something else.
    const ADDR_FORM: &'static str;
    /// Bits of an address, the longest prefix.
    const ADDR_BITS: u8;

    /// The address as it stands in a rule.
    fn to_field(addr: &Self::Addr) -> AddrField;
    /// The address that stands in a rule.
    fn from_field(field: &AddrField) -> Self::Addr;
}

/// The family of iptables.
pub enum Ipv4 {}

/// The family of ip6tables.
pub enum Ipv6 {}

impl Family for Ipv4 {
    type Addr = Ipv4Addr;
    type Other = Ipv6;

    const NAME: &'static str = "IPv4";
    const PROGRAM: &'static str = "iptables";
    const ADDR_FORM: &'static str = "four numbers from 0 to 255, such as 192.0.2.1";
    const ADDR_BITS: u8 = 32;

    fn to_field(addr: &Ipv4Addr) -> AddrField {
        let mut field = AddrField::default();
        field[..4].copy_from_slice(&addr.octets());
        field
    }

    fn from_field(field: &AddrField) -> Ipv4Addr {
        Ipv4Addr::new(field[0], field[1], field[2], field[3])
    }
}

impl Family for Ipv6 {
    type Addr = Ipv6Addr;
    type Other = Ipv4;

    const NAME: &'static str = "IPv6";
    const PROGRAM: &'static str = "ip6tables";
    const ADDR_FORM: &'static str = "an address such as 2001:db8::1, without a zone or brackets";
    const ADDR_BITS: u8 = 128;

    fn to_field(addr: &Ipv6Addr) -> AddrField {
        addr.octets()
    }

    fn from_field(field: &AddrField) -> Ipv6Addr {
        Ipv6Addr::from(*field)
    }
}

/// Reads `ADDRESS`, `ADDRESS/PREFIX` or `ADDRESS/MASK`; a bare address is a host.
///
/// # Errors
/// One line that says what would be right.
pub fn parse<F: Family>(text: &str) -> Result<LocalNet, String> {
    let (host, prefix) = match text.split_once('/') {
        Some((host, prefix)) => (host, Some(prefix)),
        None => (text, None),
    };
    Ok(LocalNet {
        addr: F::to_field(&parse_host::<F>(host)?),
        prefix_len: prefix.map_or(Ok(F::ADDR_BITS), parse_prefix::<F>)?,
    })
}

fn parse_host<F: Family>(text: &str) -> Result<F::Addr, String> {
    text.parse().map_err(|_| {
        let quoted = text.escape_debug();
        if text.parse::<<F::Other as Family>::Addr>().is_ok() {
            format!(
                "'{quoted}' is an {} address, but a rule of {} needs an {} address; \
                 give this one to {}",
                F::Other::NAME,
                F::PROGRAM,
                F::NAME,
                F::Other::PROGRAM
            )
        } else {
            format!(
                "'{quoted}' is not an {} address; give {} (names are not looked up)",
                F::NAME,
                F::ADDR_FORM
            )
        }
    })
}

fn parse_prefix<F: Family>(text: &str) -> Result<u8, String> {
    if !text.contains(['.', ':']) {
        return match decimal::parse(text, 0, F::ADDR_BITS.into()) {
            Ok(prefix_len) => Ok(prefix_len as u8),
            Err(reason) => Err(format!("prefix length {reason}")),
        };
    }
    let mask: F::Addr = text
        .parse()
        .map_err(|_| format!("'{}' is not an {} mask", text.escape_debug(), F::NAME))?;
    let bits = u128::from_be_bytes(F::to_field(&mask));
    if bits.leading_ones() + bits.trailing_zeros() < u128::BITS {
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
        let mut addr = AddrField::default();
        addr[..4].copy_from_slice(&[a, b, c, d]);
        LocalNet { addr, prefix_len }
    }

    fn ipv6(segments: [u16; 8], prefix_len: u8) -> LocalNet {
        LocalNet {
            addr: Ipv6Addr::from(segments).octets(),
            prefix_len,
        }
    }

    #[test]
    fn bare_address_is_a_host() {
        assert_eq!(parse::<Ipv4>("192.0.2.1"), Ok(ipv4(192, 0, 2, 1, 32)));
        assert_eq!(
            parse::<Ipv6>("2001:db8::1"),
            Ok(ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 128))
        );
    }

    #[test]
    fn host_bits_stay_as_typed() {
        assert_eq!(parse::<Ipv4>("10.1.2.3/8"), Ok(ipv4(10, 1, 2, 3, 8)));
        assert_eq!(
            parse::<Ipv6>("2001:db8::1/32"),
            Ok(ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 32))
        );
    }

    /// Every mask of the family, and the length of its prefix, on `host`.
    fn mask_is_its_prefix_length<F: Family>(host: &str) {
        for prefix_len in 0..=F::ADDR_BITS {
            let bits = u128::MAX
                .checked_shl(u128::BITS - u32::from(prefix_len))
                .unwrap_or(0);
            let mask = F::from_field(&bits.to_be_bytes());
            let net = parse::<F>(&format!("{host}/{mask}"));
            assert_eq!(net.as_ref().map(|net| net.prefix_len), Ok(prefix_len));
            assert_eq!(net, parse::<F>(&format!("{host}/{prefix_len}")));
        }
    }

    #[test]
    fn mask_and_prefix_length_are_the_same_net() {
        mask_is_its_prefix_length::<Ipv4>("10.1.2.3");
        mask_is_its_prefix_length::<Ipv6>("2001:db8::1");
    }

    #[test]
    fn mask_with_a_hole_is_refused() {
        for mask in ["255.0.255.0", "0.0.0.255", "255.255.255.1", "127.0.0.0"] {
            let error = parse::<Ipv4>(&format!("10.0.0.0/{mask}")).unwrap_err();
            assert!(error.contains("not contiguous"), "{error}");
        }
        for mask in ["ffff:0:ffff::", "::1", "ffff::1", "7fff::"] {
            let error = parse::<Ipv6>(&format!("2001:db8::/{mask}")).unwrap_err();
            assert!(error.contains("not contiguous"), "{error}");
        }
    }

    #[test]
    fn mask_of_the_other_family_is_refused() {
        let error = parse::<Ipv4>("10.0.0.0/ff00::").unwrap_err();
        assert_eq!(error, "'ff00::' is not an IPv4 mask");
        let error = parse::<Ipv6>("2001:db8::/255.0.0.0").unwrap_err();
        assert_eq!(error, "'255.0.0.0' is not an IPv6 mask");
    }

    #[test]
    fn address_of_the_other_family_is_sent_to_its_program() {
        for text in ["2001:db8::1", "2001:db8::/32", "::ffff:192.0.2.1"] {
            let error = parse::<Ipv4>(text).unwrap_err();
            assert!(error.contains("is an IPv6 address"), "{error}");
            assert!(error.ends_with("give this one to ip6tables"), "{error}");
        }
        for text in ["192.0.2.1", "10.0.0.0/8", "0.0.0.0/::"] {
            let error = parse::<Ipv6>(text).unwrap_err();
            assert!(error.contains("is an IPv4 address"), "{error}");
            assert!(error.ends_with("give this one to iptables"), "{error}");
        }
    }

    #[test]
    fn ipv6_is_written_as_rfc_5952_has_it() {
        for (text, written) in [
            ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
            ("2001:0db8::0001", "2001:db8::1"),
            ("2001:db8::1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
            ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
            ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
            ("::ffff:c000:201", "::ffff:192.0.2.1"),
            ("0::0", "::"),
        ] {
            let net = parse::<Ipv6>(text).unwrap();
            assert_eq!(Ipv6::from_field(&net.addr).to_string(), written);
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
            let error = parse::<Ipv4>(text).unwrap_err();
            assert!(error.contains("is not an IPv4 address"), "{text}: {error}");
        }
    }

    #[test]
    fn anything_but_a_whole_ipv6_address_is_refused() {
        for text in [
            "",
            "/64",
            ":",
            "2001:db8",
            "2001:db8::1::2",
            "2001:db8:1:2:3:4:5:6:7",
            "2001:db8::12345",
            "2001:db8::g",
            "[2001:db8::1]",
            "fe80::1%eth0",
            "example.org",
            " 2001:db8::1",
        ] {
            let error = parse::<Ipv6>(text).unwrap_err();
            assert!(error.contains("is not an IPv6 address"), "{text}: {error}");
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
            assert!(parse::<Ipv4>(text).is_err(), "{text}");
        }
        for text in [
            "2001:db8::/",
            "2001:db8::/129",
            "2001:db8::/-1",
            "2001:db8::/064",
            "2001:db8::/64/64",
            "2001:db8::/ffff:",
            "2001:db8::/x",
        ] {
            assert!(parse::<Ipv6>(text).is_err(), "{text}");
        }
    }
}
