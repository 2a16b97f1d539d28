// SPDX-License-Identifier: GPL-2.0-or-later
//! From when on the rows of each level are there.

#[cfg(test)]
use jiff::Timestamp;

#[cfg(test)]
use super::nanoseconds;
use super::rollup::{Period, Rollup};
use super::{Database, Value};
use crate::store::StoreError;

/// From when on the rows of each level are there, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    records: i64,
    hours: i64,
    days: i64,
    months: i64,
}

impl Default for Kept {
    /// Everything.
    fn default() -> Self {
        Self {
            records: i64::MIN,
            hours: i64::MIN,
            days: i64::MIN,
            months: i64::MIN,
        }
    }
}

impl Kept {
    pub(super) fn read<D: Database>(database: &mut D) -> Result<Self, StoreError> {
        let mut kept = Self::default();
        database.select("SELECT level, since_ns FROM kept", &[], &mut |row| {
            let since = row[1].integer()?;
            match row[0].text()? {
                "record" => kept.records = since,
                "hour" => kept.hours = since,
                "day" => kept.days = since,
                "month" => kept.months = since,
                other => {
                    return Err(StoreError::Corrupt(format!("kept has level {other:?}")));
                }
            }
            Ok(())
        })?;
        Ok(kept)
    }

    /// From when on a table has its rows.
    pub(super) fn since(&self, table: Option<Rollup>) -> i64 {
        match table {
            None => self.records,
            Some(rollup) => self.since_period(rollup.period),
        }
    }

    /// From when on the sums over a period are there.
    pub(super) fn since_period(&self, period: Period) -> i64 {
        match period {
            Period::Hour => self.hours,
            Period::Day => self.days,
            Period::Month => self.months,
        }
    }

    #[cfg(test)]
    pub(super) fn records_since(time: Timestamp) -> Self {
        Self {
            records: nanoseconds(time),
            ..Self::default()
        }
    }
}

/// Notes that a level has no rows before a time.
pub(super) fn raise<D: Database>(
    database: &mut D,
    level: &str,
    since_ns: i64,
) -> Result<(), StoreError> {
    database.execute(
        &format!(
            "{} INTO kept (level, since_ns) VALUES (?, ?)",
            D::DIALECT.insert_ignore
        ),
        &[level.into(), since_ns.into()],
    )?;
    database.execute(
        "UPDATE kept SET since_ns = ? WHERE level = ? AND since_ns < ?",
        &[since_ns.into(), Value::from(level), since_ns.into()],
    )?;
    Ok(())
}
