/* SPDX-License-Identifier: Dual MIT/GPL */
/* From an address to one of a Service's backends: what sockets and packets have in common. */
#pragma once

#include <linux/errno.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "block.h"
#include "maps.h"

/* What becomes of a client's connection. */
enum decision {
	DECIDE_PASS,    /* not a Service */
	DECIDE_BACKEND, /* it goes to the backend */
	DECIDE_REJECT,  /* it is refused: TCP's reset or ICMP's unreachable port, ECONNREFUSED at the socket */
	DECIDE_DROP,    /* it gets no answer */
};

static __always_inline void count(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&packet_counts, &what);

	if (n)
		++*n;
}

/* torn: somebody changed it meanwhile. */
static __always_inline bool read_frontend(const struct frontend_key *key, struct service *svc, bool *torn)
{
	const volatile struct frontend *fe = bpf_map_lookup_elem(&frontends, key);
	__u32 record;

	*torn = fe;
	if (!fe)
		return false;
	record = fe->record;
	svc->kind = fe->kind;
	if (fe->addr_fold != fold_words(key->addr, 4) || fe->port != key->port || fe->proto != key->proto)
		return false;
	return read_block(record, svc);
}

static __always_inline bool is_v4(const __be32 *addr)
{
	return !addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_loopback(const __be32 *addr)
{
	if (is_v4(addr))
		return (addr[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !addr[0] && !addr[1] && !addr[2] && addr[3] == bpf_htonl(1);
}

/* What wildcards are stored under. To a socket it means its own loopback, and to a packet nothing. */
static __always_inline bool is_unspecified(const __be32 *addr)
{
	return !addr[0] && !addr[1] && !addr[3] && (!addr[2] || addr[2] == bpf_htonl(0xffff));
}

/* What is said of an address that the node has. Who has 127.0.0.1 has 127.0.0.0/8. */
static __always_inline const __u8 *node_address(const __be32 *addr)
{
	struct address key = { .addr = { addr[0], addr[1], addr[2], addr[3] } };

	if (is_v4(addr) && is_loopback(addr))
		key.addr[3] = bpf_htonl(0x7f000001);
	return bpf_map_lookup_elem(&node_addresses, &key);
}

static __always_inline bool of_this_node(const __be32 *addr)
{
	return node_address(addr);
}

/* A second look sees the state after whatever change the first one fell into. What is not there at all is no change. */
static __always_inline bool find_exact(const struct frontend_key *key, struct service *svc)
{
	bool torn;

	return read_frontend(key, svc, &torn) || (torn && read_frontend(key, svc, &torn));
}

/* The Service port behind an address: one that has it, or one that answers on every address of the node. A pod's
 * manifest names the address of a host port: it must not get at the traffic of others by it. */
static __always_inline bool find_service(struct frontend_key *key, struct service *svc)
{
	const __u8 *flags;
	bool ports;

	if (is_unspecified(key->addr))
		return false;
	if (find_exact(key, svc))
		return svc->kind != FRONTEND_HOST_PORT || is_loopback(key->addr) || of_this_node(key->addr);
	flags = node_address(key->addr);
	if (!flags)
		return false;
	ports = *flags & NODE_ADDRESS_PORTS;
	key->addr[2] = is_v4(key->addr) ? key->addr[2] : 0;
	key->addr[0] = key->addr[1] = key->addr[3] = 0;
	return find_exact(key, svc) && (ports || svc->kind != FRONTEND_NODE_PORT);
}

/* A Service has the address, if not this port of it (reference row A11). */
static __always_inline bool is_service_address(const __be32 *addr)
{
	struct frontend_key key = { .addr = { addr[0], addr[1], addr[2], addr[3] } };
	const volatile struct frontend *fe = bpf_map_lookup_elem(&frontends, &key);

	return fe && fe->kind == FRONTEND_ADDRESS && fe->addr_fold == fold_words(key.addr, 4) && !fe->port && !fe->proto;
}

static __always_inline enum way way_to(const __be32 *addr)
{
	struct network net = { .prefix_bits = 128, .addr = { addr[0], addr[1], addr[2], addr[3] } };
	const __u8 *way = bpf_map_lookup_elem(&host_networks, &net);

	return way ? *way : WAY_ENI;
}

static __always_inline void use_list(struct service *svc, bool local)
{
	svc->local = local;
	svc->first = local ? svc->policy.local_at : 0;
	svc->count = local ? svc->head.local_count : svc->head.cluster_count;
}

/* The list a client inside the cluster chooses from. The internal traffic policy is about ClusterIPs only; of addresses
 * for clients outside, those inside use the whole cluster's list (reference rows E3, E4). */
static __always_inline void use_internal(struct service *svc)
{
	bool cluster_ip = svc->kind == FRONTEND_CLUSTER_IP;

	use_list(svc, cluster_ip && (svc->policy.flags & BLOCK_INTERNAL_LOCAL));
	svc->drop = cluster_ip && (svc->policy.flags & BLOCK_INTERNAL_DROP);
}

/* The list a client outside the cluster chooses from. A ClusterIP is inside for everybody (reference row B1). */
static __always_inline void use_external(struct service *svc)
{
	if (svc->kind == FRONTEND_CLUSTER_IP) {
		use_internal(svc);
		return;
	}
	use_list(svc, svc->policy.flags & BLOCK_EXTERNAL_LOCAL);
	svc->drop = svc->policy.flags & BLOCK_EXTERNAL_DROP;
}

/* Uniform: the multiplication spreads 32 random bits over n without the bias of a modulo by more than n/2^32. */
static __always_inline bool pick(const struct service *svc, __u32 *place, struct backend *b)
{
	__u32 n = svc->count;

	*place = svc->first + (__u32)(((__u64)bpf_get_prandom_u32() * n) >> 32);
	return n && read_backend(svc, *place, b);
}

/* Where the backend of an entry is now among those that the client chooses from, or -1. */
static __always_inline int place_again(const struct service *svc, const struct affinity *a)
{
	struct backend b;

	if (a->place >= svc->first && a->place < svc->first + svc->count && read_backend(svc, a->place, &b) && b.port == a->port &&
	    same_address(b.addr, a->backend))
		return a->place;
	return place_of(svc, svc->first, svc->first + svc->count, a->backend, a->port);
}

/* Has the client go where it went before, if it may: reference rows F1, F4 and F5. */
static __always_inline bool follow(const struct service *svc, struct affinity *entry, __u32 echo, __u32 epoch, __u64 now,
				   struct backend *b)
{
	struct affinity a = *entry;
	int place;

	asm volatile("" ::: "memory");
	if (entry->echo != echo || a.epoch != epoch || now - a.last_used >= svc->policy.affinity_seconds * SECOND)
		return false;
	place = place_again(svc, &a);
	if (place < 0)
		return false;
	entry->last_used = now;
	if (place != a.place)
		entry->place = place;
	__builtin_memcpy(b->addr, a.backend, sizeof(b->addr));
	b->port = a.port;
	return true;
}

/* The backend that the client had, or one that it will have from now on. By frontends of both lists it has one of
 * each, neither of which replaces the other; where there is none by this list, what it chose by the other one counts if it
 * is in this one, too: reference rows F1 and F4. */
static __always_inline bool pick_affine(const struct service *svc, const __be32 *client, struct backend *b)
{
	struct affinity_key key = {
		.client = { client[0], client[1], client[2], client[3] },
		.record = svc->record,
		.local = svc->local,
	};
	struct affinity *entry = bpf_map_lookup_elem(&affinity, &key), *other;
	__u32 echo = fold_words(&key, sizeof(key) / 4);
	struct affinity new = { .last_used = bpf_ktime_get_ns(), .echo = echo };
	struct block_more more;
	int err;

	if (!read_more(svc, &more))
		return false;
	if (entry && follow(svc, entry, echo, more.epoch, new.last_used, b))
		return true;
	key.local ^= 1;
	other = bpf_map_lookup_elem(&affinity, &key);
	key.local ^= 1;
	if (other && follow(svc, other, echo ^ 1, more.epoch, new.last_used, b))
		return true;
	if (!pick(svc, &new.place, b))
		return false;
	new.epoch = more.epoch;
	__builtin_memcpy(new.backend, b->addr, sizeof(new.backend));
	new.port = b->port;
	/* An int: see add_flow. */
	err = (int)bpf_map_update_elem(&affinity, &key, &new, entry ? BPF_ANY : BPF_NOEXIST);
	if (err == -EEXIST) {
		/* The client's first two connections came at once, and this one second. */
		entry = bpf_map_lookup_elem(&affinity, &key);
		if (entry)
			follow(svc, entry, echo, more.epoch, new.last_used, b);
	} else if (err) {
		count(COUNT_AFFINITY_FULL);
	}
	return true;
}

/* Source ranges are about load balancers' addresses only (reference row E8). */
static __always_inline bool restricted(const struct service *svc)
{
	return svc->kind == FRONTEND_LOAD_BALANCER && (svc->policy.flags & BLOCK_SOURCE_RANGES);
}

static __always_inline bool admits(const struct service *svc, const __be32 *client)
{
	struct source_range key = {
		.prefix_bits = 32 + 128,
		.record = svc->record,
		.addr = { client[0], client[1], client[2], client[3] },
	};

	return bpf_map_lookup_elem(&source_ranges, &key);
}

/* The second half of decide, for a caller that has found the Service and its list. */
static __always_inline enum decision serve(const struct service *svc, const __be32 *client, struct backend *b)
{
	__u32 place;

	if (restricted(svc) && !admits(svc, client))
		return DECIDE_DROP;
	if (svc->policy.affinity_seconds ? pick_affine(svc, client, b) : pick(svc, &place, b))
		return DECIDE_BACKEND;
	return svc->drop ? DECIDE_DROP : DECIDE_REJECT;
}

/* What becomes of a new connection to an address. inside: the client is a pod of this node, or the node. The backend's
 * list depends on nothing else, so sockets and packets, and all frontends of a port, agree (reference row F1). */
static __always_inline enum decision decide(struct frontend_key *key, bool inside, const __be32 *client, struct service *svc,
					    struct backend *b)
{
	if (find_service(key, svc)) {
		if (inside)
			use_internal(svc);
		else
			use_external(svc);
		return serve(svc, client, b);
	}
	if (is_service_address(key->addr))
		return DECIDE_REJECT;
	/* In a range of Services, and no Service has it. */
	return way_to(key->addr) == WAY_SERVICE ? DECIDE_DROP : DECIDE_PASS;
}
