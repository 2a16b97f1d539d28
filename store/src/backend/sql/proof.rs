// SPDX-License-Identifier: GPL-2.0-or-later
//! The proof that records are those of their header.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;

use crate::export::EpochReader;
use crate::snapshot::{Header, Record};
use crate::store::StoreError;

/// Shows records in batches.
pub(super) type EachBatch<'a> = &'a mut dyn FnMut(&[Record]) -> Result<(), StoreError>;

/// What proves that the records are those of their header, and tells them apart.
#[derive(Default)]
pub(super) struct Proof {
    digest: DefaultHasher,
    records: u64,
    packets: u128,
    bytes: u128,
}

impl Proof {
    pub(super) fn add(&mut self, records: &[Record]) {
        for record in records {
            let counters = &record.counters;
            (record.protocol, record.local, record.remote, record.flags).hash(&mut self.digest);
            counters
                .columns()
                .map(|(_, value)| value)
                .hash(&mut self.digest);
            self.packets +=
                u128::from(counters.sent_packets) + u128::from(counters.received_packets);
            self.bytes += u128::from(counters.sent_bytes) + u128::from(counters.received_bytes);
        }
        self.records += records.len() as u64;
    }

    /// The digest, if the sums hold.
    pub(super) fn finish(self, header: &Header) -> Result<u64, StoreError> {
        let recorded = header.totals.recorded;
        let expected = (
            header.records,
            u128::from(recorded.packets),
            u128::from(recorded.bytes),
        );
        if (self.records, self.packets, self.bytes) == expected {
            return Ok(self.digest.finish());
        }
        Err(StoreError::Corrupt(format!(
            "epoch {} of account {} has {} records of {} packets and {} bytes, but should have \
             {} of {} and {}",
            header.epoch,
            header.account,
            self.records,
            self.packets,
            self.bytes,
            header.records,
            recorded.packets,
            recorded.bytes
        )))
    }
}

/// Shows the records of the epoch that a file has next, proves them and gives their digest.
pub(super) fn read_epoch<R: Read>(
    reader: &mut EpochReader<R>,
    header: &Header,
    each: EachBatch<'_>,
) -> Result<u64, StoreError> {
    let mut proof = Proof::default();
    reader.records(|records| {
        proof.add(records);
        each(records)
    })?;
    proof.finish(header)
}
