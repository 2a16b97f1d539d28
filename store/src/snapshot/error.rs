// SPDX-License-Identifier: GPL-2.0-or-later
//! Why a snapshot is refused.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::account::NameError;

/// Why a snapshot was refused.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The source failed.
    #[error("cannot read the snapshot: {0}")]
    Read(#[source] io::Error),
    /// The source ended inside the header.
    #[error("the snapshot ends inside its header, after {found} of {expected} bytes")]
    HeaderTruncated {
        /// Bytes that were there.
        found: usize,
        /// Bytes that the header has.
        expected: usize,
    },
    /// Not a snapshot at all.
    #[error("this is not a trafstat snapshot: it does not begin with \"TRAFSTAT\"")]
    Magic,
    /// A layout that this program does not know.
    #[error(
        "the snapshot has format version {found}, this program reads version {known}: \
         install the kernel module and trafstat-store of one release"
    )]
    Version {
        /// The snapshot's version.
        found: u16,
        /// The version read here.
        known: u32,
    },
    /// A family whose records this program cannot read.
    #[error(
        "the snapshot's address family {0} is not known to this program: install the \
         kernel module and trafstat-store of one release"
    )]
    Family(u8),
    /// A size smaller than the part of the layout that is known.
    #[error("the snapshot's {what} has {found} bytes, fewer than the {least} it must have")]
    Size {
        /// Header or record.
        what: &'static str,
        /// The size that the snapshot claims.
        found: usize,
        /// The size that this version has at least.
        least: usize,
    },
    /// The account's name is none.
    #[error("the snapshot's account name is wrong: {0}")]
    Name(#[from] NameError),
    /// The local net's prefix is longer than its address.
    #[error("the snapshot's local net has prefix length {0}, more than its address has bits")]
    PrefixLength(u8),
    /// Epochs count from 1.
    #[error("the snapshot has epoch 0; epochs count from 1")]
    Epoch,
    /// Conservation does not hold in the header.
    #[error(
        "{unit} do not add up: seen {} + extrapolated {} = {}, but recorded {} + outside {} \
         + skipped {} = {}",
        .seen, .extrapolated, u128::from(*.seen) + u128::from(*.extrapolated),
        .recorded, .outside, .skipped,
        u128::from(*.recorded) + u128::from(*.outside) + u128::from(*.skipped)
    )]
    Conservation {
        /// Packets or bytes.
        unit: Unit,
        /// What the rules saw.
        seen: u64,
        /// What sampling added.
        extrapolated: u64,
        /// What the header says the records hold.
        recorded: u64,
        /// What had neither side in the local net.
        outside: u64,
        /// What sampling left out.
        skipped: u64,
    },
    /// The records do not hold what the header says.
    #[error("{unit} do not add up: the header says recorded {header}, the records hold {records}")]
    Recorded {
        /// Packets or bytes.
        unit: Unit,
        /// The header's total.
        header: u64,
        /// The sum over the records.
        records: u128,
    },
    /// The source ended before its last record.
    #[error("the header says {expected} records, but the snapshot ends after {found}")]
    RecordsMissing {
        /// The header's count.
        expected: u64,
        /// Whole records that were there.
        found: u64,
    },
    /// The source goes on after its last record.
    #[error("the header says {0} records, but the snapshot goes on after them")]
    RecordsExcess(u64),
}

/// What a total counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Wire packets.
    Packets,
    /// Layer-3 bytes.
    Bytes,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packets => "packets",
            Self::Bytes => "bytes",
        })
    }
}
