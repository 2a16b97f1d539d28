/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Differences between kernel versions, all of them. A difference is probed by the
 * symbol itself where that is possible: APIs move inside stable series too.
 */
#ifndef _TRAFSTAT_COMPAT_H
#define _TRAFSTAT_COMPAT_H

#include <linux/bottom_half.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/smp.h>

/* 6.4 renamed the one-argument form, which may sleep. */
#ifndef kvfree_rcu_mightsleep
#define kvfree_rcu_mightsleep(ptr) kvfree_rcu(ptr)
#endif

/*
 * Makes the caller the only one that counts on this CPU. Under iptables-nft a rule
 * in OUTPUT may run with bottom halves enabled; where they are off already, asking
 * first saves tens of instructions.
 */
static inline bool trafstat_percpu_enter(unsigned int *cpu)
{
	bool enter = !softirq_count();

	if (enter)
		local_bh_disable();
	*cpu = smp_processor_id();
	return enter;
}

static inline void trafstat_percpu_leave(bool entered)
{
	if (entered)
		local_bh_enable();
}

#endif /* _TRAFSTAT_COMPAT_H */
