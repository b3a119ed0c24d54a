/* SPDX-License-Identifier: Dual MIT/GPL */
/* Whether NetworkPolicy lets a packet pass at a pod's device. Connections are judged when they begin, and when the policy has
 * changed since; what is said of them is in tracked.
 *
 * All here is in global functions, see begin: they take the packet from moments. */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "flow.h"
#include "judge.h"
#include "open.h"
#include "parse.h"
#include "plain.h"
#include "policymaps.h"

/* Which side's packets write which end. */
#define END_POD 0
#define END_PEER 1

/* A packet that may be the first of a connection, in the direction that it goes. */
static __always_inline bool begins(const struct moment *m, __u32 how)
{
	if (m->p.inner || m->p.net.part == LATER_FRAGMENT)
		return false;
	return how & JUDGE_PLAIN ? m->judged.begins : opens(&m->p);
}

/* The connection as it is on the pod's device, from the pod's side. */
static __always_inline void own_key(struct moment *m, __u32 how)
{
	struct flow_key *key = &m->judged.key;

	if (!(how & JUDGE_IN)) {
		*key = m->p.tuple;
		return;
	}
	if (how & JUDGE_TRANSLATED) {
		turn(&m->to, &m->p.tuple, key);
		return;
	}
	__builtin_memcpy(key->saddr, m->p.tuple.daddr, sizeof(key->saddr));
	__builtin_memcpy(key->daddr, m->p.tuple.saddr, sizeof(key->daddr));
	key->sport = m->p.tuple.dport;
	key->dport = m->p.tuple.sport;
	key->proto = m->p.tuple.proto;
	__builtin_memset(key->pad, 0, sizeof(key->pad));
}

/* Each side writes its own byte. See touch about resets. */
static __always_inline void touch_tracked(struct tracked *t, const struct moment *m, __u32 how)
{
	__u8 side = how & JUDGE_IN ? END_PEER : END_POD, had = t->end[side], has = (had | END_SEEN) & ~END_RST;
	__u32 ticks = bpf_jiffies64();

	if (m->p.inner)
		return;
	if (m->p.flags & TCP_FIN)
		has |= END_FIN;
	if (m->p.flags & TCP_RST)
		has |= END_RST;
	if ((m->p.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && ((t->end[0] | t->end[1]) & (END_FIN | END_RST))) {
		t->end[0] = t->end[1] = 0; /* the port is used again */
		has = END_SEEN;
		had = 0;
	}
	if (has != had)
		t->end[side] = has;
	if (ticks - t->ticks > TRACKED_TICKS) {
		t->ticks = ticks;
		t->last_seen = bpf_ktime_get_ns();
	}
}

/* Whom the node's address stands for. */
enum stands {
	STANDS_FOR_NOBODY,
	STANDS_FOR_NODE,
	STANDS_FOR_CLIENT,
};

static __always_inline enum stands stands_for(const struct flow_key *own, __be32 *client)
{
	const struct flow *f = bpf_map_lookup_elem(&flows, own);

	if (!f || !(f->flags & FLOW_REPLY))
		return STANDS_FOR_NOBODY;
	__builtin_memcpy(client, f->daddr, 16);
	if (f->echo != fold_key(own))
		return STANDS_FOR_NOBODY;
	return f->flags & FLOW_NODE ? STANDS_FOR_NODE : STANDS_FOR_CLIENT;
}

/* Whether the node itself, or its DNS listener, answers what the pod asked a Service. A link in the pod's namespace sees the answer when it
 * has the Service's address again, and nothing of the way that it came by. */
static __always_inline bool is_answer_of_node(const struct flow_key *own)
{
	const struct flow *f = bpf_map_lookup_elem(&flows, own);
	__be32 backend[4];
	__be16 port;

	if (!f || (f->flags & FLOW_REPLY))
		return false;
	__builtin_memcpy(backend, f->daddr, sizeof(backend));
	port = f->dport;
	asm volatile("" ::: "memory");
	return f->echo == fold_key(own) && (of_this_node(backend) || is_node_dns(backend, port));
}

/* What begins a connection cannot be an answer. */
static __always_inline bool one_way(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_SCTP || proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6;
}

/* Whether an entry is about the one that the packet is of. A Service may send a connection that begins to another backend than
 * one that had the same ports, and an address of the node may stand for another client. */
static __always_inline bool same_connection(const struct moment *m, const struct tracked *t, __u32 how)
{
	__be32 client[4];

	if (begins(m, how)) {
		if (!(t->flags & TRACKED_IN) != !(how & JUDGE_IN))
			return !one_way(m->judged.key.proto);
		if ((how & JUDGE_IN) && bpf_ntohs(m->judged.key.dport) >= FIRST_CLAIMED_PORT &&
		    stands_for(&m->judged.key, client) != STANDS_FOR_NOBODY && !same_address(client, t->peer))
			return false;
	}
	if ((how & (JUDGE_IN | JUDGE_TRANSLATED)) == JUDGE_TRANSLATED && !(m->to.flags & FLOW_REPLY))
		return same_address(m->to.daddr, t->peer) && (__u16)t->point == bpf_ntohs(m->to.dport);
	return true;
}

/* Fills in whom a packet goes to or comes from, and for what. The result is DECIDED_*. */
enum decided {
	DECIDED_PASS,  /* policy has nothing to do with it */
	DECIDED_JUDGE, /* to be judged by itself: it is of no connection */
	DECIDED_TRACK, /* to be judged as a connection */
};

static __always_inline enum decided find_peer_out(struct moment *m, __u32 how)
{
	struct judgement *j = &m->judged;
	__be16 port = j->key.dport;

	__builtin_memcpy(j->entry.peer, m->p.net.daddr, sizeof(j->entry.peer));
	if (how & JUDGE_TRANSLATED) {
		if ((m->to.flags & (FLOW_NODE | FLOW_REPLY)) == (FLOW_NODE | FLOW_REPLY))
			return DECIDED_PASS;
		__builtin_memcpy(j->entry.peer, m->to.daddr, sizeof(j->entry.peer));
		port = m->to.dport;
	} else if (same_address(j->entry.peer, j->key.saddr)) {
		return DECIDED_PASS; /* itself */
	}
	j->entry.point = how & JUDGE_PLAIN ? j->point : (__u32)j->key.proto << 16 | bpf_ntohs(port);
	if (!(how & JUDGE_PLAIN) && is_node_dns(j->entry.peer, port))
		return DECIDED_JUDGE;
	return of_this_node(j->entry.peer) ? DECIDED_PASS : DECIDED_TRACK;
}

static __always_inline enum decided find_peer_in(struct moment *m, __u32 how)
{
	struct judgement *j = &m->judged;
	enum stands stands;
	__be32 client[4];

	__builtin_memcpy(j->entry.peer, m->p.net.saddr, sizeof(j->entry.peer));
	if (!(how & JUDGE_TRANSLATED) && same_address(j->entry.peer, j->key.saddr))
		return DECIDED_PASS;
	j->entry.point = how & JUDGE_PLAIN ? j->point : (__u32)j->key.proto << 16 | bpf_ntohs(j->key.sport);
	if (!of_this_node(j->entry.peer))
		return (how & JUDGE_NODE_ADDRESS) && is_answer_of_node(&j->key) ? DECIDED_PASS : DECIDED_TRACK;
	stands = stands_for(&j->key, client);
	if (stands == STANDS_FOR_CLIENT) {
		__builtin_memcpy(j->entry.peer, client, sizeof(client));
		return DECIDED_TRACK;
	}
	return stands == STANDS_FOR_NODE || (how & JUDGE_NODE_ADDRESS) ? DECIDED_PASS : DECIDED_TRACK;
}

/* Of a connection in its middle that nobody has judged, whoever has the higher port has begun it. */
static __always_inline void guess_origin(struct moment *m, __u32 how)
{
	struct judgement *j = &m->judged;
	__u32 own = bpf_ntohs(j->key.sport), peer = bpf_ntohs(j->key.dport);

	if ((how & JUDGE_TRANSLATED) && !(how & JUDGE_IN) && (m->to.flags & FLOW_REPLY))
		own = 0; /* the pod serves it */
	if (peer > own) {
		j->entry.flags |= TRACKED_IN;
		j->entry.point = (__u32)j->key.proto << 16 | bpf_ntohs(j->key.sport);
	} else if (how & JUDGE_IN) {
		j->entry.flags &= ~TRACKED_IN;
		j->entry.point = (__u32)j->key.proto << 16 | peer;
	}
}

/* Adds an entry, or replaces it. False if there is no room for it. */
static __always_inline bool put_tracked(struct moment *m, __u32 number, bool had)
{
	struct judgement *j = &m->judged;
	struct policy_share *share = bpf_map_lookup_elem(&policy_shares, &number);

	if (!had && share && share->tracked >= tracked_share)
		return false;
	if ((int)bpf_map_update_elem(&tracked, &j->key, &j->entry, BPF_ANY))
		return false;
	if (!had && share)
		__sync_fetch_and_add(&share->tracked, 1);
	return true;
}

/* A denied connection needs no translation. */
static __always_inline void forget_translation(struct moment *m)
{
	bpf_map_delete_elem(&flows, &m->p.tuple);
	turn(&m->to, &m->p.tuple, &m->judged.key);
	bpf_map_delete_elem(&flows, &m->judged.key);
}

/* Judges what has no entry. */
__attribute__((noinline)) int judge_first(__u32 number, __u32 how)
{
	struct moment *m = this_moment();
	struct judgement *j;
	enum decided d;
	bool first;
	int log;

	if (!m)
		return false;
	j = &m->judged;
	first = begins(m, how);
	j->entry.flags = how & JUDGE_IN ? TRACKED_IN : 0;
	d = how & JUDGE_IN ? find_peer_in(m, how) : find_peer_out(m, how);
	if (d == DECIDED_PASS)
		return true;
	log = judge(number, how & JUDGE_IN);
	if (log < 0) {
		tell(number, how & JUDGE_IN, POLICY_DENIED);
		if (first && (how & (JUDGE_IN | JUDGE_TRANSLATED)) == JUDGE_TRANSLATED && !(m->to.flags & FLOW_REPLY))
			forget_translation(m);
		return false;
	}
	if (d == DECIDED_JUDGE || (how & JUDGE_ALONE) || is_multicast(j->key.saddr) || is_multicast(j->key.daddr)) {
		account_policy(number, how & JUDGE_IN, POLICY_ALLOWED);
		return true;
	}
	if (!first) {
		if ((how & JUDGE_PLAIN) || j->key.proto == IPPROTO_UDP || isolated(number, JUDGE_IN) || isolated(number, 0))
			return true;
		guess_origin(m, how);
	}
	j->entry.generation = j->generation;
	j->entry.number = number;
	j->entry.last_seen = bpf_ktime_get_ns();
	j->entry.ticks = bpf_jiffies64();
	j->entry.echo = fold_key(&j->key);
	j->entry.end[END_POD] = how & JUDGE_IN ? 0 : END_SEEN;
	j->entry.end[END_PEER] = how & JUDGE_IN ? END_SEEN : 0;
	if (!put_tracked(m, number, bpf_map_lookup_elem(&tracked, &j->key)) && isolated(number, ~how & JUDGE_IN)) {
		tell(number, how & JUDGE_IN, POLICY_FULL);
		return false;
	}
	account_policy(number, how & JUDGE_IN, POLICY_ALLOWED);
	if (log & INTERVAL_LOG)
		tell(number, how & JUDGE_IN, POLICY_LOGGED);
	return true;
}

/* Judges again what was judged before the policy changed, by what the entry says was judged. */
__attribute__((noinline)) int judge_again(__u32 number, __u32 how)
{
	struct moment *m = this_moment();
	struct judgement *j;
	bool allowed;

	if (!m)
		return false;
	j = &m->judged;
	_Static_assert((int)TRACKED_IN == (int)JUDGE_IN, "the direction is one bit");
	allowed = judge(number, j->entry.flags & TRACKED_IN) >= 0;
	j->entry.flags = (j->entry.flags & TRACKED_IN) | (allowed ? 0 : TRACKED_DENIED);
	j->entry.generation = j->generation;
	put_tracked(m, number, true); /* without room it is judged again */
	if (!allowed)
		tell(number, j->entry.flags & TRACKED_IN, POLICY_DENIED);
	return allowed;
}

/* Lets later fragments of what passes be known, and of nothing else. What is rewritten is remembered when that is done. */
static __always_inline int done(const struct moment *m, bool pass, __u32 how)
{
	if (m->p.net.part != FIRST_FRAGMENT || m->p.inner)
		return pass;
	if (!pass)
		forget_fragment(&m->p);
	else if (!(how & JUDGE_TRANSLATED))
		remember_fragment(&m->p);
	return pass;
}

/* What policy does not understand passes if the pod is not isolated. */
static __always_inline int unknown(struct moment *m, __u32 number, __u32 how)
{
	if (!isolated(number, how & JUDGE_IN) || (!(how & JUDGE_IN) && of_this_node(m->p.net.daddr)))
		return true;
	plain_tuple(&m->p, 0);
	own_key(m, how & JUDGE_IN);
	__builtin_memcpy(m->judged.entry.peer, m->judged.key.daddr, sizeof(m->judged.entry.peer));
	m->judged.entry.point = (__u32)m->p.net.proto << 16;
	m->judged.set = policy_set(number, how & JUDGE_IN);
	m->judged.class = 0;
	tell(number, how & JUDGE_IN, POLICY_UNKNOWN);
	return false;
}

static __always_inline __u32 policy_generation(void)
{
	__u32 word = POLICY_GENERATION;
	const volatile __u64 *generation = bpf_map_lookup_elem(&policy_state, &word);

	return generation ? *generation : 0;
}

/* Whether policy lets the packet in moments pass at the device of the pod that has the number: how is enum judge_how. */
__attribute__((noinline)) int passes(struct __sk_buff *skb, __u32 number, __u32 how)
{
	struct moment *m = this_moment();
	struct tracked *t;

	if (policy_off)
		return true;
	if (!m)
		return false;
	if ((how & (JUDGE_IN | JUDGE_NODE_PATH)) == (JUDGE_IN | JUDGE_NODE_PATH) && of_this_node(m->p.net.saddr))
		return true;
	if (!(how & JUDGE_PORTS)) {
		int plain = read_plain(skb, how);

		if (plain == PLAIN_PASS)
			return true;
		if (plain == PLAIN_UNKNOWN)
			return unknown(m, number, how);
		if (plain != PLAIN_PORTS)
			how |= plain == PLAIN_ALONE ? JUDGE_PLAIN | JUDGE_ALONE : JUDGE_PLAIN;
	}
	m->judged.generation = policy_generation();
	own_key(m, how);
	t = how & JUDGE_ALONE ? NULL : bpf_map_lookup_elem(&tracked, &m->judged.key);
	if (t && same_connection(m, t, how)) {
		__u32 generation = t->generation, flags = t->flags;

		asm volatile("" ::: "memory");
		if (t->echo == fold_key(&m->judged.key)) {
			if (generation != m->judged.generation) {
				m->judged.entry = *t;
				return done(m, judge_again(number, how), how);
			}
			touch_tracked(t, m, how);
			return done(m, !(flags & TRACKED_DENIED), how);
		}
	}
	if (m->p.inner) {
		if (!read_error(skb, m))
			return unknown(m, number, how);
		how = (how & ~(JUDGE_PORTS | JUDGE_TRANSLATED)) | JUDGE_PLAIN | JUDGE_ALONE;
	}
	return done(m, judge_first(number, how), how);
}

/* What becomes of a datagram to port 53 before it is answered by a program. */
enum dns_judged {
	DNS_REFUSED,	/* it is not allowed */
	DNS_MAY_ANSWER,
	DNS_MAY_GO_ON,	/* it is nothing that the node's listener is asked, and is judged as anything else */
};

/* The node's listener, and a Service that it answers for, is one peer: that of the listener's address. */
__attribute__((noinline)) int judge_dns(__u32 number)
{
	struct moment *m = this_moment();
	struct opening *o;
	__u32 zero = 0;

	if (policy_off || !isolated(number, 0))
		return DNS_MAY_ANSWER;
	o = bpf_map_lookup_elem(&openings, &zero);
	if (!m || !o)
		return DNS_REFUSED;
	if (is_node_dns(m->p.tuple.daddr, m->p.tuple.dport))
		__builtin_memcpy(o->backend.addr, m->p.tuple.daddr, sizeof(o->backend.addr));
	else if (!find_service(m->p.tuple.daddr, m->p.tuple.dport, m->p.tuple.proto, &o->svc) || !(o->svc.policy.flags & BLOCK_NODE_DNS) ||
		 !get_node_dns(o->svc.policy.backend_cells == BACKEND_CELLS_V4, &o->backend))
		return DNS_MAY_GO_ON;
	m->judged.generation = policy_generation();
	own_key(m, JUDGE_PORTS);
	__builtin_memcpy(m->judged.entry.peer, o->backend.addr, sizeof(m->judged.entry.peer));
	m->judged.entry.point = (__u32)m->p.tuple.proto << 16 | DNS_PORT;
	if (judge(number, 0) >= 0)
		return DNS_MAY_ANSWER;
	tell(number, 0, POLICY_DENIED);
	return DNS_REFUSED;
}

/* Whether a frame may go to a pod by the link that leads to it, that is none of IP, or one that cannot be read. */
__attribute__((noinline)) int odd_passes(struct __sk_buff *skb)
{
	const struct pod_link *l;
	__u32 link = skb->ifindex, number;

	if (policy_off || (!skb->vlan_present && skb->protocol == bpf_htons(ETH_P_ARP)))
		return true;
	l = bpf_map_lookup_elem(&pod_links, &link);
	if (!l || l->link != link)
		return true;
	number = l->number;
	if (!isolated(number, JUDGE_IN))
		return true;
	account_policy(number, JUDGE_IN, POLICY_UNKNOWN);
	return false;
}
