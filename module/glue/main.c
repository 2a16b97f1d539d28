// SPDX-License-Identifier: GPL-2.0-only
/*
 * Start and end of the module: memory before accounts, accounts before rules.
 */
#include <linux/module.h>

#include "trafstat.h"

static int __init trafstat_init(void)
{
	int err;

	err = trafstat_memory_init();
	if (err)
		return err;
	err = trafstat_account_init_module();
	if (err)
		goto memory_exit;
	err = trafstat_proc_init();
	if (err)
		goto account_exit;
	err = trafstat_target_init();
	if (err)
		goto proc_exit;
	trafstat_operations_allow();
	return 0;

proc_exit:
	trafstat_proc_exit();
account_exit:
	trafstat_account_exit_module();
	trafstat_operation_exit();
memory_exit:
	trafstat_memory_exit();
	return err;
}

static void __exit trafstat_exit(void)
{
	/* No operation on a proc file is under way: the kernel unloads no module in use. */
	trafstat_target_exit();
	trafstat_proc_exit();
	trafstat_account_exit_module();
	trafstat_operation_exit();
	trafstat_memory_exit();
}

module_init(trafstat_init);
module_exit(trafstat_exit);

MODULE_AUTHOR("the trafstat authors");
MODULE_VERSION(TRAFSTAT_VERSION);
MODULE_DESCRIPTION("Traffic accounting by flow, for iptables");
MODULE_LICENSE("GPL");
MODULE_ALIAS("ipt_TRAFSTAT");
MODULE_ALIAS("ip6t_TRAFSTAT");
