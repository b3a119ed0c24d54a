/* SPDX-License-Identifier: Dual MIT/GPL */
/* What the packet programs know of a packet. Whatever they do not know they leave alone. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "types.h"

struct packet {
	struct flow_key tuple;
	bool v6;
};

static __always_inline bool parse_addresses(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip4;
	struct ipv6hdr ip6;

	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip4, sizeof(ip4)))
			return false;
		p->tuple.saddr[2] = p->tuple.daddr[2] = bpf_htonl(0xffff);
		p->tuple.saddr[3] = ip4.saddr;
		p->tuple.daddr[3] = ip4.daddr;
		p->tuple.proto = ip4.protocol;
		return true;
	case bpf_htons(ETH_P_IPV6):
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip6, sizeof(ip6)))
			return false;
		__builtin_memcpy(p->tuple.saddr, &ip6.saddr, 16);
		__builtin_memcpy(p->tuple.daddr, &ip6.daddr, 16);
		p->tuple.proto = ip6.nexthdr;
		p->v6 = true;
		return true;
	}
	return false;
}
