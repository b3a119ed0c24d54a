/* SPDX-License-Identifier: Dual MIT/GPL */
/* The verdict of a pod's policy about a peer and a point, and telling of it. */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "lb.h"
#include "parse.h"
#include "policymaps.h"

/* Programs without policy. */
const volatile __u8 policy_off;

/* How many entries of tracked one pod may have. */
const volatile __u32 tracked_share;

/* What a program says of a packet that is to be judged. */
enum judge_how {
	JUDGE_IN = 1 << 0,	     /* it goes to the pod; else it comes from it */
	JUDGE_PORTS = 1 << 1,	     /* parse_transport has found its flow */
	JUDGE_TRANSLATED = 1 << 2,   /* what it becomes is in moment.to */
	JUDGE_NODE_PATH = 1 << 3,    /* a socket of the node sends it, if it has an address of the node */
	JUDGE_NODE_ADDRESS = 1 << 4, /* who has an address of the node and stands for nobody is the node */
	JUDGE_LINK = 1 << 5,	     /* neighbours are on the link by which it leaves */
	/* Given by functions of policy to one another. */
	JUDGE_PLAIN = 1 << 6, /* its point is in moment.judged */
	JUDGE_ALONE = 1 << 7, /* it is of no connection */
};

static __always_inline bool is_multicast(const __be32 *addr)
{
	if (is_v4(addr))
		return bpf_ntohl(addr[3]) >= 0xe0000000;
	return bpf_ntohl(addr[0]) >> 24 == 0xff;
}

/* The policy set of a pod in a direction, JUDGE_IN or 0. */
static __always_inline __u64 policy_set(__u32 number, __u32 in)
{
	const volatile struct policy_pod *pod = bpf_map_lookup_elem(&policy_pods, &number);

	if (!pod)
		return 0;
	return in ? pod->ingress : pod->egress;
}

static __always_inline bool isolated(__u32 number, __u32 in)
{
	return policy_set(number, in);
}

static __always_inline void account_policy(__u32 number, __u32 in, enum policy_outcome outcome)
{
	struct policy_counts *c = bpf_map_lookup_elem(&policy_counts, &number);

	if (!c || outcome >= POLICY_OUTCOMES)
		return;
	if (in)
		c->ingress[outcome]++;
	else
		c->egress[outcome]++;
}

/* Whether a prefix of so many bits of the address is what echo says. */
static __always_inline bool is_prefix(const __be32 *addr, __u32 bits, __u32 echo)
{
	__u32 x = 0;

	for (__u32 i = 0; i < 4; i++) {
		__u32 n = bits > 32 * i ? bits - 32 * i : 0;

		x ^= addr[i] & (n >= 32 ? ~0U : bpf_htonl(~(~0U >> n)));
	}
	return x == echo;
}

/* The class of an address. A second look sees the state after whatever change the first one fell into. IPv6 prefixes that contain
 * the form that IPv4 addresses have here are not about these. */
static __always_inline __u64 class_of(const __be32 *addr)
{
	for (__u32 i = 0; i < 2; i++) {
		struct network net = { .prefix_bits = 128, .addr = { addr[0], addr[1], addr[2], addr[3] } };
		const volatile struct policy_peer *p = bpf_map_lookup_elem(&policy_peers, net.addr);
		const volatile struct policy_cidr *c;
		__u32 bits, echo;
		__u64 class;

		if (p) {
			class = p->class;
			asm volatile("" ::: "memory");
			if (p->echo == fold_words(net.addr, 4))
				return class;
			continue;
		}
		c = bpf_map_lookup_elem(&policy_cidrs, &net);
		if (!c)
			return 0;
		class = c->class;
		bits = c->prefix_bits;
		echo = c->echo;
		if (is_prefix(net.addr, bits, echo))
			return is_v4(net.addr) && bits < 96 ? 0 : class;
	}
	return 0;
}

/* The flags of the interval that has the point, -1: none has. A global function, see compare. */
__attribute__((noinline)) int find_interval(__u32 at, __u32 count, __u32 point)
{
	__u32 first = 0, end = count;

	for (int i = 0; i < INTERVAL_STEPS && first < end; i++) {
		__u32 middle = (first + end) / 2, index = at + middle;
		const volatile __u64 *cell = bpf_map_lookup_elem(&policy_ports, &index);
		__u64 interval;

		if (!cell)
			return -1;
		interval = *cell;
		if (point < (interval & MAX_POINT))
			end = middle;
		else if (point > interval >> 32)
			first = middle + 1;
		else
			return interval >> 24 & 0xff;
	}
	return -1;
}

/* Copies the verdict of a set about a class, and says if there is one. */
static __always_inline bool read_verdict(__u64 set, __u64 class, struct verdict *to)
{
	struct verdict_key key = { .set = set, .class = class };

	for (__u32 i = 0; i < 2; i++) {
		const struct verdict *v = bpf_map_lookup_elem(&policy_verdicts, &key);

		if (!v)
			return false;
		*to = *v;
		asm volatile("" ::: "memory");
		if (v->echo == fold_words(&key, 4))
			return true;
	}
	return false;
}

/* Whether the pod may talk to the peer that is in moment.judged, about the point: -1, or the interval's flags. The set is read
 * before the class: the agent writes in that order's reverse. */
__attribute__((noinline)) int judge(__u32 number, __u32 in)
{
	struct moment *m = this_moment();
	struct verdict v = {};
	__u32 point;

	if (!m)
		return -1;
	m->judged.class = 0;
	m->judged.set = policy_set(number, in);
	if (!m->judged.set)
		return 0;
	asm volatile("" ::: "memory");
	point = m->judged.entry.point;
	m->judged.class = class_of(m->judged.entry.peer);
	if (!read_verdict(m->judged.set, m->judged.class, &v) && !read_verdict(m->judged.set, 0, &v))
		return -1;
	if (v.count > 1)
		return find_interval(v.at, v.count, point);
	if (!v.count || point < (v.one.lo & MAX_POINT) || point > v.one.hi)
		return -1;
	return v.one.lo >> 24;
}

/* Counts what became of a packet, and sends an event. A pod has so many a second: what is beyond them is counted. */
__attribute__((noinline)) int tell(__u32 number, __u32 in, __u32 outcome)
{
	struct policy_share *share = bpf_map_lookup_elem(&policy_shares, &number);
	struct moment *m = this_moment();
	__u64 now = bpf_ktime_get_ns();
	struct policy_event *e;

	if (outcome < POLICY_OUTCOMES)
		account_policy(number, in, outcome);
	if (!share || !m)
		return 0;
	if (now - share->since >= SECOND) {
		share->since = now;
		share->events = 0;
	}
	e = share->events < POLICY_EVENTS_PER_SECOND ? bpf_ringbuf_reserve(&policy_events, sizeof(*e), 0) : NULL;
	if (!e) {
		share->suppressed++;
		return 0;
	}
	share->events++;
	e->time = now;
	e->set = m->judged.set;
	e->class = m->judged.class;
	e->suppressed = share->suppressed;
	__builtin_memcpy(e->pod, m->judged.key.saddr, sizeof(e->pod));
	__builtin_memcpy(e->peer, m->judged.entry.peer, sizeof(e->peer));
	e->point = m->judged.entry.point;
	e->generation = m->judged.generation;
	e->pod_port = m->judged.key.sport;
	e->peer_port = m->judged.key.dport;
	e->number = number;
	e->ingress = !!in;
	e->outcome = outcome;
	bpf_ringbuf_submit(e, 0);
	return 0;
}
