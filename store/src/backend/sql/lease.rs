// SPDX-License-Identifier: GPL-2.0-or-later
//! Work that one process does for a whole database, whatever host it runs on.
//!
//! A lease is a row, so that every server and cluster has it, and ends by itself where a host
//! dies. Nothing depends on it but work that would be done twice: whoever changes figures locks
//! their owner.

use std::fs;
use std::time::Duration;

use super::{Access, Database, cut_off, first_row, in_transaction};
use crate::origin::Origin;
use crate::store::StoreError;

/// For how long a lease is taken, unless it is renewed.
const LEASE: Duration = Duration::from_secs(3600);

/// Deleting what is older than it is to be kept.
pub(super) const RETENTION: &str = "retention";

/// A lease that this process holds.
#[derive(Debug)]
pub(super) struct Lease {
    name: &'static str,
    holder: Holder,
}

/// A process: its host, its id and when it began, so that no later process passes for it.
#[derive(Debug, PartialEq)]
struct Holder(String);

/// Takes a lease; [`StoreError::InHand`] if another process has it.
pub(super) fn take<D: Database>(database: &mut D, name: &'static str) -> Result<Lease, StoreError> {
    let holder = Holder::this_process();
    let insert = format!(
        "{} INTO lease (name, holder, until_ns) VALUES (?, '', 0)",
        D::DIALECT.insert_ignore
    );
    database.execute(&insert, &[name.into()])?;
    in_transaction(database, Access::Write, |database| {
        let select = format!(
            "SELECT holder, until_ns FROM lease WHERE name = ? {}",
            D::DIALECT.for_update
        );
        let now = cut_off::now(database)?;
        if let Some(row) = first_row(database, &select, &[name.into()])? {
            let (other, until) = (Holder(row[0].text()?.to_owned()), row[1].integer()?);
            // A clock that was set back leaves none that lasts longer than one can.
            let lasts = now < until && until <= now.saturating_add(LEASE.as_nanos() as i64);
            if lasts && !other.is_gone() {
                return Err(StoreError::InHand(other.host().to_owned()));
            }
        }
        write(database, name, &holder, now)
    })?;
    Ok(Lease { name, holder })
}

impl Lease {
    /// Keeps the lease for longer.
    pub(super) fn renew<D: Database>(&self, database: &mut D) -> Result<(), StoreError> {
        in_transaction(database, Access::Write, |database| {
            let now = cut_off::now(database)?;
            write(database, self.name, &self.holder, now)
        })
    }

    /// Gives the lease back.
    pub(super) fn release<D: Database>(self, database: &mut D) -> Result<(), StoreError> {
        database.execute(
            "UPDATE lease SET holder = '', until_ns = 0 WHERE name = ? AND holder = ?",
            &[self.name.into(), self.holder.0.as_str().into()],
        )?;
        Ok(())
    }
}

fn write<D: Database>(
    database: &mut D,
    name: &str,
    holder: &Holder,
    now: i64,
) -> Result<(), StoreError> {
    database.execute(
        "UPDATE lease SET holder = ?, until_ns = ? WHERE name = ?",
        &[
            holder.0.as_str().into(),
            now.saturating_add(LEASE.as_nanos() as i64).into(),
            name.into(),
        ],
    )?;
    Ok(())
}

impl Holder {
    fn this_process() -> Self {
        let origin = Origin::of_this_process().ok();
        let (machine, host) = origin
            .map(|origin| (origin.machine_id, origin.hostname))
            .unwrap_or_default();
        let pid = std::process::id();
        let since = since(pid).unwrap_or_default();
        Self(format!("{machine} {pid} {since} {host}"))
    }

    /// Whether it was a process of this host that runs no more.
    fn is_gone(&self) -> bool {
        let parts = |holder: &Self| {
            let mut parts = holder.0.splitn(4, ' ').map(str::to_owned);
            [parts.next(), parts.next(), parts.next()].map(Option::unwrap_or_default)
        };
        let ([machine, pid, began], [own, ..]) = (parts(self), parts(&Self::this_process()));
        machine == own && pid.parse().ok().and_then(since) != Some(began)
    }

    fn host(&self) -> &str {
        self.0.splitn(4, ' ').nth(3).unwrap_or_default()
    }
}

/// When a process began, by the boot and its clock.
fn since(pid: u32) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may have spaces and brackets; the 22nd field is the 20th after it (proc(5)).
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks = rest.split_whitespace().nth(19)?;
    Some(format!("{}.{ticks}", boot.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_gone_once_it_ended_and_others_hosts_never() {
        let own = Holder::this_process();
        assert!(!own.is_gone());
        assert!(!own.host().is_empty());
        let mut parts: Vec<&str> = own.0.splitn(4, ' ').collect();
        parts[2] = "another-boot.1";
        assert!(Holder(parts.join(" ")).is_gone());
        parts[0] = "another-machine";
        assert!(!Holder(parts.join(" ")).is_gone());
    }
}
