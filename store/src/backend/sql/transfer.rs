//! Copies snapshots from one database to another: backup, archive, restore.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use jiff::Timestamp;

use super::append::{self, Appending, figures};
use super::rollup::{
    LOCAL_DAILY, LOCAL_HOURLY, REMOTE_MONTHLY, Rollup, SERVICE_DAILY, SERVICE_HOURLY,
};
use super::{
    Access, COUNTERS, Database, SnapshotKey, Value, counters, first_row, in_transaction,
    insert_rows, one_integer, places,
};
use crate::account::Account;
use crate::backend::sqlite::{Sqlite, create_folder, write_new_file, write_renamed};
use crate::backend::{Restored, Store, StoreError};
use crate::origin::Origin;
use crate::snapshot::{Endpoint, Header, Record, Totals, Volume};

/// Copies everything as of one moment into a new SQLite database.
pub(in crate::backend) fn back_up<D: Database>(from: &mut D, to: &Path) -> Result<(), StoreError> {
    write_new_file(to, |path| {
        let mut copy = Sqlite::open(path)?;
        copy.migrate()?;
        in_transaction(from, Access::Read, |from| {
            in_transaction(&mut copy, Access::Write, |copy| copy_everything(from, copy))
        })?;
        copy.close_whole()
    })
}

/// Adds what a SQLite database has; every snapshot by its identity.
pub(in crate::backend) fn restore<D: Database>(
    to: &mut D,
    path: &Path,
) -> Result<Restored, StoreError> {
    let mut from = Sqlite::open_read_only(path)?;
    let from = &mut from;
    let mut restored = Restored::default();
    if in_transaction(to, Access::Write, |to| {
        let empty = one_integer(to, "SELECT COUNT(*) FROM host", &[])? == 0;
        if empty {
            restored.epochs = copy_everything(from, to)?;
        }
        Ok(empty)
    })? {
        for view in account_views(from)? {
            to.ensure_account_view(&view)?;
        }
        return Ok(restored);
    }
    for key in snapshots(from, "1 = 1", &[])? {
        restore_snapshot(from, to, key, &mut restored)?;
    }
    Ok(restored)
}

fn restore_snapshot<D: Database>(
    from: &mut Sqlite,
    to: &mut D,
    key: SnapshotKey,
    restored: &mut Restored,
) -> Result<(), StoreError> {
    let snapshot = StoredSnapshot::read(from, key)?;
    if let Some(view) = super::schema::account_view(&snapshot.header.account) {
        to.ensure_account_view(&view)?;
    }
    in_transaction(to, Access::Write, |to| {
        let (header, origin) = (&snapshot.header, &snapshot.origin);
        let known = append::find(to, origin, header)?;
        match (known, snapshot.first_record) {
            (Some((_, Some(_))), _) | (Some((_, None)), None) => restored.known += 1,
            (None, None) => restored.without_records += 1,
            (Some((there, None)), Some(_)) => {
                // Its sums were never deleted with its records, so only these come back.
                let first = to.next_record()?;
                let mut next = first;
                read_whole(from, key, header, |records| {
                    to.insert_records(there, next, records)?;
                    next += records.len() as i64;
                    Ok(())
                })?;
                let mut values = vec![Value::from(first)];
                values.extend(there.values());
                to.execute(
                    "UPDATE snapshot SET first_record = ?
                     WHERE host_id = ? AND account_id = ? AND epoch = ?",
                    &values,
                )?;
                restored.epochs += 1;
            }
            (None, Some(_)) => {
                copy_snapshot(from, to, key, &snapshot)?;
                restored.epochs += 1;
            }
        }
        Ok(())
    })
}

/// Copies one snapshot with its records, and adds its sums; gives the records' digest.
fn copy_snapshot<F: Database, T: Database>(
    from: &mut F,
    to: &mut T,
    key: SnapshotKey,
    snapshot: &StoredSnapshot,
) -> Result<u64, StoreError> {
    let Some(mut appending) = Appending::begin(to, &snapshot.origin, &snapshot.header)? else {
        return Err(StoreError::Corrupt(format!(
            "epoch {} of account {} is there twice",
            snapshot.header.epoch, snapshot.header.account
        )));
    };
    let digest = read_whole(from, key, &snapshot.header, |records| {
        appending.add(records)
    })?;
    appending.finish()?;
    Ok(digest)
}

/// Writes snapshots to a new SQLite database in a folder, and reads it back.
///
/// Once this returns, the file is durable and holds every record.
pub(super) fn archive<D: Database>(
    from: &mut D,
    keys: &[SnapshotKey],
    folder: &Path,
) -> Result<PathBuf, StoreError> {
    create_folder(folder)?;
    let mut digests = Vec::with_capacity(keys.len());
    let mut times = (i64::MAX, i64::MIN);
    let partial = folder.join(format!("archive-{}", std::process::id()));
    let mut path = PathBuf::new();
    write_renamed(&partial, |partial| {
        let mut file = Sqlite::open(partial)?;
        file.migrate()?;
        in_transaction(from, Access::Read, |from| {
            in_transaction(&mut file, Access::Write, |file| {
                for &key in keys {
                    let snapshot = StoredSnapshot::read(from, key)?;
                    let closed_ns = super::signed("closed_ns", snapshot.header.closed_ns)?;
                    times = (times.0.min(closed_ns), times.1.max(closed_ns));
                    let digest = copy_snapshot(from, file, key, &snapshot)?;
                    digests.push((snapshot, digest));
                }
                Ok(())
            })
        })?;
        for (snapshot, _) in &digests {
            if let Some(view) = super::schema::account_view(&snapshot.header.account) {
                file.ensure_account_view(&view)?;
            }
        }
        file.close_whole()?;
        verify(partial, &digests)?;
        path = free_name(folder, times);
        Ok(path.clone())
    })?;
    Ok(path)
}

/// Reads an archive back and compares it with what was to be written.
fn verify(path: &Path, digests: &[(StoredSnapshot, u64)]) -> Result<(), StoreError> {
    let mut file = Sqlite::open_read_only(path)?;
    let differs = || {
        StoreError::Corrupt(format!(
            "{} does not read back as it was written; nothing was deleted",
            path.display()
        ))
    };
    for (written, digest) in digests {
        let Some((key, Some(_))) = append::find(&mut file, &written.origin, &written.header)?
        else {
            return Err(differs());
        };
        let read = StoredSnapshot::read(&mut file, key)?;
        if read.header != written.header
            || read.origin != written.origin
            || read_whole(&mut file, key, &read.header, |_| Ok(()))? != *digest
        {
            return Err(differs());
        }
    }
    Ok(())
}

/// A name for an archive of epochs that closed in this time, that no file has.
fn free_name(folder: &Path, (first_ns, last_ns): (i64, i64)) -> PathBuf {
    let day = |nanoseconds: i64| {
        Timestamp::from_nanosecond(nanoseconds.into())
            .unwrap_or(Timestamp::UNIX_EPOCH)
            .strftime("%Y%m%dT%H%M%SZ")
            .to_string()
    };
    let name = format!("trafstat-{}-{}", day(first_ns), day(last_ns));
    let mut path = folder.join(format!("{name}.db"));
    let mut number = 2;
    while path.symlink_metadata().is_ok() {
        path = folder.join(format!("{name}-{number}.db"));
        number += 1;
    }
    path
}

/// Everything of a snapshot besides its records.
pub(super) struct StoredSnapshot {
    pub(super) origin: Origin,
    pub(super) header: Header,
    /// None if the records are gone.
    pub(super) first_record: Option<i64>,
}

impl StoredSnapshot {
    pub(super) fn read<D: Database>(
        database: &mut D,
        key: SnapshotKey,
    ) -> Result<Self, StoreError> {
        let columns = FIGURES.map(|column| format!("s.{column}")).join(", ");
        let row = first_row(
            database,
            &format!(
                "SELECT h.machine_id, h.hostname, a.netns, a.identity, a.family, a.name,
                     a.local_addr, a.prefix_len, s.epoch, s.first_record, {columns}
                 FROM snapshot AS s
                 JOIN account AS a ON a.host_id = s.host_id AND a.id = s.account_id
                 JOIN host AS h ON h.id = s.host_id
                 WHERE s.host_id = ? AND s.account_id = ? AND s.epoch = ?"
            ),
            &key.values(),
        )?
        .ok_or_else(|| StoreError::Corrupt(format!("{key:?} has no account")))?;
        let wrong = |error: &dyn std::fmt::Display| StoreError::Corrupt(error.to_string());
        let figure = |index: usize| row[10 + index].unsigned();
        let volume = |index: usize| {
            Ok::<_, StoreError>(Volume {
                packets: figure(index)?,
                bytes: figure(index + 1)?,
            })
        };
        let local_net = IpNet::new(row[6].address()?, row[7].small()?).map_err(|e| wrong(&e))?;
        Ok(Self {
            origin: Origin {
                machine_id: row[0].text()?.to_owned(),
                hostname: row[1].text()?.to_owned(),
                netns: row[2].text()?.to_owned(),
            },
            header: Header {
                account: Account {
                    family: row[4].text()?.parse().map_err(|e| wrong(&e))?,
                    name: row[5].text()?.parse().map_err(|e| wrong(&e))?,
                },
                account_id: row[3]
                    .bytes()?
                    .try_into()
                    .map_err(|_| wrong(&"an account's identity has not 16 bytes"))?,
                epoch: row[8].unsigned()?,
                local_net,
                records: figure(2)?,
                opened_ns: figure(0)?,
                closed_ns: figure(1)?,
                totals: Totals {
                    seen: volume(3)?,
                    extrapolated: volume(5)?,
                    recorded: volume(7)?,
                    outside: volume(9)?,
                    skipped: volume(11)?,
                    gso_extra: volume(13)?,
                    folded: volume(15)?,
                },
                max_entries: figure(17)?,
                min_pkt_spoof: row[10 + 18].small()?,
            },
            first_record: match &row[9] {
                Value::Null => None,
                first => Some(first.integer()?),
            },
        })
    }
}

/// The snapshots' columns besides their key and the place of their records, in the order
/// of [`figures`].
const FIGURES: [&str; 19] = [
    "opened_ns",
    "closed_ns",
    "records",
    "seen_packets",
    "seen_bytes",
    "extrapolated_packets",
    "extrapolated_bytes",
    "recorded_packets",
    "recorded_bytes",
    "outside_packets",
    "outside_bytes",
    "skipped_packets",
    "skipped_bytes",
    "gso_extra_packets",
    "gso_extra_bytes",
    "folded_packets",
    "folded_bytes",
    "max_entries",
    "min_pkt_spoof",
];

/// Reads all records of a snapshot in their order, checks them against its header and
/// gives their digest.
fn read_whole<D: Database>(
    database: &mut D,
    key: SnapshotKey,
    header: &Header,
    mut each: impl FnMut(&[Record]) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let mut digest = DefaultHasher::new();
    let (mut count, mut packets, mut bytes) = (0_u64, 0_u128, 0_u128);
    let mut batch = Vec::with_capacity(BATCH);
    let mut flush = |batch: &mut Vec<Record>| {
        for record in &*batch {
            let counters = &record.counters;
            (record.protocol, record.local, record.remote, record.flags).hash(&mut digest);
            counters.columns().map(|(_, value)| value).hash(&mut digest);
            packets += u128::from(counters.sent_packets) + u128::from(counters.received_packets);
            bytes += u128::from(counters.sent_bytes) + u128::from(counters.received_bytes);
        }
        count += batch.len() as u64;
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
    let recorded = header.totals.recorded;
    if (count, packets, bytes)
        != (
            header.records,
            u128::from(recorded.packets),
            u128::from(recorded.bytes),
        )
    {
        return Err(StoreError::Corrupt(format!(
            "epoch {} of account {} has {count} records of {packets} packets and {bytes} bytes, \
             but should have {} of {} and {}",
            header.epoch, header.account, header.records, recorded.packets, recorded.bytes
        )));
    }
    Ok(digest.finish())
}

const BATCH: usize = 4096;

/// The snapshots for which a condition holds, in the order in which they closed.
pub(super) fn snapshots<D: Database>(
    database: &mut D,
    condition: &str,
    parameters: &[Value],
) -> Result<Vec<SnapshotKey>, StoreError> {
    let mut keys = Vec::new();
    database.select(
        &format!(
            "SELECT host_id, account_id, epoch FROM snapshot
             WHERE {condition} ORDER BY closed_ns, host_id, account_id, epoch"
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

fn account_views<D: Database>(database: &mut D) -> Result<Vec<String>, StoreError> {
    let mut views = Vec::new();
    for key in snapshots(database, "epoch > 0", &[])? {
        let snapshot = StoredSnapshot::read(database, key)?;
        if let Some(view) = super::schema::account_view(&snapshot.header.account) {
            if !views.contains(&view) {
                views.push(view);
            }
        }
    }
    Ok(views)
}

/// Copies all tables into an empty database; gives how many snapshots.
fn copy_everything<F: Database, T: Database>(from: &mut F, to: &mut T) -> Result<u64, StoreError> {
    copy_table(from, to, "host", &["id", "machine_id", "hostname"])?;
    copy_table(
        from,
        to,
        "account",
        &[
            "host_id",
            "id",
            "identity",
            "netns",
            "family",
            "name",
            "local_addr",
            "prefix_len",
            "view_name",
        ],
    )?;
    let keys = snapshots(from, "1 = 1", &[])?;
    for &key in &keys {
        copy_with_records(from, to, key)?;
    }
    for rollup in [
        LOCAL_HOURLY,
        LOCAL_DAILY,
        SERVICE_HOURLY,
        SERVICE_DAILY,
        REMOTE_MONTHLY,
    ] {
        copy_table(from, to, rollup.table, &rollup_columns(&rollup))?;
    }
    copy_table(
        from,
        to,
        "remote_part",
        &["host_id", "account_id", "month", "epoch", "part", "sums"],
    )?;
    copy_table(from, to, "kept", &["level", "since_ns"])?;
    Ok(keys.len() as u64)
}

fn rollup_columns(rollup: &Rollup) -> Vec<&'static str> {
    let mut columns = vec!["host_id", "account_id", rollup.period.column()];
    columns.extend(rollup.keys);
    columns.extend(COUNTERS);
    columns
}

fn copy_with_records<F: Database, T: Database>(
    from: &mut F,
    to: &mut T,
    key: SnapshotKey,
) -> Result<(), StoreError> {
    let snapshot = StoredSnapshot::read(from, key)?;
    let first = to.next_record()?;
    if snapshot.first_record.is_some() {
        let mut next = first;
        read_whole(from, key, &snapshot.header, |records| {
            to.insert_records(key, next, records)?;
            next += records.len() as i64;
            Ok(())
        })?;
    }
    let first = match snapshot.first_record {
        Some(_) => Value::Integer(first),
        None => Value::Null,
    };
    append::insert_snapshot(to, &figures(&snapshot.header), key, first)
}

fn copy_table<F: Database, T: Database>(
    from: &mut F,
    to: &mut T,
    table: &str,
    columns: &[&str],
) -> Result<(), StoreError> {
    let names = columns.join(", ");
    let insert = |rows| {
        format!(
            "INSERT INTO {table} ({names}) VALUES {}",
            places(rows, columns.len())
        )
    };
    let mut values = Vec::new();
    from.select(&format!("SELECT {names} FROM {table}"), &[], &mut |row| {
        values.extend(
            row.iter()
                .zip(columns)
                .map(|(value, column)| match (value, *column) {
                    // SQLite's strict columns tell text from bytes.
                    (Value::Bytes(text), _) if TEXTS.contains(column) => {
                        Value::Text(String::from_utf8_lossy(text).into_owned())
                    }
                    _ => value.clone(),
                }),
        );
        if values.len() >= T::DIALECT.rows_per_insert * columns.len() {
            insert_rows(to, &values, columns.len(), insert)?;
            values.clear();
        }
        Ok(())
    })?;
    insert_rows(to, &values, columns.len(), insert)
}

/// The columns that hold text.
const TEXTS: [&str; 7] = [
    "machine_id",
    "hostname",
    "netns",
    "family",
    "name",
    "view_name",
    "level",
];
