/* SPDX-License-Identifier: Dual MIT/GPL */
/* What the packet programs know of a packet. Whatever they do not know they leave alone. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "lb.h"
#include "types.h"

#define IP_OFFSET_AND_MF 0x3fff

/* The flag bits of the TCP header's 14th byte (RFC 9293, 3.1). */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_FLAGS_AT 13

struct packet {
	struct flow_key tuple;
	__u32 l4;	 /* where the transport header is */
	__u8 hops;	 /* TTL or hop limit */
	__u8 tcp_flags;
	bool v6;
	bool fragment;
};

static __always_inline bool parse_v4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return false;
	p->tuple.saddr[2] = p->tuple.daddr[2] = bpf_htonl(0xffff);
	p->tuple.saddr[3] = ip.saddr;
	p->tuple.daddr[3] = ip.daddr;
	p->tuple.proto = ip.protocol;
	p->l4 = ETH_HLEN + ip.ihl * 4;
	p->hops = ip.ttl;
	p->fragment = ip.frag_off & bpf_htons(IP_OFFSET_AND_MF);
	return true;
}

static __always_inline bool parse_v6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 6)
		return false;
	__builtin_memcpy(p->tuple.saddr, &ip.saddr, sizeof(p->tuple.saddr));
	__builtin_memcpy(p->tuple.daddr, &ip.daddr, sizeof(p->tuple.daddr));
	/* Not to be taken for IPv4, whose form in the maps it has. It has no business on a wire (RFC 4038, 4.2). */
	if (is_v4(p->tuple.saddr) || is_v4(p->tuple.daddr))
		return false;
	p->tuple.proto = ip.nexthdr;
	p->l4 = ETH_HLEN + sizeof(ip);
	p->hops = ip.hop_limit;
	p->v6 = true;
	return true;
}

/* Addresses and what follows them. The packet must be zero. */
static __always_inline bool parse_network(struct __sk_buff *skb, struct packet *p)
{
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return !skb->vlan_present && parse_v4(skb, p);
	case bpf_htons(ETH_P_IPV6):
		return !skb->vlan_present && parse_v6(skb, p);
	}
	return false;
}

/* Ports, of what has some and is whole. */
static __always_inline bool parse_transport(struct __sk_buff *skb, struct packet *p)
{
	union {
		struct tcphdr tcp;
		struct udphdr udp;
		__u8 byte[sizeof(struct tcphdr)];
		__be16 port[2];
	} h;

	if (p->fragment)
		return false;
	switch (p->tuple.proto) {
	case IPPROTO_TCP:
		if (bpf_skb_load_bytes(skb, p->l4, &h, sizeof(h.tcp)))
			return false;
		p->tcp_flags = h.byte[TCP_FLAGS_AT];
		break;
	case IPPROTO_UDP:
		if (bpf_skb_load_bytes(skb, p->l4, &h, sizeof(h.udp)))
			return false;
		break;
	default:
		return false;
	}
	p->tuple.sport = h.port[0];
	p->tuple.dport = h.port[1];
	return true;
}

/* The first packet of a connection. */
static __always_inline bool opens(const struct packet *p)
{
	return p->tuple.proto == IPPROTO_UDP ||
	       (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}
