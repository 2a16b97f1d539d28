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
