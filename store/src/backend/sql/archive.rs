// SPDX-License-Identifier: GPL-2.0-or-later
//! Writes snapshots to the files of an archive, and reads them back before they count.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use trafstat_capture::unpacked;

use super::append::Appending;
use super::proof::read_epoch;
use super::rollup::Period;
use super::stored::{self, StoredSnapshot, read_whole};
use super::{Access, Database, SnapshotKey, in_transaction, parts, schema};
use crate::backend::Sqlite;
use crate::export::{EpochReader, EpochWriter, Packer};
use crate::kill_point::KillPoint;
use crate::store::{Archive, ArchiveForm, Epochs, Store, StoreError};
use crate::whole_file::{WritingIn, create_file, system_error, write_renamed};

/// What files that are being written begin with.
const PREFIX: &str = "archive-";

/// How many characters of a host's name are in a file's.
const LONGEST_HOST: usize = 64;

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
    // Other hosts and containers may write there, too.
    let partial = archive.folder.join(format!(
        "{PREFIX}{}-{:x}",
        std::process::id(),
        Timestamp::now().as_nanosecond()
    ));
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
        let (path, keys) = write_renamed(&partial, |partial| {
            let digests = match archive.form {
                ArchiveForm::Sqlite => write_database(from, partial, &present)?,
                ArchiveForm::Csv => write_csv(from, partial, &present)?,
            };
            match archive.form {
                ArchiveForm::Sqlite => verify_database(partial, &present, &digests)?,
                ArchiveForm::Csv => verify_csv(partial, &present, &digests)?,
            }
            let keys = present.iter().map(|&(key, _)| key).collect();
            Ok((names(archive.folder, &present, ending), keys))
        })?;
        Ok(Some((path, keys)))
    })
}

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
            let mut appending = Appending::begin(file, &snapshot.origin, &snapshot.header)?;
            digests.push(read_whole(from, *key, &snapshot.header, |records| {
                appending.add(records)
            })?);
            appending.finish()?;
            let owner = appending.owner();
            let month = Period::Month.begin(snapshot.header.counted_ns() as i64);
            while parts::are_due(file, *owner, month)? && parts::add_some(file, owner)? {}
        }
        Ok(())
    })?;
    for (_, snapshot) in present {
        if let Some(view) = schema::account_view(&snapshot.header.account) {
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
        let Some((key, Some(_))) = stored::find(&mut file, &written.origin, &written.header)?
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

/// Names that say of which host the archived epochs are and when the first and the last closed.
fn names(folder: &Path, present: &Present, ending: &str) -> impl Fn(u32) -> Option<PathBuf> {
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
    let name = format!("trafstat-{}-{first}-{last}", hosts(present));
    let (folder, ending) = (folder.to_path_buf(), ending.to_owned());
    move |number| {
        Some(folder.join(match number {
            1 => format!("{name}.{ending}"),
            _ => format!("{name}-{number}.{ending}"),
        }))
    }
}

/// The name of the host, or how many hosts they are, as a part of a file's name.
fn hosts(present: &Present) -> String {
    let hosts: BTreeSet<&str> = present
        .iter()
        .map(|(_, snapshot)| snapshot.origin.hostname.as_str())
        .collect();
    let plain = |character: char| match character.is_ascii_alphanumeric() || character == '-' {
        true => character,
        false => '_',
    };
    match hosts.first() {
        Some(host) if hosts.len() == 1 => host.chars().take(LONGEST_HOST).map(plain).collect(),
        _ => format!("{}-hosts", hosts.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Account, Family};
    use crate::backend::sql::stored::snapshots;
    use crate::origin::Origin;
    use crate::snapshot::{Counters, Endpoint, Growth, Header, Record, Totals, Volume};
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
