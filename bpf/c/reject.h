/* SPDX-License-Identifier: Dual MIT/GPL */
/* Refusing a connection in the name of the address that it was for: a reset for TCP, else "port unreachable".
 *
 * A packet of a local socket may have a sum that its device has yet to make (CHECKSUM_PARTIAL), of what follows the IP
 * header, into the place where that protocol has it. No helper says so or ends it. An answer is therefore right before
 * and after: the word in that place is the sum of the pseudo header, which is what the device finds to write there, and
 * another word, that nobody reads, makes up for it. */
#pragma once

#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "parse.h"

#define ANSWER_HOPS 64
#define ICMP_PORT_UNREACH 3
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_PORT_UNREACH 4

/* What an error quotes of what follows the IP header. Ports are enough for the sender to find its socket, but SCTP also
 * wants to see the tag of its INIT (RFC 9260, section 10, ICMP6), else it takes the error for a forged one. */
#define QUOTED_BYTES 8
#define QUOTED_BYTES_SCTP 20

struct icmp_error {
	__u8 type;
	__u8 code;
	__u16 check;
	__u16 unused[2]; /* the second one is where UDP has its sum */
};

struct reset {
	__be16 port[2];
	__be32 seq;
	__be32 ack;
	__u8 words; /* of the header, in the upper half */
	__u8 flags;
	__u16 window; /* nobody looks at a reset's */
	__u16 check;
	__u16 urgent;
};

/* All of the answer, from the IP header on. */
union answer {
	__be32 word[27];
	struct {
		struct iphdr ip;
		union {
			struct reset reset;
			struct {
				struct icmp_error error;
				struct iphdr about;
				__u8 quote[QUOTED_BYTES_SCTP];
			};
		};
	} v4;
	struct {
		struct ipv6hdr ip;
		union {
			struct reset reset;
			struct {
				struct icmp_error error;
				struct ipv6hdr about;
				__u8 quote[QUOTED_BYTES_SCTP];
			};
		};
	} v6;
};

#define RESET_BYTES sizeof(struct reset)
/* An error with the longest quote. What a shorter one leaves of it is zeros, and nothing to a sum. */
#define ERROR_BYTES_V4 (sizeof(struct icmp_error) + sizeof(struct iphdr) + QUOTED_BYTES_SCTP)
#define ERROR_BYTES_V6 (sizeof(struct icmp_error) + sizeof(struct ipv6hdr) + QUOTED_BYTES_SCTP)

static __always_inline __u16 fold_sum(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32 & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u16 sum_of(const void *from, __u32 bytes)
{
	return fold_sum((__u32)bpf_csum_diff(NULL, 0, (__be32 *)from, bytes, 0));
}

/* The order of the addresses makes no difference, nor does the constant part of IPv4's. */
static __always_inline __u16 pseudo_sum(const struct packet *p, __u8 proto, __u16 bytes)
{
	return fold_sum((__u64)sum_of(p->net.saddr, 32) + bpf_htons(proto) + bpf_htons(bytes));
}

static __always_inline bool fill_reset(struct __sk_buff *skb, const struct packet *p, struct reset *r)
{
	__u16 pseudo = pseudo_sum(p, IPPROTO_TCP, RESET_BYTES);
	__be32 seq;

	if (bpf_skb_load_bytes(skb, p->net.l4 + offsetof(struct tcphdr, seq), &seq, sizeof(seq)))
		return false;
	r->port[0] = p->tuple.dport;
	r->port[1] = p->tuple.sport;
	r->ack = bpf_htonl(bpf_ntohl(seq) + 1);
	r->words = RESET_BYTES / 4 << 4;
	r->flags = TCP_RST | TCP_ACK;
	r->window = ~fold_sum((__u64)sum_of(r, RESET_BYTES) + 2 * pseudo);
	r->check = pseudo;
	return true;
}

static __always_inline void fill_v4(const struct packet *p, struct iphdr *ip, __u8 proto, __u16 bytes)
{
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tot_len = bpf_htons(sizeof(*ip) + bytes);
	ip->ttl = ANSWER_HOPS;
	ip->protocol = proto;
	ip->saddr = p->net.daddr[3];
	ip->daddr = p->net.saddr[3];
	ip->check = ~sum_of(ip, sizeof(*ip));
}

static __always_inline void fill_v6(const struct packet *p, struct ipv6hdr *ip, __u8 proto, __u16 bytes)
{
	ip->version = 6;
	ip->payload_len = bpf_htons(bytes);
	ip->nexthdr = proto;
	ip->hop_limit = ANSWER_HOPS;
	__builtin_memcpy(&ip->saddr, p->net.daddr, 16);
	__builtin_memcpy(&ip->daddr, p->net.saddr, 16);
}

/* The result is the quote's length, 0: the packet is shorter. */
static __always_inline __u32 fill_quote(struct __sk_buff *skb, const struct packet *p, __u8 *quote)
{
	if (p->tuple.proto == IPPROTO_SCTP)
		return bpf_skb_load_bytes(skb, p->net.l4, quote, QUOTED_BYTES_SCTP) ? 0 : QUOTED_BYTES_SCTP;
	return bpf_skb_load_bytes(skb, p->net.l4, quote, QUOTED_BYTES) ? 0 : QUOTED_BYTES;
}

/* The result is the answer's length, 0: none. What is quoted is the packet as if it had no options and were whole, because
 * they would part the addresses from the ports. */
static __always_inline __u32 answer_v4(struct __sk_buff *skb, const struct packet *p, union answer *a)
{
	__u32 bytes;

	if (p->tuple.proto == IPPROTO_TCP) {
		fill_v4(p, &a->v4.ip, IPPROTO_TCP, RESET_BYTES);
		return fill_reset(skb, p, &a->v4.reset) ? sizeof(a->v4.ip) + RESET_BYTES : 0;
	}
	bytes = fill_quote(skb, p, a->v4.quote);
	if (!bytes || bpf_skb_load_bytes(skb, p->net.at, &a->v4.about, sizeof(a->v4.about)))
		return 0;
	bytes += sizeof(a->v4.error) + sizeof(a->v4.about);
	a->v4.about.ihl = sizeof(a->v4.about) / 4;
	a->v4.error.type = ICMP_DEST_UNREACH;
	a->v4.error.code = ICMP_PORT_UNREACH;
	a->v4.error.check = ~sum_of(&a->v4.error, ERROR_BYTES_V4);
	fill_v4(p, &a->v4.ip, IPPROTO_ICMP, bytes);
	return sizeof(a->v4.ip) + bytes;
}

static __always_inline __u32 answer_v6(struct __sk_buff *skb, const struct packet *p, union answer *a)
{
	__u32 bytes;
	__u16 pseudo;

	if (p->tuple.proto == IPPROTO_TCP) {
		fill_v6(p, &a->v6.ip, IPPROTO_TCP, RESET_BYTES);
		return fill_reset(skb, p, &a->v6.reset) ? sizeof(a->v6.ip) + RESET_BYTES : 0;
	}
	bytes = fill_quote(skb, p, a->v6.quote);
	if (!bytes || bpf_skb_load_bytes(skb, p->net.at, &a->v6.about, sizeof(a->v6.about)))
		return 0;
	bytes += sizeof(a->v6.error) + sizeof(a->v6.about);
	pseudo = pseudo_sum(p, IPPROTO_ICMPV6, bytes);
	a->v6.about.nexthdr = p->net.proto;
	a->v6.error.type = ICMPV6_DEST_UNREACH;
	a->v6.error.code = ICMPV6_PORT_UNREACH;
	a->v6.error.unused[1] = pseudo;
	a->v6.error.check = ~fold_sum((__u64)sum_of(&a->v6.error, ERROR_BYTES_V6) + pseudo);
	fill_v6(p, &a->v6.ip, IPPROTO_ICMPV6, bytes);
	return sizeof(a->v6.ip) + bytes;
}

static __always_inline bool turn_frame(struct __sk_buff *skb)
{
	__u8 mac[2][ETH_ALEN], turned[2][ETH_ALEN];

	if (bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)))
		return false;
	__builtin_memcpy(turned[0], mac[1], ETH_ALEN);
	__builtin_memcpy(turned[1], mac[0], ETH_ALEN);
	return !bpf_skb_store_bytes(skb, 0, turned, sizeof(turned), 0);
}

/* One of each processor's own: it is more than the stack has left. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, union answer);
} answer SEC(".maps");

/* Makes the answer of the packet, and sends it back by the link. way is 0 when the packet came in by it, and
 * BPF_F_INGRESS when it was about to leave. A global function, see begin. */
__attribute__((noinline)) int reject(struct __sk_buff *skb, __u64 way)
{
	__u32 zero = 0, bytes;
	union answer *a = bpf_map_lookup_elem(&answer, &zero);
	struct moment *m = this_moment();
	const struct packet *p;

	if (!a || !m)
		return TC_ACT_SHOT;
	p = &m->p;
	if (stays_on_link(p->net.saddr) || is_unspecified(p->net.saddr))
		return TC_ACT_SHOT;
	__builtin_memset(a, 0, sizeof(*a));
	bytes = p->v6 ? answer_v6(skb, p, a) : answer_v4(skb, p, a);
	asm volatile("" : "+r"(bytes)); /* the checks below are for the verifier, who must see them on this register */
	if (bytes < sizeof(a->v4.ip) || bytes > sizeof(*a))
		return TC_ACT_SHOT;
	if (bpf_skb_change_tail(skb, ETH_HLEN + bytes, 0) || bpf_skb_store_bytes(skb, ETH_HLEN, a, bytes, BPF_F_RECOMPUTE_CSUM) ||
	    !turn_frame(skb))
		return TC_ACT_SHOT;
	skb->mark = way ? 0 : ANSWER_MARK; /* to_pod has nothing to do with it */
	return bpf_redirect(skb->ifindex, way);
}
