// SPDX-License-Identifier: GPL-2.0-or-later
//! Reads what was written so that it can be restored.

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use csv::StringRecord;
use jiff::Timestamp;

use super::columns::{EPOCH_AT, columns, columns_before_0_2, figures};
use crate::account::Account;
use crate::export::fields::{EPOCH_COLUMNS, RECORD_COLUMNS};
use crate::origin::Origin;
use crate::snapshot::{Counters, Endpoint, Figure, Growth, Header, Record, Sample, Volume};
use crate::store::StoreError;

/// Records that are given at once.
const BATCH: usize = 4096;

/// Reads what [`EpochWriter`](super::EpochWriter) wrote, a line at a time.
pub(crate) struct EpochReader<R: Read> {
    path: PathBuf,
    csv: csv::Reader<R>,
    /// The line that was read last and belongs to what comes next.
    next: Option<StringRecord>,
    /// The line of the epoch whose records come.
    epoch: StringRecord,
    epochs: u64,
}

impl<R: Read> EpochReader<R> {
    /// # Errors
    /// [`StoreError::NotRestorable`] if the first line is another one.
    pub(crate) fn new(path: &Path, reader: R) -> Result<Self, StoreError> {
        let mut csv = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(reader);
        let mut names = StringRecord::new();
        let found = csv.read_record(&mut names);
        let is_known = names.iter().eq(columns()) || names.iter().eq(columns_before_0_2());
        if !matches!(found, Ok(true)) || !is_known {
            return Err(StoreError::NotRestorable(path.to_path_buf()));
        }
        let mut reader = Self {
            path: path.to_path_buf(),
            csv,
            next: None,
            epoch: StringRecord::new(),
            epochs: 0,
        };
        reader.advance()?;
        Ok(reader)
    }

    /// The next epoch; records that were not asked for are passed over.
    pub(crate) fn next_epoch(&mut self) -> Result<Option<(Origin, Header)>, StoreError> {
        while let Some(line) = self.next.as_ref().filter(|line| is_record(line)) {
            self.check_owner(line)?;
            self.advance()?;
        }
        let Some(line) = self.next.take() else {
            return Err(StoreError::Line {
                path: self.path.clone(),
                line: self.csv.position().line(),
                reason: "the file was cut off: its end is missing".to_owned(),
            });
        };
        if let Some(epochs) = end(&line) {
            self.advance()?;
            return match &self.next {
                None if epochs == self.epochs.to_string() => Ok(None),
                None => Err(self.wrong(
                    &line,
                    format!("the end of {epochs} epochs where {} came", self.epochs),
                )),
                Some(next) => Err(self.wrong(next, "the file goes on after its end".to_owned())),
            };
        }
        let read = read_epoch(&line).map_err(|reason| self.wrong(&line, reason))?;
        self.epoch = line;
        self.epochs += 1;
        self.advance()?;
        Ok(Some(read))
    }

    /// The records of the epoch that was given last, in batches.
    pub(crate) fn records(
        &mut self,
        mut each: impl FnMut(&[Record]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(line) = self.next.as_ref().filter(|line| is_record(line)) {
            self.check_owner(line)?;
            let record = read_record(line).map_err(|reason| self.wrong(line, reason))?;
            self.advance()?;
            batch.push(record);
            if batch.len() == BATCH {
                each(&batch)?;
                batch.clear();
            }
        }
        each(&batch)
    }

    /// Refuses a record of another epoch than the one whose records come.
    fn check_owner(&self, line: &StringRecord) -> Result<(), StoreError> {
        let mut owners = line.iter().zip(&self.epoch).take(EPOCH_COLUMNS.len());
        match owners.all(|(owner, epoch)| owner == epoch) {
            true => Ok(()),
            false => Err(self.wrong(line, "a record of another epoch".to_owned())),
        }
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        // The allocation goes round.
        let mut line = self.next.take().unwrap_or_default();
        match self.csv.read_record(&mut line) {
            Ok(true) => self.next = Some(line),
            Ok(false) => self.next = None,
            Err(error) => {
                let position = error.position().cloned();
                return Err(match error.into_kind() {
                    csv::ErrorKind::Io(source) => StoreError::Io {
                        path: self.path.clone(),
                        source,
                    },
                    kind => StoreError::Line {
                        path: self.path.clone(),
                        line: position.map_or(0, |position| position.line()),
                        reason: format!("not the CSV that was written: {kind:?}"),
                    },
                });
            }
        }
        Ok(())
    }

    fn wrong(&self, line: &StringRecord, reason: String) -> StoreError {
        StoreError::Line {
            path: self.path.clone(),
            line: line.position().map_or(0, csv::Position::line),
            reason,
        }
    }
}

/// How many epochs a line that is the end says there were.
fn end(line: &StringRecord) -> Option<&str> {
    let mut others = line
        .iter()
        .take(EPOCH_AT)
        .chain(line.iter().skip(EPOCH_AT + 1));
    match others.all(str::is_empty) {
        true => line.get(EPOCH_AT),
        false => None,
    }
}

fn is_record(line: &StringRecord) -> bool {
    line.get(EPOCH_COLUMNS.len())
        .is_some_and(|protocol| !protocol.is_empty())
}

/// Takes a line's fields one after the other.
struct Line<'a> {
    fields: &'a StringRecord,
    at: usize,
}

impl<'a> Line<'a> {
    fn text(&mut self) -> &'a str {
        self.at += 1;
        self.fields.get(self.at - 1).unwrap_or_default()
    }

    fn value<T: FromStr>(&mut self) -> Result<T, String> {
        let name = columns().nth(self.at).unwrap_or("a field");
        let text = self.text();
        text.parse()
            .map_err(|_| format!("{name} cannot be {text:?}"))
    }

    fn figure(&mut self, figure: &Figure, header: &mut Header) -> Result<(), String> {
        let value = self.value()?;
        match (figure.set)(header, value) {
            true => Ok(()),
            false => Err(format!("{} cannot be {value}", figure.name)),
        }
    }

    fn time(&mut self) -> Result<u64, String> {
        let time: Timestamp = self.value()?;
        u64::try_from(time.as_nanosecond()).map_err(|_| format!("{time} is before 1970"))
    }

    /// The header's later fields: all of them, or none where they are unknown.
    fn growth(&mut self) -> Result<Option<Growth>, String> {
        let mut fields = self.fields.iter().skip(self.at);
        if fields.all(str::is_empty) {
            return Ok(None);
        }
        let mut growth = Growth {
            duration_ns: self.value()?,
            unattributed: self.volume()?,
            ..Growth::default()
        };
        for sample in &mut growth.samples {
            *sample = Sample {
                packets: self.value()?,
                packet_variance: self.value()?,
                byte_variance: self.value()?,
                highest_rate: self.value()?,
            };
        }
        Ok(Some(growth))
    }

    fn volume(&mut self) -> Result<Volume, String> {
        Ok(Volume {
            packets: self.value()?,
            bytes: self.value()?,
        })
    }
}

fn read_epoch(fields: &StringRecord) -> Result<(Origin, Header), String> {
    let mut line = Line { fields, at: 0 };
    let (hostname, netns) = (line.text().to_owned(), line.text().to_owned());
    let account = Account {
        family: line.value()?,
        name: line.value()?,
    };
    let (epoch, closed_ns) = (line.value()?, line.time()?);
    line.at += RECORD_COLUMNS.len();
    let machine_id = line.text().to_owned();
    let account_id = line.text();
    let account_id = (account_id.len() == 32)
        .then(|| u128::from_str_radix(account_id, 16).ok())
        .flatten()
        .ok_or_else(|| format!("account_id is {account_id:?}, no 32 hexadecimal digits"))?
        .to_be_bytes();
    let mut header = Header::new(account, account_id, epoch, line.value()?);
    (header.opened_ns, header.closed_ns) = (line.time()?, closed_ns);
    for figure in figures() {
        line.figure(figure, &mut header)?;
    }
    header.growth = line.growth()?;
    if machine_id.is_empty() || header.epoch == 0 {
        return Err("no epoch without a machine_id and a number from 1".to_owned());
    }
    header.totals.check().map_err(|error| error.to_string())?;
    let origin = Origin {
        machine_id,
        hostname,
        netns,
    };
    Ok((origin, header))
}

fn read_record(fields: &StringRecord) -> Result<Record, String> {
    let mut line = Line {
        fields,
        at: EPOCH_COLUMNS.len(),
    };
    let protocol = line.value()?;
    let mut side = || {
        Ok::<_, String>(Endpoint {
            ip: line.value::<IpAddr>()?,
            port: line.value()?,
        })
    };
    let (local, remote) = (side()?, side()?);
    Ok(Record {
        protocol,
        local,
        remote,
        flags: line.value()?,
        counters: Counters {
            sent_packets: line.value()?,
            received_packets: line.value()?,
            sent_bytes: line.value()?,
            received_bytes: line.value()?,
            syn_packets: line.value()?,
        },
    })
}
