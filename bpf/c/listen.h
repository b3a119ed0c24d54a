/* SPDX-License-Identifier: Dual MIT/GPL */
/* Who listens on the node, for programs of sockets. */
#pragma once

#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "steer.h"

/* Whether a socket of the node listens at its DNS address. A global function, see compare. */
__attribute__((noinline)) int listens(struct bpf_sock_addr *ctx, __u32 v4)
{
	struct bpf_sock_tuple tuple = {};
	struct backend dns;
	struct bpf_sock *sk;
	__u32 size;

	get_node_dns(v4, &dns);
	if (v4) {
		tuple.ipv4.daddr = dns.addr[3];
		tuple.ipv4.dport = dns.port;
		size = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.daddr, dns.addr, sizeof(dns.addr));
		tuple.ipv6.dport = dns.port;
		size = sizeof(tuple.ipv6);
	}
	if (ctx->protocol == IPPROTO_UDP)
		sk = bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_sk_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	bpf_sk_release(sk);
	return true;
}
