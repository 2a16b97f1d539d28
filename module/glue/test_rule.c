// SPDX-License-Identifier: GPL-2.0-only
/*
 * See test_rule.h. Linked only into a module made for tests (TRAFSTAT_TESTS).
 */
#include <linux/cpumask.h>
#include <linux/netfilter.h>
#include <linux/netfilter/x_tables.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/user_namespace.h>

#include "test_rule.h"

#define FIRST_PORT	1024

int trafstat_test_rule_init(struct trafstat_test_rule *rule,
			    const struct xt_trafstat_tginfo *info, u8 family,
			    const u8 *random)
{
	int err = -ENOMEM;

	const struct trafstat_timestamp now = {};

	trafstat_payer_init(&rule->payer, &init_user_ns);
	rule->account = kzalloc(trafstat_account_size(), GFP_KERNEL);
	rule->core = kzalloc(trafstat_rule_size(), GFP_KERNEL);
	if (!rule->account || !rule->core)
		goto free;
	err = trafstat_account_init(rule->account, info, family, &rule->payer, random, &now,
				    nr_cpu_ids);
	if (!err)
		err = trafstat_rule_init(rule->core, rule->account, info, &rule->payer,
					 XT_CONTINUE);
	if (!err)
		return 0;
	trafstat_account_drop(rule->account);
free:
	kfree(rule->core);
	kfree(rule->account);
	trafstat_payer_exit(&rule->payer);
	return err;
}

int trafstat_test_rule_init_all_ports(struct trafstat_test_rule *rule, u32 max_entries,
				      const u8 *random)
{
	struct xt_trafstat_tginfo *info = kzalloc(sizeof(*info), GFP_KERNEL);
	const __be32 local = TRAFSTAT_TEST_LOCAL;
	int list;
	int err;

	if (!info)
		return -ENOMEM;
	memcpy(info->local_addr, &local, sizeof(local));
	info->prefix_len = 32;
	info->max_entries = max_entries;
	for (list = 0; list < XT_TRAFSTAT_LISTS; list++)
		info->lists[list].mode = XT_TRAFSTAT_PORTS_ALL;
	err = trafstat_test_rule_init(rule, info, NFPROTO_IPV4, random);
	kfree(info);
	return err;
}

void trafstat_test_rule_exit(struct trafstat_test_rule *rule)
{
	trafstat_rule_drop(rule->core);
	trafstat_account_drop(rule->account);
	kfree(rule->core);
	kfree(rule->account);
	trafstat_payer_exit(&rule->payer);
}

struct trafstat_test_packet trafstat_test_packet(__be32 remote, u32 flow)
{
	return (struct trafstat_test_packet) {
		.ip.version	= 4,
		.ip.ihl		= 5,
		.ip.protocol	= IPPROTO_UDP,
		.ip.tot_len	= htons(sizeof(struct trafstat_test_packet)),
		.ip.daddr	= TRAFSTAT_TEST_LOCAL,
		.ip.saddr	= remote,
		.udp.dest	= htons(FIRST_PORT + (flow >> 15)),
		.udp.source	= htons(FIRST_PORT + (flow & 0x7fff)),
	};
}

__be32 trafstat_test_remote(u32 flow)
{
	u64 mixed = (u64)flow * 0x9e3779b97f4a7c15ULL;

	return htonl(mixed >> 32);
}

/* On the packet path's terms: bottom halves off, in an RCU read-side section. */
u32 trafstat_test_count(const struct trafstat_test_rule *rule,
			const struct trafstat_test_packet *packet)
{
	return trafstat_count(rule->core, smp_processor_id(), (const u8 *)packet,
			      sizeof(*packet), sizeof(*packet), NULL);
}
