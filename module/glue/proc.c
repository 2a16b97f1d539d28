// SPDX-License-Identifier: GPL-2.0-only
/*
 * The files below /proc/net/trafstat, for each network namespace:
 *
 *	accounts		one line an account
 *	snapshot/FAMILY/NAME	the closed epoch, until it is acknowledged
 *	csv/FAMILY/NAME		the same as the original's CSV; its end acknowledges
 *	live/FAMILY/NAME	the open epoch, for anyone who looks
 *
 * /proc/trafstat, the original's folder, is a symbolic link to csv/ipv4.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/user_namespace.h>

#include "trafstat.h"

static ushort csv_mode = 0400;
module_param(csv_mode, ushort, 0444);
MODULE_PARM_DESC(csv_mode, "Permissions of the csv files (default 0400; the original's had 0444)");

static struct proc_dir_entry *original_dir;

/* One read takes no more, so that one reader does not keep others waiting. */
#define READ_BYTES	(16 * PAGE_SIZE)

enum trafstat_reader_kind {
	TRAFSTAT_EXCLUSIVE,		/* of snapshot or csv: the account's one reader */
	TRAFSTAT_GIVES_WAY,		/* the same, until one with CAP_NET_ADMIN comes */
	TRAFSTAT_LIVE,
};

/* An open snapshot, csv or live file. */
struct trafstat_reader {
	struct mutex lock;			/* operations on a shared descriptor */
	struct net *net;			/* stays as long as the file is open */
	struct trafstat_account *account;
	struct trafstat_cursor cursor;
	u64 copied;				/* bytes, up to the end of the last read */
	u64 epoch;				/* the one that is served */
	enum trafstat_reader_kind kind;
	u8 *page;
};

static bool trafstat_may_read(const struct trafstat_net *tn)
{
	return ns_capable(tn->net->user_ns, CAP_NET_ADMIN);
}

/* Keeps the namespace of an open file; fails where it goes. */
static struct net *trafstat_keep_net(const struct trafstat_net *tn)
{
	return maybe_get_net(tn->net);
}

/*
 * The kernel makes the folders' dentries and inodes below /proc/net anew for each open
 * file; those of three folders are more than a file of /proc/net itself takes.
 */
#define PATH_BYTES	3584

size_t trafstat_reader_bytes(void)
{
	return kmalloc_size_roundup(sizeof(struct trafstat_reader)) + PAGE_SIZE + PATH_BYTES;
}

static struct trafstat_reader *trafstat_reader_alloc(struct trafstat_account *account,
						     enum trafstat_reader_kind kind)
{
	struct trafstat_reader *reader;
	struct net *net;
	int err = -ENOMEM;

	net = trafstat_keep_net(account->tn);
	if (!net)
		return ERR_PTR(-ENXIO);
	/* The account has paid for its one reader, who must get in when memory is short. */
	if (kind != TRAFSTAT_EXCLUSIVE &&
	    !trafstat_payer_charge(&account->payer, trafstat_reader_bytes()))
		goto put_net;
	reader = kzalloc(sizeof(*reader), GFP_KERNEL_ACCOUNT);
	if (!reader)
		goto give_back;
	reader->page = kmalloc(PAGE_SIZE, GFP_KERNEL_ACCOUNT);
	if (!reader->page)
		goto free_reader;
	mutex_init(&reader->lock);
	reader->kind = kind;
	reader->net = net;
	reader->account = account;
	return reader;

free_reader:
	kfree(reader);
give_back:
	if (kind != TRAFSTAT_EXCLUSIVE)
		trafstat_payer_give_back(&account->payer, trafstat_reader_bytes());
put_net:
	put_net(net);
	return ERR_PTR(err);
}

static void trafstat_reader_free(struct trafstat_reader *reader)
{
	struct trafstat_payer *payer = &reader->account->payer;
	bool was_charged = reader->kind != TRAFSTAT_EXCLUSIVE;
	struct net *net = reader->net;

	kfree(reader->page);
	kfree(reader);
	if (was_charged)
		trafstat_payer_give_back(payer, trafstat_reader_bytes());
	put_net(net);
}

/* Makes it the account's reader; one that gives way is one no longer. */
static bool trafstat_reader_take(struct trafstat_reader *reader)
{
	struct trafstat_account *account = reader->account;
	bool is_taken;

	spin_lock(&account->reader_lock);
	is_taken = !account->reader || (account->reader->kind == TRAFSTAT_GIVES_WAY &&
					reader->kind == TRAFSTAT_EXCLUSIVE);
	if (is_taken)
		WRITE_ONCE(account->reader, reader);
	spin_unlock(&account->reader_lock);
	return is_taken;
}

static void trafstat_reader_leave(struct trafstat_reader *reader)
{
	struct trafstat_account *account = reader->account;

	spin_lock(&account->reader_lock);
	if (account->reader == reader)
		WRITE_ONCE(account->reader, NULL);
	spin_unlock(&account->reader_lock);
}

/*
 * Begins to close, read or acknowledge as the account's reader: -ESTALE where another took
 * its place. The lock is held on success. No user memory is touched under it.
 */
static int trafstat_reader_lock(struct trafstat_reader *reader)
{
	struct trafstat_account *account = reader->account;
	int err = mutex_lock_killable(&account->reading);

	if (err)
		return err;
	if (READ_ONCE(account->reader) == reader)
		return 0;
	mutex_unlock(&account->reading);
	return -ESTALE;
}

static void trafstat_reader_unlock(struct trafstat_reader *reader)
{
	mutex_unlock(&reader->account->reading);
}

/* Lets others have a turn; false where the reader is being killed or gave way meanwhile. */
static bool trafstat_reader_goes_on(const struct trafstat_reader *reader)
{
	cond_resched();
	return !fatal_signal_pending(current) &&
	       (reader->kind == TRAFSTAT_LIVE || READ_ONCE(reader->account->reader) == reader);
}

static int trafstat_reader_gave_up(void)
{
	return fatal_signal_pending(current) ? -EINTR : -ESTALE;
}

static int trafstat_reader_close_epoch(struct trafstat_reader *reader)
{
	int err = trafstat_reader_lock(reader);

	if (err)
		return err;
	reader->epoch = trafstat_account_close(reader->account, reader);
	trafstat_reader_unlock(reader);
	return reader->epoch ? 0 : trafstat_reader_gave_up();
}

static int trafstat_reader_open(struct trafstat_account *account, struct file *file,
				enum trafstat_reader_kind kind)
{
	struct trafstat_reader *reader = trafstat_reader_alloc(account, kind);
	int err = -EBUSY;

	if (IS_ERR(reader))
		return PTR_ERR(reader);
	if (!trafstat_reader_take(reader))
		goto free;
	err = file->f_mode & FMODE_READ ? trafstat_reader_close_epoch(reader) : 0;
	if (err)
		goto leave;
	file->private_data = reader;
	return 0;

leave:
	trafstat_reader_leave(reader);
free:
	trafstat_reader_free(reader);
	return err;
}

static int trafstat_reader_release(struct inode *inode, struct file *file)
{
	struct trafstat_reader *reader = file->private_data;
	struct trafstat_account *account = reader->account;

	trafstat_reader_leave(reader);
	/*
	 * Either this finds that there is no rule, or the reap that the last rule queued finds
	 * that there is no reader.
	 */
	smp_mb();
	if (!READ_ONCE(account->rule_count))
		trafstat_account_queue_reap(account);
	trafstat_reader_free(reader);
	return 0;
}

/* Puts up to @len of the bytes at @offset into the reader's page. */
typedef ssize_t (*trafstat_fill_fn)(struct trafstat_reader *reader, u64 offset, size_t len);

/* One call of core passes over so much at most; others have a turn before the next one. */
#define trafstat_until_done(reader, call)					\
	({									\
		ssize_t done_;							\
										\
		while ((done_ = (call)) == -EAGAIN)				\
			if (!trafstat_reader_goes_on(reader)) {			\
				done_ = trafstat_reader_gave_up();		\
				break;						\
			}							\
		done_;								\
	})

/*
 * Core's functions are called by their names: kernels with kCFI refuse a call through a
 * pointer to a function of Rust.
 */
static ssize_t trafstat_fill_closed(struct trafstat_reader *reader, u64 offset, size_t len,
				    bool is_csv)
{
	const struct trafstat_account_core *core = reader->account->core;
	ssize_t done = trafstat_reader_lock(reader);

	if (done)
		return done;
	done = trafstat_until_done(reader, is_csv ?
		trafstat_read_csv(core, &reader->cursor, offset, reader->page, len) :
		trafstat_read_snapshot(core, &reader->cursor, offset, reader->page, len));
	/* The end of csv acknowledges. */
	if (!done && is_csv)
		trafstat_acknowledge(core, reader->epoch);
	trafstat_reader_unlock(reader);
	return done;
}

static ssize_t trafstat_fill_snapshot(struct trafstat_reader *reader, u64 offset, size_t len)
{
	return trafstat_fill_closed(reader, offset, len, false);
}

static ssize_t trafstat_fill_csv(struct trafstat_reader *reader, u64 offset, size_t len)
{
	/* io_uring reads anywhere, even where a file has no positions. */
	if (offset != reader->copied)
		return -ESPIPE;
	return trafstat_fill_closed(reader, offset, len, true);
}

static ssize_t trafstat_read_live_once(struct trafstat_reader *reader, u64 offset, size_t len)
{
	ssize_t done;

	rcu_read_lock();
	done = trafstat_read_live(reader->account->core, &reader->cursor, reader->epoch, offset,
				  reader->page, len);
	rcu_read_unlock();
	return done;
}

static ssize_t trafstat_fill_live(struct trafstat_reader *reader, u64 offset, size_t len)
{
	return trafstat_until_done(reader, trafstat_read_live_once(reader, offset, len));
}

/* Copies the next page to user space. The reader's lock is held. */
static ssize_t trafstat_reader_copy(struct trafstat_reader *reader, trafstat_fill_fn fill,
				    char __user *buf, size_t len, loff_t offset)
{
	const struct trafstat_cursor before = reader->cursor;
	ssize_t done = fill(reader, offset, min_t(size_t, len, PAGE_SIZE));

	if (done > 0 && copy_to_user(buf, reader->page, done)) {
		/* The same bytes are read again. */
		reader->cursor = before;
		return -EFAULT;
	}
	if (done > 0)
		reader->copied = offset + done;
	return done;
}

static ssize_t trafstat_reader_read(struct trafstat_reader *reader, trafstat_fill_fn fill,
				    char __user *buf, size_t len, loff_t *ppos)
{
	ssize_t done = 0, copied = 0;

	if (*ppos < 0)
		return -EINVAL;
	len = min_t(size_t, len, READ_BYTES);
	if (!len)
		return 0;
	do {
		done = trafstat_reader_copy(reader, fill, buf + copied, len - copied, *ppos);
		if (done <= 0)
			break;
		copied += done;
		*ppos += done;
		/* Less than a page is the end, or so much that others should have a turn. */
	} while (done == PAGE_SIZE && (size_t)copied < len &&
		 trafstat_reader_goes_on(reader));
	return copied ?: done;
}

/* An operation that reads by @fill. */
static ssize_t trafstat_file_read(struct file *file, trafstat_fill_fn fill, char __user *buf,
				  size_t len, loff_t *ppos)
{
	struct trafstat_reader *reader = file->private_data;
	struct trafstat_operation operation;
	ssize_t done;

	if (!trafstat_operation_begin(&operation, reader->account))
		return -EIO;
	done = mutex_lock_killable(&reader->lock);
	if (!done) {
		done = trafstat_reader_read(reader, fill, buf, len, ppos);
		mutex_unlock(&reader->lock);
	}
	trafstat_operation_end(&operation);
	return done;
}

/* An operation that opens the file of @inode by @open. */
static int trafstat_file_open(struct inode *inode, struct file *file,
			      int (*open)(struct trafstat_account *account, struct file *file))
{
	struct trafstat_account *account = pde_data(inode);
	struct trafstat_operation operation;
	int err;

	if (!trafstat_operation_begin(&operation, account))
		return -ENOENT;
	err = open(account, file);
	trafstat_operation_end(&operation);
	return err;
}

static int trafstat_snapshot_take(struct trafstat_account *account, struct file *file)
{
	if (!trafstat_may_read(account->tn))
		return -EPERM;
	return trafstat_reader_open(account, file, TRAFSTAT_EXCLUSIVE);
}

static int trafstat_snapshot_open(struct inode *inode, struct file *file)
{
	return trafstat_file_open(inode, file, trafstat_snapshot_take);
}

static ssize_t trafstat_snapshot_read(struct file *file, char __user *buf, size_t len,
				      loff_t *ppos)
{
	return trafstat_file_read(file, trafstat_fill_snapshot, buf, len, ppos);
}

/* "ack EPOCH" */
static int trafstat_parse_ack(const char __user *buf, size_t len, u64 *epoch)
{
	static const char verb[] = "ack ";
	char text[32];

	if (len >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, buf, len))
		return -EFAULT;
	text[len] = '\0';
	if (strncmp(text, verb, sizeof(verb) - 1) ||
	    kstrtou64(text + sizeof(verb) - 1, 10, epoch))
		return -EINVAL;
	return 0;
}

static ssize_t trafstat_snapshot_ack(struct trafstat_reader *reader, const char __user *buf,
				     size_t len)
{
	bool done;
	u64 epoch;
	int err;

	err = trafstat_parse_ack(buf, len, &epoch);
	if (!err)
		err = trafstat_reader_lock(reader);
	if (err)
		return err;
	done = trafstat_acknowledge(reader->account->core, epoch);
	trafstat_reader_unlock(reader);
	return done ? len : -ESTALE;
}

static ssize_t trafstat_snapshot_write(struct file *file, const char __user *buf, size_t len,
				       loff_t *ppos)
{
	struct trafstat_reader *reader = file->private_data;
	struct trafstat_operation operation;
	ssize_t done;

	if (!trafstat_operation_begin(&operation, reader->account))
		return -EIO;
	done = trafstat_snapshot_ack(reader, buf, len);
	trafstat_operation_end(&operation);
	return done;
}

static const struct proc_ops trafstat_snapshot_ops = {
	.proc_open	= trafstat_snapshot_open,
	.proc_read	= trafstat_snapshot_read,
	.proc_write	= trafstat_snapshot_write,
	.proc_lseek	= default_llseek,
	.proc_release	= trafstat_reader_release,
};

/*
 * An administrator who makes the files readable by others with csv_mode wants those others
 * to get in, but not to keep the collector out.
 */
static int trafstat_csv_take(struct trafstat_account *account, struct file *file)
{
	bool may_read = trafstat_may_read(account->tn);

	if (!may_read && !(csv_mode & 0044))
		return -EPERM;
	return trafstat_reader_open(account, file,
				    may_read ? TRAFSTAT_EXCLUSIVE : TRAFSTAT_GIVES_WAY);
}

/* The end acknowledges, so the only way there is through all of it. */
static int trafstat_csv_open(struct inode *inode, struct file *file)
{
	return trafstat_file_open(inode, file, trafstat_csv_take) ?:
	       nonseekable_open(inode, file);
}

static ssize_t trafstat_csv_read(struct file *file, char __user *buf, size_t len, loff_t *ppos)
{
	return trafstat_file_read(file, trafstat_fill_csv, buf, len, ppos);
}

static const struct proc_ops trafstat_csv_ops = {
	.proc_open	= trafstat_csv_open,
	.proc_read	= trafstat_csv_read,
	.proc_release	= trafstat_reader_release,
};

static int trafstat_live_take(struct trafstat_account *account, struct file *file)
{
	struct trafstat_reader *reader;

	if (!trafstat_may_read(account->tn))
		return -EPERM;
	reader = trafstat_reader_alloc(account, TRAFSTAT_LIVE);
	if (IS_ERR(reader))
		return PTR_ERR(reader);
	reader->epoch = trafstat_open_epoch(account->core);
	file->private_data = reader;
	return 0;
}

static int trafstat_live_open(struct inode *inode, struct file *file)
{
	return trafstat_file_open(inode, file, trafstat_live_take) ?:
	       nonseekable_open(inode, file);
}

static ssize_t trafstat_live_read(struct file *file, char __user *buf, size_t len, loff_t *ppos)
{
	return trafstat_file_read(file, trafstat_fill_live, buf, len, ppos);
}

static int trafstat_live_release(struct inode *inode, struct file *file)
{
	trafstat_reader_free(file->private_data);
	return 0;
}

static const struct proc_ops trafstat_live_ops = {
	.proc_open	= trafstat_live_open,
	.proc_read	= trafstat_live_read,
	.proc_release	= trafstat_live_release,
};

/* The list of accounts: its head, then a line each. The lock is held from start to stop. */
static void *trafstat_accounts_start(struct seq_file *seq, loff_t *pos)
{
	struct trafstat_net *tn = seq->private;
	int err;

	if (!trafstat_may_read(tn))
		return ERR_PTR(-EPERM);
	err = mutex_lock_killable(&tn->lock);
	if (err)
		return ERR_PTR(err);
	return seq_list_start_head(&tn->accounts, *pos);
}

static void *trafstat_accounts_next(struct seq_file *seq, void *at, loff_t *pos)
{
	struct trafstat_net *tn = seq->private;

	return seq_list_next(at, &tn->accounts, pos);
}

static void trafstat_accounts_stop(struct seq_file *seq, void *at)
{
	struct trafstat_net *tn = seq->private;

	if (!IS_ERR(at))
		mutex_unlock(&tn->lock);
}

static int trafstat_accounts_show(struct seq_file *seq, void *at)
{
	struct trafstat_net *tn = seq->private;
	struct trafstat_account *account;
	struct trafstat_stats s;

	if (at == &tn->accounts) {
		seq_puts(seq, "family name local_net rules epoch unread "
			      "seen_packets seen_bytes extrapolated_packets extrapolated_bytes "
			      "outside_packets outside_bytes skipped_packets skipped_bytes "
			      "gso_extra_packets gso_extra_bytes folded_packets folded_bytes "
			      "records max_entries memory_bytes "
			      "unattributed_packets unattributed_bytes\n");
		return 0;
	}
	account = list_entry(at, struct trafstat_account, list);
	if (account->ended)
		return 0;
	trafstat_account_stats(account->core, &s);
	seq_printf(seq, "%s %s %s %u %llu %llu", trafstat_family_names[account->family],
		   account->name, account->local_net, READ_ONCE(account->rule_count),
		   s.epoch, s.unread);
	seq_printf(seq, " %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu",
		   s.seen.packets, s.seen.bytes,
		   s.extrapolated.packets, s.extrapolated.bytes,
		   s.outside.packets, s.outside.bytes,
		   s.skipped.packets, s.skipped.bytes,
		   s.gso_extra.packets, s.gso_extra.bytes,
		   s.folded.packets, s.folded.bytes);
	seq_printf(seq, " %llu %llu %llu %llu %llu\n", s.records, s.max_entries, s.memory_bytes,
		   s.unattributed.packets, s.unattributed.bytes);
	return 0;
}

static const struct seq_operations trafstat_accounts_seq_ops = {
	.start	= trafstat_accounts_start,
	.next	= trafstat_accounts_next,
	.stop	= trafstat_accounts_stop,
	.show	= trafstat_accounts_show,
};

static int trafstat_accounts_open(struct inode *inode, struct file *file)
{
	struct trafstat_net *tn = pde_data(inode);
	struct net *net = trafstat_keep_net(tn);
	int err;

	if (!net)
		return -ENXIO;
	err = seq_open(file, &trafstat_accounts_seq_ops);
	if (err)
		put_net(net);
	else
		((struct seq_file *)file->private_data)->private = tn;
	return err;
}

static ssize_t trafstat_accounts_read(struct file *file, char __user *buf, size_t len,
				      loff_t *ppos)
{
	struct trafstat_operation operation;
	ssize_t done;

	if (!trafstat_operation_begin(&operation, NULL))
		return -EIO;
	done = seq_read(file, buf, len, ppos);
	trafstat_operation_end(&operation);
	return done;
}

static int trafstat_accounts_release(struct inode *inode, struct file *file)
{
	struct trafstat_net *tn = ((struct seq_file *)file->private_data)->private;
	int err = seq_release(inode, file);

	put_net(tn->net);
	return err;
}

static const struct proc_ops trafstat_accounts_ops = {
	.proc_open	= trafstat_accounts_open,
	.proc_read	= trafstat_accounts_read,
	.proc_lseek	= seq_lseek,
	.proc_release	= trafstat_accounts_release,
};

/* The files of a namespace belong to its root. */
static void trafstat_set_owner(struct proc_dir_entry *entry, const struct trafstat_net *tn)
{
	kuid_t uid = make_kuid(tn->net->user_ns, 0);
	kgid_t gid = make_kgid(tn->net->user_ns, 0);

	proc_set_user(entry, uid_valid(uid) ? uid : GLOBAL_ROOT_UID,
		      gid_valid(gid) ? gid : GLOBAL_ROOT_GID);
}

/* Those that are there before any account is. */
static void trafstat_set_owners(const struct trafstat_net *tn)
{
	int family;

	trafstat_set_owner(tn->accounts_file, tn);
	for (family = 0; family < TRAFSTAT_FAMILIES; family++) {
		trafstat_set_owner(tn->snapshot_dirs[family], tn);
		trafstat_set_owner(tn->csv_dirs[family], tn);
		trafstat_set_owner(tn->live_dirs[family], tn);
	}
}

/* Names are the owner's to list; those of csv also others', as far as they may read it. */
static umode_t trafstat_dir_mode(umode_t file_mode)
{
	umode_t may_read = file_mode & 0444;

	return may_read | may_read >> 2;
}

static struct proc_dir_entry *trafstat_account_file(struct trafstat_account *account,
						    umode_t mode, struct proc_dir_entry *dir,
						    const struct proc_ops *ops)
{
	struct proc_dir_entry *file = proc_create_data(account->name, mode, dir, ops, account);

	if (file)
		trafstat_set_owner(file, account->tn);
	return file;
}

int trafstat_proc_account_add(struct trafstat_account *account)
{
	struct trafstat_net *tn = account->tn;
	enum trafstat_family family = account->family;

	/* A user namespace that was made together with its network knew no root by then. */
	trafstat_set_owners(tn);
	account->snapshot_file = trafstat_account_file(account, 0600, tn->snapshot_dirs[family],
						       &trafstat_snapshot_ops);
	account->csv_file = trafstat_account_file(account, csv_mode & 0444, tn->csv_dirs[family],
						  &trafstat_csv_ops);
	account->live_file = trafstat_account_file(account, 0400, tn->live_dirs[family],
						   &trafstat_live_ops);
	if (account->snapshot_file && account->csv_file && account->live_file)
		return 0;
	trafstat_proc_account_remove(account);
	return -ENOMEM;
}

/* Waits for operations, of which there are none but those that are about to fail. */
void trafstat_proc_account_remove(struct trafstat_account *account)
{
	proc_remove(account->snapshot_file);
	proc_remove(account->csv_file);
	proc_remove(account->live_file);
	account->snapshot_file = NULL;
	account->csv_file = NULL;
	account->live_file = NULL;
}

/* A folder with one for each family in it. */
static bool trafstat_family_dirs(const char *name, umode_t file_mode,
				 struct proc_dir_entry *parent,
				 struct proc_dir_entry *dirs[TRAFSTAT_FAMILIES])
{
	struct proc_dir_entry *dir = proc_mkdir(name, parent);
	int family;

	for (family = 0; dir && family < TRAFSTAT_FAMILIES; family++) {
		dirs[family] = proc_mkdir_mode(trafstat_family_names[family],
					       trafstat_dir_mode(file_mode), dir);
		if (!dirs[family])
			return false;
	}
	return dir;
}

int trafstat_proc_net_init(struct trafstat_net *tn)
{
	tn->dir = proc_net_mkdir(tn->net, "trafstat", tn->net->proc_net);
	if (!tn->dir)
		return -ENOMEM;
	tn->accounts_file = proc_create_data("accounts", 0400, tn->dir, &trafstat_accounts_ops,
					     tn);
	if (!tn->accounts_file ||
	    !trafstat_family_dirs("snapshot", 0600, tn->dir, tn->snapshot_dirs) ||
	    !trafstat_family_dirs("csv", csv_mode, tn->dir, tn->csv_dirs) ||
	    !trafstat_family_dirs("live", 0400, tn->dir, tn->live_dirs)) {
		trafstat_proc_net_exit(tn);
		return -ENOMEM;
	}
	trafstat_set_owners(tn);
	return 0;
}

void trafstat_proc_net_exit(struct trafstat_net *tn)
{
	proc_remove(tn->dir);
}

int trafstat_proc_init(void)
{
	struct path path;

	/* The original module may be there; a second entry of the name makes a WARNING. */
	if (!kern_path("/proc/trafstat", 0, &path)) {
		path_put(&path);
		pr_notice("/proc/trafstat is another's: csv files are below /proc/net/trafstat only\n");
		return 0;
	}
	original_dir = proc_symlink("trafstat", NULL, "self/net/trafstat/csv/ipv4");
	return original_dir ? 0 : -ENOMEM;
}

void trafstat_proc_exit(void)
{
	proc_remove(original_dir);
}
