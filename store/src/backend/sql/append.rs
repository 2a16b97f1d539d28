// SPDX-License-Identifier: GPL-2.0-or-later
//! Appends one snapshot in one transaction.

use std::net::IpAddr;

use ipnet::IpNet;

use super::owner::{self, LockedHost, LockedOwner};
use super::rollup::{
    self, LOCAL_DAILY, LOCAL_HOURLY, Owner, Period, SERVICE_DAILY, SERVICE_HOURLY, SnapshotSums,
};
use super::{
    Access, Database, SnapshotKey, Value, first_row, one_integer, parts, schema, signed, stored,
};
use crate::origin::Origin;
use crate::snapshot::{Header, Record};
use crate::store::{Append, Begun, StoreError};

/// A snapshot whose row is written and whose records come, in a transaction that is open.
pub(super) struct Appending<'a, D: Database> {
    database: &'a mut D,
    host: LockedHost,
    key: SnapshotKey,
    closed_ns: i64,
    next_record: i64,
    next_part: i64,
    sums: SnapshotSums,
}

/// The transaction of one snapshot.
struct AppendTransaction<'a, D: Database> {
    appending: Appending<'a, D>,
    open: bool,
}

/// Looks the snapshot up, and opens a transaction for it if it is new.
pub(in crate::backend) fn begin<'a, D: Database>(
    database: &'a mut D,
    origin: &Origin,
    header: &Header,
) -> Result<Begun<'a>, StoreError> {
    // Defining a view would end a transaction of MySQL's.
    if let Some(view) = schema::account_view(&header.account) {
        database.ensure_account_view(&view)?;
    }
    match ensure_host(database, origin) {
        // A server ends connections that were idle for long; the next one is new.
        Err(StoreError::ConnectionLost(_)) => ensure_host(database, origin)?,
        ensured => ensured?,
    }
    add_due_parts(database, origin, header)?;
    database.begin(Access::Write)?;
    match write_snapshot(database, origin, header) {
        Ok(Some(written)) => Ok(Begun::New(Box::new(AppendTransaction {
            appending: Appending::new(database, header, written),
            open: true,
        }))),
        Ok(None) => {
            database.roll_back();
            Ok(Begun::AlreadyStored)
        }
        Err(error) => {
            database.roll_back();
            Err(error)
        }
    }
}

/// Adds the account's parts to their table if they are due, before its next epoch comes.
pub(super) fn add_due_parts<D: Database>(
    database: &mut D,
    origin: &Origin,
    header: &Header,
) -> Result<(), StoreError> {
    let Some(row) = first_row(
        database,
        "SELECT a.host_id, a.id FROM host AS h JOIN account AS a ON a.host_id = h.id
         WHERE h.machine_id = ? AND a.identity = ?",
        &[
            origin.machine_id.as_str().into(),
            header.account_id[..].into(),
        ],
    )?
    else {
        return Ok(());
    };
    let owner = Owner {
        host_id: row[0].integer()?,
        account_id: row[1].integer()?,
    };
    let month = Period::Month.begin(signed("closed_ns", header.closed_ns)?);
    match parts::are_due(database, owner, month)? {
        true => parts::add_all(database, owner),
        false => Ok(()),
    }
}

/// A snapshot whose row is written: its host, its key and its first record.
type Written = (LockedHost, SnapshotKey, i64);

/// Writes the snapshot's row unless there is one.
fn write_snapshot<D: Database>(
    database: &mut D,
    origin: &Origin,
    header: &Header,
) -> Result<Option<Written>, StoreError> {
    let host = owner::lock_or_insert(database, &origin.machine_id, &origin.hostname)?;
    let key = SnapshotKey {
        host_id: host.id(),
        account_id: account_id(database, host, origin, header)?,
        epoch: signed("epoch", header.epoch)?,
    };
    if let Some(stored) = stored::stored_figures(database, key)? {
        stored::check_same(header, &stored)?;
        return Ok(None);
    }
    let first_record = database.next_record()?;
    stored::insert_snapshot(database, header, key, first_record.into())?;
    Ok(Some((host, key, first_record)))
}

impl<D: Database> Append for AppendTransaction<'_, D> {
    fn write(&mut self, records: &[Record]) -> Result<(), StoreError> {
        self.appending.add(records)
    }

    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        self.appending.finish()?;
        self.appending.database.commit()?;
        self.open = false;
        Ok(())
    }
}

impl<D: Database> Drop for AppendTransaction<'_, D> {
    fn drop(&mut self) {
        if self.open {
            self.appending.database.roll_back();
        }
    }
}

impl<'a, D: Database> Appending<'a, D> {
    fn new(database: &'a mut D, header: &Header, (host, key, first_record): Written) -> Self {
        Self {
            database,
            host,
            key,
            // It is in the row already, so it fits.
            closed_ns: header.closed_ns as i64,
            next_record: first_record,
            next_part: 0,
            sums: SnapshotSums::default(),
        }
    }

    /// Begins within a transaction; the snapshot must not be stored yet.
    pub(super) fn begin(
        database: &'a mut D,
        origin: &Origin,
        header: &Header,
    ) -> Result<Self, StoreError> {
        match write_snapshot(database, origin, header)? {
            Some(written) => Ok(Self::new(database, header, written)),
            None => Err(StoreError::Corrupt(format!(
                "epoch {} of account {} is there twice",
                header.epoch, header.account
            ))),
        }
    }

    pub(super) fn add(&mut self, records: &[Record]) -> Result<(), StoreError> {
        self.database
            .insert_records(self.key, self.next_record, records)?;
        self.next_record += records.len() as i64;
        self.sums.add(records);
        if self.sums.local_is_full() {
            self.write_local()?;
        }
        if self.sums.remote_is_full() {
            self.write_part()?;
        }
        Ok(())
    }

    /// Writes the sums that are held.
    pub(super) fn finish(&mut self) -> Result<(), StoreError> {
        self.write_local()?;
        self.write_part()
    }

    /// Whose figures are added to.
    pub(super) fn owner(&self) -> LockedOwner {
        self.host.account(self.key.account_id)
    }

    fn write_local(&mut self) -> Result<(), StoreError> {
        let owner = self.owner();
        let local = rollup::drain_sorted(&mut self.sums.local);
        for table in [&LOCAL_HOURLY, &LOCAL_DAILY] {
            let begin = table.period.begin(self.closed_ns);
            let sums = local.iter().map(|&sum| Ok(sum));
            rollup::add_to_table(self.database, table, owner, begin, sums, |&ip, values| {
                values.push(ip.into());
            })?;
        }
        let service = rollup::drain_sorted(&mut self.sums.service);
        for table in [&SERVICE_HOURLY, &SERVICE_DAILY] {
            let begin = table.period.begin(self.closed_ns);
            let sums = service.iter().map(|&sum| Ok(sum));
            rollup::add_to_table(
                self.database,
                table,
                owner,
                begin,
                sums,
                |&(protocol, local_port), values| {
                    values.extend([protocol.into(), local_port.into()]);
                },
            )?;
        }
        Ok(())
    }

    fn write_part(&mut self) -> Result<(), StoreError> {
        let sums = rollup::drain_sorted(&mut self.sums.remote);
        if sums.is_empty() {
            return Ok(());
        }
        self.database.execute(
            "INSERT INTO remote_part (host_id, account_id, month, epoch, part, sums)
             VALUES (?, ?, ?, ?, ?, ?)",
            &[
                self.key.host_id.into(),
                self.key.account_id.into(),
                Period::Month.begin(self.closed_ns).into(),
                self.key.epoch.into(),
                self.next_part.into(),
                Value::Bytes(parts::pack(&sums)),
            ],
        )?;
        self.next_part += 1;
        Ok(())
    }
}

/// Adds the host by itself if it is new: within their transactions, several collectors
/// of a new host would each hold a lock that the others want.
fn ensure_host<D: Database>(database: &mut D, origin: &Origin) -> Result<(), StoreError> {
    let known = one_integer(
        database,
        "SELECT COUNT(*) FROM host WHERE machine_id = ?",
        &[origin.machine_id.as_str().into()],
    )?;
    if known == 0 {
        owner::insert_host(database, &origin.machine_id, &origin.hostname)?;
    }
    Ok(())
}

/// The account's id within its host; adds one that is new.
pub(super) fn account_id<D: Database>(
    database: &mut D,
    host: LockedHost,
    origin: &Origin,
    header: &Header,
) -> Result<i64, StoreError> {
    let host_id = host.id();
    let stored = first_row(
        database,
        "SELECT id, netns FROM account WHERE host_id = ? AND identity = ?",
        &[host_id.into(), header.account_id[..].into()],
    )?;
    if let Some(row) = stored {
        let id = row[0].integer()?;
        // A nameless namespace may have been given a name meanwhile.
        if row[1].text()? != origin.netns {
            database.execute(
                "UPDATE account SET netns = ? WHERE host_id = ? AND id = ?",
                &[origin.netns.as_str().into(), host_id.into(), id.into()],
            )?;
        }
        return Ok(id);
    }
    let id = one_integer(
        database,
        "SELECT COALESCE(MAX(id), 0) + 1 FROM account WHERE host_id = ?",
        &[host_id.into()],
    )?;
    let (local_addr, prefix_len) = match header.local_net {
        IpNet::V4(net) => (IpAddr::from(net.addr()), net.prefix_len()),
        IpNet::V6(net) => (IpAddr::from(net.addr()), net.prefix_len()),
    };
    database.execute(
        "INSERT INTO account (
             host_id, id, identity, netns, family, name, local_addr, prefix_len, view_name)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        &[
            host_id.into(),
            id.into(),
            header.account_id[..].into(),
            origin.netns.as_str().into(),
            header.account.family.as_str().into(),
            header.account.name.as_str().into(),
            local_addr.into(),
            prefix_len.into(),
            schema::account_view(&header.account).map_or(Value::Null, Value::Text),
        ],
    )?;
    Ok(id)
}
