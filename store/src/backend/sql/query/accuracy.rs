// SPDX-License-Identifier: GPL-2.0-or-later
//! Sums up how exact the epochs are that an answer comes from, by their snapshots' rows.

use super::span::Span;
use super::statement::{accounts, epoch_key, group_by};
use crate::backend::sql::conditions::Conditions;
use crate::backend::sql::fields::value;
use crate::backend::sql::{Database, Value as Column};
use crate::query::{Accuracies, Accuracy, ClassSum, Field, Query};
use crate::snapshot::{SampleClass, Volume};
use crate::store::StoreError;

/// The accuracy of the epochs that the spans sum up.
///
/// Snapshots keep their rows when records and sums are deleted, so a span's epochs are those
/// that its table still has figures of.
pub(super) fn read<D: Database>(
    database: &mut D,
    query: &Query,
    spans: &[Span],
) -> Result<Accuracies, StoreError> {
    let fields: Vec<Field> = query.by_epoch().collect();
    let mut accuracies = Accuracies::new();
    for span in spans {
        let (sql, parameters) = select::<D>(query, &fields, span);
        database.select(&sql, &parameters, &mut |row| {
            let columns = fields.iter().zip(row);
            let key = columns
                .map(|(&field, column)| value(field, column))
                .collect::<Result<_, _>>()?;
            let more = accuracy(&row[fields.len()..])?;
            accuracies.entry(key).or_default().add(&more);
            Ok(())
        })?;
    }
    Ok(accuracies)
}

fn select<D: Database>(query: &Query, fields: &[Field], span: &Span) -> (String, Vec<Column>) {
    let dialect = &D::DIALECT;
    let mut conditions = Conditions::default();
    conditions.accounts(&query.filter.accounts);
    conditions.hosts(&query.filter.hosts);
    span.select_snapshots(&mut conditions);
    if span.table.is_none() {
        conditions.and("s.first_record IS NOT NULL");
    }
    let keys: Vec<String> = fields
        .iter()
        .filter_map(|&field| epoch_key(field, "s.counted_ns", query, span))
        .collect();
    let integer = |sum: &str| format!("CAST({sum} AS {})", dialect.integer);
    let mut selected = keys.clone();
    for class in SampleClass::ALL.map(SampleClass::name) {
        selected.extend([
            integer(&format!("SUM(COALESCE(s.{class}_sampled_packets, 0))")),
            format!("SUM(COALESCE(s.{class}_packet_variance, 0e0))"),
            format!("SUM(COALESCE(s.{class}_byte_variance, 0e0))"),
            format!("MAX(COALESCE(s.{class}_highest_rate, 0))"),
        ]);
    }
    let epochs =
        |condition: &str| integer(&format!("SUM(CASE WHEN {condition} THEN 1 ELSE 0 END)"));
    selected.extend([
        epochs("s.tcp_any_highest_rate IS NULL AND s.extrapolated_packets > 0"),
        epochs("s.unattributed_packets > 0"),
    ]);
    for volume in ["outside", "skipped", "folded", "unattributed"] {
        for unit in ["packets", "bytes"] {
            selected.push(integer(&format!("SUM(COALESCE(s.{volume}_{unit}, 0))")));
        }
    }
    let sql = format!(
        "SELECT {selected}
FROM {accounts} {join} snapshot AS s {by_key}
    ON s.host_id = a.host_id AND s.account_id = a.id
WHERE 1 = 1{conditions} {group}",
        selected = selected.join(", "),
        accounts = accounts::<D>(query),
        join = dialect.ordered_join,
        by_key = dialect.by_key,
        conditions = conditions.sql,
        group = group_by(&keys),
    );
    (sql, conditions.parameters)
}

/// What a row of [`select`] has after its key.
fn accuracy(columns: &[Column]) -> Result<Accuracy, StoreError> {
    let mut accuracy = Accuracy::default();
    let (classes, rest) = columns.split_at(4 * SampleClass::ALL.len());
    for (class, columns) in accuracy.classes.iter_mut().zip(classes.chunks_exact(4)) {
        *class = ClassSum {
            packets: columns[0].unsigned()?,
            packet_variance: columns[1].real()?,
            byte_variance: columns[2].real()?,
            highest_rate: columns[3].small()?,
        };
    }
    accuracy.unknown_epochs = rest[0].unsigned()?;
    accuracy.unattributed_epochs = rest[1].unsigned()?;
    let volumes = [
        &mut accuracy.outside,
        &mut accuracy.skipped,
        &mut accuracy.folded,
        &mut accuracy.unattributed,
    ];
    for (volume, columns) in volumes.into_iter().zip(rest[2..].chunks_exact(2)) {
        *volume = Volume {
            packets: columns[0].unsigned()?,
            bytes: columns[1].unsigned()?,
        };
    }
    Ok(accuracy)
}
