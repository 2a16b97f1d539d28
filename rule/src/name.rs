// SPDX-License-Identifier: GPL-2.0-or-later
//! The account's name: given by `--name`, else made from the local net.

use std::ffi::c_char;

use trafstat_abi::{NAME_LEN, RuleInfo};

use crate::local_net::Family;

const MAX_LEN: usize = NAME_LEN as usize - 1;

/// A name as it stands in the rule, filled up with NULs.
pub type NameField = [c_char; NAME_LEN as usize];

/// Reads a name of 1 to 31 characters `A-Z a-z 0-9 _ . : -`, the first no dot.
///
/// The name is a file name under `/proc`, and dot files would be hidden there.
///
/// # Errors
/// One line that says what would be right.
pub fn parse(text: &str) -> Result<NameField, String> {
    let quoted = text.escape_debug();
    if text.is_empty() || text.len() > MAX_LEN {
        return Err(format!(
            "'{quoted}' has {} bytes; a name has 1 to {MAX_LEN}",
            text.len()
        ));
    }
    if text.starts_with('.') {
        return Err(format!("'{quoted}' starts with a dot"));
    }
    let allowed = |char: char| char.is_ascii_alphanumeric() || "_.:-".contains(char);
    if let Some(char) = text.chars().find(|&char| !allowed(char)) {
        return Err(format!(
            "'{quoted}' has '{}' in it; a name is made of letters, digits and _ . : -",
            char.escape_debug()
        ));
    }
    Ok(field(text))
}

/// The name that a rule without `--name` counts into: address, `_`, prefix length.
///
/// # Errors
/// It would be longer than a name can be, as that of most IPv6 hosts is.
pub fn default_for<F: Family>(info: &RuleInfo) -> Result<NameField, String> {
    let addr = F::from_field(&info.local_addr);
    let default = format!("{addr}_{}", info.prefix_len);
    if default.len() > MAX_LEN {
        return Err(format!(
            "the default '{default}' has {} characters and a name has at most {MAX_LEN}; \
             choose a shorter one",
            default.len()
        ));
    }
    Ok(field(&default))
}

/// The field's text, up to the first NUL.
pub fn text(field: &NameField) -> String {
    let bytes: Vec<u8> = field
        .iter()
        .flat_map(|char| char.to_ne_bytes())
        .take_while(|&byte| byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn field(text: &str) -> NameField {
    let mut field = [0; NAME_LEN as usize];
    for (char, byte) in field[..MAX_LEN].iter_mut().zip(text.bytes()) {
        *char = c_char::from_ne_bytes([byte]);
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local_net::{Ipv4, Ipv6};
    use crate::options::empty;

    fn default_of<F: Family>(addr: F::Addr, prefix_len: u8) -> Result<String, String> {
        let info = RuleInfo {
            local_addr: F::to_field(&addr),
            prefix_len,
            ..empty()
        };
        default_for::<F>(&info).map(|name| text(&name))
    }

    #[test]
    fn shortest_and_longest_name_are_kept() {
        for name in ["a", "AZaz09_.:-", &"n".repeat(31)] {
            assert_eq!(text(&parse(name).unwrap()), name);
        }
    }

    #[test]
    fn longer_or_empty_name_is_refused_with_its_length() {
        assert!(parse("").unwrap_err().contains("0 bytes"));
        assert!(parse(&"n".repeat(32)).unwrap_err().contains("32 bytes"));
    }

    #[test]
    fn leading_dot_is_refused_and_an_inner_one_is_not() {
        for name in [".", "..", ".hidden"] {
            assert!(parse(name).unwrap_err().contains("starts with a dot"));
        }
        assert!(parse("a.b").is_ok());
    }

    #[test]
    fn foreign_characters_are_named_on_one_line() {
        for name in ["a/b", "a b", "a\nb", "ä", "a\u{7f}", "a\"b"] {
            let error = parse(name).unwrap_err();
            assert!(error.contains("made of letters"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn default_is_the_address_and_the_prefix_length() {
        let addr = "255.255.255.255".parse().unwrap();
        assert_eq!(
            default_of::<Ipv4>(addr, 32),
            Ok("255.255.255.255_32".to_owned())
        );
        let addr = "2001:DB8:0::1".parse().unwrap();
        assert_eq!(
            default_of::<Ipv6>(addr, 128),
            Ok("2001:db8::1_128".to_owned())
        );
    }

    #[test]
    fn default_is_taken_up_to_the_longest_name_and_refused_beyond() {
        let longest = "2001:db8:111:2222:333::4444".parse().unwrap();
        let name = default_of::<Ipv6>(longest, 128).unwrap();
        assert_eq!(name, "2001:db8:111:2222:333::4444_128");
        assert_eq!(name.len(), MAX_LEN);
        assert!(parse(&name).is_ok());

        let longer = "2001:db8:1111:2222:333::4444".parse().unwrap();
        let error = default_of::<Ipv6>(longer, 128).unwrap_err();
        assert!(error.contains("_128' has 32 characters"), "{error}");
        assert!(default_of::<Ipv6>(longer, 64).is_ok());
    }
}
