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
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <net/netns/generic.h>

#include "trafstat.h"

const char *const trafstat_family_names[TRAFSTAT_FAMILIES] = {
	[TRAFSTAT_IPV4]	= "ipv4",
	[TRAFSTAT_IPV6]	= "ipv6",
};

/* The worker's pause after it found no memory. */
#define PREPARE_PAUSE	(HZ / 10)

/* How long a rule waits for the files of an account of its name to go. */
#define ENDED_TIMEOUT	(2 * HZ)

/* What an account's entries in /proc take. */
#define PROC_BYTES	1024

static unsigned int trafstat_net_id;

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

static struct trafstat_timestamp trafstat_now(void)
{
	return (struct trafstat_timestamp) {
		.wall_ns	= ktime_get_real_ns(),
		.boot_ns	= ktime_get_boottime_ns(),
	};
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

bool trafstat_go_on(const void *context)
{
	const struct trafstat_account *account = context;

	cond_resched();
	return !fatal_signal_pending(current) &&
	       READ_ONCE(account->reader) == account->closer;
}

u64 trafstat_account_close(struct trafstat_account *account, struct trafstat_reader *reader)
{
	const struct trafstat_timestamp now = trafstat_now();

	account->closer = reader;
	return trafstat_close(account->core, &now, account);
}

/* An account that has no core. */
static void trafstat_account_free_empty(struct trafstat_account *account)
{
	struct trafstat_net *tn = account->tn;
	struct trafstat_payer payer = account->payer;

	trafstat_free(account, sizeof(*account), &payer);
	trafstat_payer_exit(&payer);
	kref_put(&tn->kref, trafstat_net_free);
}

static void trafstat_account_free(struct trafstat_account *account)
{
	cancel_work_sync(&account->prepare);
	trafstat_account_drop(account->core);
	free_percpu(account->tables);
	trafstat_free(account->core, trafstat_account_size(), &account->payer);
	trafstat_account_free_empty(account);
}

bool trafstat_may_log(const struct trafstat_net *tn)
{
	/* The log need not say how many messages it left out. */
	static struct ratelimit_state of_host =
		RATELIMIT_STATE_INIT_FLAGS("trafstat_host", DEFAULT_RATELIMIT_INTERVAL,
					   10 * DEFAULT_RATELIMIT_BURST, RATELIMIT_MSG_ON_RELEASE);
	static struct ratelimit_state of_users =
		RATELIMIT_STATE_INIT_FLAGS("trafstat_users", DEFAULT_RATELIMIT_INTERVAL,
					   DEFAULT_RATELIMIT_BURST, RATELIMIT_MSG_ON_RELEASE);

	return __ratelimit(tn->is_host ? &of_host : &of_users);
}

static void trafstat_account_log_discarded(const struct trafstat_account *account)
{
	struct trafstat_stats stats;

	if (!account->tn->is_host && !trafstat_may_log(account->tn))
		return;
	trafstat_account_stats(account->core, &stats);
	pr_info("account %s is discarded, counts of epoch %llu and on were not read; all epochs: %llu packets, %llu bytes\n",
		account->name, stats.unread ?: stats.epoch,
		stats.seen.packets, stats.seen.bytes);
}

/* Whether no rule counts into the account and nothing of it is to be read. */
static bool trafstat_account_is_unused(const struct trafstat_account *account)
{
	if (READ_ONCE(account->rule_count))
		return false;
	/* Its files are gone, and readers with them. */
	if (account->tn->dead || trafstat_account_is_idle(account->core))
		return true;
	/* An epoch without packets waits for its reader, but not for another. */
	return trafstat_account_is_empty(account->core) && !READ_ONCE(account->reader);
}

/*
 * Ends the account if it is over, so that no rule adopts it and no operation begins.
 * trafstat_net.lock is held.
 */
static bool trafstat_account_end(struct trafstat_account *account)
{
	struct trafstat_net *tn = account->tn;

	if (account->ended || (tn->exiting && !tn->dead) || !trafstat_account_is_unused(account) ||
	    !trafstat_operations_stop(account))
		return false;
	/* A reader that came and went between the two may have closed an epoch. */
	if (!trafstat_account_is_unused(account)) {
		trafstat_operations_start(account);
		return false;
	}
	account->ended = true;
	WRITE_ONCE(tn->ended, tn->ended + 1);
	return true;
}

/* Takes an account that was ended off the list. No lock is held. */
static void trafstat_account_leave(struct trafstat_account *account)
{
	struct trafstat_net *tn = account->tn;

	trafstat_proc_account_remove(account);
	mutex_lock(&tn->lock);
	list_del(&account->list);
	WRITE_ONCE(tn->left, tn->left + 1);
	mutex_unlock(&tn->lock);
	wake_up_all(&tn->leaving);
}

/* Frees an account that left the list. No lock is held: this waits for its worker. */
static void trafstat_account_bury(struct trafstat_account *account)
{
	if (!trafstat_account_is_idle(account->core))
		trafstat_account_log_discarded(account);
	/* The caller holds the namespace. */
	trafstat_account_free(account);
}

static void trafstat_net_reap(struct trafstat_net *tn)
{
	struct trafstat_account *account, *next;
	LIST_HEAD(over);

	mutex_lock(&tn->lock);
	list_for_each_entry(account, &tn->accounts, list)
		if (trafstat_account_end(account))
			list_add_tail(&account->over, &over);
	mutex_unlock(&tn->lock);
	/* The end of a namespace waits until all have left, but not for their workers. */
	list_for_each_entry(account, &over, over) {
		trafstat_account_leave(account);
		cond_resched();
	}
	list_for_each_entry_safe(account, next, &over, over) {
		trafstat_account_bury(account);
		cond_resched();
	}
}

static void trafstat_reap_work(struct work_struct *work)
{
	struct trafstat_net *tn = container_of(work, struct trafstat_net, reap);

	trafstat_net_reap(tn);
	kref_put(&tn->kref, trafstat_net_free);
}

static void trafstat_net_queue_reap(struct trafstat_net *tn)
{
	kref_get(&tn->kref);
	if (!queue_work(trafstat_queues(tn->is_host)->reap, &tn->reap))
		kref_put(&tn->kref, trafstat_net_free);
}

void trafstat_account_queue_reap(struct trafstat_account *account)
{
	trafstat_net_queue_reap(account->tn);
}

/* Tells each CPU where it counts. */
static int trafstat_account_spread(struct trafstat_account *account)
{
	unsigned int cpu;

	if (!trafstat_payer_charge(&account->payer,
				   sizeof(struct trafstat_tables) * num_possible_cpus()))
		return -ENOMEM;
	account->tables = alloc_percpu_gfp(struct trafstat_tables, GFP_KERNEL_ACCOUNT);
	if (!account->tables)
		return -ENOMEM;
	for_each_possible_cpu(cpu)
		if (!trafstat_account_tables(account->core, cpu,
					     per_cpu_ptr(account->tables, cpu)))
			return -ENOMEM;
	return 0;
}

static int trafstat_account_fill(struct trafstat_account *account, u8 nfproto,
				 const struct xt_trafstat_tginfo *info)
{
	const struct trafstat_timestamp now = trafstat_now();
	u8 random[TRAFSTAT_RANDOM_BYTES];
	int err;

	get_random_bytes(random, sizeof(random));
	err = trafstat_account_init(account->core, info, nfproto, &account->payer, random,
				    &now, nr_cpu_ids);
	memzero_explicit(random, sizeof(random));
	if (!err)
		err = trafstat_account_spread(account);
	if (!err && !trafstat_payer_charge(&account->payer, PROC_BYTES + trafstat_reader_bytes()))
		err = -ENOMEM;
	return err ?: trafstat_proc_account_add(account);
}

/* An account that nobody knows yet. */
static struct trafstat_account *trafstat_account_alloc(struct trafstat_net *tn, u8 nfproto,
						       const struct xt_trafstat_tginfo *info)
{
	struct trafstat_account *account;
	struct trafstat_payer payer;
	int err;

	err = trafstat_payer_init(&payer, tn->net->user_ns);
	if (err)
		return ERR_PTR(err);
	account = trafstat_alloc(sizeof(*account), 0, &payer);
	if (!account) {
		trafstat_payer_exit(&payer);
		return ERR_PTR(-ENOMEM);
	}
	memset(account, 0, sizeof(*account));
	account->payer = payer;
	account->tn = tn;
	kref_get(&tn->kref);
	account->core = trafstat_alloc(trafstat_account_size(), 0, &account->payer);
	if (!account->core) {
		trafstat_account_free_empty(account);
		return ERR_PTR(-ENOMEM);
	}
	account->family = nfproto == NFPROTO_IPV6 ? TRAFSTAT_IPV6 : TRAFSTAT_IPV4;
	strscpy(account->name, info->name, sizeof(account->name));
	snprintf(account->local_net, sizeof(account->local_net),
		 nfproto == NFPROTO_IPV6 ? "%pI6c/%u" : "%pI4/%u",
		 info->local_addr, info->prefix_len);
	INIT_LIST_HEAD(&account->rules);
	trafstat_operations_init(account);
	mutex_init(&account->reading);
	spin_lock_init(&account->reader_lock);
	INIT_WORK(&account->prepare, trafstat_prepare_work);
	account->prepare_after = jiffies;
	return account;
}

static struct trafstat_account *trafstat_account_create(struct trafstat_net *tn, u8 nfproto,
							const struct xt_trafstat_tginfo *info)
{
	struct trafstat_account *account = trafstat_account_alloc(tn, nfproto, info);
	int err = PTR_ERR_OR_ZERO(account);

	if (!err) {
		err = trafstat_account_fill(account, nfproto, info);
		if (err)
			trafstat_account_free(account);
	}
	return err ? ERR_PTR(err) : account;
}

/* The account of this name, if there is one. trafstat_net.lock is held. */
static struct trafstat_account *trafstat_account_find(struct trafstat_net *tn, u8 nfproto,
						      const struct xt_trafstat_tginfo *info)
{
	bool is_ipv6 = nfproto == NFPROTO_IPV6;
	struct trafstat_account *account;

	list_for_each_entry(account, &tn->accounts, list)
		if ((account->family == TRAFSTAT_IPV6) == is_ipv6 &&
		    trafstat_account_has_name(account->core, info))
			return account;
	return NULL;
}

/* The last checked rule's limits are those of the next epoch. trafstat_net.rules_lock is held. */
static void trafstat_account_apply_limits(struct trafstat_account *account)
{
	struct xt_trafstat_rule *last;

	if (list_empty(&account->rules))
		return;
	last = list_last_entry(&account->rules, struct xt_trafstat_rule, list);
	trafstat_account_set_limits(account->core, &last->limits);
}

static void trafstat_account_take_rule(struct trafstat_account *account,
				       struct xt_trafstat_rule *rule)
{
	struct trafstat_net *tn = account->tn;

	rule->account = account;
	spin_lock(&tn->rules_lock);
	list_add_tail(&rule->list, &account->rules);
	WRITE_ONCE(account->rule_count, account->rule_count + 1);
	trafstat_account_apply_limits(account);
	spin_unlock(&tn->rules_lock);
}

/*
 * Gives the rule to the account of its name, if there is one. Returns -ENOENT if not, and
 * -EAGAIN where the account was ended and is about to leave the list: then @left is how many
 * left it before. One that is over and has another net is ended here and handed out in @over.
 */
static int trafstat_account_adopt(struct trafstat_net *tn, u8 nfproto,
				  const struct xt_trafstat_tginfo *info,
				  struct xt_trafstat_rule *rule, struct trafstat_account **over,
				  unsigned int *left)
{
	struct trafstat_account *account;
	int err = 0;

	mutex_lock(&tn->lock);
	*left = tn->left;
	account = trafstat_account_find(tn, nfproto, info);
	if (!account) {
		err = -ENOENT;
	} else if (account->ended) {
		err = -EAGAIN;
	} else if (trafstat_account_has_net(account->core, info)) {
		trafstat_account_take_rule(account, rule);
	} else if (trafstat_account_end(account)) {
		*over = account;
		err = -ENOENT;
	} else {
		trafstat_log(tn, pr_info, "account %s counts for %s already; give the rule the same --local-net or another --name\n",
			     account->name, account->local_net);
		err = -EEXIST;
	}
	mutex_unlock(&tn->lock);
	return err;
}

/* Waits, not for long, until an account more than @left has left the list. */
static int trafstat_account_await_end(struct trafstat_net *tn, unsigned int left,
				      const struct xt_trafstat_tginfo *info)
{
	long time_left;

	time_left = wait_event_killable_timeout(tn->leaving, READ_ONCE(tn->left) != left,
						ENDED_TIMEOUT);
	if (time_left > 0)
		return 0;
	if (!time_left)
		trafstat_log(tn, pr_info, "account %s of that name is being taken down; try again\n",
			     info->name);
	return time_left ?: -EBUSY;
}

int trafstat_account_add_rule(struct net *net, u8 nfproto,
			      const struct xt_trafstat_tginfo *info,
			      struct xt_trafstat_rule *rule)
{
	struct trafstat_net *tn = trafstat_net(net);
	struct trafstat_account *account, *over = NULL;
	unsigned int left;
	int err;

	err = mutex_lock_killable(&tn->create);
	if (err)
		return err;
	while ((err = trafstat_account_adopt(tn, nfproto, info, rule, &over, &left)) == -EAGAIN) {
		err = trafstat_account_await_end(tn, left, info);
		if (err)
			break;
	}
	if (over) {
		trafstat_account_leave(over);
		trafstat_account_bury(over);
	}
	if (err == -ENOENT) {
		account = trafstat_account_create(tn, nfproto, info);
		err = PTR_ERR_OR_ZERO(account);
		if (!err) {
			mutex_lock(&tn->lock);
			list_add_tail(&account->list, &tn->accounts);
			trafstat_account_take_rule(account, rule);
			mutex_unlock(&tn->lock);
			trafstat_operations_start(account);
		}
	}
	mutex_unlock(&tn->create);
	return err;
}

void trafstat_account_remove_rule(struct xt_trafstat_rule *rule)
{
	struct trafstat_account *account = rule->account;
	struct trafstat_net *tn = account->tn;
	bool is_last;

	/* The account may be gone once it has no rule. */
	kref_get(&tn->kref);
	spin_lock(&tn->rules_lock);
	list_del(&rule->list);
	trafstat_account_apply_limits(account);
	is_last = list_empty(&account->rules);
	WRITE_ONCE(account->rule_count, account->rule_count - 1);
	spin_unlock(&tn->rules_lock);
	if (is_last)
		trafstat_net_queue_reap(tn);
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
	tn->is_host = net->user_ns == &init_user_ns;
	mutex_init(&tn->create);
	mutex_init(&tn->lock);
	spin_lock_init(&tn->rules_lock);
	init_waitqueue_head(&tn->leaving);
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

/*
 * No file is open any more, or the module is unloaded and no operation is under way: so
 * nothing here waits for user space. Rules may outlive the namespace's files, and take
 * their accounts down later.
 */
static void __net_exit trafstat_net_exit(struct net *net)
{
	struct trafstat_net *tn = trafstat_net(net);
	struct trafstat_account *account;

	mutex_lock(&tn->lock);
	tn->exiting = true;
	mutex_unlock(&tn->lock);
	/* None is ended any more, and the files of those that were are about to go. */
	wait_event(tn->leaving, READ_ONCE(tn->left) == READ_ONCE(tn->ended));
	/* Nobody ends or makes an account now, so the list stays as it is. */
	list_for_each_entry(account, &tn->accounts, list)
		trafstat_proc_account_remove(account);
	trafstat_proc_net_exit(tn);
	mutex_lock(&tn->lock);
	tn->dead = true;
	mutex_unlock(&tn->lock);
	trafstat_net_queue_reap(tn);
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
	return register_pernet_subsys(&trafstat_net_ops);
}

void trafstat_account_exit_module(void)
{
	unregister_pernet_subsys(&trafstat_net_ops);
	/* Namespaces queued the end of their accounts. */
	flush_workqueue(trafstat_queues(true)->reap);
	flush_workqueue(trafstat_queues(false)->reap);
}
