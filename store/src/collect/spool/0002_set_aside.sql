-- SPDX-License-Identifier: GPL-2.0-or-later
-- Snapshots that the database refuses, and two of one identity that differ in their totals.

CREATE TABLE epoch_2 (
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
    -- A snapshot that is set aside is not offered to the database any more.
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'refused')),
    -- How many rounds failed to store it, and why the last one did.
    tries INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    UNIQUE (account_id, epoch, header)
);

INSERT INTO epoch_2 (id, account_id, epoch, machine_id, hostname, netns, header, spooled_ns)
SELECT id, account_id, epoch, machine_id, hostname, netns, header, spooled_ns FROM epoch;

DROP TABLE epoch;

ALTER TABLE epoch_2 RENAME TO epoch;
