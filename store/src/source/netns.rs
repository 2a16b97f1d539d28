// SPDX-License-Identifier: GPL-2.0-or-later
//! Named network namespaces, as ip-netns(8) makes them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;

/// A network namespace that has a name.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

/// Why a namespace cannot be used.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// There is none of this name.
    #[error(
        "there is no network namespace {name:?} in {}; \"ip netns list\" lists them",
        .folder.display()
    )]
    Missing {
        /// The name.
        name: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A text that leaves the folder.
    #[error("{0:?} is no name of a network namespace")]
    Name(String),
    /// The file is not one, such as what a namespace leaves when its mount is gone.
    #[error(
        "{} is no network namespace any more; \"ip netns delete\" removes the file",
        .0.display()
    )]
    Stale(PathBuf),
    /// The kernel refused.
    #[error(
        "not permitted to enter network namespace {0:?}: run this as root, or with \
         CAP_SYS_ADMIN; a systemd unit must not restrict namespaces"
    )]
    NotPermitted(String),
    /// Anything else that the system reports.
    #[error("{}: {source}", .path.display())]
    Io {
        /// What was opened.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl Namespace {
    /// The namespace of a name.
    ///
    /// # Errors
    /// That there is none, or that it cannot be entered.
    pub fn named(name: &str) -> Result<Self, NamespaceError> {
        Self::in_folder(Path::new(FOLDER), name)
    }

    /// Every named namespace but the one this process is in, by name; of several names
    /// for one, the first. A file that is a namespace no more comes as an error of its own.
    ///
    /// # Errors
    /// That they cannot be listed or entered.
    pub fn all() -> Result<Vec<Result<Self, NamespaceError>>, NamespaceError> {
        let folder = Path::new(FOLDER);
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            // ip-netns(8) makes the folder with the first namespace.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(NamespaceError::Io {
                    path: folder.to_path_buf(),
                    source,
                });
            }
        };
        let mut names: Vec<String> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        let mut seen: HashSet<(u64, u64)> = identity(Path::new("/proc/self/ns/net"))
            .into_iter()
            .collect();
        let mut namespaces = Vec::new();
        for name in names {
            if identity(&folder.join(&name)).is_ok_and(|identity| !seen.insert(identity)) {
                continue;
            }
            namespaces.push(match Self::in_folder(folder, &name) {
                Err(stale @ NamespaceError::Stale(_)) => Err(stale),
                // It went since it was listed.
                Err(NamespaceError::Missing { .. }) => continue,
                namespace => Ok(namespace?),
            });
        }
        Ok(namespaces)
    }

    fn in_folder(folder: &Path, name: &str) -> Result<Self, NamespaceError> {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(NamespaceError::Name(name.to_owned()));
        }
        let path = folder.join(name);
        let file = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => NamespaceError::Missing {
                name: name.to_owned(),
                folder: folder.to_path_buf(),
            },
            _ => NamespaceError::Io {
                path: path.clone(),
                source,
            },
        })?;
        let namespace = Self {
            name: name.to_owned(),
            file: Arc::new(file),
        };
        namespace
            .within(|| ())
            .map_err(|source| match Errno::from_io_error(&source) {
                Some(Errno::INVAL) => NamespaceError::Stale(path),
                Some(Errno::PERM) => NamespaceError::NotPermitted(name.to_owned()),
                _ => NamespaceError::Io { path, source },
            })?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does something on a thread that is in the namespace, and waits for it.
    ///
    /// # Errors
    /// That the thread cannot be started or may not enter.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            })?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Where ip-netns(8) mounts them.
const FOLDER: &str = "/run/netns";

/// Device and inode, by which the kernel tells namespaces apart.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_namespace_says_where_it_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let error = Namespace::in_folder(folder.path(), "blue").unwrap_err();
        assert!(error.to_string().contains("ip netns list"), "{error}");
    }

    #[test]
    fn name_that_leaves_the_folder_is_refused() {
        for name in ["", ".", "..", "../self/ns/net", "a/b"] {
            let error = Namespace::in_folder(Path::new("/proc/self/ns"), name).unwrap_err();
            assert!(matches!(error, NamespaceError::Name(_)), "{error}");
        }
    }

    #[test]
    fn file_that_is_no_namespace_is_said_to_be_stale() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("blue"), "").unwrap();
        let error = Namespace::in_folder(folder.path(), "blue").unwrap_err();
        assert!(
            matches!(
                error,
                NamespaceError::Stale(_) | NamespaceError::NotPermitted(_)
            ),
            "{error}"
        );
    }
}
