-- SPDX-License-Identifier: GPL-2.0-or-later
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

-- Retention once believed a clock that was years ahead, and `kept` stayed there. From the newest
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
