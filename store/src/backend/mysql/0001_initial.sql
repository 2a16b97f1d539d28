-- SPDX-License-Identifier: GPL-2.0-or-later
CREATE TABLE IF NOT EXISTS host (
    id          INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    machine_id  VARCHAR(255) NOT NULL UNIQUE,
    hostname    VARCHAR(255) NOT NULL
) ENGINE = InnoDB, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS account (
    host_id     INT NOT NULL,
    id          INT NOT NULL,
    identity    BINARY(16) NOT NULL,
    netns       VARCHAR(255) NOT NULL,
    family      VARCHAR(4) NOT NULL,
    name        VARCHAR(31) NOT NULL,
    local_addr  VARBINARY(16) NOT NULL,
    prefix_len  TINYINT UNSIGNED NOT NULL,
    view_name   VARCHAR(64),
    PRIMARY KEY (host_id, id),
    UNIQUE (host_id, identity),
    FOREIGN KEY (host_id) REFERENCES host (id)
) ENGINE = InnoDB, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS snapshot (
    host_id               INT NOT NULL,
    account_id            INT NOT NULL,
    epoch                 BIGINT NOT NULL,
    first_record          BIGINT,
    collected_ns          BIGINT NOT NULL,
    opened_ns             BIGINT NOT NULL,
    closed_ns             BIGINT NOT NULL,
    records               BIGINT NOT NULL,
    seen_packets          BIGINT NOT NULL,
    seen_bytes            BIGINT NOT NULL,
    extrapolated_packets  BIGINT NOT NULL,
    extrapolated_bytes    BIGINT NOT NULL,
    recorded_packets      BIGINT NOT NULL,
    recorded_bytes        BIGINT NOT NULL,
    outside_packets       BIGINT NOT NULL,
    outside_bytes         BIGINT NOT NULL,
    skipped_packets       BIGINT NOT NULL,
    skipped_bytes         BIGINT NOT NULL,
    gso_extra_packets     BIGINT NOT NULL,
    gso_extra_bytes       BIGINT NOT NULL,
    folded_packets        BIGINT NOT NULL,
    folded_bytes          BIGINT NOT NULL,
    max_entries           BIGINT NOT NULL,
    min_pkt_spoof         BIGINT NOT NULL,
    PRIMARY KEY (host_id, account_id, epoch),
    KEY snapshot_closed (host_id, account_id, closed_ns),
    FOREIGN KEY (host_id, account_id) REFERENCES account (host_id, id)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS record (
    host_id           INT NOT NULL,
    account_id        INT NOT NULL,
    epoch             BIGINT NOT NULL,
    number            INT NOT NULL,
    protocol          TINYINT UNSIGNED NOT NULL,
    local_ip          VARBINARY(16) NOT NULL,
    local_port        SMALLINT UNSIGNED NOT NULL,
    remote_ip         VARBINARY(16) NOT NULL,
    remote_port       SMALLINT UNSIGNED NOT NULL,
    flags             TINYINT UNSIGNED NOT NULL,
    sent_packets      BIGINT NOT NULL,
    received_packets  BIGINT NOT NULL,
    sent_bytes        BIGINT NOT NULL,
    received_bytes    BIGINT NOT NULL,
    syn_packets       BIGINT NOT NULL,
    PRIMARY KEY (host_id, account_id, epoch, number)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS local_hourly (
    host_id           INT NOT NULL,
    account_id        INT NOT NULL,
    hour              BIGINT NOT NULL,
    local_ip          VARBINARY(16) NOT NULL,
    sent_packets      BIGINT NOT NULL,
    received_packets  BIGINT NOT NULL,
    sent_bytes        BIGINT NOT NULL,
    received_bytes    BIGINT NOT NULL,
    syn_packets       BIGINT NOT NULL,
    PRIMARY KEY (host_id, account_id, hour, local_ip)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS local_daily (
    host_id           INT NOT NULL,
    account_id        INT NOT NULL,
    day               BIGINT NOT NULL,
    local_ip          VARBINARY(16) NOT NULL,
    sent_packets      BIGINT NOT NULL,
    received_packets  BIGINT NOT NULL,
    sent_bytes        BIGINT NOT NULL,
    received_bytes    BIGINT NOT NULL,
    syn_packets       BIGINT NOT NULL,
    PRIMARY KEY (host_id, account_id, day, local_ip)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS service_hourly (
    host_id           INT NOT NULL,
    account_id        INT NOT NULL,
    hour              BIGINT NOT NULL,
    protocol          TINYINT UNSIGNED NOT NULL,
    local_port        SMALLINT UNSIGNED NOT NULL,
    sent_packets      BIGINT NOT NULL,
    received_packets  BIGINT NOT NULL,
    sent_bytes        BIGINT NOT NULL,
    received_bytes    BIGINT NOT NULL,
    syn_packets       BIGINT NOT NULL,
    PRIMARY KEY (host_id, account_id, hour, protocol, local_port)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS service_daily (
    host_id           INT NOT NULL,
    account_id        INT NOT NULL,
    day               BIGINT NOT NULL,
    protocol          TINYINT UNSIGNED NOT NULL,
    local_port        SMALLINT UNSIGNED NOT NULL,
    sent_packets      BIGINT NOT NULL,
    received_packets  BIGINT NOT NULL,
    sent_bytes        BIGINT NOT NULL,
    received_bytes    BIGINT NOT NULL,
    syn_packets       BIGINT NOT NULL,
    PRIMARY KEY (host_id, account_id, day, protocol, local_port)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS remote_monthly (
    host_id           INT NOT NULL,
    account_id        INT NOT NULL,
    month             BIGINT NOT NULL,
    remote_ip         VARBINARY(16) NOT NULL,
    sent_packets      BIGINT NOT NULL,
    received_packets  BIGINT NOT NULL,
    sent_bytes        BIGINT NOT NULL,
    received_bytes    BIGINT NOT NULL,
    syn_packets       BIGINT NOT NULL,
    PRIMARY KEY (host_id, account_id, month, remote_ip)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS remote_part (
    host_id     INT NOT NULL,
    account_id  INT NOT NULL,
    month       BIGINT NOT NULL,
    epoch       BIGINT NOT NULL,
    part        INT NOT NULL,
    sums        MEDIUMBLOB NOT NULL,
    PRIMARY KEY (host_id, account_id, month, epoch, part)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS kept (
    level     VARCHAR(8) NOT NULL PRIMARY KEY,
    since_ns  BIGINT NOT NULL
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS protocol (
    number  TINYINT UNSIGNED NOT NULL PRIMARY KEY,
    name    VARCHAR(32) NOT NULL
) ENGINE = InnoDB, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

-- Views with the original's columns, and since when one host is about to define each.
CREATE TABLE IF NOT EXISTS account_view (
    name     VARCHAR(64) NOT NULL PRIMARY KEY,
    claimed  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
) ENGINE = InnoDB;
