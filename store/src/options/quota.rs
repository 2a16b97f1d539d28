// SPDX-License-Identifier: GPL-2.0-or-later
//! Section `[quota]` of the configuration: how much traffic may go over.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::de::{self, Deserialize, Deserializer};

use crate::account::Name;
use crate::protocol;
use crate::query::Filter;
use crate::snapshot::Counters;

/// Section `[quota]`.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct QuotaConfig {
    /// At how many percent of a limit to warn, in ascending order.
    #[serde(deserialize_with = "percentages")]
    pub warn_at: Vec<u32>,
    /// The program that is run for a warning, and its arguments.
    #[serde(deserialize_with = "command")]
    pub command: Vec<String>,
    /// File that keeps which warnings were given.
    pub state: Option<PathBuf>,
    /// What is limited.
    #[serde(deserialize_with = "limits")]
    pub limit: Vec<QuotaLimit>,
}

/// One of `[[quota.limit]]`; what it does not say admits all.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct QuotaLimit {
    /// What it is called; no two are called the same.
    pub name: String,
    /// How much may go over in a period.
    #[serde(deserialize_with = "bytes")]
    pub bytes: ByteSize,
    /// The local address, or a net of them.
    #[serde(default, deserialize_with = "net")]
    pub local_ip: Option<IpNet>,
    /// The local port, or a range of them.
    #[serde(default, deserialize_with = "ports")]
    pub local_port: Option<RangeInclusive<u16>>,
    /// The protocol.
    #[serde(default, deserialize_with = "protocol_number")]
    pub protocol: Option<u8>,
    /// The account.
    #[serde(default, deserialize_with = "account")]
    pub account: Option<Name>,
    /// How long the period is.
    #[serde(default)]
    pub per: QuotaPeriod,
    /// The day of the month on which a month begins; the last one of a month that has not so many.
    #[serde(default = "first", deserialize_with = "day")]
    pub reset_day: i8,
    /// Which way is counted.
    #[serde(default)]
    pub count: QuotaDirection,
}

/// How long a quota's period is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuotaPeriod {
    /// A day of the local time zone.
    Day,
    /// A month, from the reset day on.
    #[default]
    Month,
}

/// Which bytes a quota counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuotaDirection {
    /// Sent and received.
    #[default]
    Both,
    /// What the local side sent.
    Sent,
    /// What the local side received.
    Received,
}

impl Default for QuotaConfig {
    fn default() -> Self {
        Self {
            warn_at: vec![80, 100],
            command: Vec::new(),
            state: None,
            limit: Vec::new(),
        }
    }
}

impl QuotaLimit {
    /// Which records count, without a time.
    pub fn filter(&self) -> Filter {
        Filter {
            local: self.local_ip.into_iter().collect(),
            local_ports: self.local_port.clone().into_iter().collect(),
            protocols: self.protocol.into_iter().collect(),
            accounts: self.account.clone().into_iter().collect(),
            ..Filter::default()
        }
    }
}

impl QuotaDirection {
    /// The bytes that count.
    pub fn bytes(self, counters: &Counters) -> u64 {
        match self {
            Self::Both => counters.bytes(),
            Self::Sent => counters.sent_bytes,
            Self::Received => counters.received_bytes,
        }
    }
}

fn first() -> i8 {
    1
}

fn day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i8, D::Error> {
    let day = i64::deserialize(deserializer)?;
    (i8::try_from(day).ok())
        .filter(|day| (1..=31).contains(day))
        .ok_or_else(|| de::Error::custom("expected a day of the month, from 1 to 31"))
}

fn percentages<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let mut percentages = Vec::<u32>::deserialize(deserializer)?;
    if percentages.contains(&0) {
        return Err(de::Error::custom(
            "expected percentages from 1, such as [80, 100]",
        ));
    }
    percentages.sort_unstable();
    percentages.dedup();
    Ok(percentages)
}

fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let words = Vec::<String>::deserialize(deserializer)?;
    match words.first() {
        Some(program) if program.starts_with('/') => Ok(words),
        _ => Err(de::Error::custom(
            "expected a program with its whole path and its arguments, such as \
             [\"/usr/bin/logger\", \"quota\"]",
        )),
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    let text = String::deserialize(deserializer)?;
    let size: Result<ByteSize, _> = text.parse();
    size.ok()
        .filter(|size| size.as_u64() > 0)
        .ok_or_else(|| de::Error::custom("expected a size such as \"500 GB\" or \"20 GiB\""))
}

fn net<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpNet>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let net = text
        .parse()
        .or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()));
    net.map(Some)
        .map_err(|_| de::Error::custom("expected an address or a net such as \"192.0.2.0/24\""))
}

fn ports<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<RangeInclusive<u16>>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum PortOrRange {
        One(i64),
        Range(String),
    }
    let range = match PortOrRange::deserialize(deserializer) {
        Ok(PortOrRange::One(port)) => u16::try_from(port).ok().map(|port| port..=port),
        Ok(PortOrRange::Range(text)) => text.split_once('-').and_then(|(first, last)| {
            let range = first.trim().parse().ok()?..=last.trim().parse().ok()?;
            (!range.is_empty()).then_some(range)
        }),
        Err(_) => None,
    };
    range.map(Some).ok_or_else(|| {
        de::Error::custom("expected a port such as 443, or a range such as \"8000-8099\"")
    })
}

fn protocol_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    protocol::parse(&text)
        .map(Some)
        .ok_or_else(|| de::Error::custom("expected a protocol such as \"tcp\""))
}

fn account<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Name>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(de::Error::custom)
}

fn limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<QuotaLimit>, D::Error> {
    let limits = Vec::<QuotaLimit>::deserialize(deserializer)?;
    for (index, limit) in limits.iter().enumerate() {
        if limit.name.is_empty() || limit.name.chars().any(char::is_control) {
            return Err(de::Error::custom("a limit's name must be a line of text"));
        }
        if limits[..index].iter().any(|other| other.name == limit.name) {
            return Err(de::Error::custom("two limits have the same name"));
        }
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<QuotaConfig, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn limit_says_what_counts() {
        let config = parse(
            "warn-at = [100, 50, 50]\ncommand = [\"/bin/true\"]\n[[limit]]\nname = \"web\"\n\
             bytes = \"500 GB\"\nlocal-ip = \"192.0.2.7\"\nlocal-port = \"8000-8099\"\n\
             protocol = \"tcp\"\naccount = \"lan\"\nreset-day = 15\ncount = \"sent\"\n",
        )
        .unwrap();
        assert_eq!(config.warn_at, [50, 100]);
        let limit = &config.limit[0];
        assert_eq!(limit.bytes, ByteSize::gb(500));
        let filter = limit.filter();
        assert_eq!(filter.local, ["192.0.2.7/32".parse().unwrap()]);
        assert_eq!(filter.local_ports, [8000..=8099]);
        assert_eq!((filter.protocols, limit.per), (vec![6], QuotaPeriod::Month));
        assert_eq!((limit.reset_day, limit.count), (15, QuotaDirection::Sent));
    }

    #[test]
    fn little_is_needed() {
        let config =
            parse("[[limit]]\nname = \"all\"\nbytes = \"1 GiB\"\nper = \"day\"\n").unwrap();
        assert_eq!(config.warn_at, [80, 100]);
        assert_eq!(config.limit[0].filter().local_ports, []);
        assert_eq!(config.limit[0].count, QuotaDirection::Both);
    }

    #[test]
    fn wrong_limit_says_what_would_be_right() {
        let limit = |line: &str| format!("[[limit]]\nname = \"a\"\nbytes = \"1 GB\"\n{line}\n");
        for (text, expected) in [
            (limit("reset-day = 32"), "from 1 to 31"),
            (limit("local-port = 65536"), "8000-8099"),
            (limit("local-port = \"9-8\""), "8000-8099"),
            (limit("local-ip = \"192.0.2.0/33\""), "192.0.2.0/24"),
            (limit("protocol = \"tcpp\""), "tcp"),
            (limit("account = \"../a\""), "account name"),
            (limit("per = \"week\""), "`day` or `month`"),
            (limit("bites = 7"), "unknown field"),
            (
                limit("[[limit]]\nname = \"a\"\nbytes = \"1 GB\""),
                "same name",
            ),
            ("[[limit]]\nname = \"a\"\n".to_owned(), "bytes"),
            (
                "[[limit]]\nname = \"a\"\nbytes = \"0\"\n".to_owned(),
                "500 GB",
            ),
            ("[[limit]]\nbytes = \"1 GB\"\n".to_owned(), "name"),
            ("warn-at = [0]\n".to_owned(), "from 1"),
            ("command = [\"logger\"]\n".to_owned(), "whole path"),
            ("command = []\n".to_owned(), "whole path"),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
