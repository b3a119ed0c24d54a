/* SPDX-License-Identifier: Dual MIT/GPL */
/* Packets without ports: ICMP, other protocols, IPv6 extension headers, fragments. */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "judge.h"
#include "parse.h"

#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO 8

/* RFC 4443, RFC 4861, RFC 2710, RFC 3810. */
#define ICMP6_ECHO 128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_MLD_QUERY 130
#define ICMP6_MLD_DONE 132
#define ICMP6_ROUTER_SOLICITATION 133
#define ICMP6_ROUTER_ADVERTISEMENT 134
#define ICMP6_NEIGHBOR_SOLICITATION 135
#define ICMP6_NEIGHBOR_ADVERTISEMENT 136
#define ICMP6_MLD2_REPORT 143

/* Who sends neighbours something sends it with this, and whoever passes packets on has less (RFC 4861, 7.1). */
#define NEIGHBOR_HOPS 255

/* Extension headers that have a length in units of 8 bytes (RFC 8200, 4; RFC 6275, 6.1; RFC 7401, 5.1; RFC 5533, 5.1). */
static __always_inline bool is_extension(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_DSTOPTS || proto == 135 || proto == 139 || proto == 140;
}

/* What a packet without ports is to policy. */
enum plain {
	PLAIN_UNKNOWN, /* not known */
	PLAIN_PASS,    /* none of its business */
	PLAIN_ALONE,   /* to be judged by itself: its point is in moment.judged */
	PLAIN_TRACK,   /* a connection, as if the ports were in the tuple */
	PLAIN_PORTS,   /* there are ports after all */
};

/* Goes on to the header behind extension headers. */
static __always_inline bool walk(struct __sk_buff *skb, struct network_header *net)
{
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		struct {
			__u8 next;
			__u8 words;
			__be16 offset; /* of a fragment */
			__be32 id;
		} x;
		__u32 bytes = sizeof(x);

		if (net->part == LATER_FRAGMENT || (!is_extension(net->proto) && net->proto != IPPROTO_FRAGMENT))
			return true;
		if (bpf_skb_load_bytes(skb, net->l4, &x, sizeof(x)))
			return false;
		if (net->proto != IPPROTO_FRAGMENT) {
			bytes = (x.words + 1) * 8;
		} else {
			net->id = x.id;
			if (x.offset & bpf_htons(V6_OFFSET))
				net->part = LATER_FRAGMENT;
			else if (x.offset & bpf_htons(V6_MORE))
				net->part = FIRST_FRAGMENT;
		}
		net->proto = x.next;
		net->l4 += bytes;
		net->len -= bytes;
	}
	return !is_extension(net->proto) && net->proto != IPPROTO_FRAGMENT;
}

static __always_inline void plain_tuple(struct packet *p, __be16 port)
{
	__builtin_memcpy(p->tuple.saddr, p->net.saddr, 32);
	__builtin_memset(p->tuple.pad, 0, sizeof(p->tuple.pad));
	p->tuple.proto = p->net.proto;
	p->tuple.sport = p->tuple.dport = port;
}

/* Neighbours are found and multicast groups joined whatever the policy. Routers are heard, and pods are none. */
static __always_inline bool is_link_business(const struct packet *p, __u8 type, __u32 how)
{
	bool in = how & JUDGE_IN, near = (how & (JUDGE_IN | JUDGE_LINK)) || stays_on_link(p->net.daddr) || of_this_node(p->net.daddr);

	if (type == ICMP6_NEIGHBOR_SOLICITATION || type == ICMP6_NEIGHBOR_ADVERTISEMENT || type == ICMP6_ROUTER_SOLICITATION)
		return p->net.hops == NEIGHBOR_HOPS && near;
	if (type == ICMP6_ROUTER_ADVERTISEMENT)
		return p->net.hops == NEIGHBOR_HOPS && in;
	if ((type >= ICMP6_MLD_QUERY && type <= ICMP6_MLD_DONE) || type == ICMP6_MLD2_REPORT)
		return p->net.hops == 1;
	return bpf_ntohl(p->net.daddr[0]) >> 16 == 0xff02;
}

static __always_inline enum plain read_icmp(struct __sk_buff *skb, struct moment *m, __u32 how)
{
	struct {
		__u8 type;
		__u8 code;
		__u16 check;
		__be16 id;
		__u16 sequence;
	} h;
	struct packet *p = &m->p;
	bool request, reply;

	if (p->v6 != (p->net.proto == IPPROTO_ICMPV6) || bpf_skb_load_bytes(skb, p->net.l4, &h, sizeof(h)))
		return PLAIN_UNKNOWN;
	m->judged.point |= (__u32)h.type << 8 | h.code;
	plain_tuple(p, 0);
	if (p->v6 && is_link_business(p, h.type, how))
		return PLAIN_PASS;
	request = h.type == (p->v6 ? ICMP6_ECHO : ICMP_ECHO);
	reply = h.type == (p->v6 ? ICMP6_ECHO_REPLY : ICMP_ECHO_REPLY);
	if (!request && !reply)
		return PLAIN_ALONE;
	p->tuple.sport = p->tuple.dport = h.id;
	m->judged.begins = request;
	return PLAIN_TRACK;
}

/* The point of an ICMP error, about whatever it is. */
static __always_inline bool read_error(struct __sk_buff *skb, struct moment *m)
{
	__be16 type_and_code;

	if (bpf_skb_load_bytes(skb, m->p.net.l4, &type_and_code, sizeof(type_and_code)))
		return false;
	m->judged.point = (__u32)m->p.net.proto << 16 | bpf_ntohs(type_and_code);
	return true;
}

/* What a packet is that parse_transport knows nothing of. */
__attribute__((noinline)) int read_plain(struct __sk_buff *skb, __u32 how)
{
	struct moment *m = this_moment();
	struct packet *p;

	if (!m)
		return PLAIN_UNKNOWN;
	p = &m->p;
	p->inner = 0;
	if (p->v6 && is_extension(p->net.proto)) {
		if (!walk(skb, &p->net))
			return PLAIN_UNKNOWN;
		if (has_ports(p->net.proto))
			return parse_transport(skb, p) ? PLAIN_PORTS : PLAIN_UNKNOWN;
	}
	m->judged.point = (__u32)p->net.proto << 16;
	m->judged.begins = false;
	if (has_ports(p->net.proto))
		return PLAIN_UNKNOWN;
	if (p->net.proto == IPPROTO_ICMP || p->net.proto == IPPROTO_ICMPV6) {
		if (p->net.part != LATER_FRAGMENT)
			return read_icmp(skb, m, how);
		plain_tuple(p, 0);
		return recall_fragment(p) ? PLAIN_TRACK : PLAIN_UNKNOWN;
	}
	plain_tuple(p, 0);
	m->judged.begins = true;
	return PLAIN_TRACK;
}
