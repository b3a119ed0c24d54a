/* SPDX-License-Identifier: Dual MIT/GPL */
/* Reading a DNS question. Nothing else that comes from the network is read: bytes of answers are the agent's. */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "maps.h"
#include "parse.h"
#include "reject.h"

/* RFC 1035, 4.1.1, and RFC 4035, 3.2: the header's flags. */
#define DNS_QR 0x8000
#define DNS_OPCODE 0x7800
#define DNS_AA 0x0400
#define DNS_TC 0x0200
#define DNS_RD 0x0100
#define DNS_Z 0x0040
#define DNS_CD 0x0010
#define DNS_RCODE 0x000f
#define DNS_NXDOMAIN 3

/* RFC 1035, 3.2, and RFC 3596. Types from 128 on, and OPT, are no records that a name has (RFC 6895, 3.1). */
#define DNS_TYPE_A 1
#define DNS_TYPE_AAAA 28
#define DNS_TYPE_SRV 33
#define DNS_TYPE_OPT 41
#define DNS_FIRST_META_TYPE 128
#define DNS_CLASS_IN 1

/* EDNS options that a server may overlook: RFC 7873, 5.2.1; RFC 7828, 3.3.2; RFC 7830, 4. */
#define EDNS_COOKIE 10
#define EDNS_KEEPALIVE 11
#define EDNS_PADDING 12
#define EDNS_OPTIONS 4

struct dns_header {
	__be16 id;
	__be16 flags;
	__be16 count[4]; /* questions, and records of the three sections */
};

struct dns_opt {
	__u8 name; /* the root */
	__be16 type;
	__be16 size;
	__u8 rcode;
	__u8 version;
	__be16 flags;
	__be16 bytes; /* of the options behind it */
} __attribute__((packed));

/* Labels as they are in a name, with their length before them. */
#define LABEL_SVC (3 | 's' << 8 | 'v' << 16 | 'c' << 24)
#define LABEL_POD (3 | 'p' << 8 | 'o' << 16 | 'd' << 24)

#define UDP_BYTES sizeof(struct udphdr)
#define QUESTION_AT (UDP_BYTES + sizeof(struct dns_header))
#define TYPE_BYTES 4 /* of a question: type and class */
#define NAME_WORDS ((MAX_NAME_BYTES + 7) / 8)
/* The longest datagram of ours. */
#define ANSWERED_BYTES (QUESTION_AT + MAX_NAME_BYTES + TYPE_BYTES + LARGE_ANSWER_BYTES + sizeof(struct dns_opt))
_Static_assert(ANSWERED_BYTES <= 3 * 512, "make_sum");

/* How the datagram's sum is made: see reject.h. */
enum sum_kind {
	SUM_NONE,
	SUM_MADE,
	SUM_OPEN, /* by its device, of the pseudo header that is there */
};

/* One question and its answer. What loops find out is kept here and not in variables, because the verifier would follow each
 * of its values by itself. */
struct dns_question {
	union {
		__u8 datagram[1536]; /* as it is asked, from the UDP header on; what an option says it has may be no more than this */
		struct {
			struct udphdr udp;
			struct dns_header header;
		};
	};
	__u64 name[NAME_WORDS + 2]; /* folded, and zeros */
	__u8 label[MAX_LABELS + 1]; /* where in the name each begins */
	struct answer_key key;
	__u64 end_hash[2]; /* of the name's end */
	struct dns_answer head; /* of what was found */
	__u64 records[2 * LARGE_ANSWER_BYTES / 8 + 4]; /* twice, because the verifier takes where and how many bytes for the most of each */
	__be32 client[4];
	__be32 server[4];
	__u32 l4; /* where the datagram is in the frame */
	__u32 bytes; /* of the datagram */
	__u32 name_bytes;
	__u32 labels;
	__u32 room; /* how long the answer may be */
	__u32 pseudo; /* the sum of the pseudo header, but for the length */
	__u64 now;
	__u16 type;
	__u8 edns;
	__u8 sum; /* enum sum_kind */
};

/* One of each processor's own: programs of links do not interrupt one another. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dns_question);
} dns_questions SEC(".maps");

/* For what has a loop. To the verifier, such a function ends in one state only for each result: what it has learned in it about
 * lengths, in each round something else, it would otherwise have to follow on to the end of the program. */
#define LOOPS static __attribute__((noinline))

/* What is in memory, whatever loops have taught the verifier about it. */
#define again(x) (*(const volatile typeof(x) *)&(x))

/* Whether a number is in a range, so that the verifier knows it, too. Of two comparisons the compiler would make one that tells
 * it nothing. */
#define is_within(n, least, most)                   \
	({                                          \
		__u32 over = (n) - (__u32)(least);  \
		barrier_var(over);                  \
		(n) = over + (__u32)(least);        \
		over <= (__u32)((most) - (least)); \
	})

/* Addresses and what follows them. What has options, extension headers, or is a fragment, is not as plain as that. */
static __always_inline bool read_v4(const struct iphdr *ip, struct dns_question *q, __be32 *client, __be32 *server)
{
	if (ip->version != 4 || ip->ihl != 5 || ip->protocol != IPPROTO_UDP || (ip->frag_off & bpf_htons(V4_OFFSET | V4_MORE)))
		return false;
	client[0] = client[1] = server[0] = server[1] = 0;
	client[2] = server[2] = bpf_htonl(0xffff);
	client[3] = ip->saddr;
	server[3] = ip->daddr;
	q->l4 = ETH_HLEN + sizeof(*ip);
	q->bytes = bpf_ntohs(ip->tot_len) - sizeof(*ip);
	return true;
}

static __always_inline bool read_v6(const struct ipv6hdr *ip, struct dns_question *q, __be32 *client, __be32 *server)
{
	if (ip->version != 6 || ip->nexthdr != IPPROTO_UDP)
		return false;
	__builtin_memcpy(client, &ip->saddr, 16);
	__builtin_memcpy(server, &ip->daddr, 16);
	q->l4 = ETH_HLEN + sizeof(*ip);
	q->bytes = bpf_ntohs(ip->payload_len);
	return true;
}

static __always_inline bool is_dns_server(const struct dns_view *v, const __be32 *addr)
{
	const __u64 *a = (const __u64 *)addr;

	for (int i = 0; i < MAX_DNS_SERVERS; i++) {
		const __u64 *s = (const __u64 *)v->server[i];

		if (s[0] == a[0] && s[1] == a[1])
			return i < v->servers;
	}
	return false;
}

/* The IP header. */
static __always_inline bool read_network(struct __sk_buff *skb, struct dns_question *q, const struct dns_view *v)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__be32 *client = q->client, *server = q->server;
	struct ipv6hdr *v6 = data + ETH_HLEN;
	struct iphdr *v4 = data + ETH_HLEN;

	if (skb->vlan_present || skb->gso_size)
		return false;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if ((void *)(v4 + 1) > end || !read_v4(v4, q, client, server))
			return false;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if ((void *)(v6 + 1) > end || !read_v6(v6, q, client, server))
			return false;
	} else {
		return false;
	}
	if (!is_dns_server(v, server))
		return false;
	q->pseudo = fold_sum((__u64)client[0] + client[1] + client[2] + client[3] + server[0] + server[1] + server[2] + server[3] +
			     bpf_htons(IPPROTO_UDP));
	return true;
}

/* The datagram, and whether its sum is right. One that both a device would have to finish and is right as it is, which one
 * in 65536 is, could be either. */
static __always_inline bool read_datagram(struct __sk_buff *skb, struct dns_question *q)
{
	__u32 bytes = q->bytes;
	__u16 pseudo;

	if (!is_within(bytes, QUESTION_AT + 1 + TYPE_BYTES, MAX_QUESTION_BYTES) || skb->len != q->l4 + bytes)
		return false;
	if (bpf_skb_load_bytes(skb, q->l4, q->datagram, bytes))
		return false;
	*(__u64 *)(q->datagram + bytes) = 0;
	if (q->udp.dest != bpf_htons(DNS_PORT) || q->udp.len != bpf_htons(bytes))
		return false;
	pseudo = fold_sum((__u64)q->pseudo + bpf_htons(bytes));
	if (!q->udp.check) {
		q->sum = SUM_NONE;
		return skb->protocol == bpf_htons(ETH_P_IP);
	}
	q->sum = q->udp.check == pseudo ? SUM_OPEN : SUM_MADE;
	return (fold_sum((__u64)sum_of(q->datagram, (bytes + 3) & ~3U) + pseudo) == 0xffff) == (q->sum == SUM_MADE);
}

LOOPS bool read_name(struct dns_question *q)
{
	__u32 at = 0;

	for (__u32 i = 0; i <= MAX_LABELS; i++) {
		__u32 bytes = q->datagram[QUESTION_AT + at];

		q->label[i] = at;
		at += 1 + bytes;
		if (!bytes) {
			q->labels = i;
			q->name_bytes = at;
			return true;
		}
		if (bytes > MAX_LABEL_BYTES || at >= MAX_NAME_BYTES)
			return false;
	}
	return false;
}

/* OPT, without anything that asks for more than room. */
LOOPS bool read_opt(struct dns_question *q, __u32 at)
{
	const struct dns_opt *opt = (const struct dns_opt *)(q->datagram + at);
	__u32 end = q->bytes;

	if (at + sizeof(*opt) > end || opt->name || opt->type != bpf_htons(DNS_TYPE_OPT) || opt->rcode || opt->version || opt->flags ||
	    bpf_ntohs(opt->bytes) != end - at - sizeof(*opt))
		return false;
	at += sizeof(*opt);
	for (int i = 0; i < EDNS_OPTIONS && at + 4 <= end; i++) {
		const __be16 *option = (const __be16 *)(q->datagram + (at & 1023));
		__u16 code = bpf_ntohs(option[0]);

		if (code < EDNS_COOKIE || code > EDNS_PADDING)
			return false;
		at += 4 + bpf_ntohs(option[1]);
	}
	if (at != end)
		return false;
	q->edns = 1;
	q->room = bpf_ntohs(opt->size);
	if (q->room < PLAIN_ANSWER_BYTES)
		q->room = PLAIN_ANSWER_BYTES;
	if (q->room > EDNS_BYTES)
		q->room = EDNS_BYTES;
	return true;
}

/* What is asked. False: not as plain as that. */
static __always_inline bool read_question(struct dns_question *q)
{
	const struct dns_header *h = &q->header;
	const __be16 *type;
	__u32 at;

	if ((h->flags & bpf_htons(DNS_QR | DNS_OPCODE | DNS_TC | DNS_Z | DNS_CD | DNS_RCODE)) || h->count[0] != bpf_htons(1) ||
	    h->count[1] || h->count[2] || (h->count[3] & ~bpf_htons(1)) || !read_name(q))
		return false;
	at = QUESTION_AT + (q->name_bytes & 511);
	type = (const __be16 *)(q->datagram + at);
	q->type = bpf_ntohs(type[0]);
	if (type[1] != bpf_htons(DNS_CLASS_IN) || !q->type || q->type == DNS_TYPE_OPT || q->type >= DNS_FIRST_META_TYPE)
		return false;
	at += TYPE_BYTES;
	q->edns = 0;
	q->room = PLAIN_ANSWER_BYTES;
	return h->count[3] ? read_opt(q, at) : at == q->bytes;
}

/* A to Z of eight letters at once become a to z. Lengths of labels are below all letters. */
static __always_inline __u64 fold_letters(__u64 w)
{
	const __u64 every = 0x0101010101010101ULL;
	__u64 low = w & 0x7f * every, from_a = low + (0x80 - 'A') * every, past_z = low + (0x7f - 'Z') * every;

	return w | ((from_a & ~past_z & ~w & 0x80 * every) >> 2);
}

static __always_inline void hash_word(__u64 hash[2], const __u64 *secret, __u64 w)
{
	hash[0] = (hash[0] ^ w) * secret[2];
	hash[0] ^= hash[0] >> 32;
	hash[1] = (hash[1] + w) * secret[3];
	hash[1] ^= hash[1] >> 29;
}

/* Folds the name, and hashes it. */
LOOPS int take_name(struct dns_question *q, const struct dns_zone *z)
{
	__u64 hash[2] = { z->secret[0], z->secret[1] };
	const __u64 *from = (const __u64 *)(q->datagram + QUESTION_AT);
	__u32 bytes = q->name_bytes & 255, i;

	*(__u64 *)(q->datagram + QUESTION_AT + bytes) = 0;
	for (i = 0; i < NAME_WORDS; i++) {
		__u64 w;

		if (i * 8 >= bytes)
			break;
		w = fold_letters(from[i]);
		q->name[i] = w;
		hash_word(hash, z->secret, w);
	}
	q->name[i] = 0;
	q->key.hash[0] = hash[0];
	q->key.hash[1] = hash[1];
	return 0;
}

