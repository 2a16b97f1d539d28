//! A question to the store and its answer: traffic by some fields, largest first.

use std::fmt;
use std::net::IpAddr;

use clap::ValueEnum;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::account::Name;
use crate::snapshot::Counters;

/// Which records to sum up, by what, and which of the sums to give.
#[derive(Debug, Clone)]
pub struct Query {
    /// The fields that make a group; records equal in all of them are summed.
    pub by: Vec<Field>,
    /// Which records count.
    pub filter: Filter,
    /// What the groups are sorted by, largest first.
    pub order: Order,
    /// How many groups to give at most; all if none.
    pub limit: Option<u64>,
}

/// A field of a record that groups can be made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Field {
    /// IANA protocol number.
    Protocol,
    /// Address of the local side.
    LocalIp,
    /// Address of the remote side.
    RemoteIp,
    /// Port of the local side.
    LocalPort,
    /// Port of the remote side.
    RemotePort,
}

/// What a record must be to count; an empty list admits all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// IANA protocol numbers.
    pub protocols: Vec<u8>,
    /// Nets of which one has the local address.
    pub local: Vec<IpNet>,
    /// Nets of which one has the remote address.
    pub remote: Vec<IpNet>,
    /// Local ports.
    pub local_ports: Vec<u16>,
    /// Remote ports.
    pub remote_ports: Vec<u16>,
    /// Names of accounts.
    pub accounts: Vec<Name>,
    /// Epochs that closed at this time or later.
    pub since: Option<Timestamp>,
    /// Epochs that closed before this time.
    pub until: Option<Timestamp>,
}

/// What groups are sorted by, always the largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Bytes sent and received.
    Bytes,
    /// Packets sent and received.
    Packets,
    /// Bytes sent.
    SentBytes,
    /// Bytes received.
    ReceivedBytes,
    /// Packets sent.
    SentPackets,
    /// Packets received.
    ReceivedPackets,
    /// TCP packets that open a connection.
    SynPackets,
}

/// The groups asked for, and the sum over all groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What the groups were made by.
    pub by: Vec<Field>,
    /// The groups, largest first; equal ones in the order of their key.
    pub groups: Vec<Group>,
    /// How many groups there are, the ones past the limit included.
    pub group_count: u64,
    /// The sum over all groups, the ones past the limit included.
    pub total: Counters,
    /// How many epochs closed in the time asked for.
    pub epochs: u64,
}

/// The sum over the records that are equal in the fields asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// One value for every field asked for, in its order.
    pub key: Vec<Value>,
    /// The sums.
    pub counters: Counters,
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// IANA protocol number.
    Protocol(u8),
    /// An address.
    Ip(IpAddr),
    /// A port.
    Port(u16),
}

impl Field {
    /// The field's name in CSV and JSON.
    pub fn column(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::LocalIp => "local_ip",
            Self::RemoteIp => "remote_ip",
            Self::LocalPort => "local_port",
            Self::RemotePort => "remote_port",
        }
    }
}

impl Counters {
    /// Every counter with its name in CSV and JSON.
    pub fn columns(&self) -> [(&'static str, u64); 5] {
        [
            ("sent_packets", self.sent_packets),
            ("received_packets", self.received_packets),
            ("sent_bytes", self.sent_bytes),
            ("received_bytes", self.received_bytes),
            ("syn_packets", self.syn_packets),
        ]
    }
}

impl Answer {
    /// The groups as maps from column to value, the fields in the order asked for.
    pub fn records(&self) -> impl Iterator<Item = GroupRecord<'_>> {
        self.groups.iter().map(|group| GroupRecord {
            by: &self.by,
            group,
        })
    }
}

/// A group that serializes as a map from column to value.
#[derive(Debug, Clone, Copy)]
pub struct GroupRecord<'a> {
    by: &'a [Field],
    group: &'a Group,
}

impl Serialize for GroupRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counters = self.group.counters.columns();
        let mut map = serializer.serialize_map(Some(self.by.len() + counters.len()))?;
        for (field, value) in self.by.iter().zip(&self.group.key) {
            map.serialize_entry(field.column(), value)?;
        }
        for (column, counter) in counters {
            map.serialize_entry(column, &counter)?;
        }
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Protocol(number) => number.serialize(serializer),
            Self::Ip(ip) => ip.serialize(serializer),
            Self::Port(port) => port.serialize(serializer),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(number) => number.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
            Self::Port(port) => port.fmt(f),
        }
    }
}
