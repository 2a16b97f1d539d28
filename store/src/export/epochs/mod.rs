// SPDX-License-Identifier: GPL-2.0-or-later
//! CSV that can be restored: each epoch's own line, and after it those of its records.
//!
//! Every line says first what it belongs to ([`EPOCH_COLUMNS`]). An epoch's line leaves the
//! record empty and has all else that is known of it; a record's line leaves that empty. The
//! last line has the number of the file's epochs as its epoch and is empty otherwise: a file
//! that was cut off has none.
//! Times are RFC 3339 with all their digits.

mod columns;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use reader::EpochReader;
pub(crate) use writer::EpochWriter;
