/* SPDX-License-Identifier: Dual MIT/GPL */
/* Finding what the agent has published about a DNS question: records, that there are none of the type, or no such name. */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "dns_question.h"
#include "maps.h"

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

/* What becomes of looking for an element. One that changes hands while it is read says nothing about what there is. */
enum found {
	FOUND,
	ABSENT,
	CHANGED,
};

/* Copies what an element of dns_answers or dns_large has for the name. CHANGED: it is another's by now. */
static __always_inline enum found copy_answer(struct dns_question *q, const struct dns_answer *head, const __u64 *data, __u32 words,
					      const __u64 *end_stamp)
{
	__u64 stamp = again(*end_stamp);
	__u32 i, bytes, at;

	barrier();
	q->head = *head;
	if (q->head.name_bytes != q->name_bytes || q->head.type != q->key.type || q->head.scope != q->key.scope)
		return CHANGED;
	bytes = q->name_bytes;
	for (i = 0; i < NAME_WORDS && i < words; i++) {
		if (i * 8 >= bytes)
			break;
		if (data[i] != q->name[i])
			return CHANGED;
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
	return again(head->stamp) == stamp ? FOUND : CHANGED;
}

LOOPS int copy_small(struct dns_question *q, const struct small_answer *from)
{
	return copy_answer(q, &from->head, from->data, ANSWER_BYTES / 8, &from->stamp);
}

LOOPS int copy_large(struct dns_question *q, const struct large_answer *from)
{
	return copy_answer(q, &from->head, from->data, LARGE_ANSWER_BYTES / 8, &from->stamp);
}

/* Looks for the key's answer once. A large one is put before what refers to it, and deleted after that. */
LOOPS int look_once(struct dns_question *q)
{
	struct large_answer *large;
	struct small_answer *small;

	small = bpf_map_lookup_elem(&dns_answers, &q->key);
	if (!small)
		return ABSENT;
	if (!(again(small->head.flags) & ANSWER_LARGE)) {
		small->head.hits++;
		return copy_small(q, small);
	}
	large = bpf_map_lookup_elem(&dns_large, &q->key);
	if (!large)
		return CHANGED;
	large->head.hits++;
	return copy_large(q, large);
}

/* Finds the answer to a type of the name, of a scope. Looking again is for elements that change hands meanwhile, and for those that
 * are replaced: the new one comes first in its bucket, and then the old one goes, so who is under way there may see neither. */
LOOPS int find_answer(struct dns_question *q, __u16 type, __u32 scope)
{
	int found;

	q->key.type = type;
	q->key.scope = scope;
	found = look_once(q);
	return found == FOUND ? FOUND : look_once(q);
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
		e = bpf_map_lookup_elem(&dns_answers, &q->key); /* see find_answer */
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

/* Only what is absent for sure is denied. */
static __always_inline enum dns_outcome look_up(struct dns_question *q, const struct dns_zone *z, const struct dns_view *v,
						__u32 scope)
{
	int found = scope ? find_answer(q, q->type, scope) : ABSENT;

	if (found == ABSENT)
		found = find_answer(q, q->type, 0);
	if (found == FOUND) {
		if (q->head.expires && q->now >= q->head.expires)
			return DNS_EXPIRED;
		return (q->head.header & bpf_htons(DNS_RCODE)) || !q->head.count[0] ? DNS_NEGATIVE : DNS_HIT;
	}
	if (found == CHANGED || !in_domain(q, z, v))
		return DNS_MISS;
	found = find_answer(q, 0, 0);
	if (found == CHANGED)
		return DNS_MISS;
	if (found == FOUND) {
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
