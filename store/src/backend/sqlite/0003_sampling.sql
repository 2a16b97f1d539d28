-- SPDX-License-Identifier: GPL-2.0-or-later
-- What modules report since 0.2.0. All of a row's are NULL where the module is older: unknown,
-- which is not 0. duration_ns is how long the epoch was open by a clock that cannot be set.
-- unattributed is the part of folded that lost its local address too. Of each class of packets
-- that is sampled at a rate of its own: the packets that were taken, the variances of its
-- packets and bytes in the records, and the largest N of one in N, 0 where no packet met one.
-- The variances have up to 128 bits, but only their square roots, the standard errors, are of
-- use: a REAL's 53 bits are far more than an estimate of an error is good for.
ALTER TABLE snapshot ADD COLUMN duration_ns INTEGER;
ALTER TABLE snapshot ADD COLUMN unattributed_packets INTEGER;
ALTER TABLE snapshot ADD COLUMN unattributed_bytes INTEGER;
ALTER TABLE snapshot ADD COLUMN tcp_syn_sampled_packets INTEGER;
ALTER TABLE snapshot ADD COLUMN tcp_syn_packet_variance REAL;
ALTER TABLE snapshot ADD COLUMN tcp_syn_byte_variance REAL;
ALTER TABLE snapshot ADD COLUMN tcp_syn_highest_rate INTEGER;
ALTER TABLE snapshot ADD COLUMN tcp_any_sampled_packets INTEGER;
ALTER TABLE snapshot ADD COLUMN tcp_any_packet_variance REAL;
ALTER TABLE snapshot ADD COLUMN tcp_any_byte_variance REAL;
ALTER TABLE snapshot ADD COLUMN tcp_any_highest_rate INTEGER;
ALTER TABLE snapshot ADD COLUMN udp_any_sampled_packets INTEGER;
ALTER TABLE snapshot ADD COLUMN udp_any_packet_variance REAL;
ALTER TABLE snapshot ADD COLUMN udp_any_byte_variance REAL;
ALTER TABLE snapshot ADD COLUMN udp_any_highest_rate INTEGER;
