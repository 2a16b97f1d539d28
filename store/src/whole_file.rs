// SPDX-License-Identifier: GPL-2.0-or-later
//! Files that are there whole and durable, or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempPath;

use crate::store::StoreError;

const PARTIAL: &str = ".partial";

/// A SQLite database, its logs and their index.
const DATABASE_ENDINGS: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Writes a file that must not exist yet: whole and durable, or not at all.
pub(crate) fn write_new_file<T>(
    to: &Path,
    write: impl FnOnce(&Path) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    if to.symlink_metadata().is_ok() {
        return Err(StoreError::Exists(to.to_path_buf()));
    }
    write_renamed(to, |partial| {
        let name = |number| (number == 1).then(|| to.to_path_buf());
        write(partial).map(|done| (name, done))
    })
    .map(|(_, done)| done)
}

/// Writes a file beside `path`; once it is whole, it gets the first of the names that `write`
/// gives, counted from 1, that no other file has. Gives that name, too.
pub(crate) fn write_renamed<T, N: Fn(u32) -> Option<PathBuf>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(N, T), StoreError>,
) -> Result<(PathBuf, T), StoreError> {
    // A half-written copy never stands under the name asked for.
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    if partial.symlink_metadata().is_ok() {
        return Err(StoreError::Exists(partial));
    }
    let written = write(&partial).and_then(|(name, done)| Ok((rename(&partial, name)?, done)));
    if written.is_err() {
        // The first error is the one that matters.
        for ending in DATABASE_ENDINGS {
            let mut file = partial.as_os_str().to_owned();
            file.push(ending);
            let _ = fs::remove_file(file);
        }
    }
    written.map_err(|error| match error {
        // Not the store's disk.
        StoreError::Full => system_error(path, io::ErrorKind::StorageFull.into()),
        StoreError::Write(error) => system_error(path, error),
        other => other,
    })
}

/// Gives a whole file the first name that no other has.
fn rename(partial: &Path, name: impl Fn(u32) -> Option<PathBuf>) -> Result<PathBuf, StoreError> {
    let mut whole =
        TempPath::try_from_path(partial).map_err(|error| system_error(partial, error))?;
    let mut taken = partial.to_path_buf();
    for number in 1.. {
        let Some(to) = name(number) else {
            break;
        };
        match whole.persist_noclobber(&to) {
            Ok(()) => {
                sync_parent(&to).map_err(|error| system_error(&to, error))?;
                return Ok(to);
            }
            Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => {
                (whole, taken) = (refused.path, to);
            }
            Err(refused) => return Err(system_error(&to, refused.error)),
        }
    }
    Err(StoreError::Exists(taken))
}

/// A claim on a folder in which files are written under a common prefix.
///
/// Those that killed processes left half-written are removed once nobody else writes there.
#[derive(Debug)]
pub(crate) struct WritingIn {
    /// Held shared while writing. Where the file system has no such locks, nothing is
    /// ever removed.
    _lock: File,
}

impl WritingIn {
    /// Makes the folder if need be.
    pub(crate) fn folder(folder: &Path, prefix: &str) -> Result<Self, StoreError> {
        create_folder(folder)?;
        let lock = File::open(folder).map_err(|error| system_error(folder, error))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove_partial(folder, prefix).map_err(|error| system_error(folder, error))?;
        }
        let _ = flock(&lock, FlockOperation::LockShared);
        Ok(Self { _lock: lock })
    }
}

fn remove_partial(folder: &Path, prefix: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let left = DATABASE_ENDINGS
            .iter()
            .any(|ending| name.ends_with(&format!("{PARTIAL}{ending}")));
        if left && name.starts_with(prefix) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes a folder that is closed to others, unless it is there.
pub(crate) fn create_folder(folder: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(folder)
        .map_err(|error| system_error(folder, error))
}

/// Makes a file that is not there yet, readable by its group.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(path)
}

/// Makes a new name durable, which it is only once its folder is.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

pub(crate) fn system_error(path: &Path, source: io::Error) -> StoreError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::PermissionDenied => StoreError::NotPermitted(path),
        _ => StoreError::Io { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_appeared_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("copy.db");
        let written = write_new_file(&to, |partial| {
            fs::write(partial, "ours").unwrap();
            fs::write(&to, "another's").unwrap();
            Ok(())
        });
        assert!(matches!(written, Err(StoreError::Exists(path)) if path == to));
        assert_eq!(fs::read_to_string(&to).unwrap(), "another's");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn file_takes_the_next_name_where_another_was_faster() {
        let folder = tempfile::tempdir().unwrap();
        let name = |number: u32| Some(folder.path().join(number.to_string()));
        let written = write_renamed(&folder.path().join("new"), |partial| {
            fs::write(partial, "ours").unwrap();
            for number in 1..=2 {
                fs::write(folder.path().join(number.to_string()), "another's").unwrap();
            }
            Ok((name, ()))
        });
        assert_eq!(written.unwrap().0, folder.path().join("3"));
        for (number, expected) in [("1", "another's"), ("2", "another's"), ("3", "ours")] {
            let found = fs::read_to_string(folder.path().join(number)).unwrap();
            assert_eq!(found, expected);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn half_written_files_are_removed_unless_somebody_writes() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let left = ["archive-1.partial", "archive-1.partial-wal"];
        let others = ["archive-1.db", "notes.partial"];
        for name in left.iter().chain(&others) {
            fs::write(file(name), "").unwrap();
        }
        let first = WritingIn::folder(folder.path(), "archive-").unwrap();
        fs::write(file("archive-2.partial"), "").unwrap();
        let second = WritingIn::folder(folder.path(), "archive-").unwrap();
        assert!(file("archive-2.partial").exists());
        assert!(left.iter().all(|name| !file(name).exists()));
        drop((first, second));
        WritingIn::folder(folder.path(), "archive-").unwrap();
        assert!(!file("archive-2.partial").exists());
        assert!(others.iter().all(|name| file(name).exists()));
    }
}
