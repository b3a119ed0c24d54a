/* SPDX-License-Identifier: Dual MIT/GPL */
/* The node's DNS: where its listener is, and whether it serves. */
#pragma once

#include <linux/futex.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "block.h"
#include "maps.h"

/* Where a DNS message has its opcode (RFC 1035, 4.1.1); a query's is 0. */
#define OPCODE_AT 2
#define OPCODE_BITS 0x78

/* Addresses of the listener, of each family; zero: none. */
const volatile struct address node_dns4, node_dns6;

static __always_inline bool agent_alive(void)
{
	__u32 zero = 0;
	const volatile struct lifeline *l = bpf_map_lookup_elem(&lifelines, &zero);
	__u32 holder;

	if (!l)
		return false;
	holder = l->holder;
	return holder && !(holder & FUTEX_OWNER_DIED);
}

/* False if the node has no listener of the family. */
static __always_inline bool get_node_dns(bool v4, struct backend *b)
{
	const volatile struct address *dns = v4 ? &node_dns4 : &node_dns6;

	b->addr[0] = dns->addr[0];
	b->addr[1] = dns->addr[1];
	b->addr[2] = dns->addr[2];
	b->addr[3] = dns->addr[3];
	b->port = bpf_htons(DNS_PORT);
	return b->addr[0] || b->addr[3];
}

static __always_inline bool is_node_dns(const __be32 *addr, __be16 port)
{
	struct backend dns;

	if (port != bpf_htons(DNS_PORT))
		return false;
	return (get_node_dns(true, &dns) && same_address(addr, dns.addr)) || (get_node_dns(false, &dns) && same_address(addr, dns.addr));
}
