// SPDX-License-Identifier: GPL-2.0-or-later
//! Points in time, as people write them on a command line.

use jiff::civil::DateTime;
use jiff::{Span, Timestamp, ZonedDateTime};

/// Parses a point in time: absolute, or so long before now.
///
/// - RFC 3339: `2026-01-31T12:00:00Z`
/// - local time: `2026-01-31 12:00`, `2026-01-31`
/// - before now: `90s`, `30m`, `2h`, `7d`, `4w`, `1d 12h`, and `now`
///
/// # Errors
/// One line that says what would be right.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    parse_at(text, &ZonedDateTime::now())
}

/// The same, before another moment than now.
///
/// # Errors
/// As [`parse`].
pub fn parse_at(text: &str, now: &ZonedDateTime) -> Result<Timestamp, String> {
    let text = text.trim();
    if text == "now" {
        return Ok(now.timestamp());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(local) = text.parse::<DateTime>() {
        return local
            .to_zoned_datetime(now.time_zone().clone())
            .map(|time| time.timestamp())
            .map_err(|error| error.to_string());
    }
    let span = text.parse::<Span>().map_err(|_| {
        "expected a time such as \"2026-01-31 12:00\", \"2026-01-31T12:00:00Z\", \
         or so long ago, such as 2h or 7d"
            .to_owned()
    })?;
    if span.is_negative() {
        return Err("a time before now is written without a sign, such as 2h".to_owned());
    }
    now.checked_sub(span)
        .map(|time| time.timestamp())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_noon_in_berlin(text: &str) -> Result<String, String> {
        let now: ZonedDateTime = "2026-03-30T12:00:00+02:00[Europe/Berlin]".parse().unwrap();
        parse_at(text, &now).map(|time| time.to_string())
    }

    #[test]
    fn rfc_3339_is_taken_as_it_is() {
        assert_eq!(
            at_noon_in_berlin("2026-01-31T12:00:00Z").unwrap(),
            "2026-01-31T12:00:00Z"
        );
        assert_eq!(
            at_noon_in_berlin("2026-01-31T12:00:00+01:00").unwrap(),
            "2026-01-31T11:00:00Z"
        );
    }

    #[test]
    fn time_without_a_zone_is_local() {
        for text in ["2026-01-31 12:00", "2026-01-31T12:00:00"] {
            assert_eq!(at_noon_in_berlin(text).unwrap(), "2026-01-31T11:00:00Z");
        }
        assert_eq!(
            at_noon_in_berlin("2026-01-31").unwrap(),
            "2026-01-30T23:00:00Z"
        );
    }

    #[test]
    fn length_of_time_counts_back_from_now() {
        for (text, expected) in [
            ("now", "2026-03-30T10:00:00Z"),
            ("90s", "2026-03-30T09:58:30Z"),
            ("30m", "2026-03-30T09:30:00Z"),
            ("2h", "2026-03-30T08:00:00Z"),
            ("1h 30m", "2026-03-30T08:30:00Z"),
        ] {
            assert_eq!(at_noon_in_berlin(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn days_are_calendar_days_of_the_local_zone() {
        // Summer time began on 29 March.
        assert_eq!(at_noon_in_berlin("2d").unwrap(), "2026-03-28T11:00:00Z");
        assert_eq!(at_noon_in_berlin("1w").unwrap(), "2026-03-23T11:00:00Z");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "yesterday",
            "2",
            "-2h",
            "2h ago later",
            "2026-13-01",
            "9999999y",
        ] {
            assert!(at_noon_in_berlin(text).is_err(), "{text:?}");
        }
    }
}
