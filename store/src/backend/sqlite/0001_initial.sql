-- A host that snapshots were counted on.
CREATE TABLE host (
    id          INTEGER PRIMARY KEY,
    machine_id  TEXT NOT NULL UNIQUE,
    hostname    TEXT NOT NULL
) STRICT;

CREATE TABLE netns (
    id       INTEGER PRIMARY KEY,
    host_id  INTEGER NOT NULL REFERENCES host,
    name     TEXT NOT NULL,
    UNIQUE (host_id, name)
) STRICT;

-- One row for each life of an account: identity is the 128 random bits drawn when
-- the kernel created it. The name may come again with another identity.
CREATE TABLE account (
    id          INTEGER PRIMARY KEY,
    host_id     INTEGER NOT NULL REFERENCES host,
    identity    BLOB NOT NULL CHECK (length(identity) = 16),
    netns_id    INTEGER NOT NULL REFERENCES netns,
    family      TEXT NOT NULL CHECK (family IN ('ipv4', 'ipv6')),
    name        TEXT NOT NULL,
    local_addr  BLOB NOT NULL CHECK (length(local_addr) IN (4, 16)),
    prefix_len  INTEGER NOT NULL,
    UNIQUE (host_id, identity)
) STRICT;

-- Times are nanoseconds since 1970, UTC. In packets and in bytes,
-- seen + extrapolated = recorded + outside + skipped.
CREATE TABLE snapshot (
    host_id               INTEGER NOT NULL REFERENCES host,
    account_id            INTEGER NOT NULL REFERENCES account,
    epoch                 INTEGER NOT NULL,
    opened_ns             INTEGER NOT NULL,
    closed_ns             INTEGER NOT NULL,
    collected_ns          INTEGER NOT NULL,
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
    -- When pruning took the records away; the identity alone is left.
    pruned_ns             INTEGER,
    PRIMARY KEY (host_id, account_id, epoch)
) STRICT, WITHOUT ROWID;

-- The addresses of a host's records, each once: 4 or 16 bytes in network order.
CREATE TABLE address (
    id       INTEGER PRIMARY KEY,
    host_id  INTEGER NOT NULL REFERENCES host,
    address  BLOB NOT NULL CHECK (length(address) IN (4, 16)),
    UNIQUE (host_id, address)
) STRICT;

-- One clustered key and no other index. The records of an epoch lie together in the
-- order in which they came: appending fills page after page, a time is read as
-- ranges, and an epoch is deleted as one range.
CREATE TABLE record (
    host_id            INTEGER NOT NULL,
    account_id         INTEGER NOT NULL,
    epoch              INTEGER NOT NULL,
    number             INTEGER NOT NULL,
    protocol           INTEGER NOT NULL,
    local_address_id   INTEGER NOT NULL,
    local_port         INTEGER NOT NULL,
    remote_address_id  INTEGER NOT NULL,
    remote_port        INTEGER NOT NULL,
    flags              INTEGER NOT NULL,
    sent_packets       INTEGER NOT NULL,
    received_packets   INTEGER NOT NULL,
    sent_bytes         INTEGER NOT NULL,
    received_bytes     INTEGER NOT NULL,
    syn_packets        INTEGER NOT NULL,
    PRIMARY KEY (host_id, account_id, epoch, number)
) STRICT, WITHOUT ROWID;

-- IANA's protocol numbers and keywords, for people's own queries.
CREATE TABLE protocol (
    number  INTEGER PRIMARY KEY,
    name    TEXT NOT NULL
) STRICT;
