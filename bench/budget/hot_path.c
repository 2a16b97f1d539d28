// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The kernel module's Rust object in a program of user space, for a tool that counts
 * instructions: what it counts is the code that the kernel runs, bit by bit.
 *
 *	hot_path FAMILY PROTOCOL PORTS FLOWS [CPUS]
 *
 * FAMILY is 4 or 6, PROTOCOL tcp or udp, PORTS none, listed, all or, where the account has
 * no room for more than a thousand of all, full. Each of FLOWS flows sends a packet to the
 * local address, twice; the second time within measure(). With CPUS all of that happens on
 * each CPU, and measure() is called for one after the other.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#include "ffi.h"

#define HEADER_BYTES 60
#define PACKET_BYTES 100
#define MAX_CPUS 2
#define VERDICT 0xffffffffU

/* What the kernel has for the object; a return goes through a thunk of the kernel's. */
__asm__(".globl __x86_return_thunk\n__x86_return_thunk:\n\tret\n");

/* Nobody has to pay here. */
struct trafstat_payer {
	int unused;
};

void *trafstat_alloc(size_t size, u32 cpu, struct trafstat_payer *payer)
{
	void *memory = NULL;

	(void)cpu;
	(void)payer;
	return posix_memalign(&memory, 64, size) ? NULL : memory;
}

void trafstat_free(void *memory, size_t size, struct trafstat_payer *payer)
{
	(void)size;
	(void)payer;
	free(memory);
}

void trafstat_free_deferred(void *memory, size_t size, struct trafstat_payer *payer)
{
	trafstat_free(memory, size, payer);
}

void trafstat_free_with_payer(void *memory)
{
	free(memory);
}

static u32 cpus = 1;

bool trafstat_has_cpu(u32 cpu)
{
	return cpu < cpus;
}

void trafstat_wait_for_writers(void *context)
{
	(void)context;
}

bool trafstat_go_on(const void *context)
{
	(void)context;
	return true;
}

static struct trafstat_account_core *account;

u32 trafstat_count_skb(const struct trafstat_rule_core *rule, struct sk_buff *skb)
{
	(void)rule;
	(void)skb;
	fputs("hot_path: an eligible packet left the fast path\n", stderr);
	exit(2);
}

void trafstat_queue_prepare(const struct trafstat_rule_core *rule)
{
	(void)rule;
	trafstat_prepare(account);
}

__attribute__((noreturn)) static void die(const char *what)
{
	fprintf(stderr, "hot_path: %s\n", what);
	exit(2);
}

static struct xt_trafstat_tginfo rule_info(bool ipv6, const char *ports)
{
	struct xt_trafstat_tginfo info = { .name = "budget", .max_entries = 4000 };
	unsigned int i;

	if (ipv6) {
		memcpy(info.local_addr, "\x20\x01\x0d\xb8", 4);
		info.local_addr[15] = 1;
		info.prefix_len = 128;
	} else {
		memcpy(info.local_addr, "\xc0\x00\x02\x01", 4);
		info.prefix_len = 32;
	}
	if (!strcmp(ports, "full"))
		info.max_entries = 1;
	info.ranges[0].first = 1000;
	info.ranges[0].last = 65535;
	for (i = 0; i < XT_TRAFSTAT_LISTS; i++) {
		if (!strcmp(ports, "all") || !strcmp(ports, "full")) {
			info.lists[i].mode = XT_TRAFSTAT_PORTS_ALL;
		} else if (!strcmp(ports, "listed")) {
			info.lists[i].mode = XT_TRAFSTAT_PORTS_LISTED;
			info.lists[i].count = 1;
		} else if (strcmp(ports, "none")) {
			die("PORTS is none, listed, all or full");
		}
	}
	return info;
}

/* A packet of the flow with this number. */
static void packet(u8 *p, bool ipv6, bool tcp, u32 flow)
{
	u8 *l4;

	memset(p, 0, HEADER_BYTES);
	if (ipv6) {
		p[0] = 0x60;
		p[6] = tcp ? 6 : 17;
		memcpy(p + 8, "\x20\x01\x0d\xb8", 4);
		p[20] = flow >> 24;
		p[21] = flow >> 16;
		p[23] = 2;
		memcpy(p + 24, "\x20\x01\x0d\xb8", 4);
		p[39] = 1;
		l4 = p + 40;
	} else {
		p[0] = 0x45;
		p[8] = 64;
		p[9] = tcp ? 6 : 17;
		p[12] = 198;
		p[13] = 51 + (flow >> 24);
		p[14] = flow >> 16;
		p[15] = 7;
		memcpy(p + 16, "\xc0\x00\x02\x01", 4);
		l4 = p + 20;
	}
	l4[0] = flow >> 8;
	l4[1] = flow;
	l4[2] = 9;
	l4[3] = 7;
	if (tcp) {
		l4[12] = 0x50;
		l4[13] = 0x10;
	}
}

static void count(const struct trafstat_rule_core *rule, const struct trafstat_tables *tables,
		  bool ipv6, const u8 *bytes)
{
	if ((ipv6 ? trafstat_count_ipv6(rule, tables, bytes, HEADER_BYTES, PACKET_BYTES, NULL) :
		    trafstat_count_ipv4(rule, tables, bytes, HEADER_BYTES, PACKET_BYTES, NULL)) !=
	    VERDICT)
		die("another verdict");
}

/* Here the tool counts. */
__attribute__((noinline)) void measure(const struct trafstat_rule_core *rule,
				       const struct trafstat_tables *tables, bool ipv6,
				       const u8 *packets, u32 flows)
{
	u32 i;

	for (i = 0; i < flows; i++)
		count(rule, tables, ipv6, packets + (size_t)i * HEADER_BYTES);
}

/* And here no longer. */
__attribute__((noinline)) void measured(void)
{
	__asm__ volatile("");
}

int main(int argc, char **argv)
{
	struct trafstat_rule_core *rule;
	struct trafstat_tables tables[MAX_CPUS];
	static const struct trafstat_timestamp now = { 1, 1 };
	struct trafstat_payer payer;
	struct xt_trafstat_tginfo info;
	struct trafstat_stats stats;
	u8 random[TRAFSTAT_RANDOM_BYTES], *packets;
	bool ipv6, tcp;
	u32 flows, cpu, i;

	if (argc != 5 && argc != 6)
		die("hot_path FAMILY PROTOCOL PORTS FLOWS [CPUS]");
	ipv6 = !strcmp(argv[1], "6");
	tcp = !strcmp(argv[2], "tcp");
	info = rule_info(ipv6, argv[3]);
	flows = strtoul(argv[4], NULL, 10);
	if (argc == 6)
		cpus = strtoul(argv[5], NULL, 10);
	if (cpus < 1 || cpus > MAX_CPUS)
		die("CPUS is 1 or 2");

	srand(1);
	for (i = 0; i < sizeof(random); i++)
		random[i] = (u8)(rand() >> 8);
	account = calloc(1, trafstat_account_size());
	rule = calloc(1, trafstat_rule_size());
	packets = calloc(flows, HEADER_BYTES);
	if (!account || !rule || !packets)
		die("no memory");
	if (trafstat_account_init(account, &info, ipv6 ? 10 : 2, &payer, random, &now, cpus) ||
	    trafstat_rule_init(rule, account, &info, &payer, VERDICT))
		die("no account");
	for (i = 0; i < flows; i++)
		packet(packets + (size_t)i * HEADER_BYTES, ipv6, tcp, i);
	for (cpu = 0; cpu < cpus; cpu++) {
		if (!trafstat_account_tables(account, cpu, &tables[cpu]))
			die("no such CPU");
		for (i = 0; i < 2 * flows; i++)
			count(rule, &tables[cpu], ipv6,
			      packets + (size_t)(i % flows) * HEADER_BYTES);
	}
	for (cpu = 0; cpu < cpus; cpu++)
		measure(rule, &tables[cpu], ipv6, packets, flows);
	measured();

	trafstat_account_stats(account, &stats);
	if (stats.seen.packets != 3ull * flows * cpus ||
	    !stats.folded.packets == !strcmp(argv[3], "full"))
		die("not every packet was counted in its flow");
	/* Above are the frames of what was called: none of it is shared. */
	printf("%p\n", (void *)tables);
	return 0;
}
