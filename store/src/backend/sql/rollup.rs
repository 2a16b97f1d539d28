// SPDX-License-Identifier: GPL-2.0-or-later
//! The sums that a snapshot adds to the rollups.
//!
//! Sums by local address and by service are few, and are added to their tables. Sums by
//! remote address are many and scattered: adding 25,000 of them to a table of a million
//! rewrites most of its pages, many times the snapshot itself. So they are appended in
//! packed parts ([`super::parts`]), and many parts are added to the table at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use foldhash::fast::RandomState;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Unit};

use super::owner::LockedOwner;
use super::{COUNTERS, Database, Value, counter_values, insert_rows, places};
use crate::snapshot::{Counters, Record};
use crate::store::StoreError;

/// A table of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) struct Rollup {
    pub(in crate::backend) table: &'static str,
    /// What it is summed up over, also the column with the period's begin.
    pub(in crate::backend) period: Period,
    /// The columns that make a sum, after host, account and period.
    pub(in crate::backend) keys: &'static [&'static str],
}

/// A length of time that begins at midnight, at a full hour or at a quarter of one, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::backend) enum Period {
    /// 15 minutes: the midnights of all zones are at one's begin.
    Quarter,
    Hour,
    Day,
    Month,
}

pub(in crate::backend) const LOCAL_HOURLY: Rollup = Rollup {
    table: "local_hourly",
    period: Period::Hour,
    keys: &["local_ip"],
};

pub(in crate::backend) const LOCAL_DAILY: Rollup = Rollup {
    table: "local_daily",
    period: Period::Day,
    keys: &["local_ip"],
};

pub(in crate::backend) const SERVICE_HOURLY: Rollup = Rollup {
    table: "service_hourly",
    period: Period::Hour,
    keys: &["protocol", "local_port"],
};

pub(in crate::backend) const SERVICE_DAILY: Rollup = Rollup {
    table: "service_daily",
    period: Period::Day,
    keys: &["protocol", "local_port"],
};

pub(in crate::backend) const LOCAL_SERVICE_QUARTERLY: Rollup = Rollup {
    table: "local_service_quarterly",
    period: Period::Quarter,
    keys: &LOCAL_SERVICE,
};

pub(in crate::backend) const LOCAL_SERVICE_HOURLY: Rollup = Rollup {
    table: "local_service_hourly",
    period: Period::Hour,
    keys: &LOCAL_SERVICE,
};

pub(in crate::backend) const LOCAL_SERVICE_DAILY: Rollup = Rollup {
    table: "local_service_daily",
    period: Period::Day,
    keys: &LOCAL_SERVICE,
};

const LOCAL_SERVICE: [&str; 3] = ["local_ip", "protocol", "local_port"];

pub(in crate::backend) const REMOTE_MONTHLY: Rollup = Rollup {
    table: "remote_monthly",
    period: Period::Month,
    keys: &["remote_ip"],
};

/// Every table of sums, in the order in which they are written.
pub(in crate::backend) const ROLLUPS: [Rollup; 8] = [
    LOCAL_HOURLY,
    LOCAL_DAILY,
    SERVICE_HOURLY,
    SERVICE_DAILY,
    LOCAL_SERVICE_QUARTERLY,
    LOCAL_SERVICE_HOURLY,
    LOCAL_SERVICE_DAILY,
    REMOTE_MONTHLY,
];

impl Rollup {
    /// Whether its sums are by local address and service together.
    pub(in crate::backend) fn is_local_service(&self) -> bool {
        self.keys == LOCAL_SERVICE
    }
}

impl Period {
    /// The column that has the period's begin, in seconds since 1970.
    pub(in crate::backend) fn column(self) -> &'static str {
        match self {
            Self::Quarter => "quarter",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The begin of the period that a time in nanoseconds since 1970 lies in, in seconds.
    pub(in crate::backend) fn begin(self, nanoseconds: i64) -> i64 {
        let seconds = nanoseconds.div_euclid(SECOND_NS);
        match self {
            Self::Quarter => seconds.div_euclid(900) * 900,
            Self::Hour => seconds.div_euclid(3600) * 3600,
            Self::Day => seconds.div_euclid(86_400) * 86_400,
            Self::Month => month(seconds, 0).unwrap_or(seconds),
        }
    }

    /// Half its length in nanoseconds, of a month that has 30 days.
    pub(in crate::backend) fn half_ns(self) -> i64 {
        let seconds = match self {
            Self::Quarter => 900,
            Self::Hour => 3600,
            Self::Day => 86_400,
            Self::Month => 30 * 86_400,
        };
        seconds * SECOND_NS / 2
    }

    /// The begin of the next period, in seconds, of the one that begins at `begin`.
    pub(in crate::backend) fn next(self, begin: i64) -> i64 {
        match self {
            Self::Quarter => begin + 900,
            Self::Hour => begin + 3600,
            Self::Day => begin + 86_400,
            Self::Month => month(begin, 1).unwrap_or(begin),
        }
    }
}

impl Period {
    /// The begin, in nanoseconds, of the period that a time lies in; an open end stays open.
    pub(in crate::backend) fn down(self, time_ns: i64) -> i64 {
        match time_ns {
            i64::MIN | i64::MAX => time_ns,
            _ => self.begin(time_ns).saturating_mul(SECOND_NS),
        }
    }

    /// The first begin, in nanoseconds, of a period at a time or later.
    pub(in crate::backend) fn up(self, time_ns: i64) -> i64 {
        match self.down(time_ns) {
            begin if begin == time_ns => time_ns,
            begin => self.next(begin / SECOND_NS).saturating_mul(SECOND_NS),
        }
    }
}

pub(in crate::backend) const SECOND_NS: i64 = 1_000_000_000;

/// The begin of a second's month, or of one so many months later.
fn month(seconds: i64, later: i32) -> Option<i64> {
    let time = Timestamp::from_second(seconds).ok()?;
    let date = time
        .to_zoned_datetime(TimeZone::UTC)
        .date()
        .first_of_month();
    let span = jiff::Span::new().try_months(later).ok()?;
    let date = date.checked_add(span).ok()?;
    let begin = date.to_zoned_datetime(TimeZone::UTC).ok()?;
    Some(begin.timestamp().round(Unit::Second).ok()?.as_second())
}

/// A local address, a protocol and a local port.
pub(super) type LocalService = (IpAddr, u8, u16);

/// Sums by one key.
pub(super) type Sums<K> = HashMap<K, Counters, RandomState>;

/// The sums over the records of a snapshot that are not in the database yet.
///
/// Those by local address and those by service are made from those by both.
#[derive(Debug, Default)]
pub(super) struct SnapshotSums {
    pub(super) local_service: Sums<LocalService>,
    pub(super) remote: Sums<IpAddr>,
}

/// How many sums by one key are held at most: 8 MiB each. A snapshot may have millions.
const HELD: usize = 1 << 16;

impl SnapshotSums {
    pub(super) fn add(&mut self, records: &[Record]) {
        for record in records {
            let key = (record.local.ip, record.protocol, record.local.port);
            add(self.local_service.entry(key).or_default(), record);
            add(self.remote.entry(record.remote.ip).or_default(), record);
        }
    }

    /// Whether the local sums are to be written before more come.
    pub(super) fn local_is_full(&self) -> bool {
        self.local_service.len() >= HELD
    }

    /// Whether the remote sums are to be written before more come.
    pub(super) fn remote_is_full(&self) -> bool {
        self.remote.len() >= HELD
    }
}

fn add(sum: &mut Counters, record: &Record) {
    *sum = plus(sum, &record.counters);
}

/// Sums stay within 64 bits as long as the totals do; what they cannot hold is refused
/// when it is written.
pub(super) fn plus(sum: &Counters, more: &Counters) -> Counters {
    let mut sum = *sum;
    sum += more;
    sum
}

/// Empties a map in the order of its keys, which is the order of the table.
pub(super) fn drain_sorted<K: Ord + Hash + Copy>(sums: &mut Sums<K>) -> Vec<(K, Counters)> {
    let mut sorted: Vec<(K, Counters)> = sums.drain().collect();
    sorted.sort_unstable_by_key(|&(key, _)| key);
    sorted
}

/// The sums by local address, of those by address and service in their order.
pub(super) fn by_local(sums: &[(LocalService, Counters)]) -> Vec<(IpAddr, Counters)> {
    let mut local = Vec::<(IpAddr, Counters)>::new();
    for ((ip, ..), counters) in sums {
        match local.last_mut() {
            Some((last, sum)) if last == ip => *sum += counters,
            _ => local.push((*ip, *counters)),
        }
    }
    local
}

/// The sums by protocol and local port, in their order.
pub(super) fn by_service(sums: &[(LocalService, Counters)]) -> Vec<((u8, u16), Counters)> {
    let mut service = Sums::default();
    for &((_, protocol, port), ref counters) in sums {
        *service.entry((protocol, port)).or_default() += counters;
    }
    drain_sorted(&mut service)
}

/// An account of a host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) host_id: i64,
    pub(super) account_id: i64,
}

/// What a sum is by, as its table's key has it.
pub(super) trait SumKey {
    /// Adds the values of the columns [`Rollup::keys`].
    fn push(&self, values: &mut Vec<Value>);
}

impl SumKey for IpAddr {
    fn push(&self, values: &mut Vec<Value>) {
        values.push((*self).into());
    }
}

/// The values as they are.
impl SumKey for &[Value] {
    fn push(&self, values: &mut Vec<Value>) {
        values.extend_from_slice(self);
    }
}

impl SumKey for (u8, u16) {
    fn push(&self, values: &mut Vec<Value>) {
        values.extend([self.0.into(), self.1.into()]);
    }
}

impl SumKey for LocalService {
    fn push(&self, values: &mut Vec<Value>) {
        values.extend([self.0.into(), self.1.into(), self.2.into()]);
    }
}

/// Adds sums to those that the table has for the period of a time.
pub(super) fn add_at<D: Database, K: SumKey + Copy>(
    database: &mut D,
    rollup: &Rollup,
    owner: LockedOwner,
    time_ns: i64,
    sums: &[(K, Counters)],
) -> Result<(), StoreError> {
    let begin = rollup.period.begin(time_ns);
    let sums = sums.iter().map(|&sum| Ok(sum));
    add_to_table(database, rollup, owner, begin, sums)
}

/// Adds sums to those that the table has for the period.
pub(super) fn add_to_table<D: Database, K: SumKey>(
    database: &mut D,
    rollup: &Rollup,
    owner: LockedOwner,
    begin: i64,
    sums: impl Iterator<Item = Result<(K, Counters), StoreError>>,
) -> Result<(), StoreError> {
    let columns = 3 + rollup.keys.len() + COUNTERS.len();
    let rows_per_insert = D::DIALECT.rows_per_insert;
    let mut values = Vec::with_capacity(rows_per_insert * columns);
    for sum in sums {
        let (key, counters) = sum?;
        values.extend([owner.host_id.into(), owner.account_id.into(), begin.into()]);
        key.push(&mut values);
        values.extend(counter_values(&counters)?.map(Value::from));
        if values.len() == rows_per_insert * columns {
            insert_rows(database, &values, columns, |rows| upsert::<D>(rollup, rows))?;
            values.clear();
        }
    }
    insert_rows(database, &values, columns, |rows| upsert::<D>(rollup, rows))
}

fn upsert<D: Database>(rollup: &Rollup, rows: usize) -> String {
    let (before, after) = D::DIALECT.offered;
    let changes = COUNTERS.map(|counter| {
        format!(
            "{counter} = {}.{counter} + {before}{counter}{after}",
            rollup.table
        )
    });
    format!(
        "INSERT INTO {table} (host_id, account_id, {period}, {keys}, {counters})
         VALUES {places} {on_conflict} {changes}",
        table = rollup.table,
        period = rollup.period.column(),
        keys = rollup.keys.join(", "),
        counters = COUNTERS.join(", "),
        places = places(rows, 3 + rollup.keys.len() + COUNTERS.len()),
        on_conflict = D::DIALECT.on_conflict,
        changes = changes.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanoseconds(time: &str) -> i64 {
        super::super::nanoseconds(time.parse().unwrap())
    }

    fn text(seconds: i64) -> String {
        Timestamp::from_second(seconds).unwrap().to_string()
    }

    #[test]
    fn periods_begin_and_end_in_utc() {
        let time = nanoseconds("2024-02-29T23:59:59.999999999Z");
        for (period, begin, next) in [
            (
                Period::Quarter,
                "2024-02-29T23:45:00Z",
                "2024-03-01T00:00:00Z",
            ),
            (Period::Hour, "2024-02-29T23:00:00Z", "2024-03-01T00:00:00Z"),
            (Period::Day, "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z"),
            (
                Period::Month,
                "2024-02-01T00:00:00Z",
                "2024-03-01T00:00:00Z",
            ),
        ] {
            let found = period.begin(time);
            assert_eq!(text(found), begin);
            assert_eq!(text(period.next(found)), next);
        }
        let midnight = nanoseconds("2024-03-01T00:00:00Z");
        for period in [Period::Quarter, Period::Hour, Period::Day, Period::Month] {
            assert_eq!(text(period.begin(midnight)), "2024-03-01T00:00:00Z");
        }
    }
}
