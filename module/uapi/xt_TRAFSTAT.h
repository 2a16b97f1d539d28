/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/*
 * The binary interface of xt_TRAFSTAT: what a rule carries into the kernel and
 * what a snapshot carries out of it.
 *
 * Rule. iptables hands struct xt_trafstat_tginfo to the kernel as target TRAFSTAT. The
 * account that the rule counts into is known by (network namespace, family, name). The
 * four port lists share one pool of ranges; a list names its part of the pool.
 * Everything up to `rule` comes from user space and is compared when a rule is
 * deleted; `rule` is the kernel's own.
 *
 * Revisions. Module and plugin each know the target in every revision from
 * XT_TRAFSTAT_OLDEST_REVISION to XT_TRAFSTAT_REVISION. iptables makes a rule in the highest
 * revision that both know.
 *
 *	revision	since	layout
 *	0		-	the original module's; neither has it
 *	1		0.1.0	struct xt_trafstat_tginfo, its room unchecked
 *	2		0.2.0	the same struct, its room zero
 *
 * The room is what no option has taken yet: in `lists`, `reserved` of every list and `start`
 * of one without ranges; in `ranges`, what lies behind the last range of every list; in
 * `flags`, the bits without a name. A module refuses a rule of revision 2 with anything in the
 * room that it does not know (EINVAL, and the kernel's log says that the module is older
 * than the plugin). In revision 1 it checks `flags` alone and ignores the rest.
 *
 * - A new option needs no new revision. It takes a bit of `flags` or a `reserved` field; once
 *   they are taken, bytes at the end of `ranges`, from the last byte downwards, which lists
 *   of a rule with this option cannot have. Zero means that the option is not given, so a
 *   rule without it keeps its bytes. Neither side reads or writes it in revision 1.
 * - A new revision is needed when a field changes its place, its size or its meaning, or when
 *   a new option has to go with all XT_TRAFSTAT_MAX_RANGES ranges and finds no room outside
 *   `ranges`. It has a struct of its own, with reserved fields that must be zero. The module
 *   converts it where it checks rules, so that all behind works on one form.
 * - The layout of a revision never changes. Module and plugin drop the oldest revision no
 *   earlier than two years after the first release that has the next one.
 *
 * Versions that differ:
 *
 * - Old plugin, new module: rules are of the plugin's highest revision, which the module knows.
 * - New plugin, old module: the same the other way round. The plugin offers no option that is
 *   newer than the revision. An option in the room of a revision that the module has, but
 *   which the module does not know, is refused as above.
 * - Revisions 1 and 2 of a rule have the same size and, without newer options, the same
 *   bytes. iptables compares those alone, so either plugin deletes and checks for the other's
 *   rules, and iptables-save prints the same text for both.
 * - A plugin of revision 2 lists and saves rules of revision 1. A plugin of revision 1 does the
 *   same with rules of revision 2 in iptables-nft; iptables-legacy prints
 *   "[unsupported revision]" for them, which does not restore.
 * - A plugin prints an option in the room that it does not know as
 *   "--option-of-newer-version", which does not restore either.
 *
 * Snapshot. /proc/net/trafstat/snapshot/{ipv4,ipv6}/NAME reads as one header
 * followed by `records` records of `record_size` bytes each. A reader skips
 * header_size bytes to the first record, so that either may grow at its end.
 * Opening the file for reading closes the account's open epoch, or serves the
 * closed one again, byte for byte, until "ack EPOCH" is written to the file.
 * /proc/net/trafstat/live/{ipv4,ipv6}/NAME reads the open epoch in the same form,
 * flagged LIVE, without disturbing it: counters move meanwhile, a flow may come once
 * for each CPU, and `records`, `recorded`, `closed_ns` and `duration_ns` are 0, so read
 * to the end.
 * A live file whose epoch was closed meanwhile says ESTALE.
 * In packets and in bytes:
 *
 *	seen + extrapolated = recorded + outside + skipped
 *	seen - gso_extra    = what the iptables rule counters say
 *
 * Integers are in host byte order, addresses in network byte order. Bytes are
 * layer-3 bytes: IP header and payload. A reserved field is zero.
 *
 * Versions. Header and record grow at their ends only; header_size and record_size
 * tell how much of them there is. `version` is raised only when a field changes its
 * place or its meaning, and a reader refuses a version that it does not know.
 *
 * - Old reader, new module: the reader skips the bytes behind what it knows. What it
 *   does know keeps its place and meaning, so it stores correct figures.
 * - New reader, old module: a field behind header_size is unknown, which is not 0.
 *   The reader stores it as unknown and does without it.
 * - A reader refuses a header that is shorter than the first of these sizes:
 *
 *	header_size	last field	since
 *	240		name		0.1.0
 *	408		sample		0.2.0
 */
#ifndef _UAPI_XT_TRAFSTAT_H
#define _UAPI_XT_TRAFSTAT_H

#include <linux/types.h>

#define XT_TRAFSTAT_OLDEST_REVISION	1
#define XT_TRAFSTAT_REVISION		2

#define XT_TRAFSTAT_NAME_LEN		32	/* with the NUL */
#define XT_TRAFSTAT_ADDR_LEN		16
#define XT_TRAFSTAT_MAX_RANGES		480

/* An account's limit in records where the rule gives none. */
#define XT_TRAFSTAT_DEFAULT_MAX_ENTRIES	1000000

/* What becomes of the packet after it is counted. */
#define XT_TRAFSTAT_POLICY_CONTINUE	0
#define XT_TRAFSTAT_POLICY_ACCEPT	1
#define XT_TRAFSTAT_POLICY_DROP		2

/* Options that the original had, kept so that saved rules restore unchanged. */
#define XT_TRAFSTAT_RULE_FAST_AGGREGATE	0x01

/* Which ports keep their number in the record; all others become 0. */
#define XT_TRAFSTAT_PORTS_NONE		0
#define XT_TRAFSTAT_PORTS_ALL		1
#define XT_TRAFSTAT_PORTS_LISTED	2

/* Indexes into `lists`. The TCP lists also serve SCTP and DCCP, the UDP lists
 * UDP-Lite.
 */
#define XT_TRAFSTAT_LOCAL_TCP		0
#define XT_TRAFSTAT_LOCAL_UDP		1
#define XT_TRAFSTAT_REMOTE_TCP		2
#define XT_TRAFSTAT_REMOTE_UDP		3
#define XT_TRAFSTAT_LISTS		4

/* Ports first..=last. */
struct xt_trafstat_port_range {
	__u16 first;
	__u16 last;
};

/* ranges[start .. start + count] when mode is LISTED, else start and count are 0. */
struct xt_trafstat_port_list {
	__u16 mode;
	__u16 start;
	__u16 count;
	__u16 reserved;
};

struct xt_trafstat_rule;

struct xt_trafstat_tginfo {
	char  name[XT_TRAFSTAT_NAME_LEN];
	__u8  local_addr[XT_TRAFSTAT_ADDR_LEN];	/* IPv4 in the first four; host bits as typed */
	__u8  prefix_len;
	__u8  policy;
	__u8  flags;
	__u8  dump_priority;			/* 0: not given; no effect */
	__u32 max_entries;			/* in thousands of records; 0: not given */
	__u32 min_pkt_spoof;			/* packets; 0: off */
	__u32 sample_tcp_syn;			/* one in so many packets; 0: off */
	__u32 sample_tcp_any;
	__u32 sample_udp_any;
	struct xt_trafstat_port_list lists[XT_TRAFSTAT_LISTS];
	struct xt_trafstat_port_range ranges[XT_TRAFSTAT_MAX_RANGES];

	/* Kernel only: no part of the comparison, zero in user space. */
	struct xt_trafstat_rule *rule __attribute__((aligned(8)));
};

#define XT_TRAFSTAT_SNAPSHOT_MAGIC	"TRAFSTAT"	/* eight bytes, no NUL */
#define XT_TRAFSTAT_SNAPSHOT_VERSION	1

/* The size of the first header, which every later one begins with. */
#define XT_TRAFSTAT_SNAPSHOT_HEADER_MIN	240

/* The open epoch, from a live file. */
#define XT_TRAFSTAT_SNAPSHOT_LIVE	0x01

#define XT_TRAFSTAT_FAMILY_IPV4		2	/* NFPROTO_IPV4 */
#define XT_TRAFSTAT_FAMILY_IPV6		10	/* NFPROTO_IPV6 */

/* Indexes into `sample`: what is sampled at a rate of its own. */
#define XT_TRAFSTAT_SAMPLE_TCP_SYN	0	/* SYN without ACK, under --sample-tcp-syn */
#define XT_TRAFSTAT_SAMPLE_TCP_ANY	1	/* other TCP; SYN too without that option */
#define XT_TRAFSTAT_SAMPLE_UDP_ANY	2
#define XT_TRAFSTAT_SAMPLE_CLASSES	3

/*
 * What sampling took of one class. Each socket buffer is taken or not by a random
 * decision of its own, of probability 1/N (RFC 5475, section 5.2.2.2); one that is
 * taken counts N times. A buffer is one packet, or several that offloading merged.
 *
 * The variances are sums over the buffers that were taken, 128 bits each, the lower
 * 64 first. They are unbiased estimates of the variance of the class's packets and
 * bytes as the records have them: their square roots are the standard errors.
 */
struct xt_trafstat_sample {
	__u64 packets;			/* that were taken, before multiplication */
	__u64 packet_variance[2];	/* sum of N * (N - 1) * packets^2 */
	__u64 byte_variance[2];		/* sum of N * (N - 1) * bytes^2 */
	__u32 highest_rate;		/* the largest N that a packet met; 0: none met one */
	__u32 reserved;
};

struct xt_trafstat_snapshot_header {
	__u8  magic[8];
	__u16 version;
	__u16 header_size;
	__u16 record_size;
	__u8  family;
	__u8  prefix_len;
	__u8  account_id[16];		/* random, drawn when the account was created */
	__u64 epoch;			/* with account_id, this snapshot's identity; from 1 */
	__u64 records;
	__u64 opened_ns;		/* CLOCK_REALTIME */
	__u64 closed_ns;
	__u64 seen_packets;
	__u64 seen_bytes;
	__u64 extrapolated_packets;
	__u64 extrapolated_bytes;
	__u64 recorded_packets;		/* the sum over the records */
	__u64 recorded_bytes;
	__u64 outside_packets;		/* neither side in the local net */
	__u64 outside_bytes;
	__u64 skipped_packets;		/* left out by sampling */
	__u64 skipped_bytes;
	__u64 gso_extra_packets;	/* wire packets less socket buffers */
	__u64 gso_extra_bytes;
	__u64 folded_packets;		/* the part of recorded that lost its remote side */
	__u64 folded_bytes;
	__u64 max_entries;		/* in records */
	__u32 min_pkt_spoof;
	__u32 flags;
	__u8  local_addr[XT_TRAFSTAT_ADDR_LEN];
	char  name[XT_TRAFSTAT_NAME_LEN];

	/* Behind header_size 240. */
	__u64 duration_ns;		/* from opened to closed by CLOCK_BOOTTIME */
	__u64 unattributed_packets;	/* the part of folded that lost its local side too */
	__u64 unattributed_bytes;
	struct xt_trafstat_sample sample[XT_TRAFSTAT_SAMPLE_CLASSES];
};

/* The remote address and both ports were given up for want of room. */
#define XT_TRAFSTAT_RECORD_FOLDED	0x01

struct xt_trafstat_record_ipv4 {
	__u8  local_ip[4];
	__u8  remote_ip[4];
	__u16 local_port;
	__u16 remote_port;
	__u8  protocol;
	__u8  flags;
	__u16 reserved;
	__u64 sent_packets;		/* by the local side */
	__u64 received_packets;
	__u64 sent_bytes;
	__u64 received_bytes;
	__u64 syn_packets;		/* TCP, SYN without ACK, both directions */
};

struct xt_trafstat_record_ipv6 {
	__u8  local_ip[16];
	__u8  remote_ip[16];
	__u16 local_port;
	__u16 remote_port;
	__u8  protocol;
	__u8  flags;
	__u16 reserved;
	__u64 sent_packets;
	__u64 received_packets;
	__u64 sent_bytes;
	__u64 received_bytes;
	__u64 syn_packets;
};

#endif /* _UAPI_XT_TRAFSTAT_H */
