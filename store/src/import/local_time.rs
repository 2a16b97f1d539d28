// SPDX-License-Identifier: GPL-2.0-or-later
//! Local times of a file's rows, which are in the order in which they were stored.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

/// Reads one local time after the other.
#[derive(Debug)]
pub(super) struct LocalTimes {
    zone: TimeZone,
    /// The last time that was read.
    last: Option<Timestamp>,
}

impl LocalTimes {
    pub(super) fn new(zone: TimeZone) -> Self {
        Self { zone, last: None }
    }

    /// The point in time that a text such as `2024-01-31 12:00:00` means.
    ///
    /// A time that comes twice, because summer time ends, means the first of both unless a row
    /// before it was later than that. A time that the clock skips is read as if it had not.
    pub(super) fn read(&mut self, text: &str) -> Result<Timestamp, String> {
        let local: DateTime = text
            .parse()
            .map_err(|_| format!("{text:?} is no time such as 2024-01-31 12:00:00"))?;
        let ambiguous = self.zone.to_ambiguous_timestamp(local);
        let is_twice = matches!(ambiguous.offset(), AmbiguousOffset::Fold { .. });
        let first = ambiguous.compatible().map_err(|error| error.to_string())?;
        let time = match self.last {
            Some(last) if is_twice && first < last => {
                ambiguous.later().map_err(|error| error.to_string())?
            }
            _ => first,
        };
        self.last = Some(time);
        Ok(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(zone: &str, texts: &[&str]) -> Vec<String> {
        let mut times = LocalTimes::new(TimeZone::get(zone).unwrap());
        let times = texts.iter().map(|text| times.read(text).unwrap());
        times
            .map(|time| time.strftime("%H:%M").to_string())
            .collect()
    }

    #[test]
    fn hour_that_comes_twice_is_told_by_order() {
        let texts = [
            "2026-10-25 01:30:00",
            "2026-10-25 02:00:00",
            "2026-10-25 02:30:00",
            "2026-10-25 02:30:00",
            "2026-10-25 02:00:00",
            "2026-10-25 02:00:00",
            "2026-10-25 02:30:00",
            "2026-10-25 03:00:00",
        ];
        let expected = [
            "23:30", "00:00", "00:30", "00:30", "01:00", "01:00", "01:30", "02:00",
        ];
        assert_eq!(read("Europe/Berlin", &texts), expected);
        // Where summer time is half an hour.
        let texts = [
            "2026-04-05 01:20:00",
            "2026-04-05 01:50:00",
            "2026-04-05 01:40:00",
        ];
        assert_eq!(
            read("Australia/Lord_Howe", &texts),
            ["14:20", "14:50", "15:10"]
        );
    }

    #[test]
    fn rows_out_of_order_do_not_move_times_that_come_once() {
        let texts = ["2026-10-26 12:00:00", "2026-10-26 11:00:00"];
        assert_eq!(read("Europe/Berlin", &texts), ["11:00", "10:00"]);
        // The clock goes from 02:00 to 03:00.
        assert_eq!(read("Europe/Berlin", &["2026-03-29 02:30:00"]), ["01:30"]);
    }
}
