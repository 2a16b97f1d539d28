// SPDX-License-Identifier: GPL-2.0-or-later
//! The kernel module's files under `/proc/net/trafstat`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{AccountsError, ClosedEpoch, Namespace, OpenEpochSource, Source, SourceError};
use crate::account::Account;
use crate::snapshot::{OpenEpoch, SnapshotError};

/// Where the module shows the accounts of the reader's network namespace.
pub const PROC_ROOT: &str = "/proc/net/trafstat";

/// The same for a thread that is in another network namespace than its process.
const THREAD_ROOT: &str = "/proc/thread-self/net/trafstat";

/// The accounts of one network namespace, as the kernel module shows them.
#[derive(Debug)]
pub struct Proc {
    root: PathBuf,
    namespace: Option<Namespace>,
}

/// An open snapshot file; acknowledged through the descriptor that it is read from.
#[derive(Debug)]
pub struct SnapshotFile {
    file: File,
    path: PathBuf,
}

impl Proc {
    /// The source whose files are under `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            namespace: None,
        }
    }

    /// The source of another network namespace. It is entered to list accounts and to
    /// open files; an open file belongs to the namespace that it was opened in.
    pub fn of_namespace(namespace: Namespace) -> Self {
        Self {
            root: PathBuf::from(THREAD_ROOT),
            namespace: Some(namespace),
        }
    }

    fn within<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, SourceError> + Send,
    ) -> Result<T, SourceError> {
        match &self.namespace {
            Some(namespace) => namespace.within(work).unwrap_or_else(|source| {
                Err(SourceError::Io {
                    path: self.root.clone(),
                    source,
                })
            }),
            None => work(),
        }
    }

    fn read_accounts(&self) -> Result<Vec<Account>, SourceError> {
        let path = self.root.join("accounts");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            // /proc/net/trafstat stands and falls with the module.
            if error.kind() == io::ErrorKind::NotFound {
                SourceError::NoModule(self.root.clone())
            } else {
                system_error(&path, error)
            }
        })?;
        parse_accounts(&text).map_err(|(line, reason)| SourceError::Accounts { path, line, reason })
    }
}

impl Source for Proc {
    type Epoch = SnapshotFile;

    fn accounts(&mut self) -> Result<Vec<Account>, SourceError> {
        self.within(|| self.read_accounts())
    }

    fn open(&mut self, account: &Account) -> Result<Option<SnapshotFile>, SourceError> {
        self.within(|| self.open_here(account))
    }
}

impl Proc {
    fn open_here(&self, account: &Account) -> Result<Option<SnapshotFile>, SourceError> {
        let path = self
            .root
            .join("snapshot")
            .join(account.family.as_str())
            .join(account.name.as_str());
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Ok(Some(SnapshotFile { file, path })),
            // An account goes when its last rule does and nothing of it is left to
            // collect. One that is still listed must have a snapshot.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.read_accounts()?.contains(account) {
                    Err(system_error(&path, error))
                } else {
                    Ok(None)
                }
            }
            Err(error) => Err(system_error(&path, error)),
        }
    }
}

impl OpenEpochSource for Proc {
    fn open_epochs(&mut self) -> Result<Vec<OpenEpoch>, SourceError> {
        self.within(|| {
            let mut epochs = Vec::new();
            for account in self.read_accounts()? {
                epochs.extend(self.read_live(&account)?);
            }
            Ok(epochs)
        })
    }
}

impl Proc {
    /// None if the account went meanwhile, or its epochs close too often to be read.
    fn read_live(&self, account: &Account) -> Result<Option<OpenEpoch>, SourceError> {
        let path = self
            .root
            .join("live")
            .join(account.family.as_str())
            .join(account.name.as_str());
        // Closed while it was read; the one that is open now is as good.
        for _ in 0..3 {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(system_error(&path, error)),
            };
            match OpenEpoch::read(file) {
                Ok(epoch) => return Ok(Some(epoch)),
                Err(SnapshotError::Read(error)) => {
                    if Errno::from_io_error(&error) != Some(Errno::STALE) {
                        return Err(system_error(&path, error));
                    }
                }
                Err(source) => return Err(SourceError::Live { path, source }),
            }
        }
        Ok(None)
    }
}

impl Read for SnapshotFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read(bytes)
    }
}

impl ClosedEpoch for SnapshotFile {
    fn acknowledge(&mut self, epoch: u64) -> Result<(), SourceError> {
        // One write: the kernel takes a write as one whole command.
        let command = format!("ack {epoch}\n");
        self.file.write_all(command.as_bytes()).map_err(|error| {
            if Errno::from_io_error(&error) == Some(Errno::STALE) {
                SourceError::Stale {
                    path: self.path.clone(),
                    epoch,
                }
            } else {
                system_error(&self.path, error)
            }
        })
    }
}

fn system_error(path: &Path, source: io::Error) -> SourceError {
    let path = path.to_path_buf();
    match Errno::from_io_error(&source) {
        Some(Errno::BUSY) => SourceError::Busy(path),
        Some(Errno::PERM | Errno::ACCESS) => SourceError::NotPermitted(path),
        _ => SourceError::Io { path, source },
    }
}

/// Parses the list of accounts: a line of column names, then a line an account.
///
/// Columns are looked up by name, so that the kernel may add and move them.
/// An error comes with the number of its line.
fn parse_accounts(text: &str) -> Result<Vec<Account>, (usize, AccountsError)> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let column = |name: &'static str| {
        header
            .iter()
            .position(|&column| column == name)
            .ok_or((1, AccountsError::NoColumn(name)))
    };
    let (family, name) = (column("family")?, column("name")?);
    lines
        .zip(2..)
        .map(|(line, number)| {
            let value = |column: usize, name| {
                line.split_whitespace()
                    .nth(column)
                    .ok_or((number, AccountsError::NoValue(name)))
            };
            Ok(Account {
                family: value(family, "family")?
                    .parse()
                    .map_err(|error| (number, AccountsError::Family(error)))?,
                name: value(name, "name")?
                    .parse()
                    .map_err(|error| (number, AccountsError::Name(error)))?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Family;

    fn account(family: Family, name: &str) -> Account {
        Account {
            family,
            name: name.parse().unwrap(),
        }
    }

    #[test]
    fn columns_are_found_by_name_whatever_their_order() {
        let text = "epoch name seen_packets family\n7 lan 12 ipv4\n8 lan 0 ipv6\n";
        assert_eq!(
            parse_accounts(text).unwrap(),
            [account(Family::Ipv4, "lan"), account(Family::Ipv6, "lan")]
        );
    }

    #[test]
    fn header_alone_lists_no_account() {
        assert_eq!(parse_accounts("family name\n").unwrap(), []);
    }

    #[test]
    fn missing_column_is_named() {
        let (line, error) = parse_accounts("family epoch\nipv4 7\n").unwrap_err();
        assert_eq!(
            (line, error.to_string().as_str()),
            (1, "there is no column \"name\"")
        );
        assert!(parse_accounts("").is_err());
    }

    #[test]
    fn wrong_line_is_counted_from_the_top_of_the_file() {
        for wrong in ["ipv5 lan", "ipv4 ../../etc/passwd", "ipv4", ""] {
            let text = format!("family name\nipv4 lan\n{wrong}\n");
            assert_eq!(parse_accounts(&text).unwrap_err().0, 3, "{wrong:?}");
        }
    }

    #[test]
    fn missing_folder_means_that_the_module_is_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let error = Proc::new(folder.path().join("trafstat"))
            .accounts()
            .unwrap_err();
        assert!(matches!(error, SourceError::NoModule(_)), "{error}");
        assert!(error.to_string().contains("modprobe xt_TRAFSTAT"));
    }

    #[test]
    fn account_that_went_after_it_was_listed_is_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("accounts"), "family name\n").unwrap();
        let mut proc = Proc::new(folder.path());
        assert!(proc.open(&account(Family::Ipv4, "gone")).unwrap().is_none());
    }

    #[test]
    fn listed_account_without_a_snapshot_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("accounts"), "family name\nipv4 lan\n").unwrap();
        let error = Proc::new(folder.path())
            .open(&account(Family::Ipv4, "lan"))
            .unwrap_err();
        assert!(error.to_string().contains("snapshot/ipv4/lan"), "{error}");
    }

    #[test]
    fn system_errors_say_what_to_do() {
        let of = |errno: Errno| system_error(Path::new("lan"), errno.into()).to_string();
        assert!(of(Errno::BUSY).contains("another program"));
        assert!(of(Errno::ACCESS).contains("as root"));
        assert!(of(Errno::PERM).contains("CAP_NET_ADMIN"));
    }
}
