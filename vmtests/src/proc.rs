// SPDX-License-Identifier: GPL-2.0-or-later
//! The module's proc files, read as any program would, without the collector.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use trafstat_abi::{
    FAMILY_IPV4, FAMILY_IPV6, RecordIpv4, RecordIpv6, SNAPSHOT_LIVE, SNAPSHOT_MAGIC,
    SNAPSHOT_VERSION, SnapshotHeader,
};
use zerocopy::FromBytes;

use crate::family::Family;
use crate::iptables::RuleCounters;
use crate::topology::Netns;
use crate::traffic::FlowCounters;

/// The account that rules for the local IPv4 address count into by default.
pub const ACCOUNT: AccountKey<'static> = AccountKey {
    family: Family::Ipv4,
    name: "192.0.2.1_32",
};

/// The module's folder, of the namespace that a thread is in.
pub const ROOT: &str = "/proc/thread-self/net/trafstat";

/// What an account is known by within its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountKey<'a> {
    /// Which of iptables and ip6tables counts into it.
    pub family: Family,
    /// As its files are called.
    pub name: &'a str,
}

/// One line of the accounts file: column name and value.
pub type Account = BTreeMap<String, String>;

/// Who talked with whom: protocol, addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// IANA number.
    pub protocol: u8,
    /// Counted address.
    pub local_ip: IpAddr,
    /// Other address.
    pub remote_ip: IpAddr,
    /// Port of the counted address.
    pub local_port: u16,
    /// Other port.
    pub remote_port: u16,
}

/// What one flow came to in one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Who talked with whom.
    pub tuple: Tuple,
    /// Packets and bytes of both directions.
    pub counters: FlowCounters,
    /// TCP packets with SYN and without ACK.
    pub syn_packets: u64,
}

/// One epoch, closed or, from a live file, still open.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// All bytes as the kernel gave them.
    pub bytes: Vec<u8>,
    /// Identity and totals.
    pub header: SnapshotHeader,
    /// One for each flow.
    pub records: Vec<Record>,
}

/// An open snapshot file: the account's one reader.
#[derive(Debug)]
pub struct Reader {
    file: File,
}

impl Reader {
    /// Opens `account`'s snapshot in the namespace of this thread.
    ///
    /// # Errors
    ///
    /// Those of open(2): EBUSY with another reader, EACCES without the right to.
    pub fn open(account: AccountKey<'_>) -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path("snapshot", account))
            .map(|file| Self { file })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads the closed epoch and checks that its totals hold.
    ///
    /// # Errors
    ///
    /// It is no snapshot, or the totals do not hold.
    pub fn read(&mut self) -> Result<Snapshot> {
        let mut bytes = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut bytes)?;
        Snapshot::of_closed_epoch(bytes)
    }

    /// Acknowledges `epoch`.
    ///
    /// # Errors
    ///
    /// ESTALE for any other epoch than the one that is served.
    pub fn acknowledge(&mut self, epoch: u64) -> io::Result<()> {
        self.file.write_all(format!("ack {epoch}\n").as_bytes())
    }

    /// How many bytes are left to read.
    ///
    /// # Errors
    ///
    /// Reading fails.
    pub fn remaining(&mut self) -> io::Result<usize> {
        self.file.rewind()?;
        self.file.read_to_end(&mut Vec::new())
    }
}

impl Snapshot {
    /// Closes the account's epoch in `netns`, or takes the one that waits, and acknowledges it.
    ///
    /// # Errors
    ///
    /// It cannot be read, or its totals do not hold.
    pub fn collect(netns: &Netns, account: AccountKey<'_>) -> Result<Self> {
        netns.enter(|| {
            let mut reader = Reader::open(account).with_context(|| account.name.to_owned())?;
            let snapshot = reader.read()?;
            reader.acknowledge(snapshot.header.epoch)?;
            Ok(snapshot)
        })
    }

    /// Like [`Snapshot::collect`], but leaves the epoch to be served again.
    ///
    /// # Errors
    ///
    /// As for [`Snapshot::collect`].
    pub fn peek(netns: &Netns, account: AccountKey<'_>) -> Result<Self> {
        netns.enter(|| {
            Reader::open(account)
                .with_context(|| account.name.to_owned())?
                .read()
        })
    }

    /// The open epoch of `account`, in the namespace of this thread.
    ///
    /// # Errors
    ///
    /// Those of open(2) and read(2), ESTALE where the epoch closes meanwhile, or it is no snapshot
    /// of an open epoch.
    pub fn live(account: AccountKey<'_>) -> Result<Self> {
        let snapshot = Self::decode(fs::read(path("live", account))?)?;
        let h = &snapshot.header;
        ensure!(
            h.flags == SNAPSHOT_LIVE
                && (h.records, h.recorded_packets, h.recorded_bytes, h.closed_ns) == (0, 0, 0, 0),
            "not the header of an open epoch: {h:?}"
        );
        Ok(snapshot)
    }

    /// What the rule counters must say.
    pub fn as_rules_count(&self) -> RuleCounters {
        RuleCounters {
            packets: self.header.seen_packets - self.header.gso_extra_packets,
            bytes: self.header.seen_bytes - self.header.gso_extra_bytes,
        }
    }

    /// The sum over the records.
    pub fn recorded(&self) -> RuleCounters {
        let mut sum = RuleCounters::default();
        for Record { counters, .. } in &self.records {
            sum.packets += counters.sent_packets + counters.received_packets;
            sum.bytes += counters.sent_bytes + counters.received_bytes;
        }
        sum
    }

    fn of_closed_epoch(bytes: Vec<u8>) -> Result<Self> {
        let snapshot = Self::decode(bytes)?;
        let h = &snapshot.header;
        ensure!(
            h.flags == 0 && snapshot.records.len() as u64 == h.records,
            "{} records: {h:?}",
            snapshot.records.len()
        );
        ensure!(
            h.seen_packets + h.extrapolated_packets
                == h.recorded_packets + h.outside_packets + h.skipped_packets
                && h.seen_bytes + h.extrapolated_bytes
                    == h.recorded_bytes + h.outside_bytes + h.skipped_bytes,
            "conservation does not hold: {h:?}"
        );
        let recorded = snapshot.recorded();
        ensure!(
            (recorded.packets, recorded.bytes) == (h.recorded_packets, h.recorded_bytes),
            "the records sum up to {recorded:?}: {h:?}"
        );
        Ok(snapshot)
    }

    fn decode(bytes: Vec<u8>) -> Result<Self> {
        let (header, _) = SnapshotHeader::read_from_prefix(&bytes)
            .map_err(|_| anyhow::anyhow!("{} bytes are no snapshot header", bytes.len()))?;
        ensure!(
            header.magic == SNAPSHOT_MAGIC[..8] && u32::from(header.version) == SNAPSHOT_VERSION,
            "magic {:?}, version {}",
            header.magic,
            header.version
        );
        let body = bytes
            .get(usize::from(header.header_size)..)
            .context("a short header")?;
        let records = body.chunks(usize::from(header.record_size).max(1));
        let records = match u32::from(header.family) {
            FAMILY_IPV4 => records.map(decode_record::<RecordIpv4>).collect(),
            FAMILY_IPV6 => records.map(decode_record::<RecordIpv6>).collect(),
            family => Err(anyhow::anyhow!("family {family}")),
        }?;
        Ok(Self {
            header,
            records,
            bytes,
        })
    }
}

fn decode_record<R: FromBytes + Into<Record>>(bytes: &[u8]) -> Result<Record> {
    let (record, _) = R::read_from_prefix(bytes)
        .map_err(|_| anyhow::anyhow!("a record of {} bytes", bytes.len()))?;
    Ok(record.into())
}

// Both families' records differ in their addresses alone.
macro_rules! record_from {
    ($abi:ty) => {
        impl From<$abi> for Record {
            fn from(record: $abi) -> Self {
                Self {
                    tuple: Tuple {
                        protocol: record.protocol,
                        local_ip: record.local_ip.into(),
                        remote_ip: record.remote_ip.into(),
                        local_port: record.local_port,
                        remote_port: record.remote_port,
                    },
                    counters: FlowCounters {
                        sent_packets: record.sent_packets,
                        sent_bytes: record.sent_bytes,
                        received_packets: record.received_packets,
                        received_bytes: record.received_bytes,
                    },
                    syn_packets: record.syn_packets,
                }
            }
        }
    };
}

record_from!(RecordIpv4);
record_from!(RecordIpv6);

/// All accounts of `netns`.
///
/// # Errors
///
/// The accounts file cannot be read, or has a line with too few or too many fields.
pub fn accounts(netns: &Netns) -> Result<Vec<Account>> {
    let text = netns.enter(|| {
        let path = format!("{ROOT}/accounts");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    })?;
    let mut lines = text.lines();
    let columns: Vec<_> = lines
        .next()
        .context("no column names")?
        .split(' ')
        .collect();
    lines
        .map(|line| {
            let values: Vec<_> = line.split(' ').collect();
            ensure!(values.len() == columns.len(), "{columns:?} but {values:?}");
            Ok(columns
                .iter()
                .zip(values)
                .map(|(c, v)| (c.to_string(), v.to_owned()))
                .collect())
        })
        .collect()
}

/// The account of that family and name in `netns`, if there is one.
///
/// # Errors
///
/// As for [`accounts`].
pub fn account(netns: &Netns, key: AccountKey<'_>) -> Result<Option<Account>> {
    let has = |account: &Account, column: &str, value: &str| {
        account.get(column).is_some_and(|found| found == value)
    };
    Ok(accounts(netns)?.into_iter().find(|account| {
        has(account, "family", key.family.folder()) && has(account, "name", key.name)
    }))
}

/// A number of an account.
///
/// # Errors
///
/// The column is missing or holds no number.
pub fn number(account: &Account, column: &str) -> Result<u64> {
    account
        .get(column)
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("no number {column} in {account:?}"))
}

/// One of an account's files, in the namespace of the thread that opens it: `kind` is `snapshot`,
/// `csv` or `live`.
pub fn path(kind: &str, account: AccountKey<'_>) -> PathBuf {
    PathBuf::from(format!(
        "{ROOT}/{kind}/{}/{}",
        account.family.folder(),
        account.name
    ))
}
