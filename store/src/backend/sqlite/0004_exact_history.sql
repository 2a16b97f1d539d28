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
