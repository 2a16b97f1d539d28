/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An account with one rule of which iptables knows nothing, for tests that hand packets
 * to core themselves.
 */
#ifndef _TRAFSTAT_TEST_RULE_H
#define _TRAFSTAT_TEST_RULE_H

#include <linux/ip.h>
#include <linux/udp.h>

#include "trafstat.h"

/* What they count for. */
#define TRAFSTAT_TEST_LOCAL	htonl(0x0a000001)

struct trafstat_test_rule {
	struct trafstat_payer payer;
	struct trafstat_account_core *account;
	struct trafstat_rule_core *core;
};

/* Returns 0 or -ENOMEM and may sleep. @random is as for trafstat_account_init(). */
int trafstat_test_rule_init(struct trafstat_test_rule *rule,
			    const struct xt_trafstat_tginfo *info, u8 family,
			    const u8 *random);
/* The same with a rule for TRAFSTAT_TEST_LOCAL and all ports; @max_entries is in thousands. */
int trafstat_test_rule_init_all_ports(struct trafstat_test_rule *rule, u32 max_entries,
				      const u8 *random);
void trafstat_test_rule_exit(struct trafstat_test_rule *rule);

/* A datagram that TRAFSTAT_TEST_LOCAL receives. */
struct trafstat_test_packet {
	struct iphdr ip;
	struct udphdr udp;
};

/* That of a flow, by number; no two of fewer than 2^28 have the same ports. */
struct trafstat_test_packet trafstat_test_packet(__be32 remote, u32 flow);
/* Addresses without an order. */
__be32 trafstat_test_remote(u32 flow);
u32 trafstat_test_count(const struct trafstat_test_rule *rule,
			const struct trafstat_test_packet *packet);

#endif /* _TRAFSTAT_TEST_RULE_H */
