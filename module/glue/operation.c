// SPDX-License-Identifier: GPL-2.0-only
/*
 * Operations on proc files under way: counted, so that nothing has to wait for them, and
 * told of in the log where they last, so that an administrator finds who keeps the module.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/ratelimit.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "trafstat.h"

/* An operation that lasts longer is told of in the log, and again as long as it lasts. */
#define LONG_OPERATION	(2 * HZ)
#define TELL_AGAIN	(60 * HZ)

/* The count of an account whose operations were stopped. */
#define STOPPED		INT_MIN

static bool are_allowed;
static LIST_HEAD(operations);
static DEFINE_SPINLOCK(operations_lock);

static void trafstat_operations_watch(struct work_struct *work);
static DECLARE_DELAYED_WORK(watch, trafstat_operations_watch);

/* Users can block as many as they like; the log need not say how many it left out. */
static struct ratelimit_state tell_limit =
	RATELIMIT_STATE_INIT_FLAGS("trafstat_operation", DEFAULT_RATELIMIT_INTERVAL,
				   DEFAULT_RATELIMIT_BURST, RATELIMIT_MSG_ON_RELEASE);

/* What the log is told of an operation, at most of so many at a time. */
#define MESSAGES	10

struct trafstat_message {
	char process[TASK_COMM_LEN];
	pid_t pid;
	char account[XT_TRAFSTAT_NAME_LEN];	/* empty: the list of accounts */
};

/* Takes down what to tell of those that last. Returns how many, or -1 if none is under way. */
static int trafstat_operations_look(struct trafstat_message messages[MESSAGES])
{
	struct trafstat_operation *operation;
	struct trafstat_message *message;
	int count = 0;

	spin_lock(&operations_lock);
	if (list_empty(&operations))
		count = -1;
	list_for_each_entry(operation, &operations, list) {
		if (time_before(jiffies, operation->tell_at))
			continue;
		operation->tell_at = jiffies + TELL_AGAIN;
		if (count == MESSAGES || !__ratelimit(&tell_limit))
			continue;
		message = &messages[count++];
		get_task_comm(message->process, operation->task);
		message->pid = task_pid_nr(operation->task);
		strscpy(message->account, operation->account ? operation->account->name : "",
			sizeof(message->account));
	}
	spin_unlock(&operations_lock);
	return count;
}

/* A console may be slow: the lock that each operation takes is not held while it prints. */
static void trafstat_operations_watch(struct work_struct *work)
{
	static struct trafstat_message messages[MESSAGES];
	int count = trafstat_operations_look(messages), n;

	for (n = 0; n < count; n++)
		pr_info("process %s (%d) is blocked while it uses %s%s below /proc/net/trafstat: the module cannot be unloaded until it goes on or is killed; where a kill does not end it, abort its connection below /sys/fs/fuse/connections\n",
			messages[n].process, messages[n].pid,
			messages[n].account[0] ? "account " : "the list of accounts",
			messages[n].account);
	if (count >= 0)
		schedule_delayed_work(&watch, LONG_OPERATION / 2);
}

void trafstat_operations_allow(void)
{
	WRITE_ONCE(are_allowed, true);
}

bool trafstat_operation_begin(struct trafstat_operation *operation,
			      struct trafstat_account *account)
{
	bool is_first;

	/*
	 * Where the module's initialisation fails, files are removed again: no operation must
	 * have begun by then. The kernel keeps the code until the operation has returned.
	 */
	if (!READ_ONCE(are_allowed) || !try_module_get(THIS_MODULE))
		return false;
	if (account && !atomic_inc_unless_negative(&account->operations)) {
		module_put(THIS_MODULE);
		return false;
	}
	*operation = (struct trafstat_operation) {
		.account	= account,
		.task		= current,
		.tell_at	= jiffies + LONG_OPERATION,
	};
	spin_lock(&operations_lock);
	is_first = list_empty(&operations);
	list_add_tail(&operation->list, &operations);
	spin_unlock(&operations_lock);
	if (is_first)
		schedule_delayed_work(&watch, LONG_OPERATION);
	return true;
}

void trafstat_operation_end(struct trafstat_operation *operation)
{
	struct trafstat_account *account = operation->account;

	spin_lock(&operations_lock);
	list_del(&operation->list);
	spin_unlock(&operations_lock);
	/*
	 * Ordered before the look at the rules: either the reap that the last rule queued
	 * finds no operation, or this one finds no rule. The account's file, which this
	 * operation is on, keeps it until the operation has returned.
	 */
	if (account && atomic_dec_and_test(&account->operations) &&
	    !READ_ONCE(account->rule_count))
		trafstat_account_queue_reap(account);
	module_put(THIS_MODULE);
}

bool trafstat_operations_stop(struct trafstat_account *account)
{
	/* Pairs with the end of an operation, which looks at the rules afterwards. */
	smp_mb();
	return atomic_cmpxchg(&account->operations, 0, STOPPED) == 0;
}

void trafstat_operations_init(struct trafstat_account *account)
{
	atomic_set(&account->operations, STOPPED);
}

void trafstat_operations_start(struct trafstat_account *account)
{
	atomic_set(&account->operations, 0);
}

void trafstat_operation_exit(void)
{
	cancel_delayed_work_sync(&watch);
}
