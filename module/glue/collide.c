// SPDX-License-Identifier: GPL-2.0-only
/*
 * What flows cost that are chosen to collide, beside random ones. No packet can be
 * chosen by a key that nobody is told, so core gets them here, with a key that is
 * known. Linked only into a module made for tests (TRAFSTAT_TESTS).
 *
 * Writing FLOWS to parameter collide counts so many random flows, then as many that
 * all have one hash under a certain key, in an account of another key and in one of that
 * key; each flow twice. Reading it has a line for each: its name, flows, records, folded
 * packets, and the nanoseconds of a packet the second time.
 */
#include <linux/bottom_half.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/random.h>
#include <linux/rcupdate.h>

#include "test_rule.h"

#define REMOTE_ADDR	htonl(0xc0a80201)

/* Packets between two chances for others. */
#define BATCH		256

enum kind {
	RANDOM,
	CHOSEN_BLINDLY,
	CHOSEN_BY_KEY,
	KINDS
};

static const char *const kind_names[KINDS] = {
	[RANDOM]		= "random",
	[CHOSEN_BLINDLY]	= "chosen blindly",
	[CHOSEN_BY_KEY]		= "chosen by key",
};

struct outcome {
	u32 flows;
	u64 records;
	u64 folded_packets;
	u64 ns_per_packet;
};

static struct outcome outcomes[KINDS];
static DEFINE_MUTEX(outcomes_lock);

static struct trafstat_test_packet trafstat_packet(enum kind kind, u32 flow)
{
	return trafstat_test_packet(kind == RANDOM ? trafstat_test_remote(flow) : REMOTE_ADDR,
				    flow);
}

static void trafstat_count_flows(const struct trafstat_test_rule *rule, enum kind kind,
				 u32 flows)
{
	u32 flow = 0;

	while (flow < flows) {
		u32 end = min(flow + BATCH, flows);
		bool prepare = false;

		rcu_read_lock();
		local_bh_disable();
		for (; flow < end; flow++) {
			struct trafstat_test_packet packet = trafstat_packet(kind, flow);

			prepare |= trafstat_test_count(rule, &packet) == TRAFSTAT_COUNTED_PREPARE;
		}
		local_bh_enable();
		rcu_read_unlock();
		if (prepare)
			trafstat_prepare(rule->account);
		cond_resched();
	}
}

static int trafstat_measure(enum kind kind, u32 flows, struct outcome *outcome)
{
	const __be32 addresses[] = { TRAFSTAT_TEST_LOCAL, REMOTE_ADDR };
	struct trafstat_test_rule rule;
	struct trafstat_stats stats;
	u8 random[TRAFSTAT_RANDOM_BYTES];
	u64 began;
	int err;

	get_random_bytes(random, sizeof(random));
	/*
	 * Behind the account's id: the key. Where its first word is that of the flows, their
	 * addresses, what the ports are multiplied by is 0. The rest is certain too: it
	 * decides how far the record to fold into stands from its home.
	 */
	if (kind == CHOSEN_BY_KEY) {
		memset(random, 0x5a, sizeof(random));
		memcpy(random + 16, addresses, sizeof(addresses));
	}

	err = trafstat_test_rule_init_all_ports(&rule, 0, random);
	if (err)
		return err;
	trafstat_count_flows(&rule, kind, flows);
	began = ktime_get_ns();
	trafstat_count_flows(&rule, kind, flows);
	outcome->ns_per_packet = div_u64(ktime_get_ns() - began, flows);
	trafstat_account_stats(rule.account, &stats);
	outcome->flows = flows;
	outcome->records = stats.records;
	outcome->folded_packets = stats.folded.packets;
	trafstat_test_rule_exit(&rule);
	return 0;
}

static int trafstat_collide(const char *written, const struct kernel_param *param)
{
	enum kind kind;
	u32 flows;
	int err = kstrtou32(written, 0, &flows);

	if (err)
		return err;
	if (!flows || flows > 1 << 20)
		return -ERANGE;
	mutex_lock(&outcomes_lock);
	for (kind = 0; kind < KINDS && !err; kind++)
		err = trafstat_measure(kind, flows, &outcomes[kind]);
	mutex_unlock(&outcomes_lock);
	return err;
}

static int trafstat_show_collisions(char *page, const struct kernel_param *param)
{
	int len = 0;
	enum kind kind;

	mutex_lock(&outcomes_lock);
	for (kind = 0; kind < KINDS; kind++)
		len += scnprintf(page + len, PAGE_SIZE - len, "%s: %u %llu %llu %llu\n",
				 kind_names[kind], outcomes[kind].flows,
				 outcomes[kind].records, outcomes[kind].folded_packets,
				 outcomes[kind].ns_per_packet);
	mutex_unlock(&outcomes_lock);
	return len;
}

module_param_call(collide, trafstat_collide, trafstat_show_collisions, NULL, 0600);
MODULE_PARM_DESC(collide, "Counts so many flows that collide, beside random ones");
