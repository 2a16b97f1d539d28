// SPDX-License-Identifier: GPL-2.0-or-later
//! From when on the rows of each level are there.

use super::rollup::{Period, Rollup};
use super::{Database, Value};
use crate::store::StoreError;

/// The level of what an older version has no sums by: local address and service together.
pub(super) const LOCAL_SERVICE_LEVEL: &str = "local_service";

/// Until when epochs count at the time at which they closed, as an older version had it.
pub(super) const CLOSED_LEVEL: &str = "closed";

/// From when on the rows of each level are there, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    records: i64,
    quarters: i64,
    hours: i64,
    days: i64,
    months: i64,
    /// Those by local address and service together are of a later version than others.
    local_service: i64,
    /// Until when epochs without records count at the time at which they closed.
    pub(super) closed: i64,
}

impl Default for Kept {
    /// Everything.
    fn default() -> Self {
        Self {
            records: i64::MIN,
            quarters: i64::MIN,
            hours: i64::MIN,
            days: i64::MIN,
            months: i64::MIN,
            local_service: i64::MIN,
            closed: i64::MIN,
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
                "quarter" => kept.quarters = since,
                "hour" => kept.hours = since,
                "day" => kept.days = since,
                "month" => kept.months = since,
                LOCAL_SERVICE_LEVEL => kept.local_service = since,
                CLOSED_LEVEL => kept.closed = since,
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
        let Some(rollup) = table else {
            return self.records;
        };
        let since = self.period_since(rollup.period);
        match rollup.is_local_service() {
            true => since.max(rollup.period.up(self.local_service)),
            false => since,
        }
    }

    /// From when on sums over periods of a length were not deleted.
    pub(super) fn period_since(&self, period: Period) -> i64 {
        match period {
            Period::Quarter => self.quarters,
            Period::Hour => self.hours,
            Period::Day => self.days,
            Period::Month => self.months,
        }
    }

    #[cfg(test)]
    pub(super) fn without(records: i64, quarters: i64, hours: i64) -> Self {
        Self {
            records,
            quarters,
            hours,
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
