// SPDX-License-Identifier: GPL-2.0-only
/*
 * Target TRAFSTAT: a packet through a rule, and a rule's beginning and end.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/build_bug.h>
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/netfilter/x_tables.h>
#include <linux/sctp.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/stddef.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "compat.h"
#include "layout.h"
#include "trafstat.h"

TRAFSTAT_DEFINE_PERCPU(trafstat_percpu);

/*
 * Bytes that every segment of the buffer repeats, from the network header to the
 * payload, as qdisc_pkt_len_init() has them; 0 where the transport header is unknown.
 */
static unsigned int trafstat_gso_header_len(const struct sk_buff *skb)
{
	unsigned int type = skb_shinfo(skb)->gso_type;
	bool inner = skb->encapsulation;
	int len;

	if (!inner && !skb_transport_header_was_set(skb))
		return 0;
	len = inner ? skb_inner_transport_offset(skb) : skb_transport_offset(skb);
	if (type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6)) {
		struct tcphdr buf;
		const struct tcphdr *tcp = skb_header_pointer(skb, len, sizeof(buf), &buf);

		len += tcp ? __tcp_hdrlen(tcp) : 0;
	} else if (type & SKB_GSO_UDP_L4) {
		len += sizeof(struct udphdr);
	} else if (type & SKB_GSO_SCTP) {
		len += sizeof(struct sctphdr);
	}
	return clamp(len, 0, U16_MAX);
}

static noinline u32 trafstat_count_gso(const struct trafstat_rule_core *rule, unsigned int cpu,
				       const struct sk_buff *skb, const u8 *header,
				       unsigned int header_len)
{
	const struct trafstat_gso gso = {
		.size		= skb_shinfo(skb)->gso_size,
		.segs		= skb_shinfo(skb)->gso_segs,
		.header_len	= trafstat_gso_header_len(skb),
	};

	return trafstat_count(rule, cpu, header, header_len, skb->len, &gso);
}

static u32 trafstat_count_header(const struct trafstat_rule_core *rule, unsigned int cpu,
				 const struct sk_buff *skb, const u8 *header,
				 unsigned int header_len)
{
	if (unlikely(skb_is_gso(skb)))
		return trafstat_count_gso(rule, cpu, skb, header, header_len);
	return trafstat_count(rule, cpu, header, header_len, skb->len, NULL);
}

/* The ports lie in fragments of the buffer. */
static noinline u32 trafstat_count_nonlinear(const struct trafstat_rule_core *rule,
					     unsigned int cpu, const struct sk_buff *skb)
{
	u8 header[TRAFSTAT_HEADER_BYTES];
	unsigned int len = min_t(unsigned int, skb->len, sizeof(header));

	if (skb_copy_bits(skb, 0, header, len))
		memset(header, 0, len);
	return trafstat_count_header(rule, cpu, skb, header, len);
}

static const struct xt_trafstat_rule *trafstat_rule_of(const struct trafstat_rule_core *core)
{
	return container_of((const void *)core, struct xt_trafstat_rule, core);
}

void trafstat_queue_prepare(const struct trafstat_rule_core *core)
{
	struct trafstat_account *account = trafstat_rule_of(core)->account;

	if (time_after_eq(jiffies, READ_ONCE(account->prepare_after)))
		queue_work(trafstat_workqueue, &account->prepare);
}

u32 trafstat_count_skb(const struct trafstat_rule_core *core, struct sk_buff *skb)
{
	unsigned int cpu;
	bool entered;
	u32 done;

	entered = trafstat_percpu_enter(trafstat_percpu, &cpu);
	done = trafstat_count_header(core, cpu, skb, skb->data, skb_headlen(skb));
	if (done == TRAFSTAT_NEED_MORE)
		done = trafstat_count_nonlinear(core, cpu, skb);
	if (done == TRAFSTAT_COUNTED_PREPARE)
		trafstat_queue_prepare(core);
	trafstat_percpu_leave(trafstat_percpu, entered);
	return trafstat_rule_of(core)->verdict;
}

static __always_inline unsigned int trafstat_tg(struct sk_buff *skb,
						const struct xt_action_param *par, bool ipv6)
{
	const struct xt_trafstat_tginfo *info = par->targinfo;
	const struct xt_trafstat_rule *rule = info->rule;
	const struct trafstat_rule_core *core = (const void *)rule->core;
	const struct trafstat_tables *tables;

	if (unlikely(!trafstat_percpu_is_entered() || skb_is_gso(skb)))
		return trafstat_count_skb(core, skb);
	tables = this_cpu_ptr(rule->tables);
	if (ipv6)
		return trafstat_count_ipv6(core, tables, skb->data, skb_headlen(skb), skb->len,
					   skb);
	return trafstat_count_ipv4(core, tables, skb->data, skb_headlen(skb), skb->len, skb);
}

static unsigned int trafstat_tg4(struct sk_buff *skb, const struct xt_action_param *par)
{
	return trafstat_tg(skb, par, false);
}

static unsigned int trafstat_tg6(struct sk_buff *skb, const struct xt_action_param *par)
{
	return trafstat_tg(skb, par, true);
}

static unsigned int trafstat_verdict(u8 policy)
{
	switch (policy) {
	case XT_TRAFSTAT_POLICY_ACCEPT:
		return NF_ACCEPT;
	case XT_TRAFSTAT_POLICY_DROP:
		return NF_DROP;
	default:
		return XT_CONTINUE;
	}
}

static int trafstat_tg_check(const struct xt_tgchk_param *par)
{
	struct xt_trafstat_tginfo *info = par->targinfo;
	struct xt_trafstat_rule *rule;
	int err;

	info->rule = NULL;
	if (!trafstat_rule_is_valid(info, par->family)) {
		pr_info_ratelimited("the rule has a value out of range; use iptables with libxt_TRAFSTAT of this version\n");
		return -EINVAL;
	}
	rule = kzalloc(sizeof(*rule) + trafstat_rule_size(), GFP_KERNEL_ACCOUNT);
	if (!rule)
		return -ENOMEM;
	rule->verdict = trafstat_verdict(info->policy);
	rule->account = trafstat_account_get(par->net, par->family, info);
	if (IS_ERR(rule->account)) {
		err = PTR_ERR(rule->account);
		goto free_rule;
	}
	rule->tables = rule->account->tables;
	err = trafstat_rule_init((void *)rule->core, rule->account->core, info, rule->verdict);
	if (err)
		goto put_account;
	info->rule = rule;
	return 0;

put_account:
	trafstat_account_put(rule->account);
free_rule:
	kfree(rule);
	return err;
}

static void trafstat_tg_destroy(const struct xt_tgdtor_param *par)
{
	const struct xt_trafstat_tginfo *info = par->targinfo;
	struct xt_trafstat_rule *rule = info->rule;

	trafstat_rule_drop((void *)rule->core);
	trafstat_account_put(rule->account);
	kfree(rule);
}

static struct xt_target trafstat_tg_reg[] __read_mostly = {
	{
		.name		= "TRAFSTAT",
		.revision	= XT_TRAFSTAT_REVISION,
		.family		= NFPROTO_IPV4,
		.target		= trafstat_tg4,
		.checkentry	= trafstat_tg_check,
		.destroy	= trafstat_tg_destroy,
		.targetsize	= sizeof(struct xt_trafstat_tginfo),
		.usersize	= offsetof(struct xt_trafstat_tginfo, rule),
		.me		= THIS_MODULE,
	},
	{
		.name		= "TRAFSTAT",
		.revision	= XT_TRAFSTAT_REVISION,
		.family		= NFPROTO_IPV6,
		.target		= trafstat_tg6,
		.checkentry	= trafstat_tg_check,
		.destroy	= trafstat_tg_destroy,
		.targetsize	= sizeof(struct xt_trafstat_tginfo),
		.usersize	= offsetof(struct xt_trafstat_tginfo, rule),
		.me		= THIS_MODULE,
	},
};

int trafstat_target_init(void)
{
	return xt_register_targets(trafstat_tg_reg, ARRAY_SIZE(trafstat_tg_reg));
}

void trafstat_target_exit(void)
{
	xt_unregister_targets(trafstat_tg_reg, ARRAY_SIZE(trafstat_tg_reg));
}
