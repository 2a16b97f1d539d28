// SPDX-License-Identifier: GPL-2.0-or-later
//! Selects the snapshots whose epochs a span sums up, by the query's fields of epochs.

use super::span::Span;
use super::statement::{Statement, accounts, epoch_key, group_by};
use crate::backend::sql::conditions::Conditions;
use crate::backend::sql::fields::value;
use crate::backend::sql::{Database, Value as Column};
use crate::query::{Query, Value};
use crate::store::StoreError;

/// Selects the fields of epochs, then `figures` of the snapshots `s`: a row for each epoch, or with
/// `summed` a row for those that are equal in the fields.
///
/// Snapshots keep their rows when records and sums are deleted, so a span's epochs are those
/// that its table still has figures of.
pub(super) fn select<D: Database>(
    query: &Query,
    span: &Span,
    figures: Vec<String>,
    summed: bool,
) -> Statement {
    let dialect = &D::DIALECT;
    let mut conditions = Conditions::default();
    conditions.accounts(&query.filter.accounts);
    conditions.hosts(&query.filter.hosts);
    span.select_snapshots(&mut conditions);
    if span.table.is_none() {
        conditions.and("s.first_record IS NOT NULL");
    }
    let keys: Vec<String> = query
        .by_epoch()
        .filter_map(|field| epoch_key(field, "s.counted_ns", query, span))
        .collect();
    let sql = format!(
        "SELECT {selected}
FROM {accounts} {join} snapshot AS s {by_key}
    ON s.host_id = a.host_id AND s.account_id = a.id
WHERE 1 = 1{conditions} {group}",
        selected = [&keys[..], &figures].concat().join(", "),
        accounts = accounts::<D>(query),
        join = dialect.ordered_join,
        by_key = dialect.by_key,
        conditions = conditions.sql,
        group = match summed {
            true => group_by(&keys),
            false => String::new(),
        },
    );
    Statement {
        sql,
        parameters: conditions.parameters,
    }
}

/// Splits a row of [`select`] into the values of the fields and the figures.
pub(super) fn split<'r>(
    query: &Query,
    row: &'r [Column],
) -> Result<(Vec<Value>, &'r [Column]), StoreError> {
    let (key, figures) = row.split_at(query.by_epoch().count());
    let key = query
        .by_epoch()
        .zip(key)
        .map(|(field, column)| value(field, column))
        .collect::<Result<_, _>>()?;
    Ok((key, figures))
}
