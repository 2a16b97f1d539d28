//! Copies snapshots from one database to another: backup, archive, restore.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use jiff::Timestamp;
use trafstat_capture::unpacked;

use super::append::{self, Appending, FIGURES};
use super::rollup::{
    LOCAL_DAILY, LOCAL_HOURLY, REMOTE_MONTHLY, Rollup, SERVICE_DAILY, SERVICE_HOURLY,
};
use super::{
    Access, COUNTERS, Database, SnapshotKey, Value, counters, first_row, growth, in_transaction,
    insert_rows, one_integer, places,
};
use crate::account::Account;
use crate::backend::Sqlite;
use crate::export::{EpochReader, EpochWriter, Packer};
use crate::kill_point::KillPoint;
use crate::origin::Origin;
use crate::snapshot::{Endpoint, Header, Record, Totals, Volume};
use crate::store::Epochs;
use crate::store::{Archive, ArchiveForm, Restored, Store, StoreError};
use crate::whole_file::{WritingIn, create_file, system_error, write_new_file, write_renamed};

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

/// Adds what a file has; every snapshot by its identity.
pub(in crate::backend) fn restore<D: Database>(
    to: &mut D,
    path: &Path,
) -> Result<Restored, StoreError> {
    let named = |error| system_error(path, error);
    let mut file = File::open(path).map_err(named)?;
    let mut begin = Vec::new();
    // A pipe, which cannot be read twice, is none of a database.
    (&mut file)
        .take(SQLITE_FILE.len() as u64)
        .read_to_end(&mut begin)
        .map_err(named)?;
    if begin == SQLITE_FILE {
        return restore_database(to, &mut Sqlite::open_copy(path)?);
    }
    let text = unpacked(Cursor::new(begin).chain(file)).map_err(named)?;
    let mut reader = EpochReader::new(path, text)?;
    let mut restored = Restored::default();
    while let Some((origin, header)) = reader.next_epoch()? {
        restore_snapshot(to, &origin, &header, true, &mut restored, |each| {
            read_epoch(&mut reader, &header, each).map(|_| ())
        })?;
    }
    Ok(restored)
}

/// How a SQLite database begins (https://sqlite.org/fileformat.html).
const SQLITE_FILE: &[u8] = b"SQLite format 3\0";

fn restore_database<D: Database>(to: &mut D, from: &mut Sqlite) -> Result<Restored, StoreError> {
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
        let StoredSnapshot {
            origin,
            header,
            first_record,
        } = StoredSnapshot::read(from, key)?;
        let there = first_record.is_some();
        restore_snapshot(to, &origin, &header, there, &mut restored, |each| {
            read_whole(from, key, &header, each).map(|_| ())
        })?;
    }
    Ok(restored)
}

/// Shows records in batches.
type EachBatch<'a> = &'a mut dyn FnMut(&[Record]) -> Result<(), StoreError>;

/// Adds what is missing of a snapshot; `read` shows its records, if they are `there`, and
/// proves them.
fn restore_snapshot<D: Database>(
    to: &mut D,
    origin: &Origin,
    header: &Header,
    there: bool,
    restored: &mut Restored,
    read: impl FnOnce(EachBatch<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if let Some(view) = super::schema::account_view(&header.account) {
        to.ensure_account_view(&view)?;
    }
    in_transaction(to, Access::Write, |to| {
        match (append::find(to, origin, header)?, there) {
            (Some((_, Some(_))), _) | (Some((_, None)), false) => restored.known += 1,
            (None, false) => restored.without_records += 1,
            (Some((key, None)), true) => {
                // Its sums were never deleted with its records, so only these come back.
                let first = to.next_record()?;
                let mut next = first;
                read(&mut |records| {
                    to.insert_records(key, next, records)?;
                    next += records.len() as i64;
                    Ok(())
                })?;
                let mut values = vec![Value::from(first)];
                values.extend(key.values());
                to.execute(
                    "UPDATE snapshot SET first_record = ?
                     WHERE host_id = ? AND account_id = ? AND epoch = ?",
                    &values,
                )?;
                restored.epochs += 1;
            }
            (None, true) => {
                let mut appending = begin_appending(to, origin, header)?;
                read(&mut |records| appending.add(records))?;
                appending.finish()?;
                restored.epochs += 1;
            }
        }
        Ok(())
    })
}

fn begin_appending<'a, D: Database>(
    to: &'a mut D,
    origin: &Origin,
    header: &Header,
) -> Result<Appending<'a, D>, StoreError> {
    Appending::begin(to, origin, header)?.ok_or_else(|| {
        StoreError::Corrupt(format!(
            "epoch {} of account {} is there twice",
            header.epoch, header.account
        ))
    })
}

/// Writes snapshots to a new file, and reads it back; gives its name and which snapshots
/// it has, none if all their records are gone.
///
/// Once this returns, the file is durable and holds every record.
pub(super) fn archive<D: Database>(
    from: &mut D,
    keys: &[SnapshotKey],
    archive: Archive<'_>,
) -> Result<Option<(PathBuf, Vec<SnapshotKey>)>, StoreError> {
    let _writing = WritingIn::folder(archive.folder, PREFIX)?;
    let ending = match archive.form {
        ArchiveForm::Sqlite => "db",
        ArchiveForm::Csv => "csv.zst",
    };
    let partial = archive
        .folder
        .join(format!("{PREFIX}{}", std::process::id()));
    let mut present = Vec::with_capacity(keys.len());
    in_transaction(from, Access::Read, |from| {
        for &key in keys {
            let snapshot = StoredSnapshot::read(from, key)?;
            // Another process may have archived and deleted them meanwhile.
            if snapshot.first_record.is_some() {
                present.push((key, snapshot));
            }
        }
        if present.is_empty() {
            return Ok(None);
        }
        write_renamed(&partial, |partial| {
            let digests = match archive.form {
                ArchiveForm::Sqlite => write_database(from, partial, &present)?,
                ArchiveForm::Csv => write_csv(from, partial, &present)?,
            };
            match archive.form {
                ArchiveForm::Sqlite => verify_database(partial, &present, &digests)?,
                ArchiveForm::Csv => verify_csv(partial, &present, &digests)?,
            }
            let path = free_name(archive.folder, &present, ending);
            let keys = present.iter().map(|&(key, _)| key).collect();
            Ok((path.clone(), Some((path, keys))))
        })
    })
}

/// What files that are being written begin with.
const PREFIX: &str = "archive-";

/// Snapshots that are archived, in their order.
type Present = [(SnapshotKey, StoredSnapshot)];

/// Gives a digest of each snapshot's records.
fn write_database<D: Database>(
    from: &mut D,
    path: &Path,
    present: &Present,
) -> Result<Vec<u64>, StoreError> {
    let mut file = Sqlite::open(path)?;
    file.migrate()?;
    let mut digests = Vec::with_capacity(present.len());
    in_transaction(&mut file, Access::Write, |file| {
        for (key, snapshot) in present {
            let mut appending = begin_appending(file, &snapshot.origin, &snapshot.header)?;
            digests.push(read_whole(from, *key, &snapshot.header, |records| {
                appending.add(records)
            })?);
            appending.finish()?;
        }
        Ok(())
    })?;
    for (_, snapshot) in present {
        if let Some(view) = super::schema::account_view(&snapshot.header.account) {
            file.ensure_account_view(&view)?;
        }
    }
    KillPoint::WithinArchive.pass();
    file.close_whole()?;
    Ok(digests)
}

/// Gives a digest of each snapshot's records.
fn write_csv<D: Database>(
    from: &mut D,
    path: &Path,
    present: &Present,
) -> Result<Vec<u64>, StoreError> {
    let named = |error| system_error(path, error);
    let file = create_file(path).map_err(named)?;
    let mut packer = Packer::zstd(file).map_err(named)?;
    let mut writer = EpochWriter::new(&mut packer)?;
    let mut digests = Vec::with_capacity(present.len());
    for (key, snapshot) in present {
        writer.begin(&snapshot.origin, &snapshot.header)?;
        digests.push(read_whole(from, *key, &snapshot.header, |records| {
            writer.add(records)
        })?);
    }
    KillPoint::WithinArchive.pass();
    writer.finish()?;
    drop(writer);
    let file = packer.finish().map_err(named)?;
    file.sync_all().map_err(named)?;
    Ok(digests)
}

/// Reads an archive back and compares it with what was to be written.
fn verify_database(path: &Path, present: &Present, digests: &[u64]) -> Result<(), StoreError> {
    let mut file = Sqlite::open_read_only(path)?;
    for ((_, written), digest) in present.iter().zip(digests) {
        let Some((key, Some(_))) = append::find(&mut file, &written.origin, &written.header)?
        else {
            return Err(differs(path));
        };
        let read = StoredSnapshot::read(&mut file, key)?;
        if read.header != written.header
            || read.origin != written.origin
            || read_whole(&mut file, key, &read.header, |_| Ok(()))? != *digest
        {
            return Err(differs(path));
        }
    }
    Ok(())
}

fn verify_csv(path: &Path, present: &Present, digests: &[u64]) -> Result<(), StoreError> {
    let named = |error| system_error(path, error);
    let text = unpacked(File::open(path).map_err(named)?).map_err(named)?;
    let mut reader = EpochReader::new(path, text)?;
    for ((_, written), digest) in present.iter().zip(digests) {
        match reader.next_epoch()? {
            Some((origin, header))
                if origin == written.origin
                    && header == written.header
                    && read_epoch(&mut reader, &header, &mut |_| Ok(()))? == *digest => {}
            _ => return Err(differs(path)),
        }
    }
    match reader.next_epoch()? {
        None => Ok(()),
        Some(_) => Err(differs(path)),
    }
}

fn differs(path: &Path) -> StoreError {
    StoreError::Corrupt(format!(
        "{} does not read back as it was written; nothing was deleted",
        path.display()
    ))
}

/// A name that says when the archived epochs closed, and that no file has.
fn free_name(folder: &Path, present: &Present, ending: &str) -> PathBuf {
    let closed = || {
        present
            .iter()
            .map(|(_, snapshot)| snapshot.header.closed_ns)
    };
    let day = |nanoseconds: u64| {
        Timestamp::from_nanosecond(nanoseconds.into())
            .unwrap_or(Timestamp::UNIX_EPOCH)
            .strftime("%Y%m%dT%H%M%SZ")
            .to_string()
    };
    let [first, last] = [closed().min(), closed().max()].map(|time| day(time.unwrap_or(0)));
    let name = format!("trafstat-{first}-{last}");
    let mut path = folder.join(format!("{name}.{ending}"));
    let mut number = 2;
    while path.symlink_metadata().is_ok() {
        path = folder.join(format!("{name}-{number}.{ending}"));
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
        let columns = append::columns("s.");
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
                growth: growth::read(&row, 10 + FIGURES)?,
            },
            first_record: match &row[9] {
                Value::Null => None,
                first => Some(first.integer()?),
            },
        })
    }
}

/// What proves that the records are those of their header, and tells them apart.
#[derive(Default)]
struct Proof {
    digest: DefaultHasher,
    records: u64,
    packets: u128,
    bytes: u128,
}

impl Proof {
    fn add(&mut self, records: &[Record]) {
        for record in records {
            let counters = &record.counters;
            (record.protocol, record.local, record.remote, record.flags).hash(&mut self.digest);
            counters
                .columns()
                .map(|(_, value)| value)
                .hash(&mut self.digest);
            self.packets +=
                u128::from(counters.sent_packets) + u128::from(counters.received_packets);
            self.bytes += u128::from(counters.sent_bytes) + u128::from(counters.received_bytes);
        }
        self.records += records.len() as u64;
    }

    /// The digest, if the sums hold.
    fn finish(self, header: &Header) -> Result<u64, StoreError> {
        let recorded = header.totals.recorded;
        let expected = (
            header.records,
            u128::from(recorded.packets),
            u128::from(recorded.bytes),
        );
        if (self.records, self.packets, self.bytes) == expected {
            return Ok(self.digest.finish());
        }
        Err(StoreError::Corrupt(format!(
            "epoch {} of account {} has {} records of {} packets and {} bytes, but should have \
             {} of {} and {}",
            header.epoch,
            header.account,
            self.records,
            self.packets,
            self.bytes,
            header.records,
            recorded.packets,
            recorded.bytes
        )))
    }
}

/// Shows the records of the epoch that a file has next, proves them and gives their digest.
fn read_epoch<R: Read>(
    reader: &mut EpochReader<R>,
    header: &Header,
    each: EachBatch<'_>,
) -> Result<u64, StoreError> {
    let mut proof = Proof::default();
    reader.records(|records| {
        proof.add(records);
        each(records)
    })?;
    proof.finish(header)
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
    append::insert_snapshot(to, &snapshot.header, key, first)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Family;
    use crate::snapshot::{Counters, Growth};
    use crate::store::Begun;

    fn record(remote: u8, packets: u64) -> Record {
        let side = |last| Endpoint {
            ip: [192, 0, 2, last].into(),
            port: 0,
        };
        Record {
            protocol: 6,
            local: side(1),
            remote: side(remote),
            flags: 0,
            counters: Counters {
                sent_packets: packets,
                sent_bytes: packets * 100,
                ..Counters::default()
            },
        }
    }

    /// A database of one epoch.
    fn stored(folder: &Path) -> Sqlite {
        let mut store = Sqlite::open(&folder.join("store.db")).unwrap();
        store.migrate().unwrap();
        let recorded = Volume {
            packets: 30,
            bytes: 3000,
        };
        let header = Header {
            account: Account {
                family: Family::Ipv4,
                name: "lan".parse().unwrap(),
            },
            account_id: [1; 16],
            epoch: 1,
            local_net: "192.0.2.0/24".parse().unwrap(),
            records: 2,
            opened_ns: 1,
            closed_ns: 2,
            totals: Totals {
                seen: recorded,
                recorded,
                ..Totals::default()
            },
            max_entries: 1000,
            min_pkt_spoof: 0,
            growth: Some(Growth {
                duration_ns: 77,
                ..Growth::default()
            }),
        };
        let origin = Origin {
            machine_id: "1".repeat(32),
            hostname: "gateway".to_owned(),
            netns: "init".to_owned(),
        };
        let Begun::New(mut transaction) = Store::begin(&mut store, &origin, &header).unwrap()
        else {
            panic!("an empty store has no epoch");
        };
        transaction.write(&[record(2, 10), record(3, 20)]).unwrap();
        transaction.commit().unwrap();
        store
    }

    fn present(store: &mut Sqlite) -> Vec<(SnapshotKey, StoredSnapshot)> {
        let keys = snapshots(store, "1 = 1", &[]).unwrap();
        keys.into_iter()
            .map(|key| (key, StoredSnapshot::read(store, key).unwrap()))
            .collect()
    }

    #[test]
    fn database_that_reads_back_with_the_same_sums_alone_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = stored(folder.path());
        let present = present(&mut store);
        let path = folder.path().join("archive.db");
        let digests = write_database(&mut store, &path, &present).unwrap();
        verify_database(&path, &present, &digests).unwrap();
        for damage in [
            // The two records change places, or their addresses do.
            "UPDATE record SET id = 3 - id + 10; UPDATE record SET id = id - 10",
            "UPDATE record SET remote_ip = x'c0000203' WHERE id = 1",
            "UPDATE snapshot SET max_entries = max_entries + 1",
            "UPDATE host SET hostname = 'other'",
            "UPDATE snapshot SET first_record = NULL",
            "UPDATE snapshot SET duration_ns = NULL",
            "UPDATE snapshot SET udp_any_byte_variance = 1",
        ] {
            let damaged = folder.path().join("damaged.db");
            std::fs::copy(&path, &damaged).unwrap();
            rusqlite::Connection::open(&damaged)
                .unwrap()
                .execute_batch(damage)
                .unwrap();
            let error = verify_database(&damaged, &present, &digests).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("does not read back") || matches!(error, StoreError::Conflict { .. }),
                "{damage}: {text}"
            );
        }
    }

    #[test]
    fn csv_that_reads_back_with_the_same_sums_alone_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = stored(folder.path());
        let present = present(&mut store);
        let path = folder.path().join("archive.csv.zst");
        let digests = write_csv(&mut store, &path, &present).unwrap();
        verify_csv(&path, &present, &digests).unwrap();
        let packed = std::fs::read(&path).unwrap();
        let text = String::from_utf8(zstd::decode_all(&packed[..]).unwrap()).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.swap(2, 3);
        for (damage, expected) in [
            (lines.join("\n"), "does not read back"),
            (
                text.replace("192.0.2.2,", "192.0.2.9,"),
                "does not read back",
            ),
            (text.replace(",1000,0,", ",1001,0,"), "does not read back"),
            (text.replace(",77,", ",78,"), "does not read back"),
            (text.replace("gateway", "other"), "does not read back"),
            (lines[..1].join("\n"), "was cut off"),
            (lines[..3].join("\n"), "has 1 records"),
            (
                format!("{text}{}", &text[text.find('\n').unwrap() + 1..]),
                "goes on after its end",
            ),
        ] {
            assert_ne!(damage, text);
            std::fs::write(&path, damage).unwrap();
            let error = verify_csv(&path, &present, &digests)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
        // Whatever is damaged in the packed file, unless it unpacks the same.
        for at in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 1;
            if zstd::decode_all(&damaged[..]).is_ok_and(|same| same == text.as_bytes()) {
                continue;
            }
            std::fs::write(&path, damaged).unwrap();
            verify_csv(&path, &present, &digests).unwrap_err();
        }
    }
}
