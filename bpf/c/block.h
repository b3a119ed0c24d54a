/* SPDX-License-Identifier: Dual MIT/GPL */
/* Reading what a Service port publishes. The only reader of records and blocks. */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

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
	bool local; /* it is the local list */
	bool drop;  /* an empty list drops instead of rejecting */
};

static __always_inline bool same_address(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline __u32 fold_words(const void *key, __u32 n)
{
	const __u32 *w = key;
	__u32 x = 0;

	for (__u32 i = 0; i < n; i++)
		x ^= w[i];
	return x;
}

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

static __always_inline bool read_more(const struct service *svc, struct block_more *more)
{
	union {
		__u64 cell;
		struct block_more more;
	} u;

	if (!read_cell(svc->published.block + 2, &u.cell))
		return false;
	*more = u.more;
	return true;
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

/* Compares the cell at an index with one in host order, and says whether it comes before it, is it, or comes after it. */
static __always_inline int order(__u32 index, __u64 than)
{
	__u64 cell;

	if (!read_cell(index, &cell))
		return 1;
	cell = bpf_be64_to_cpu(cell);
	return cell < than ? -1 : cell > than;
}

/* The search of a backend is in global functions: the verifier looks at each once, and not along every path that leads to
 * it. They may only have numbers for arguments (pointers to memory: since 5.12), and the results are ints.
 *
 * This one does so with the backend that begins at a cell. cells says how many it has; last is the last one of what it is
 * compared with, high and low those before it, in host order. */
__attribute__((noinline)) int compare(__u64 at_and_cells, __u64 high, __u64 low, __u64 last)
{
	__u32 at = at_and_cells >> 32, cells = at_and_cells;
	int o = 0;

	if (cells == BACKEND_CELLS_V6)
		o = order(at, high) ?: order(at + 1, low);
	return o ?: order(at + cells - 1, last);
}

/* The run of sorted backends that a place is in ends here; places start at the first backend of all. */
__attribute__((noinline)) int end_of_run(__u32 block, __u32 place)
{
	union {
		__u64 cell;
		struct block_head head;
		struct block_policy policy;
		struct block_more more;
	} head, policy, more;
	__u32 all;

	if (!read_cell(block, &head.cell) || !read_cell(block + 1, &policy.cell) || !read_cell(block + 2, &more.cell))
		return 0;
	if (place < policy.policy.local_at)
		return policy.policy.local_at;
	if (place < head.head.cluster_count)
		return head.head.cluster_count;
	all = policy.policy.local_at + head.head.local_count;
	return place < all ? all : all + more.more.draining_count;
}

/* Finds a backend among those from one place to before another, and returns its place, or -1. */
__attribute__((noinline)) int search(__u64 block_and_cells, __u64 from_and_to, __u64 high, __u64 low, __u64 last)
{
	__u32 from = from_and_to >> 32, stop = from;

	for (__u32 run = 0; run < BLOCK_RUNS; run++) {
		__u32 to;

		from = stop;
		stop = end_of_run(block_and_cells >> 32, from);
		if (stop > (__u32)from_and_to)
			stop = from_and_to;
		to = stop;
		for (__u32 i = 0; i < SEARCH_STEPS && from < to; i++) {
			__u32 middle = (from + to) / 2;
			int o;

			asm volatile("" : "+r"(block_and_cells)); /* its parts are not to be kept on the stack */
			o = compare(block_and_cells + ((BLOCK_HEADER_CELLS + middle * (__u64)(__u32)block_and_cells) << 32), high, low, last);
			if (!o)
				return middle;
			if (o < 0)
				from = middle + 1;
			else
				to = middle;
		}
	}
	return -1;
}

/* A backend as compare has it. */
struct wanted {
	__u64 high;
	__u64 low;
	__u64 last;
};

static __always_inline struct wanted want(const struct service *svc, const __be32 *addr, __be16 port)
{
	union {
		struct backend_cell cell;
		__u64 word;
	} last = { .cell = { .port = port } };

	if (svc->policy.backend_cells == BACKEND_CELLS_V4)
		last.cell.addr = addr[3];
	return (struct wanted){
		.high = (__u64)bpf_ntohl(addr[0]) << 32 | bpf_ntohl(addr[1]),
		.low = (__u64)bpf_ntohl(addr[2]) << 32 | bpf_ntohl(addr[3]),
		.last = bpf_be64_to_cpu(last.word),
	};
}

static __always_inline bool is_at(const struct service *svc, __u32 place, const struct wanted *w)
{
	__u32 at = svc->published.block + BLOCK_HEADER_CELLS + place * svc->policy.backend_cells;

	return !compare((__u64)at << 32 | svc->policy.backend_cells, w->high, w->low, w->last);
}

static __always_inline int find_wanted(const struct service *svc, __u32 from, __u32 to, const struct wanted *w)
{
	return search((__u64)svc->published.block << 32 | svc->policy.backend_cells, (__u64)from << 32 | to, w->high, w->low, w->last);
}

static __always_inline int place_of(const struct service *svc, __u32 from, __u32 to, const __be32 *addr, __be16 port)
{
	struct wanted w = want(svc, addr, port);

	return find_wanted(svc, from, to, &w);
}

/* Whether a client may choose this backend. */
static __always_inline bool offers(const struct service *svc, const __be32 *addr, __be16 port)
{
	return place_of(svc, svc->first, svc->first + svc->count, addr, port) >= 0;
}

/* Whether this backend still serves those who talk to it already, whatever list it is in, if any (reference row G2). */
static __always_inline bool serves(const struct service *svc, const __be32 *addr, __be16 port)
{
	return place_of(svc, 0, ~0U, addr, port) >= 0;
}
