// SPDX-License-Identifier: GPL-2.0-or-later
//! Appends one snapshot in one transaction.

use std::net::IpAddr;

use ipnet::IpNet;

use super::bound::{self, Counted};
use super::owner::{self, LockedHost, LockedOwner};
use super::rollup::{
    self, LOCAL_DAILY, LOCAL_HOURLY, LOCAL_SERVICE_DAILY, LOCAL_SERVICE_HOURLY,
    LOCAL_SERVICE_QUARTERLY, Owner, Period, SERVICE_DAILY, SERVICE_HOURLY, SnapshotSums,
};
use super::{
    Access, Database, Form, SnapshotKey, Value, first_row, one_integer, parts, schema, signed,
    stored,
};
use crate::account::Account;
use crate::origin::Origin;
use crate::snapshot::{Header, Record};
use crate::store::{Append, Begun, StoreError};

/// A snapshot whose row is written and whose records come, in a transaction that is open.
pub(super) struct Appending<'a, D: Database> {
    database: &'a mut D,
    host: LockedHost,
    key: SnapshotKey,
    account: Account,
    form: Form,
    /// What the header says of its records' packets.
    packets: u128,
    syn_packets: u128,
    /// The time at which the epoch counts.
    time_ns: i64,
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
    prepare(database, origin, header)?;
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

/// A snapshot's row that was written.
struct Written {
    host: LockedHost,
    key: SnapshotKey,
    form: Form,
    first_record: i64,
}

/// Makes what has to be there before the transaction: the account's view, the host, and room for
/// the account's parts.
pub(super) fn prepare<D: Database>(
    database: &mut D,
    origin: &Origin,
    header: &Header,
) -> Result<(), StoreError> {
    // Defining a view would end a transaction of MySQL's.
    if let Some(view) = schema::account_view(&header.account) {
        database.ensure_account_view(&view)?;
    }
    match ensure_host(database, origin) {
        // A server ends connections that were idle for long; the next one is new.
        Err(StoreError::ConnectionLost(_)) => ensure_host(database, origin)?,
        ensured => ensured?,
    }
    add_due_parts(database, origin, header)
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
    let month = Period::Month.begin(signed("counted_ns", header.counted_ns())?);
    if !parts::are_due(database, owner, month)? {
        return Ok(());
    }
    database.check_schema()?;
    parts::add_all(database, owner)
}

/// The key of a header's epoch, whether it is stored or not, and its host, which no other writer
/// changes until the transaction ends; the account is made if it is new.
pub(super) fn key<D: Database>(
    database: &mut D,
    origin: &Origin,
    header: &Header,
) -> Result<(LockedHost, SnapshotKey), StoreError> {
    let host = owner::lock_or_insert(database, &origin.machine_id, &origin.hostname)?;
    let key = SnapshotKey {
        host_id: host.id(),
        account_id: account_id(database, host, origin, header)?,
        epoch: signed("epoch", header.epoch)?,
    };
    Ok((host, key))
}

/// Writes the snapshot's row unless there is one.
fn write_snapshot<D: Database>(
    database: &mut D,
    origin: &Origin,
    header: &Header,
) -> Result<Option<Written>, StoreError> {
    let form = database.check_schema()?;
    let (host, key) = key(database, origin, header)?;
    if let Some(stored) = stored::stored_figures(database, key)? {
        stored::check_same(header, &stored)?;
        return Ok(None);
    }
    let first_record = database.next_record()?;
    let counted_ns = match form {
        Form::Current => Some(signed("counted_ns", header.counted_ns())?),
        Form::Former => None,
    };
    stored::insert_snapshot(database, header, key, first_record.into(), counted_ns)?;
    if form == Form::Current {
        let mut counted = Counted::default();
        counted.add(header);
        bound::add(
            database,
            host.account(key.account_id),
            &header.account,
            &counted,
        )?;
    }
    Ok(Some(Written {
        host,
        key,
        form,
        first_record,
    }))
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
    fn new(database: &'a mut D, header: &Header, written: Written) -> Self {
        let time_ns = match written.form {
            Form::Current => header.counted_ns(),
            Form::Former => header.closed_ns,
        };
        Self {
            database,
            host: written.host,
            key: written.key,
            account: header.account.clone(),
            form: written.form,
            packets: header.totals.recorded.packets.into(),
            syn_packets: 0,
            // It is in the row already, so it fits.
            time_ns: time_ns as i64,
            next_record: written.first_record,
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
        let syn_packets = records.iter().map(|record| record.counters.syn_packets);
        self.syn_packets += syn_packets.map(u128::from).sum::<u128>();
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
        let more = self.syn_packets.checked_sub(self.packets + 1);
        if let Some(more) = more.filter(|_| self.form == Form::Current) {
            let more = Counted::packets(more + 1);
            bound::add(self.database, self.owner(), &self.account, &more)?;
        }
        self.write_local()?;
        self.write_part()
    }

    /// Whose figures are added to.
    pub(super) fn owner(&self) -> LockedOwner {
        self.host.account(self.key.account_id)
    }

    fn write_local(&mut self) -> Result<(), StoreError> {
        let owner = self.owner();
        let sums = rollup::drain_sorted(&mut self.sums.local_service);
        let time_ns = self.time_ns;
        let local = rollup::by_local(&sums);
        for table in [&LOCAL_HOURLY, &LOCAL_DAILY] {
            rollup::add_at(self.database, table, owner, time_ns, &local)?;
        }
        let service = rollup::by_service(&sums);
        for table in [&SERVICE_HOURLY, &SERVICE_DAILY] {
            rollup::add_at(self.database, table, owner, time_ns, &service)?;
        }
        if self.form == Form::Former {
            return Ok(());
        }
        for table in [
            &LOCAL_SERVICE_QUARTERLY,
            &LOCAL_SERVICE_HOURLY,
            &LOCAL_SERVICE_DAILY,
        ] {
            rollup::add_at(self.database, table, owner, time_ns, &sums)?;
        }
        Ok(())
    }

    fn write_part(&mut self) -> Result<(), StoreError> {
        let sums = rollup::drain_sorted(&mut self.sums.remote);
        for sums in sums.chunks(parts::sums_within(self.database.largest_statement())) {
            self.database.execute(
                "INSERT INTO remote_part (host_id, account_id, month, epoch, part, sums)
                 VALUES (?, ?, ?, ?, ?, ?)",
                &[
                    self.key.host_id.into(),
                    self.key.account_id.into(),
                    Period::Month.begin(self.time_ns).into(),
                    self.key.epoch.into(),
                    self.next_part.into(),
                    Value::Bytes(parts::pack(sums)),
                ],
            )?;
            self.next_part += 1;
        }
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
