/* SPDX-License-Identifier: Dual MIT/GPL */
/* From a frontend to one of its backends. The only reader of records and blocks. */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"

struct backend {
	__be32 addr[4];
	__be16 port;
};

/* A Service port as it was published at one moment. */
struct service {
	__u32 record;
	__u32 kind; /* enum frontend_kind of the frontend it was found by */
	struct record published;
	struct block_head head;
	struct block_policy policy;
	__u32 first; /* of the list that its client chooses from, in backends */
	__u32 count;
};

/* The cell is read whole, so a caller never mixes two of them. */
static __always_inline bool read_cell(__u32 index, __u64 *cell)
{
	const volatile __u64 *p = bpf_map_lookup_elem(&blocks, &index);

	if (!p)
		return false;
	*cell = *p;
	return true;
}

static __always_inline bool read_block(__u32 record, struct service *svc)
{
	const volatile __u64 *word = bpf_map_lookup_elem(&records, &record);
	union {
		__u64 cell;
		struct record published;
		struct block_head head;
		struct block_policy policy;
	} u;

	if (!word)
		return false;
	u.cell = *word;
	svc->record = record;
	svc->published = u.published;
	if (!svc->published.block)
		return false;
	if (!read_cell(svc->published.block, &u.cell))
		return false;
	svc->head = u.head;
	if (!read_cell(svc->published.block + 1, &u.cell))
		return false;
	svc->policy = u.policy;
	return svc->head.record == record;
}

static __always_inline bool read_frontend(const struct frontend_key *key, struct service *svc)
{
	const volatile struct frontend *fe = bpf_map_lookup_elem(&frontends, key);
	__u32 record;

	if (!fe)
		return false;
	record = fe->record;
	svc->kind = fe->kind;
	if (fe->addr_fold != (key->addr[0] ^ key->addr[1] ^ key->addr[2] ^ key->addr[3]) || fe->port != key->port ||
	    fe->proto != key->proto)
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

static __always_inline bool of_this_node(const __be32 *addr)
{
	struct address key = { .addr = { addr[0], addr[1], addr[2], addr[3] } };

	return bpf_map_lookup_elem(&node_addresses, &key);
}

/* Two looks: the second one sees the state after whatever change the first one fell into. */
static __always_inline bool find_exact(const struct frontend_key *key, struct service *svc)
{
	return read_frontend(key, svc) || read_frontend(key, svc);
}

/* The Service port behind an address: one that has it, or one that answers on every address of the node. A pod's
 * manifest names the address of a host port: it must not get at the traffic of others by it. */
static __always_inline bool find_service(struct frontend_key *key, struct service *svc)
{
	if (is_unspecified(key->addr))
		return false;
	if (find_exact(key, svc))
		return svc->kind != FRONTEND_HOST_PORT || is_loopback(key->addr) || of_this_node(key->addr);
	if (!of_this_node(key->addr))
		return false;
	key->addr[2] = is_v4(key->addr) ? key->addr[2] : 0;
	key->addr[0] = key->addr[1] = key->addr[3] = 0;
	return find_exact(key, svc);
}

static __always_inline bool read_backend(const struct service *svc, __u32 i, struct backend *b)
{
	__u32 at = svc->published.block + BLOCK_HEADER_CELLS + i * svc->policy.backend_cells;
	union {
		__u64 cell;
		__be32 half[2];
		struct backend_cell v4;
	} u;

	if (!read_cell(at, &u.cell))
		return false;
	if (svc->policy.backend_cells == BACKEND_CELLS_V4) {
		b->addr[0] = 0;
		b->addr[1] = 0;
		b->addr[2] = bpf_htonl(0xffff);
		b->addr[3] = u.v4.addr;
		b->port = u.v4.port;
		return true;
	}
	b->addr[0] = u.half[0];
	b->addr[1] = u.half[1];
	if (!read_cell(at + 1, &u.cell))
		return false;
	b->addr[2] = u.half[0];
	b->addr[3] = u.half[1];
	if (!read_cell(at + 2, &u.cell))
		return false;
	b->port = u.v4.port;
	return true;
}

/* The list a client inside the cluster chooses from. The internal traffic policy is about ClusterIPs only; of addresses
 * for clients outside, those inside use the whole cluster's list (reference rows E3, E4). */
static __always_inline void use_internal(struct service *svc)
{
	bool local = (svc->policy.flags & BLOCK_INTERNAL_LOCAL) && svc->kind == FRONTEND_CLUSTER_IP;

	svc->first = local ? svc->policy.local_at : 0;
	svc->count = local ? svc->head.local_count : svc->head.cluster_count;
}

/* The list a client outside the cluster chooses from. */
static __always_inline void use_external(struct service *svc)
{
	bool local = svc->policy.flags & BLOCK_EXTERNAL_LOCAL;

	svc->first = local ? svc->policy.local_at : 0;
	svc->count = local ? svc->head.local_count : svc->head.cluster_count;
}

/* Uniform: the multiplication spreads 32 random bits over n without the bias of a modulo by more than n/2^32. */
static __always_inline bool pick(const struct service *svc, struct backend *b)
{
	__u32 n = svc->count;

	return n && read_backend(svc, svc->first + (__u32)(((__u64)bpf_get_prandom_u32() * n) >> 32), b);
}

static __always_inline bool same_address(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

/* Looks for a backend in a list of count that starts at a cell. last is its last cell, high and low those before it.
 *
 * A global function: the verifier looks at it once, and not along every path that leads to it. It may only have
 * numbers for arguments (pointers to memory: since 5.12). */
__attribute__((noinline)) int listed(__u64 at_and_count, __u64 cells, __u64 high, __u64 low, __u64 last)
{
	__u32 at = at_and_count >> 32, n = at_and_count;
	__u64 cell;

	for (__u32 i = 0; i < MAX_PIN_SCAN && i < n; i++, at += cells) {
		if (!read_cell(at + cells - 1, &cell))
			return 0;
		if (cell != last)
			continue;
		if (cells == BACKEND_CELLS_V4)
			return 1;
		if (read_cell(at, &cell) && cell == high && read_cell(at + 1, &cell) && cell == low)
			return 1;
	}
	return 0;
}

static __always_inline bool offers(const struct service *svc, const __be32 *addr, __be16 port)
{
	__u32 at = svc->published.block + BLOCK_HEADER_CELLS + svc->first * svc->policy.backend_cells;
	union {
		struct backend_cell last;
		__u64 cell;
	} u = { .last = { .port = port } };

	if (svc->policy.backend_cells == BACKEND_CELLS_V4)
		u.last.addr = addr[3];
	return listed((__u64)at << 32 | svc->count, svc->policy.backend_cells, (__u64)addr[1] << 32 | addr[0],
		      (__u64)addr[3] << 32 | addr[2], u.cell);
}
