-- SPDX-License-Identifier: GPL-2.0-or-later
CREATE TABLE IF NOT EXISTS host_boot (
    host_id         INT NOT NULL,
    boot_id         VARCHAR(64) NOT NULL,
    hostname        VARCHAR(255) NOT NULL,
    first_turn      BIGINT NOT NULL,
    last_turn       BIGINT NOT NULL,
    seen_ns         BIGINT NOT NULL,
    clock_ahead_ns  BIGINT,
    PRIMARY KEY (host_id, boot_id),
    FOREIGN KEY (host_id) REFERENCES host (id)
) ENGINE = InnoDB, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;
