-- SPDX-License-Identifier: GPL-2.0-or-later
ALTER TABLE snapshot
    ADD COLUMN counted_ns BIGINT NOT NULL DEFAULT -1,
    DROP KEY snapshot_closed,
    ADD KEY snapshot_counted (host_id, account_id, counted_ns);

CREATE TABLE IF NOT EXISTS local_service_quarterly (
    host_id           INT NOT NULL,
    account_id        INT NOT NULL,
    quarter           BIGINT NOT NULL,
    local_ip          VARBINARY(16) NOT NULL,
    protocol          TINYINT UNSIGNED NOT NULL,
    local_port        SMALLINT UNSIGNED NOT NULL,
    sent_packets      BIGINT NOT NULL,
    received_packets  BIGINT NOT NULL,
    sent_bytes        BIGINT NOT NULL,
    received_bytes    BIGINT NOT NULL,
    syn_packets       BIGINT NOT NULL,
    PRIMARY KEY (host_id, account_id, quarter, local_ip, protocol, local_port)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS local_service_hourly (
    host_id           INT NOT NULL,
    account_id        INT NOT NULL,
    hour              BIGINT NOT NULL,
    local_ip          VARBINARY(16) NOT NULL,
    protocol          TINYINT UNSIGNED NOT NULL,
    local_port        SMALLINT UNSIGNED NOT NULL,
    sent_packets      BIGINT NOT NULL,
    received_packets  BIGINT NOT NULL,
    sent_bytes        BIGINT NOT NULL,
    received_bytes    BIGINT NOT NULL,
    syn_packets       BIGINT NOT NULL,
    PRIMARY KEY (host_id, account_id, hour, local_ip, protocol, local_port)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS local_service_daily (
    host_id           INT NOT NULL,
    account_id        INT NOT NULL,
    day               BIGINT NOT NULL,
    local_ip          VARBINARY(16) NOT NULL,
    protocol          TINYINT UNSIGNED NOT NULL,
    local_port        SMALLINT UNSIGNED NOT NULL,
    sent_packets      BIGINT NOT NULL,
    received_packets  BIGINT NOT NULL,
    sent_bytes        BIGINT NOT NULL,
    received_bytes    BIGINT NOT NULL,
    syn_packets       BIGINT NOT NULL,
    PRIMARY KEY (host_id, account_id, day, local_ip, protocol, local_port)
) ENGINE = InnoDB;

ALTER TABLE kept MODIFY COLUMN level VARCHAR(16) NOT NULL;

ALTER TABLE account
    ADD COLUMN counted_packets  BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN counted_bytes    BIGINT NOT NULL DEFAULT 0;

CREATE TABLE IF NOT EXISTS record_deletion (
    host_id       INT NOT NULL,
    account_id    INT NOT NULL,
    epoch         BIGINT NOT NULL,
    first_record  BIGINT NOT NULL,
    records       BIGINT NOT NULL,
    PRIMARY KEY (host_id, account_id, epoch)
) ENGINE = InnoDB;

-- Retention once believed a clock that was years ahead, and `kept` stayed there. It is put right
-- before epochs are counted anew, which moves only sums that are kept. From the newest
-- epoch without records on all have theirs.
UPDATE kept SET since_ns = LEAST(
    since_ns,
    (SELECT COALESCE(MAX(closed_ns) + 1, 0) FROM snapshot WHERE first_record IS NULL)
) WHERE level = 'record';

-- Sums are whole from the period on that follows the oldest one there is.
UPDATE kept SET since_ns = LEAST(
    since_ns,
    (COALESCE(
        (SELECT MIN(hour) FROM local_hourly),
        (SELECT MAX(closed_ns) DIV 3600000000000 * 3600 FROM snapshot)
    ) + 3600) * 1000000000
) WHERE level = 'hour' AND since_ns > (SELECT MAX(closed_ns) FROM snapshot);

UPDATE kept SET since_ns = LEAST(
    since_ns,
    (COALESCE(
        (SELECT MIN(day) FROM local_daily),
        (SELECT MAX(closed_ns) DIV 86400000000000 * 86400 FROM snapshot)
    ) + 86400) * 1000000000
) WHERE level = 'day' AND since_ns > (SELECT MAX(closed_ns) FROM snapshot);

UPDATE kept SET since_ns = LEAST(
    since_ns,
    TIMESTAMPDIFF(SECOND, '1970-01-01', LAST_DAY(TIMESTAMPADD(SECOND, COALESCE(
        (SELECT MIN(month) FROM (
            SELECT MIN(month) AS month FROM remote_monthly
            UNION ALL SELECT MIN(month) FROM remote_part
        ) AS months),
        (SELECT MAX(closed_ns) DIV 1000000000 FROM snapshot)
    ), '1970-01-01')) + INTERVAL 1 DAY) * 1000000000
) WHERE level = 'month' AND since_ns > (SELECT MAX(closed_ns) FROM snapshot);

CREATE TABLE IF NOT EXISTS restore_progress (
    host_id     INT NOT NULL,
    account_id  INT NOT NULL,
    source      VARBINARY(64) NOT NULL,
    sums        BIGINT NOT NULL,
    PRIMARY KEY (host_id, account_id)
) ENGINE = InnoDB;

-- What one process does for the whole database, and until when.
CREATE TABLE IF NOT EXISTS lease (
    name      VARCHAR(32) NOT NULL PRIMARY KEY,
    holder    VARCHAR(512) NOT NULL,
    until_ns  BIGINT NOT NULL
) ENGINE = InnoDB, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;
