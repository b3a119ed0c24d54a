/* SPDX-License-Identifier: Dual MIT/GPL */
/* Answering a pod's DNS questions where they are asked, from what the agent has published: names of the cluster, what they
 * have not, and what others have answered lately. Whatever is not as plain as most questions are goes where it would have
 * gone (it is "punted"), as does everything when the agent has been away for long.
 *
 * Bytes that come from the network are read only as a question. Those of answers are the agent's. */
#pragma once

#include <linux/pkt_cls.h>
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
	struct dns_event event; /* has the client's address all the time */
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

/* One of each processor's own, and of each direction: what a pod sends may be interrupted by what comes for it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
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
	__be32 *client = q->event.client, *server = q->server;
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
	q->pseudo = sum_of(client, 16) + sum_of(server, 16) + bpf_htons(IPPROTO_UDP);
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

/* The hash of the name's end, from where one of its labels begins. */
LOOPS int hash_end(struct dns_question *q, const struct dns_zone *z, __u32 from)
{
	__u64 hash[2] = { z->secret[0], z->secret[1] };
	__u32 bytes = q->name_bytes & 255;

	for (int i = 0; i < NAME_WORDS; i++) {
		if (from >= bytes)
			break;
		hash_word(hash, z->secret, *(const __u64 *)((const __u8 *)q->name + from));
		from += 8;
	}
	q->end_hash[0] = hash[0];
	q->end_hash[1] = hash[1];
	return 0;
}

/* Whether the name is in the cluster's domain. */
static __always_inline bool in_domain(struct dns_question *q, const struct dns_zone *z, const struct dns_view *v)
{
	__u32 labels = q->labels - v->domain_labels, from;

	if (!v->domain_bytes || labels > MAX_LABELS)
		return false;
	from = q->label[labels];
	if (q->name_bytes - from != v->domain_bytes)
		return false;
	hash_end(q, z, from);
	return q->end_hash[0] == v->hash[0] && q->end_hash[1] == v->hash[1];
}

/* Copies what an element of dns_answers or dns_large has for the name. False: nothing, for it is another's. */
static __always_inline bool copy_answer(struct dns_question *q, const struct dns_answer *head, const __u64 *data, __u32 words,
					const __u64 *end_stamp)
{
	__u64 stamp = again(*end_stamp);
	__u32 i, bytes, at;

	barrier();
	q->head = *head;
	if (q->head.name_bytes != q->name_bytes || q->head.type != q->key.type || q->head.scope != q->key.scope)
		return false;
	bytes = q->name_bytes;
	for (i = 0; i < NAME_WORDS && i < words; i++) {
		if (i * 8 >= bytes)
			break;
		if (data[i] != q->name[i])
			return false;
	}
	at = ((again(q->name_bytes) & 255) + 7) >> 3;
	bytes = q->head.bytes;
	for (i = 0; i < words; i++) {
		barrier_var(at); /* the check is for the verifier, who must see it on this register */
		if (i * 8 >= bytes || at >= words)
			break;
		q->records[i] = data[at];
		at++;
	}
	barrier();
	return again(head->stamp) == stamp;
}

LOOPS bool copy_small(struct dns_question *q, const struct small_answer *from)
{
	return copy_answer(q, &from->head, from->data, ANSWER_BYTES / 8, &from->stamp);
}

LOOPS bool copy_large(struct dns_question *q, const struct large_answer *from)
{
	return copy_answer(q, &from->head, from->data, LARGE_ANSWER_BYTES / 8, &from->stamp);
}

/* Finds the answer to a type of the name, of a scope. False: there is none. */
LOOPS bool find_answer(struct dns_question *q, __u16 type, __u32 scope)
{
	struct large_answer *large;
	struct small_answer *small;

	q->key.type = type;
	q->key.scope = scope;
	small = bpf_map_lookup_elem(&dns_answers, &q->key);
	if (!small)
		return false;
	if (!(again(small->head.flags) & ANSWER_LARGE)) {
		small->head.hits++;
		return copy_small(q, small);
	}
	large = bpf_map_lookup_elem(&dns_large, &q->key);
	if (!large)
		return false;
	large->head.hits++;
	return copy_large(q, large);
}

/* What is published of the name itself. */
static __always_inline bool asks_agent(__u8 flags, __u16 type)
{
	return (flags & NAME_ASK_ALL) || (type == DNS_TYPE_A && (flags & NAME_ASK_A)) ||
	       (type == DNS_TYPE_AAAA && (flags & NAME_ASK_AAAA)) || (type == DNS_TYPE_SRV && (flags & NAME_ASK_SRV));
}

/* Whether the name begins what a resolver might look for elsewhere if it is not here: see autopath. */
static __always_inline bool is_searched(const struct dns_question *q, __u32 scope)
{
	return scope && (q->type == DNS_TYPE_A || q->type == DNS_TYPE_AAAA);
}

/* Whether the entry of a name's end, from its label on, says that there may be more below it. One that changes hands while it
 * is read might. */
LOOPS bool asks_below(struct dns_question *q, const struct dns_zone *z, __u32 label)
{
	__u32 from = q->label[label & MAX_LABELS], bytes = (q->name_bytes & 255) - from;
	const struct small_answer *e;
	__u8 flags;

	hash_end(q, z, from);
	q->key.hash[0] = q->end_hash[0];
	q->key.hash[1] = q->end_hash[1];
	e = bpf_map_lookup_elem(&dns_answers, &q->key);
	if (!e)
		return false;
	flags = again(e->head.flags);
	if (e->head.type || e->head.scope || e->head.name_bytes != bytes)
		return true;
	for (int i = 0; i < ANSWER_BYTES / 8; i++) {
		if (i * 8 >= bytes || from >= MAX_NAME_BYTES)
			break;
		if (e->data[i] != *(const __u64 *)((const __u8 *)q->name + from))
			return true;
		from += 8;
	}
	return flags & (NAME_ASK_ALL | NAME_ASK_BELOW);
}

/* Whether one of the name's first labels is that of a port or a protocol. */
LOOPS bool has_underscore(const struct dns_question *q, __u32 labels)
{
	for (__u32 i = 0; i < MAX_LABELS; i++) {
		if (i >= labels)
			break;
		if (((const __u8 *)q->name)[q->label[i] + 1] == '_')
			return true;
	}
	return false;
}

/* Whether a name of the domain that has no entry can be said not to exist. Not published are the names of pods, and of ports,
 * and what is below a Service if its entry says so. From the domain on, labels are: svc or pod, namespace, Service. */
static __always_inline bool is_absent(struct dns_question *q, const struct dns_zone *z, const struct dns_view *v)
{
	__u32 labels = q->labels - v->domain_labels, kind;
	const __u8 *name = (const __u8 *)q->name;

	if (!v->complete || (__s64)(q->now - z->alive) > (__s64)(ABSENCE_SECONDS * SECOND) || labels - 1 >= MAX_LABELS)
		return false;
	if (has_underscore(q, labels))
		return false;
	kind = *(const __u32 *)(name + q->label[labels - 1]);
	if (kind == LABEL_POD)
		return false;
	return kind != LABEL_SVC || labels < 4 || !asks_below(q, z, labels - 3);
}

/* Makes the answer that there is no such name, or nothing of the type. */
static __always_inline void deny(struct dns_question *q, const struct dns_view *v, __u16 rcode)
{
	__be16 pointer = bpf_htons(0xc000 | (sizeof(struct dns_header) + q->name_bytes - v->domain_bytes));
	__u8 *soa = (__u8 *)q->records;

	__builtin_memcpy(soa, v->soa, SOA_BYTES);
	*(__be16 *)soa = pointer;
	*(__be16 *)(soa + v->soa_ns_at) = pointer;
	*(__be16 *)(soa + v->soa_mailbox_at) = pointer;
	q->head.header = bpf_htons(DNS_AA | rcode);
	q->head.bytes = v->soa_bytes;
	q->head.flags = 0;
	q->head.rotate_count = 0;
	q->head.count[0] = q->head.count[2] = 0;
	q->head.count[1] = 1;
}

static __always_inline enum dns_outcome look_up(struct dns_question *q, const struct dns_zone *z, const struct dns_view *v,
						__u32 scope)
{
	if ((scope && find_answer(q, q->type, scope)) || find_answer(q, q->type, 0)) {
		if (q->head.expires && q->now >= q->head.expires)
			return DNS_EXPIRED;
		return (q->head.header & bpf_htons(DNS_RCODE)) || !q->head.count[0] ? DNS_NEGATIVE : DNS_HIT;
	}
	if (!in_domain(q, z, v))
		return DNS_MISS;
	if (find_answer(q, 0, 0)) {
		if (asks_agent(q->head.flags, q->type) || (is_searched(q, scope) && !(q->head.flags & NAME_ADDRESSES)))
			return DNS_MISS;
		deny(q, v, 0);
		return DNS_NEGATIVE;
	}
	if (is_searched(q, scope) || !is_absent(q, z, v))
		return DNS_MISS;
	deny(q, v, DNS_NXDOMAIN);
	return DNS_NEGATIVE;
}

/* Counts TTLs down to 1. */
LOOPS int age(struct dns_question *q)
{
	__s64 passed = q->now - q->head.born;
	__u32 seconds = passed > 0 ? passed / SECOND : 0, at = 0;

	for (int i = 0; i < ANSWER_RECORDS; i++) {
		__be32 *ttl;

		if (i >= q->head.ttls)
			break;
		at += q->head.ttl_step[i];
		if (at > LARGE_ANSWER_BYTES)
			break;
		ttl = (__be32 *)((__u8 *)q->records + at);
		*ttl = bpf_ntohl(*ttl) > seconds ? bpf_htonl(bpf_ntohl(*ttl) - seconds) : bpf_htonl(1);
	}
	return 0;
}

/* Makes what follows the question. The result is the length of the datagram, 0: the client would not take it. */
static __always_inline __u32 finish_answer(struct dns_question *q)
{
	const struct dns_opt opt = { .type = bpf_htons(DNS_TYPE_OPT), .size = bpf_htons(EDNS_BYTES) };
	__u32 bytes = q->head.bytes, all = QUESTION_AT + q->name_bytes + TYPE_BYTES + bytes;

	if (bytes > LARGE_ANSWER_BYTES)
		return 0;
	if (q->edns) {
		__builtin_memcpy((__u8 *)q->records + bytes, &opt, sizeof(opt));
		all += sizeof(opt);
	}
	if (all - UDP_BYTES > q->room)
		return 0;
	if (q->head.flags & ANSWER_AGED)
		age(q);
	return all;
}

static __always_inline bool store(struct __sk_buff *skb, struct dns_question *q, __u32 to, __u32 from, __u32 bytes)
{
	if (!bytes)
		return true;
	if (from > LARGE_ANSWER_BYTES || !is_within(bytes, 1, LARGE_ANSWER_BYTES + sizeof(struct dns_opt)))
		return false;
	return !bpf_skb_store_bytes(skb, to, (__u8 *)q->records + from, bytes, 0);
}

/* Writes the records, those in turn that may have any order. */
LOOPS bool store_records(struct __sk_buff *skb, struct dns_question *q, __u32 to, __u32 bytes)
{
	__u32 first = q->head.rotate_at, turned, group;

	if (q->head.rotate_count < 2)
		return store(skb, q, to, 0, bytes);
	group = q->head.rotate_count * q->head.rotate_bytes;
	turned = bpf_get_prandom_u32() % q->head.rotate_count * q->head.rotate_bytes;
	return store(skb, q, to, 0, first) &&
	       store(skb, q, to + first, first + turned, group - turned) &&
	       store(skb, q, to + first + group - turned, first, turned) &&
	       store(skb, q, to + first + group, first + group, bytes - first - group);
}

static __always_inline void turn_v4(struct iphdr *ip, __u32 bytes)
{
	__u32 *word = (__u32 *)ip;
	__be32 client = ip->saddr;

	word[0] = bpf_htonl(0x45000000 | (sizeof(*ip) + bytes));
	ip->ttl = ANSWER_HOPS;
	ip->check = 0;
	ip->saddr = ip->daddr;
	ip->daddr = client;
	ip->check = ~fold_sum((__u64)word[0] + word[1] + word[2] + word[3] + word[4]);
}

static __always_inline void turn_v6(struct ipv6hdr *ip, __u32 bytes)
{
	struct in6_addr client = ip->saddr;

	*(__be32 *)ip = bpf_htonl(0x60000000);
	ip->payload_len = bpf_htons(bytes);
	ip->hop_limit = ANSWER_HOPS;
	ip->saddr = ip->daddr;
	ip->daddr = client;
}

/* Makes the headers those of the answer. A sum that IPv4 does without is left out. */
LOOPS bool turn_headers(struct __sk_buff *skb, const struct dns_question *q, __u32 bytes)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct dns_header *dns;
	struct udphdr *udp;
	__u8 mac[ETH_ALEN];

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		udp = data + ETH_HLEN + sizeof(struct iphdr);
		dns = (struct dns_header *)(udp + 1);
		if ((void *)(dns + 1) > end)
			return false;
		turn_v4(data + ETH_HLEN, bytes);
	} else {
		udp = data + ETH_HLEN + sizeof(struct ipv6hdr);
		dns = (struct dns_header *)(udp + 1);
		if ((void *)(dns + 1) > end)
			return false;
		turn_v6(data + ETH_HLEN, bytes);
	}
	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	udp->dest = udp->source;
	udp->source = bpf_htons(DNS_PORT);
	udp->len = bpf_htons(bytes);
	udp->check = q->sum == SUM_OPEN ? fold_sum((__u64)q->pseudo + bpf_htons(bytes)) : 0;
	dns->flags = bpf_htons(DNS_QR) | q->head.header | (dns->flags & bpf_htons(DNS_RD));
	dns->count[1] = bpf_htons(q->head.count[0]);
	dns->count[2] = bpf_htons(q->head.count[1]);
	dns->count[3] = bpf_htons(q->head.count[2] + q->edns);
	return true;
}

/* The sum of as much of the datagram as the helper takes at once. */
static __always_inline __u32 sum_part(const struct dns_question *q, __u32 bytes, __u32 at)
{
	__u32 part = bytes - at;

	if (at >= bytes)
		return 0;
	if (part > 512)
		part = 512;
	return sum_of(q->datagram + at, (part + 3) & 0x3fc);
}

/* Makes the sum of a datagram that has the sum 0. */
LOOPS bool make_sum(struct __sk_buff *skb, struct dns_question *q, __u32 bytes)
{
	__u64 sum = (__u64)q->pseudo + bpf_htons(bytes);
	__u16 check;

	if (!is_within(bytes, UDP_BYTES, ANSWERED_BYTES) || bpf_skb_load_bytes(skb, q->l4, q->datagram, bytes))
		return false;
	*(__u64 *)(q->datagram + bytes) = 0;
	sum += sum_part(q, bytes, 0) + sum_part(q, bytes, 512) + sum_part(q, bytes, 1024);
	check = ~fold_sum(sum);
	if (!check)
		check = 0xffff;
	return !bpf_skb_store_bytes(skb, q->l4 + offsetof(struct udphdr, check), &check, sizeof(check), 0);
}

/* Sends the answer back by the link: see reject. */
static __always_inline int send_answer(struct __sk_buff *skb, struct dns_question *q, __u32 bytes, __u32 way)
{
	__u32 question = QUESTION_AT + q->name_bytes + TYPE_BYTES;

	if (bpf_skb_change_tail(skb, q->l4 + bytes, 0))
		return TC_ACT_UNSPEC;
	if (!turn_headers(skb, q, bytes) || !store_records(skb, q, q->l4 + question, bytes - question))
		return TC_ACT_SHOT;
	if (q->sum != SUM_OPEN && skb->protocol == bpf_htons(ETH_P_IPV6) && !make_sum(skb, q, bytes))
		return TC_ACT_SHOT;
	skb->mark = way ? 0 : POD_MARK; /* to_pod has nothing to do with it */
	return bpf_redirect(skb->ifindex, way);
}

LOOPS int account(struct dns_question *q, const struct dns_view *v, __u32 number, enum dns_outcome outcome)
{
	struct dns_counts *counts = bpf_map_lookup_elem(&dns_counts, &number);

	if (counts)
		counts->count[outcome]++;
	if (!v->sample || bpf_get_prandom_u32() % v->sample)
		return 0;
	q->event.type = q->type;
	q->event.rcode = outcome <= DNS_NEGATIVE ? bpf_ntohs(q->head.header) & DNS_RCODE : 0;
	q->event.outcome = outcome;
	q->event.name_bytes = q->name_bytes;
	__builtin_memcpy(q->event.name, q->name, DNS_EVENT_NAME_BYTES);
	bpf_ringbuf_output(&dns_events, &q->event, sizeof(q->event), 0);
	return 0;
}

/* Answers a datagram to port 53 of who is asked for names. The result is TC_ACT_UNSPEC if it must go its way; the packet is
 * then as it was. scope and number are the pod's, way is as for reject.
 *
 * Not static, so that the verifier looks at it once for a program and by itself (since Linux 5.6), and not on each way to it.
 * Hence it knows nothing of the packet. */
__attribute__((noinline)) int answer_dns(struct __sk_buff *skb, __u32 scope, __u32 number, __u32 way)
{
	enum dns_outcome outcome = DNS_PUNT;
	__u32 key = !!way, bytes = 0;
	const struct dns_view *v;
	struct dns_question *q;
	struct dns_zone *z;

	q = bpf_map_lookup_elem(&dns_questions, &key);
	key = 0;
	z = bpf_map_lookup_elem(&dns_zone, &key);
	if (!q || !z)
		return TC_ACT_UNSPEC;
	v = &z->view[again(z->current) & 1];
	if (!read_network(skb, q, v))
		return TC_ACT_UNSPEC;
	q->now = bpf_ktime_get_ns();
	q->type = 0;
	q->name_bytes = 0;
	if ((__s64)(q->now - z->alive) <= (__s64)(ANSWER_SECONDS * SECOND) && read_datagram(skb, q) && read_question(q)) {
		take_name(q, z);
		outcome = look_up(q, z, v, scope);
		if (outcome <= DNS_NEGATIVE) {
			bytes = finish_answer(q);
			if (!bytes)
				outcome = DNS_PUNT;
		}
	}
	account(q, v, number, outcome);
	return bytes ? send_answer(skb, q, bytes, way) : TC_ACT_UNSPEC;
}
