// SPDX-License-Identifier: GPL-2.0-or-later
//! How long a capture's epochs may be for an answer by time to be exact.

use std::time::Duration;

use trafstat_store::query::{Field, Query};

/// Days begin at a full quarter of an hour, UTC, in every time zone.
const QUARTER: u64 = 900;

/// The longest epochs that end where a query's periods do, at multiples of their length; none
/// where it does not ask for times.
pub(super) fn needed(query: &Query) -> Option<Duration> {
    let periods = query.by.iter().filter_map(|field| match field {
        Field::FiveMinutes => Some(300),
        Field::Hour => Some(3600),
        Field::Day => Some(QUARTER),
        _ => None,
    });
    let cuts = [query.filter.since, query.filter.until];
    let cuts = cuts.into_iter().flatten().map(|time| {
        match time.subsec_nanosecond() {
            0 => time.as_second().unsigned_abs(),
            // Epochs have a second or more.
            _ => 1,
        }
    });
    let seconds = periods.chain(cuts).reduce(greatest_common_divisor)?;
    // A time alone is a multiple of itself.
    let seconds = greatest_common_divisor(seconds, 3600);
    Some(Duration::from_secs(seconds.max(1)))
}

/// Whether epochs of a length end wherever those of another do.
pub(super) fn divides(length: Duration, other: Duration) -> bool {
    length.as_nanos() > 0 && other.as_nanos().is_multiple_of(length.as_nanos())
}

fn greatest_common_divisor(one: u64, other: u64) -> u64 {
    match other {
        0 => one,
        _ => greatest_common_divisor(other, one % other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(by: &[Field], since: Option<&str>) -> Option<u64> {
        let mut query = Query {
            by: by.to_vec(),
            ..Query::default()
        };
        query.filter.since = since.map(|time| time.parse().unwrap());
        needed(&query).map(|length| length.as_secs())
    }

    #[test]
    fn epochs_end_where_periods_and_cuts_do() {
        assert_eq!(seconds(&[Field::LocalIp], None), None);
        assert_eq!(
            seconds(&[Field::FiveMinutes, Field::LocalIp], None),
            Some(300)
        );
        assert_eq!(seconds(&[Field::Hour], None), Some(3600));
        assert_eq!(seconds(&[Field::Hour, Field::Day], None), Some(900));
        assert_eq!(seconds(&[], Some("2026-06-15T12:00:00Z")), Some(3600));
        assert_eq!(
            seconds(&[Field::Hour], Some("2026-06-15T12:34:00Z")),
            Some(120)
        );
        assert_eq!(seconds(&[], Some("2026-06-15T12:34:05.5Z")), Some(1));
    }

    #[test]
    fn shorter_epochs_answer_too() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert!(divides(minutes(5), minutes(60)));
        assert!(!divides(minutes(7), minutes(60)));
        assert!(!divides(minutes(60), minutes(5)));
    }
}
