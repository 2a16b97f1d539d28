// SPDX-License-Identifier: GPL-2.0-or-later
//! A question to the store and its answer: traffic by some fields, largest first.

mod accumulator;
mod accuracy;
mod counted;
mod inexact;

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::ser::{Serialize, Serializer};

use crate::account::Name;
use crate::snapshot::Counters;
pub use accumulator::Accumulator;
pub(crate) use accuracy::{Accuracies, set_accuracy};
pub use accuracy::{Accuracy, ClassSum, StandardError};
pub(crate) use counted::Counting;
pub use counted::{Counted, CountedEpochs};
pub use inexact::{Coarse, Inexact, Missing, SumPeriod};

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
    /// Where the days of [`Field::Day`] begin.
    pub zone: TimeZone,
    /// Whether to tell how long the groups were counted, which rates divide by.
    pub counted: bool,
}

/// A field of a record that groups can be made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// Name of the account.
    Account,
    /// Name of the host that counted.
    Host,
    /// The five minutes, UTC, in which the epoch counts.
    FiveMinutes,
    /// The hour, UTC, in which the epoch counts.
    Hour,
    /// The day in which the epoch counts, in the query's time zone.
    Day,
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
    /// Ranges of local ports.
    pub local_ports: Vec<RangeInclusive<u16>>,
    /// Ranges of remote ports.
    pub remote_ports: Vec<RangeInclusive<u16>>,
    /// Names of accounts.
    pub accounts: Vec<Name>,
    /// Names or machine ids of the hosts that counted.
    pub hosts: Vec<String>,
    /// Epochs that count at this time or later.
    pub since: Option<Timestamp>,
    /// Epochs that count before this time.
    pub until: Option<Timestamp>,
}

/// What groups are sorted by; counters with the largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// The fields that make the groups, smallest and earliest first.
    Fields,
}

/// The groups asked for, and the sum over all groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What the groups were made by.
    pub by: Vec<Field>,
    /// The groups, largest first; equal ones in the order of their key.
    pub groups: Vec<Group>,
    /// How many groups there are, the ones past the limit included.
    pub group_count: u64,
    /// The sum over all groups, the ones past the limit included.
    pub total: Counters,
    /// How many epochs count in the time asked for.
    pub epochs: u64,
    /// When these epochs were counted; none if there are none.
    pub covered: Option<Covered>,
    /// The standard error of the total; none where some epochs do not tell theirs.
    pub error: Option<StandardError>,
    /// How exact the epochs of the accounts and hosts asked for are.
    pub accuracy: Accuracy,
    /// What it does not tell as exactly as it was asked; none if it tells all.
    pub inexact: Option<Inexact>,
    /// How long these accounts and hosts counted, if that was asked for.
    pub counted: Option<Counted>,
}

/// From when to when some epochs were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// When the first of them opened.
    pub opened: Timestamp,
    /// When the last of them closed.
    pub closed: Timestamp,
    /// How long that was by a clock that cannot be set, as far as the epochs tell.
    pub duration: SignedDuration,
}

/// The sum over the records that are equal in the fields asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// One value for every field asked for, in its order.
    pub key: Vec<Value>,
    /// The sums.
    pub counters: Counters,
    /// Their standard error; none where some epochs do not tell theirs.
    pub error: Option<StandardError>,
    /// How long it was counted, if that was asked for: what counts in the group's time, account
    /// and host, of those that it has.
    pub counted: Option<SignedDuration>,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// IANA protocol number.
    Protocol(u8),
    /// An address.
    Ip(IpAddr),
    /// A port.
    Port(u16),
    /// The name of an account or a host.
    Name(String),
    /// The begin of five minutes or of an hour.
    Time(Timestamp),
    /// A day.
    Date(Date),
}

impl Default for Query {
    /// Everything as one group.
    fn default() -> Self {
        Self {
            by: Vec::new(),
            filter: Filter::default(),
            order: Order::Bytes,
            limit: None,
            zone: TimeZone::UTC,
            counted: false,
        }
    }
}

impl Query {
    /// The fields that all records of an epoch have one value in.
    pub(crate) fn by_epoch(&self) -> impl Iterator<Item = Field> + '_ {
        self.by.iter().copied().filter(|field| field.is_of_epoch())
    }
}

impl Field {
    /// Every one, in the order in which help lists them.
    pub const ALL: [Self; 10] = [
        Self::Protocol,
        Self::LocalIp,
        Self::RemoteIp,
        Self::LocalPort,
        Self::RemotePort,
        Self::Account,
        Self::Host,
        Self::FiveMinutes,
        Self::Hour,
        Self::Day,
    ];

    /// The field's name in CSV and JSON.
    pub fn column(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::LocalIp => "local_ip",
            Self::RemoteIp => "remote_ip",
            Self::LocalPort => "local_port",
            Self::RemotePort => "remote_port",
            Self::Account => "account",
            Self::Host => "host",
            Self::FiveMinutes => "five_minutes",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// Whether it is a time.
    pub fn is_time(self) -> bool {
        matches!(self, Self::FiveMinutes | Self::Hour | Self::Day)
    }
}

impl Order {
    /// Every one, in the order in which help lists them.
    pub const ALL: [Self; 8] = [
        Self::Bytes,
        Self::Packets,
        Self::SentBytes,
        Self::ReceivedBytes,
        Self::SentPackets,
        Self::ReceivedPackets,
        Self::SynPackets,
        Self::Fields,
    ];

    /// The number that counters are sorted by; all are alike for [`Order::Fields`].
    pub fn measure(self, counters: &Counters) -> u64 {
        match self {
            Self::Bytes => counters.bytes(),
            Self::Packets => counters.packets(),
            Self::SentBytes => counters.sent_bytes,
            Self::ReceivedBytes => counters.received_bytes,
            Self::SentPackets => counters.sent_packets,
            Self::ReceivedPackets => counters.received_packets,
            Self::SynPackets => counters.syn_packets,
            Self::Fields => 0,
        }
    }
}

impl Covered {
    /// Tells how long it was from what each account says of set clocks: the durations of its
    /// epochs less what the clock showed, in nanoseconds.
    ///
    /// Accounts that count at the same time see the same clock set, so the largest correction
    /// is that of all.
    pub(crate) fn new(
        opened: Timestamp,
        closed: Timestamp,
        corrections: impl Iterator<Item = i64>,
    ) -> Self {
        let largest = corrections.max_by_key(|&ns| (ns.unsigned_abs(), ns));
        let correction = SignedDuration::from_nanos(largest.unwrap_or(0));
        Self {
            opened,
            closed,
            duration: closed.duration_since(opened).saturating_add(correction),
        }
    }

    /// How long it was.
    pub fn seconds(&self) -> f64 {
        self.duration.as_secs_f64()
    }
}

impl Answer {
    /// Gives the answer and its groups how long they were counted.
    pub(crate) fn set_counted(&mut self, query: &Query, counted: Counted) {
        for group in &mut self.groups {
            let fields = query.by.iter().zip(&group.key);
            let key: Vec<&Value> = fields
                .filter(|(field, _)| field.is_of_epoch())
                .map(|(_, value)| value)
                .collect();
            let by_epoch = &counted.by_epoch;
            let found =
                by_epoch.binary_search_by(|epochs| epochs.key.iter().cmp(key.iter().copied()));
            group.counted =
                Some(found.map_or(SignedDuration::ZERO, |index| by_epoch[index].duration));
        }
        self.counted = Some(counted);
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Protocol(number) => number.serialize(serializer),
            Self::Ip(ip) => ip.serialize(serializer),
            Self::Port(port) => port.serialize(serializer),
            Self::Name(name) => name.serialize(serializer),
            Self::Time(time) => serializer.collect_str(time),
            Self::Date(date) => serializer.collect_str(date),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(number) => number.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
            Self::Port(port) => port.fmt(f),
            Self::Name(name) => name.fmt(f),
            Self::Time(time) => time.fmt(f),
            Self::Date(date) => date.fmt(f),
        }
    }
}
