// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of the flow tables: allocation in both contexts, the cap over the whole
 * module, and the workqueue that prepares memory ahead of need.
 */
#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/topology.h>

#include "compat.h"
#include "trafstat.h"

static unsigned long max_memory;
module_param(max_memory, ulong, 0444);
MODULE_PARM_DESC(max_memory, "Bytes that all flow tables may take (default: 1/16 of RAM)");

static atomic_long_t used_memory = ATOMIC_LONG_INIT(0);

struct workqueue_struct *trafstat_workqueue;

void *trafstat_alloc(size_t size, u32 cpu)
{
	bool atomic = cpu == TRAFSTAT_ATOMIC;
	void *memory;

	if (atomic_long_add_return(size, &used_memory) > max_memory)
		goto refuse;
	if (atomic)
		memory = kmalloc(size, GFP_ATOMIC | __GFP_NOWARN | __GFP_ACCOUNT);
	else
		memory = kvmalloc_node(size, GFP_KERNEL_ACCOUNT | __GFP_NOWARN,
				       cpu_to_node(cpu));
	if (memory)
		return memory;
refuse:
	atomic_long_sub(size, &used_memory);
	return NULL;
}

void trafstat_free(void *memory, size_t size)
{
	kvfree(memory);
	atomic_long_sub(size, &used_memory);
}

void trafstat_free_deferred(void *memory, size_t size)
{
	kvfree_rcu_mightsleep(memory);
	atomic_long_sub(size, &used_memory);
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
	/* High priority: while it lags, flows are folded. */
	trafstat_workqueue = alloc_workqueue("trafstat", WQ_UNBOUND | WQ_HIGHPRI, 0);
	return trafstat_workqueue ? 0 : -ENOMEM;
}

void trafstat_memory_exit(void)
{
	destroy_workqueue(trafstat_workqueue);
}
