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

/*
 * Whether an allocation here may name the memory cgroup to charge. In softirq context
 * the kernel keeps that in a variable of the CPU, which set_active_memcg() sets and sets
 * back. On PREEMPT_RT softirqs of one CPU may preempt one another in between, so that a
 * cgroup could stay there that is gone later: what a packet allocates in softirq context
 * is not charged there, only capped (some 250 KB a CPU and account; all else is the
 * worker's).
 */
#ifdef CONFIG_PREEMPT_RT
#define trafstat_may_charge()	in_task()
#else
#define trafstat_may_charge()	true
#endif

/*
 * trafstat_percpu_enter() makes the caller the only one that counts on this CPU,
 * trafstat_percpu_leave() ends that; trafstat_percpu_is_entered() says that it is already.
 */
#ifdef CONFIG_PREEMPT_RT

/* Bottom halves that are off do not keep others off this CPU: it has a lock. */
#include <linux/local_lock.h>

/* 6.11 added the form for callers that bottom halves off keep on this CPU. */
#ifndef local_lock_nested_bh
#define local_lock_nested_bh(lock) local_lock(lock)
#define local_unlock_nested_bh(lock) local_unlock(lock)
#endif

struct trafstat_percpu {
	local_lock_t lock;
};

#define TRAFSTAT_DEFINE_PERCPU(name)					\
	static DEFINE_PER_CPU(struct trafstat_percpu, name) = {		\
		.lock = INIT_LOCAL_LOCK(lock),				\
	}

#define trafstat_percpu_is_entered()	false

#define trafstat_percpu_enter(name, cpu)				\
	({								\
		local_bh_disable();					\
		local_lock_nested_bh(&(name).lock);			\
		*(cpu) = smp_processor_id();				\
		true;							\
	})

#define trafstat_percpu_leave(name, entered)				\
	do {								\
		(void)(entered);					\
		local_unlock_nested_bh(&(name).lock);			\
		local_bh_enable();					\
	} while (0)

#else

/*
 * Under iptables-nft a rule in OUTPUT may run with bottom halves enabled; where they
 * are off already, asking first saves tens of instructions.
 */
#define TRAFSTAT_DEFINE_PERCPU(name)	struct trafstat_percpu

#define trafstat_percpu_is_entered()	(softirq_count() != 0)

#define trafstat_percpu_enter(name, cpu)				\
	({								\
		bool enter_ = !softirq_count();				\
									\
		if (enter_)						\
			local_bh_disable();				\
		*(cpu) = smp_processor_id();				\
		enter_;							\
	})

#define trafstat_percpu_leave(name, entered)				\
	do {								\
		if (entered)						\
			local_bh_enable();				\
	} while (0)

#endif

#endif /* _TRAFSTAT_COMPAT_H */
