// SPDX-License-Identifier: GPL-2.0-or-later
//! Reads how long the epochs were open that an answer comes from.

use super::span::Span;
use super::statement::{accounts, epoch_key};
use crate::backend::sql::conditions::Conditions;
use crate::backend::sql::fields::value;
use crate::backend::sql::{Database, Value as Column};
use crate::query::{Counted, Counting, Field, Query};
use crate::snapshot::open_ns;
use crate::store::StoreError;

/// How long the query's accounts were counted in the time of the spans.
pub(super) fn read<D: Database>(
    database: &mut D,
    query: &Query,
    spans: &[Span],
) -> Result<Counted, StoreError> {
    let fields: Vec<Field> = query.by_epoch().collect();
    let mut counting = Counting::default();
    for span in spans {
        let mut conditions = Conditions::default();
        conditions.accounts(&query.filter.accounts);
        conditions.hosts(&query.filter.hosts);
        span.select_snapshots(&mut conditions);
        if span.table.is_none() {
            conditions.and("s.first_record IS NOT NULL");
        }
        let selected: Vec<String> = fields
            .iter()
            .filter_map(|&field| epoch_key(field, "s.counted_ns", query, span))
            .chain(["opened_ns", "closed_ns", "duration_ns"].map(|column| format!("s.{column}")))
            .collect();
        let sql = format!(
            "SELECT {selected}
FROM {accounts} {join} snapshot AS s {by_key}
    ON s.host_id = a.host_id AND s.account_id = a.id
WHERE 1 = 1{conditions}",
            selected = selected.join(", "),
            accounts = accounts::<D>(query),
            join = D::DIALECT.ordered_join,
            by_key = D::DIALECT.by_key,
            conditions = conditions.sql,
        );
        database.select(&sql, &conditions.parameters, &mut |row| {
            let (key, figures) = row.split_at(fields.len());
            let key = fields
                .iter()
                .zip(key)
                .map(|(&field, column)| value(field, column))
                .collect::<Result<_, _>>()?;
            let duration_ns = match &figures[2] {
                Column::Null => 0,
                known => known.unsigned()?,
            };
            let open = open_ns(figures[0].unsigned()?, figures[1].unsigned()?, duration_ns);
            counting.add(
                key,
                figures[1].integer()?,
                i64::try_from(open).unwrap_or(i64::MAX),
            );
            Ok(())
        })?;
    }
    Ok(counting.finish(query))
}
