// SPDX-License-Identifier: GPL-2.0-or-later
//! What `/proc/net/trafstat/accounts` says.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::system::System;

/// Where the module lists its accounts.
pub const PATH: &str = "/proc/net/trafstat/accounts";

/// One account of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelAccount {
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Its name.
    pub name: String,
    /// Its local net.
    pub local_net: String,
    /// How many rules count into it.
    pub rules: u64,
    /// The number of the open epoch.
    pub epoch: u64,
    /// The closed epoch that waits for the collector; 0 for none.
    pub unread: u64,
    /// Packets that its rules saw.
    pub seen_packets: u64,
    /// Packets with neither side in the local net.
    pub outside_packets: u64,
    /// Packets that lost their remote side for want of room.
    pub folded_packets: u64,
    /// Records of the open epoch.
    pub records: u64,
    /// How many it may have.
    pub max_entries: u64,
    /// Bytes that its flow tables take.
    pub memory_bytes: u64,
    /// Packets that found no room even for their local address; unknown before module 0.2.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unattributed_packets: Option<u64>,
    /// Their bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unattributed_bytes: Option<u64>,
}

/// The accounts; none where the module is not loaded.
///
/// # Errors
/// That the list cannot be read or understood.
pub fn read(system: &dyn System) -> Result<Option<Vec<KernelAccount>>> {
    system
        .read(PATH)?
        .map(|text| parse(&text).with_context(|| format!("cannot understand {PATH}")))
        .transpose()
}

/// Columns are found by their names, so that the kernel may add and move them.
fn parse(text: &str) -> Result<Vec<KernelAccount>> {
    let mut lines = text.lines();
    let columns: Vec<_> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    lines
        .map(|line| {
            let values: BTreeMap<_, _> = columns
                .iter()
                .copied()
                .zip(line.split_whitespace())
                .collect();
            let text = |name: &str| {
                let value = values.get(name).with_context(|| format!("no {name}"))?;
                Ok::<_, anyhow::Error>((*value).to_owned())
            };
            let number = |name: &str| {
                text(name)?
                    .parse()
                    .with_context(|| format!("{name} is no number"))
            };
            let known = |name: &str| values.contains_key(name).then(|| number(name)).transpose();
            Ok(KernelAccount {
                family: text("family")?,
                name: text("name")?,
                local_net: text("local_net")?,
                rules: number("rules")?,
                epoch: number("epoch")?,
                unread: number("unread")?,
                seen_packets: number("seen_packets")?,
                outside_packets: number("outside_packets")?,
                folded_packets: number("folded_packets")?,
                records: number("records")?,
                max_entries: number("max_entries")?,
                memory_bytes: number("memory_bytes")?,
                unattributed_packets: known("unattributed_packets")?,
                unattributed_bytes: known("unattributed_bytes")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let text = "name family memory_bytes local_net rules epoch unread seen_packets \
                    outside_packets folded_packets records max_entries new\n\
                    lan ipv4 4096 192.0.2.0/24 2 7 6 100 1 3 50 1000000 x\n";
        let accounts = parse(text).unwrap();
        assert_eq!(accounts.len(), 1);
        assert_eq!(accounts[0].name, "lan");
        assert_eq!((accounts[0].unread, accounts[0].folded_packets), (6, 3));
        // Columns that a module before 0.2.0 does not have.
        assert_eq!(accounts[0].unattributed_packets, None);
        let newer = text
            .replace(" new\n", " unattributed_packets unattributed_bytes\n")
            .replace(" x\n", " 2 300\n");
        let newer = &parse(&newer).unwrap()[0];
        assert_eq!(newer.unattributed_packets, Some(2));
        assert_eq!(newer.unattributed_bytes, Some(300));
        assert!(parse("family\nipv4\n").is_err());
        assert_eq!(parse("family name\n").unwrap(), []);
    }
}
