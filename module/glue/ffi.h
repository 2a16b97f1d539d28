/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The boundary between the C of this module and trafstat-core.
 *
 * Everything that decides anything is behind it, in Rust (module/core, through
 * module/ffi). Objects of the Rust side are opaque: C allocates them with the size
 * given here and passes them back. The Rust side of the types, the constants
 * and the functions that C has is generated from this file by `cargo xtask abi`.
 */
#ifndef _TRAFSTAT_FFI_H
#define _TRAFSTAT_FFI_H

#include <linux/types.h>

#include "xt_TRAFSTAT.h"

struct trafstat_account_core;
struct trafstat_rule_core;
struct trafstat_payer;			/* who pays for memory; C's */
struct sk_buff;

/* Where one CPU counts for an account, in even epochs and in odd ones. */
struct trafstat_tables {
	void *account;
	void *tables[2];
};

/* Where a reader stands in a closed epoch; zero is the start, the rest is Rust's. */
struct trafstat_cursor {
	u64 opaque[3];
};

/* A moment by CLOCK_REALTIME and by CLOCK_BOOTTIME. */
struct trafstat_timestamp {
	u64 wall_ns;
	u64 boot_ns;
};

struct trafstat_volume {
	u64 packets;
	u64 bytes;
};

/* What a rule says of its account's limits, as in struct xt_trafstat_tginfo. */
struct trafstat_limits {
	u32 max_entries;
	u32 min_pkt_spoof;
};

/* One account for /proc/net/trafstat/accounts. */
struct trafstat_stats {
	u64 epoch;
	u64 unread;			/* closed and not acknowledged; 0: none */
	struct trafstat_volume seen;
	struct trafstat_volume extrapolated;
	struct trafstat_volume recorded;	/* of closed epochs only */
	struct trafstat_volume outside;
	struct trafstat_volume skipped;
	struct trafstat_volume gso_extra;
	struct trafstat_volume folded;
	struct trafstat_volume unattributed;
	u64 records;
	u64 max_entries;
	u64 memory_bytes;
};

/* What a buffer that stands for several packets is made of. */
struct trafstat_gso {
	u16 size;
	u16 segs;
	u16 header_len;			/* up to a tunnel's inner payload; 0: no tunnel */
	u16 has_transport;		/* each packet has a transport header */
};

/* What trafstat_rule_check() returns. */
#define TRAFSTAT_RULE_VALID	0
#define TRAFSTAT_RULE_OUT_OF_RANGE 1	/* a value is */
#define TRAFSTAT_RULE_UNKNOWN_OPTION 2	/* of a later version */

/* What trafstat_count() returns. */
#define TRAFSTAT_COUNTED	0
#define TRAFSTAT_COUNTED_PREPARE 1	/* and the worker should run */
#define TRAFSTAT_NEED_MORE	2	/* not counted: give more of the packet */

/* trafstat_count() never needs more of a packet than its first so many bytes. */
#define TRAFSTAT_HEADER_BYTES	576

/* ---- Rust, called by C ---- */

size_t trafstat_account_size(void);
size_t trafstat_rule_size(void);

/* Checks a rule that was made in @revision, strings too; what the others take is valid. */
u32 trafstat_rule_check(const struct xt_trafstat_tginfo *info, u8 revision, u8 family);

/*
 * Both return 0 or -ENOMEM and may sleep. @payer stays as long as the object. @random is
 * TRAFSTAT_RANDOM_BYTES random bytes.
 */
#define TRAFSTAT_RANDOM_BYTES	80
int trafstat_account_init(struct trafstat_account_core *account,
			  const struct xt_trafstat_tginfo *info, u8 family,
			  struct trafstat_payer *payer, const u8 *random,
			  const struct trafstat_timestamp *now, u32 cpu_ids);
int trafstat_rule_init(struct trafstat_rule_core *rule,
		       const struct trafstat_account_core *account,
		       const struct xt_trafstat_tginfo *info,
		       struct trafstat_payer *payer, u32 verdict);

/* Whether there is such a CPU; @tables stay where they are while the account lives. */
bool trafstat_account_tables(const struct trafstat_account_core *account, u32 cpu,
			     struct trafstat_tables *tables);

/*
 * The caller guarantees that no packet, worker or reader uses the object any more, and
 * ends its payer afterwards.
 */
void trafstat_account_drop(struct trafstat_account_core *account);
void trafstat_rule_drop(struct trafstat_rule_core *rule);

bool trafstat_account_has_name(const struct trafstat_account_core *account,
			       const struct xt_trafstat_tginfo *info);
bool trafstat_account_has_net(const struct trafstat_account_core *account,
			      const struct xt_trafstat_tginfo *info);
/* The limits of the next epoch. */
void trafstat_account_set_limits(const struct trafstat_account_core *account,
				 const struct trafstat_limits *limits);
/* Nothing was seen that is not acknowledged; of those, no closed epoch waits either. */
bool trafstat_account_is_empty(const struct trafstat_account_core *account);
bool trafstat_account_is_idle(const struct trafstat_account_core *account);
void trafstat_account_stats(const struct trafstat_account_core *account,
			    struct trafstat_stats *stats);

/*
 * The packet path: bottom halves off (on PREEMPT_RT: the CPU's lock held), within
 * an RCU read-side section.
 *
 * The fast paths: both count TCP and UDP without IP options or extension headers, and
 * pass any other packet to trafstat_count_skb(). @header has @header_len readable
 * bytes of @skb, one packet of @len bytes; @tables are this CPU's. They return the
 * rule's verdict.
 */
u32 trafstat_count_ipv4(const struct trafstat_rule_core *rule,
			const struct trafstat_tables *tables,
			const u8 *header, u32 header_len, u64 len, struct sk_buff *skb);
u32 trafstat_count_ipv6(const struct trafstat_rule_core *rule,
			const struct trafstat_tables *tables,
			const u8 *header, u32 header_len, u64 len, struct sk_buff *skb);

/*
 * Counts any packet. @header has @header_len readable bytes of a packet of @len; @gso is
 * NULL for one packet.
 */
u32 trafstat_count(const struct trafstat_rule_core *rule, u32 cpu,
		   const u8 *header, u32 header_len, u32 len,
		   const struct trafstat_gso *gso);

/* The worker; one at a time, may sleep. Returns whether there was memory. */
bool trafstat_prepare(const struct trafstat_account_core *account);

/*
 * The reader; one at a time, may sleep. @context is handed to trafstat_wait_for_writers() and
 * trafstat_go_on().
 * trafstat_close() returns 0 where trafstat_go_on() gave up; called again, it goes on.
 *
 * What reads returns the number of bytes, 0 at the end, or -EAGAIN where there was so
 * much to pass over that others should have a turn before the same call goes on.
 */
u64 trafstat_close(const struct trafstat_account_core *account,
		   const struct trafstat_timestamp *now, void *context);
u64 trafstat_unread(const struct trafstat_account_core *account);
bool trafstat_acknowledge(const struct trafstat_account_core *account, u64 epoch);
ssize_t trafstat_read_snapshot(const struct trafstat_account_core *account,
			       struct trafstat_cursor *cursor, u64 offset,
			       u8 *out, size_t len);
ssize_t trafstat_read_csv(const struct trafstat_account_core *account,
			  struct trafstat_cursor *cursor, u64 offset,
			  u8 *out, size_t len);

/*
 * Anyone, within an RCU read-side section: the open epoch, or -ESTALE where it is no
 * longer @epoch.
 */
ssize_t trafstat_read_live(const struct trafstat_account_core *account,
			   struct trafstat_cursor *cursor, u64 epoch, u64 offset,
			   u8 *out, size_t len);
u64 trafstat_open_epoch(const struct trafstat_account_core *account);

/* ---- C, called by Rust ---- */

/* @cpu: near that CPU, may sleep; TRAFSTAT_ATOMIC: anywhere, must not. NULL without memory. */
#define TRAFSTAT_ATOMIC		0xffffffffU
void *trafstat_alloc(size_t size, u32 cpu, struct trafstat_payer *payer);
/* @size and @payer are those of the allocation. */
void trafstat_free(void *memory, size_t size, struct trafstat_payer *payer);
/* Frees after a grace period; may sleep. */
void trafstat_free_deferred(void *memory, size_t size, struct trafstat_payer *payer);
/* Frees what the end of its payer, which follows, gives back. */
void trafstat_free_with_payer(void *memory);
bool trafstat_has_cpu(u32 cpu);
/* The rest of the packet path: counts @skb with trafstat_count(), returns the verdict. */
u32 trafstat_count_skb(const struct trafstat_rule_core *rule, struct sk_buff *skb);
void trafstat_queue_prepare(const struct trafstat_rule_core *rule);
void trafstat_wait_for_writers(void *context);
/* Lets others run; false where the caller is being killed or another takes its place. */
bool trafstat_go_on(const void *context);

#endif /* _TRAFSTAT_FFI_H */
