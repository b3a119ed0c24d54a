/* SPDX-License-Identifier: Dual MIT/GPL */
/* Rewriting of packets. */
#pragma once

#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "flow.h"
#include "parse.h"
#include "sctp.h"

/* linux/socket.h has no families, and sys/socket.h is the C library's. */
#define AF_INET 2
#define AF_INET6 10

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

static __always_inline __u64 ports_diff(const struct packet *p, const struct flow *to)
{
	__be32 was[1], is[1];

	__builtin_memcpy(was, &p->tuple.sport, sizeof(was));
	__builtin_memcpy(is, &to->sport, sizeof(is));
	return bpf_csum_diff(was, sizeof(was), is, sizeof(is), 0);
}

/* Source and destination lie side by side. IPv4's constant part cancels itself out, and so does their order. */
static __always_inline __u64 addresses_diff(const __be32 *was, const struct flow *to)
{
	return bpf_csum_diff((__be32 *)was, 32, (__be32 *)to->saddr, 32, 0);
}

/* Differences are given, not sums, so that a sum the device has yet to finish (CHECKSUM_PARTIAL) comes out right: it
 * covers the addresses only. UDP without a sum stays without. */
static __always_inline long rewrite_transport(struct __sk_buff *skb, const struct packet *p, const struct flow *to, __u64 addresses)
{
	bool udp = p->tuple.proto == IPPROTO_UDP;
	__u32 at = p->net.l4 + (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;

	if (p->net.part == LATER_FRAGMENT)
		return 0;
	if (p->tuple.proto == IPPROTO_SCTP)
		return fix_sctp_sum(skb, p, to) ?: bpf_skb_store_bytes(skb, p->net.l4, &to->sport, 4, 0);
	return replace_pseudo(skb, p, at, addresses, flags) ?:
	       bpf_l4_csum_replace(skb, at, 0, ports_diff(p, to), flags) ?:
	       bpf_skb_store_bytes(skb, p->net.l4, &to->sport, 4, 0);
}

/* What an error quotes is the packet that its receiver sent: the flow's rewritten tuple, turned around. The quoted
 * transport header keeps its sum, which nobody checks: quotes are cut short. */
static __always_inline long rewrite_quote(struct __sk_buff *skb, const struct packet *p, const struct flow *to, __u64 addresses)
{
	__u64 inner = addresses_diff(p->tuple.saddr, to);
	__be16 port[2] = { to->dport, to->sport };
	__be32 v4[2] = { to->daddr[3], to->saddr[3] };
	__u32 at = p->net.l4 + ICMP_CHECKSUM_AT;
	long err;

	err = bpf_l4_csum_replace(skb, at, 0, ports_diff(p, to), 0) ?:
	      bpf_skb_store_bytes(skb, p->inner_l4, port, sizeof(port), 0);
	if (err)
		return err;
	/* ICMPv6 sums the addresses of both headers; of IPv4's quoted ones the header's own sum is the counterpart. */
	if (p->v6)
		return replace_pseudo(skb, p, at, addresses, 0) ?:
		       bpf_l4_csum_replace(skb, at, 0, inner, 0) ?:
		       bpf_skb_store_bytes(skb, p->inner + offsetof(struct ipv6hdr, saddr), to->daddr, 16, 0) ?:
		       bpf_skb_store_bytes(skb, p->inner + offsetof(struct ipv6hdr, daddr), to->saddr, 16, 0);
	return bpf_l3_csum_replace(skb, p->inner + offsetof(struct iphdr, check), 0, inner, 0) ?:
	       bpf_skb_store_bytes(skb, p->inner + offsetof(struct iphdr, saddr), v4, sizeof(v4), 0);
}

static __always_inline long rewrite_addresses(struct __sk_buff *skb, const struct packet *p, const struct flow *to, __u64 addresses)
{
	__be32 v4[2] = { to->saddr[3], to->daddr[3] };

	if (p->v6)
		return bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), to->saddr, 32, 0);
	return bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), 0, addresses, 0) ?:
	       bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), v4, sizeof(v4), 0);
}

/* An error gets the addresses of the flow, too, whatever router it is from: no other source may leave this node. */
static __always_inline bool rewrite(struct __sk_buff *skb, const struct packet *p, const struct flow *to)
{
	__u64 addresses = addresses_diff(p->net.saddr, to);
	long err = p->inner ? rewrite_quote(skb, p, to, addresses) : rewrite_transport(skb, p, to, addresses);

	return !err && !rewrite_addresses(skb, p, to, addresses);
}

/* One hop more, as routers count. */
static __always_inline bool hop(struct __sk_buff *skb, const struct packet *p)
{
	__u8 left = p->net.hops - 1;

	if (p->net.hops < 2)
		return false;
	if (p->v6)
		return !bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &left, 1, BPF_F_RECOMPUTE_CSUM);
	return !bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), p->net.hops, left, 2) &&
	       !bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, ttl), &left, 1, 0);
}

/* The routes that the source's rules name may not know a pod, and IPv6 asks them for it in spite of the link. A pod is the
 * next hop itself: the node has a permanent neighbour for each. */
static __always_inline int send_by_link(const struct packet *p, const struct flow *to)
{
	struct bpf_redir_neigh next = { .nh_family = p->v6 ? AF_INET6 : AF_INET };

	if (!(to->flags & FLOW_TO_POD))
		return bpf_redirect_neigh(to->link, NULL, 0, 0);
	if (p->v6)
		__builtin_memcpy(next.ipv6_nh, to->daddr, sizeof(next.ipv6_nh));
	else
		next.ipv4_nh = to->daddr[3];
	return bpf_redirect_neigh(to->link, &next, sizeof(next), 0);
}

/* Translates and sends. A source of this node's own would be a martian to its stack, so the packet leaves past it. A global
 * function, see begin. */
__attribute__((noinline)) int forward(struct __sk_buff *skb)
{
	struct moment *m = this_moment();

	if (!m || (m->to.link && !hop(skb, &m->p)) || !rewrite(skb, &m->p, &m->to))
		return lose();
	remember_fragment(&m->p);
	return m->to.link ? send_by_link(&m->p, &m->to) : TC_ACT_UNSPEC;
}
