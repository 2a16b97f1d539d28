// SPDX-License-Identifier: GPL-2.0-or-later
//! Snapshots as the database has them: their rows and their records.

use ipnet::IpNet;
use jiff::Timestamp;

use super::proof::Proof;
use super::{
    COUNTERS, Database, SnapshotKey, Value, counters, first_row, growth, nanoseconds, places,
    signed,
};
use crate::account::Account;
use crate::origin::Origin;
use crate::snapshot::{Endpoint, Growth, Header, Record};
use crate::store::StoreError;

/// Records that are shown at once.
const BATCH: usize = 4096;

/// How many columns [`StoredSnapshot::read`] asks for before the figures.
const IDENTITY_COLUMNS: usize = 11;

/// Everything of a snapshot besides its records.
pub(super) struct StoredSnapshot {
    pub(super) origin: Origin,
    pub(super) header: Header,
    /// When it counts, as the database has it.
    pub(super) counted_ns: i64,
    /// None if the records are gone.
    pub(super) first_record: Option<i64>,
}

impl StoredSnapshot {
    pub(super) fn read<D: Database>(
        database: &mut D,
        key: SnapshotKey,
    ) -> Result<Self, StoreError> {
        let columns = columns("s.");
        let row = first_row(
            database,
            &format!(
                "SELECT h.machine_id, h.hostname, a.netns, a.identity, a.family, a.name,
                     a.local_addr, a.prefix_len, s.epoch, s.first_record, s.counted_ns, {columns}
                 FROM snapshot AS s
                 JOIN account AS a ON a.host_id = s.host_id AND a.id = s.account_id
                 JOIN host AS h ON h.id = s.host_id
                 WHERE s.host_id = ? AND s.account_id = ? AND s.epoch = ?"
            ),
            &key.values(),
        )?
        .ok_or_else(|| StoreError::Corrupt(format!("{key:?} has no account")))?;
        let wrong = |error: &dyn std::fmt::Display| StoreError::Corrupt(error.to_string());
        let local_net = IpNet::new(row[6].address()?, row[7].small()?).map_err(|e| wrong(&e))?;
        let account = Account {
            family: row[4].text()?.parse().map_err(|e| wrong(&e))?,
            name: row[5].text()?.parse().map_err(|e| wrong(&e))?,
        };
        let account_id = row[3].bytes()?.try_into();
        let account_id =
            account_id.map_err(|_| wrong(&"an account's identity has not 16 bytes"))?;
        let mut header = Header::new(account, account_id, row[8].unsigned()?, local_net);
        let figures = &row[IDENTITY_COLUMNS..];
        for (figure, column) in Header::FIGURES.iter().zip(figures) {
            if !(figure.set)(&mut header, column.unsigned()?) {
                return Err(wrong(&format_args!("{} is {column:?}", figure.name)));
            }
        }
        header.growth = growth::read(figures, Header::FIGURES.len())?;
        Ok(Self {
            origin: Origin {
                machine_id: row[0].text()?.to_owned(),
                hostname: row[1].text()?.to_owned(),
                netns: row[2].text()?.to_owned(),
            },
            header,
            counted_ns: row[10].integer()?,
            first_record: match &row[9] {
                Value::Null => None,
                first => Some(first.integer()?),
            },
        })
    }
}

/// The snapshot's key, and its first record if it has any still, if it is stored.
pub(super) fn find<D: Database>(
    database: &mut D,
    origin: &Origin,
    header: &Header,
) -> Result<Option<(SnapshotKey, Option<i64>)>, StoreError> {
    let Some(row) = first_row(
        database,
        "SELECT a.host_id, a.id, s.first_record
         FROM host AS h
         JOIN account AS a ON a.host_id = h.id
         JOIN snapshot AS s ON s.host_id = a.host_id AND s.account_id = a.id
         WHERE h.machine_id = ? AND a.identity = ? AND s.epoch = ?",
        &[
            origin.machine_id.as_str().into(),
            header.account_id[..].into(),
            signed("epoch", header.epoch)?.into(),
        ],
    )?
    else {
        return Ok(None);
    };
    let key = SnapshotKey {
        host_id: row[0].integer()?,
        account_id: row[1].integer()?,
        epoch: signed("epoch", header.epoch)?,
    };
    if let Some(stored) = stored_figures(database, key)? {
        check_same(header, &stored)?;
    }
    let first = match &row[2] {
        Value::Null => None,
        first => Some(first.integer()?),
    };
    Ok(Some((key, first)))
}

/// The columns of the figures and of the later fields, each behind `prefix`.
fn columns(prefix: &str) -> String {
    let figures = Header::FIGURES.iter().map(|figure| figure.name);
    let columns = figures.chain(Growth::COLUMNS);
    let prefixed: Vec<String> = columns.map(|column| format!("{prefix}{column}")).collect();
    prefixed.join(", ")
}

/// The values stored in [`columns`] under an identity, if there are any.
pub(super) fn stored_figures<D: Database>(
    database: &mut D,
    key: SnapshotKey,
) -> Result<Option<Vec<Value>>, StoreError> {
    first_row(
        database,
        &format!(
            "SELECT {} FROM snapshot WHERE host_id = ? AND account_id = ? AND epoch = ?",
            columns("")
        ),
        &key.values(),
    )
}

/// Refuses a snapshot that is stored with other totals; later fields count where both know
/// them.
pub(super) fn check_same(header: &Header, stored: &[Value]) -> Result<(), StoreError> {
    let conflict = |what, stored, offered| StoreError::Conflict {
        account: header.account.clone(),
        epoch: header.epoch,
        what,
        stored,
        offered,
    };
    for (figure, stored) in Header::FIGURES.iter().zip(stored) {
        let offered = (figure.get)(header);
        let stored = stored.integer()?;
        if i64::try_from(offered) != Ok(stored) {
            return Err(conflict(figure.name, stored, offered));
        }
    }
    let stored = &stored[Header::FIGURES.len()..];
    if header.growth.is_none() || growth::read(stored, 0)?.is_none() {
        return Ok(());
    }
    let offered = growth::values(header.growth.as_ref())?;
    for ((what, offered), stored) in Growth::COLUMNS.into_iter().zip(&offered).zip(stored) {
        if offered.real()? != stored.real()? {
            let [stored, offered] = [stored.real()?, offered.real()?];
            return Err(conflict(what, stored as i64, offered as u64));
        }
    }
    Ok(())
}

pub(super) fn insert_snapshot<D: Database>(
    database: &mut D,
    header: &Header,
    key: SnapshotKey,
    first_record: Value,
    counted_ns: Option<i64>,
) -> Result<(), StoreError> {
    let mut values = key.values().to_vec();
    values.extend([first_record, nanoseconds(Timestamp::now()).into()]);
    for figure in &Header::FIGURES {
        values.push(signed(figure.name, (figure.get)(header))?.into());
    }
    values.extend(growth::values(header.growth.as_ref())?);
    let mut columns = columns("");
    // The version before has no such column.
    if let Some(counted_ns) = counted_ns {
        columns += ", counted_ns";
        values.push(counted_ns.into());
    }
    database.execute(
        &format!(
            "INSERT INTO snapshot (host_id, account_id, epoch, first_record, collected_ns, {columns})
             VALUES {}",
            places(1, values.len())
        ),
        &values,
    )?;
    Ok(())
}

/// Shows all records of a snapshot in their order, proves them and gives their digest.
pub(super) fn read_whole<D: Database>(
    database: &mut D,
    key: SnapshotKey,
    header: &Header,
    mut each: impl FnMut(&[Record]) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let mut proof = Proof::default();
    let mut batch = Vec::with_capacity(BATCH);
    let mut flush = |batch: &mut Vec<Record>| {
        proof.add(batch);
        let done = each(batch);
        batch.clear();
        done
    };
    database.select(
        &format!(
            "SELECT r.protocol, r.local_ip, r.local_port, r.remote_ip, r.remote_port, r.flags,
                 r.{counters}
             FROM snapshot AS s JOIN record AS r ON {records}
             WHERE s.host_id = ? AND s.account_id = ? AND s.epoch = ? ORDER BY {number}",
            counters = COUNTERS.join(", r."),
            records = D::DIALECT.records_of_snapshot,
            number = D::DIALECT.record_number,
        ),
        &key.values(),
        &mut |row| {
            let side = |ip: &Value, port: &Value| {
                Ok::<_, StoreError>(Endpoint {
                    ip: ip.address()?,
                    port: port.small()?,
                })
            };
            batch.push(Record {
                protocol: row[0].small()?,
                local: side(&row[1], &row[2])?,
                remote: side(&row[3], &row[4])?,
                flags: row[5].small()?,
                counters: counters(row, 6)?,
            });
            match batch.len() {
                BATCH => flush(&mut batch),
                _ => Ok(()),
            }
        },
    )?;
    flush(&mut batch)?;
    proof.finish(header)
}

/// The snapshots for which a condition holds, in the order in which they count.
pub(super) fn snapshots<D: Database>(
    database: &mut D,
    condition: &str,
    parameters: &[Value],
) -> Result<Vec<SnapshotKey>, StoreError> {
    let mut keys = Vec::new();
    database.select(
        &format!(
            "SELECT host_id, account_id, epoch FROM snapshot
             WHERE {condition} ORDER BY counted_ns, host_id, account_id, epoch"
        ),
        parameters,
        &mut |row| {
            keys.push(SnapshotKey {
                host_id: row[0].integer()?,
                account_id: row[1].integer()?,
                epoch: row[2].integer()?,
            });
            Ok(())
        },
    )?;
    Ok(keys)
}
