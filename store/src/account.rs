// SPDX-License-Identifier: GPL-2.0-or-later
//! What an account is known by.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// The address family of an account, which counts the packets of one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4 (`TRAFSTAT_FAMILY_IPV4`).
    Ipv4,
    /// IPv6 (`TRAFSTAT_FAMILY_IPV6`).
    Ipv6,
}

/// The family and name of an account: the path of its snapshot under `/proc`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// Which packets it counts.
    pub family: Family,
    /// Its name, unique in its family and network namespace.
    pub name: Name,
}

/// A name that an account may have: `[A-Za-z0-9_.:-]{1,31}`, no leading dot.
///
/// So it is safe as a part of a path and on a terminal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name(String);

/// A text that no account can be named.
#[derive(Debug, Error)]
#[error(
    "{0:?} is not an account name: 1 to 31 letters, digits or any of \"_.:-\", \
     the first no dot"
)]
pub struct NameError(String);

/// A text that names no address family.
#[derive(Debug, Error)]
#[error("{0:?} is not an address family: expected ipv4 or ipv6")]
pub struct FamilyError(String);

impl Family {
    /// The family as it stands in paths and columns: `ipv4` or `ipv6`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Family {
    type Err = FamilyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ipv4" => Ok(Self::Ipv4),
            "ipv6" => Ok(Self::Ipv6),
            _ => Err(FamilyError(text.to_owned())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
        let valid = text.len() < trafstat_abi::NAME_LEN as usize
            && !text.is_empty()
            && !text.starts_with('.')
            && text.bytes().all(allowed);
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError(text.to_owned()))
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_name_of_a_local_net_is_a_name() {
        assert_eq!(
            "192.0.2.0_24".parse::<Name>().unwrap().as_str(),
            "192.0.2.0_24"
        );
    }

    #[test]
    fn name_that_leaves_its_folder_is_refused() {
        for text in [
            "",
            ".",
            "..",
            ".hidden",
            "a/b",
            "a b",
            "a\n",
            "é",
            "a\u{1b}[m",
        ] {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn name_has_at_most_31_characters() {
        assert!("a".repeat(31).parse::<Name>().is_ok());
        assert!("a".repeat(32).parse::<Name>().is_err());
    }

    #[test]
    fn error_shows_no_control_character() {
        let error = "\u{1b}[2J".parse::<Name>().unwrap_err().to_string();
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
}
