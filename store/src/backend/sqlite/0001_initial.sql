-- SPDX-License-Identifier: GPL-2.0-or-later
-- A host that snapshots were counted on.
CREATE TABLE host (
    id          INTEGER PRIMARY KEY,
    machine_id  TEXT NOT NULL UNIQUE,
    hostname    TEXT NOT NULL
) STRICT;

-- One row for each life of an account: identity is the 128 random bits drawn when
-- the kernel created it. The name may come again with another identity. Ids count
-- within the host. view_name is that of the view with the original's columns.
CREATE TABLE account (
    host_id     INTEGER NOT NULL REFERENCES host,
    id          INTEGER NOT NULL,
    identity    BLOB NOT NULL CHECK (length(identity) = 16),
    netns       TEXT NOT NULL,
    family      TEXT NOT NULL CHECK (family IN ('ipv4', 'ipv6')),
    name        TEXT NOT NULL,
    local_addr  BLOB NOT NULL CHECK (length(local_addr) IN (4, 16)),
    prefix_len  INTEGER NOT NULL,
    view_name   TEXT,
    PRIMARY KEY (host_id, id),
    UNIQUE (host_id, identity)
) STRICT, WITHOUT ROWID;

-- Times are nanoseconds since 1970, UTC. In packets and in bytes,
-- seen + extrapolated = recorded + outside + skipped.
CREATE TABLE snapshot (
    host_id               INTEGER NOT NULL,
    account_id            INTEGER NOT NULL,
    epoch                 INTEGER NOT NULL,
    -- Its records have the ids from here on; NULL once they were deleted.
    first_record          INTEGER,
    collected_ns          INTEGER NOT NULL,
    opened_ns             INTEGER NOT NULL,
    closed_ns             INTEGER NOT NULL,
    records               INTEGER NOT NULL,
    seen_packets          INTEGER NOT NULL,
    seen_bytes            INTEGER NOT NULL,
    extrapolated_packets  INTEGER NOT NULL,
    extrapolated_bytes    INTEGER NOT NULL,
    recorded_packets      INTEGER NOT NULL,
    recorded_bytes        INTEGER NOT NULL,
    outside_packets       INTEGER NOT NULL,
    outside_bytes         INTEGER NOT NULL,
    skipped_packets       INTEGER NOT NULL,
    skipped_bytes         INTEGER NOT NULL,
    gso_extra_packets     INTEGER NOT NULL,
    gso_extra_bytes       INTEGER NOT NULL,
    folded_packets        INTEGER NOT NULL,
    folded_bytes          INTEGER NOT NULL,
    max_entries           INTEGER NOT NULL,
    min_pkt_spoof         INTEGER NOT NULL,
    PRIMARY KEY (host_id, account_id, epoch),
    FOREIGN KEY (host_id, account_id) REFERENCES account
) STRICT, WITHOUT ROWID;

CREATE INDEX snapshot_closed ON snapshot (host_id, account_id, closed_ns);

-- One key and no other index. The records of an epoch lie together in the order in
-- which they came, and which they are its snapshot knows: appending fills page after
-- page, a time is read as ranges, and an epoch is deleted as one range. Addresses have
-- 4 or 16 bytes in network order.
CREATE TABLE record (
    id                INTEGER PRIMARY KEY,
    protocol          INTEGER NOT NULL,
    local_ip          BLOB NOT NULL,
    local_port        INTEGER NOT NULL,
    remote_ip         BLOB NOT NULL,
    remote_port       INTEGER NOT NULL,
    flags             INTEGER NOT NULL,
    sent_packets      INTEGER NOT NULL,
    received_packets  INTEGER NOT NULL,
    sent_bytes        INTEGER NOT NULL,
    received_bytes    INTEGER NOT NULL,
    syn_packets       INTEGER NOT NULL
) STRICT;

-- Sums. A period is named by the second at which it begins, UTC; an epoch belongs to
-- the one in which it closed.
CREATE TABLE local_hourly (
    host_id           INTEGER NOT NULL,
    account_id        INTEGER NOT NULL,
    hour              INTEGER NOT NULL,
    local_ip          BLOB NOT NULL,
    sent_packets      INTEGER NOT NULL,
    received_packets  INTEGER NOT NULL,
    sent_bytes        INTEGER NOT NULL,
    received_bytes    INTEGER NOT NULL,
    syn_packets       INTEGER NOT NULL,
    PRIMARY KEY (host_id, account_id, hour, local_ip)
) STRICT, WITHOUT ROWID;

CREATE TABLE local_daily (
    host_id           INTEGER NOT NULL,
    account_id        INTEGER NOT NULL,
    day               INTEGER NOT NULL,
    local_ip          BLOB NOT NULL,
    sent_packets      INTEGER NOT NULL,
    received_packets  INTEGER NOT NULL,
    sent_bytes        INTEGER NOT NULL,
    received_bytes    INTEGER NOT NULL,
    syn_packets       INTEGER NOT NULL,
    PRIMARY KEY (host_id, account_id, day, local_ip)
) STRICT, WITHOUT ROWID;

CREATE TABLE service_hourly (
    host_id           INTEGER NOT NULL,
    account_id        INTEGER NOT NULL,
    hour              INTEGER NOT NULL,
    protocol          INTEGER NOT NULL,
    local_port        INTEGER NOT NULL,
    sent_packets      INTEGER NOT NULL,
    received_packets  INTEGER NOT NULL,
    sent_bytes        INTEGER NOT NULL,
    received_bytes    INTEGER NOT NULL,
    syn_packets       INTEGER NOT NULL,
    PRIMARY KEY (host_id, account_id, hour, protocol, local_port)
) STRICT, WITHOUT ROWID;

CREATE TABLE service_daily (
    host_id           INTEGER NOT NULL,
    account_id        INTEGER NOT NULL,
    day               INTEGER NOT NULL,
    protocol          INTEGER NOT NULL,
    local_port        INTEGER NOT NULL,
    sent_packets      INTEGER NOT NULL,
    received_packets  INTEGER NOT NULL,
    sent_bytes        INTEGER NOT NULL,
    received_bytes    INTEGER NOT NULL,
    syn_packets       INTEGER NOT NULL,
    PRIMARY KEY (host_id, account_id, day, protocol, local_port)
) STRICT, WITHOUT ROWID;

CREATE TABLE remote_monthly (
    host_id           INTEGER NOT NULL,
    account_id        INTEGER NOT NULL,
    month             INTEGER NOT NULL,
    remote_ip         BLOB NOT NULL,
    sent_packets      INTEGER NOT NULL,
    received_packets  INTEGER NOT NULL,
    sent_bytes        INTEGER NOT NULL,
    received_bytes    INTEGER NOT NULL,
    syn_packets       INTEGER NOT NULL,
    PRIMARY KEY (host_id, account_id, month, remote_ip)
) STRICT, WITHOUT ROWID;

-- Sums by remote address that are yet to be added to remote_monthly, packed; the view
-- remote_month has both.
CREATE TABLE remote_part (
    host_id     INTEGER NOT NULL,
    account_id  INTEGER NOT NULL,
    month       INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    part        INTEGER NOT NULL,
    sums        BLOB NOT NULL,
    PRIMARY KEY (host_id, account_id, month, epoch, part)
) STRICT;

-- From when on a level (record, hour, day, month) has its rows; no row: from ever on.
CREATE TABLE kept (
    level     TEXT NOT NULL PRIMARY KEY,
    since_ns  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- IANA's protocol numbers and keywords, for people's own queries.
CREATE TABLE protocol (
    number  INTEGER PRIMARY KEY,
    name    TEXT NOT NULL
) STRICT;
