// SPDX-License-Identifier: GPL-2.0-or-later
//! Decodes a snapshot as it streams by, and refuses one that does not add up.
//!
//! A snapshot is one header and its records (`uapi/xt_TRAFSTAT.h`). It may hold
//! millions of records, so they come in batches and are never all in memory. The
//! last batch is followed by an end only if every total holds: whoever reads a
//! snapshot to its end has seen it proved.

mod decode;
mod error;
mod header;
mod record;

use std::io::{self, Read};

use trafstat_abi::SnapshotHeader;

pub use error::{SnapshotError, Unit};
pub use header::{Figure, Growth, Header, Sample, SampleClass, Totals, Volume};
pub(crate) use header::{counted_ns, open_ns};
pub use record::{Counters, Endpoint, Record};

use decode::{LEAST_HEADER, check_format, decode_header, decode_record};

/// How much is read at once: some thousand records, less than a cache of level 2.
const BATCH_BYTES: usize = 256 * 1024;

/// A snapshot being read from `R`.
#[derive(Debug)]
pub struct Snapshot<R> {
    reader: R,
    header: Header,
    record_size: usize,
    unread_records: u64,
    summed: Sum,
    bytes: Vec<u8>,
    batch: Vec<Record>,
}

/// The open epoch of an account, from a live file.
///
/// Its counters moved while they were read: nothing adds up, and a flow may come once for
/// each CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenEpoch {
    /// What the file says besides; its `records`, `recorded` and `closed_ns` are 0.
    pub header: Header,
    /// What was counted until now.
    pub records: Vec<Record>,
}

impl OpenEpoch {
    /// Reads a live file to its end.
    ///
    /// # Errors
    /// The source's, ESTALE among them where the epoch was closed meanwhile, and every way in
    /// which a header or a record can be wrong.
    pub fn read(mut reader: impl Read) -> Result<Self, SnapshotError> {
        let (header, record_size) = read_header(&mut reader)?;
        let mut bytes = vec![0; (BATCH_BYTES / record_size).max(1) * record_size];
        let mut records = Vec::new();
        loop {
            let found = read_full(&mut reader, &mut bytes)?;
            if found % record_size != 0 {
                let found = (records.len() + found / record_size) as u64;
                return Err(SnapshotError::RecordsMissing {
                    expected: found + 1,
                    found,
                });
            }
            for bytes in bytes[..found].chunks_exact(record_size) {
                records.push(decode_record(header.account.family, bytes)?);
            }
            if found < bytes.len() {
                return Ok(Self { header, records });
            }
        }
    }
}

impl<R: Read> Snapshot<R> {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// The source's, and every way in which a header can be wrong, conservation
    /// included.
    pub fn open(mut reader: R) -> Result<Self, SnapshotError> {
        let (header, record_size) = read_header(&mut reader)?;
        header.totals.check()?;
        Ok(Self {
            reader,
            record_size,
            unread_records: header.records,
            header,
            summed: Sum::default(),
            bytes: Vec::new(),
            batch: Vec::new(),
        })
    }

    /// Everything besides the records.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next some thousand records; none after the last, once all totals hold.
    ///
    /// # Errors
    /// The source's, or that the records are not what the header says.
    pub fn next_batch(&mut self) -> Result<Option<&[Record]>, SnapshotError> {
        if self.unread_records == 0 {
            self.check_end()?;
            return Ok(None);
        }
        let records = usize::try_from(self.unread_records)
            .unwrap_or(usize::MAX)
            .min((BATCH_BYTES / self.record_size).max(1));
        self.bytes.resize(records * self.record_size, 0);
        let found = read_full(&mut self.reader, &mut self.bytes)?;
        if found < self.bytes.len() {
            let whole = (found / self.record_size) as u64;
            return Err(SnapshotError::RecordsMissing {
                expected: self.header.records,
                found: self.header.records - self.unread_records + whole,
            });
        }
        self.batch.clear();
        for bytes in self.bytes.chunks_exact(self.record_size) {
            let record = decode_record(self.header.account.family, bytes)?;
            self.summed.add(&record.counters);
            self.batch.push(record);
        }
        self.unread_records -= records as u64;
        Ok(Some(&self.batch))
    }

    /// The source, to acknowledge the snapshot to.
    pub fn reader_mut(&mut self) -> &mut R {
        &mut self.reader
    }

    fn check_end(&mut self) -> Result<(), SnapshotError> {
        if read_full(&mut self.reader, &mut [0])? != 0 {
            return Err(SnapshotError::RecordsExcess(self.header.records));
        }
        let recorded = self.header.totals.recorded;
        for (unit, header, records) in [
            (Unit::Packets, recorded.packets, self.summed.packets),
            (Unit::Bytes, recorded.bytes, self.summed.bytes),
        ] {
            if u128::from(header) != records {
                return Err(SnapshotError::Recorded {
                    unit,
                    header,
                    records,
                });
            }
        }
        Ok(())
    }
}

/// The running sum over the records; wide, since a wrong snapshot may hold anything.
#[derive(Debug, Default)]
struct Sum {
    packets: u128,
    bytes: u128,
}

impl Sum {
    fn add(&mut self, counters: &Counters) {
        self.packets += u128::from(counters.sent_packets) + u128::from(counters.received_packets);
        self.bytes += u128::from(counters.sent_bytes) + u128::from(counters.received_bytes);
    }
}

/// Reads the header up to the first record; gives the size of a record too.
///
/// What an older module's header lacks is zero in the bytes and unknown in the header; what a
/// newer module appended is skipped.
fn read_header(reader: &mut impl Read) -> Result<(Header, usize), SnapshotError> {
    let mut bytes = [0; size_of::<SnapshotHeader>()];
    read_header_bytes(reader, &mut bytes[..LEAST_HEADER], (0, LEAST_HEADER))?;
    let raw: SnapshotHeader = zerocopy::transmute!(bytes);
    check_format(&raw)?;
    let size = usize::from(raw.header_size);
    let known = size.min(bytes.len());
    read_header_bytes(
        reader,
        &mut bytes[LEAST_HEADER..known],
        (LEAST_HEADER, size),
    )?;
    read_header_bytes(reader, &mut vec![0; size - known], (known, size))?;
    let header = decode_header(&zerocopy::transmute!(bytes))?;
    Ok((header, usize::from(raw.record_size)))
}

/// Reads a part of a header that has `size` bytes, behind the first `before`.
fn read_header_bytes(
    reader: &mut impl Read,
    part: &mut [u8],
    (before, size): (usize, usize),
) -> Result<(), SnapshotError> {
    let found = read_full(reader, part)?;
    if found < part.len() {
        return Err(SnapshotError::HeaderTruncated {
            found: before + found,
            expected: size,
        });
    }
    Ok(())
}

/// Reads until `bytes` is full or the source ends; gives how much was read.
fn read_full(reader: &mut impl Read, bytes: &mut [u8]) -> Result<usize, SnapshotError> {
    let mut filled = 0;
    while filled < bytes.len() {
        match reader.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SnapshotError::Read(error)),
        }
    }
    Ok(filled)
}
