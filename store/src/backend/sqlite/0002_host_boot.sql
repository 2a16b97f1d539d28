-- SPDX-License-Identifier: GPL-2.0-or-later
-- The boots in which a host was lately seen. The turn counts up whenever the host is
-- seen in another boot than before: one that has two turns came back after another, so
-- two hosts have this machine id. clock_ahead_ns is the host's clock before the
-- database server's; NULL where there is no server.
CREATE TABLE host_boot (
    host_id         INTEGER NOT NULL REFERENCES host,
    boot_id         TEXT NOT NULL,
    hostname        TEXT NOT NULL,
    first_turn      INTEGER NOT NULL,
    last_turn       INTEGER NOT NULL,
    seen_ns         INTEGER NOT NULL,
    clock_ahead_ns  INTEGER,
    PRIMARY KEY (host_id, boot_id)
) STRICT, WITHOUT ROWID;
