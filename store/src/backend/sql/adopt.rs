// SPDX-License-Identifier: GPL-2.0-or-later
//! Takes an account over from a copy with its sums, though its records are gone.
//!
//! Sums do not say which epochs they are made of. So an account is taken over only where the
//! store knows none of the copy's epochs: then the sums of both simply add up. The identities
//! of all epochs come first, in one transaction; `restore_progress` says how many of the copy's
//! sums were added since, and the next run goes on there.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::append::account_id;
use super::bound::{self, Counted};
use super::owner::{self, LockedOwner};
use super::parts::Part;
use super::rollup::{self, Owner, REMOTE_MONTHLY, ROLLUPS, Rollup};
use super::stored::{self, StoredSnapshot};
use super::{
    Access, COUNTERS, Database, SnapshotKey, Value, counters, first_row, in_transaction, kept,
};
use crate::backend::Sqlite;
use crate::kill_point::KillPoint;
use crate::snapshot::Counters;
use crate::store::StoreError;

/// How many sums are held, and added in one transaction.
const SUMS_AT_ONCE: usize = 20_000;

/// An account of a copy, as the store meets it.
#[derive(Debug)]
pub(super) enum Meeting {
    /// Its epochs come one by one: all that the store lacks have their records.
    ByEpoch,
    /// It comes with its sums: the store knows none of its epochs, or takes it over already.
    Whole,
    /// Both have some of its epochs, and the store lacks this many whose records are gone.
    Entangled(u64),
}

/// A sum of a table.
struct SumRow {
    rollup: &'static Rollup,
    begin: i64,
    key: Vec<Value>,
    counters: Counters,
}

/// An account in both databases.
pub(super) struct Adoption<'a, D: Database> {
    from: &'a mut Sqlite,
    to: &'a mut D,
    theirs: Owner,
    ours: Owner,
    source: Vec<u8>,
}

/// How an account of a copy may come into a store.
pub(super) fn meet<D: Database>(
    from: &mut Sqlite,
    to: &mut D,
    theirs: Owner,
    first: &StoredSnapshot,
) -> Result<Meeting, StoreError> {
    let known = match known_account(to, first)? {
        None => BTreeSet::new(),
        Some(ours) if progress(to, ours)?.is_some() => return Ok(Meeting::Whole),
        Some(ours) => epochs(to, ours, "1 = 1")?,
    };
    let lacking = epochs(from, theirs, "first_record IS NULL")?;
    let lacking = lacking.difference(&known).count() as u64;
    if lacking == 0 {
        return Ok(Meeting::ByEpoch);
    }
    match epochs(from, theirs, "1 = 1")?.is_disjoint(&known) {
        true => Ok(Meeting::Whole),
        false => Ok(Meeting::Entangled(lacking)),
    }
}

/// Takes an account over; its records come later, epoch by epoch.
pub(super) fn adopt<D: Database>(
    from: &mut Sqlite,
    to: &mut D,
    theirs: Owner,
    snapshots: &[SnapshotKey],
) -> Result<(), StoreError> {
    let source = digest(from, theirs)?;
    let Some((ours, position)) = begin(from, to, theirs, snapshots, &source)? else {
        return Ok(());
    };
    let mut adoption = Adoption {
        from,
        to,
        theirs,
        ours,
        source,
    };
    adoption.add_sums(position)
}

/// The accounts whose take-over was interrupted.
pub(super) fn unfinished<D: Database>(
    database: &mut D,
) -> Result<BTreeSet<(i64, i64)>, StoreError> {
    let mut owners = BTreeSet::new();
    database.select(
        "SELECT host_id, account_id FROM restore_progress",
        &[],
        &mut |row| {
            owners.insert((row[0].integer()?, row[1].integer()?));
            Ok(())
        },
    )?;
    Ok(owners)
}

/// Writes down the identities of all epochs, unless an earlier run did; gives the account and how
/// many sums were added since.
fn begin<D: Database>(
    from: &mut Sqlite,
    to: &mut D,
    theirs: Owner,
    snapshots: &[SnapshotKey],
    source: &[u8],
) -> Result<Option<(Owner, u64)>, StoreError> {
    let Some(&first) = snapshots.first() else {
        return Ok(None);
    };
    let first = StoredSnapshot::read(from, first)?;
    in_transaction(to, Access::Write, |to| {
        let host = owner::lock_or_insert(to, &first.origin.machine_id, &first.origin.hostname)?;
        let ours = host.account(account_id(to, host, &first.origin, &first.header)?);
        if let Some((begun, position)) = progress(to, *ours)? {
            return match begun == source {
                true => Ok(Some((*ours, position))),
                false => Err(StoreError::RestoreUnfinished(first.header.account.clone())),
            };
        }
        // A collector may have been faster.
        if !epochs(to, *ours, "1 = 1")?.is_disjoint(&epochs(from, theirs, "1 = 1")?) {
            return Err(StoreError::Locked);
        }
        for (level, since) in kept_levels(from)? {
            kept::raise(to, &level, since)?;
        }
        let mut counted = Counted::default();
        for &key in snapshots {
            let snapshot = StoredSnapshot::read(from, key)?;
            let key = SnapshotKey {
                host_id: ours.host_id,
                account_id: ours.account_id,
                epoch: key.epoch,
            };
            let counted_ns = snapshot.counted_ns;
            stored::insert_snapshot(to, &snapshot.header, key, Value::Null, Some(counted_ns))?;
            // What an earlier version stored is added when it is counted anew.
            if counted_ns >= 0 {
                counted.add(&snapshot.header);
            }
        }
        bound::add(to, ours, &first.header.account, &counted)?;
        to.execute(
            "INSERT INTO restore_progress (host_id, account_id, source, sums) VALUES (?, ?, ?, 0)",
            &[ours.host_id.into(), ours.account_id.into(), source.into()],
        )?;
        Ok(Some((*ours, 0)))
    })
}

impl<D: Database> Adoption<'_, D> {
    /// Adds all sums from a position on, table by table and in the order of their keys.
    fn add_sums(&mut self, position: u64) -> Result<(), StoreError> {
        let mut done = position;
        let mut seen = 0;
        let mut rows = Vec::with_capacity(SUMS_AT_ONCE);
        for rollup in &ROLLUPS {
            let Self { from, to, .. } = self;
            let mut add = |row: SumRow| {
                seen += 1;
                if seen > position {
                    rows.push(row);
                }
                if rows.len() == SUMS_AT_ONCE {
                    add_rows(*to, self.ours, &self.source, done, &rows)?;
                    done += rows.len() as u64;
                    rows.clear();
                    KillPoint::WithinRestore.pass();
                }
                Ok(())
            };
            each_sum(from, self.theirs, rollup, &mut add)?;
            if *rollup == REMOTE_MONTHLY {
                each_pending(from, self.theirs, &mut add)?;
            }
        }
        add_rows(self.to, self.ours, &self.source, done, &rows)?;
        let ours = self.ours;
        in_transaction(self.to, Access::Write, |to| {
            to.execute(
                "DELETE FROM restore_progress WHERE host_id = ? AND account_id = ?",
                &[ours.host_id.into(), ours.account_id.into()],
            )
        })?;
        Ok(())
    }
}

/// Adds sums in one transaction, unless another process has done so meanwhile.
fn add_rows<D: Database>(
    to: &mut D,
    ours: Owner,
    source: &[u8],
    done: u64,
    rows: &[SumRow],
) -> Result<(), StoreError> {
    in_transaction(to, Access::Write, |to| {
        let Some(host) = owner::lock(to, ours.host_id)? else {
            return Err(StoreError::Locked);
        };
        let ours = host.account(ours.account_id);
        if progress(to, *ours)? != Some((source.to_vec(), done)) {
            return Err(StoreError::Locked);
        }
        for period in
            rows.chunk_by(|one, other| one.rollup == other.rollup && one.begin == other.begin)
        {
            add_period(to, ours, period)?;
        }
        to.execute(
            "UPDATE restore_progress SET sums = ? WHERE host_id = ? AND account_id = ?",
            &[
                ((done + rows.len() as u64) as i64).into(),
                ours.host_id.into(),
                ours.account_id.into(),
            ],
        )?;
        Ok(())
    })
}

fn add_period<D: Database>(
    to: &mut D,
    ours: LockedOwner,
    rows: &[SumRow],
) -> Result<(), StoreError> {
    let Some(first) = rows.first() else {
        return Ok(());
    };
    rollup::add_to_table(
        to,
        first.rollup,
        ours,
        first.begin,
        rows.iter().map(|row| Ok((&row.key[..], row.counters))),
    )
}

/// Takes a sum.
type EachSum<'a> = &'a mut dyn FnMut(SumRow) -> Result<(), StoreError>;

fn each_sum(
    from: &mut Sqlite,
    theirs: Owner,
    rollup: &'static Rollup,
    each: EachSum<'_>,
) -> Result<(), StoreError> {
    let key = format!("{}, {}", rollup.period.column(), rollup.keys.join(", "));
    from.select(
        &format!(
            "SELECT {key}, {} FROM {} WHERE host_id = ? AND account_id = ? ORDER BY {key}",
            COUNTERS.join(", "),
            rollup.table
        ),
        &[theirs.host_id.into(), theirs.account_id.into()],
        &mut |row| {
            let (key, rest) = row.split_at(1 + rollup.keys.len());
            each(SumRow {
                rollup,
                begin: key[0].integer()?,
                key: key[1..].to_vec(),
                counters: counters(rest, 0)?,
            })
        },
    )
}

/// The sums by remote address that wait in parts.
fn each_pending(from: &mut Sqlite, theirs: Owner, each: EachSum<'_>) -> Result<(), StoreError> {
    from.select(
        "SELECT month, sums FROM remote_part WHERE host_id = ? AND account_id = ?
         ORDER BY month, epoch, part",
        &[theirs.host_id.into(), theirs.account_id.into()],
        &mut |row| {
            for sum in Part::new(row[1].bytes()?) {
                let (ip, counters) = sum?;
                each(SumRow {
                    rollup: &REMOTE_MONTHLY,
                    begin: row[0].integer()?,
                    key: vec![ip.into()],
                    counters,
                })?;
            }
            Ok(())
        },
    )
}

/// The account of this identity, if the store has it.
fn known_account<D: Database>(
    to: &mut D,
    snapshot: &StoredSnapshot,
) -> Result<Option<Owner>, StoreError> {
    let row = first_row(
        to,
        "SELECT a.host_id, a.id FROM host AS h JOIN account AS a ON a.host_id = h.id
         WHERE h.machine_id = ? AND a.identity = ?",
        &[
            snapshot.origin.machine_id.as_str().into(),
            snapshot.header.account_id[..].into(),
        ],
    )?;
    row.map(|row| {
        Ok(Owner {
            host_id: row[0].integer()?,
            account_id: row[1].integer()?,
        })
    })
    .transpose()
}

/// From which file an account is being taken over, and how many of its sums were added.
fn progress<D: Database>(to: &mut D, ours: Owner) -> Result<Option<(Vec<u8>, u64)>, StoreError> {
    let row = first_row(
        to,
        "SELECT source, sums FROM restore_progress WHERE host_id = ? AND account_id = ?",
        &[ours.host_id.into(), ours.account_id.into()],
    )?;
    row.map(|row| Ok((row[0].bytes()?.to_vec(), row[1].unsigned()?)))
        .transpose()
}

fn epochs<D: Database>(
    database: &mut D,
    owner: Owner,
    condition: &str,
) -> Result<BTreeSet<i64>, StoreError> {
    let mut epochs = BTreeSet::new();
    database.select(
        &format!("SELECT epoch FROM snapshot WHERE host_id = ? AND account_id = ? AND {condition}"),
        &[owner.host_id.into(), owner.account_id.into()],
        &mut |row| {
            epochs.insert(row[0].integer()?);
            Ok(())
        },
    )?;
    Ok(epochs)
}

fn kept_levels(from: &mut Sqlite) -> Result<Vec<(String, i64)>, StoreError> {
    let mut levels = Vec::new();
    from.select("SELECT level, since_ns FROM kept", &[], &mut |row| {
        levels.push((row[0].text()?.to_owned(), row[1].integer()?));
        Ok(())
    })?;
    Ok(levels)
}

/// What tells an account of one copy from the same account of another.
fn digest(from: &mut Sqlite, theirs: Owner) -> Result<Vec<u8>, StoreError> {
    let mut digest = Sha256::new();
    let of_theirs = [theirs.host_id.into(), theirs.account_id.into()];
    let mut add = |sql: &str| {
        from.select(sql, &of_theirs, &mut |row| {
            for value in row {
                digest.update(value.integer()?.to_le_bytes());
            }
            Ok(())
        })
    };
    add("SELECT epoch, closed_ns, recorded_bytes FROM snapshot
         WHERE host_id = ? AND account_id = ? ORDER BY epoch")?;
    for rollup in ROLLUPS {
        add(&format!(
            "SELECT COUNT(*), COALESCE(SUM(sent_packets), 0) FROM {}
             WHERE host_id = ? AND account_id = ?",
            rollup.table
        ))?;
    }
    add(
        "SELECT COUNT(*), COALESCE(SUM(LENGTH(sums)), 0) FROM remote_part
         WHERE host_id = ? AND account_id = ?",
    )?;
    Ok(digest.finalize().to_vec())
}
