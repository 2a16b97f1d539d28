// SPDX-License-Identifier: GPL-2.0-or-later
//! The collector and its database.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::guest::Guest;
use crate::iptables::RuleCounters;
use crate::proc::{Record, Tuple};
use crate::process::{self, ProgramOutput};
use crate::topology::Netns;
use crate::traffic::FlowCounters;

/// A database that trafstat-store writes.
pub struct Collector<'a> {
    guest: &'a Guest,
    database: PathBuf,
}

/// One epoch as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEpoch {
    /// The account's random number, in hexadecimal.
    pub account_id: String,
    /// Its number in the account.
    pub epoch: u64,
}

/// Sums over the whole database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredTotals {
    /// Over the snapshots: what the rules saw, in wire packets.
    pub seen: RuleCounters,
    /// Over the snapshots: what segmentation added to that.
    pub gso_extra: RuleCounters,
    /// Over the records.
    pub records: RuleCounters,
}

impl StoredTotals {
    /// What the rule counters must say.
    pub fn as_rules_count(&self) -> RuleCounters {
        RuleCounters {
            packets: self.seen.packets - self.gso_extra.packets,
            bytes: self.seen.bytes - self.gso_extra.bytes,
        }
    }
}

impl<'a> Collector<'a> {
    /// A collector into `folder`.
    pub fn new(guest: &'a Guest, folder: &Path) -> Self {
        Self {
            guest,
            database: folder.join("trafstat.db"),
        }
    }

    /// The database.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// Collects all accounts of `netns` once.
    ///
    /// # Errors
    ///
    /// The collector fails.
    pub fn collect(&self, netns: &Netns) -> Result<String> {
        netns.succeed(&mut self.command("trafstat-store"))
    }

    /// Collects, but lets the collector kill itself at `point`.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn collect_killed(&self, netns: &Netns, point: &str) -> Result<ProgramOutput> {
        let mut command = self.command("trafstat-store-with-kill-points");
        netns.end(command.env("TRAFSTAT_STORE_KILL_AT", point))
    }

    /// Collects all accounts of namespaces, without being in one of them.
    ///
    /// # Errors
    ///
    /// The collector fails.
    pub fn collect_from(&self, netns: &[&str]) -> Result<String> {
        process::succeed(&mut self.command_from(netns))
    }

    /// The same, however it ends.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn end_collecting_from(&self, netns: &[&str]) -> Result<ProgramOutput> {
        process::end(&mut self.command_from(netns))
    }

    /// Starts a collector that goes on, in the namespace of this thread, with `options` separated by
    /// spaces.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(&self, options: &str) -> Result<Child> {
        let mut command = self.command("trafstat-store");
        command
            .args(options.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))
    }

    /// What the rules of each namespace saw, over the snapshots.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn seen_by_netns(&self) -> Result<BTreeMap<String, RuleCounters>> {
        let rows = self.query(
            "SELECT netns, sum(seen_packets - gso_extra_packets) AS packets, \
                 sum(seen_bytes - gso_extra_bytes) AS bytes \
             FROM snapshot JOIN account ON account.id = account_id GROUP BY netns",
        )?;
        rows.iter()
            .map(|row| {
                let number = |column: &str| row[column].as_u64().context("no sum");
                let counters = RuleCounters {
                    packets: number("packets")?,
                    bytes: number("bytes")?,
                };
                Ok((
                    row["netns"].as_str().context("no netns")?.to_owned(),
                    counters,
                ))
            })
            .collect()
    }

    /// Copies the database to `path`, which must not exist.
    ///
    /// # Errors
    ///
    /// The collector fails.
    pub fn back_up(&self, path: &Path) -> Result<()> {
        process::succeed(self.command("trafstat-store").arg("backup").arg(path)).map(drop)
    }

    /// Every stored epoch, by account and number.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn epochs(&self) -> Result<Vec<StoredEpoch>> {
        self.query(
            "SELECT lower(hex(identity)) AS account_id, epoch \
             FROM snapshot JOIN account ON account.id = account_id ORDER BY account.id, epoch",
        )?
        .iter()
        .map(|row| {
            Ok(StoredEpoch {
                account_id: row["account_id"]
                    .as_str()
                    .context("no account_id")?
                    .to_owned(),
                epoch: row["epoch"].as_u64().context("no epoch")?,
            })
        })
        .collect()
    }

    /// The records of one epoch, in no particular order.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn records(&self, of: &StoredEpoch) -> Result<Vec<Record>> {
        let rows = self.query(&format!(
            "SELECT protocol, hex(local_ip) AS local_ip, hex(remote_ip) AS remote_ip, \
                 local_port, remote_port, sent_packets, received_packets, \
                 sent_bytes, received_bytes, syn_packets \
             FROM snapshot \
             JOIN account ON account.id = account_id \
             JOIN record ON record.id >= first_record AND record.id < first_record + records \
             WHERE lower(hex(identity)) = '{}' AND epoch = {}",
            of.account_id, of.epoch
        ))?;
        rows.iter()
            .map(|row| {
                let number = |column: &str| {
                    row[column]
                        .as_u64()
                        .with_context(|| format!("no {column} in {row}"))
                };
                let address =
                    |column: &str| parse_address(row[column].as_str().context("no address")?);
                Ok(Record {
                    tuple: Tuple {
                        protocol: u8::try_from(number("protocol")?)?,
                        local_ip: address("local_ip")?,
                        remote_ip: address("remote_ip")?,
                        local_port: u16::try_from(number("local_port")?)?,
                        remote_port: u16::try_from(number("remote_port")?)?,
                    },
                    counters: FlowCounters {
                        sent_packets: number("sent_packets")?,
                        sent_bytes: number("sent_bytes")?,
                        received_packets: number("received_packets")?,
                        received_bytes: number("received_bytes")?,
                    },
                    syn_packets: number("syn_packets")?,
                })
            })
            .collect()
    }

    /// Sums over everything stored.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn totals(&self) -> Result<StoredTotals> {
        let sum = |columns: &str, table: &str| -> Result<Vec<u64>> {
            let sums: Vec<_> = columns
                .split(' ')
                .map(|column| format!("coalesce(sum({column}), 0) AS \"{column}\""))
                .collect();
            let rows = self.query(&format!("SELECT {} FROM {table}", sums.join(", ")))?;
            let row = rows.first().context("no sum")?;
            columns
                .split(' ')
                .map(|column| row[column].as_u64().with_context(|| format!("no {column}")))
                .collect()
        };
        let snapshots = sum(
            "seen_packets seen_bytes gso_extra_packets gso_extra_bytes",
            "snapshot",
        )?;
        let records = sum(
            "sent_packets received_packets sent_bytes received_bytes",
            "record",
        )?;
        Ok(StoredTotals {
            seen: RuleCounters {
                packets: snapshots[0],
                bytes: snapshots[1],
            },
            gso_extra: RuleCounters {
                packets: snapshots[2],
                bytes: snapshots[3],
            },
            records: RuleCounters {
                packets: records[0] + records[1],
                bytes: records[2] + records[3],
            },
        })
    }

    fn command_from(&self, netns: &[&str]) -> Command {
        let mut command = self.command("trafstat-store");
        for name in netns {
            command.args(["--netns", name]);
        }
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.guest.file(program));
        command
            .args(["--backend", "sqlite", "--db"])
            .arg(&self.database);
        command
    }

    fn query(&self, sql: &str) -> Result<Vec<Value>> {
        let mut sqlite = Command::new("sqlite3");
        let printed = process::succeed(
            sqlite
                .args(["-readonly", "-json"])
                .arg(&self.database)
                .arg(sql),
        )?;
        // No row prints nothing at all.
        if printed.is_empty() {
            return Ok(Vec::new());
        }
        let rows = serde_json::from_str(&printed).with_context(|| printed.clone())?;
        ensure!(matches!(rows, Value::Array(_)), "{printed}");
        Ok(match rows {
            Value::Array(rows) => rows,
            _ => Vec::new(),
        })
    }
}

/// An address in hexadecimal, four or sixteen bytes.
fn parse_address(hexadecimal: &str) -> Result<IpAddr> {
    Ok(match hexadecimal.len() {
        8 => Ipv4Addr::from(u32::from_str_radix(hexadecimal, 16)?).into(),
        _ => Ipv6Addr::from(u128::from_str_radix(hexadecimal, 16)?).into(),
    })
}
