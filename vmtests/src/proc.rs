//! The module's proc files, read as any program would, without the collector.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use trafstat_abi::{RecordIpv4, SNAPSHOT_MAGIC, SNAPSHOT_VERSION, SnapshotHeader};
use zerocopy::FromBytes;

use crate::topology::Netns;

/// The account that rules for the local address count into by default.
pub const ACCOUNT: &str = "192.0.2.1_32";

/// The module's folder, of the namespace that a thread is in.
pub const ROOT: &str = "/proc/thread-self/net/trafstat";

/// One line of the accounts file: column name and value.
pub type Account = BTreeMap<String, String>;

/// Who talked with whom: protocol, addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// IANA number.
    pub protocol: u8,
    /// Counted address.
    pub local_ip: Ipv4Addr,
    /// Other address.
    pub remote_ip: Ipv4Addr,
    /// Port of the counted address.
    pub local_port: u16,
    /// Other port.
    pub remote_port: u16,
}

/// One closed epoch.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// All bytes as the kernel gave them.
    pub bytes: Vec<u8>,
    /// Identity and totals.
    pub header: SnapshotHeader,
    /// One for each flow.
    pub records: Vec<RecordIpv4>,
}

/// An open snapshot file: the account's one reader.
pub struct Reader {
    file: File,
}

impl Reader {
    /// Opens `account`'s snapshot in the namespace of this thread.
    ///
    /// # Errors
    ///
    /// Those of open(2): EBUSY with another reader, EACCES without the right to.
    pub fn open(account: &str) -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(snapshot_path(account))
            .map(|file| Self { file })
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
        Snapshot::decode(bytes)
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
    pub fn collect(netns: &Netns, account: &str) -> Result<Self> {
        netns.enter(|| {
            let mut reader = Reader::open(account).with_context(|| account.to_owned())?;
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
    pub fn peek(netns: &Netns, account: &str) -> Result<Self> {
        netns.enter(|| {
            Reader::open(account)
                .with_context(|| account.to_owned())?
                .read()
        })
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
        let size = usize::from(header.record_size);
        ensure!(
            body.len() == header.records as usize * size,
            "{} bytes of records",
            body.len()
        );
        let mut records = Vec::new();
        for record in body.chunks_exact(size) {
            let (record, _) = RecordIpv4::read_from_prefix(record)
                .map_err(|_| anyhow::anyhow!("records of {size} bytes"))?;
            records.push(record);
        }
        let snapshot = Self {
            header,
            records,
            bytes,
        };
        snapshot.check()?;
        Ok(snapshot)
    }

    fn check(&self) -> Result<()> {
        let h = &self.header;
        ensure!(
            h.seen_packets + h.extrapolated_packets
                == h.recorded_packets + h.outside_packets + h.skipped_packets
                && h.seen_bytes + h.extrapolated_bytes
                    == h.recorded_bytes + h.outside_bytes + h.skipped_bytes,
            "conservation does not hold: {h:?}"
        );
        let sum = |count: fn(&RecordIpv4) -> u64| self.records.iter().map(count).sum::<u64>();
        let packets = sum(|record| record.sent_packets + record.received_packets);
        let bytes = sum(|record| record.sent_bytes + record.received_bytes);
        ensure!(
            (packets, bytes) == (h.recorded_packets, h.recorded_bytes),
            "the records sum up to {packets} packets and {bytes} bytes: {h:?}"
        );
        Ok(())
    }
}

/// Who a record is about.
pub fn tuple(record: &RecordIpv4) -> Tuple {
    Tuple {
        protocol: record.protocol,
        local_ip: record.local_ip.into(),
        remote_ip: record.remote_ip.into(),
        local_port: record.local_port,
        remote_port: record.remote_port,
    }
}

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

/// The one account of that name in `netns`, if there is one.
///
/// # Errors
///
/// As for [`accounts`].
pub fn account(netns: &Netns, name: &str) -> Result<Option<Account>> {
    Ok(accounts(netns)?
        .into_iter()
        .find(|account| account.get("name").is_some_and(|found| found == name)))
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

/// The snapshot file of an IPv4 account, in the namespace of the thread that opens it.
pub fn snapshot_path(account: &str) -> PathBuf {
    PathBuf::from(format!("{ROOT}/snapshot/ipv4/{account}"))
}
