// SPDX-License-Identifier: GPL-2.0-or-later
//! Sends records by `LOAD DATA LOCAL`: as lines of a file that the server asks for.

use std::io::Write;
use std::net::IpAddr;

use mysql::LocalInfileHandler;
use mysql::prelude::Queryable;

use super::connection::Mysql;
use super::schema::RECORD_COLUMNS;
use crate::backend::sql::{SnapshotKey, counter_values};
use crate::snapshot::Record;
use crate::store::StoreError;

impl Mysql {
    /// Sends records as a file that the server asks this process for.
    pub(super) fn load_records(
        &mut self,
        snapshot: SnapshotKey,
        first: i64,
        records: &[Record],
    ) -> Result<(), StoreError> {
        let mut lines = Vec::with_capacity(records.len() * 80);
        for (record, number) in records.iter().zip(first..) {
            push_line(&mut lines, snapshot, number, record)?;
        }
        let expected = records.len() as u64;
        self.run(|connection| {
            connection.set_local_infile_handler(Some(LocalInfileHandler::new(move |_, writer| {
                writer.write_all(&lines).and_then(|()| writer.flush())
            })));
            let loaded = connection.query_drop(format!(
                "LOAD DATA LOCAL INFILE 'records' INTO TABLE record CHARACTER SET binary
                 FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n'
                 ({RECORD_COLUMNS})"
            ));
            connection.set_local_infile_handler(None);
            loaded?;
            // With LOCAL, a row that does not fit is no error but a warning.
            let (inserted, warnings) = (connection.affected_rows(), connection.warnings());
            if (inserted, warnings) != (expected, 0) {
                return Err(StoreError::Database(
                    format!(
                        "of {expected} records the server took {inserted} with {warnings} warnings"
                    )
                    .into(),
                ));
            }
            Ok(())
        })
    }
}

/// One record as a line of `LOAD DATA`: columns between tabs.
fn push_line(
    lines: &mut Vec<u8>,
    snapshot: SnapshotKey,
    number: i64,
    record: &Record,
) -> Result<(), StoreError> {
    let SnapshotKey {
        host_id,
        account_id,
        epoch,
    } = snapshot;
    let counters = counter_values(&record.counters)?;
    push_text(
        lines,
        format_args!(
            "{host_id}\t{account_id}\t{epoch}\t{number}\t{}\t",
            record.protocol
        ),
    );
    for side in [&record.local, &record.remote] {
        match side.ip {
            IpAddr::V4(ip) => push_escaped(lines, &ip.octets()),
            IpAddr::V6(ip) => push_escaped(lines, &ip.octets()),
        }
        push_text(lines, format_args!("\t{}\t", side.port));
    }
    let [
        sent_packets,
        received_packets,
        sent_bytes,
        received_bytes,
        syn_packets,
    ] = counters;
    push_text(
        lines,
        format_args!(
            "{}\t{sent_packets}\t{received_packets}\t{sent_bytes}\t{received_bytes}\t{syn_packets}\n",
            record.flags
        ),
    );
    Ok(())
}

fn push_text(lines: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A vector takes whatever is written to it.
    let _ = lines.write_fmt(text);
}

/// Bytes that would end a column or a line, or escape, are escaped.
fn push_escaped(lines: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            0 => lines.extend(b"\\0"),
            b'\t' | b'\n' | b'\\' => lines.extend([b'\\', byte]),
            _ => lines.push(byte),
        }
    }
}
