-- SPDX-License-Identifier: GPL-2.0-or-later
-- Snapshots that wait for the database, in the order in which they came.

CREATE TABLE epoch (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The snapshot's identity: the account's 128 random bits and the epoch's number.
    account_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    -- Where it was counted.
    machine_id TEXT NOT NULL,
    hostname TEXT NOT NULL,
    netns TEXT NOT NULL,
    -- The snapshot's header as the kernel served it.
    header BLOB NOT NULL,
    spooled_ns INTEGER NOT NULL,
    UNIQUE (account_id, epoch)
);

-- The snapshot as the kernel served it, header included: pieces of at most 1 MiB, each
-- a zstd frame with a checksum.
CREATE TABLE piece (
    epoch_id INTEGER NOT NULL REFERENCES epoch (id),
    number INTEGER NOT NULL,
    content BLOB NOT NULL,
    UNIQUE (epoch_id, number)
);
