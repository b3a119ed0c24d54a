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

/* What a frontend has, record and kind in one, or -1. A second look sees the state after whatever change the first one fell
 * into. */
#define FRONTEND_RECORD_BITS 28

static __always_inline int read_frontend(const struct frontend_key *key)
{
	for (__u32 i = 0; i < 2; i++) {
		const volatile struct frontend *fe = bpf_map_lookup_elem(&frontends, key);
		__u32 found;

		if (!fe)
			return -1;
		found = (__u32)fe->kind << FRONTEND_RECORD_BITS | fe->record;
		if (fe->addr_fold == fold_words(key->addr, 4) && fe->port == key->port && fe->proto == key->proto)
			return found;
	}
	return -1;
}

/* The frontend of an address, which is given as it is in memory: one that has it, or one that answers on every address of
 * the node. A pod's manifest names the address of a host port: it must not get at the traffic of others by it. The result is
 * read_frontend's. A global function, see compare. */
__attribute__((noinline)) int find_frontend(__u64 high, __u64 low, __u32 port, __u32 proto)
{
	union {
		struct frontend_key key;
		__u64 addr[2];
	} u = {};
	struct frontend_key *key = &u.key;
	const __u8 *flags;
	int found;

	u.addr[0] = high;
	u.addr[1] = low;
	key->port = port;
	key->proto = proto;
	if (is_unspecified(key->addr))
		return -1;
	found = read_frontend(key);
	if (found >= 0 && found >> FRONTEND_RECORD_BITS != FRONTEND_HOST_PORT)
		return found;
	if (found >= 0)
		return is_loopback(key->addr) || of_this_node(key->addr) ? found : -1;
	flags = node_address(key->addr);
	if (!flags)
		return -1;
	key->addr[2] = is_v4(key->addr) ? key->addr[2] : 0;
	key->addr[0] = key->addr[1] = key->addr[3] = 0;
	found = read_frontend(key);
	return (*flags & NODE_ADDRESS_PORTS) || found >> FRONTEND_RECORD_BITS != FRONTEND_NODE_PORT ? found : -1;
}

/* The Service port behind an address. */
static __always_inline bool find_service(const __be32 *addr, __be16 port, __u8 proto, struct service *svc)
{
	__u64 high = (__u64)addr[1] << 32 | addr[0], low = (__u64)addr[3] << 32 | addr[2];

	/* What has a frontend has a block, but for a moment. */
	for (__u32 i = 0; i < 2; i++) {
		int found = find_frontend(high, low, port, proto);

		if (found < 0)
			return false;
		svc->kind = found >> FRONTEND_RECORD_BITS;
		if (read_block(found & ((1 << FRONTEND_RECORD_BITS) - 1), svc))
			return true;
	}
	return false;
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

/* A place of the list, or -1. Uniform: the multiplication spreads 32 random bits over n without the bias of a modulo by
 * more than n/2^32. */
static __always_inline int pick(const struct service *svc)
{
	__u32 n = svc->count;

	return n ? (int)(svc->first + (__u32)(((__u64)bpf_get_prandom_u32() * n) >> 32)) : -1;
}

/* Where the client goes because it went there before, if it may, or -1: reference rows F1, F4 and F5. The entry is read
 * whole before its echo is, see struct frontend. */
static __always_inline int follow(const struct service *svc, struct affinity *entry, __u32 echo, __u32 epoch, __u64 now)
{
	struct wanted w = want(svc, entry->backend, entry->port);
	__u64 used = entry->last_used;
	__u32 at = entry->place, since = entry->epoch;
	int place = at;

	asm volatile("" : "+r"(w.high), "+r"(w.low), "+r"(w.last) : : "memory");
	if (entry->echo != echo || since != epoch || now - used >= svc->policy.affinity_seconds * SECOND)
		return -1;
	if (at < svc->first || at >= svc->first + svc->count || !is_at(svc, at, &w))
		place = find_wanted(svc, svc->first, svc->first + svc->count, &w);
	if (place < 0)
		return -1;
	entry->last_used = now;
	if (place != at)
		entry->place = place;
	return place;
}

/* What the functions about affinity know of the Service and its client. They are global ones, see compare. high and low are the
 * client's address as it is in memory. */
#define AFFINE_ARGS __u64 record_and_block, __u64 first_and_count, __u64 high, __u64 low, __u64 policy
#define AFFINE_SERVICE                                      \
	{                                                   \
		.record = record_and_block >> 32,           \
		.published.block = record_and_block,        \
		.first = first_and_count >> 32,             \
		.count = first_and_count,                   \
		.policy.affinity_seconds = policy >> 32,    \
		.policy.backend_cells = policy >> 8,        \
		.local = policy & AFFINE_LOCAL,             \
	}
#define AFFINE_LOCAL 1
#define AFFINE_OTHER 2 /* what it chose from the other list */
#define AFFINE_STALE 4

union affine_key {
	struct affinity_key key;
	__u64 client[2];
};

/* Results below zero. */
#define NOBODY -1
#define STALE -2 /* there is an entry that does not count */
#define AGAIN -3 /* there is an entry now */

/* The place of the backend that the client had, or NOBODY or STALE. */
__attribute__((noinline)) int affine_place(AFFINE_ARGS)
{
	const struct service svc = AFFINE_SERVICE;
	union affine_key u = { .key = { .record = svc.record, .local = svc.local ^ !!(policy & AFFINE_OTHER) } };
	struct affinity *entry;
	struct block_more more;
	int place;

	u.client[0] = high;
	u.client[1] = low;
	entry = bpf_map_lookup_elem(&affinity, &u.key);
	if (!entry || !read_more(&svc, &more))
		return NOBODY;
	place = follow(&svc, entry, fold_words(&u.key, sizeof(u.key) / 4), more.epoch, bpf_ktime_get_ns());
	return place >= 0 ? place : STALE;
}

/* Chooses a backend that the client will have from now on. The result is its place, or NOBODY, or AGAIN: the client's first two
 * connections came at once, and this one second. */
__attribute__((noinline)) int begin_affinity(AFFINE_ARGS)
{
	const struct service svc = AFFINE_SERVICE;
	union affine_key u = { .key = { .record = svc.record, .local = svc.local } };
	struct affinity new = { .last_used = bpf_ktime_get_ns() };
	struct block_more more;
	struct backend b;
	int err, place = pick(&svc);

	u.client[0] = high;
	u.client[1] = low;
	if (place < 0 || !read_more(&svc, &more) || !read_backend(&svc, place, &b))
		return NOBODY;
	new.echo = fold_words(&u.key, sizeof(u.key) / 4);
	new.epoch = more.epoch;
	new.place = place;
	__builtin_memcpy(new.backend, b.addr, sizeof(new.backend));
	new.port = b.port;
	/* An int: see add_flow. */
	err = (int)bpf_map_update_elem(&affinity, &u.key, &new, policy & AFFINE_STALE ? BPF_ANY : BPF_NOEXIST);
	if (err == -EEXIST)
		return AGAIN;
	if (err)
		count(COUNT_AFFINITY_FULL);
	return place;
}

/* By frontends of both lists the client has an entry for each, neither of which replaces the other; where there is none by
 * this list, what it chose by the other one counts if it is in this one, too: reference rows F1 and F4. */
static __always_inline int pick_affine(const struct service *svc, const __be32 *client)
{
	__u64 service = (__u64)svc->record << 32 | svc->published.block, list = (__u64)svc->first << 32 | svc->count;
	__u64 high = (__u64)client[1] << 32 | client[0], low = (__u64)client[3] << 32 | client[2];
	__u64 policy = (__u64)svc->policy.affinity_seconds << 32 | (__u32)svc->policy.backend_cells << 8 | svc->local;
	int had = affine_place(service, list, high, low, policy), place = had;

	if (place < 0)
		place = affine_place(service, list, high, low, policy | AFFINE_OTHER);
	if (place < 0)
		place = begin_affinity(service, list, high, low, policy | (had == STALE ? AFFINE_STALE : 0));
	if (place == AGAIN)
		place = affine_place(service, list, high, low, policy);
	return place >= 0 ? place : pick(svc);
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
	int place;

	if (restricted(svc) && !admits(svc, client))
		return DECIDE_DROP;
	place = svc->policy.affinity_seconds ? pick_affine(svc, client) : pick(svc);
	if (place >= 0 && read_backend(svc, place, b))
		return DECIDE_BACKEND;
	return svc->drop ? DECIDE_DROP : DECIDE_REJECT;
}

/* What becomes of a new connection to an address. inside: the client is a pod of this node, or the node. The backend's
 * list depends on nothing else, so sockets and packets, and all frontends of a port, agree (reference row F1). */
static __always_inline enum decision decide(const __be32 *addr, __be16 port, __u8 proto, bool inside, const __be32 *client,
					    struct service *svc, struct backend *b)
{
	if (find_service(addr, port, proto, svc)) {
		if (inside)
			use_internal(svc);
		else
			use_external(svc);
		return serve(svc, client, b);
	}
	if (is_service_address(addr))
		return DECIDE_REJECT;
	/* In a range of Services, and no Service has it. */
	return way_to(addr) == WAY_SERVICE ? DECIDE_DROP : DECIDE_PASS;
}
