// SPDX-License-Identifier: GPL-2.0-or-later
//! The fields that groups and sums are made by, as columns have them.

use jiff::tz::TimeZone;

use super::Value as Column;
use crate::query::{Field, Value};
use crate::store::StoreError;
use crate::time::timestamp;

/// What a column of a field has.
pub(super) fn value(field: Field, column: &Column) -> Result<Value, StoreError> {
    Ok(match field {
        Field::Protocol => Value::Protocol(column.small()?),
        Field::LocalPort | Field::RemotePort => Value::Port(column.small()?),
        Field::LocalIp | Field::RemoteIp => Value::Ip(column.address()?),
        Field::Account | Field::Host => Value::Name(column.text()?.to_owned()),
        Field::FiveMinutes | Field::Hour => Value::Time(timestamp(column.integer()?)),
        Field::Day => {
            // Local time, read as if it were UTC.
            let local = timestamp(column.integer()?);
            Value::Date(TimeZone::UTC.to_datetime(local).date())
        }
    })
}

/// The field that a rollup's column has.
pub(super) fn field(column: &str) -> Option<Field> {
    [
        Field::Protocol,
        Field::LocalIp,
        Field::RemoteIp,
        Field::LocalPort,
        Field::RemotePort,
    ]
    .into_iter()
    .find(|field| field.column() == column)
}
