-- SPDX-License-Identifier: GPL-2.0-or-later
-- When an epoch counts: in the middle of the time that it was open. Below 0: the epoch was stored
-- by an earlier version, and is yet to be counted anew.
ALTER TABLE snapshot ADD COLUMN counted_ns INTEGER NOT NULL DEFAULT -1;

DROP INDEX snapshot_closed;

CREATE INDEX snapshot_counted ON snapshot (host_id, account_id, counted_ns);

-- Sums by local address and service together. A quarter is one of an hour.
CREATE TABLE local_service_quarterly (
    host_id           INTEGER NOT NULL,
    account_id        INTEGER NOT NULL,
    quarter           INTEGER NOT NULL,
    local_ip          BLOB NOT NULL,
    protocol          INTEGER NOT NULL,
    local_port        INTEGER NOT NULL,
    sent_packets      INTEGER NOT NULL,
    received_packets  INTEGER NOT NULL,
    sent_bytes        INTEGER NOT NULL,
    received_bytes    INTEGER NOT NULL,
    syn_packets       INTEGER NOT NULL,
    PRIMARY KEY (host_id, account_id, quarter, local_ip, protocol, local_port)
) STRICT, WITHOUT ROWID;

CREATE TABLE local_service_hourly (
    host_id           INTEGER NOT NULL,
    account_id        INTEGER NOT NULL,
    hour              INTEGER NOT NULL,
    local_ip          BLOB NOT NULL,
    protocol          INTEGER NOT NULL,
    local_port        INTEGER NOT NULL,
    sent_packets      INTEGER NOT NULL,
    received_packets  INTEGER NOT NULL,
    sent_bytes        INTEGER NOT NULL,
    received_bytes    INTEGER NOT NULL,
    syn_packets       INTEGER NOT NULL,
    PRIMARY KEY (host_id, account_id, hour, local_ip, protocol, local_port)
) STRICT, WITHOUT ROWID;

CREATE TABLE local_service_daily (
    host_id           INTEGER NOT NULL,
    account_id        INTEGER NOT NULL,
    day               INTEGER NOT NULL,
    local_ip          BLOB NOT NULL,
    protocol          INTEGER NOT NULL,
    local_port        INTEGER NOT NULL,
    sent_packets      INTEGER NOT NULL,
    received_packets  INTEGER NOT NULL,
    sent_bytes        INTEGER NOT NULL,
    received_bytes    INTEGER NOT NULL,
    syn_packets       INTEGER NOT NULL,
    PRIMARY KEY (host_id, account_id, day, local_ip, protocol, local_port)
) STRICT, WITHOUT ROWID;

-- What all epochs of an account counted, recorded, outside and skipped: an epoch that would
-- bring it to 2^63 - 1 is refused.
ALTER TABLE account ADD COLUMN counted_packets INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN counted_bytes INTEGER NOT NULL DEFAULT 0;

-- Epochs of which more records are to be deleted than one transaction may: those of `records`
-- ids from first_record on are left, and no part of their epoch any more.
CREATE TABLE record_deletion (
    host_id       INTEGER NOT NULL,
    account_id    INTEGER NOT NULL,
    epoch         INTEGER NOT NULL,
    first_record  INTEGER NOT NULL,
    records       INTEGER NOT NULL,
    PRIMARY KEY (host_id, account_id, epoch)
) STRICT, WITHOUT ROWID;

-- Retention once believed a clock that was years ahead, and `kept` stayed there. It is put right
-- before epochs are counted anew, which moves only sums that are kept. From the newest
-- epoch without records on all have theirs.
UPDATE kept SET since_ns = MIN(
    since_ns,
    (SELECT COALESCE(MAX(closed_ns) + 1, 0) FROM snapshot WHERE first_record IS NULL)
) WHERE level = 'record';

-- Sums are whole from the period on that follows the oldest one there is.
UPDATE kept SET since_ns = MIN(
    since_ns,
    (COALESCE(
        (SELECT MIN(hour) FROM local_hourly),
        (SELECT MAX(closed_ns) / 3600000000000 * 3600 FROM snapshot)
    ) + 3600) * 1000000000
) WHERE level = 'hour' AND since_ns > (SELECT MAX(closed_ns) FROM snapshot);
UPDATE kept SET since_ns = MIN(
    since_ns,
    (COALESCE(
        (SELECT MIN(day) FROM local_daily),
        (SELECT MAX(closed_ns) / 86400000000000 * 86400 FROM snapshot)
    ) + 86400) * 1000000000
) WHERE level = 'day' AND since_ns > (SELECT MAX(closed_ns) FROM snapshot);
UPDATE kept SET since_ns = MIN(
    since_ns,
    CAST(strftime('%s', COALESCE(
        (SELECT MIN(month) FROM (
            SELECT MIN(month) AS month FROM remote_monthly
            UNION ALL SELECT MIN(month) FROM remote_part
        )),
        (SELECT MAX(closed_ns) / 1000000000 FROM snapshot)
    ), 'unixepoch', 'start of month', '+1 month') AS INTEGER) * 1000000000
) WHERE level = 'month' AND since_ns > (SELECT MAX(closed_ns) FROM snapshot);

-- Accounts that are being restored with their sums: from which file, and how many of its sums
-- were added.
CREATE TABLE restore_progress (
    host_id     INTEGER NOT NULL,
    account_id  INTEGER NOT NULL,
    source      BLOB NOT NULL,
    sums        INTEGER NOT NULL,
    PRIMARY KEY (host_id, account_id)
) STRICT, WITHOUT ROWID;

-- What one process does for the whole database, and until when.
CREATE TABLE lease (
    name      TEXT NOT NULL PRIMARY KEY,
    holder    TEXT NOT NULL,
    until_ns  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
