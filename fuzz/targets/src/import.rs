// SPDX-License-Identifier: GPL-2.0-or-later
//! Any bytes as a file of the original's, compressed or not: a row has what can be stored,
//! and a wrong line is named.

use std::io::Cursor;
use std::path::Path;

use trafstat_store::import::{FileError, original_account, rows};

/// Rows that compressed input may unpack to.
const MAX_ROWS: usize = 1 << 14;
/// So that no sum over rows overflows.
const MAX_COUNT: u64 = 1 << 48;

/// Runs one input.
pub fn run(bytes: &[u8]) {
    if let Ok(name) = std::str::from_utf8(bytes)
        && let Some(account) = original_account(name)
    {
        let again = original_account(account.name.as_str());
        assert_eq!(again, Some(account));
    }
    let Ok(rows) = rows(Cursor::new(bytes.to_vec()), Path::new("a.csv")) else {
        return;
    };
    for row in rows.take(MAX_ROWS) {
        match row {
            Ok(row) => {
                let record = row.record;
                for count in [
                    record.sent_packets,
                    record.received_packets,
                    record.sent_bytes,
                    record.received_bytes,
                    record.syn_packets,
                ] {
                    assert!(count <= MAX_COUNT, "{record:?}");
                }
            }
            Err(FileError::Line { line, .. }) => assert!(line > 0),
            Err(FileError::Read { .. }) => {}
        }
    }
}
