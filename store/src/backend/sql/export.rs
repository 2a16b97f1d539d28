// SPDX-License-Identifier: GPL-2.0-or-later
//! Shows what is stored, account by account.

use std::iter::Peekable;
use std::net::IpAddr;

use jiff::Timestamp;

use super::conditions::Conditions;
use super::fields::{field, value};
use super::parts::{Merged, MonthParts};
use super::rollup::{
    LOCAL_DAILY, LOCAL_HOURLY, LOCAL_SERVICE_DAILY, LOCAL_SERVICE_HOURLY, LOCAL_SERVICE_QUARTERLY,
    Owner, REMOTE_MONTHLY, Rollup, SECOND_NS, SERVICE_DAILY, SERVICE_HOURLY, plus,
};
use super::stored::{self, StoredSnapshot};
use super::{Access, COUNTERS, Database, counters, in_transaction, nanoseconds, parts};
use crate::account::Account;
use crate::origin::Origin;
use crate::query::{Field, Value};
use crate::snapshot::Counters;
use crate::store::StoreError;
use crate::store::{Epochs, Level, Selection, Sum};

/// Shows epochs with their records. Each is read in a transaction of its own: whoever
/// takes them may be slow, and what an epoch holds does not change.
pub(in crate::backend) fn records<D: Database>(
    from: &mut D,
    selection: &Selection,
    to: &mut dyn Epochs,
) -> Result<(), StoreError> {
    for owner in asked(from, selection)? {
        let mut conditions = Conditions::default();
        conditions.owner(owner.ids);
        conditions.within_time("counted_ns", 1, owner.time);
        let condition = format!("1 = 1{}", conditions.sql);
        for key in stored::snapshots(from, &condition, &conditions.parameters)? {
            in_transaction(from, Access::Read, |from| {
                let snapshot = StoredSnapshot::read(from, key)?;
                if snapshot.first_record.is_none() {
                    to.left_out();
                    return Ok(());
                }
                to.begin(&snapshot.origin, &snapshot.header)?;
                stored::read_whole(from, key, &snapshot.header, |records| to.add(records))?;
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Shows the sums of a level, those by remote address with what waits in parts.
pub(in crate::backend) fn sums<D: Database>(
    from: &mut D,
    level: Level,
    selection: &Selection,
    each: &mut dyn FnMut(&Sum<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let rollup = match level {
        Level::Flow => return Ok(()),
        Level::LocalHour => LOCAL_HOURLY,
        Level::LocalDay => LOCAL_DAILY,
        Level::ServiceHour => SERVICE_HOURLY,
        Level::ServiceDay => SERVICE_DAILY,
        Level::LocalServiceQuarter => LOCAL_SERVICE_QUARTERLY,
        Level::LocalServiceHour => LOCAL_SERVICE_HOURLY,
        Level::LocalServiceDay => LOCAL_SERVICE_DAILY,
        Level::RemoteMonth => REMOTE_MONTHLY,
    };
    for owner in asked(from, selection)? {
        let mut show = |begin: i64, key: &[Value], counters: Counters| {
            let begin = Timestamp::from_second(begin)
                .map_err(|error| StoreError::Corrupt(error.to_string()))?;
            each(&Sum {
                origin: &owner.origin,
                account: &owner.account,
                begin,
                key,
                counters,
            })
        };
        in_transaction(from, Access::Read, |from| {
            let parts = match rollup == REMOTE_MONTHLY {
                true => parts::of_months(from, owner.ids, owner.time)?,
                false => Vec::new(),
            };
            let mut pending = Pending::new(&parts)?;
            table(from, &rollup, &owner, &mut |begin, key, mut sum| {
                if let &[Value::Ip(ip)] = key {
                    while let Some((before, ip, counters)) = pending.next_before(begin, ip)? {
                        show(before, &[Value::Ip(ip)], counters)?;
                    }
                    if let Some(more) = pending.next_equal(begin, ip)? {
                        sum = plus(&sum, &more);
                    }
                }
                show(begin, key, sum)
            })?;
            while let Some((begin, ip, counters)) = pending.next_any()? {
                show(begin, &[Value::Ip(ip)], counters)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// An account, and the time that is asked for.
struct Asked {
    ids: Owner,
    origin: Origin,
    account: Account,
    time: (i64, i64),
}

fn asked<D: Database>(from: &mut D, selection: &Selection) -> Result<Vec<Asked>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.accounts(&selection.accounts);
    let time = (
        selection.since.map_or(i64::MIN, nanoseconds),
        selection.until.map_or(i64::MAX, nanoseconds),
    );
    let mut asked = Vec::new();
    from.select(
        &format!(
            "SELECT a.host_id, a.id, h.machine_id, h.hostname, a.netns, a.family, a.name
             FROM account AS a JOIN host AS h ON h.id = a.host_id
             WHERE 1 = 1{} ORDER BY a.host_id, a.id",
            conditions.sql
        ),
        &conditions.parameters,
        &mut |row| {
            let wrong = |error: &dyn std::fmt::Display| StoreError::Corrupt(error.to_string());
            asked.push(Asked {
                ids: Owner {
                    host_id: row[0].integer()?,
                    account_id: row[1].integer()?,
                },
                origin: Origin {
                    machine_id: row[2].text()?.to_owned(),
                    hostname: row[3].text()?.to_owned(),
                    netns: row[4].text()?.to_owned(),
                },
                account: Account {
                    family: row[5].text()?.parse().map_err(|error| wrong(&error))?,
                    name: row[6].text()?.parse().map_err(|error| wrong(&error))?,
                },
                time,
            });
            Ok(())
        },
    )?;
    Ok(asked)
}

/// Takes the begin of a period, a key and its sum.
type EachRow<'a> = &'a mut dyn FnMut(i64, &[Value], Counters) -> Result<(), StoreError>;

/// Shows the rows of a table in the order of their periods and keys: IPv4 before IPv6, as
/// addresses compare.
fn table<D: Database>(
    from: &mut D,
    rollup: &Rollup,
    owner: &Asked,
    each: EachRow<'_>,
) -> Result<(), StoreError> {
    let period = rollup.period.column();
    let mut conditions = Conditions::default();
    conditions.owner(owner.ids);
    conditions.within_time(period, SECOND_NS, owner.time);
    let fields: Vec<Field> = rollup.keys.iter().filter_map(|key| field(key)).collect();
    let order: Vec<String> = rollup
        .keys
        .iter()
        .map(|key| match field(key) {
            Some(Field::LocalIp | Field::RemoteIp) => format!("LENGTH({key}), {key}"),
            _ => (*key).to_owned(),
        })
        .collect();
    from.select(
        &format!(
            "SELECT {period}, {keys}, {counters} FROM {table} WHERE 1 = 1{conditions}
             ORDER BY {period}, {order}",
            keys = rollup.keys.join(", "),
            counters = COUNTERS.join(", "),
            table = rollup.table,
            conditions = conditions.sql,
            order = order.join(", "),
        ),
        &conditions.parameters,
        &mut |row| {
            let key = fields
                .iter()
                .zip(&row[1..])
                .map(|(&field, column)| value(field, column))
                .collect::<Result<Vec<Value>, StoreError>>()?;
            each(row[0].integer()?, &key, counters(row, 1 + fields.len())?)
        },
    )
}

/// The sums that wait in parts, in the order of the table's.
struct Pending<'a> {
    months: std::slice::Iter<'a, MonthParts>,
    now: Option<(i64, Peekable<Merged<'a>>)>,
}

/// Month, address and what is to be added.
type PendingSum = (i64, IpAddr, Counters);

impl<'a> Pending<'a> {
    fn new(months: &'a [MonthParts]) -> Result<Self, StoreError> {
        let mut pending = Self {
            months: months.iter(),
            now: None,
        };
        pending.advance()?;
        Ok(pending)
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        self.now = match self.months.next() {
            Some(MonthParts { month, parts }) => Some((*month, Merged::new(parts)?.peekable())),
            None => None,
        };
        Ok(())
    }

    fn next_any(&mut self) -> Result<Option<PendingSum>, StoreError> {
        while let Some((month, sums)) = &mut self.now {
            if let Some(sum) = sums.next() {
                let (ip, counters) = sum?;
                return Ok(Some((*month, ip, counters)));
            }
            self.advance()?;
        }
        Ok(None)
    }

    /// The next if it comes before a month's address.
    fn next_before(&mut self, month: i64, ip: IpAddr) -> Result<Option<PendingSum>, StoreError> {
        match self.peek()? {
            Some(next) if next < (month, ip) => self.next_any(),
            _ => Ok(None),
        }
    }

    /// What is to be added to a month's address.
    fn next_equal(&mut self, month: i64, ip: IpAddr) -> Result<Option<Counters>, StoreError> {
        match self.peek()? {
            Some(next) if next == (month, ip) => {
                Ok(self.next_any()?.map(|(_, _, counters)| counters))
            }
            _ => Ok(None),
        }
    }

    fn peek(&mut self) -> Result<Option<(i64, IpAddr)>, StoreError> {
        while let Some((month, sums)) = &mut self.now {
            match sums.peek() {
                Some(Ok((ip, _))) => return Ok(Some((*month, *ip))),
                // Taking it gives the error.
                Some(Err(_)) => return self.next_any().map(|_| None),
                None => self.advance()?,
            }
        }
        Ok(None)
    }
}
