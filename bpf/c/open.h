/* SPDX-License-Identifier: Dual MIT/GPL */
/* How connections begin that packets are translated for. */
#pragma once

#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "flow.h"
#include "lb.h"
#include "parse.h"

const volatile __u64 host_netns_cookie;

/* Who begins a connection, and with it where its answers are seen. */
enum client {
	CLIENT_OUTSIDE,
	CLIENT_POD,	/* its packets go through the node's stack */
	CLIENT_ENI_POD, /* its packets leave by an ENI, past the stack */
	CLIENT_NODE,	/* a socket of the node */
};

/* What a connection looks like to its backend, and which way it goes. Zero at first. */
struct course {
	__be32 source[4];
	__u32 link;  /* of struct flow, for what the client sends */
	__u32 back;  /* the same for what the backend answers */
	__u32 flags; /* of both entries */
	bool to_pod; /* link is the backend's */
	bool keep;   /* the client's port is the first that is tried */
};

/* What a connection that begins needs for a moment: more than a stack has. */
struct opening {
	struct service svc;
	struct backend backend;
	struct course course;
	struct flow reply;
	struct flow_key reply_key;
};

/* One of each processor's own: programs of links do not interrupt one another. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct opening);
} openings SEC(".maps");

static __always_inline struct pod_address *pod_at(const __be32 *addr)
{
	struct address key = { .addr = { addr[0], addr[1], addr[2], addr[3] } };

	return bpf_map_lookup_elem(&pod_addresses, &key);
}

/* Looks for the pod that sends a packet, and remembers what is said of it, whole: see struct frontend for why that takes a copy. */
static __always_inline const struct pod_address *sender(struct moment *m)
{
	for (int i = 0; i < 2; i++) {
		const struct pod_address *pod = pod_at(m->p.net.saddr);

		if (!pod)
			break;
		m->pod = *pod;
		asm volatile("" ::: "memory");
		if (pod->echo == fold_words(m->p.net.saddr, 4))
			return &m->pod;
	}
	return NULL;
}

static __always_inline bool copy_address(bool v6, __be32 v4, const __be32 *addr6, __be32 *to)
{
	if (v6) {
		__builtin_memcpy(to, addr6, 16);
		return to[0] || to[1] || to[2] || to[3];
	}
	to[0] = to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = v4;
	return v4;
}

static __always_inline bool address_of_node(bool v6, __be32 *to)
{
	struct pod_key key = { .netns_cookie = host_netns_cookie };
	const struct pod *host = bpf_map_lookup_elem(&pods, &key);

	return host && copy_address(v6, host->addr4, host->addr6, to);
}

/* What stands for a client outside. It is the link's own address, as kube-proxy has it, because the network drops any other
 * that leaves by it: another link's, or a Service's that the node has on a link. Of a link without one only a node port's
 * client knows better (reference row E1). */
static __always_inline bool stand_in(__u32 link, const struct packet *p, __u32 kind, __be32 *to)
{
	const struct link_address *l = bpf_map_lookup_elem(&link_addresses, &link);

	if (l && copy_address(p->v6, l->addr4, l->addr6, to))
		return true;
	if (kind != FRONTEND_NODE_PORT && kind != FRONTEND_HOST_PORT)
		return address_of_node(p->v6, to);
	__builtin_memcpy(to, p->tuple.daddr, sizeof(p->tuple.daddr));
	return true;
}

/* Answers leave by the link that the client came by (reference row E2). */
static __always_inline bool course_outside(const struct __sk_buff *skb, const struct packet *p, const struct service *svc,
					   const struct backend *b, struct course *c)
{
	const struct pod_address *pod = pod_at(b->addr);

	c->back = skb->ifindex;
	c->keep = svc->kind != FRONTEND_CLUSTER_IP && (svc->policy.flags & BLOCK_EXTERNAL_LOCAL);
	if (pod) {
		c->link = pod->link;
		c->to_pod = true;
		if (!c->link)
			return false;
	} else if (of_this_node(b->addr)) {
		/* The stack would not believe a client that has the node's address. */
		c->keep = true;
	} else {
		c->link = skb->ifindex;
		if (c->keep)
			return false; /* the answers of another node would not come by here */
	}
	if (!c->keep)
		return stand_in(skb->ifindex, p, svc->kind, c->source);
	__builtin_memcpy(c->source, p->tuple.saddr, sizeof(c->source));
	return true;
}

/* A pod keeps its address, but for a backend that would answer it directly: itself (reference row E6), and one that is on
 * its ENI by ipvlan, too. */
static __always_inline bool course_pod(const struct packet *p, __u32 link, __u32 side, const struct backend *b, bool eni,
				       struct course *c)
{
	const struct pod_address *peer = pod_at(b->addr);

	c->flags = FLOW_POD;
	c->to_pod = peer;
	if (peer && peer->link == link) {
		c->link = c->back = link;
		return address_of_node(p->v6, c->source);
	}
	c->keep = true;
	__builtin_memcpy(c->source, p->tuple.saddr, sizeof(c->source));
	if (peer) {
		c->link = peer->link;
		c->back = link;
		return c->link;
	}
	if (eni || of_this_node(b->addr))
		return true;
	c->back = link;
	return !side; /* its ENI is not here to leave by */
}

/* What the node asks itself has the frontend's address for its source: its own one would be a martian's. So would be that
 * of a Service on a pod's link, which is why answers of pods are said to have come by the uplink. */
static __always_inline bool course_node(const struct __sk_buff *skb, const struct packet *p, const struct backend *b, struct course *c)
{
	const struct pod_address *pod = pod_at(b->addr);

	c->flags = FLOW_NODE;
	c->keep = true;
	__builtin_memcpy(c->source, !pod && of_this_node(b->addr) ? p->tuple.daddr : p->tuple.saddr, sizeof(c->source));
	if (!pod)
		return true;
	c->link = pod->link;
	c->to_pod = true;
	c->back = skb->ifindex;
	return c->link;
}

/* Adds both entries, and fills in the first one. The second one is first: whoever adds it has the port. */
static __always_inline bool connect_flow(const struct packet *p, struct opening *o, struct flow *to)
{
	int err;

	__builtin_memset(to, 0, sizeof(*to));
	__builtin_memcpy(to->saddr, o->course.source, sizeof(to->saddr));
	__builtin_memcpy(to->daddr, o->backend.addr, sizeof(to->daddr));
	to->sport = p->tuple.sport;
	to->dport = o->backend.port;
	to->link = o->course.link;
	to->record = o->svc.record;
	to->published = o->svc.published;
	to->last_seen = bpf_ktime_get_ns();
	to->flags = FLOW_SEEN | o->course.flags | (o->course.to_pod ? FLOW_TO_POD : 0);
	turn(to, &p->tuple, &o->reply_key);
	o->reply = *to;
	__builtin_memcpy(o->reply.saddr, p->tuple.daddr, sizeof(o->reply.saddr));
	__builtin_memcpy(o->reply.daddr, p->tuple.saddr, sizeof(o->reply.daddr));
	o->reply.sport = p->tuple.dport;
	o->reply.dport = p->tuple.sport;
	o->reply.link = o->course.back;
	o->reply.flags = FLOW_REPLY | o->course.flags | (o->course.flags & FLOW_POD ? FLOW_TO_POD : 0);
	err = claim(&o->reply_key, &o->reply, o->course.keep);
	if (err) {
		count(err == -EEXIST ? COUNT_NO_PORT : COUNT_FLOWS_FULL);
		return false;
	}
	to->sport = o->reply_key.dport;
	to->echo = fold_key(&p->tuple);
	err = add_flow(&p->tuple, to);
	if (!err)
		return true;
	bpf_map_delete_elem(&flows, &o->reply_key);
	/* The same packet came twice, and another processor had it first. */
	if (err == -EEXIST)
		return find_flow(&p->tuple, to);
	count(COUNT_FLOWS_FULL);
	return false;
}

/* Who asks the cluster's DNS asks the node's listener while that one serves. A global function, see begin. */
__attribute__((noinline)) int steered(struct __sk_buff *skb)
{
	struct moment *m = this_moment();
	struct opening *o;
	__u32 zero = 0;

	o = bpf_map_lookup_elem(&openings, &zero);
	if (!m || !o || !listener_serves(skb) || !find_service(m->p.tuple.daddr, m->p.tuple.dport, m->p.tuple.proto, &o->svc))
		return false;
	return (o->svc.policy.flags & BLOCK_NODE_DNS) && get_node_dns(o->svc.policy.backend_cells == BACKEND_CELLS_V4, &o->backend);
}

/* What becomes of a connection that a packet begins. With DECIDE_BACKEND its entries are there. link and side are of the pod that
 * begins it. A global function: the verifier looks at it once, and not along every path that leads to it. It finds the
 * packet in moments, as it may only have the context and numbers for arguments (pointers to memory: since 5.12). */
__attribute__((noinline)) int begin(struct __sk_buff *skb, __u32 who, __u32 link, __u32 side)
{
	struct moment *m = this_moment();
	const struct packet *p;
	struct opening *o;
	struct course *c;
	bool found, asks, listener;
	__u32 zero = 0;
	int d;

	o = bpf_map_lookup_elem(&openings, &zero);
	if (!m || !o || is_loopback(m->p.tuple.daddr)) /* nobody else's */
		return DECIDE_PASS;
	p = &m->p;
	c = &o->course;
	asks = (who == CLIENT_POD || who == CLIENT_ENI_POD) && p->tuple.dport == bpf_htons(DNS_PORT);
	listener = asks && steered(skb);
	if (listener) {
		/* From its own address there is nothing to translate. */
		if (same_address(p->tuple.daddr, o->backend.addr))
			return DECIDE_PASS;
	} else {
		d = decide(p->tuple.daddr, p->tuple.dport, p->tuple.proto, who != CLIENT_OUTSIDE, p->tuple.saddr, &o->svc, &o->backend);
		if (d != DECIDE_BACKEND)
			return d;
	}
	__builtin_memset(c, 0, sizeof(*c));
	if (who == CLIENT_OUTSIDE)
		found = course_outside(skb, p, &o->svc, &o->backend, c);
	else if (who == CLIENT_NODE)
		found = course_node(skb, p, &o->backend, c);
	else
		found = course_pod(p, link, side, &o->backend, who == CLIENT_ENI_POD, c);
	if (asks && (o->svc.policy.flags & BLOCK_NODE_DNS))
		c->flags |= FLOW_DNS | (listener ? FLOW_LISTENER : 0);
	return found && connect_flow(p, o, &m->to) ? DECIDE_BACKEND : DECIDE_DROP;
}

/* The flow of a packet, or that of a connection that it begins. */
static __always_inline enum decision find_or_begin(struct __sk_buff *skb, struct moment *m, enum client who,
						   const struct pod_address *pod)
{
	struct flow *f;

	/* A socket of a pod asks the listener's own address. Datagrams get there while it serves, and are translated, as any for a
	 * Service, while it does not; what began otherwise does not end by that, for each has its entries. */
	if (pod && m->p.tuple.proto == IPPROTO_UDP && is_node_dns(m->p.tuple.daddr, m->p.tuple.dport) && listener_serves(skb)) {
		forget_fragment(&m->p);
		return DECIDE_PASS;
	}
	f = find_flow(&m->p.tuple, &m->to);
	if (f && !resteered(skb, &m->to, &m->p) && !outlived(&m->to, &m->p)) {
		touch(f, &m->p);
		return DECIDE_BACKEND;
	}
	forget_fragment(&m->p);
	return opens(&m->p) ? begin(skb, who, pod ? pod->link : 0, pod ? pod->side : 0) : DECIDE_PASS;
}
