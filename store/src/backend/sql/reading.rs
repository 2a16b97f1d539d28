// SPDX-License-Identifier: GPL-2.0-or-later
//! Adds what a store lacks of a reading of the original's counters.

use std::collections::HashSet;

use super::append::{self, Appending};
use super::stored::{StoredSnapshot, read_whole};
use super::{Access, Database, SnapshotKey, Value, in_transaction, signed};
use crate::account::Name;
use crate::origin::Origin;
use crate::reading::{AddedRows, Reading, account_id};
use crate::snapshot::{Counters, Record};
use crate::store::StoreError;
use crate::time::timestamp;

/// Rows that are appended at once.
const BATCH: usize = 4096;

/// The epochs that are stored of a reading's time.
#[derive(Default)]
struct Stored {
    /// Their rows, as far as they are there.
    rows: Vec<Record>,
    /// What their headers say of rows, packets and bytes.
    totals: (u64, u64, u64),
    /// Whether the rows of some were deleted.
    is_partly_deleted: bool,
}

/// The rows that a store lacks, and the number of the epoch that adds them.
struct Lacking {
    rows: Vec<Record>,
    epoch: u64,
}

/// The hosts of which readings of an account were imported.
pub(in crate::backend) fn origins<D: Database>(
    database: &mut D,
    account: &Name,
) -> Result<Vec<Origin>, StoreError> {
    let mut origins = Vec::new();
    database.select(
        "SELECT h.machine_id, h.hostname, a.netns, a.identity
         FROM account AS a JOIN host AS h ON h.id = a.host_id
         WHERE a.name = ? ORDER BY h.hostname, h.id",
        &[account.as_str().into()],
        &mut |row| {
            let origin = Origin {
                machine_id: row[0].text()?.to_owned(),
                hostname: row[1].text()?.to_owned(),
                netns: row[2].text()?.to_owned(),
            };
            if row[3].bytes()? == account_id(&origin, account) {
                origins.push(origin);
            }
            Ok(())
        },
    )?;
    Ok(origins)
}

/// Adds the rows that are not stored yet as one epoch, if there are any.
pub(in crate::backend) fn add<D: Database>(
    database: &mut D,
    origin: &Origin,
    reading: &Reading,
) -> Result<AddedRows, StoreError> {
    // Only host and account are looked for; no epoch has this number.
    let of_account = reading.empty_header(0);
    append::prepare(database, origin, &of_account)?;
    in_transaction(database, Access::Write, |database| {
        let (_, account) = append::key(database, origin, &of_account)?;
        let lacking = match reading.is_of_time {
            true => lacking_of_time(database, account, reading)?,
            false => lacking_of_rows(database, account, reading)?,
        };
        let Lacking { rows, epoch } = lacking;
        if rows.is_empty() {
            return Ok(AddedRows::default());
        }
        let header = reading.header(epoch, &rows).ok_or(StoreError::OutOfRange {
            what: "the sum of a reading's rows",
            value: u64::MAX,
        })?;
        let mut appending = Appending::begin(database, origin, &header)?;
        for batch in rows.chunks(BATCH) {
            appending.add(batch)?;
        }
        appending.finish()?;
        Ok(AddedRows {
            rows: header.records,
            packets: header.totals.recorded.packets,
            bytes: header.totals.recorded.bytes,
        })
    })
}

/// What is lacking of a reading that its time tells from others.
fn lacking_of_time<D: Database>(
    database: &mut D,
    account: SnapshotKey,
    reading: &Reading,
) -> Result<Lacking, StoreError> {
    let stored = Stored::read(database, account, reading.closed_ns)?;
    if stored.is_partly_deleted {
        if stored.totals == totals(&reading.rows) {
            return Ok(Lacking {
                rows: Vec::new(),
                epoch: 0,
            });
        }
        return Err(StoreError::RowsDeleted {
            account: reading.account.clone(),
            closed: timestamp(reading.closed_ns),
        });
    }
    let rows = reading.lacking(&stored.rows);
    let all = [&stored.rows[..], &rows[..]].concat();
    let epoch = reading.number_of_time(all);
    Ok(Lacking { rows, epoch })
}

/// What is lacking of a reading that its rows tell from others: those behind the longest
/// begin that is stored.
fn lacking_of_rows<D: Database>(
    database: &mut D,
    account: SnapshotKey,
    reading: &Reading,
) -> Result<Lacking, StoreError> {
    let mut stored = HashSet::new();
    database.select(
        "SELECT epoch FROM snapshot WHERE host_id = ? AND account_id = ?",
        &account.values()[..2],
        &mut |row| {
            stored.insert(row[0].unsigned()?);
            Ok(())
        },
    )?;
    let numbers = reading.numbers_of_rows();
    let known = numbers.iter().rposition(|number| stored.contains(number));
    let known = known.map_or(0, |last| last + 1);
    let mut rows = reading.rows[known..].to_vec();
    if goes_on_with(database, account, reading, known)? {
        rows.clear();
    }
    Ok(Lacking {
        rows,
        epoch: numbers.last().copied().unwrap_or(0),
    })
}

/// Whether a stored epoch has the rows behind the first `known` ones and more: this is an
/// earlier copy of a file that grew.
fn goes_on_with<D: Database>(
    database: &mut D,
    account: SnapshotKey,
    reading: &Reading,
    known: usize,
) -> Result<bool, StoreError> {
    let rest = &reading.rows[known..];
    let Some(first) = rest.first() else {
        return Ok(false);
    };
    let mut parameters = account.values()[..2].to_vec();
    parameters.extend([
        signed("rows", rest.len() as u64)?.into(),
        first.protocol.into(),
        first.local.ip.into(),
        first.remote.ip.into(),
    ]);
    let mut epochs = Vec::new();
    database.select(
        &format!(
            "SELECT s.epoch FROM snapshot AS s JOIN record AS r ON {records}
             WHERE s.host_id = ? AND s.account_id = ? AND s.records > ?
                 AND {number} = s.first_record
                 AND r.protocol = ? AND r.local_ip = ? AND r.remote_ip = ?",
            records = D::DIALECT.records_of_snapshot,
            number = D::DIALECT.record_number,
        ),
        &parameters,
        &mut |row| {
            epochs.push(row[0].integer()?);
            Ok(())
        },
    )?;
    for epoch in epochs {
        let records = records(database, SnapshotKey { epoch, ..account })?;
        if records.starts_with(rest)
            && signed("epoch", reading.number_behind(known, &records))? == epoch
        {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Stored {
    /// What is stored of an account's epochs that closed at a time.
    fn read<D: Database>(
        database: &mut D,
        account: SnapshotKey,
        closed_ns: u64,
    ) -> Result<Self, StoreError> {
        let mut parameters = account.values()[..2].to_vec();
        parameters.push(signed("closed_ns", closed_ns)?.into());
        let mut epochs = Vec::new();
        database.select(
            "SELECT epoch, first_record, records, recorded_packets, recorded_bytes
             FROM snapshot WHERE host_id = ? AND account_id = ? AND closed_ns = ?",
            &parameters,
            &mut |row| {
                let totals = [row[2].unsigned()?, row[3].unsigned()?, row[4].unsigned()?];
                epochs.push((row[0].integer()?, row[1] != Value::Null, totals));
                Ok(())
            },
        )?;
        let mut stored = Self::default();
        for (epoch, is_there, [rows, packets, bytes]) in epochs {
            stored.totals.0 += rows;
            stored.totals.1 = stored.totals.1.saturating_add(packets);
            stored.totals.2 = stored.totals.2.saturating_add(bytes);
            match is_there {
                true => stored
                    .rows
                    .extend(records(database, SnapshotKey { epoch, ..account })?),
                false => stored.is_partly_deleted = true,
            }
        }
        Ok(stored)
    }
}

/// All records of an epoch.
fn records<D: Database>(database: &mut D, key: SnapshotKey) -> Result<Vec<Record>, StoreError> {
    let header = StoredSnapshot::read(database, key)?.header;
    let mut records = Vec::new();
    read_whole(database, key, &header, |batch| {
        records.extend_from_slice(batch);
        Ok(())
    })?;
    Ok(records)
}

/// Rows, packets and bytes.
fn totals(rows: &[Record]) -> (u64, u64, u64) {
    let mut sum = Counters::default();
    for row in rows {
        sum += &row.counters;
    }
    (rows.len() as u64, sum.packets(), sum.bytes())
}
