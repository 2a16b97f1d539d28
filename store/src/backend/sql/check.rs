// SPDX-License-Identifier: GPL-2.0-or-later
//! Whether a database holds what it says.

use std::collections::BTreeMap;

use super::kept::Kept;
use super::parts::Part;
use super::rollup::{REMOTE_MONTHLY, ROLLUPS, Rollup, SECOND_NS};
use super::{Access, Database, adopt, in_transaction};
use crate::store::StoreError;

/// What is wrong: records that do not sum up to their snapshot, sums that do not sum up
/// to the snapshots of their time.
pub(in crate::backend) fn check<D: Database>(database: &mut D) -> Result<Vec<String>, StoreError> {
    in_transaction(database, Access::Read, |database| {
        let mut wrong = Vec::new();
        check_records(database, &mut wrong)?;
        let unfinished = adopt::unfinished(database)?;
        wrong.extend(unfinished.iter().map(|(host_id, account_id)| {
            format!(
                "the sums of host {host_id}, account {account_id} are not all restored yet: \
                 \"restore\" the same file again"
            )
        }));
        check_counted(database, &mut wrong)?;
        let kept = Kept::read(database)?;
        for rollup in ROLLUPS {
            let off = check_sums(database, &rollup, kept.since(Some(rollup)))?;
            let finished = off
                .into_iter()
                .filter(|(owner, _)| !unfinished.contains(owner));
            wrong.extend(finished.map(|(_, line)| line));
        }
        Ok(wrong)
    })
}

fn check_records<D: Database>(database: &mut D, wrong: &mut Vec<String>) -> Result<(), StoreError> {
    let sql = format!(
        "SELECT s.host_id, s.account_id, s.epoch FROM snapshot AS s
         LEFT JOIN record AS r ON {records}
         WHERE s.first_record IS NOT NULL
         GROUP BY s.host_id, s.account_id, s.epoch, s.records, s.recorded_packets,
             s.recorded_bytes
         HAVING COUNT(r.protocol) <> s.records
             OR COALESCE(SUM(r.sent_packets + r.received_packets), 0) <> s.recorded_packets
             OR COALESCE(SUM(r.sent_bytes + r.received_bytes), 0) <> s.recorded_bytes",
        records = D::DIALECT.records_of_snapshot
    );
    database.select(&sql, &[], &mut |row| {
        wrong.push(format!(
            "the records of host {}, account {}, epoch {} are not what its snapshot says",
            row[0].integer()?,
            row[1].integer()?,
            row[2].integer()?
        ));
        Ok(())
    })
}

/// An account that counted more than its row says may come to sums that no query can add up.
fn check_counted<D: Database>(database: &mut D, wrong: &mut Vec<String>) -> Result<(), StoreError> {
    database.select(
        "SELECT a.host_id, a.id FROM account AS a
         JOIN snapshot AS s ON s.host_id = a.host_id AND s.account_id = a.id
         GROUP BY a.host_id, a.id, a.counted_packets, a.counted_bytes
         HAVING SUM(s.recorded_packets + s.outside_packets + s.skipped_packets)
                 > a.counted_packets
             OR SUM(s.recorded_bytes + s.outside_bytes + s.skipped_bytes) > a.counted_bytes",
        &[],
        &mut |row| {
            wrong.push(format!(
                "what host {}, account {} counted is more than its row says",
                row[0].integer()?,
                row[1].integer()?
            ));
            Ok(())
        },
    )
}

/// Sums by host, account and period: packets and bytes.
type Sums = BTreeMap<(i64, i64, i64), (i128, i128)>;

/// The lines of what is wrong, each with its host and account.
type Off = Vec<((i64, i64), String)>;

fn check_sums<D: Database>(
    database: &mut D,
    rollup: &Rollup,
    since: i64,
) -> Result<Off, StoreError> {
    let mut off = Off::new();
    let mut sums = Sums::new();
    let period = rollup.period;
    database.select(
        "SELECT host_id, account_id, counted_ns, recorded_packets, recorded_bytes FROM snapshot",
        &[],
        &mut |row| {
            let counted_ns = row[2].integer()?;
            if counted_ns >= since {
                let key = (
                    row[0].integer()?,
                    row[1].integer()?,
                    period.begin(counted_ns),
                );
                let sum = sums.entry(key).or_default();
                sum.0 += i128::from(row[3].integer()?);
                sum.1 += i128::from(row[4].integer()?);
            }
            Ok(())
        },
    )?;
    let (column, table) = (period.column(), rollup.table);
    let integer = D::DIALECT.integer;
    database.select(
        &format!(
            "SELECT host_id, account_id, {column},
                 CAST(SUM(sent_packets + received_packets) AS {integer}),
                 CAST(SUM(sent_bytes + received_bytes) AS {integer})
             FROM {table} GROUP BY host_id, account_id, {column}"
        ),
        &[],
        &mut |row| {
            let begin = row[2].integer()?;
            if begin.saturating_mul(SECOND_NS) >= since {
                let key = (row[0].integer()?, row[1].integer()?, begin);
                let sum = sums.entry(key).or_default();
                sum.0 -= i128::from(row[3].integer()?);
                sum.1 -= i128::from(row[4].integer()?);
            }
            Ok(())
        },
    )?;
    if *rollup == REMOTE_MONTHLY {
        subtract_parts(database, since, &mut sums)?;
    }
    for ((host_id, account_id, begin), rest) in sums {
        if rest != (0, 0) {
            let line = format!(
                "{table} of host {host_id}, account {account_id}, {column} {begin} is not what \
                 its snapshots say: off by {} packets and {} bytes",
                rest.0, rest.1
            );
            off.push(((host_id, account_id), line));
        }
    }
    Ok(off)
}

fn subtract_parts<D: Database>(
    database: &mut D,
    since: i64,
    sums: &mut Sums,
) -> Result<(), StoreError> {
    database.select(
        "SELECT host_id, account_id, month, sums FROM remote_part",
        &[],
        &mut |row| {
            let month = row[2].integer()?;
            if month.saturating_mul(SECOND_NS) < since {
                return Ok(());
            }
            let key = (row[0].integer()?, row[1].integer()?, month);
            let sum = sums.entry(key).or_default();
            for part in Part::new(row[3].bytes()?) {
                let (_, counters) = part?;
                sum.0 -= i128::from(counters.sent_packets) + i128::from(counters.received_packets);
                sum.1 -= i128::from(counters.sent_bytes) + i128::from(counters.received_bytes);
            }
            Ok(())
        },
    )
}
