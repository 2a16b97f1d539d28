// SPDX-License-Identifier: GPL-2.0-or-later
//! Where snapshots come from.

pub mod capture;
pub mod live;
mod netns;
mod proc;

use std::io::{self, Read};
use std::path::PathBuf;

use thiserror::Error;

pub use netns::{Namespace, NamespaceError};
pub use proc::{PROC_ROOT, Proc};

use crate::account::{Account, FamilyError, NameError};
use crate::snapshot::{OpenEpoch, SnapshotError};

/// Accounts, and the closed epoch of each.
pub trait Source {
    /// A closed epoch being served.
    type Epoch: ClosedEpoch;

    /// Lists the accounts that there are.
    ///
    /// # Errors
    /// That there is no source to list them.
    fn accounts(&mut self) -> Result<Vec<Account>, SourceError>;

    /// Closes the account's open epoch, or serves again the one that nobody has
    /// acknowledged; none if the account is gone.
    ///
    /// # Errors
    /// That another reader has it, that it may not be read, or the source's own.
    fn open(&mut self, account: &Account) -> Result<Option<Self::Epoch>, SourceError>;
}

impl<S: Source> Source for &mut S {
    type Epoch = S::Epoch;

    fn accounts(&mut self) -> Result<Vec<Account>, SourceError> {
        (**self).accounts()
    }

    fn open(&mut self, account: &Account) -> Result<Option<S::Epoch>, SourceError> {
        (**self).open(account)
    }
}

/// A closed epoch, which reads as a snapshot and stays until it is acknowledged.
pub trait ClosedEpoch: Read {
    /// Gives the epoch up: its records are safe elsewhere.
    ///
    /// # Errors
    /// That this epoch is not the one being served, or the source's own.
    fn acknowledge(&mut self, epoch: u64) -> Result<(), SourceError>;
}

/// Open epochs, which can be read at any time and as often as wanted.
pub trait OpenEpochSource {
    /// What every account counted since its epoch opened; collectors do not notice.
    ///
    /// # Errors
    /// That it may not be read, or the source's own.
    fn open_epochs(&mut self) -> Result<Vec<OpenEpoch>, SourceError>;
}

/// Why a source gave nothing.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The folder is not there.
    #[error(
        "{} does not exist: the kernel module xt_TRAFSTAT is not loaded. Load it with \
         \"modprobe xt_TRAFSTAT\", then tell it what to count with a rule such as \
         \"iptables -A INPUT -j TRAFSTAT --local-net 192.0.2.0/24\"",
        .0.display()
    )]
    NoModule(PathBuf),
    /// The kernel refused.
    #[error(
        "not permitted to read {}: run this as root, or with CAP_NET_ADMIN in this \
         network namespace",
        .0.display()
    )]
    NotPermitted(PathBuf),
    /// There is one reader at a time.
    #[error("{} is being read by another program; try again when it is done", .0.display())]
    Busy(PathBuf),
    /// The acknowledged epoch is not the one being served.
    #[error("epoch {epoch} was not acknowledged: {} no longer serves it", .path.display())]
    Stale {
        /// Where it was served.
        path: PathBuf,
        /// The epoch that was to be given up.
        epoch: u64,
    },
    /// The list of accounts cannot be understood.
    #[error("{}, line {line}: {reason}", .path.display())]
    Accounts {
        /// Where it was read.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: AccountsError,
    },
    /// An open epoch cannot be understood.
    #[error("{}: {source}", .path.display())]
    Live {
        /// Where it was read.
        path: PathBuf,
        /// What is wrong with it.
        source: SnapshotError,
    },
    /// Anything else that the system reports.
    #[error("{}: {source}", .path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// What is wrong with a line of the list of accounts.
#[derive(Debug, Error)]
pub enum AccountsError {
    /// The first line names no such column.
    #[error("there is no column {0:?}")]
    NoColumn(&'static str),
    /// A line is shorter than the first.
    #[error("the value of column {0:?} is missing")]
    NoValue(&'static str),
    /// Not an address family.
    #[error(transparent)]
    Family(#[from] FamilyError),
    /// Not an account name.
    #[error(transparent)]
    Name(#[from] NameError),
}
