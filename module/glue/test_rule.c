// SPDX-License-Identifier: GPL-2.0-only
/*
 * See test_rule.h. Linked only into a module made for tests (TRAFSTAT_TESTS).
 */
#include <linux/cpumask.h>
#include <linux/netfilter/x_tables.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>

#include "test_rule.h"

int trafstat_test_rule_init(struct trafstat_test_rule *rule,
			    const struct xt_trafstat_tginfo *info, u8 family,
			    const u8 *random)
{
	int err = -ENOMEM;

	trafstat_payer_init(&rule->payer, &init_user_ns);
	rule->account = kzalloc(trafstat_account_size(), GFP_KERNEL);
	rule->core = kzalloc(trafstat_rule_size(), GFP_KERNEL);
	if (!rule->account || !rule->core)
		goto free;
	err = trafstat_account_init(rule->account, info, family, &rule->payer, random, 0,
				    nr_cpu_ids);
	if (!err)
		err = trafstat_rule_init(rule->core, rule->account, info, XT_CONTINUE);
	if (!err)
		return 0;
	trafstat_account_drop(rule->account);
free:
	kfree(rule->core);
	kfree(rule->account);
	trafstat_payer_exit(&rule->payer);
	return err;
}

void trafstat_test_rule_exit(struct trafstat_test_rule *rule)
{
	trafstat_rule_drop(rule->core);
	trafstat_account_drop(rule->account);
	kfree(rule->core);
	kfree(rule->account);
	trafstat_payer_exit(&rule->payer);
}
