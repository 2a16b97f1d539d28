-- SPDX-License-Identifier: GPL-2.0-or-later
ALTER TABLE account
    ADD COLUMN counted_packets  BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN counted_bytes    BIGINT NOT NULL DEFAULT 0;

UPDATE account SET
    counted_packets = (
        SELECT LEAST(COALESCE(SUM(recorded_packets) + SUM(outside_packets)
            + SUM(skipped_packets), 0), 9223372036854775807)
        FROM snapshot AS s WHERE s.host_id = account.host_id AND s.account_id = account.id
    ),
    counted_bytes = (
        SELECT LEAST(COALESCE(SUM(recorded_bytes) + SUM(outside_bytes)
            + SUM(skipped_bytes), 0), 9223372036854775807)
        FROM snapshot AS s WHERE s.host_id = account.host_id AND s.account_id = account.id
    );
