// SPDX-License-Identifier: GPL-2.0-or-later
//! Reads how long the epochs were open that an answer comes from.

use super::snapshots;
use super::span::Span;
use crate::backend::sql::{Database, Value as Column};
use crate::query::{Counted, Counting, Query};
use crate::snapshot::open_ns;
use crate::store::StoreError;

/// How long the query's accounts were counted in the time of the spans.
pub(super) fn read<D: Database>(
    database: &mut D,
    query: &Query,
    spans: &[Span],
) -> Result<Counted, StoreError> {
    let mut counting = Counting::default();
    for span in spans {
        let figures = ["opened_ns", "closed_ns", "duration_ns"].map(|column| format!("s.{column}"));
        let statement = snapshots::select::<D>(query, span, figures.to_vec(), false);
        database.select(&statement.sql, &statement.parameters, &mut |row| {
            let (key, figures) = snapshots::split(query, row)?;
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
