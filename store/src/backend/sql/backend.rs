// SPDX-License-Identifier: GPL-2.0-or-later
//! What a database brings to be a store, besides its connection and its words.

use std::path::Path;

use super::{Database, Value};
use crate::store::StoreError;

/// What the databases do each in a way of its own, besides statements.
pub(in crate::backend) trait Backend: Database {
    /// As [`Store::migrate`].
    fn bring_up_to_date(&mut self) -> Result<(), StoreError>;

    /// One step of a query, of a row that EXPLAIN gave.
    fn plan_step(row: Vec<Value>) -> Result<String, StoreError>;

    /// What the database itself finds damaged, a line each.
    fn damage(&mut self) -> Result<Vec<String>, StoreError>;

    /// As [`Store::back_up`].
    fn copy_to_file(&mut self, to: &Path) -> Result<(), StoreError>;
}
