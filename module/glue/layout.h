/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The layout of uapi/xt_TRAFSTAT.h, once more, in numbers: iptables plugins and readers
 * of snapshots have it compiled in, so whoever changes it must mean to. Needs offsetof()
 * and static_assert().
 */
#ifndef _TRAFSTAT_LAYOUT_H
#define _TRAFSTAT_LAYOUT_H

/* The Rust side writes whole words, whose bytes it takes to be in this order. */
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "xt_TRAFSTAT lays out its records on little-endian machines only"
#endif

#include "xt_TRAFSTAT.h"

#define TRAFSTAT_SIZE(type, size)					\
	static_assert(sizeof(struct type) == (size), "size of " #type)
#define TRAFSTAT_AT(type, field, offset)				\
	static_assert(offsetof(struct type, field) == (offset), #type "." #field)

TRAFSTAT_SIZE(xt_trafstat_port_range, 4);
TRAFSTAT_AT(xt_trafstat_port_range, first, 0);
TRAFSTAT_AT(xt_trafstat_port_range, last, 2);

TRAFSTAT_SIZE(xt_trafstat_port_list, 8);
TRAFSTAT_AT(xt_trafstat_port_list, mode, 0);
TRAFSTAT_AT(xt_trafstat_port_list, start, 2);
TRAFSTAT_AT(xt_trafstat_port_list, count, 4);
TRAFSTAT_AT(xt_trafstat_port_list, reserved, 6);

TRAFSTAT_SIZE(xt_trafstat_tginfo, 2032);
TRAFSTAT_AT(xt_trafstat_tginfo, name, 0);
TRAFSTAT_AT(xt_trafstat_tginfo, local_addr, 32);
TRAFSTAT_AT(xt_trafstat_tginfo, prefix_len, 48);
TRAFSTAT_AT(xt_trafstat_tginfo, policy, 49);
TRAFSTAT_AT(xt_trafstat_tginfo, flags, 50);
TRAFSTAT_AT(xt_trafstat_tginfo, dump_priority, 51);
TRAFSTAT_AT(xt_trafstat_tginfo, max_entries, 52);
TRAFSTAT_AT(xt_trafstat_tginfo, min_pkt_spoof, 56);
TRAFSTAT_AT(xt_trafstat_tginfo, sample_tcp_syn, 60);
TRAFSTAT_AT(xt_trafstat_tginfo, sample_tcp_any, 64);
TRAFSTAT_AT(xt_trafstat_tginfo, sample_udp_any, 68);
TRAFSTAT_AT(xt_trafstat_tginfo, lists, 72);
TRAFSTAT_AT(xt_trafstat_tginfo, ranges, 104);
TRAFSTAT_AT(xt_trafstat_tginfo, rule, 2024);

TRAFSTAT_SIZE(xt_trafstat_sample, 48);
TRAFSTAT_AT(xt_trafstat_sample, packets, 0);
TRAFSTAT_AT(xt_trafstat_sample, packet_variance, 8);
TRAFSTAT_AT(xt_trafstat_sample, byte_variance, 24);
TRAFSTAT_AT(xt_trafstat_sample, highest_rate, 40);
TRAFSTAT_AT(xt_trafstat_sample, reserved, 44);

TRAFSTAT_SIZE(xt_trafstat_snapshot_header, 408);
TRAFSTAT_AT(xt_trafstat_snapshot_header, magic, 0);
TRAFSTAT_AT(xt_trafstat_snapshot_header, version, 8);
TRAFSTAT_AT(xt_trafstat_snapshot_header, header_size, 10);
TRAFSTAT_AT(xt_trafstat_snapshot_header, record_size, 12);
TRAFSTAT_AT(xt_trafstat_snapshot_header, family, 14);
TRAFSTAT_AT(xt_trafstat_snapshot_header, prefix_len, 15);
TRAFSTAT_AT(xt_trafstat_snapshot_header, account_id, 16);
TRAFSTAT_AT(xt_trafstat_snapshot_header, epoch, 32);
TRAFSTAT_AT(xt_trafstat_snapshot_header, records, 40);
TRAFSTAT_AT(xt_trafstat_snapshot_header, opened_ns, 48);
TRAFSTAT_AT(xt_trafstat_snapshot_header, closed_ns, 56);
TRAFSTAT_AT(xt_trafstat_snapshot_header, seen_packets, 64);
TRAFSTAT_AT(xt_trafstat_snapshot_header, seen_bytes, 72);
TRAFSTAT_AT(xt_trafstat_snapshot_header, extrapolated_packets, 80);
TRAFSTAT_AT(xt_trafstat_snapshot_header, extrapolated_bytes, 88);
TRAFSTAT_AT(xt_trafstat_snapshot_header, recorded_packets, 96);
TRAFSTAT_AT(xt_trafstat_snapshot_header, recorded_bytes, 104);
TRAFSTAT_AT(xt_trafstat_snapshot_header, outside_packets, 112);
TRAFSTAT_AT(xt_trafstat_snapshot_header, outside_bytes, 120);
TRAFSTAT_AT(xt_trafstat_snapshot_header, skipped_packets, 128);
TRAFSTAT_AT(xt_trafstat_snapshot_header, skipped_bytes, 136);
TRAFSTAT_AT(xt_trafstat_snapshot_header, gso_extra_packets, 144);
TRAFSTAT_AT(xt_trafstat_snapshot_header, gso_extra_bytes, 152);
TRAFSTAT_AT(xt_trafstat_snapshot_header, folded_packets, 160);
TRAFSTAT_AT(xt_trafstat_snapshot_header, folded_bytes, 168);
TRAFSTAT_AT(xt_trafstat_snapshot_header, max_entries, 176);
TRAFSTAT_AT(xt_trafstat_snapshot_header, min_pkt_spoof, 184);
TRAFSTAT_AT(xt_trafstat_snapshot_header, flags, 188);
TRAFSTAT_AT(xt_trafstat_snapshot_header, local_addr, 192);
TRAFSTAT_AT(xt_trafstat_snapshot_header, name, 208);
TRAFSTAT_AT(xt_trafstat_snapshot_header, duration_ns, XT_TRAFSTAT_SNAPSHOT_HEADER_MIN);
TRAFSTAT_AT(xt_trafstat_snapshot_header, unattributed_packets, 248);
TRAFSTAT_AT(xt_trafstat_snapshot_header, unattributed_bytes, 256);
TRAFSTAT_AT(xt_trafstat_snapshot_header, sample, 264);

TRAFSTAT_SIZE(xt_trafstat_record_ipv4, 56);
TRAFSTAT_AT(xt_trafstat_record_ipv4, local_ip, 0);
TRAFSTAT_AT(xt_trafstat_record_ipv4, remote_ip, 4);
TRAFSTAT_AT(xt_trafstat_record_ipv4, local_port, 8);
TRAFSTAT_AT(xt_trafstat_record_ipv4, remote_port, 10);
TRAFSTAT_AT(xt_trafstat_record_ipv4, protocol, 12);
TRAFSTAT_AT(xt_trafstat_record_ipv4, flags, 13);
TRAFSTAT_AT(xt_trafstat_record_ipv4, reserved, 14);
TRAFSTAT_AT(xt_trafstat_record_ipv4, sent_packets, 16);
TRAFSTAT_AT(xt_trafstat_record_ipv4, received_packets, 24);
TRAFSTAT_AT(xt_trafstat_record_ipv4, sent_bytes, 32);
TRAFSTAT_AT(xt_trafstat_record_ipv4, received_bytes, 40);
TRAFSTAT_AT(xt_trafstat_record_ipv4, syn_packets, 48);

TRAFSTAT_SIZE(xt_trafstat_record_ipv6, 80);
TRAFSTAT_AT(xt_trafstat_record_ipv6, local_ip, 0);
TRAFSTAT_AT(xt_trafstat_record_ipv6, remote_ip, 16);
TRAFSTAT_AT(xt_trafstat_record_ipv6, local_port, 32);
TRAFSTAT_AT(xt_trafstat_record_ipv6, remote_port, 34);
TRAFSTAT_AT(xt_trafstat_record_ipv6, protocol, 36);
TRAFSTAT_AT(xt_trafstat_record_ipv6, flags, 37);
TRAFSTAT_AT(xt_trafstat_record_ipv6, reserved, 38);
TRAFSTAT_AT(xt_trafstat_record_ipv6, sent_packets, 40);
TRAFSTAT_AT(xt_trafstat_record_ipv6, received_packets, 48);
TRAFSTAT_AT(xt_trafstat_record_ipv6, sent_bytes, 56);
TRAFSTAT_AT(xt_trafstat_record_ipv6, received_bytes, 64);
TRAFSTAT_AT(xt_trafstat_record_ipv6, syn_packets, 72);
#undef TRAFSTAT_SIZE
#undef TRAFSTAT_AT

#endif /* _TRAFSTAT_LAYOUT_H */
