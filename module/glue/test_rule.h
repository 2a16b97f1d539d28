/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An account with one rule of which iptables knows nothing, for tests that hand packets
 * to core themselves.
 */
#ifndef _TRAFSTAT_TEST_RULE_H
#define _TRAFSTAT_TEST_RULE_H

#include "trafstat.h"

struct trafstat_test_rule {
	struct trafstat_payer payer;
	struct trafstat_account_core *account;
	struct trafstat_rule_core *core;
};

/* Returns 0 or -ENOMEM and may sleep. @random is as for trafstat_account_init(). */
int trafstat_test_rule_init(struct trafstat_test_rule *rule,
			    const struct xt_trafstat_tginfo *info, u8 family,
			    const u8 *random);
void trafstat_test_rule_exit(struct trafstat_test_rule *rule);

#endif /* _TRAFSTAT_TEST_RULE_H */
