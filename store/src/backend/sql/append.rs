//! Appends one snapshot in one transaction.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use super::rollup::{
    self, LOCAL_DAILY, LOCAL_HOURLY, Owner, Period, SERVICE_DAILY, SERVICE_HOURLY, SnapshotSums,
};
use super::{
    Access, Database, SnapshotKey, Value, first_row, growth, nanoseconds, one_integer, parts,
    places, schema, signed,
};
use crate::origin::Origin;
use crate::snapshot::{Growth, Header, Record, Totals};
use crate::store::{Append, Begun, StoreError};

/// A snapshot whose row is written and whose records come, in a transaction that is open.
pub(super) struct Appending<'a, D: Database> {
    database: &'a mut D,
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
    database.begin(Access::Write)?;
    match write_snapshot(database, origin, header) {
        Ok(Some(key_and_first)) => Ok(Begun::New(Box::new(AppendTransaction {
            appending: Appending::new(database, header, key_and_first),
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

/// The snapshot's key, and its first record if it has any still, if it is stored.
pub(super) fn find<D: Database>(
    database: &mut D,
    origin: &Origin,
    header: &Header,
) -> Result<Option<(SnapshotKey, Option<i64>)>, StoreError> {
    let Some(row) = first_row(
        database,
        "SELECT a.host_id, a.id, s.first_record
         FROM host AS h
         JOIN account AS a ON a.host_id = h.id
         JOIN snapshot AS s ON s.host_id = a.host_id AND s.account_id = a.id
         WHERE h.machine_id = ? AND a.identity = ? AND s.epoch = ?",
        &[
            origin.machine_id.as_str().into(),
            header.account_id[..].into(),
            signed("epoch", header.epoch)?.into(),
        ],
    )?
    else {
        return Ok(None);
    };
    let key = SnapshotKey {
        host_id: row[0].integer()?,
        account_id: row[1].integer()?,
        epoch: signed("epoch", header.epoch)?,
    };
    if let Some(stored) = stored_figures(database, key)? {
        check_same(header, &stored)?;
    }
    let first = match &row[2] {
        Value::Null => None,
        first => Some(first.integer()?),
    };
    Ok(Some((key, first)))
}

/// Writes the snapshot's row unless there is one; gives its key and first record.
fn write_snapshot<D: Database>(
    database: &mut D,
    origin: &Origin,
    header: &Header,
) -> Result<Option<(SnapshotKey, i64)>, StoreError> {
    let host_id = host_id(database, &origin.machine_id, &origin.hostname)?;
    let key = SnapshotKey {
        host_id,
        account_id: account_id(database, host_id, origin, header)?,
        epoch: signed("epoch", header.epoch)?,
    };
    if let Some(stored) = stored_figures(database, key)? {
        check_same(header, &stored)?;
        return Ok(None);
    }
    let first_record = database.next_record()?;
    insert_snapshot(database, header, key, first_record.into())?;
    Ok(Some((key, first_record)))
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
    fn new(database: &'a mut D, header: &Header, (key, first_record): (SnapshotKey, i64)) -> Self {
        Self {
            database,
            key,
            // It is in the row already, so it fits.
            closed_ns: header.closed_ns as i64,
            next_record: first_record,
            next_part: 0,
            sums: SnapshotSums::default(),
        }
    }

    /// Begins within a transaction; none if the snapshot is stored.
    pub(super) fn begin(
        database: &'a mut D,
        origin: &Origin,
        header: &Header,
    ) -> Result<Option<Self>, StoreError> {
        Ok(write_snapshot(database, origin, header)?
            .map(|key_and_first| Self::new(database, header, key_and_first)))
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
        self.write_part()?;
        let month = Period::Month.begin(self.closed_ns);
        parts::add_if_due(self.database, self.owner(), month)
    }

    fn owner(&self) -> Owner {
        Owner {
            host_id: self.key.host_id,
            account_id: self.key.account_id,
        }
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
        insert_host(database, &origin.machine_id, &origin.hostname)?;
    }
    Ok(())
}

fn insert_host<D: Database>(
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

/// The host's id; its row is locked until the transaction ends, so that one host's
/// writers take turns, and those of several hosts never wait for each other.
pub(super) fn host_id<D: Database>(
    database: &mut D,
    machine_id: &str,
    hostname: &str,
) -> Result<i64, StoreError> {
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
        return Ok(id);
    }
    insert_host(database, machine_id, hostname)?;
    one_integer(database, &select, &by_machine_id)
}

fn account_id<D: Database>(
    database: &mut D,
    host_id: i64,
    origin: &Origin,
    header: &Header,
) -> Result<i64, StoreError> {
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

/// The figures of a snapshot: how many columns it has besides its identity, the place of its
/// records and the later fields.
pub(super) const FIGURES: usize = BEFORE_TOTALS.len() + Totals::COLUMNS.len() + AFTER_TOTALS.len();

const BEFORE_TOTALS: [&str; 3] = ["opened_ns", "closed_ns", "records"];
const AFTER_TOTALS: [&str; 2] = ["max_entries", "min_pkt_spoof"];

/// The columns of the figures.
fn figure_columns() -> impl Iterator<Item = &'static str> {
    BEFORE_TOTALS
        .into_iter()
        .chain(Totals::COLUMNS)
        .chain(AFTER_TOTALS)
}

/// The figures with their columns.
fn figures(header: &Header) -> impl Iterator<Item = (&'static str, u64)> {
    let before = [header.opened_ns, header.closed_ns, header.records];
    let after = [header.max_entries, header.min_pkt_spoof.into()];
    let values = before.into_iter().chain(header.totals.values());
    figure_columns().zip(values.chain(after))
}

/// The columns of the figures and of the later fields, each behind `prefix`.
pub(super) fn columns(prefix: &str) -> String {
    let columns = figure_columns().chain(Growth::COLUMNS);
    let prefixed: Vec<String> = columns.map(|column| format!("{prefix}{column}")).collect();
    prefixed.join(", ")
}

/// The values stored in [`columns`] under an identity, if there are any.
fn stored_figures<D: Database>(
    database: &mut D,
    key: SnapshotKey,
) -> Result<Option<Vec<Value>>, StoreError> {
    first_row(
        database,
        &format!(
            "SELECT {} FROM snapshot WHERE host_id = ? AND account_id = ? AND epoch = ?",
            columns("")
        ),
        &key.values(),
    )
}

/// Refuses a snapshot that is stored with other totals; later fields count where both know
/// them.
fn check_same(header: &Header, stored: &[Value]) -> Result<(), StoreError> {
    let conflict = |what, stored, offered| StoreError::Conflict {
        account: header.account.clone(),
        epoch: header.epoch,
        what,
        stored,
        offered,
    };
    for ((what, offered), stored) in figures(header).zip(stored) {
        let stored = stored.integer()?;
        if i64::try_from(offered) != Ok(stored) {
            return Err(conflict(what, stored, offered));
        }
    }
    let stored = &stored[FIGURES..];
    if header.growth.is_none() || growth::read(stored, 0)?.is_none() {
        return Ok(());
    }
    let offered = growth::values(header.growth.as_ref())?;
    for ((what, offered), stored) in Growth::COLUMNS.into_iter().zip(&offered).zip(stored) {
        if offered.real()? != stored.real()? {
            let [stored, offered] = [stored.real()?, offered.real()?];
            return Err(conflict(what, stored as i64, offered as u64));
        }
    }
    Ok(())
}

pub(super) fn insert_snapshot<D: Database>(
    database: &mut D,
    header: &Header,
    key: SnapshotKey,
    first_record: Value,
) -> Result<(), StoreError> {
    let mut values = key.values().to_vec();
    values.extend([first_record, nanoseconds(Timestamp::now()).into()]);
    for (what, value) in figures(header) {
        values.push(signed(what, value)?.into());
    }
    values.extend(growth::values(header.growth.as_ref())?);
    database.execute(
        &format!(
            "INSERT INTO snapshot (host_id, account_id, epoch, first_record, collected_ns, {})
             VALUES {}",
            columns(""),
            places(1, values.len())
        ),
        &values,
    )?;
    Ok(())
}
