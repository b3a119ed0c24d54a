/* SPDX-License-Identifier: Dual MIT/GPL */
/* Whether a pod may send what it sends: with addresses of its own, and on links of its own namespace nothing but IP and ARP. */
#pragma once

#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "open.h"
#include "parse.h"

/* What a host says of itself, and asks of others, on its link (RFC 3810, 5; RFC 4861, 4). Not what a router says: nobody may
 * advertise routes but the network. */
#define MLD_REPORT 131
#define MLD_DONE 132
#define ND_ROUTER_SOLICIT 133
#define ND_SOLICIT 135
#define ND_ADVERT 136
#define MLD2_REPORT 143

/* Ports of servers (RFC 2131, 4.1, and RFC 8415, 7.2). */
#define DHCP_SERVER 67
#define DHCP6_SERVER 547

/* The number of the pod whose namespace a program of its links runs in: of all that it is told, the class that its filter has is what
 * nobody in the namespace says. */
static __always_inline __u32 whose(const struct __sk_buff *skb)
{
	return (__u16)skb->tc_classid;
}

/* Whether the sender that was found is another pod than the one whose namespace this is. */
static __always_inline bool another(const struct __sk_buff *skb, const struct pod_address *pod)
{
	return pod->netns_cookie && pod->number != whose(skb);
}

static __always_inline bool is_link_local(const __be32 *addr)
{
	return (addr[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline bool about_neighbours(struct __sk_buff *skb, const struct network_header *net)
{
	struct {
		__u8 next;
		__u8 words; /* of 8 bytes, behind the first */
	} option;
	__u32 at = net->l4;
	__u8 proto = net->proto, type;

	if (net->part != WHOLE)
		return false;
	/* Reports to multicast routers have one header of options (RFC 3810, 5). */
	if (proto == IPPROTO_HOPOPTS) {
		if (bpf_skb_load_bytes(skb, at, &option, sizeof(option)) || option.words)
			return false;
		proto = option.next;
		at += 8;
	}
	if (proto != IPPROTO_ICMPV6 || bpf_skb_load_bytes(skb, at, &type, sizeof(type)))
		return false;
	return (type >= MLD_REPORT && type <= ND_ROUTER_SOLICIT) || type == ND_SOLICIT || type == ND_ADVERT || type == MLD2_REPORT;
}

/* What a pod sends with an address that no pod has. It is not its own, but for what is said on a link by who has no other yet. A global
 * function, see begin. */
__attribute__((noinline)) int stray(struct __sk_buff *skb)
{
	struct moment *m = this_moment();
	const struct network_header *net;
	__be16 port;

	if (!m)
		return TC_ACT_SHOT;
	net = &m->p.net;
	if (!is_unspecified(net->saddr) && !(m->p.v6 && is_link_local(net->saddr)))
		return TC_ACT_SHOT;
	if (net->proto != IPPROTO_UDP)
		return m->p.v6 && about_neighbours(skb, net) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
	if (net->part != WHOLE || bpf_skb_load_bytes(skb, net->l4 + offsetof(struct udphdr, dest), &port, sizeof(port)))
		return TC_ACT_SHOT;
	return port == bpf_htons(m->p.v6 ? DHCP6_SERVER : DHCP_SERVER) && stays_on_link(net->daddr) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

/* A frame of which no address can be told. On the node's own links what is not IP goes nowhere; on an ENI there is no use for it but
 * ARP, and the cloud's switch does not look at it. */
static __always_inline int unread(const struct __sk_buff *skb, bool on_eni)
{
	if (!skb->vlan_present && skb->protocol == bpf_htons(ETH_P_ARP))
		return TC_ACT_UNSPEC;
	if (on_eni || skb->vlan_present || skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6))
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}
