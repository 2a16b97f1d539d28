// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of the accounts: allocation in both contexts at the creator's expense, the
 * caps, and the workqueue that prepares memory ahead of need.
 *
 * Whoever may make a user and a network namespace may make accounts and fill them, so
 * these are charged to the memory cgroup of whoever made the account, whoever's packet
 * or worker allocates. Where that has no limit there are two caps: one over the whole
 * module, and a smaller one over all accounts outside of the initial user namespace, so
 * that something is left for the host's own.
 */
#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/topology.h>
#include <linux/user_namespace.h>

#include "compat.h"
#include "trafstat.h"

static unsigned long max_memory;
module_param(max_memory, ulong, 0444);
MODULE_PARM_DESC(max_memory, "Bytes that all accounts may take (default: 1/16 of RAM)");

static unsigned long max_user_memory;
module_param(max_user_memory, ulong, 0444);
MODULE_PARM_DESC(max_user_memory, "Bytes of max_memory for all accounts in namespaces that users made (default: half)");

static atomic_long_t used_memory = ATOMIC_LONG_INIT(0);
static atomic_long_t used_user_memory = ATOMIC_LONG_INIT(0);

struct workqueue_struct *trafstat_workqueue;

/* Takes from the caps, unless one would be passed. */
static bool trafstat_take(size_t size, u32 share)
{
	if (share == TRAFSTAT_SHARE_USERS &&
	    atomic_long_add_return(size, &used_user_memory) > max_user_memory)
		goto give_back_user;
	if (atomic_long_add_return(size, &used_memory) > max_memory)
		goto give_back;
	return true;

give_back:
	atomic_long_sub(size, &used_memory);
give_back_user:
	if (share == TRAFSTAT_SHARE_USERS)
		atomic_long_sub(size, &used_user_memory);
	return false;
}

static void trafstat_give_back(size_t size, u32 share)
{
	atomic_long_sub(size, &used_memory);
	if (share == TRAFSTAT_SHARE_USERS)
		atomic_long_sub(size, &used_user_memory);
}

/* Possible CPUs that were never there may have no node, or one that is offline. */
static int trafstat_node(u32 cpu)
{
	int node = cpu_to_node(cpu);

	return node != NUMA_NO_NODE && node_online(node) ? node : NUMA_NO_NODE;
}

/*
 * Folding is better than what an allocation that must not fail would do: neither the
 * reserves are touched nor the cgroup's limit passed for a packet, and no process is
 * killed for the worker.
 */
static void *trafstat_alloc_from_kernel(size_t size, u32 cpu, gfp_t account)
{
	if (cpu == TRAFSTAT_ATOMIC)
		return kmalloc(size, GFP_NOWAIT | __GFP_NOWARN | account);
	return kvmalloc_node(size, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN | account,
			     trafstat_node(cpu));
}

void *trafstat_alloc(size_t size, u32 cpu, const struct trafstat_payer *payer)
{
	struct mem_cgroup *before;
	void *memory;

	if (!trafstat_take(size, payer->share))
		return NULL;
	if (trafstat_may_charge()) {
		before = set_active_memcg(payer->memcg);
		memory = trafstat_alloc_from_kernel(size, cpu, __GFP_ACCOUNT);
		set_active_memcg(before);
	} else {
		memory = trafstat_alloc_from_kernel(size, cpu, 0);
	}
	if (!memory)
		trafstat_give_back(size, payer->share);
	return memory;
}

void trafstat_free(void *memory, size_t size, u32 share)
{
	kvfree(memory);
	trafstat_give_back(size, share);
}

void trafstat_free_deferred(void *memory, size_t size, u32 share)
{
	kvfree_rcu_mightsleep(memory);
	trafstat_give_back(size, share);
}

/* The caller pays, for an account in the user namespace @user_ns. */
void trafstat_payer_init(struct trafstat_payer *payer, const struct user_namespace *user_ns)
{
	payer->memcg = get_mem_cgroup_from_mm(current->mm);
	payer->share = user_ns == &init_user_ns ? TRAFSTAT_SHARE_HOST : TRAFSTAT_SHARE_USERS;
}

void trafstat_payer_exit(struct trafstat_payer *payer)
{
	mem_cgroup_put(payer->memcg);
}

bool trafstat_has_cpu(u32 cpu)
{
	return cpu < nr_cpu_ids && cpu_possible(cpu);
}

void trafstat_reschedule(void)
{
	cond_resched();
}

int trafstat_memory_init(void)
{
	if (!max_memory)
		max_memory = (totalram_pages() / 16) << PAGE_SHIFT;
	if (!max_user_memory)
		max_user_memory = max_memory / 2;
	/* High priority: while it lags, flows are folded. */
	trafstat_workqueue = alloc_workqueue("trafstat", WQ_UNBOUND | WQ_HIGHPRI, 0);
	return trafstat_workqueue ? 0 : -ENOMEM;
}

void trafstat_memory_exit(void)
{
	destroy_workqueue(trafstat_workqueue);
}
