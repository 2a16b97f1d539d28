// SPDX-License-Identifier: GPL-2.0-or-later
//! Deletes what is older than it is to be kept.

use super::deletion::{self, Expired};
use super::lease::{self, Lease};
use super::owner::{self, LockedOwner};
use super::rollup::{Owner, Period, REMOTE_MONTHLY, ROLLUPS, Rollup, SECOND_NS};
use super::{
    Access, Database, ROWS_AT_ONCE, SnapshotKey, Value, archive, cut_off, first_row,
    in_transaction, kept, nanoseconds,
};
use crate::kill_point::KillPoint;
use crate::store::{Archive, Retention, Rotated, StoreError};

/// Epochs that an archive's file has at most.
const EPOCHS_PER_ARCHIVE: usize = 2048;

/// Deletes level by level, the finest first.
pub(in crate::backend) fn rotate<D: Database>(
    database: &mut D,
    retention: &Retention,
    archive: Option<Archive<'_>>,
) -> Result<Rotated, StoreError> {
    cut_off::check(database, retention)?;
    let lease = lease::take(database, lease::RETENTION)?;
    let rotated = rotate_alone(database, retention, archive, &lease);
    let released = lease.release(database);
    let rotated = rotated?;
    released?;
    Ok(rotated)
}

fn rotate_alone<D: Database>(
    database: &mut D,
    retention: &Retention,
    archive: Option<Archive<'_>>,
    lease: &Lease,
) -> Result<Rotated, StoreError> {
    let mut rotated = Rotated::default();
    if let Some(before) = retention.records_before {
        deletion::finish_all(database)?;
        delete_records(database, nanoseconds(before), archive, lease, &mut rotated)?;
    }
    for (before, period) in [
        (retention.quarterly_before, Period::Quarter),
        (retention.hourly_before, Period::Hour),
        (retention.daily_before, Period::Day),
        (retention.monthly_before, Period::Month),
    ] {
        if let Some(before) = before {
            lease.renew(database)?;
            rotated.sums += delete_sums(database, nanoseconds(before), period)?;
        }
    }
    Ok(rotated)
}

fn delete_records<D: Database>(
    database: &mut D,
    before: i64,
    archive: Option<Archive<'_>>,
    lease: &Lease,
    rotated: &mut Rotated,
) -> Result<(), StoreError> {
    for epochs in expired(database, before)?.chunks(EPOCHS_PER_ARCHIVE) {
        lease.renew(database)?;
        let mut epochs = epochs.to_vec();
        if let Some(archive) = archive {
            let keys: Vec<SnapshotKey> = epochs.iter().map(|expired| expired.key).collect();
            let Some((path, archived)) = archive::archive(database, &keys, archive)? else {
                continue;
            };
            rotated.archives.push(path);
            epochs.retain(|expired| archived.contains(&expired.key));
        }
        KillPoint::BeforeDelete.pass();
        // First: queries must not look for records that only some epochs have.
        if let Some(newest) = epochs.iter().map(|expired| expired.counted_ns).max() {
            raise(database, "record", before.min(newest.saturating_add(1)))?;
        }
        let deleted = deletion::delete_records(database, &epochs)?;
        rotated.records += deleted.records;
        rotated.epochs += deleted.epochs;
    }
    raise(database, "record", before)
}

/// The epochs that count before a time and have their records, in the order of their times.
fn expired<D: Database>(database: &mut D, before: i64) -> Result<Vec<Expired>, StoreError> {
    let mut expired = Vec::new();
    database.select(
        "SELECT host_id, account_id, epoch, records, counted_ns FROM snapshot
         WHERE counted_ns < ? AND first_record IS NOT NULL
         ORDER BY counted_ns, host_id, account_id, epoch",
        &[before.into()],
        &mut |row| {
            expired.push(Expired {
                key: SnapshotKey {
                    host_id: row[0].integer()?,
                    account_id: row[1].integer()?,
                    epoch: row[2].integer()?,
                },
                records: row[3].unsigned()?,
                counted_ns: row[4].integer()?,
            });
            Ok(())
        },
    )?;
    Ok(expired)
}

/// Notes that a level has no rows before a time, in a transaction of its own: what is deleted
/// afterwards may be deleted in several.
fn raise<D: Database>(database: &mut D, level: &str, since_ns: i64) -> Result<(), StoreError> {
    in_transaction(database, Access::Write, |database| {
        kept::raise(database, level, since_ns)
    })
}

/// Deletes the periods that ended before a time.
fn delete_sums<D: Database>(
    database: &mut D,
    before: i64,
    period: Period,
) -> Result<u64, StoreError> {
    let first_kept = period.begin(before);
    raise(
        database,
        period.column(),
        first_kept.saturating_mul(SECOND_NS),
    )?;
    let mut deleted = 0;
    for owner in owners(database)? {
        for rollup in ROLLUPS.iter().filter(|rollup| rollup.period == period) {
            while let Some(more) = in_transaction(database, Access::Write, |database| {
                match owner::lock(database, owner.host_id)? {
                    Some(host) => {
                        let owner = host.account(owner.account_id);
                        delete_slice(database, rollup, owner, first_kept)
                    }
                    None => Ok(None),
                }
            })? {
                deleted += more;
            }
        }
    }
    Ok(deleted)
}

fn owners<D: Database>(database: &mut D) -> Result<Vec<Owner>, StoreError> {
    let mut owners = Vec::new();
    database.select(
        "SELECT host_id, id FROM account ORDER BY host_id, id",
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

/// Deletes as many sums of an account as one transaction may, the oldest first; none if there
/// are none.
fn delete_slice<D: Database>(
    database: &mut D,
    rollup: &Rollup,
    owner: LockedOwner,
    first_kept: i64,
) -> Result<Option<u64>, StoreError> {
    let (table, period) = (rollup.table, rollup.period.column());
    let key = format!("{period}, {}", rollup.keys.join(", "));
    let expired = format!("host_id = ? AND account_id = ? AND {period} < ?");
    let mut values = [owner.host_id, owner.account_id, first_kept]
        .map(Value::from)
        .to_vec();
    // The first row that stays for the next transaction.
    let next = first_row(
        database,
        &format!("SELECT {key} FROM {table} WHERE {expired} ORDER BY {key} LIMIT 1 OFFSET ?"),
        &[&values[..], &[(ROWS_AT_ONCE as i64).into()]].concat(),
    )?;
    let mut sql = format!("DELETE FROM {table} WHERE {expired}");
    if let Some(next) = next {
        let places = vec!["?"; next.len()].join(", ");
        // The period twice: MySQL finds rows by the one, and compares them by the other.
        sql.push_str(&format!(" AND {period} <= ? AND ({key}) < ({places})"));
        values.push(next[0].clone());
        values.extend(next);
    }
    let mut deleted = database.execute(&sql, &values)?;
    if *rollup == REMOTE_MONTHLY {
        deleted += database.execute(
            &format!("DELETE FROM remote_part WHERE {expired}"),
            &values[..3],
        )?;
    }
    Ok((deleted > 0).then_some(deleted))
}
