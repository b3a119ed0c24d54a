/* SPDX-License-Identifier: Dual MIT/GPL */
/* Answering a pod's DNS questions where they are asked, from what the agent has published: names of the cluster, what they
 * have not, and what others have answered lately. Whatever is not as plain as most questions are goes where it would have
 * gone (it is "punted"), as does everything when the agent has been away for long. */
#pragma once

#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "dns_find.h"
#include "dns_question.h"
#include "maps.h"
#include "parse.h"
#include "reject.h"

/* A way, besides those of reject: the link is a veth, whose other end is the pod's. */
#define TO_PEER 2

/* Counts TTLs down to 1. */
LOOPS int age(struct dns_question *q)
{
	__s64 passed = q->now - q->head.born;
	__u32 seconds = passed > 0 ? passed / SECOND : 0, at = 0;

	for (int i = 0; i < ANSWER_RECORDS; i++) {
		__be32 *ttl;

		if (i >= q->head.ttls)
			break;
		at += q->head.ttl_step[i];
		if (at > LARGE_ANSWER_BYTES)
			break;
		ttl = (__be32 *)((__u8 *)q->records + at);
		*ttl = bpf_ntohl(*ttl) > seconds ? bpf_htonl(bpf_ntohl(*ttl) - seconds) : bpf_htonl(1);
	}
	return 0;
}

/* Makes what follows the question. The result is the length of the datagram, 0: the client would not take it. */
static __always_inline __u32 finish_answer(struct dns_question *q)
{
	const struct dns_opt opt = { .type = bpf_htons(DNS_TYPE_OPT), .size = bpf_htons(EDNS_BYTES) };
	__u32 bytes = q->head.bytes, all = QUESTION_AT + q->name_bytes + TYPE_BYTES + bytes;

	if (bytes > LARGE_ANSWER_BYTES)
		return 0;
	if (q->edns) {
		__builtin_memcpy((__u8 *)q->records + bytes, &opt, sizeof(opt));
		all += sizeof(opt);
	}
	if (all - UDP_BYTES > q->room)
		return 0;
	if (q->head.flags & ANSWER_AGED)
		age(q);
	return all;
}

static __always_inline bool store(struct __sk_buff *skb, struct dns_question *q, __u32 to, __u32 from, __u32 bytes)
{
	if (!bytes)
		return true;
	if (from > LARGE_ANSWER_BYTES || !is_within(bytes, 1, LARGE_ANSWER_BYTES + sizeof(struct dns_opt)))
		return false;
	return !bpf_skb_store_bytes(skb, to, (__u8 *)q->records + from, bytes, 0);
}

/* Writes the records, those in turn that may have any order. */
LOOPS bool store_records(struct __sk_buff *skb, struct dns_question *q, __u32 to, __u32 bytes)
{
	__u32 first = q->head.rotate_at, turned, group;

	if (q->head.rotate_count < 2)
		return store(skb, q, to, 0, bytes);
	group = q->head.rotate_count * q->head.rotate_bytes;
	turned = bpf_get_prandom_u32() % q->head.rotate_count * q->head.rotate_bytes;
	return store(skb, q, to, 0, first) &&
	       store(skb, q, to + first, first + turned, group - turned) &&
	       store(skb, q, to + first + group - turned, first, turned) &&
	       store(skb, q, to + first + group, first + group, bytes - first - group);
}

static __always_inline void turn_v4(struct iphdr *ip, __u32 bytes)
{
	__u32 *word = (__u32 *)ip;
	__be32 client = ip->saddr;

	word[0] = bpf_htonl(0x45000000 | (sizeof(*ip) + bytes));
	ip->ttl = ANSWER_HOPS;
	ip->check = 0;
	ip->saddr = ip->daddr;
	ip->daddr = client;
	ip->check = ~fold_sum((__u64)word[0] + word[1] + word[2] + word[3] + word[4]);
}

static __always_inline void turn_v6(struct ipv6hdr *ip, __u32 bytes)
{
	struct in6_addr client = ip->saddr;

	*(__be32 *)ip = bpf_htonl(0x60000000);
	ip->payload_len = bpf_htons(bytes);
	ip->hop_limit = ANSWER_HOPS;
	ip->saddr = ip->daddr;
	ip->daddr = client;
}

/* Makes the headers those of the answer. A sum that IPv4 does without is left out. */
LOOPS bool turn_headers(struct __sk_buff *skb, const struct dns_question *q, __u32 bytes)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct dns_header *dns;
	struct udphdr *udp;
	__u8 mac[ETH_ALEN];

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		udp = data + ETH_HLEN + sizeof(struct iphdr);
		dns = (struct dns_header *)(udp + 1);
		if ((void *)(dns + 1) > end)
			return false;
		turn_v4(data + ETH_HLEN, bytes);
	} else {
		udp = data + ETH_HLEN + sizeof(struct ipv6hdr);
		dns = (struct dns_header *)(udp + 1);
		if ((void *)(dns + 1) > end)
			return false;
		turn_v6(data + ETH_HLEN, bytes);
	}
	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	udp->dest = udp->source;
	udp->source = bpf_htons(DNS_PORT);
	udp->len = bpf_htons(bytes);
	udp->check = q->sum == SUM_OPEN ? fold_sum((__u64)q->pseudo + bpf_htons(bytes)) : 0;
	dns->flags = bpf_htons(DNS_QR) | q->head.header | (dns->flags & bpf_htons(DNS_RD));
	dns->count[1] = bpf_htons(q->head.count[0]);
	dns->count[2] = bpf_htons(q->head.count[1]);
	dns->count[3] = bpf_htons(q->head.count[2] + q->edns);
	return true;
}

/* The sum of as much of the datagram as the helper takes at once. */
static __always_inline __u32 sum_part(const struct dns_question *q, __u32 bytes, __u32 at)
{
	__u32 part = bytes - at;

	if (at >= bytes)
		return 0;
	if (part > 512)
		part = 512;
	return sum_of(q->datagram + at, (part + 3) & 0x3fc);
}

/* Makes the sum of a datagram that has the sum 0. */
LOOPS bool make_sum(struct __sk_buff *skb, struct dns_question *q, __u32 bytes)
{
	__u64 sum = (__u64)q->pseudo + bpf_htons(bytes);
	__u16 check;

	if (!is_within(bytes, UDP_BYTES, ANSWERED_BYTES) || bpf_skb_load_bytes(skb, q->l4, q->datagram, bytes))
		return false;
	*(__u64 *)(q->datagram + bytes) = 0;
	sum += sum_part(q, bytes, 0) + sum_part(q, bytes, 512) + sum_part(q, bytes, 1024);
	check = ~fold_sum(sum);
	if (!check)
		check = 0xffff;
	return !bpf_skb_store_bytes(skb, q->l4 + offsetof(struct udphdr, check), &check, sizeof(check), 0);
}

/* Sends the answer back by the link: see reject. To the other end of a veth there is a shorter way than out by this one. */
static __always_inline int send_answer(struct __sk_buff *skb, struct dns_question *q, __u32 bytes, __u32 way)
{
	__u32 question = QUESTION_AT + q->name_bytes + TYPE_BYTES;

	if (bpf_skb_change_tail(skb, q->l4 + bytes, 0))
		return TC_ACT_UNSPEC;
	if (!turn_headers(skb, q, bytes) || !store_records(skb, q, q->l4 + question, bytes - question))
		return TC_ACT_SHOT;
	if (q->sum != SUM_OPEN && skb->protocol == bpf_htons(ETH_P_IPV6) && !make_sum(skb, q, bytes))
		return TC_ACT_SHOT;
	skb->mark = way ? 0 : ANSWER_MARK; /* to_pod has nothing to do with it */
	return way == TO_PEER ? bpf_redirect_peer(skb->ifindex, 0) : bpf_redirect(skb->ifindex, way);
}

static __always_inline void account(__u32 number, enum dns_outcome outcome)
{
	struct dns_counts *counts = bpf_map_lookup_elem(&dns_counts, &number);

	if (counts)
		counts->count[outcome]++;
}

/* Answers a datagram to port 53 of who is asked for names. The result is TC_ACT_UNSPEC if it must go its way; the packet is
 * then as it was. scope and number are the pod's, way is TO_PEER or as for reject.
 *
 * Not static, so that the verifier looks at it once for a program and by itself (since Linux 5.6), and not on each way to it.
 * Hence it knows nothing of the packet. */
__attribute__((noinline)) int answer_dns(struct __sk_buff *skb, __u32 scope, __u32 number, __u32 way)
{
	enum dns_outcome outcome = DNS_PUNT;
	__u32 zero = 0, bytes = 0;
	const struct dns_view *v;
	struct dns_question *q;
	struct dns_zone *z;

	q = bpf_map_lookup_elem(&dns_questions, &zero);
	z = bpf_map_lookup_elem(&dns_zone, &zero);
	if (!q || !z)
		return TC_ACT_UNSPEC;
	v = &z->view[again(z->current) & 1];
	if (!read_network(skb, q, v))
		return TC_ACT_UNSPEC;
	q->now = bpf_ktime_get_ns();
	q->type = 0;
	q->name_bytes = 0;
	if ((__s64)(q->now - z->alive) <= (__s64)(ANSWER_SECONDS * SECOND) && read_datagram(skb, q) && read_question(q)) {
		take_name(q, z);
		outcome = look_up(q, z, v, scope);
		if (outcome <= DNS_NEGATIVE) {
			bytes = finish_answer(q);
			if (!bytes)
				outcome = DNS_PUNT;
		}
	}
	account(number, outcome);
	return bytes ? send_answer(skb, q, bytes, way) : TC_ACT_UNSPEC;
}
