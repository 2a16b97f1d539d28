// SPDX-License-Identifier: GPL-2.0-only
/*
 * The accounts of a network namespace: found by name, shared by rules, kept until
 * what they counted has been acknowledged.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/err.h>
#include <linux/inet.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/netfilter.h>
#include <linux/percpu.h>
#include <linux/random.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <net/netns/generic.h>

#include "trafstat.h"

const char *const trafstat_family_names[TRAFSTAT_FAMILIES] = {
	[TRAFSTAT_IPV4]	= "ipv4",
	[TRAFSTAT_IPV6]	= "ipv6",
};

/* The worker's pause after it found no memory. */
#define PREPARE_PAUSE	(HZ / 10)

static unsigned int trafstat_net_id;

/*
 * By itself: a reap may wait for some user's reader, and as many as users make
 * namespaces may do so, while nobody's flows are folded for it.
 */
static struct workqueue_struct *reap_workqueue;

struct trafstat_net_ref {
	struct trafstat_net *tn;
};

struct trafstat_net *trafstat_net(struct net *net)
{
	return ((struct trafstat_net_ref *)net_generic(net, trafstat_net_id))->tn;
}

static void trafstat_net_free(struct kref *kref)
{
	kfree(container_of(kref, struct trafstat_net, kref));
}

static void trafstat_prepare_work(struct work_struct *work)
{
	struct trafstat_account *account =
		container_of(work, struct trafstat_account, prepare);

	/* While there is none, not every packet that is folded asks again. */
	if (!trafstat_prepare(account->core))
		WRITE_ONCE(account->prepare_after, jiffies + PREPARE_PAUSE);
}

void trafstat_wait_for_writers(void *context)
{
	struct trafstat_account *account = context;

	/*
	 * Packets count within RCU read-side sections. Once those that saw the
	 * closed epoch are through, none asks the worker to prepare for it again,
	 * and a run that began for it is waited for.
	 */
	synchronize_rcu();
	flush_work(&account->prepare);
}

u64 trafstat_account_close(struct trafstat_account *account)
{
	return trafstat_close(account->core, ktime_get_real_ns(), account);
}

/* An account that has no core. */
static void trafstat_account_free_empty(struct trafstat_account *account)
{
	struct trafstat_net *tn = account->tn;
	struct trafstat_payer payer = account->payer;

	trafstat_free(account, sizeof(*account), payer.share);
	trafstat_payer_exit(&payer);
	kref_put(&tn->kref, trafstat_net_free);
}

static void trafstat_account_free(struct trafstat_account *account)
{
	cancel_work_sync(&account->prepare);
	trafstat_account_drop(account->core);
	free_percpu(account->tables);
	trafstat_free(account->core, trafstat_account_size(), account->payer.share);
	trafstat_account_free_empty(account);
}

static void trafstat_account_log_discarded(const struct trafstat_account *account)
{
	static DEFINE_RATELIMIT_STATE(of_users, DEFAULT_RATELIMIT_INTERVAL,
				      DEFAULT_RATELIMIT_BURST);
	struct trafstat_stats stats;

	if (account->payer.share == TRAFSTAT_SHARE_USERS && !__ratelimit(&of_users))
		return;
	trafstat_account_stats(account->core, &stats);
	pr_info("account %s is discarded, counts of epoch %llu and on were not read; all epochs: %llu packets, %llu bytes\n",
		account->name, stats.unread ?: stats.epoch,
		stats.seen.packets, stats.seen.bytes);
}

/*
 * Whether the account can go. It is taken from its readers then, for good: one that has it open
 * may be closing an epoch or serving one, and queues the next reap at its end.
 */
static bool trafstat_account_is_over(struct trafstat_account *account)
{
	if (account->rules)
		return false;
	/* Its files are gone, and readers with them. */
	if (account->tn->dead)
		return true;
	if (!trafstat_account_is_idle(account->core) ||
	    test_and_set_bit_lock(TRAFSTAT_READER, &account->reader))
		return false;
	/* A reader that came and went between the two may have left an epoch that waits. */
	if (trafstat_account_is_idle(account->core)) {
		set_bit(TRAFSTAT_GONE, &account->reader);
		return true;
	}
	clear_bit_unlock(TRAFSTAT_READER, &account->reader);
	return false;
}

/* Frees the account if nothing needs it. trafstat_net.lock is held. */
static void trafstat_account_reap(struct trafstat_account *account)
{
	if (!trafstat_account_is_over(account))
		return;
	if (!trafstat_account_is_idle(account->core))
		trafstat_account_log_discarded(account);
	list_del(&account->list);
	trafstat_proc_account_remove(account);
	trafstat_account_free(account);
}

static void trafstat_net_reap(struct trafstat_net *tn)
{
	struct trafstat_account *account, *next;

	mutex_lock(&tn->lock);
	list_for_each_entry_safe(account, next, &tn->accounts, list)
		trafstat_account_reap(account);
	mutex_unlock(&tn->lock);
}

static void trafstat_reap_work(struct work_struct *work)
{
	struct trafstat_net *tn = container_of(work, struct trafstat_net, reap);

	trafstat_net_reap(tn);
	kref_put(&tn->kref, trafstat_net_free);
}

void trafstat_net_queue_reap(struct trafstat_net *tn)
{
	kref_get(&tn->kref);
	if (!queue_work(reap_workqueue, &tn->reap))
		kref_put(&tn->kref, trafstat_net_free);
}

void trafstat_net_flush_reap(struct trafstat_net *tn)
{
	flush_work(&tn->reap);
}

/* Tells each CPU where it counts. */
static int trafstat_account_spread(struct trafstat_account *account)
{
	unsigned int cpu;

	account->tables = alloc_percpu_gfp(struct trafstat_tables, GFP_KERNEL_ACCOUNT);
	if (!account->tables)
		return -ENOMEM;
	for_each_possible_cpu(cpu)
		if (!trafstat_account_tables(account->core, cpu,
					     per_cpu_ptr(account->tables, cpu)))
			return -ENOMEM;
	return 0;
}

static struct trafstat_account *
trafstat_account_create(struct trafstat_net *tn, u8 nfproto,
			const struct xt_trafstat_tginfo *info)
{
	struct trafstat_account *account;
	struct trafstat_payer payer;
	u8 random[64];
	int err;

	trafstat_payer_init(&payer, tn->net->user_ns);
	account = trafstat_alloc(sizeof(*account), 0, &payer);
	if (!account) {
		trafstat_payer_exit(&payer);
		err = -ENOMEM;
		goto refuse;
	}
	memset(account, 0, sizeof(*account));
	account->payer = payer;
	account->tn = tn;
	kref_get(&tn->kref);
	account->core = trafstat_alloc(trafstat_account_size(), 0, &account->payer);
	if (!account->core) {
		trafstat_account_free_empty(account);
		err = -ENOMEM;
		goto refuse;
	}
	account->family = nfproto == NFPROTO_IPV6 ? TRAFSTAT_IPV6 : TRAFSTAT_IPV4;
	strscpy(account->name, info->name, sizeof(account->name));
	snprintf(account->local_net, sizeof(account->local_net),
		 nfproto == NFPROTO_IPV6 ? "%pI6c/%u" : "%pI4/%u",
		 info->local_addr, info->prefix_len);
	INIT_WORK(&account->prepare, trafstat_prepare_work);
	account->prepare_after = jiffies;

	get_random_bytes(random, sizeof(random));
	err = trafstat_account_init(account->core, info, nfproto, &account->payer, random,
				    ktime_get_real_ns(), nr_cpu_ids);
	memzero_explicit(random, sizeof(random));
	if (!err)
		err = trafstat_account_spread(account);
	if (!err)
		err = trafstat_proc_account_add(account);
	if (err) {
		trafstat_account_free(account);
		goto refuse;
	}
	list_add_tail(&account->list, &tn->accounts);
	return account;

refuse:
	if (err == -ENOMEM)
		pr_info_ratelimited("no memory for account %s: delete other accounts' rules, or raise max_memory and max_user_memory or the memory cgroup's limit\n",
				    info->name);
	return ERR_PTR(err);
}

/* The account that a rule counts into, one rule more. */
struct trafstat_account *trafstat_account_get(struct net *net, u8 nfproto,
					      const struct xt_trafstat_tginfo *info)
{
	bool is_ipv6 = nfproto == NFPROTO_IPV6;
	struct trafstat_net *tn = trafstat_net(net);
	struct trafstat_account *account;

	/* What an earlier rule left is gone, or it has counts for this one to adopt. */
	trafstat_net_flush_reap(tn);
	mutex_lock(&tn->lock);
	list_for_each_entry(account, &tn->accounts, list) {
		if ((account->family == TRAFSTAT_IPV6) != is_ipv6 ||
		    !trafstat_account_has_name(account->core, info))
			continue;
		if (!trafstat_account_has_net(account->core, info)) {
			pr_info_ratelimited("account %s counts for %s already; give the rule the same --local-net or another --name\n",
					    account->name, account->local_net);
			account = ERR_PTR(-EEXIST);
			goto out;
		}
		trafstat_account_set_limits(account->core, info);
		goto found;
	}
	account = trafstat_account_create(tn, nfproto, info);
	if (IS_ERR(account))
		goto out;
found:
	account->rules++;
out:
	mutex_unlock(&tn->lock);
	return account;
}

/* One rule less; no packet is under way through it any more. */
void trafstat_account_put(struct trafstat_account *account)
{
	struct trafstat_net *tn = account->tn;

	kref_get(&tn->kref);
	mutex_lock(&tn->lock);
	if (!--account->rules)
		trafstat_net_queue_reap(tn);
	mutex_unlock(&tn->lock);
	kref_put(&tn->kref, trafstat_net_free);
}

static int __net_init trafstat_net_init(struct net *net)
{
	struct trafstat_net_ref *ref = net_generic(net, trafstat_net_id);
	struct trafstat_net *tn;
	int err;

	tn = kzalloc(sizeof(*tn), GFP_KERNEL_ACCOUNT);
	if (!tn)
		return -ENOMEM;
	kref_init(&tn->kref);
	tn->net = net;
	mutex_init(&tn->lock);
	INIT_LIST_HEAD(&tn->accounts);
	INIT_WORK(&tn->reap, trafstat_reap_work);
	err = trafstat_proc_net_init(tn);
	if (err) {
		kref_put(&tn->kref, trafstat_net_free);
		return err;
	}
	ref->tn = tn;
	return 0;
}

static void __net_exit trafstat_net_exit(struct net *net)
{
	struct trafstat_net *tn = trafstat_net(net);
	struct trafstat_account *account;

	/* Rules may outlive the namespace's files, and take their accounts down later. */
	mutex_lock(&tn->lock);
	tn->dead = true;
	list_for_each_entry(account, &tn->accounts, list)
		trafstat_proc_account_remove(account);
	mutex_unlock(&tn->lock);
	trafstat_proc_net_exit(tn);
	trafstat_net_flush_reap(tn);
	trafstat_net_reap(tn);
	kref_put(&tn->kref, trafstat_net_free);
}

static struct pernet_operations trafstat_net_ops = {
	.init	= trafstat_net_init,
	.exit	= trafstat_net_exit,
	.id	= &trafstat_net_id,
	.size	= sizeof(struct trafstat_net_ref),
};

int trafstat_account_init_module(void)
{
	int err;

	reap_workqueue = alloc_workqueue("trafstat_reap", WQ_UNBOUND, WQ_MAX_ACTIVE);
	if (!reap_workqueue)
		return -ENOMEM;
	err = register_pernet_subsys(&trafstat_net_ops);
	if (err)
		destroy_workqueue(reap_workqueue);
	return err;
}

void trafstat_account_exit_module(void)
{
	unregister_pernet_subsys(&trafstat_net_ops);
	destroy_workqueue(reap_workqueue);
}
