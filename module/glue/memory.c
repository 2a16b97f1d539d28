// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of the accounts: allocation in both contexts at the creator's expense, the
 * caps, and the queues of the work that nobody waits for.
 *
 * A user who may make a user and a network namespace may make accounts and fill them. So
 * these are charged to the memory cgroup of the process that made the account, whichever
 * packet or worker allocates. Where that has no limit there are three caps: over the whole
 * module, over all accounts outside of the initial user namespace, and over those of one
 * tenant, so that something is left for the host's own accounts and for other tenants'.
 *
 * A cap is in bytes that are really taken: what the allocator rounds up to, memory that
 * waits for the end of a grace period, and readers' buffers count too.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/hashtable.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/topology.h>
#include <linux/user_namespace.h>
#include <linux/vmalloc.h>

#include "compat.h"
#include "trafstat.h"

static long max_memory = -1;
module_param(max_memory, long, 0444);
MODULE_PARM_DESC(max_memory, "Bytes that all accounts may take (default -1: 1/16 of RAM)");

static long max_user_memory = -1;
module_param(max_user_memory, long, 0444);
MODULE_PARM_DESC(max_user_memory, "Bytes of max_memory for all accounts in namespaces that users made (default -1: half; 0: users may not count)");

static long max_tenant_memory = -1;
module_param(max_tenant_memory, long, 0444);
MODULE_PARM_DESC(max_tenant_memory, "Bytes of max_user_memory for all accounts of one user (default -1: an eighth)");

static atomic_long_t used_memory = ATOMIC_LONG_INIT(0);
static atomic_long_t used_user_memory = ATOMIC_LONG_INIT(0);

/*
 * Who is accountable for namespaces: the user that owns the topmost user namespace below
 * the initial one, whatever namespaces were made within it; where that user is root, as
 * with containers of the host, each such namespace by itself.
 */
struct trafstat_tenant {
	struct hlist_node node;
	refcount_t refs;		/* payers', and memory's that waits to be freed */
	kuid_t owner;
	struct user_namespace *user_ns;	/* NULL: all that the owner has */
	atomic_long_t bytes;
};

static DEFINE_HASHTABLE(tenants, 8);
static DEFINE_SPINLOCK(tenants_lock);

static struct trafstat_queues host_queues, user_queues;

const struct trafstat_queues *trafstat_queues(bool is_host)
{
	return is_host ? &host_queues : &user_queues;
}

bool trafstat_payer_is_host(const struct trafstat_payer *payer)
{
	return !payer->tenant;
}

static struct trafstat_tenant *trafstat_tenant_find(kuid_t owner, struct user_namespace *user_ns)
{
	struct trafstat_tenant *tenant;

	hash_for_each_possible(tenants, tenant, node, __kuid_val(owner))
		if (uid_eq(tenant->owner, owner) && tenant->user_ns == user_ns)
			return tenant;
	return NULL;
}

static void trafstat_tenant_free(struct trafstat_tenant *tenant)
{
	if (tenant->user_ns)
		put_user_ns(tenant->user_ns);
	kfree(tenant);
}

static struct trafstat_tenant *trafstat_tenant_get(struct user_namespace *user_ns)
{
	struct trafstat_tenant *tenant, *new;
	kuid_t owner;

	while (user_ns->parent != &init_user_ns)
		user_ns = user_ns->parent;
	owner = user_ns->owner;
	if (!uid_eq(owner, GLOBAL_ROOT_UID))
		user_ns = NULL;

	new = kzalloc(sizeof(*new), GFP_KERNEL_ACCOUNT);
	if (!new)
		return NULL;
	refcount_set(&new->refs, 1);
	new->owner = owner;
	new->user_ns = user_ns ? get_user_ns(user_ns) : NULL;

	spin_lock(&tenants_lock);
	tenant = trafstat_tenant_find(owner, user_ns);
	if (tenant)
		refcount_inc(&tenant->refs);
	else
		hash_add(tenants, &new->node, __kuid_val(owner));
	spin_unlock(&tenants_lock);
	if (!tenant)
		return new;
	trafstat_tenant_free(new);
	return tenant;
}

static void trafstat_tenant_put(struct trafstat_tenant *tenant)
{
	/* The last reference goes under the lock, so that none is found that has none. */
	if (!tenant || !refcount_dec_and_lock(&tenant->refs, &tenants_lock))
		return;
	hash_del(&tenant->node);
	spin_unlock(&tenants_lock);
	trafstat_tenant_free(tenant);
}

static bool trafstat_take_below(atomic_long_t *used, long bytes, long max)
{
	if (atomic_long_add_return(bytes, used) <= max)
		return true;
	atomic_long_sub(bytes, used);
	return false;
}

static void trafstat_give_back(long bytes, struct trafstat_tenant *tenant)
{
	atomic_long_sub(bytes, &used_memory);
	if (!tenant)
		return;
	atomic_long_sub(bytes, &used_user_memory);
	atomic_long_sub(bytes, &tenant->bytes);
}

/*
 * Takes from the caps, unless one would be passed. The narrowest comes first, so that what is
 * refused to one tenant is not missing, meanwhile, to the others and to the host.
 */
static bool trafstat_take(long bytes, struct trafstat_tenant *tenant)
{
	if (!tenant)
		return trafstat_take_below(&used_memory, bytes, max_memory);
	if (!trafstat_take_below(&tenant->bytes, bytes, max_tenant_memory))
		return false;
	if (!trafstat_take_below(&used_user_memory, bytes, max_user_memory))
		goto give_back_tenant;
	if (trafstat_take_below(&used_memory, bytes, max_memory))
		return true;
	atomic_long_sub(bytes, &used_user_memory);
give_back_tenant:
	atomic_long_sub(bytes, &tenant->bytes);
	return false;
}

bool trafstat_payer_charge(struct trafstat_payer *payer, size_t bytes)
{
	if (bytes > LONG_MAX / 2 || !trafstat_take(bytes, payer->tenant))
		return false;
	atomic_long_add(bytes, &payer->bytes);
	return true;
}

void trafstat_payer_give_back(struct trafstat_payer *payer, long bytes)
{
	atomic_long_sub(bytes, &payer->bytes);
	trafstat_give_back(bytes, payer->tenant);
}

/* What is taken for @size bytes: objects of a cache, or whole pages. */
static size_t trafstat_size_from_slab(size_t size)
{
	return kmalloc_size_roundup(size);
}

static size_t trafstat_taken_size(const void *memory, size_t size)
{
	return is_vmalloc_addr(memory) ? PAGE_ALIGN(size) : trafstat_size_from_slab(size);
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

void *trafstat_alloc(size_t size, u32 cpu, struct trafstat_payer *payer)
{
	const size_t most = trafstat_size_from_slab(size);
	struct mem_cgroup *before;
	size_t taken;
	void *memory;

	if (!trafstat_payer_charge(payer, most))
		return NULL;
	if (trafstat_may_charge()) {
		before = set_active_memcg(payer->memcg);
		memory = trafstat_alloc_from_kernel(size, cpu, __GFP_ACCOUNT);
		set_active_memcg(before);
	} else {
		memory = trafstat_alloc_from_kernel(size, cpu, 0);
	}
	taken = memory ? trafstat_taken_size(memory, size) : 0;
	trafstat_payer_give_back(payer, most - taken);
	return memory;
}

void trafstat_free(void *memory, size_t size, struct trafstat_payer *payer)
{
	const size_t taken = trafstat_taken_size(memory, size);

	kvfree(memory);
	trafstat_payer_give_back(payer, taken);
}

void trafstat_free_with_payer(void *memory)
{
	kvfree(memory);
}

/* Memory that readers may still see, and what is given back when it is freed. */
struct trafstat_retired {
	struct rcu_work work;
	void *memory;
	size_t taken;
	struct trafstat_tenant *tenant;
};

static void trafstat_free_retired(struct work_struct *work)
{
	struct trafstat_retired *retired =
		container_of(to_rcu_work(work), struct trafstat_retired, work);

	kvfree(retired->memory);
	trafstat_give_back(retired->taken, retired->tenant);
	trafstat_tenant_put(retired->tenant);
	kfree(retired);
}

/* What the payer paid for is freed later, perhaps after the payer's end. */
static bool trafstat_retire(void *memory, size_t taken, struct trafstat_payer *payer)
{
	struct trafstat_tenant *tenant = payer->tenant;
	struct trafstat_retired *retired;

	retired = kmalloc(sizeof(*retired), GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
	if (!retired)
		return false;
	INIT_RCU_WORK(&retired->work, trafstat_free_retired);
	retired->memory = memory;
	retired->taken = taken;
	retired->tenant = tenant;
	if (tenant)
		refcount_inc(&tenant->refs);
	atomic_long_sub(taken, &payer->bytes);
	queue_rcu_work(trafstat_queues(!tenant)->reap, &retired->work);
	return true;
}

void trafstat_free_deferred(void *memory, size_t size, struct trafstat_payer *payer)
{
	if (payer && trafstat_retire(memory, trafstat_taken_size(memory, size), payer))
		return;
	synchronize_rcu();
	if (payer)
		trafstat_free(memory, size, payer);
	else
		trafstat_free_with_payer(memory);
}

/* The caller pays, for something in the user namespace @user_ns. */
int trafstat_payer_init(struct trafstat_payer *payer, struct user_namespace *user_ns)
{
	struct trafstat_tenant *tenant = NULL;

	if (user_ns != &init_user_ns) {
		if (!max_user_memory)
			return -EPERM;
		tenant = trafstat_tenant_get(user_ns);
		if (!tenant)
			return -ENOMEM;
	}
	payer->memcg = get_mem_cgroup_from_mm(current->mm);
	payer->tenant = tenant;
	atomic_long_set(&payer->bytes, 0);
	return 0;
}

void trafstat_payer_exit(struct trafstat_payer *payer)
{
	trafstat_give_back(atomic_long_read(&payer->bytes), payer->tenant);
	trafstat_tenant_put(payer->tenant);
	mem_cgroup_put(payer->memcg);
}

bool trafstat_has_cpu(u32 cpu)
{
	return cpu < nr_cpu_ids && cpu_possible(cpu);
}

static void trafstat_queues_exit(struct trafstat_queues *queues)
{
	if (queues->prepare)
		destroy_workqueue(queues->prepare);
	if (queues->reap)
		destroy_workqueue(queues->reap);
}

int trafstat_memory_init(void)
{
	if (max_memory < 0)
		max_memory = (long)(totalram_pages() / 16) << PAGE_SHIFT;
	if (max_user_memory < 0)
		max_user_memory = max_memory / 2;
	if (max_tenant_memory < 0)
		max_tenant_memory = max_user_memory / 8;
	/* High priority: while it lags, the host's flows are folded. */
	host_queues.prepare = alloc_workqueue("trafstat", WQ_UNBOUND | WQ_HIGHPRI, 0);
	host_queues.reap = alloc_workqueue("trafstat_reap", WQ_UNBOUND, 0);
	user_queues.prepare = alloc_workqueue("trafstat_users", WQ_UNBOUND, 0);
	user_queues.reap = alloc_workqueue("trafstat_users_reap", WQ_UNBOUND, 0);
	if (host_queues.prepare && host_queues.reap && user_queues.prepare && user_queues.reap)
		return 0;
	trafstat_memory_exit();
	return -ENOMEM;
}

void trafstat_memory_exit(void)
{
	/* Memory that waits for a grace period is queued at its end. */
	rcu_barrier();
	trafstat_queues_exit(&host_queues);
	trafstat_queues_exit(&user_queues);
}
