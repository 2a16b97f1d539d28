// SPDX-License-Identifier: GPL-2.0-or-later
//! Deletes what is older than it is to be kept.

use super::rollup::{Owner, Period, ROLLUPS, SECOND_NS};
use super::{
    Access, Database, SnapshotKey, archive, first_row, in_transaction, kept, nanoseconds, parts,
    stored,
};
use crate::kill_point::KillPoint;
use crate::store::{Archive, Retention, Rotated, StoreError};

/// Deletes level by level, the finest first.
pub(in crate::backend) fn rotate<D: Database>(
    database: &mut D,
    retention: &Retention,
    archive: Option<Archive<'_>>,
) -> Result<Rotated, StoreError> {
    let mut rotated = Rotated::default();
    if let Some(before) = retention.records_before {
        delete_records(database, nanoseconds(before), archive, &mut rotated)?;
    }
    for (before, period) in [
        (retention.quarterly_before, Period::Quarter),
        (retention.hourly_before, Period::Hour),
        (retention.daily_before, Period::Day),
        (retention.monthly_before, Period::Month),
    ] {
        if let Some(before) = before {
            rotated.sums += delete_sums(database, nanoseconds(before), period)?;
        }
    }
    Ok(rotated)
}

/// Snapshots whose records are archived and deleted at once.
const SNAPSHOTS_AT_ONCE: usize = 2048;

fn delete_records<D: Database>(
    database: &mut D,
    before: i64,
    archive: Option<Archive<'_>>,
    rotated: &mut Rotated,
) -> Result<(), StoreError> {
    let keys = stored::snapshots(
        database,
        "counted_ns < ? AND first_record IS NOT NULL",
        &[before.into()],
    )?;
    for keys in keys.chunks(SNAPSHOTS_AT_ONCE) {
        let mut archived = None;
        if let Some(archive) = archive {
            let Some((path, keys)) = archive::archive(database, keys, archive)? else {
                continue;
            };
            rotated.archives.push(path);
            archived = Some(keys);
        }
        let keys = archived.as_deref().unwrap_or(keys);
        KillPoint::BeforeDelete.pass();
        in_transaction(database, Access::Write, |database| {
            // First: queries must not look for records that only some epochs have.
            kept::raise(database, "record", before)?;
            for &key in keys {
                if let Some(deleted) = delete_snapshot_records(database, key)? {
                    rotated.records += deleted;
                    rotated.epochs += 1;
                }
            }
            // The view remote_month reads from the records what is in parts.
            let mut owners: Vec<(i64, i64)> = keys
                .iter()
                .map(|key| (key.host_id, key.account_id))
                .collect();
            owners.sort_unstable();
            owners.dedup();
            for (host_id, account_id) in owners {
                let owner = Owner {
                    host_id,
                    account_id,
                };
                parts::add_all(database, owner)?;
            }
            KillPoint::BeforeDeleteCommit.pass();
            Ok(())
        })?;
    }
    Ok(())
}

/// None if another process has deleted them meanwhile.
fn delete_snapshot_records<D: Database>(
    database: &mut D,
    key: SnapshotKey,
) -> Result<Option<u64>, StoreError> {
    let row = first_row(
        database,
        "SELECT first_record, records FROM snapshot
         WHERE host_id = ? AND account_id = ? AND epoch = ? AND first_record IS NOT NULL",
        &key.values(),
    )?;
    let Some(row) = row else {
        return Ok(None);
    };
    let deleted = database.delete_records(key, row[0].integer()?, row[1].integer()?)?;
    database.execute(
        "UPDATE snapshot SET first_record = NULL
         WHERE host_id = ? AND account_id = ? AND epoch = ?",
        &key.values(),
    )?;
    Ok(Some(deleted))
}

/// Deletes the periods that ended before a time.
fn delete_sums<D: Database>(
    database: &mut D,
    before: i64,
    period: Period,
) -> Result<u64, StoreError> {
    let first_kept = period.begin(before);
    in_transaction(database, Access::Write, |database| {
        let mut deleted = 0;
        for rollup in ROLLUPS.iter().filter(|rollup| rollup.period == period) {
            deleted += database.execute(
                &format!("DELETE FROM {} WHERE {} < ?", rollup.table, period.column()),
                &[first_kept.into()],
            )?;
        }
        if period == Period::Month {
            database.execute(
                "DELETE FROM remote_part WHERE month < ?",
                &[first_kept.into()],
            )?;
        }
        kept::raise(
            database,
            period.column(),
            first_kept.saturating_mul(SECOND_NS),
        )?;
        Ok(deleted)
    })
}
