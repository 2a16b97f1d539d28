// SPDX-License-Identifier: GPL-2.0-or-later
//! Writes epochs so that they can be restored.

use std::io::{self, Write};

use super::columns::{EPOCH_AT, columns, figure_columns, figures};
use crate::export::fields::{Fields, RECORD_COLUMNS, time};
use crate::origin::Origin;
use crate::snapshot::{Growth, Header, Record};
use crate::store::{Epochs, StoreError};

/// Writes epochs so that they can be restored.
pub(crate) struct EpochWriter<W: Write> {
    fields: Fields<W>,
    origin: Option<Origin>,
    header: Option<Header>,
    epochs: u64,
}

impl<W: Write> EpochWriter<W> {
    pub(crate) fn new(out: W) -> Result<Self, StoreError> {
        let mut fields = Fields::new(out);
        columns()
            .try_for_each(|name| fields.add(name))
            .and_then(|()| fields.end_line())
            .map_err(StoreError::Write)?;
        Ok(Self {
            fields,
            origin: None,
            header: None,
            epochs: 0,
        })
    }

    /// Writes the end.
    pub(crate) fn finish(&mut self) -> Result<(), StoreError> {
        self.write_end()
            .and_then(|()| self.fields.flush())
            .map_err(StoreError::Write)
    }

    fn add_epoch(&mut self) -> io::Result<()> {
        let (Some(origin), Some(header)) = (&self.origin, &self.header) else {
            return Err(io::Error::other("records before the first epoch"));
        };
        let fields = &mut self.fields;
        fields.add(&origin.hostname)?;
        fields.add(&origin.netns)?;
        fields.add(header.account.family)?;
        fields.add(&header.account.name)?;
        fields.add(header.epoch)?;
        fields.add(time(header.closed_ns)?)
    }

    fn add_figures(&mut self, origin: &Origin, header: &Header) -> io::Result<()> {
        let fields = &mut self.fields;
        fields.add(&origin.machine_id)?;
        fields.add(format_args!(
            "{:032x}",
            u128::from_be_bytes(header.account_id)
        ))?;
        fields.add(header.local_net)?;
        fields.add(time(header.opened_ns)?)?;
        figures().try_for_each(|figure| fields.add((figure.get)(header)))?;
        let Some(growth) = &header.growth else {
            return self.add_empty(Growth::COLUMNS.len());
        };
        fields.add(growth.duration_ns)?;
        fields.add(growth.unattributed.packets)?;
        fields.add(growth.unattributed.bytes)?;
        for sample in &growth.samples {
            fields.add(sample.packets)?;
            fields.add(sample.packet_variance)?;
            fields.add(sample.byte_variance)?;
            fields.add(sample.highest_rate)?;
        }
        Ok(())
    }

    fn add_empty(&mut self, count: usize) -> io::Result<()> {
        (0..count).try_for_each(|_| self.fields.add(""))
    }

    fn write_epoch(&mut self, origin: &Origin, header: &Header) -> io::Result<()> {
        self.add_epoch()?;
        self.add_empty(RECORD_COLUMNS.len())?;
        self.add_figures(origin, header)?;
        self.fields.end_line()
    }

    fn write_end(&mut self) -> io::Result<()> {
        self.add_empty(EPOCH_AT)?;
        self.fields.add(self.epochs)?;
        self.add_empty(columns().count() - EPOCH_AT - 1)?;
        self.fields.end_line()
    }

    fn write_record(&mut self, record: &Record) -> io::Result<()> {
        self.add_epoch()?;
        self.fields.add_record(record)?;
        self.add_empty(figure_columns())?;
        self.fields.end_line()
    }
}

impl<W: Write> Epochs for EpochWriter<W> {
    fn begin(&mut self, origin: &Origin, header: &Header) -> Result<(), StoreError> {
        self.origin = Some(origin.clone());
        self.header = Some(header.clone());
        self.epochs += 1;
        self.write_epoch(origin, header).map_err(StoreError::Write)
    }

    fn add(&mut self, records: &[Record]) -> Result<(), StoreError> {
        records
            .iter()
            .try_for_each(|record| self.write_record(record))
            .map_err(StoreError::Write)
    }

    fn left_out(&mut self) {}
}
