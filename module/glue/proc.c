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
#include <linux/seq_file.h>
#include <linux/seq_file_net.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/user_namespace.h>

#include "trafstat.h"

static ushort csv_mode = 0400;
module_param(csv_mode, ushort, 0444);
MODULE_PARM_DESC(csv_mode, "Permissions of the csv files (default 0400; the original's had 0444)");

static struct proc_dir_entry *original_dir;

/* At most so many bytes of an epoch are handed out by one read. */
#define READ_BYTES (4 * PAGE_SIZE)

/* An open snapshot, csv or live file. */
struct trafstat_reader {
	struct mutex lock;			/* operations on a shared descriptor */
	struct net *net;			/* stays as long as the file is open */
	struct trafstat_account *account;
	struct trafstat_cursor cursor;
	u64 epoch;				/* the one that is served */
	u8 bytes[];
};

static bool trafstat_may_read(const struct trafstat_account *account)
{
	return ns_capable(account->tn->net->user_ns, CAP_NET_ADMIN);
}

static struct trafstat_reader *trafstat_reader_alloc(struct trafstat_account *account)
{
	struct trafstat_reader *reader;
	struct net *net;

	net = maybe_get_net(account->tn->net);
	if (!net)
		return ERR_PTR(-ENXIO);
	reader = kzalloc(struct_size(reader, bytes, READ_BYTES), GFP_KERNEL_ACCOUNT);
	if (!reader) {
		put_net(net);
		return ERR_PTR(-ENOMEM);
	}
	mutex_init(&reader->lock);
	reader->net = net;
	reader->account = account;
	return reader;
}

static void trafstat_reader_free(struct trafstat_reader *reader)
{
	put_net(reader->net);
	kfree(reader);
}

static int trafstat_reader_open(struct trafstat_account *account, struct file *file)
{
	struct trafstat_reader *reader = trafstat_reader_alloc(account);

	if (IS_ERR(reader))
		return PTR_ERR(reader);
	if (test_and_set_bit_lock(TRAFSTAT_READER, &account->reader)) {
		trafstat_reader_free(reader);
		return test_bit(TRAFSTAT_GONE, &account->reader) ? -ENOENT : -EBUSY;
	}
	if (file->f_mode & FMODE_READ)
		reader->epoch = trafstat_account_close(account);
	file->private_data = reader;
	return 0;
}

static int trafstat_reader_release(struct inode *inode, struct file *file)
{
	struct trafstat_reader *reader = file->private_data;
	struct trafstat_account *account = reader->account;

	clear_bit_unlock(TRAFSTAT_READER, &account->reader);
	trafstat_net_queue_reap(account->tn);
	trafstat_reader_free(reader);
	return 0;
}

typedef size_t (*trafstat_read_fn)(const struct trafstat_account_core *account,
				   struct trafstat_cursor *cursor, u64 offset,
				   u8 *out, size_t len);

/* Copies the next bytes to user space. The reader's lock is held. */
static ssize_t trafstat_reader_read(struct trafstat_reader *reader, trafstat_read_fn read,
				    char __user *buf, size_t len, loff_t *ppos)
{
	if (*ppos < 0)
		return -EINVAL;
	len = min_t(size_t, len, READ_BYTES);
	len = read(reader->account->core, &reader->cursor, *ppos, reader->bytes, len);
	if (copy_to_user(buf, reader->bytes, len))
		return -EFAULT;
	*ppos += len;
	return len;
}

static int trafstat_snapshot_open(struct inode *inode, struct file *file)
{
	struct trafstat_account *account = pde_data(inode);

	return trafstat_may_read(account) ? trafstat_reader_open(account, file) : -EPERM;
}

static ssize_t trafstat_snapshot_read(struct file *file, char __user *buf, size_t len,
				      loff_t *ppos)
{
	struct trafstat_reader *reader = file->private_data;
	ssize_t done;

	mutex_lock(&reader->lock);
	done = trafstat_reader_read(reader, trafstat_read_snapshot, buf, len, ppos);
	mutex_unlock(&reader->lock);
	return done;
}

/* "ack EPOCH" */
static ssize_t trafstat_snapshot_write(struct file *file, const char __user *buf, size_t len,
				       loff_t *ppos)
{
	static const char verb[] = "ack ";
	struct trafstat_reader *reader = file->private_data;
	char text[32];
	u64 epoch;
	bool done;

	if (len >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, buf, len))
		return -EFAULT;
	text[len] = '\0';
	if (strncmp(text, verb, sizeof(verb) - 1) ||
	    kstrtou64(text + sizeof(verb) - 1, 10, &epoch))
		return -EINVAL;

	mutex_lock(&reader->lock);
	done = trafstat_acknowledge(reader->account->core, epoch);
	mutex_unlock(&reader->lock);
	return done ? len : -ESTALE;
}

static const struct proc_ops trafstat_snapshot_ops = {
	.proc_open	= trafstat_snapshot_open,
	.proc_read	= trafstat_snapshot_read,
	.proc_write	= trafstat_snapshot_write,
	.proc_lseek	= default_llseek,
	.proc_release	= trafstat_reader_release,
};

/*
 * The end acknowledges, so the only way there is through all of it. Who made the
 * files readable by others with csv_mode wants those others to get in.
 */
static int trafstat_csv_open(struct inode *inode, struct file *file)
{
	struct trafstat_account *account = pde_data(inode);
	bool shared = csv_mode & 0044;

	if (!shared && !trafstat_may_read(account))
		return -EPERM;
	return trafstat_reader_open(account, file) ?: nonseekable_open(inode, file);
}

static ssize_t trafstat_csv_read(struct file *file, char __user *buf, size_t len, loff_t *ppos)
{
	struct trafstat_reader *reader = file->private_data;
	ssize_t done;

	if (!len)
		return 0;
	mutex_lock(&reader->lock);
	done = trafstat_reader_read(reader, trafstat_read_csv, buf, len, ppos);
	if (!done)
		trafstat_acknowledge(reader->account->core, reader->epoch);
	mutex_unlock(&reader->lock);
	return done;
}

static const struct proc_ops trafstat_csv_ops = {
	.proc_open	= trafstat_csv_open,
	.proc_read	= trafstat_csv_read,
	.proc_release	= trafstat_reader_release,
};

static int trafstat_live_open(struct inode *inode, struct file *file)
{
	struct trafstat_account *account = pde_data(inode);
	struct trafstat_reader *reader;

	if (!trafstat_may_read(account))
		return -EPERM;
	reader = trafstat_reader_alloc(account);
	if (IS_ERR(reader))
		return PTR_ERR(reader);
	reader->epoch = trafstat_open_epoch(account->core);
	file->private_data = reader;
	return nonseekable_open(inode, file);
}

static ssize_t trafstat_live_read(struct file *file, char __user *buf, size_t len, loff_t *ppos)
{
	struct trafstat_reader *reader = file->private_data;
	ssize_t done;

	len = min_t(size_t, len, READ_BYTES);
	mutex_lock(&reader->lock);
	rcu_read_lock();
	done = trafstat_read_live(reader->account->core, &reader->cursor, reader->epoch, *ppos,
				  reader->bytes, len);
	rcu_read_unlock();
	if (done > 0 && copy_to_user(buf, reader->bytes, done))
		done = -EFAULT;
	if (done > 0)
		*ppos += done;
	mutex_unlock(&reader->lock);
	return done;
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

static int trafstat_accounts_show(struct seq_file *seq, void *v)
{
	struct net *net = seq_file_single_net(seq);
	struct trafstat_net *tn = trafstat_net(net);
	struct trafstat_account *account;
	struct trafstat_stats s;

	if (!ns_capable(net->user_ns, CAP_NET_ADMIN))
		return -EPERM;
	seq_puts(seq, "family name local_net rules epoch unread "
		      "seen_packets seen_bytes extrapolated_packets extrapolated_bytes "
		      "outside_packets outside_bytes skipped_packets skipped_bytes "
		      "gso_extra_packets gso_extra_bytes folded_packets folded_bytes "
		      "records max_entries memory_bytes\n");
	trafstat_net_flush_reap(tn);
	mutex_lock(&tn->lock);
	list_for_each_entry(account, &tn->accounts, list) {
		trafstat_account_stats(account->core, &s);
		seq_printf(seq, "%s %s %s %u %llu %llu", trafstat_family_names[account->family],
			   account->name, account->local_net, account->rules, s.epoch, s.unread);
		seq_printf(seq, " %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu",
			   s.seen.packets, s.seen.bytes,
			   s.extrapolated.packets, s.extrapolated.bytes,
			   s.outside.packets, s.outside.bytes,
			   s.skipped.packets, s.skipped.bytes,
			   s.gso_extra.packets, s.gso_extra.bytes,
			   s.folded.packets, s.folded.bytes);
		seq_printf(seq, " %llu %llu %llu\n", s.records, s.max_entries, s.memory_bytes);
	}
	mutex_unlock(&tn->lock);
	return 0;
}

/* The files of a namespace belong to its root. */
static void trafstat_set_owner(struct proc_dir_entry *entry, const struct trafstat_net *tn)
{
	kuid_t uid = make_kuid(tn->net->user_ns, 0);
	kgid_t gid = make_kgid(tn->net->user_ns, 0);

	proc_set_user(entry, uid_valid(uid) ? uid : GLOBAL_ROOT_UID,
		      gid_valid(gid) ? gid : GLOBAL_ROOT_GID);
}

int trafstat_proc_account_add(struct trafstat_account *account)
{
	struct trafstat_net *tn = account->tn;

	/* A user namespace that was made together with its network knew no root by then. */
	trafstat_set_owner(tn->accounts_file, tn);
	account->snapshot_file = proc_create_data(account->name, 0600,
						  tn->snapshot_dirs[account->family],
						  &trafstat_snapshot_ops, account);
	account->csv_file = proc_create_data(account->name, csv_mode & 0444,
					     tn->csv_dirs[account->family],
					     &trafstat_csv_ops, account);
	account->live_file = proc_create_data(account->name, 0400,
					      tn->live_dirs[account->family],
					      &trafstat_live_ops, account);
	if (!account->snapshot_file || !account->csv_file || !account->live_file) {
		trafstat_proc_account_remove(account);
		return -ENOMEM;
	}
	trafstat_set_owner(account->snapshot_file, tn);
	trafstat_set_owner(account->csv_file, tn);
	trafstat_set_owner(account->live_file, tn);
	return 0;
}

/* Waits for the operations under way. */
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
static bool trafstat_family_dirs(const char *name, struct proc_dir_entry *parent,
				 struct proc_dir_entry *dirs[TRAFSTAT_FAMILIES])
{
	struct proc_dir_entry *dir = proc_mkdir(name, parent);
	int family;

	for (family = 0; dir && family < TRAFSTAT_FAMILIES; family++) {
		dirs[family] = proc_mkdir(trafstat_family_names[family], dir);
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
	tn->accounts_file = proc_create_net_single("accounts", 0400, tn->dir,
						   trafstat_accounts_show, NULL);
	if (!tn->accounts_file ||
	    !trafstat_family_dirs("snapshot", tn->dir, tn->snapshot_dirs) ||
	    !trafstat_family_dirs("csv", tn->dir, tn->csv_dirs) ||
	    !trafstat_family_dirs("live", tn->dir, tn->live_dirs)) {
		trafstat_proc_net_exit(tn);
		return -ENOMEM;
	}
	trafstat_set_owner(tn->accounts_file, tn);
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
