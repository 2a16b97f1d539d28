/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the C files of this module share.
 *
 * The waiting rule. Nothing that user space can block is waited for: not under a lock
 * that others take, not under the commit mutex or in the destroy work of nf_tables, not
 * under rtnl or pernet_ops_rwsem, and not in a queue that others need. User space can
 * block an operation on a proc file for ever, since it copies to memory whose page may
 * come from a file system that never answers. These four make the rule hold:
 *
 *  1. Each operation counts itself, in its account and in the module (operation.c). An
 *     account ends by taking that count from 0 to below, which no operation begins from.
 *     So proc_remove(), which waits for operations, finds none; and the kernel refuses to
 *     unload a module that is counted, before anything of it is taken down.
 *  2. An operation holds no lock while it copies from or to user memory, but for the one
 *     of its own open file.
 *  3. Files are removed, accounts freed and grace periods awaited outside all locks.
 *  4. What the host waits for and what users can make long are in different queues.
 *
 * Lifetimes. An account is over when it has no rules, nothing unread and no operation. The
 * last rule's end, an operation's end and a reader's end queue the reap, which ends it:
 * takes it from operations for good, removes its files, then it from the list, and frees
 * it. Until it is ended a rule of its name adopts it. An open file keeps its network
 * namespace. Rules may outlive the namespace; they keep their account then, and it keeps
 * its trafstat_net.
 *
 * Locks, the outer one first:
 *
 *	trafstat_net.create	a rule finds or makes its account; killable
 *	trafstat_account.reading	an epoch is closed, read or acknowledged; killable
 *	trafstat_net.lock	the list of accounts
 *	trafstat_net.rules_lock	the accounts' rules; a spinlock, since the end of a rule
 *				may run where all of the host's rules end
 *	trafstat_account.reader_lock	who reads
 */
#ifndef _TRAFSTAT_H
#define _TRAFSTAT_H

#include <linux/atomic.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <net/net_namespace.h>

#include "ffi.h"

enum trafstat_family {
	TRAFSTAT_IPV4,
	TRAFSTAT_IPV6,
	TRAFSTAT_FAMILIES,
};

/* In the names of folders and in the file of accounts. */
extern const char *const trafstat_family_names[TRAFSTAT_FAMILIES];

struct mem_cgroup;
struct trafstat_tenant;

/* Pays for the memory of an account or rule; knows how much that is. */
struct trafstat_payer {
	struct mem_cgroup *memcg;		/* of the process that made the account or rule */
	struct trafstat_tenant *tenant;		/* NULL: the host */
	atomic_long_t bytes;
};

/* One for each network namespace. */
struct trafstat_net {
	struct kref kref;		/* the namespace's, each account's, the queued work's */
	struct net *net;		/* only until `dead` */
	struct mutex create;
	struct mutex lock;
	spinlock_t rules_lock;
	struct list_head accounts;
	unsigned int ended;		/* accounts, ever; under `lock`, as the next one */
	unsigned int left;		/* of them, those that left the list */
	wait_queue_head_t leaving;	/* for `left` to change */
	bool exiting;			/* its files go, and accounts stay meanwhile */
	bool dead;			/* the namespace and its files are gone */
	bool is_host;			/* of the initial user namespace */
	bool told_of_nat;
	struct work_struct reap;
	struct proc_dir_entry *dir;	/* /proc/net/trafstat */
	struct proc_dir_entry *accounts_file;
	struct proc_dir_entry *snapshot_dirs[TRAFSTAT_FAMILIES];
	struct proc_dir_entry *csv_dirs[TRAFSTAT_FAMILIES];
	struct proc_dir_entry *live_dirs[TRAFSTAT_FAMILIES];
};

struct trafstat_reader;

struct trafstat_account {
	struct list_head list;
	struct list_head over;		/* in a list of those being reaped */
	struct trafstat_net *tn;
	enum trafstat_family family;
	char name[XT_TRAFSTAT_NAME_LEN];
	char local_net[64];
	struct list_head rules;		/* under tn->rules_lock, the last checked one last */
	unsigned int rule_count;
	bool ended;			/* under tn->lock; its files go, and it after them */
	atomic_t operations;		/* under way; below 0: none begins any more */
	struct work_struct prepare;
	unsigned long prepare_after;	/* in jiffies */
	struct mutex reading;
	spinlock_t reader_lock;
	struct trafstat_reader *reader;	/* who has snapshot or csv open */
	struct trafstat_reader *closer;	/* under `reading`: who closes the epoch */
	struct proc_dir_entry *snapshot_file;
	struct proc_dir_entry *csv_file;
	struct proc_dir_entry *live_file;
	struct trafstat_payer payer;
	struct trafstat_account_core *core;
	struct trafstat_tables __percpu *tables;
};

/* A rule as the packet path sees it. */
struct xt_trafstat_rule {
	struct trafstat_tables __percpu *tables;	/* the account's */
	struct trafstat_account *account;
	unsigned int verdict;
	struct list_head list;				/* of the account's rules */
	struct trafstat_limits limits;
	struct trafstat_payer payer;
	u64 core[];					/* struct trafstat_rule_core */
};

/* account.c */
/* Has a rule count into the account that @info names. May sleep, and be killed. */
int trafstat_account_add_rule(struct net *net, u8 nfproto,
			      const struct xt_trafstat_tginfo *info,
			      struct xt_trafstat_rule *rule);
/* No packet is under way through the rule any more. */
void trafstat_account_remove_rule(struct xt_trafstat_rule *rule);
/* Has the reap end the account if it is over. The account may be gone afterwards. */
void trafstat_account_queue_reap(struct trafstat_account *account);
/*
 * Closes the open epoch for @reader; 0 where the caller is being killed or another reader takes
 * its place. `reading` is held.
 */
u64 trafstat_account_close(struct trafstat_account *account, struct trafstat_reader *reader);
struct trafstat_net *trafstat_net(struct net *net);
/*
 * Whether the log has room for a message about @tn. Users share a limit of their own, so that
 * what they have refused leaves out no message about the host.
 */
bool trafstat_may_log(const struct trafstat_net *tn);
#define trafstat_log(tn, print, ...)						\
	do {									\
		if (trafstat_may_log(tn))					\
			print(__VA_ARGS__);					\
	} while (0)
int trafstat_account_init_module(void);
void trafstat_account_exit_module(void);

/* operation.c */
/* An operation on a proc file, on the stack of who executes it. */
struct trafstat_operation {
	struct list_head list;
	struct trafstat_account *account;
	struct task_struct *task;
	unsigned long tell_at;		/* in jiffies; when the log is told of it */
};

/* False where the module or the account goes: the operation must not begin. */
bool trafstat_operation_begin(struct trafstat_operation *operation,
			      struct trafstat_account *account);
void trafstat_operation_end(struct trafstat_operation *operation);
/* No operation begins before trafstat_operations_start(). */
void trafstat_operations_init(struct trafstat_account *account);
void trafstat_operations_start(struct trafstat_account *account);
/* Whether no operation was under way; then none begins any more. */
bool trafstat_operations_stop(struct trafstat_account *account);
/* The module will not fail to initialise any more. */
void trafstat_operations_allow(void);
void trafstat_operation_exit(void);

/* memory.c */
/* What the host waits for, and what users can make long, each in queues of its own. */
struct trafstat_queues {
	struct workqueue_struct *prepare;
	struct workqueue_struct *reap;
};
const struct trafstat_queues *trafstat_queues(bool is_host);
bool trafstat_payer_is_host(const struct trafstat_payer *payer);
/* Returns 0, -ENOMEM, or -EPERM where users may not count. */
int trafstat_payer_init(struct trafstat_payer *payer, struct user_namespace *user_ns);
/* Gives back what it paid for and was not given back; all of that is freed. */
void trafstat_payer_exit(struct trafstat_payer *payer);
/* Pays for what another allocates, if the caps allow it. */
bool trafstat_payer_charge(struct trafstat_payer *payer, size_t bytes);
void trafstat_payer_give_back(struct trafstat_payer *payer, long bytes);
int trafstat_memory_init(void);
void trafstat_memory_exit(void);

/* proc.c */
/* What an open file takes more than one of /proc/net does. */
size_t trafstat_reader_bytes(void);
int trafstat_proc_net_init(struct trafstat_net *tn);
void trafstat_proc_net_exit(struct trafstat_net *tn);
int trafstat_proc_account_add(struct trafstat_account *account);
/* Its operations were stopped. */
void trafstat_proc_account_remove(struct trafstat_account *account);
int trafstat_proc_init(void);
void trafstat_proc_exit(void);

/* target.c */
unsigned int trafstat_newest_revision(void);
int trafstat_target_init(void);
void trafstat_target_exit(void);

#endif /* _TRAFSTAT_H */
