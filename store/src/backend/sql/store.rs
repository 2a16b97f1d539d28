// SPDX-License-Identifier: GPL-2.0-or-later
//! Any SQL database as a store.

use std::path::Path;

use jiff::Timestamp;

use super::backend::Backend;
use super::{append, check, cut_off, export, grown, hosts, query, reading, restore, rotate};
use crate::account::Name;
use crate::host::{HostCheck, KnownHost, RunningHost};
use crate::origin::Origin;
use crate::query::{Answer, Query};
use crate::reading::{AddedRows, Reading};
use crate::snapshot::{Header, Record};
use crate::store::{Archive, Begun, Restored, Retention, Rotated, Store, StoreError};
use crate::store::{Epochs, Grown, Level, Selection, Sum};

impl<B: Backend> Store for B {
    fn migrate(&mut self) -> Result<(), StoreError> {
        self.bring_up_to_date()
    }

    fn begin<'a>(&'a mut self, origin: &Origin, header: &Header) -> Result<Begun<'a>, StoreError> {
        append::begin(self, origin, header)
    }

    fn add_growth(
        &mut self,
        origin: &Origin,
        header: &Header,
        records: &[Record],
        is_last: bool,
    ) -> Result<Grown, StoreError> {
        grown::add(self, origin, header, records, is_last)
    }

    fn add_reading(&mut self, origin: &Origin, reading: &Reading) -> Result<AddedRows, StoreError> {
        reading::add(self, origin, reading)
    }

    fn imported_origins(&mut self, account: &Name) -> Result<Vec<Origin>, StoreError> {
        reading::origins(self, account)
    }

    fn query(&mut self, query: &Query) -> Result<Answer, StoreError> {
        query::answer(self, query)
    }

    fn explain(&mut self, query: &Query) -> Result<Vec<String>, StoreError> {
        let rows = query::explain(self, query)?;
        rows.into_iter().map(Self::plan_step).collect()
    }

    fn retention_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        cut_off::retention_time(self)
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
        restore::restore(self, from)
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
