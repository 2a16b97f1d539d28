// SPDX-License-Identifier: GPL-2.0-or-later
//! The right to change a host's stored figures.
//!
//! Every writer locks its host's row first and reads what it changes afterwards, so that the
//! writers of one host take turns and those of several hosts never wait for each other. The
//! functions that change figures take a [`LockedOwner`], which only a lock gives.

use std::ops::Deref;

use super::rollup::Owner;
use super::{Database, first_row, one_integer};
use crate::store::StoreError;

/// A host whose row is locked until the transaction ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct LockedHost {
    id: i64,
}

/// An account of a locked host.
#[derive(Debug, Clone, Copy)]
pub(super) struct LockedOwner(Owner);

impl LockedHost {
    pub(super) fn id(self) -> i64 {
        self.id
    }

    pub(super) fn account(self, account_id: i64) -> LockedOwner {
        LockedOwner(Owner {
            host_id: self.id,
            account_id,
        })
    }
}

impl Deref for LockedOwner {
    type Target = Owner;

    fn deref(&self) -> &Owner {
        &self.0
    }
}

/// Locks a host that is known by its id; none if it is gone.
pub(super) fn lock<D: Database>(
    database: &mut D,
    host_id: i64,
) -> Result<Option<LockedHost>, StoreError> {
    let select = format!("SELECT id FROM host WHERE id = ? {}", D::DIALECT.for_update);
    let row = first_row(database, &select, &[host_id.into()])?;
    Ok(row.map(|_| LockedHost { id: host_id }))
}

/// Locks a host that is known by its machine id, and notes its name; adds one that is new.
pub(super) fn lock_or_insert<D: Database>(
    database: &mut D,
    machine_id: &str,
    hostname: &str,
) -> Result<LockedHost, StoreError> {
    let select = format!(
        "SELECT id, hostname FROM host WHERE machine_id = ? {}",
        D::DIALECT.for_update
    );
    let by_machine_id = [machine_id.into()];
    if let Some(row) = first_row(database, &select, &by_machine_id)? {
        let id = row[0].integer()?;
        if row[1].text()? != hostname {
            database.execute(
                "UPDATE host SET hostname = ? WHERE id = ?",
                &[hostname.into(), id.into()],
            )?;
        }
        return Ok(LockedHost { id });
    }
    insert_host(database, machine_id, hostname)?;
    one_integer(database, &select, &by_machine_id).map(|id| LockedHost { id })
}

/// Adds a host unless it is known.
pub(super) fn insert_host<D: Database>(
    database: &mut D,
    machine_id: &str,
    hostname: &str,
) -> Result<(), StoreError> {
    let sql = format!(
        "{} INTO host (machine_id, hostname) VALUES (?, ?)",
        D::DIALECT.insert_ignore
    );
    database.execute(&sql, &[machine_id.into(), hostname.into()])?;
    Ok(())
}
