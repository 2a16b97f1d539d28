/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the C files of this module share.
 *
 * Lifetimes. An account lives while rules count into it or while it holds counts
 * that were not acknowledged; the reap work, which the last rule's end and a
 * reader's end queue, frees it then. Removing its proc files waits for operations on
 * them, and those wait for user memory as long as user space likes: so that happens
 * in the namespace's own work, never in the caller's context, which may serve others.
 * An open file keeps its network namespace. Rules may outlive the namespace; they
 * keep their account then, and it keeps its trafstat_net.
 *
 * Locks. An account's proc files are removed under trafstat_net.lock, so their
 * operations never take it; those of `accounts` do, and that file goes without it.
 */
#ifndef _TRAFSTAT_H
#define _TRAFSTAT_H

#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/types.h>
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

/* One for each network namespace. */
struct trafstat_net {
	struct kref kref;		/* the namespace's, each account's, the queued work's */
	struct net *net;		/* only until `dead` */
	struct mutex lock;
	struct list_head accounts;
	bool dead;			/* the namespace is gone */
	struct work_struct reap;
	struct proc_dir_entry *dir;	/* /proc/net/trafstat */
	struct proc_dir_entry *accounts_file;
	struct proc_dir_entry *snapshot_dirs[TRAFSTAT_FAMILIES];
	struct proc_dir_entry *csv_dirs[TRAFSTAT_FAMILIES];
	struct proc_dir_entry *live_dirs[TRAFSTAT_FAMILIES];
};

/* Bits: snapshot or csv is open; nobody opens them any more. */
enum {
	TRAFSTAT_READER,
	TRAFSTAT_GONE,
};

struct trafstat_account {
	struct list_head list;
	struct trafstat_net *tn;
	enum trafstat_family family;
	char name[XT_TRAFSTAT_NAME_LEN];
	char local_net[64];
	unsigned int rules;
	struct work_struct prepare;
	unsigned long prepare_after;	/* in jiffies */
	unsigned long reader;		/* TRAFSTAT_READER and TRAFSTAT_GONE */
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
	u64 core[];			/* struct trafstat_rule_core */
};

/* account.c */
struct trafstat_account *trafstat_account_get(struct net *net, u8 nfproto,
					      const struct xt_trafstat_tginfo *info);
void trafstat_account_put(struct trafstat_account *account);
/* Frees what nothing needs any more: in its own time, and now. */
void trafstat_net_queue_reap(struct trafstat_net *tn);
void trafstat_net_flush_reap(struct trafstat_net *tn);
u64 trafstat_account_close(struct trafstat_account *account);
struct trafstat_net *trafstat_net(struct net *net);
int trafstat_account_init_module(void);
void trafstat_account_exit_module(void);

/* memory.c */
extern struct workqueue_struct *trafstat_workqueue;
/* Until the payer ends, everything that it paid for is freed. */
void trafstat_payer_init(struct trafstat_payer *payer, const struct user_namespace *user_ns);
void trafstat_payer_exit(struct trafstat_payer *payer);
int trafstat_memory_init(void);
void trafstat_memory_exit(void);

/* proc.c */
int trafstat_proc_net_init(struct trafstat_net *tn);
void trafstat_proc_net_exit(struct trafstat_net *tn);
int trafstat_proc_account_add(struct trafstat_account *account);
void trafstat_proc_account_remove(struct trafstat_account *account);
int trafstat_proc_init(void);
void trafstat_proc_exit(void);

/* target.c */
int trafstat_target_init(void);
void trafstat_target_exit(void);

#endif /* _TRAFSTAT_H */
