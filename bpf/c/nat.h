/* SPDX-License-Identifier: Dual MIT/GPL */
/* Rewriting of packets. */
#pragma once

#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "flow.h"
#include "parse.h"

/* linux/bpf.h has it since 6.16. */
#define CSUM_IPV6 (1ULL << 7)

static __always_inline int lose(void)
{
	count(COUNT_LOST_FLOW);
	return TC_ACT_SHOT;
}

/* Kernels before 6.16 keep a wrong sum for IPv6 packets whose device summed them whole (CHECKSUM_COMPLETE), and refuse
 * the flag that says what to do. */
static __always_inline long replace_pseudo(struct __sk_buff *skb, const struct packet *p, __u32 at, __u64 diff, __u64 flags)
{
	flags |= BPF_F_PSEUDO_HDR;
	if (p->v6 && !bpf_l4_csum_replace(skb, at, 0, diff, flags | CSUM_IPV6))
		return 0;
	return bpf_l4_csum_replace(skb, at, 0, diff, flags);
}

/* Differences are given, not sums, so that a sum the device has yet to finish (CHECKSUM_PARTIAL) comes out right: it
 * covers the addresses only. UDP without a sum stays without. */
static __always_inline long sum_transport(struct __sk_buff *skb, const struct packet *p, const struct flow *to, __u64 addresses)
{
	__u64 flags = p->tuple.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 at = p->l4 + (p->tuple.proto == IPPROTO_UDP ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	__be32 was[1], is[1];

	__builtin_memcpy(was, &p->tuple.sport, sizeof(was));
	__builtin_memcpy(is, &to->sport, sizeof(is));
	return replace_pseudo(skb, p, at, addresses, flags) ?:
	       bpf_l4_csum_replace(skb, at, 0, bpf_csum_diff(was, sizeof(was), is, sizeof(is), 0), flags);
}

static __always_inline long write_addresses(struct __sk_buff *skb, const struct packet *p, const struct flow *to, __u64 addresses)
{
	__be32 v4[2] = { to->saddr[3], to->daddr[3] };

	if (p->v6)
		return bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), to->saddr, 32, 0);
	return bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), 0, addresses, 0) ?:
	       bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), v4, sizeof(v4), 0);
}

static __always_inline bool rewrite(struct __sk_buff *skb, const struct packet *p, const struct flow *to)
{
	/* Source and destination lie side by side. IPv4's constant part cancels itself out. */
	__u64 addresses = bpf_csum_diff((__be32 *)p->tuple.saddr, 32, (__be32 *)to->saddr, 32, 0);

	return !sum_transport(skb, p, to, addresses) && !write_addresses(skb, p, to, addresses) &&
	       !bpf_skb_store_bytes(skb, p->l4, &to->sport, 4, 0);
}

/* One hop more, as routers count. */
static __always_inline bool hop(struct __sk_buff *skb, const struct packet *p)
{
	__u8 left = p->hops - 1;

	if (p->hops < 2)
		return false;
	if (p->v6)
		return !bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &left, 1, BPF_F_RECOMPUTE_CSUM);
	return !bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), p->hops, left, 2) &&
	       !bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, ttl), &left, 1, 0);
}

/* Translates and sends. A source of this node's own would be a martian to its stack, so the packet leaves past it. */
static __always_inline int forward(struct __sk_buff *skb, const struct packet *p, const struct flow *to)
{
	if (to->link && !hop(skb, p))
		return lose();
	if (!rewrite(skb, p, to))
		return lose();
	return to->link ? bpf_redirect_neigh(to->link, NULL, 0, 0) : TC_ACT_UNSPEC;
}
