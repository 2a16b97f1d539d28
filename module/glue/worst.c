// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the most expensive of many packets costs, while its account grows and while its
 * epochs close; and what reading a record costs, beside printing it. For a CPU whose time
 * stamp counter counts instructions. Linked only into a module made for tests
 * (TRAFSTAT_TESTS).
 *
 * Writing FLOWS to parameter worst counts so many flows in the ways of `enum phase`, each
 * packet by itself with interrupts off. Reading it has a line for each: its name, packets,
 * the mean and the most cycles of a packet. Two lines more have the cycles of a record:
 * `read` as a snapshot has it, `printed` of the same fields through seq_printf(). The line
 * `memory` has the account's bytes when it is full of flows, when it has two such epochs, and
 * when the first of them was given up.
 */
#include <linux/bottom_half.h>
#include <linux/irqflags.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/timex.h>

#include "test_rule.h"

/* Packets from one read of a closed epoch to the next. */
#define BETWEEN_READS	16
#define READ_BYTES	65536

enum phase {
	GROWING,		/* new flows; the worker runs as soon as it is asked to */
	ALONE,			/* new flows, no worker */
	KNOWN,			/* the same flows again */
	CLOSED,			/* again, in the epoch after a full one that is unread */
	WHILE_READ,		/* again, while that one is read */
	ACKNOWLEDGED,		/* again, once it was given up */
	PHASES
};

static const char *const phase_names[PHASES] = {
	[GROWING]	= "growing",
	[ALONE]		= "alone",
	[KNOWN]		= "known",
	[CLOSED]	= "closed",
	[WHILE_READ]	= "while read",
	[ACKNOWLEDGED]	= "acknowledged",
};

struct outcome {
	u64 packets;
	u64 cycles;
	u64 most;
};

struct measurement {
	struct trafstat_test_rule rule;
	/* What closing waits for has no work of its own here. */
	struct trafstat_account *context;
	u64 empty;			/* cycles of measuring nothing */
	u8 *bytes;
};

static struct outcome outcomes[PHASES];
static u64 read_cycles, printed_cycles;	/* of a record */
static u64 memory_bytes[3];
static DEFINE_MUTEX(outcomes_lock);

static void trafstat_no_work(struct work_struct *work)
{
}

static u64 trafstat_measure_nothing(void)
{
	u64 least = U64_MAX;
	int run;

	for (run = 0; run < 8; run++) {
		u64 began, took;

		local_irq_disable();
		began = get_cycles();
		took = get_cycles() - began;
		local_irq_enable();
		least = min(least, took);
	}
	return least;
}

static void trafstat_measure_packet(struct measurement *m, enum phase phase, u32 flow)
{
	struct outcome *outcome = &outcomes[phase];
	struct trafstat_test_packet packet =
		trafstat_test_packet(trafstat_test_remote(flow), flow);
	u64 began, took;
	u32 counted;

	rcu_read_lock();
	local_bh_disable();
	local_irq_disable();
	began = get_cycles();
	counted = trafstat_test_count(&m->rule, &packet);
	took = get_cycles() - began;
	local_irq_enable();
	local_bh_enable();
	rcu_read_unlock();

	took -= min(took, m->empty);
	outcome->packets++;
	outcome->cycles += took;
	outcome->most = max(outcome->most, took);
	if (counted == TRAFSTAT_COUNTED_PREPARE && phase != ALONE)
		trafstat_prepare(m->rule.account);
}

static void trafstat_measure_packets(struct measurement *m, enum phase phase, u32 flows)
{
	u32 flow;

	for (flow = 0; flow < flows; flow++) {
		trafstat_measure_packet(m, phase, flow);
		cond_resched();
	}
}

static u64 trafstat_memory(const struct measurement *m)
{
	struct trafstat_stats stats;

	trafstat_account_stats(m->rule.account, &stats);
	return stats.memory_bytes;
}

/* Closes an epoch of all flows; the next one's packets come before, while and after it is read. */
static void trafstat_measure_closing(struct measurement *m, u32 flows)
{
	const struct trafstat_timestamp now = {};
	struct trafstat_cursor cursor = {};
	u64 epoch, offset = 0, reading = 0;
	u32 flow = 0;
	ssize_t len;

	epoch = trafstat_close(m->rule.account, &now, m->context);
	trafstat_measure_packets(m, CLOSED, flows);
	memory_bytes[1] = trafstat_memory(m);
	do {
		u64 began = get_cycles();
		int more;

		len = trafstat_read_snapshot(m->rule.account, &cursor, offset, m->bytes,
					     READ_BYTES);
		reading += get_cycles() - began;
		offset += max(len, (ssize_t)0);
		for (more = 0; more < BETWEEN_READS; more++)
			trafstat_measure_packet(m, WHILE_READ, flow++ % flows);
		cond_resched();
	} while (len);
	read_cycles = div_u64(reading, flows);
	trafstat_acknowledge(m->rule.account, epoch);
	memory_bytes[2] = trafstat_memory(m);
	trafstat_measure_packets(m, ACKNOWLEDGED, flows);
}

static int trafstat_measure_account(struct measurement *m, enum phase growth, u32 flows)
{
	u8 random[TRAFSTAT_RANDOM_BYTES];
	int err;

	get_random_bytes(random, sizeof(random));
	err = trafstat_test_rule_init_all_ports(&m->rule, flows / 1000 + 1, random);
	if (err)
		return err;
	trafstat_measure_packets(m, growth, flows);
	if (growth == GROWING) {
		memory_bytes[0] = trafstat_memory(m);
		trafstat_measure_packets(m, KNOWN, flows);
		trafstat_measure_closing(m, flows);
	}
	trafstat_test_rule_exit(&m->rule);
	return 0;
}

/* The fields of a record, as a module would print them. */
static u64 trafstat_measure_printing(char *page, u32 records)
{
	struct seq_file file = { .buf = page, .size = PAGE_SIZE };
	u64 began = get_cycles();
	u32 record;

	for (record = 0; record < records; record++) {
		const __be32 local = TRAFSTAT_TEST_LOCAL, remote = htonl(record);
		u64 packets = record % 1000, bytes = packets * 700;

		if (file.size - file.count < 256)
			file.count = 0;
		seq_printf(&file, "%u,%pI4,%pI4,%u,%u,%llu,%llu,%llu,%llu,%llu\n", IPPROTO_TCP,
			   &local, &remote, 443, record & 0xffff, packets, packets, bytes,
			   bytes, 1ULL);
		cond_resched();
	}
	return div_u64(get_cycles() - began, records);
}

static int trafstat_measure_all(u32 flows)
{
	struct measurement m = { .empty = trafstat_measure_nothing() };
	int err = -ENOMEM;

	memset(outcomes, 0, sizeof(outcomes));
	m.bytes = kmalloc(READ_BYTES, GFP_KERNEL);
	m.context = kzalloc(sizeof(*m.context), GFP_KERNEL);
	if (!m.bytes || !m.context)
		goto out;
	INIT_WORK(&m.context->prepare, trafstat_no_work);
	err = trafstat_measure_account(&m, GROWING, flows);
	if (!err)
		err = trafstat_measure_account(&m, ALONE, flows);
	printed_cycles = trafstat_measure_printing(m.bytes, flows);
out:
	kfree(m.context);
	kfree(m.bytes);
	return err;
}

static int trafstat_worst(const char *written, const struct kernel_param *param)
{
	u32 flows;
	int err = kstrtou32(written, 0, &flows);

	if (err)
		return err;
	if (!flows || flows > 1 << 20)
		return -ERANGE;
	mutex_lock(&outcomes_lock);
	err = trafstat_measure_all(flows);
	mutex_unlock(&outcomes_lock);
	return err;
}

static int trafstat_show_worst(char *page, const struct kernel_param *param)
{
	enum phase phase;
	int len = 0;

	mutex_lock(&outcomes_lock);
	for (phase = 0; phase < PHASES; phase++) {
		const struct outcome *outcome = &outcomes[phase];

		len += scnprintf(page + len, PAGE_SIZE - len, "%s: %llu %llu %llu\n",
				 phase_names[phase], outcome->packets,
				 div64_u64(outcome->cycles, max(outcome->packets, 1ULL)),
				 outcome->most);
	}
	len += scnprintf(page + len, PAGE_SIZE - len,
			 "read: %llu\nprinted: %llu\nmemory: %llu %llu %llu\n", read_cycles,
			 printed_cycles, memory_bytes[0], memory_bytes[1], memory_bytes[2]);
	mutex_unlock(&outcomes_lock);
	return len;
}

module_param_call(worst, trafstat_worst, trafstat_show_worst, NULL, 0600);
MODULE_PARM_DESC(worst, "Counts so many flows, one packet at a time, and tells the worst");
