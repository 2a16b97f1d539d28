//! Appends one snapshot in one transaction.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use rusqlite::{
    CachedStatement, Connection, OptionalExtension, Transaction, TransactionBehavior,
    params_from_iter,
};

use super::{StoreError, nanoseconds, octets};
use crate::backend::{Append, Begun};
use crate::origin::Origin;
use crate::snapshot::{Header, Record};

/// The transaction of one snapshot.
struct Appending<'a> {
    transaction: Transaction<'a>,
    host_id: i64,
    account_id: i64,
    epoch: i64,
    written: i64,
    address_ids: HashMap<IpAddr, i64>,
}

/// Looks the snapshot up, and takes the write lock if it is new.
pub(super) fn begin<'a>(
    connection: &'a mut Connection,
    origin: &Origin,
    header: &Header,
) -> Result<Begun<'a>, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let host_id = host_id(&transaction, origin)?;
    let account_id = account_id(&transaction, host_id, origin, header)?;
    let epoch = signed("epoch", header.epoch)?;
    let figures = figures(header);
    if let Some(stored) = stored_figures(&transaction, &figures, [host_id, account_id, epoch])? {
        check_same(header, &figures, &stored)?;
        return Ok(Begun::AlreadyStored);
    }
    insert_snapshot(&transaction, &figures, [host_id, account_id, epoch])?;
    Ok(Begun::New(Box::new(Appending {
        transaction,
        host_id,
        account_id,
        epoch,
        written: 0,
        address_ids: HashMap::new(),
    })))
}

impl Append for Appending<'_> {
    fn write(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let mut addresses = Addresses {
            select: self
                .transaction
                .prepare_cached("SELECT id FROM address WHERE host_id = ?1 AND address = ?2")?,
            insert: self
                .transaction
                .prepare_cached("INSERT INTO address (host_id, address) VALUES (?1, ?2)")?,
            host_id: self.host_id,
            ids: &mut self.address_ids,
        };
        let mut insert = self.transaction.prepare_cached(
            "INSERT INTO record (
                 host_id, account_id, epoch, number, protocol, local_address_id, local_port,
                 remote_address_id, remote_port, flags,
                 sent_packets, received_packets, sent_bytes, received_bytes, syn_packets)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?;
        for record in records {
            let counters = &record.counters;
            insert.execute((
                self.host_id,
                self.account_id,
                self.epoch,
                self.written,
                record.protocol,
                addresses.id(record.local.ip)?,
                record.local.port,
                addresses.id(record.remote.ip)?,
                record.remote.port,
                record.flags,
                signed("sent packets", counters.sent_packets)?,
                signed("received packets", counters.received_packets)?,
                signed("sent bytes", counters.sent_bytes)?,
                signed("received bytes", counters.received_bytes)?,
                signed("SYN packets", counters.syn_packets)?,
            ))?;
            self.written += 1;
        }
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Ok(self.transaction.commit()?)
    }
}

/// How many ids are remembered; a snapshot may hold millions of addresses.
const ADDRESS_CACHE: usize = 1 << 17;

/// The dictionary of a host's addresses.
struct Addresses<'a> {
    select: CachedStatement<'a>,
    insert: CachedStatement<'a>,
    host_id: i64,
    ids: &'a mut HashMap<IpAddr, i64>,
}

impl Addresses<'_> {
    fn id(&mut self, ip: IpAddr) -> Result<i64, StoreError> {
        if let Some(&id) = self.ids.get(&ip) {
            return Ok(id);
        }
        let key = (self.host_id, octets(ip));
        let known = self
            .select
            .query_row((key.0, &key.1), |row| row.get(0))
            .optional()?;
        let id = match known {
            Some(id) => id,
            None => self.insert.insert(key)?,
        };
        if self.ids.len() >= ADDRESS_CACHE {
            self.ids.clear();
        }
        self.ids.insert(ip, id);
        Ok(id)
    }
}

fn host_id(transaction: &Transaction<'_>, origin: &Origin) -> Result<i64, StoreError> {
    Ok(transaction.query_row(
        "INSERT INTO host (machine_id, hostname) VALUES (?1, ?2)
         ON CONFLICT (machine_id) DO UPDATE SET hostname = excluded.hostname RETURNING id",
        (&origin.machine_id, &origin.hostname),
        |row| row.get(0),
    )?)
}

fn account_id(
    transaction: &Transaction<'_>,
    host_id: i64,
    origin: &Origin,
    header: &Header,
) -> Result<i64, StoreError> {
    let netns_id: i64 = transaction.query_row(
        "INSERT INTO netns (host_id, name) VALUES (?1, ?2)
         ON CONFLICT (host_id, name) DO UPDATE SET name = excluded.name RETURNING id",
        (host_id, &origin.netns),
        |row| row.get(0),
    )?;
    let (local_addr, prefix_len) = match header.local_net {
        IpNet::V4(net) => (octets(net.addr().into()), net.prefix_len()),
        IpNet::V6(net) => (octets(net.addr().into()), net.prefix_len()),
    };
    // A nameless namespace may have been given a name meanwhile.
    Ok(transaction.query_row(
        "INSERT INTO account (
             host_id, identity, netns_id, family, name, local_addr, prefix_len)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (host_id, identity) DO UPDATE SET netns_id = excluded.netns_id
         RETURNING id",
        (
            host_id,
            header.account_id,
            netns_id,
            header.account.family.as_str(),
            header.account.name.as_str(),
            local_addr,
            prefix_len,
        ),
        |row| row.get(0),
    )?)
}

/// What a snapshot says besides its identity and records: column and value.
type Figures = [(&'static str, u64); 19];

fn figures(header: &Header) -> Figures {
    let totals = &header.totals;
    [
        ("opened_ns", header.opened_ns),
        ("closed_ns", header.closed_ns),
        ("records", header.records),
        ("seen_packets", totals.seen.packets),
        ("seen_bytes", totals.seen.bytes),
        ("extrapolated_packets", totals.extrapolated.packets),
        ("extrapolated_bytes", totals.extrapolated.bytes),
        ("recorded_packets", totals.recorded.packets),
        ("recorded_bytes", totals.recorded.bytes),
        ("outside_packets", totals.outside.packets),
        ("outside_bytes", totals.outside.bytes),
        ("skipped_packets", totals.skipped.packets),
        ("skipped_bytes", totals.skipped.bytes),
        ("gso_extra_packets", totals.gso_extra.packets),
        ("gso_extra_bytes", totals.gso_extra.bytes),
        ("folded_packets", totals.folded.packets),
        ("folded_bytes", totals.folded.bytes),
        ("max_entries", header.max_entries),
        ("min_pkt_spoof", header.min_pkt_spoof.into()),
    ]
}

fn columns(figures: &Figures) -> String {
    figures.map(|(column, _)| column).join(", ")
}

/// The figures stored under an identity (host, account, epoch), if there are any.
fn stored_figures(
    transaction: &Transaction<'_>,
    figures: &Figures,
    identity: [i64; 3],
) -> Result<Option<Vec<i64>>, StoreError> {
    let sql = format!(
        "SELECT {} FROM snapshot WHERE host_id = ?1 AND account_id = ?2 AND epoch = ?3",
        columns(figures)
    );
    Ok(transaction
        .query_row(&sql, identity, |row| {
            (0..figures.len()).map(|column| row.get(column)).collect()
        })
        .optional()?)
}

fn check_same(header: &Header, figures: &Figures, stored: &[i64]) -> Result<(), StoreError> {
    for (&(what, offered), &stored) in figures.iter().zip(stored) {
        if i64::try_from(offered) != Ok(stored) {
            return Err(StoreError::Conflict {
                account: header.account.clone(),
                epoch: header.epoch,
                what,
                stored,
                offered,
            });
        }
    }
    Ok(())
}

fn insert_snapshot(
    transaction: &Transaction<'_>,
    figures: &Figures,
    identity: [i64; 3],
) -> Result<(), StoreError> {
    let sql = format!(
        "INSERT INTO snapshot (host_id, account_id, epoch, collected_ns, {}) VALUES (?{})",
        columns(figures),
        ", ?".repeat(3 + figures.len())
    );
    let mut values = identity.to_vec();
    values.push(nanoseconds(Timestamp::now()));
    for &(what, value) in figures {
        values.push(signed(what, value)?);
    }
    transaction.execute(&sql, params_from_iter(values))?;
    Ok(())
}

/// A number as a column holds it.
fn signed(what: &'static str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::OutOfRange { what, value })
}
