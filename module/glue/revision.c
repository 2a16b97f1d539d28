// SPDX-License-Identifier: GPL-2.0-only
/*
 * A module older than this one, as far as iptables can tell: it knows the revisions of the
 * target up to parameter newest_revision. Linked only into a module made for tests
 * (TRAFSTAT_TESTS).
 */
#include <linux/minmax.h>
#include <linux/module.h>

#include "trafstat.h"
#include "xt_TRAFSTAT.h"

static uint newest_revision = XT_TRAFSTAT_REVISION;
module_param(newest_revision, uint, 0400);
MODULE_PARM_DESC(newest_revision, "Highest revision of the target to register");

unsigned int trafstat_newest_revision(void)
{
	return clamp_t(uint, newest_revision, XT_TRAFSTAT_OLDEST_REVISION, XT_TRAFSTAT_REVISION);
}
