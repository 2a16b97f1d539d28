//! Any SQL database as a store.

use std::path::Path;

use super::{Database, Value, append, check, export, hosts, query, rotate, transfer};
use crate::backend::{Archive, Begun, Restored, Retention, Rotated, Store, StoreError};
use crate::export::{Epochs, Level, Selection, Sum};
use crate::host::{HostCheck, KnownHost, RunningHost};
use crate::origin::Origin;
use crate::query::{Answer, Query};
use crate::snapshot::Header;

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

impl<B: Backend> Store for B {
    fn migrate(&mut self) -> Result<(), StoreError> {
        self.bring_up_to_date()
    }

    fn begin<'a>(&'a mut self, origin: &Origin, header: &Header) -> Result<Begun<'a>, StoreError> {
        append::begin(self, origin, header)
    }

    fn query(&mut self, query: &Query) -> Result<Answer, StoreError> {
        query::answer(self, query)
    }

    fn explain(&mut self, query: &Query) -> Result<Vec<String>, StoreError> {
        let rows = query::explain(self, query)?;
        rows.into_iter().map(Self::plan_step).collect()
    }

    fn rotate(
        &mut self,
        retention: &Retention,
        archive: Option<Archive<'_>>,
    ) -> Result<Rotated, StoreError> {
        rotate::rotate(self, retention, archive)
    }

    fn check(&mut self) -> Result<Vec<String>, StoreError> {
        let mut wrong = self.damage()?;
        wrong.extend(check::check(self)?);
        Ok(wrong)
    }

    fn check_in(&mut self, host: &RunningHost) -> Result<HostCheck, StoreError> {
        hosts::check_in(self, host)
    }

    fn hosts(&mut self) -> Result<Vec<KnownHost>, StoreError> {
        hosts::hosts(self)
    }

    fn restore(&mut self, from: &Path) -> Result<Restored, StoreError> {
        transfer::restore(self, from)
    }

    fn export_records(
        &mut self,
        selection: &Selection,
        to: &mut dyn Epochs,
    ) -> Result<(), StoreError> {
        export::records(self, selection, to)
    }

    fn export_sums(
        &mut self,
        level: Level,
        selection: &Selection,
        each: &mut dyn FnMut(&Sum<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        export::sums(self, level, selection, each)
    }

    fn back_up(&mut self, to: &Path) -> Result<(), StoreError> {
        self.copy_to_file(to)
    }
}
