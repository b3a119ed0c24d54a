// SPDX-License-Identifier: Dual MIT/GPL
/* The packet path: what a socket hook cannot do. Programs of the links of the node and of its pods. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "maps.h"
#include "parse.h"

static __always_inline struct pod_address *pod_at(const __be32 *addr)
{
	struct address key = { .addr = { addr[0], addr[1], addr[2], addr[3] } };

	return bpf_map_lookup_elem(&pod_addresses, &key);
}

SEC("tc")
int from_outside(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("tc")
int to_outside(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

/* Ingress of the link that leads to a pod: what the pod sends. */
SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	struct packet p = {};
	struct pod_address *pod;

	if (!parse_addresses(skb, &p))
		return TC_ACT_UNSPEC;
	pod = pod_at(p.tuple.saddr);
	if (!pod)
		return TC_ACT_UNSPEC;
	skb->mark = (skb->mark & ~POD_MARK_MASK) | POD_MARK | (pod->slot & POD_MARK_SLOT);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int to_vpc(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("tc")
int leave_pod(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

/* Nothing here uses these types by value; naming them puts them into BTF, from which Go's come. */
const enum flow_flags *go_flow_flags __attribute__((unused));
const enum way *go_way __attribute__((unused));

char LICENSE[] SEC("license") = "Dual MIT/GPL";
