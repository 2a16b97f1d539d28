// SPDX-License-Identifier: GPL-2.0-or-later
//! The original's files: what it served, and what its rotation wrote.
//!
//! - `/proc/trafstat/A.B.C.D_X` as a file: ten numbers a line, separated by commas:
//!   protocol, local IP, remote IP, local port, remote port, local packets, remote packets,
//!   local bytes, remote bytes, SYN count.
//! - `SELECT * ... INTO OUTFILE`: the same separated by tabs, `\N` for NULL, with the row's
//!   number before or behind and the time at which it was stored, in local time. The hour
//!   that comes twice when summer time ends is told by the order of the rows.
//!
//! Either may be compressed with gzip, zstd or xz.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use jiff::tz::TimeZone;
use thiserror::Error;
use trafstat_capture::unpacked;

use super::local_time::LocalTimes;
use super::{COLUMNS, OriginalAccount, Row};

/// Why a file cannot be read.
#[derive(Debug, Error)]
pub enum FileError {
    /// The system failed, or the file is not what it says.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A line is none of the original's.
    #[error("{}, line {line}: {reason}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// The account that a file or table of the original is named after: `A.B.C.D_X`,
/// `trafstat_A_B_C_D_X`, `trafstat_A_B_C_D_X_2024_01_07-04:22.gz`; without `_X`, one
/// address.
pub fn original_account(name: &str) -> Option<OriginalAccount> {
    let name = name.strip_prefix("trafstat_").unwrap_or(name);
    let numbers: Vec<u32> = name
        .split(['_', '.', '-', ':'])
        .map_while(|part| part.parse().ok())
        .collect();
    let octet = |at: usize| u8::try_from(*numbers.get(at)?).ok();
    let address = Ipv4Addr::new(octet(0)?, octet(1)?, octet(2)?, octet(3)?);
    let prefix_len = match numbers.get(4) {
        // The year of a rotated file.
        Some(year) if *year > 32 => 32,
        Some(length) => u8::try_from(*length).ok()?,
        None => 32,
    };
    let local_net = Ipv4Net::new(address, prefix_len).ok()?;
    Some(OriginalAccount {
        name: format!("{address}_{prefix_len}").parse().ok()?,
        local_net,
    })
}

/// The rows of a file, in its order.
///
/// # Errors
/// That it cannot be opened.
pub fn rows_of_file(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Row, FileError>> + use<>, FileError> {
    let file = File::open(path).map_err(|source| FileError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    rows(file, path)
}

/// The rows of what a file at `path` has, in its order.
///
/// # Errors
/// That it cannot be read.
pub fn rows<R: Read + 'static>(
    file: R,
    path: &Path,
) -> Result<impl Iterator<Item = Result<Row, FileError>> + use<R>, FileError> {
    let read_error = {
        let path = path.to_path_buf();
        move |source| FileError::Read {
            path: path.clone(),
            source,
        }
    };
    let reader = BufReader::new(unpacked(file).map_err(&read_error)?);
    let mut times = LocalTimes::new(TimeZone::system());
    let path = path.to_path_buf();
    Ok(lines(reader).zip(1..).filter_map(move |(text, line)| {
        let text = match text {
            Ok(text) => text,
            Err(source) => return Some(Err(read_error(source))),
        };
        if text.is_empty() {
            return None;
        }
        Some(parse(&text, &mut times).map_err(|reason| FileError::Line {
            path: path.clone(),
            line,
            reason,
        }))
    }))
}

/// Longer than any line of the original's; what is longer is something else.
const LONGEST_LINE: u64 = 4096;

/// Lines without their ends, never more than [`LONGEST_LINE`] of one in memory.
fn lines(mut reader: impl BufRead) -> impl Iterator<Item = io::Result<String>> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut line = String::new();
        match reader.by_ref().take(LONGEST_LINE).read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(Ok(line.trim_ascii_end().to_owned())),
            Err(error) => {
                ended = true;
                Some(Err(error))
            }
        }
    })
}

fn parse(line: &str, times: &mut LocalTimes) -> Result<Row, String> {
    let separator = if line.contains('\t') { '\t' } else { ',' };
    let fields: Vec<&str> = line.split(separator).collect();
    let (counts, stored) = match fields.len() {
        10 => (&fields[..], None),
        // Number of the row first, as the original's scripts make the table, or last, as
        // its trafstat.sql does.
        12 if is_time(fields[11]) => (&fields[1..11], Some(fields[11])),
        12 if is_time(fields[10]) => (&fields[..10], Some(fields[10])),
        found => {
            return Err(format!(
                "{found} fields, expected ten numbers separated by commas, or twelve \
                 columns of a trafstat table separated by tabs"
            ));
        }
    };
    let stored = stored.map(|text| times.read(text)).transpose()?;
    let mut numbers = [0; COLUMNS.len()];
    for ((number, text), column) in numbers.iter_mut().zip(counts).zip(COLUMNS) {
        *number = match *text {
            r"\N" => 0,
            text => text
                .parse()
                .map_err(|_| format!("{column} is {text:?}, no number"))?,
        };
    }
    Row::new(numbers, stored)
}

fn is_time(text: &str) -> bool {
    text.contains(['-', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> Option<(String, String)> {
        let account = original_account(name)?;
        Some((
            account.name.as_str().to_owned(),
            account.local_net.to_string(),
        ))
    }

    #[test]
    fn files_and_tables_are_named_after_their_account() {
        let lan = Some(("192.0.2.0_24".to_owned(), "192.0.2.0/24".to_owned()));
        for name in [
            "192.0.2.0_24",
            "trafstat_192_0_2_0_24",
            "trafstat_192_0_2_0_24_2024_01_07-04:22",
            "trafstat_192_0_2_0_24_2024_01_07-04:22.gz",
            "192.0.2.0_24.csv",
        ] {
            assert_eq!(account(name), lan, "{name}");
        }
        let host = Some(("192.0.2.1_32".to_owned(), "192.0.2.1/32".to_owned()));
        for name in [
            "192.0.2.1",
            "trafstat_192_0_2_1",
            "trafstat_192_0_2_1_2024_01_07-04:22",
        ] {
            assert_eq!(account(name), host, "{name}");
        }
        for name in [
            "trafstat",
            "protocols",
            "192.0.2",
            "192.0.2.256_32",
            "x; DROP TABLE",
        ] {
            assert_eq!(account(name), None, "{name}");
        }
    }

    #[test]
    fn rows_are_read_in_all_three_forms() {
        let mut utc = LocalTimes::new(TimeZone::UTC);
        let counts = "17,3232235891,3232235777,123,0,6,7,351,660,0";
        let tabbed = counts.replace(',', "\t");
        for line in [
            counts.to_owned(),
            format!("5\t{tabbed}\t2024-01-31 12:00:00"),
            format!("{tabbed}\t2024-01-31 12:00:00\t5"),
        ] {
            let row = parse(&line, &mut utc).unwrap();
            assert_eq!(row.record.local_ip, [192, 168, 1, 115]);
            assert_eq!(row.record.remote_ip, [192, 168, 1, 1]);
            assert_eq!(row.record.local_port, 123);
            assert_eq!(
                (row.record.sent_packets, row.record.received_bytes),
                (6, 660)
            );
            if line.contains('\t') {
                assert_eq!(row.stored.unwrap().to_string(), "2024-01-31T12:00:00Z");
            }
        }
        let null = parse(&counts.replace("123", r"\N"), &mut utc).unwrap();
        assert_eq!(null.record.local_port, 0);
    }

    #[test]
    fn wrong_line_is_refused_with_its_column() {
        for (line, expected) in [
            ("17,3232235891", "2 fields"),
            ("256,1,1,0,0,1,1,1,1,0", "protocol is 256"),
            ("6,1,4294967296,0,0,1,1,1,1,0", "remote_ip"),
            ("6,1,1,65536,0,1,1,1,1,0", "local_port"),
            ("6,1,1,0,0,-1,1,1,1,0", "local_pkt"),
            ("1\t6\t1\t1\t0\t0\t1\t1\t1\t1\t0\tyesterday-ish", "no time"),
        ] {
            let error = parse(line, &mut LocalTimes::new(TimeZone::UTC)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
