// SPDX-License-Identifier: GPL-2.0-or-later
//! The days and months that reports are about.

use std::str::FromStr;

use anyhow::{Context, Result};
use clap::ValueEnum;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ZonedDateTime};
use trafstat_store::query::{Field, Value};

const OUTSIDE: &str = "that is outside of the calendar";

/// How long a period is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Length {
    /// A day, midnight to midnight.
    Day,
    /// A month of the calendar.
    Month,
}

/// Which of the days or months.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The last one that is over.
    Last,
    /// The one that is not over yet.
    Current,
    /// The one that has this day.
    Of(Date),
}

/// A day or a month of the calendar, in one time zone.
#[derive(Debug, Clone, PartialEq)]
pub struct Period {
    length: Length,
    /// Its first day.
    first: Date,
    zone: TimeZone,
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "last" => Ok(Self::Last),
            "current" => Ok(Self::Current),
            _ => text
                .parse()
                .or_else(|_| format!("{text}-01").parse())
                .map(Self::Of)
                .map_err(|_| {
                    "expected a day such as 2026-01-31, a month such as 2026-01, last or current"
                        .to_owned()
                }),
        }
    }
}

impl Length {
    fn span(self) -> Span {
        match self {
            Self::Day => Span::new().days(1),
            Self::Month => Span::new().months(1),
        }
    }
}

impl Period {
    /// The period that is meant at this time, in its zone.
    ///
    /// # Errors
    /// It is outside of the calendar.
    pub fn new(length: Length, which: Which, now: &ZonedDateTime) -> Result<Self> {
        let day = match which {
            Which::Of(day) => day,
            Which::Last | Which::Current => now.date(),
        };
        let current = Self {
            length,
            first: match length {
                Length::Day => day,
                Length::Month => day.first_of_month(),
            },
            zone: now.time_zone().clone(),
        };
        match which {
            Which::Last => current.previous(),
            Which::Current | Which::Of(_) => Ok(current),
        }
    }

    /// The one before.
    ///
    /// # Errors
    /// It is outside of the calendar.
    pub fn previous(&self) -> Result<Self> {
        self.moved(-self.length.span())
    }

    /// When it begins.
    ///
    /// # Errors
    /// It is outside of the calendar.
    pub fn begin(&self) -> Result<Timestamp> {
        begin(self.first, &self.zone)
    }

    /// When the next one begins.
    ///
    /// # Errors
    /// It is outside of the calendar.
    pub fn end(&self) -> Result<Timestamp> {
        self.moved(self.length.span())?.begin()
    }

    /// When its hours begin, UTC's, or the days of a month.
    ///
    /// In a zone that is not whole hours from UTC, the first and the last hour of a day are a
    /// part of one each.
    ///
    /// # Errors
    /// They are outside of the calendar.
    pub fn steps(&self) -> Result<Vec<Timestamp>> {
        let (mut steps, end) = (vec![self.begin()?], self.end()?);
        let mut date = self.first;
        loop {
            let last = steps[steps.len() - 1];
            let next = match self.length {
                Length::Day => {
                    let hours = last.as_second().div_euclid(3600);
                    Timestamp::from_second((hours + 1) * 3600)?
                }
                Length::Month => {
                    date = date.tomorrow().context(OUTSIDE)?;
                    begin(date, &self.zone)?
                }
            };
            if next >= end {
                return Ok(steps);
            }
            steps.push(next);
        }
    }

    /// Its name: `2026-01-31` or `2026-01`.
    pub fn name(&self) -> String {
        match self.length {
            Length::Day => self.first.to_string(),
            Length::Month => self.first.strftime("%Y-%m").to_string(),
        }
    }

    /// What a step of it is called: `13:00`, or the day's number.
    pub fn step_name(&self, step: Timestamp) -> String {
        let time = step.to_zoned_datetime(self.zone.clone());
        match self.length {
            Length::Day => time.strftime("%H:%M").to_string(),
            Length::Month => time.strftime("%-d").to_string(),
        }
    }

    /// What its steps are.
    pub fn step_field(&self) -> Field {
        match self.length {
            Length::Day => Field::Hour,
            Length::Month => Field::Day,
        }
    }

    /// When the time or the day begins that a key begins with.
    pub fn time_of(&self, key: &[Value]) -> Option<Timestamp> {
        match key.first()? {
            Value::Time(time) => Some(*time),
            Value::Date(date) => begin(*date, &self.zone).ok(),
            _ => None,
        }
    }

    /// The time zone that it is in.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// How long it is.
    pub fn length(&self) -> Length {
        self.length
    }

    fn moved(&self, by: Span) -> Result<Self> {
        Ok(Self {
            first: self.first.checked_add(by).context(OUTSIDE)?,
            ..self.clone()
        })
    }
}

fn begin(day: Date, zone: &TimeZone) -> Result<Timestamp> {
    let midnight = day.to_zoned_datetime(zone.clone()).context(OUTSIDE)?;
    Ok(midnight.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(length: Length, which: &str) -> Period {
        let now = "2026-03-30T12:00:00+02:00[Europe/Berlin]".parse().unwrap();
        Period::new(length, which.parse().unwrap(), &now).unwrap()
    }

    #[test]
    fn last_is_over_and_current_is_not() {
        for (length, which, name, previous) in [
            (Length::Day, "last", "2026-03-29", "2026-03-28"),
            (Length::Day, "current", "2026-03-30", "2026-03-29"),
            (Length::Day, "2026-01-01", "2026-01-01", "2025-12-31"),
            (Length::Month, "last", "2026-02", "2026-01"),
            (Length::Month, "current", "2026-03", "2026-02"),
            (Length::Month, "2024-02", "2024-02", "2024-01"),
            (Length::Month, "2024-02-29", "2024-02", "2024-01"),
        ] {
            let period = period(length, which);
            assert_eq!(period.name(), name);
            assert_eq!(period.previous().unwrap().name(), previous);
        }
        for text in ["", "yesterday", "2026", "2026-13", "2026-02-30"] {
            assert!(text.parse::<Which>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn day_has_the_hours_that_clocks_show() {
        // Summer time begins.
        let spring = period(Length::Day, "2026-03-29");
        assert_eq!(spring.steps().unwrap().len(), 23);
        assert_eq!(spring.begin().unwrap().to_string(), "2026-03-28T23:00:00Z");
        assert_eq!(spring.end().unwrap().to_string(), "2026-03-29T22:00:00Z");
        assert_eq!(period(Length::Day, "2026-10-25").steps().unwrap().len(), 25);
    }

    #[test]
    fn month_has_its_days() {
        let steps = period(Length::Month, "2024-02").steps().unwrap();
        assert_eq!(steps.len(), 29);
        assert_eq!(period(Length::Month, "2024-02").step_name(steps[28]), "29");
    }
}
