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

/* Two looks: the second one sees the state after whatever change the first one fell into. */
static __always_inline bool find_service(const struct frontend_key *key, struct service *svc)
{
	return read_frontend(key, svc) || read_frontend(key, svc);
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

/* The list a client inside the cluster chooses from: first backend and count. */
static __always_inline __u32 internal_list(const struct service *svc, __u32 *first)
{
	if (svc->policy.flags & BLOCK_INTERNAL_LOCAL) {
		*first = svc->policy.local_at;
		return svc->head.local_count;
	}
	*first = 0;
	return svc->head.cluster_count;
}

/* Uniform: the multiplication spreads 32 random bits over n without the bias of a modulo by more than n/2^32. */
static __always_inline bool pick_internal(const struct service *svc, struct backend *b)
{
	__u32 first, n = internal_list(svc, &first);

	return n && read_backend(svc, first + (__u32)(((__u64)bpf_get_prandom_u32() * n) >> 32), b);
}

static __always_inline bool same_address(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline bool offers(const struct service *svc, const __be32 *addr, __be16 port)
{
	__u32 first, n = internal_list(svc, &first);
	struct backend b;

	for (__u32 i = 0; i < MAX_PIN_SCAN && i < n; i++) {
		if (!read_backend(svc, first + i, &b))
			return false;
		if (b.port == port && same_address(b.addr, addr))
			return true;
	}
	return false;
}
