-- SPDX-License-Identifier: GPL-2.0-or-later
ALTER TABLE snapshot
    ADD COLUMN duration_ns              BIGINT,
    ADD COLUMN unattributed_packets     BIGINT,
    ADD COLUMN unattributed_bytes       BIGINT,
    ADD COLUMN tcp_syn_sampled_packets  BIGINT,
    ADD COLUMN tcp_syn_packet_variance  DOUBLE,
    ADD COLUMN tcp_syn_byte_variance    DOUBLE,
    ADD COLUMN tcp_syn_highest_rate     BIGINT,
    ADD COLUMN tcp_any_sampled_packets  BIGINT,
    ADD COLUMN tcp_any_packet_variance  DOUBLE,
    ADD COLUMN tcp_any_byte_variance    DOUBLE,
    ADD COLUMN tcp_any_highest_rate     BIGINT,
    ADD COLUMN udp_any_sampled_packets  BIGINT,
    ADD COLUMN udp_any_packet_variance  DOUBLE,
    ADD COLUMN udp_any_byte_variance    DOUBLE,
    ADD COLUMN udp_any_highest_rate     BIGINT;
