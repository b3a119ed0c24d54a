/* SPDX-License-Identifier: Dual MIT/GPL */
/* The connections that packets are translated for. */
#pragma once

#include <linux/errno.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "lb.h"
#include "parse.h"
#include "steer.h"

static __always_inline __u32 fold_key(const struct flow_key *key)
{
	return fold_words(key, sizeof(*key) / 4);
}

/* The flow a packet belongs to, and what it says, whole: see struct frontend for why that takes a copy. */
static __always_inline struct flow *find_flow(const struct flow_key *key, struct flow *copy)
{
	struct flow *f = bpf_map_lookup_elem(&flows, key);

	if (!f)
		return NULL;
	*copy = *f;
	asm volatile("" ::: "memory");
	return f->echo == fold_key(key) ? f : NULL;
}

/* The key of the connection's other entry. */
static __always_inline void turn(const struct flow *f, const struct flow_key *from, struct flow_key *key)
{
	__builtin_memcpy(key->saddr, f->daddr, sizeof(key->saddr));
	__builtin_memcpy(key->daddr, f->saddr, sizeof(key->daddr));
	key->sport = f->dport;
	key->dport = f->sport;
	key->proto = from->proto;
	__builtin_memset(key->pad, 0, sizeof(key->pad));
}

/* Each side writes its own entry only; the agent judges a connection by both. A reset may be forged or stale: whoever
 * sends on has not ended. */
static __always_inline void touch(struct flow *f, const struct packet *p)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 had = f->flags, has = (had | FLOW_SEEN) & ~FLOW_RST;

	if (p->inner)
		return; /* an error is no sign of life */
	if (p->flags & TCP_FIN)
		has |= FLOW_FIN;
	if (p->flags & TCP_RST)
		has |= FLOW_RST;
	if (has != had)
		f->flags = has;
	if (now - f->last_seen > SECOND)
		f->last_seen = now;
}

/* Both sides have closed, or one has reset. */
static __always_inline bool closed(const struct flow *f, const struct flow_key *other)
{
	const struct flow *o = bpf_map_lookup_elem(&flows, other);
	__u32 flags = o ? o->flags : FLOW_RST;

	return ((flags | f->flags) & FLOW_RST) || (flags & f->flags & FLOW_FIN);
}

/* Whether the backend that the packet's flow goes to is still one of its Service's, which was published anew. A global function,
 * see begin. */
__attribute__((noinline)) int serves_on(void)
{
	struct moment *m = this_moment();
	struct service svc = {};
	struct flow *f;

	if (!m || !read_block(m->to.record, &svc) || !serves(&svc, m->to.daddr, m->to.dport))
		return false;
	f = bpf_map_lookup_elem(&flows, &m->p.tuple);
	if (f)
		f->published = svc.published;
	return true;
}

/* Whether what a client begins may still go to the backend that it went to: while that one serves (reference row G2). */
static __always_inline bool still_served(const struct flow *copy)
{
	__u32 record = copy->record;
	const volatile __u64 *word = bpf_map_lookup_elem(&records, &record);
	union {
		__u64 cell;
		struct record published;
	} u;

	if (!word)
		return false;
	if (copy->flags & FLOW_LISTENER)
		return is_node_dns(copy->daddr, copy->dport); /* it may have another address by now */
	u.cell = *word;
	if (u.published.block == copy->published.block && u.published.sequence == copy->published.sequence)
		return true;
	return serves_on();
}

/* A client's packet that has a flow opens a new connection all the same when it could not go on with the old one: the
 * client has the port for the second time, or the backend is gone. */
static __always_inline bool outlived(const struct flow *copy, const struct packet *p)
{
	struct flow_key other;

	if ((copy->flags & FLOW_REPLY) || !opens(p))
		return false;
	turn(copy, &p->tuple, &other);
	if (still_served(copy) && (p->tuple.proto == IPPROTO_UDP || !closed(copy, &other)))
		return false;
	bpf_map_delete_elem(&flows, &p->tuple);
	bpf_map_delete_elem(&flows, &other);
	return true;
}

/* Whether the node's listener serves what the packet asks: while it lives, and queries only. What else DNS is used for, such as updates
 * and notices (RFC 6895, 2.2), is the cluster's DNS to judge. Of a connection it is not known. A global function, see begin. */
__attribute__((noinline)) int listener_serves(struct __sk_buff *skb)
{
	struct moment *m = this_moment();
	__u8 flags = 0;

	if (!m || !agent_alive())
		return false;
	if (m->p.tuple.proto != IPPROTO_UDP)
		return true;
	if (m->p.inner || m->p.net.part == LATER_FRAGMENT)
		return false;
	return !bpf_skb_load_bytes(skb, m->p.net.l4 + sizeof(struct udphdr) + OPCODE_AT, &flags, sizeof(flags)) && !(flags & OPCODE_BITS);
}

/* A datagram to the cluster's DNS goes to the node's listener while that one serves it, whoever got the last: it needs a new
 * connection then. What answers the ones before is under way, so the answers' entry stays. */
static __always_inline bool resteered(struct __sk_buff *skb, const struct flow *copy, const struct packet *p)
{
	if ((copy->flags & (FLOW_DNS | FLOW_REPLY)) != FLOW_DNS || p->tuple.proto != IPPROTO_UDP || p->inner)
		return false;
	if (!(copy->flags & FLOW_LISTENER) == !listener_serves(skb))
		return false;
	bpf_map_delete_elem(&flows, &p->tuple);
	return true;
}

static __always_inline __be16 random_port(void)
{
	return bpf_htons(FIRST_CLAIMED_PORT + (__u32)(((__u64)bpf_get_prandom_u32() * CLAIMED_PORTS) >> 32));
}

/* Adds an entry if there is none. The result is an int: before 6.4 the verifier calls a map's function directly, and
 * what that leaves in the upper half of the register is not the sign. */
static __always_inline int add_flow(const struct flow_key *key, const struct flow *value)
{
	return (int)bpf_map_update_elem(&flows, key, value, BPF_NOEXIST);
}

/* Nobody has answered, and nobody has asked again lately: most of a flood is this. */
static __always_inline bool unanswered(const struct flow *reply, const struct flow_key *other)
{
	const struct flow *request = bpf_map_lookup_elem(&flows, other);
	__u64 now = bpf_ktime_get_ns();

	if ((reply->flags & (FLOW_REPLY | FLOW_SEEN)) != FLOW_REPLY || now - reply->last_seen < CLAIM_SECONDS * SECOND)
		return false;
	return !request || now - request->last_seen >= CLAIM_SECONDS * SECOND;
}

/* Takes the place of a connection that has ended but not been swept, or that never began. */
static __always_inline int take_over(const struct flow_key *key, const struct flow *value)
{
	struct flow *old = bpf_map_lookup_elem(&flows, key);
	struct flow_key other;

	if (old) {
		turn(old, key, &other);
		if (!closed(old, &other) && !unanswered(old, &other))
			return -EEXIST;
		bpf_map_delete_elem(&flows, &other);
		bpf_map_delete_elem(&flows, key);
	}
	return add_flow(key, value);
}

/* Finds the port that the client has for the backend, and with it the key of the backend's packets. The first try is
 * the port that is in the key, if keep says so. Whoever adds the entry first has the port. */
static __always_inline int claim(struct flow_key *key, struct flow *value, bool keep)
{
	int err = -EEXIST;

	for (__u32 i = 0; i < CLAIM_TRIES && err == -EEXIST; i++) {
		if (i || !keep)
			key->dport = random_port();
		value->echo = fold_key(key);
		err = add_flow(key, value);
	}
	return err == -EEXIST ? take_over(key, value) : err;
}
