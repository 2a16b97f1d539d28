// SPDX-License-Identifier: GPL-2.0-or-later
//! What a store is: the trait that backends implement, its errors, and the words for what
//! is kept, archived and shown of it.
//!
//! A backend keeps to this, and the contract suite (`tests/contract`) holds it to it:
//!
//! - A snapshot's records and its identity, (account id, epoch), are committed in
//!   one transaction, or nothing of it is.
//! - What a commit has returned from survives the loss of power: only then may the
//!   kernel's copy be acknowledged.
//! - The same identity again is not stored again, and with other totals refused.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use thiserror::Error;

use crate::account::{Account, Name};
use crate::host::{HostCheck, KnownHost, RunningHost};
use crate::origin::Origin;
use crate::query::{Answer, Field, Query, Value};
use crate::reading::{AddedRows, Reading};
use crate::snapshot::{Counters, Header, Record};

/// A database of snapshots.
pub trait Store {
    /// Creates the schema, or brings it to this program's version.
    ///
    /// # Errors
    /// That the database is newer than this program, or not a trafstat database.
    fn migrate(&mut self) -> Result<(), StoreError>;

    /// Begins the transaction that appends one snapshot.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the identity is stored with other totals.
    fn begin<'a>(&'a mut self, origin: &Origin, header: &Header) -> Result<Begun<'a>, StoreError>;

    /// Adds what an epoch of a capture has more than it had when it was stored, as an epoch of
    /// its own; with `is_last` the capture ends with it, and may be an earlier copy of a longer
    /// one.
    ///
    /// # Errors
    /// [`StoreError::OtherEpochs`] if the stored epoch had another length,
    /// [`StoreError::Conflict`] if it is another one for another reason, or the database's.
    fn add_growth(
        &mut self,
        origin: &Origin,
        header: &Header,
        records: &[Record],
        is_last: bool,
    ) -> Result<Grown, StoreError>;

    /// Adds the rows of a reading of the original's counters that are not stored yet, all of
    /// them or none.
    ///
    /// # Errors
    /// [`StoreError::RowsDeleted`], or the database's.
    fn add_reading(&mut self, origin: &Origin, reading: &Reading) -> Result<AddedRows, StoreError>;

    /// The hosts of which readings of an account were added.
    ///
    /// # Errors
    /// The database's.
    fn imported_origins(&mut self, account: &Name) -> Result<Vec<Origin>, StoreError>;

    /// Sums up records.
    ///
    /// # Errors
    /// The database's.
    fn query(&mut self, query: &Query) -> Result<Answer, StoreError>;

    /// How a query would be run, in the database's own words.
    ///
    /// # Errors
    /// The database's.
    fn explain(&mut self, query: &Query) -> Result<Vec<String>, StoreError>;

    /// The time from which it counts how long something is kept: the newest epoch's closing,
    /// or the database server's clock, or this host's where there is no server, if that is
    /// earlier. None if no epoch is stored.
    ///
    /// # Errors
    /// The database's.
    fn retention_time(&mut self) -> Result<Option<Timestamp>, StoreError>;

    /// Deletes what is older than it is to be kept, level by level.
    ///
    /// With an archive, records are first written to files in it, which are read back
    /// before anything is deleted; [`Store::restore`] brings them back. What is deleted is
    /// what was archived, epoch by epoch: an epoch that comes meanwhile stays.
    ///
    /// The identity of every epoch stays too: one that is served or restored again is not
    /// counted twice.
    ///
    /// # Errors
    /// [`StoreError::CutOffInFuture`], [`StoreError::CutOffBeyondNewest`] and
    /// [`StoreError::MostDeleted`]; then nothing was deleted. The database's or the folder's; what
    /// was deleted until then is archived, and the next time goes on.
    fn rotate(
        &mut self,
        retention: &Retention,
        archive: Option<Archive<'_>>,
    ) -> Result<Rotated, StoreError>;

    /// Checks that the database is whole, that the records of every snapshot sum up to its
    /// totals, and the rollups to those of their time; gives what is wrong, a line each.
    ///
    /// # Errors
    /// That it could not be checked.
    fn check(&mut self) -> Result<Vec<String>, StoreError>;

    /// Notes that a collector of this host is at work; tells whether its clock is wrong, or
    /// another host has its machine id.
    ///
    /// # Errors
    /// The database's.
    fn check_in(&mut self, host: &RunningHost) -> Result<HostCheck, StoreError>;

    /// The hosts that collect into this store, by name.
    ///
    /// # Errors
    /// The database's.
    fn hosts(&mut self) -> Result<Vec<KnownHost>, StoreError>;

    /// Adds what a backup, an archive or a restorable export has, every epoch once.
    ///
    /// Epochs that are missing are added, and records that were deleted. What a backup has of
    /// epochs whose records are gone, their sums, comes with the account as a whole. May be
    /// repeated; one that was interrupted goes on.
    ///
    /// # Errors
    /// [`StoreError::Entangled`]; then nothing was changed. The database's or the file's; what
    /// was added until then stays.
    fn restore(&mut self, from: &Path) -> Result<Restored, StoreError>;

    /// Deletes the records of every epoch that counts before a time; sums stay.
    ///
    /// # Errors
    /// As [`Self::rotate`].
    fn prune(&mut self, before: Timestamp) -> Result<Rotated, StoreError> {
        let retention = Retention {
            records_before: Some(before),
            ..Retention::default()
        };
        self.rotate(&retention, None)
    }

    /// Shows every epoch of a selection with its records, account by account and in the
    /// order in which they count; each as of one moment.
    ///
    /// # Errors
    /// The database's, or what `to` says.
    fn export_records(
        &mut self,
        selection: &Selection,
        to: &mut dyn Epochs,
    ) -> Result<(), StoreError>;

    /// Shows every sum of a level and selection, account by account and in the order of
    /// their periods.
    ///
    /// # Errors
    /// The database's, or what `each` says.
    fn export_sums(
        &mut self,
        level: Level,
        selection: &Selection,
        each: &mut dyn FnMut(&Sum<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Writes a copy of the whole store, as of one moment, to a file that is not
    /// there yet.
    ///
    /// # Errors
    /// [`StoreError::Exists`], or the database's; then no file is left behind.
    fn back_up(&mut self, to: &Path) -> Result<(), StoreError>;
}

/// What the beginning of an append found.
pub enum Begun<'a> {
    /// A new snapshot, which waits for its records.
    New(Box<dyn Append + 'a>),
    /// The snapshot is stored already, with the same totals.
    AlreadyStored,
}

/// What became of an epoch that is stored with other totals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grown {
    /// It grew, and the difference is stored now; the header of that.
    Added(Box<Header>),
    /// All of it is stored already.
    Known,
}

/// How long the epochs are in which a capture is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredLength {
    /// It is one epoch.
    Whole,
    /// They close at multiples of this.
    Every(SignedDuration),
    /// Their times do not tell.
    Unknown,
}

impl fmt::Display for StoredLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("as one epoch; collect it without --epoch"),
            Self::Every(length) => {
                write!(
                    f,
                    "in epochs of {length:#}; collect it with --epoch {length:#}"
                )
            }
            Self::Unknown => f.write_str(
                "in epochs of another length; collect it with the --epoch that it was stored with",
            ),
        }
    }
}

/// An open transaction that appends one snapshot; dropped, it leaves nothing.
pub trait Append {
    /// Adds records, as they are and in their order.
    ///
    /// # Errors
    /// The database's.
    fn write(&mut self, records: &[Record]) -> Result<(), StoreError>;

    /// Makes the snapshot durable: once this returns, a loss of power keeps it.
    ///
    /// # Errors
    /// The database's; then nothing was stored.
    fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// From when on each level is kept; none keeps all of it.
///
/// Sums are deleted by whole periods, in UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Records of epochs that count before this are deleted.
    pub records_before: Option<Timestamp>,
    /// Sums by local address and service of a quarter of an hour.
    pub quarterly_before: Option<Timestamp>,
    /// Hourly sums by local address, by service and by both.
    pub hourly_before: Option<Timestamp>,
    /// Daily sums by local address, by service and by both.
    pub daily_before: Option<Timestamp>,
    /// Monthly sums by remote address.
    pub monthly_before: Option<Timestamp>,
    /// Deletes even what is more than half of a level.
    pub even_most: bool,
}

/// Where records are written before they are deleted.
#[derive(Debug, Clone, Copy)]
pub struct Archive<'a> {
    /// The folder; made if need be.
    pub folder: &'a Path,
    /// What its files are.
    pub form: ArchiveForm,
}

/// What the files of an archive are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchiveForm {
    /// SQLite databases, which can be asked as they are.
    #[default]
    Sqlite,
    /// CSV compressed with zstd, which any program reads.
    Csv,
}

impl ArchiveForm {
    /// Every one, in the order in which help lists them.
    pub const ALL: [Self; 2] = [Self::Sqlite, Self::Csv];
}

/// What rotating deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rotated {
    /// Epochs whose records were deleted.
    pub epochs: u64,
    /// Records deleted.
    pub records: u64,
    /// Sums deleted.
    pub sums: u64,
    /// The files that have the records now.
    pub archives: Vec<PathBuf>,
}

/// What restoring added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Epochs added, or whose records were.
    pub epochs: u64,
    /// Epochs that were there already.
    pub known: u64,
}

/// What is written out, by the names of the views that show the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Every record.
    Flow,
    /// Hourly sums by local address.
    LocalHour,
    /// Daily sums by local address.
    LocalDay,
    /// Hourly sums by protocol and local port.
    ServiceHour,
    /// Daily sums by protocol and local port.
    ServiceDay,
    /// Sums by local address, protocol and local port of a quarter of an hour.
    LocalServiceQuarter,
    /// Hourly sums by local address, protocol and local port.
    LocalServiceHour,
    /// Daily sums by local address, protocol and local port.
    LocalServiceDay,
    /// Monthly sums by remote address.
    RemoteMonth,
}

/// Which part of a level is written out.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Names of accounts; all if none.
    pub accounts: Vec<Name>,
    /// Epochs that count, or sums whose period begins, at this time or later.
    pub since: Option<Timestamp>,
    /// Epochs that count, or sums whose period begins, before this time.
    pub until: Option<Timestamp>,
}

/// Where a store shows its epochs: each is begun, then come its records.
pub trait Epochs {
    /// An epoch of the store begins.
    ///
    /// # Errors
    /// That it cannot be written.
    fn begin(&mut self, origin: &Origin, header: &Header) -> Result<(), StoreError>;

    /// Some more of its records, in their order.
    ///
    /// # Errors
    /// That they cannot be written.
    fn add(&mut self, records: &[Record]) -> Result<(), StoreError>;

    /// An epoch that has no records any more.
    fn left_out(&mut self);
}

/// A sum of a rollup.
#[derive(Debug)]
pub struct Sum<'a> {
    /// Where it was counted.
    pub origin: &'a Origin,
    /// The account.
    pub account: &'a Account,
    /// When its quarter, hour, day or month begins.
    pub begin: Timestamp,
    /// What it is the sum by: the level's fields in their order.
    pub key: &'a [Value],
    /// What was counted.
    pub counters: Counters,
}

impl Level {
    /// Every one, in the order in which help lists them.
    pub const ALL: [Self; 9] = [
        Self::Flow,
        Self::LocalHour,
        Self::LocalDay,
        Self::ServiceHour,
        Self::ServiceDay,
        Self::LocalServiceQuarter,
        Self::LocalServiceHour,
        Self::LocalServiceDay,
        Self::RemoteMonth,
    ];

    /// What its sums are by; of no use for records.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Self::Flow => &[],
            Self::LocalHour | Self::LocalDay => &[Field::LocalIp],
            Self::ServiceHour | Self::ServiceDay => &[Field::Protocol, Field::LocalPort],
            Self::LocalServiceQuarter | Self::LocalServiceHour | Self::LocalServiceDay => {
                &[Field::LocalIp, Field::Protocol, Field::LocalPort]
            }
            Self::RemoteMonth => &[Field::RemoteIp],
        }
    }

    /// The column that has the begin of its periods.
    pub fn period(self) -> &'static str {
        match self {
            Self::Flow => "closed",
            Self::LocalServiceQuarter => "quarter",
            Self::LocalHour | Self::ServiceHour | Self::LocalServiceHour => "hour",
            Self::LocalDay | Self::ServiceDay | Self::LocalServiceDay => "day",
            Self::RemoteMonth => "month",
        }
    }
}

/// Why a store failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is nothing to read yet.
    #[error("there is no database {}", .0.display())]
    Missing(PathBuf),
    /// The system keeps the file from this user.
    #[error(
        "not permitted to open {}: run this as root or as a member of the file's group",
        .0.display()
    )]
    NotPermitted(PathBuf),
    /// The file is there already.
    #[error("{} exists already; name a file that does not", .0.display())]
    Exists(PathBuf),
    /// A database of another program.
    #[error("{0} is not a trafstat database; name another, or an empty one")]
    Foreign(String),
    /// Written by a later release.
    #[error(
        "{location} has schema version {found}, this program knows up to {known}: upgrade trafstat"
    )]
    TooNew {
        /// The database.
        location: String,
        /// Its version.
        found: i64,
        /// This program's.
        known: i64,
    },
    /// Written by an earlier release, and opened for reading only.
    #[error(
        "{location} has schema version {found}, this program reads {known}: \
         \"trafstat-store migrate\" upgrades it"
    )]
    TooOld {
        /// The database.
        location: String,
        /// Its version.
        found: i64,
        /// This program's.
        known: i64,
    },
    /// The identity is stored with other totals.
    #[error(
        "epoch {epoch} of account {account} is stored already, but with another {what}: \
         stored {stored}, now {offered}; it is not stored again"
    )]
    Conflict {
        /// The account.
        account: Account,
        /// Its epoch.
        epoch: u64,
        /// The first total that differs.
        what: &'static str,
        /// The stored figure.
        stored: i64,
        /// The snapshot's figure.
        offered: u64,
    },
    /// The epochs of a capture are stored with another length.
    #[error(
        "account {account}: this capture is stored already, {stored}. Nothing of it is stored now"
    )]
    OtherEpochs {
        /// The account.
        account: Account,
        /// How it is stored.
        stored: StoredLength,
    },
    /// Records were stored and deleted, and those to be added are others.
    #[error(
        "account {account}: the records of {closed} are archived or deleted, so it cannot be told \
         which of these are new: restore the archive of that time, then try again"
    )]
    RowsDeleted {
        /// The account.
        account: Account,
        /// When they were counted.
        closed: Timestamp,
    },
    /// A number beyond what a signed 64-bit column holds.
    #[error("{what} is {value}, more than a database column holds")]
    OutOfRange {
        /// What was to be stored.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// What is to be deleted has not happened yet.
    #[error(
        "nothing is deleted: {before} is in the future, it is {now} by the clock that counts; \
         set the clock, or name an earlier time"
    )]
    CutOffInFuture {
        /// What is older was to be deleted.
        before: Timestamp,
        /// The database server's clock, or this host's.
        now: Timestamp,
    },
    /// All that there is would be deleted.
    #[error(
        "nothing is deleted: the newest epoch counts at {newest}, and all that counts before \
         {before} would be everything; is the clock right? Name a time that is no later"
    )]
    CutOffBeyondNewest {
        /// What is older was to be deleted.
        before: Timestamp,
        /// When the newest epoch counts.
        newest: Timestamp,
    },
    /// More than half of a level would be deleted; what it would be.
    #[error("nothing is deleted: it would be {0}, more than half; if that is meant, add --force")]
    MostDeleted(String),
    /// A statement that the server does not take for its size; what is known of the sizes.
    #[error(
        "the database server does not take a statement of this size: {0}; raise \
         max_allowed_packet on the server, for example to 16M"
    )]
    PacketTooLarge(String),
    /// An account's sums would not be within 63 bits.
    #[error(
        "account {account}: it counted {stored} {what} so far, and with {more} more there would \
         be 2^63 - 1 or more, which no query can add up; the epoch is refused. Are its figures \
         damaged?"
    )]
    TooMuch {
        /// The account.
        account: Account,
        /// Packets or bytes.
        what: &'static str,
        /// What all its epochs counted.
        stored: u64,
        /// What the epoch counted.
        more: u128,
    },
    /// A sum over several accounts is past 63 bits.
    #[error(
        "a sum is 2^63 - 1 or more, which the database cannot add up: ask for one account, or \
         for a shorter time"
    )]
    SumTooLarge,
    /// Someone else writes and does not end.
    #[error("the database is locked by another program; try again when it is done")]
    Locked,
    /// No server of the database can be used; what came of each.
    #[error("no database server can be used: {0}")]
    Unreachable(String),
    /// What TLS needs on this host is not there.
    #[error("TLS cannot be used: {0}")]
    Tls(String),
    /// The server went away; whether it had committed is not known.
    #[error("the connection to the database was lost: {0}")]
    ConnectionLost(String),
    /// The server has as many clients as it takes.
    #[error(
        "the database server has too many connections; raise max_connections, or the user's \
         MAX_USER_CONNECTIONS"
    )]
    TooManyConnections,
    /// A server with which this program does not work; what it is and what it would have to be.
    #[error("the database server cannot be used: {0}")]
    Unsupported(String),
    /// The database can be read only.
    #[error("the database is read-only: is it a replica, or is its file system mounted read-only?")]
    ReadOnly,
    /// There is no room.
    #[error("the database's disk is full: make room, or delete old records with \"rotate\"")]
    Full,
    /// The server refuses this user or this password.
    #[error("the database server refuses: {0}: are user and password right?")]
    LoginDenied(String),
    /// The server refuses what this user asks for.
    #[error("the database server refuses: {0}")]
    Denied(String),
    /// The database is damaged.
    #[error("the database is damaged: {0}; restore a backup")]
    Corrupt(String),
    /// The system failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// What is exported cannot be written.
    #[error("cannot write what is exported: {0}")]
    Write(#[source] io::Error),
    /// Another process does the same for the whole database, on a host of this name.
    #[error("another process on {0} deletes what is old from this database already")]
    InHand(String),
    /// Sums of a backup cannot be told from those that the database has.
    #[error(
        "nothing is restored: of {epochs} epochs of account {account}, {} has sums alone, and \
         the database has others of its epochs, so their sums cannot be told apart. Restore the \
         file into a new database, and then a backup of this one: \"backup NOW.db\", then, with \
         another database, \"restore {} NOW.db\"",
        .path.display(), .path.display()
    )]
    Entangled {
        /// The backup.
        path: PathBuf,
        /// One of its accounts.
        account: Account,
        /// How many of its epochs have no records there and are not known here.
        epochs: u64,
    },
    /// Half of an account came from another file.
    #[error(
        "restoring account {0} from another file was interrupted: restore that one first, \
         to its end"
    )]
    RestoreUnfinished(Account),
    /// The file has nothing that could be restored.
    #[error("{} is no file that could be restored", .0.display())]
    NotRestorable(PathBuf),
    /// A line of a file is wrong.
    #[error("{}, line {line}: {reason}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// Whether the same may succeed later, with nothing changed but the database's own
    /// state; until then, what was to be stored must be kept.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Locked
                | Self::Unreachable(_)
                | Self::ConnectionLost(_)
                | Self::TooManyConnections
                | Self::ReadOnly
                | Self::Full
        )
    }
}
