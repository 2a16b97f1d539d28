// SPDX-License-Identifier: GPL-2.0-or-later
//! The schema in MySQL's words.

use std::ops::RangeInclusive;

use crate::backend::sql::schema;

/// What brings the schema from each version to the next.
pub(super) const MIGRATIONS: [&str; 4] = [
    include_str!("0001_initial.sql"),
    include_str!("0002_host_boot.sql"),
    include_str!("0003_sampling.sql"),
    include_str!("0004_exact_history.sql"),
];

pub(super) const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// The first version of which programs work with a database that is a version older or newer.
const FIRST_SHARED: i64 = 3;

/// The versions to which this program appends: its own, and the one before, which it leaves as it
/// is. So the hosts of a shared database are upgraded one after the other, and the database last.
pub(super) const APPENDED: RangeInclusive<i64> = if SCHEMA_VERSION > FIRST_SHARED {
    SCHEMA_VERSION - 1..=SCHEMA_VERSION
} else {
    SCHEMA_VERSION..=SCHEMA_VERSION
};

/// The newest version that this program reads: a migration adds to the one before.
pub(super) const NEWEST_READ: i64 = SCHEMA_VERSION + 1;

/// The tables that a check reads.
pub(super) const TABLES: [&str; 16] = [
    "host",
    "host_boot",
    "account",
    "snapshot",
    "record",
    "local_hourly",
    "local_daily",
    "service_hourly",
    "service_daily",
    "local_service_quarterly",
    "local_service_hourly",
    "local_service_daily",
    "remote_monthly",
    "remote_part",
    "record_deletion",
    "restore_progress",
];

/// Which records `r` are those of snapshot `s`; what is left of those that are being deleted is
/// none of them.
pub(super) const RECORDS_OF_SNAPSHOT: &str = "r.host_id = s.host_id AND r.account_id = s.account_id AND r.epoch = s.epoch \
     AND s.first_record IS NOT NULL";

/// The columns of a record.
pub(super) const RECORD_COLUMNS: &str = "host_id, account_id, epoch, number, protocol, local_ip, local_port, \
     remote_ip, remote_port, flags, sent_packets, received_packets, sent_bytes, received_bytes, \
     syn_packets";

/// How many [`RECORD_COLUMNS`] are.
pub(super) const RECORD_COLUMN_COUNT: usize = 15;

/// The words in which the views are written.
pub(super) const VIEW_WORDS: schema::ViewWords = schema::ViewWords {
    ip_text: |column| format!("INET6_NTOA({column})"),
    ipv4_number: |column| format!("INET_ATON(INET6_NTOA({column}))"),
    // The record's key as one number; imported epochs have numbers of 63 bits.
    record_id: "(((CAST(r.host_id AS DECIMAL(65)) * 4294967296 + r.account_id) \
         * 9223372036854775808 + r.epoch) * 4294967296 + r.number)",
    // Not FROM_UNIXTIME(), which goes by the session's time zone.
    time: |seconds| format!("(TIMESTAMP'1970-01-01 00:00:00' + INTERVAL {seconds} SECOND)"),
    original_time: |seconds| format!("FROM_UNIXTIME({seconds})"),
    records_of_snapshot: RECORDS_OF_SNAPSHOT,
    seconds: |nanoseconds| format!("{nanoseconds} DIV 1000000000"),
};
