-- SPDX-License-Identifier: GPL-2.0-or-later
-- What all epochs of an account counted, recorded, outside and skipped: an epoch that would
-- bring it to 2^63 - 1 is refused. Sums of halves, since SUM() itself fails past 63 bits.
ALTER TABLE account ADD COLUMN counted_packets INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN counted_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE account SET counted_packets = (
    SELECT CASE WHEN high + (low >> 32) > 0x7fffffff THEN 0x7fffffffffffffff
        ELSE ((high + (low >> 32)) << 32) + (low & 0xffffffff) END
    FROM (
        SELECT
            COALESCE(SUM((recorded_packets >> 32) + (outside_packets >> 32)
                + (skipped_packets >> 32)), 0) AS high,
            COALESCE(SUM((recorded_packets & 0xffffffff) + (outside_packets & 0xffffffff)
                + (skipped_packets & 0xffffffff)), 0) AS low
        FROM snapshot AS s WHERE s.host_id = account.host_id AND s.account_id = account.id
    )
);
UPDATE account SET counted_bytes = (
    SELECT CASE WHEN high + (low >> 32) > 0x7fffffff THEN 0x7fffffffffffffff
        ELSE ((high + (low >> 32)) << 32) + (low & 0xffffffff) END
    FROM (
        SELECT
            COALESCE(SUM((recorded_bytes >> 32) + (outside_bytes >> 32)
                + (skipped_bytes >> 32)), 0) AS high,
            COALESCE(SUM((recorded_bytes & 0xffffffff) + (outside_bytes & 0xffffffff)
                + (skipped_bytes & 0xffffffff)), 0) AS low
        FROM snapshot AS s WHERE s.host_id = account.host_id AND s.account_id = account.id
    )
);
