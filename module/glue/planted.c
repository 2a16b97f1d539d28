// SPDX-License-Identifier: GPL-2.0-only
/*
 * Faults that KASAN must find, one in each language, so that its silence about the
 * rest of the module means something. Linked only into a module made for tests
 * (TRAFSTAT_TESTS), never into one that is used; writing `glue` or `core` to
 * parameter planted_fault commits one.
 *
 * Core has no unsafe code and reads within its slices, so what is wrong here is what
 * C says: that a header is longer than its memory. The read past the end is core's.
 */
#include <linux/bottom_half.h>
#include <linux/ipv6.h>
#include <linux/module.h>
#include <linux/netfilter.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/string.h>

#include <net/ipv6.h>

#include "test_rule.h"

static noinline u8 trafstat_read_past_end(const u8 *bytes, size_t len)
{
	return READ_ONCE(bytes[len]);
}

static int trafstat_commit_in_glue(void)
{
	const size_t len = 20;
	u8 *bytes = kzalloc(len, GFP_KERNEL);

	if (!bytes)
		return -ENOMEM;
	trafstat_read_past_end(bytes, len);
	kfree(bytes);
	return 0;
}

/* A packet with an extension header whose memory ends with the IPv6 header. */
static int trafstat_count_past_end(const struct trafstat_rule_core *rule)
{
	const unsigned int len = sizeof(struct ipv6hdr) + 8;
	struct ipv6hdr *header = kzalloc(sizeof(*header), GFP_KERNEL);

	if (!header)
		return -ENOMEM;
	header->version = 6;
	header->payload_len = htons(len - sizeof(*header));
	header->nexthdr = NEXTHDR_HOP;

	rcu_read_lock();
	local_bh_disable();
	trafstat_count(rule, smp_processor_id(), (const u8 *)header, len, len, NULL);
	local_bh_enable();
	rcu_read_unlock();
	kfree(header);
	return 0;
}

static int trafstat_commit_in_core(void)
{
	struct xt_trafstat_tginfo *info = kzalloc(sizeof(*info), GFP_KERNEL);
	static const u8 random[TRAFSTAT_RANDOM_BYTES];
	struct trafstat_test_rule rule;
	int err;

	if (!info)
		return -ENOMEM;
	/* Of no name and no bits of a prefix: every address is local. */
	err = trafstat_test_rule_init(&rule, info, NFPROTO_IPV6, random);
	kfree(info);
	if (err)
		return err;
	err = trafstat_count_past_end(rule.core);
	trafstat_test_rule_exit(&rule);
	return err;
}

static int trafstat_commit(const char *which, const struct kernel_param *param)
{
	if (sysfs_streq(which, "glue"))
		return trafstat_commit_in_glue();
	if (sysfs_streq(which, "core"))
		return trafstat_commit_in_core();
	return -EINVAL;
}

module_param_call(planted_fault, trafstat_commit, NULL, NULL, 0200);
MODULE_PARM_DESC(planted_fault, "Commits an access out of bounds: glue or core");
