// SPDX-License-Identifier: GPL-2.0-or-later
//! The columns, which are those of the epochs and those of the records.

use crate::export::fields::{EPOCH_COLUMNS, RECORD_COLUMNS};
use crate::snapshot::{Figure, Growth, Header};

/// What only the epochs' own lines have, before the figures.
pub(super) const BEFORE_FIGURES: [&str; 4] = ["machine_id", "account_id", "local_net", "opened"];

/// The place of `epoch` among [`EPOCH_COLUMNS`].
pub(super) const EPOCH_AT: usize = 4;

pub(super) fn columns() -> impl Iterator<Item = &'static str> {
    columns_before_0_2().chain(Growth::COLUMNS)
}

/// The columns of files from before 0.2.0, which say nothing of the header's later fields.
pub(super) fn columns_before_0_2() -> impl Iterator<Item = &'static str> {
    EPOCH_COLUMNS
        .into_iter()
        .chain(RECORD_COLUMNS)
        .chain(BEFORE_FIGURES)
        .chain(figures().map(|figure| figure.name))
}

/// The header's figures but the times, which have columns of their own.
pub(super) fn figures() -> impl Iterator<Item = &'static Figure> {
    Header::FIGURES
        .iter()
        .filter(|figure| !figure.name.ends_with("_ns"))
}

/// How many columns a record's line leaves empty.
pub(super) fn figure_columns() -> usize {
    BEFORE_FIGURES.len() + figures().count() + Growth::COLUMNS.len()
}
