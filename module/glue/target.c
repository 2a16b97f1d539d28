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
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
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
 * Bytes from the network header to the payload within a tunnel, all of which every segment
 * of the buffer repeats, as qdisc_pkt_len_init() has them. Core knows those of other
 * packets from their own headers; the transport header's offset in the buffer is not to be
 * had on receipt, where nobody has looked behind IPv6's extension headers yet.
 */
static unsigned int trafstat_tunnel_header_len(const struct sk_buff *skb)
{
	unsigned int type = skb_shinfo(skb)->gso_type;
	int len = skb_inner_transport_offset(skb);

	if (type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6)) {
		struct tcphdr buf;
		const struct tcphdr *tcp = skb_header_pointer(skb, len, sizeof(buf), &buf);

		len += tcp ? __tcp_hdrlen(tcp) : 0;
	} else if (type & SKB_GSO_UDP_L4) {
		len += sizeof(struct udphdr);
	} else if (type & SKB_GSO_SCTP) {
		len += sizeof(struct sctphdr);
	}
	return clamp_t(int, len, 0, U16_MAX);
}

static noinline u32 trafstat_count_gso(const struct trafstat_rule_core *rule, unsigned int cpu,
				       const struct sk_buff *skb, const u8 *header,
				       unsigned int header_len)
{
	const unsigned int with_transport = SKB_GSO_TCPV4 | SKB_GSO_TCPV6 | SKB_GSO_UDP_L4 |
					    SKB_GSO_SCTP;
	const struct trafstat_gso gso = {
		.size		= skb_shinfo(skb)->gso_size,
		.segs		= skb_shinfo(skb)->gso_segs,
		.header_len	= skb->encapsulation ? trafstat_tunnel_header_len(skb) : 0,
		.has_transport	= !!(skb_shinfo(skb)->gso_type & with_transport),
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
		queue_work(trafstat_queues(trafstat_payer_is_host(&account->payer))->prepare,
			   &account->prepare);
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

/*
 * act_ipt calls targets too. It would show the whole rule to users, the kernel's pointer
 * within, and end rules where nothing may sleep; it is known by an entry without a target.
 */
static bool trafstat_is_of_iptables(const struct xt_tgchk_param *par)
{
	if (par->nft_compat)
		return true;
	if (par->family == NFPROTO_IPV6)
		return ((const struct ip6t_entry *)par->entryinfo)->target_offset;
	return ((const struct ipt_entry *)par->entryinfo)->target_offset;
}

static void trafstat_tell_of_refusal(int err, const struct trafstat_net *tn,
				     const struct xt_trafstat_tginfo *info)
{
	if (err == -ENOMEM)
		trafstat_log(tn, pr_info, "no memory for account %s: delete other accounts' rules, or raise max_memory, max_user_memory, max_tenant_memory or the memory cgroup's limit\n",
			     info->name);
	else if (err == -EPERM)
		trafstat_log(tn, pr_info, "account %s is of a namespace that a user made, and the module's parameter max_user_memory is 0: such namespaces may not count\n",
			     info->name);
}

/* A name is printed only when it was found to be one. */
static int trafstat_refuse(const struct trafstat_net *tn,
			   const struct xt_trafstat_tginfo *info, u32 checked)
{
	if (checked == TRAFSTAT_RULE_UNKNOWN_OPTION)
		trafstat_log(tn, pr_info, "a rule of account %s has an option that this module does not know: the module is older than libxt_TRAFSTAT, load the module of the same version\n",
			     info->name);
	else
		trafstat_log(tn, pr_info, "the rule has a value out of range; use iptables with libxt_TRAFSTAT of this version\n");
	return -EINVAL;
}

/* Saved rulesets may have such rules, which are no reason not to load them. */
static void trafstat_tell_of_nat(const struct xt_tgchk_param *par,
				 const struct xt_trafstat_tginfo *info)
{
	struct trafstat_net *tn = trafstat_net(par->net);

	if (strcmp(par->table, "nat") || READ_ONCE(tn->told_of_nat) || !trafstat_may_log(tn))
		return;
	WRITE_ONCE(tn->told_of_nat, true);
	pr_notice("account %s has a rule in table nat, which sees only the first packet of each connection: put it into filter, mangle or raw\n",
		  info->name);
}

static struct xt_trafstat_rule *trafstat_rule_alloc(const struct xt_tgchk_param *par,
						    const struct xt_trafstat_tginfo *info)
{
	struct trafstat_payer payer;
	struct xt_trafstat_rule *rule;
	int err;

	err = trafstat_payer_init(&payer, par->net->user_ns);
	if (err)
		return ERR_PTR(err);
	rule = trafstat_alloc(sizeof(*rule) + trafstat_rule_size(), 0, &payer);
	if (!rule) {
		trafstat_payer_exit(&payer);
		return ERR_PTR(-ENOMEM);
	}
	memset(rule, 0, sizeof(*rule) + trafstat_rule_size());
	rule->payer = payer;
	rule->verdict = trafstat_verdict(info->policy);
	rule->limits.max_entries = info->max_entries;
	rule->limits.min_pkt_spoof = info->min_pkt_spoof;
	return rule;
}

static void trafstat_rule_free(struct xt_trafstat_rule *rule)
{
	struct trafstat_payer payer = rule->payer;

	trafstat_free(rule, sizeof(*rule) + trafstat_rule_size(), &payer);
	trafstat_payer_exit(&payer);
}

static int trafstat_tg_check(const struct xt_tgchk_param *par)
{
	const struct trafstat_net *tn = trafstat_net(par->net);
	struct xt_trafstat_tginfo *info = par->targinfo;
	struct xt_trafstat_rule *rule;
	u32 checked;
	int err;

	info->rule = NULL;
	if (!trafstat_is_of_iptables(par)) {
		trafstat_log(tn, pr_info, "only rules of iptables can count, and tc's action is none: use iptables in table raw, mangle or filter\n");
		return -EOPNOTSUPP;
	}
	checked = trafstat_rule_check(info, par->target->revision, par->family);
	if (checked != TRAFSTAT_RULE_VALID)
		return trafstat_refuse(tn, info, checked);
	rule = trafstat_rule_alloc(par, info);
	if (IS_ERR(rule)) {
		err = PTR_ERR(rule);
		goto tell;
	}
	err = trafstat_account_add_rule(par->net, par->family, info, rule);
	if (err)
		goto free_rule;
	rule->tables = rule->account->tables;
	err = trafstat_rule_init((void *)rule->core, rule->account->core, info, &rule->payer,
				 rule->verdict);
	if (err)
		goto remove_rule;
	trafstat_tell_of_nat(par, info);
	info->rule = rule;
	return 0;

remove_rule:
	trafstat_account_remove_rule(rule);
free_rule:
	trafstat_rule_free(rule);
tell:
	trafstat_tell_of_refusal(err, tn, info);
	return err;
}

static void trafstat_tg_destroy(const struct xt_tgdtor_param *par)
{
	const struct xt_trafstat_tginfo *info = par->targinfo;
	struct xt_trafstat_rule *rule = info->rule;

	trafstat_rule_drop((void *)rule->core);
	trafstat_account_remove_rule(rule);
	trafstat_rule_free(rule);
}

#define TRAFSTAT_TARGET(number, nfproto, count) {				\
	.name		= "TRAFSTAT",						\
	.revision	= (number),						\
	.family		= (nfproto),						\
	.target		= (count),						\
	.checkentry	= trafstat_tg_check,					\
	.destroy	= trafstat_tg_destroy,					\
	.targetsize	= sizeof(struct xt_trafstat_tginfo),			\
	.usersize	= offsetof(struct xt_trafstat_tginfo, rule),		\
	.me		= THIS_MODULE,						\
}

#define TRAFSTAT_TARGETS_OF(number)						\
	TRAFSTAT_TARGET(number, NFPROTO_IPV4, trafstat_tg4),			\
	TRAFSTAT_TARGET(number, NFPROTO_IPV6, trafstat_tg6)

/* By revision, the oldest first. They differ in what trafstat_rule_check() takes. */
static struct xt_target trafstat_tg_reg[] __read_mostly = {
	TRAFSTAT_TARGETS_OF(1),
	TRAFSTAT_TARGETS_OF(2),
};

static_assert(ARRAY_SIZE(trafstat_tg_reg) ==
	      2 * (XT_TRAFSTAT_REVISION - XT_TRAFSTAT_OLDEST_REVISION + 1));

/* Tests have another one, to be an older module. */
unsigned int __weak trafstat_newest_revision(void)
{
	return XT_TRAFSTAT_REVISION;
}

static unsigned int trafstat_tg_count(void)
{
	return 2 * (trafstat_newest_revision() - XT_TRAFSTAT_OLDEST_REVISION + 1);
}

int trafstat_target_init(void)
{
	return xt_register_targets(trafstat_tg_reg, trafstat_tg_count());
}

void trafstat_target_exit(void)
{
	xt_unregister_targets(trafstat_tg_reg, trafstat_tg_count());
}
