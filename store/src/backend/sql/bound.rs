// SPDX-License-Identifier: GPL-2.0-or-later
//! Keeps an account's sums within what a query can add up.
//!
//! Whatever is asked of an account is a part of what its epochs counted: recorded, outside
//! and skipped packets and bytes, both ways; SYN packets past the packets, which only rows of
//! the original may have, count as packets. Its row has these two sums over all its epochs,
//! deleted ones included. An epoch that would bring one of them to 2^63 - 1 is refused, so
//! that no sum over the account's records, rollups or snapshots is past a column's 63 bits.

use super::owner::LockedOwner;
use super::{Database, Value, first_row};
use crate::account::Account;
use crate::snapshot::Header;
use crate::store::StoreError;

/// Sums stay below: a larger one is told by this number.
const LIMIT: u128 = i64::MAX as u128;

const COUNTED: &str =
    "SELECT counted_packets, counted_bytes FROM account WHERE host_id = ? AND id = ?";
const SET_COUNTED: &str =
    "UPDATE account SET counted_packets = ?, counted_bytes = ? WHERE host_id = ? AND id = ?";

/// What some epochs counted, in packets and bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    packets: u128,
    bytes: u128,
}

impl Counted {
    /// Packets alone.
    pub(super) fn packets(packets: u128) -> Self {
        Self { packets, bytes: 0 }
    }

    /// Adds what an epoch counted.
    pub(super) fn add(&mut self, header: &Header) {
        let totals = &header.totals;
        for volume in [totals.recorded, totals.outside, totals.skipped] {
            self.packets += u128::from(volume.packets);
            self.bytes += u128::from(volume.bytes);
        }
    }
}

/// Adds to what an account counted what is stored already. Epochs of an earlier version may have
/// been past the limit, where the sum stays.
pub(super) fn add_stored<D: Database>(
    database: &mut D,
    owner: LockedOwner,
    more: [i64; 2],
) -> Result<(), StoreError> {
    let key = [Value::from(owner.host_id), owner.account_id.into()];
    let row = first_row(database, COUNTED, &key)?;
    let mut parameters = Vec::new();
    for (more, stored) in more.into_iter().zip(row.into_iter().flatten()) {
        parameters.push(stored.integer()?.saturating_add(more).into());
    }
    parameters.extend(key);
    database.execute(SET_COUNTED, &parameters)?;
    Ok(())
}

/// Adds to what an account counted, within the transaction that stores it.
pub(super) fn add<D: Database>(
    database: &mut D,
    owner: LockedOwner,
    account: &Account,
    more: &Counted,
) -> Result<(), StoreError> {
    let key = [owner.host_id.into(), owner.account_id.into()];
    let row = first_row(database, COUNTED, &key)?
        .ok_or_else(|| StoreError::Corrupt(format!("{owner:?} has no account")))?;
    let mut parameters = Vec::new();
    for (what, stored, more) in [
        ("packets", row[0].unsigned()?, more.packets),
        ("bytes", row[1].unsigned()?, more.bytes),
    ] {
        let sum = u128::from(stored) + more;
        if sum >= LIMIT {
            return Err(StoreError::TooMuch {
                account: account.clone(),
                what,
                stored,
                more,
            });
        }
        parameters.push((sum as i64).into());
    }
    parameters.extend(key);
    database.execute(SET_COUNTED, &parameters)?;
    Ok(())
}
