// SPDX-License-Identifier: GPL-2.0-or-later
//! Counts epochs anew that an earlier version of the schema stored.
//!
//! Such an epoch counted at the time at which it closed, now in the middle of the time that it was
//! open. Where its records are still there, its sums move to the periods of that, and those by
//! local address and service are made. Where they are gone, nothing tells what to move: the epoch
//! goes on counting when it closed, and [`kept`] notes until when that is so.
//!
//! An epoch that is yet to be counted has a `counted_ns` below 0, which changes in the transaction
//! that moves its sums. So this may end at any point and begin again, and a collector of the
//! earlier version may store meanwhile.

use super::bound;
use super::kept::{self, CLOSED_LEVEL, Kept, LOCAL_SERVICE_LEVEL};
use super::owner::{self, LockedOwner};
use super::rollup::{
    self, LOCAL_DAILY, LOCAL_HOURLY, LOCAL_SERVICE_DAILY, LOCAL_SERVICE_HOURLY,
    LOCAL_SERVICE_QUARTERLY, Owner, Period, REMOTE_MONTHLY, Rollup, SECOND_NS, SERVICE_DAILY,
    SERVICE_HOURLY, SnapshotSums, SumKey,
};
use super::{
    Access, COUNTERS, Database, SnapshotKey, Value, counter_values, counters, in_transaction, parts,
};
use crate::snapshot::{Counters, Endpoint, Record, counted_ns};
use crate::store::StoreError;

/// How many epochs one transaction counts anew at most.
const EPOCHS_AT_ONCE: i64 = 10_000;

/// How many records these have together at most, but for the first.
const RECORDS_AT_ONCE: i64 = 100_000;

/// Counts everything anew that is yet to be.
pub(in crate::backend) fn recount<D: Database>(database: &mut D) -> Result<(), StoreError> {
    for owner in owners(database)? {
        // What waits in parts is added in transactions of bounded size.
        parts::add_all(database, owner)?;
        while in_transaction(database, Access::Write, |database| {
            match owner::lock(database, owner.host_id)? {
                Some(host) => some(database, host.account(owner.account_id)),
                None => Ok(false),
            }
        })? {}
    }
    Ok(())
}

/// The accounts that have an epoch to count.
fn owners<D: Database>(database: &mut D) -> Result<Vec<Owner>, StoreError> {
    let mut owners = Vec::new();
    database.select(
        "SELECT a.host_id, a.id FROM account AS a
         WHERE EXISTS (SELECT 1 FROM snapshot AS s
             WHERE s.host_id = a.host_id AND s.account_id = a.id AND s.counted_ns < 0)",
        &[],
        &mut |row| {
            owners.push(Owner {
                host_id: row[0].integer()?,
                account_id: row[1].integer()?,
            });
            Ok(())
        },
    )?;
    Ok(owners)
}

/// An epoch to count.
struct Uncounted {
    epoch: i64,
    closed_ns: i64,
    /// When it counts from now on, if its records are there.
    counted_ns: i64,
    has_records: bool,
    records: i64,
    /// All its packets and bytes.
    counted: [i64; 2],
}

/// Counts some epochs of an account; whether there were any.
fn some<D: Database>(database: &mut D, owner: LockedOwner) -> Result<bool, StoreError> {
    let mut epochs = uncounted(database, owner)?;
    let mut records = 0;
    let fitting = epochs.iter().position(|epoch| {
        records += if epoch.has_records { epoch.records } else { 0 };
        records > RECORDS_AT_ONCE
    });
    epochs.truncate(fitting.unwrap_or(epochs.len()).max(1));
    let mut counted = [0_i64; 2];
    for epoch in &epochs {
        for (sum, more) in counted.iter_mut().zip(epoch.counted) {
            *sum = sum.saturating_add(more);
        }
    }
    bound::add_stored(database, owner, counted)?;
    let (with, without): (Vec<_>, Vec<_>) = epochs.into_iter().partition(|epoch| epoch.has_records);
    let changes_month = |epoch: &Uncounted| {
        Period::Month.begin(epoch.closed_ns) != Period::Month.begin(epoch.counted_ns)
    };
    if with.iter().any(changes_month) {
        while parts::add_some(database, owner)? {}
    }
    let kept = Kept::read(database)?;
    for epoch in &with {
        count(database, owner, epoch, &kept)?;
    }
    leave(database, owner, &without)?;
    Ok(!with.is_empty() || !without.is_empty())
}

fn uncounted<D: Database>(
    database: &mut D,
    owner: LockedOwner,
) -> Result<Vec<Uncounted>, StoreError> {
    let mut epochs = Vec::new();
    database.select(
        "SELECT epoch, opened_ns, closed_ns, duration_ns, first_record, records,
             recorded_packets, outside_packets, skipped_packets,
             recorded_bytes, outside_bytes, skipped_bytes
         FROM snapshot
         WHERE host_id = ? AND account_id = ? AND counted_ns < 0
         ORDER BY counted_ns, epoch LIMIT ?",
        &[
            owner.host_id.into(),
            owner.account_id.into(),
            EPOCHS_AT_ONCE.into(),
        ],
        &mut |row| {
            let duration_ns = match &row[3] {
                Value::Null => 0,
                known => known.unsigned()?,
            };
            let counted_ns = counted_ns(row[1].unsigned()?, row[2].unsigned()?, duration_ns);
            epochs.push(Uncounted {
                epoch: row[0].integer()?,
                closed_ns: row[2].integer()?,
                // It is before the closing, which is of 63 bits.
                counted_ns: counted_ns as i64,
                has_records: row[4] != Value::Null,
                records: row[5].integer()?,
                counted: [sum(&row[6..9])?, sum(&row[9..12])?],
            });
            Ok(())
        },
    )?;
    Ok(epochs)
}

/// The sum of some columns, or the largest number that a column holds.
fn sum(columns: &[Value]) -> Result<i64, StoreError> {
    let add = |sum: i64, column: &Value| Ok(sum.saturating_add(column.integer()?));
    columns.iter().try_fold(0, add)
}

/// Leaves epochs without records where they are.
fn leave<D: Database>(
    database: &mut D,
    owner: LockedOwner,
    epochs: &[Uncounted],
) -> Result<(), StoreError> {
    let numbers = epochs.iter().map(|epoch| epoch.epoch);
    let (Some(first), Some(last)) = (numbers.clone().min(), numbers.max()) else {
        return Ok(());
    };
    database.execute(
        "UPDATE snapshot SET counted_ns = closed_ns
         WHERE host_id = ? AND account_id = ? AND epoch BETWEEN ? AND ? AND counted_ns < 0
             AND first_record IS NULL",
        &[
            owner.host_id.into(),
            owner.account_id.into(),
            first.into(),
            last.into(),
        ],
    )?;
    let after = |of: &dyn Fn(&&Uncounted) -> bool| {
        let closed = epochs.iter().filter(of).map(|epoch| epoch.closed_ns).max();
        closed.map(|closed| closed.saturating_add(1))
    };
    if let Some(until) = after(&|epoch| epoch.counted_ns != epoch.closed_ns) {
        kept::raise(database, CLOSED_LEVEL, until)?;
    }
    if let Some(until) = after(&|epoch| epoch.records > 0) {
        kept::raise(database, LOCAL_SERVICE_LEVEL, until)?;
    }
    Ok(())
}

/// Moves the sums of an epoch to when it counts.
fn count<D: Database>(
    database: &mut D,
    owner: LockedOwner,
    epoch: &Uncounted,
    kept: &Kept,
) -> Result<(), StoreError> {
    let key = SnapshotKey {
        host_id: owner.host_id,
        account_id: owner.account_id,
        epoch: epoch.epoch,
    };
    let mut sums = sums(database, key)?;
    let mut moving = Moving {
        database,
        owner,
        epoch,
        kept,
    };
    let local_service = rollup::drain_sorted(&mut sums.local_service);
    let local = rollup::by_local(&local_service);
    for table in [LOCAL_HOURLY, LOCAL_DAILY] {
        moving.shift(&table, &local)?;
    }
    let service = rollup::by_service(&local_service);
    for table in [SERVICE_HOURLY, SERVICE_DAILY] {
        moving.shift(&table, &service)?;
    }
    for table in [
        LOCAL_SERVICE_QUARTERLY,
        LOCAL_SERVICE_HOURLY,
        LOCAL_SERVICE_DAILY,
    ] {
        moving.add(&table, &local_service)?;
    }
    moving.shift(&REMOTE_MONTHLY, &rollup::drain_sorted(&mut sums.remote))?;
    let mut values = vec![Value::from(epoch.counted_ns)];
    values.extend(key.values());
    database.execute(
        "UPDATE snapshot SET counted_ns = ? WHERE host_id = ? AND account_id = ? AND epoch = ?",
        &values,
    )?;
    Ok(())
}

/// Sums up the records of an epoch.
fn sums<D: Database>(database: &mut D, key: SnapshotKey) -> Result<SnapshotSums, StoreError> {
    let mut sums = SnapshotSums::default();
    let sql = format!(
        "SELECT r.protocol, r.local_ip, r.local_port, r.remote_ip, r.{counters}
         FROM snapshot AS s JOIN record AS r ON {records}
         WHERE s.host_id = ? AND s.account_id = ? AND s.epoch = ?",
        counters = COUNTERS.join(", r."),
        records = D::DIALECT.records_of_snapshot,
    );
    database.select(&sql, &key.values(), &mut |row| {
        sums.add(&[Record {
            protocol: row[0].small()?,
            local: Endpoint {
                ip: row[1].address()?,
                port: row[2].small()?,
            },
            remote: Endpoint {
                ip: row[3].address()?,
                port: 0,
            },
            flags: 0,
            counters: counters(row, 4)?,
        }]);
        Ok(())
    })?;
    Ok(sums)
}

/// An epoch whose sums move.
struct Moving<'a, D> {
    database: &'a mut D,
    owner: LockedOwner,
    epoch: &'a Uncounted,
    kept: &'a Kept,
}

impl<D: Database> Moving<'_, D> {
    /// Moves sums from the period of one time to that of another, unless it is the same.
    fn shift<K: SumKey + Copy>(
        &mut self,
        table: &Rollup,
        sums: &[(K, Counters)],
    ) -> Result<(), StoreError> {
        let (closed, counted) = (self.epoch.closed_ns, self.epoch.counted_ns);
        let old = table.period.begin(closed);
        if old == table.period.begin(counted) {
            return Ok(());
        }
        if self.has(table, closed) {
            subtract(self.database, table, self.owner, old, sums)?;
        }
        self.add(table, sums)
    }

    /// Adds sums to the period in which the epoch counts.
    fn add<K: SumKey + Copy>(
        &mut self,
        table: &Rollup,
        sums: &[(K, Counters)],
    ) -> Result<(), StoreError> {
        match self.has(table, self.epoch.counted_ns) {
            true => rollup::add_at(
                self.database,
                table,
                self.owner,
                self.epoch.counted_ns,
                sums,
            ),
            false => Ok(()),
        }
    }

    /// Whether a table's sums of a time are kept.
    fn has(&self, table: &Rollup, time_ns: i64) -> bool {
        let begin = table.period.begin(time_ns).saturating_mul(SECOND_NS);
        begin >= self.kept.period_since(table.period)
    }
}

/// Takes sums from those that the table has for a period, and rows that come to nothing with them.
///
/// What is not there cannot be taken; a check tells that the table is not what its snapshots say.
fn subtract<D: Database, K: SumKey>(
    database: &mut D,
    rollup: &Rollup,
    owner: LockedOwner,
    begin: i64,
    sums: &[(K, Counters)],
) -> Result<(), StoreError> {
    let table = rollup.table;
    let keys = ["host_id", "account_id", rollup.period.column()];
    let period: Vec<String> = keys.iter().map(|key| format!("{key} = ?")).collect();
    let period_values = [owner.host_id.into(), owner.account_id.into(), begin.into()];
    let update = format!(
        "UPDATE {table} SET {changes} WHERE {period} AND {key} AND {enough}",
        changes = COUNTERS
            .map(|counter| format!("{counter} = {counter} - ?"))
            .join(", "),
        period = period.join(" AND "),
        key = rollup
            .keys
            .iter()
            .map(|key| format!("{key} = ?"))
            .collect::<Vec<_>>()
            .join(" AND "),
        enough = COUNTERS
            .map(|counter| format!("{counter} >= ?"))
            .join(" AND "),
    );
    for (key, counters) in sums {
        let counters = counter_values(counters)?.map(Value::from);
        let mut values = counters.to_vec();
        values.extend(period_values.clone());
        key.push(&mut values);
        values.extend(counters);
        database.execute(&update, &values)?;
    }
    database.execute(
        &format!(
            "DELETE FROM {table} WHERE {period} AND {nothing}",
            period = period.join(" AND "),
            nothing = COUNTERS
                .map(|counter| format!("{counter} = 0"))
                .join(" AND "),
        ),
        &period_values,
    )?;
    Ok(())
}
