// SPDX-License-Identifier: Dual MIT/GPL
/* Source guard: IP frames that enter a port must carry a source address of that port. The simulated VPC uses it the
 * way a cloud's virtual switch drops spoofed frames. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "consts.h"
#include "types.h"

struct guard_key {
	__be32 addr[4];
	__u32 ifindex;
};
_Static_assert(sizeof(struct guard_key) == 20, "guard_key");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_GUARDED_SOURCES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct guard_key);
	__type(value, __u8);
} guard_sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_GUARDED_PORTS);
	__type(key, __u32);
	__type(value, __u64);
} guard_drops SEC(".maps");

static __always_inline int drop(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	__u64 *n = bpf_map_lookup_elem(&guard_drops, &ifindex);

	if (n)
		__sync_fetch_and_add(n, 1);
	return TC_ACT_SHOT;
}

SEC("tc")
int guard_source(struct __sk_buff *skb)
{
	struct guard_key key = { .ifindex = skb->ifindex };

	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		key.addr[2] = bpf_htonl(0xffff);
		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &key.addr[3], 4))
			return drop(skb);
		break;
	case bpf_htons(ETH_P_IPV6):
		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), key.addr, 16))
			return drop(skb);
		break;
	default: /* ARP: a cloud's switch answers whoever asks */
		return TC_ACT_UNSPEC;
	}
	return bpf_map_lookup_elem(&guard_sources, &key) ? TC_ACT_UNSPEC : drop(skb);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
