// SPDX-License-Identifier: GPL-2.0-or-later
//! The later fields of a header as columns of its snapshot: all NULL where they are unknown.

use super::{Value, signed};
use crate::snapshot::{Growth, Sample, Volume};
use crate::store::StoreError;

/// The values of [`Growth::COLUMNS`].
pub(super) fn values(growth: Option<&Growth>) -> Result<Vec<Value>, StoreError> {
    let Some(growth) = growth else {
        return Ok(vec![Value::Null; Growth::COLUMNS.len()]);
    };
    let count = |what, count| signed(what, count).map(Value::from);
    let mut values = vec![
        count("the duration", growth.duration_ns)?,
        count("unattributed packets", growth.unattributed.packets)?,
        count("unattributed bytes", growth.unattributed.bytes)?,
    ];
    for sample in &growth.samples {
        values.extend([
            count("sampled packets", sample.packets)?,
            Value::Real(sample.packet_variance as f64),
            Value::Real(sample.byte_variance as f64),
            i64::from(sample.highest_rate).into(),
        ]);
    }
    Ok(values)
}

/// The fields from a row that has [`Growth::COLUMNS`] from `first` on.
pub(super) fn read(row: &[Value], first: usize) -> Result<Option<Growth>, StoreError> {
    let columns = &row[first..first + Growth::COLUMNS.len()];
    if columns.contains(&Value::Null) {
        return Ok(None);
    }
    let mut growth = Growth {
        duration_ns: columns[0].unsigned()?,
        unattributed: Volume {
            packets: columns[1].unsigned()?,
            bytes: columns[2].unsigned()?,
        },
        ..Growth::default()
    };
    for (sample, columns) in growth.samples.iter_mut().zip(columns[3..].chunks_exact(4)) {
        // What a double holds of 128 bits becomes the same double again.
        *sample = Sample {
            packets: columns[0].unsigned()?,
            packet_variance: columns[1].real()? as u128,
            byte_variance: columns[2].real()? as u128,
            highest_rate: columns[3].small()?,
        };
    }
    Ok(Some(growth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variances_of_128_bits_keep_what_a_double_holds() {
        let sample = |packet_variance, byte_variance| Sample {
            packets: 3,
            packet_variance,
            byte_variance,
            highest_rate: u32::MAX,
        };
        let growth = Growth {
            duration_ns: 1,
            unattributed: Volume {
                packets: 2,
                bytes: 3,
            },
            samples: [sample(0, 270), sample(1 << 100, u128::MAX), sample(7, 8)],
        };
        let once = read(&values(Some(&growth)).unwrap(), 0).unwrap();
        assert_eq!(once, Some(growth));
        let uneven = Growth {
            samples: [sample((1 << 100) + 1, u128::MAX / 3); 3],
            ..growth
        };
        let once = read(&values(Some(&uneven)).unwrap(), 0).unwrap().unwrap();
        let [read_back, ..] = once.samples;
        assert_eq!(read_back.packet_variance, 1 << 100);
        let twice = read(&values(Some(&once)).unwrap(), 0).unwrap();
        assert_eq!(twice, Some(once));
    }

    #[test]
    fn unknown_is_null_and_not_0() {
        assert_eq!(
            values(None).unwrap(),
            vec![Value::Null; Growth::COLUMNS.len()]
        );
        assert_eq!(read(&values(None).unwrap(), 0).unwrap(), None);
        let nothing = Some(Growth::default());
        assert_eq!(
            read(&values(nothing.as_ref()).unwrap(), 0).unwrap(),
            nothing
        );
    }
}
