// SPDX-License-Identifier: GPL-2.0-or-later
//! Sums up how exact the epochs are that an answer comes from, by their snapshots' rows.

use super::snapshots;
use super::span::Span;
use super::statement::Statement;
use crate::backend::sql::{Database, Value as Column};
use crate::query::{Accuracies, Accuracy, ClassSum, Query};
use crate::snapshot::{SampleClass, Volume};
use crate::store::StoreError;

/// The accuracy of the epochs that the spans sum up.
pub(super) fn read<D: Database>(
    database: &mut D,
    query: &Query,
    spans: &[Span],
) -> Result<Accuracies, StoreError> {
    let mut accuracies = Accuracies::new();
    for span in spans {
        let statement = select::<D>(query, span);
        database.select(&statement.sql, &statement.parameters, &mut |row| {
            let (key, figures) = snapshots::split(query, row)?;
            let more = accuracy(figures)?;
            accuracies.entry(key).or_default().add(&more);
            Ok(())
        })?;
    }
    Ok(accuracies)
}

fn select<D: Database>(query: &Query, span: &Span) -> Statement {
    let integer = |sum: &str| format!("CAST({sum} AS {})", D::DIALECT.integer);
    let mut selected = Vec::new();
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
    snapshots::select::<D>(query, span, selected, true)
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
