/* SPDX-License-Identifier: Dual MIT/GPL */
/* SCTP's header, and its checksum when ports change. */
#pragma once

#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "parse.h"
#include "types.h"

/* CRC32c (RFC 9260, appendix A), of which the lowest power is the highest bit. */
#define CRC32C_POLYNOMIAL 0x82f63b78

/* x^(8 * 2^k): what 2^k bytes of zeros multiply the remainder by. */
static const __u32 zero_bytes[] = {
	0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c,
	0x18b8ea18, 0x510ac59a, 0xb82be955, 0xb8fdb1e7,
	0x88e56f72, 0x74c360a4, 0xe4172b16, 0x0d65762a,
	0x35d73a62, 0x28461564, 0xbf455269, 0xe2ea32dc,
};

/* The product of two remainders. */
__attribute__((noinline)) int crc32c_product(__u32 a, __u32 b)
{
	__u32 product = 0;

	for (__u32 i = 0; i < 32; i++) {
		product ^= b & -(a >> (31 - i) & 1);
		b = (b >> 1) ^ (CRC32C_POLYNOMIAL & -(b & 1));
	}
	return product;
}

/* What a difference in the first four bytes of so many makes of the sum. The remainder is linear: the difference of two
 * packets' is that of their difference, which is four bytes and zeros. */
__attribute__((noinline)) int crc32c_difference(__u32 first, __u32 bytes)
{
	for (__u32 k = 0; k < sizeof(zero_bytes) / sizeof(*zero_bytes); k++)
		if (bytes >> k & 1)
			first = crc32c_product(first, zero_bytes[k]);
	return first;
}

/* A sum of zero is one that the device has yet to make, or that nobody wants (RFC 9653). Of a fragment the sum is not
 * known: it covers them all. */
static __always_inline long fix_sctp_sum(struct __sk_buff *skb, const struct packet *p, const struct flow *to)
{
	__u32 at = p->net.l4 + SCTP_CHECKSUM_AT, was, is, sum;

	__builtin_memcpy(&was, &p->tuple.sport, sizeof(was));
	__builtin_memcpy(&is, &to->sport, sizeof(is));
	if (was == is)
		return 0;
	if (p->net.part != WHOLE || bpf_skb_load_bytes(skb, at, &sum, sizeof(sum)))
		return -1;
	if (!sum)
		return 0;
	sum ^= crc32c_difference(was ^ is, p->net.len);
	return bpf_skb_store_bytes(skb, at, &sum, sizeof(sum), BPF_F_RECOMPUTE_CSUM);
}
