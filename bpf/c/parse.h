/* SPDX-License-Identifier: Dual MIT/GPL */
/* What the packet programs know of a packet. Whatever they do not know they leave alone. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "lb.h"
#include "policytypes.h"
#include "types.h"

/* The fields of the fragment offset: RFC 791, 3.1, and RFC 8200, 4.5. */
#define V4_OFFSET 0x1fff
#define V4_MORE 0x2000
#define V6_OFFSET 0xfff8
#define V6_MORE 0x0001

/* The flag bits of the TCP header's 14th byte (RFC 9293, 3.1). */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_FLAGS_AT 13

/* RFC 792. linux/icmp.h drags in the C library. */
#define ICMP_DEST_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_CHECKSUM_AT 2
#define ICMP_HEADER_LEN 8

/* SCTP's header is three words, and behind it is the first chunk's type (RFC 9260, 3). linux/sctp.h has the
 * sockets' side only. */
#define SCTP_CHECKSUM_AT 8
#define SCTP_CHUNK_AT 12
#define SCTP_INIT 1
#define SCTP_ABORT 6
#define SCTP_SHUTDOWN 7
#define SCTP_SHUTDOWN_ACK 8
#define SCTP_SHUTDOWN_COMPLETE 14

/* ICMPv6's errors are the types below 128; 1 to 4 are assigned (RFC 4443, 2.1). */
#define ICMP6_LAST_ERROR 4

enum part {
	WHOLE,
	FIRST_FRAGMENT,
	LATER_FRAGMENT, /* has no transport header */
};

/* An IP header, of the packet itself or of one that an ICMP error is about. */
struct network_header {
	__be32 saddr[4];
	__be32 daddr[4];
	__u32 at; /* where the header is */
	__u32 l4; /* where the next one is */
	__u32 len; /* from there to the packet's end */
	__be32 id;
	__u8 proto;
	__u8 hops; /* TTL or hop limit */
	__u8 part; /* enum part */
	__u8 pad;
};

/* The tuple is the flow that the packet is of. An ICMP error is of the flow whose packets go the same way: the tuple is
 * that of the packet it is about, turned around. */
struct packet {
	struct flow_key tuple;
	struct network_header net;
	__u32 inner;	/* of an ICMP error: where the IP header of the packet it is about is; 0: it is none */
	__u32 inner_l4; /* and the ports of that */
	__u8 flags;	/* TCP's; what SCTP's first chunk says is put in their words */
	bool v6;
};

/* What policy makes of a packet, see policy.h. */
struct judgement {
	struct flow_key key;  /* of tracked: the pod's own end is the source */
	struct tracked entry; /* what is there, or is going to be */
	__u64 set;	      /* what the verdict was about */
	__u64 class;
	__u32 generation; /* when it was looked up */
	__u32 point;	  /* of a packet without ports */
	bool begins;	  /* a packet without ports begins something */
	__u8 pad[7];
};

/* What a program knows of its packet and says of it. One of each processor's own, which the stages of a program find here: programs
 * of links do not interrupt one another. It is also more than a stack has, and the verifier does not follow what is in it. */
struct moment {
	struct packet p;
	struct flow to;
	struct pod_address pod; /* whose packet it is, for programs that look for that */
	struct judgement judged;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct moment);
} moments SEC(".maps");

static __always_inline struct moment *this_moment(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&moments, &zero);
}

/* What no router passes on: multicast, broadcast, and IPv6's link-local addresses, by which neighbours are found. */
static __always_inline bool stays_on_link(const __be32 *addr)
{
	__u32 high = bpf_ntohl(addr[0]);

	if (is_v4(addr))
		return bpf_ntohl(addr[3]) >= 0xe0000000; /* 224.0.0.0/4 and 255.255.255.255 */
	return high >> 24 == 0xff || high >> 22 == 0xfe80 >> 6;
}

static __always_inline bool parse_v4(struct __sk_buff *skb, struct network_header *net)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, net->at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return false;
	net->saddr[0] = net->saddr[1] = net->daddr[0] = net->daddr[1] = 0;
	net->saddr[2] = net->daddr[2] = bpf_htonl(0xffff);
	net->saddr[3] = ip.saddr;
	net->daddr[3] = ip.daddr;
	net->proto = ip.protocol;
	net->l4 = net->at + ip.ihl * 4;
	net->len = bpf_ntohs(ip.tot_len) - ip.ihl * 4;
	net->hops = ip.ttl;
	net->id = ip.id;
	if (ip.frag_off & bpf_htons(V4_OFFSET))
		net->part = LATER_FRAGMENT;
	else
		net->part = ip.frag_off & bpf_htons(V4_MORE) ? FIRST_FRAGMENT : WHOLE;
	return true;
}

/* Of extension headers only that of fragments is known. */
static __always_inline bool parse_v6(struct __sk_buff *skb, struct network_header *net)
{
	struct ipv6hdr ip;
	struct {
		__u8 next;
		__u8 reserved;
		__be16 offset;
		__be32 id;
	} f;

	if (bpf_skb_load_bytes(skb, net->at, &ip, sizeof(ip)) || ip.version != 6)
		return false;
	__builtin_memcpy(net->saddr, &ip.saddr, sizeof(net->saddr));
	__builtin_memcpy(net->daddr, &ip.daddr, sizeof(net->daddr));
	/* Not to be taken for IPv4, whose form in the maps it has. It has no business on a wire (RFC 4038, 4.2). */
	if (is_v4(net->saddr) || is_v4(net->daddr))
		return false;
	net->proto = ip.nexthdr;
	net->l4 = net->at + sizeof(ip);
	net->len = bpf_ntohs(ip.payload_len);
	net->hops = ip.hop_limit;
	net->id = 0;
	net->part = WHOLE;
	if (ip.nexthdr != IPPROTO_FRAGMENT)
		return true;
	if (bpf_skb_load_bytes(skb, net->l4, &f, sizeof(f)))
		return false;
	net->proto = f.next;
	net->l4 += sizeof(f);
	net->len -= sizeof(f);
	net->id = f.id;
	if (f.offset & bpf_htons(V6_OFFSET))
		net->part = LATER_FRAGMENT;
	else if (f.offset & bpf_htons(V6_MORE))
		net->part = FIRST_FRAGMENT;
	return true;
}

/* Addresses and what follows them. Nothing of the packet before is left in what is looked at without parse_transport. */
static __always_inline bool parse_network(struct __sk_buff *skb, struct packet *p)
{
	p->inner = p->inner_l4 = 0;
	p->flags = 0;
	p->net.pad = 0;
	p->net.at = ETH_HLEN;
	p->v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (skb->vlan_present || (!p->v6 && skb->protocol != bpf_htons(ETH_P_IP)))
		return false;
	return p->v6 ? parse_v6(skb, &p->net) : parse_v4(skb, &p->net);
}

static __always_inline void fragment_key(const struct packet *p, struct fragment_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	__builtin_memcpy(key->saddr, p->net.saddr, 32);
	key->id = p->net.id;
	key->proto = p->net.proto;
}

/* Lets the later fragments of a first one be known. */
static __always_inline void remember_fragment(const struct packet *p)
{
	struct fragment_key key;
	struct fragment f = { .seen = bpf_ktime_get_ns(), .sport = p->tuple.sport, .dport = p->tuple.dport };

	if (p->net.part != FIRST_FRAGMENT)
		return;
	fragment_key(p, &key);
	f.echo = fold_words(&key, sizeof(key) / 4);
	bpf_map_update_elem(&fragments, &key, &f, BPF_ANY);
}

/* A first fragment that is not translated takes the place of one that was and had the same id. */
static __always_inline void forget_fragment(const struct packet *p)
{
	struct fragment_key key;

	if (p->net.part != FIRST_FRAGMENT || p->inner)
		return;
	fragment_key(p, &key);
	bpf_map_delete_elem(&fragments, &key);
}

static __always_inline bool recall_fragment(struct packet *p)
{
	const volatile struct fragment *f;
	struct fragment_key key;

	fragment_key(p, &key);
	f = bpf_map_lookup_elem(&fragments, &key);
	if (!f || bpf_ktime_get_ns() - f->seen > FRAGMENT_SECONDS * SECOND)
		return false;
	p->tuple.sport = f->sport;
	p->tuple.dport = f->dport;
	return f->echo == fold_words(&key, sizeof(key) / 4);
}

static __always_inline bool is_icmp_error(const struct packet *p, __u8 type)
{
	if (p->v6)
		return p->net.proto == IPPROTO_ICMPV6 && type >= 1 && type <= ICMP6_LAST_ERROR;
	return p->net.proto == IPPROTO_ICMP &&
	       (type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB);
}

static __always_inline bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

/* An ICMP error goes to the source of the packet that it quotes. A global function, see begin. */
__attribute__((noinline)) int parse_error(struct __sk_buff *skb)
{
	struct moment *m = this_moment();
	struct network_header quoted = {};
	struct packet *p;
	__be16 port[2];
	__u8 type;

	if (!m)
		return false;
	p = &m->p;
	quoted.at = p->net.l4 + ICMP_HEADER_LEN;
	if (p->net.part != WHOLE || bpf_skb_load_bytes(skb, p->net.l4, &type, 1) || !is_icmp_error(p, type))
		return false;
	if (p->v6 ? !parse_v6(skb, &quoted) : !parse_v4(skb, &quoted))
		return false;
	if (!has_ports(quoted.proto) || quoted.part == LATER_FRAGMENT)
		return false;
	if (!same_address(quoted.saddr, p->net.daddr) || bpf_skb_load_bytes(skb, quoted.l4, port, sizeof(port)))
		return false;
	__builtin_memcpy(p->tuple.saddr, quoted.daddr, sizeof(p->tuple.saddr));
	__builtin_memcpy(p->tuple.daddr, quoted.saddr, sizeof(p->tuple.daddr));
	__builtin_memset(p->tuple.pad, 0, sizeof(p->tuple.pad));
	p->tuple.sport = port[1];
	p->tuple.dport = port[0];
	p->tuple.proto = quoted.proto;
	p->inner = quoted.at;
	p->inner_l4 = quoted.l4;
	return true;
}

/* By the first chunk. INIT, INIT ACK and SHUTDOWN COMPLETE come alone (RFC 9260, 6.10). Others may come behind a first one,
 * such as an ABORT behind DATA: such an end is not seen, and the flow is over when it is silent for long enough. Those chunks
 * that end an association without a reset come from both sides. */
static __always_inline __u8 sctp_flags(__u8 chunk)
{
	switch (chunk) {
	case SCTP_INIT:
		return TCP_SYN;
	case SCTP_ABORT:
		return TCP_RST;
	case SCTP_SHUTDOWN:
	case SCTP_SHUTDOWN_ACK:
	case SCTP_SHUTDOWN_COMPLETE:
		return TCP_FIN;
	}
	return 0;
}

/* The flow that the packet is of: addresses and ports. False for what has none. */
static __always_inline bool parse_transport(struct __sk_buff *skb, struct packet *p)
{
	union {
		struct tcphdr tcp;
		struct udphdr udp;
		__u8 byte[sizeof(struct tcphdr)];
		__be16 port[2];
	} h;

	if (p->net.proto == IPPROTO_ICMP || p->net.proto == IPPROTO_ICMPV6)
		return parse_error(skb);
	if (!has_ports(p->net.proto))
		return false;
	__builtin_memcpy(p->tuple.saddr, p->net.saddr, 32);
	__builtin_memset(p->tuple.pad, 0, sizeof(p->tuple.pad));
	p->tuple.proto = p->net.proto;
	if (p->net.part == LATER_FRAGMENT)
		return recall_fragment(p);
	if (p->net.proto == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, p->net.l4, &h, sizeof(h.tcp)))
			return false;
		p->flags = h.byte[TCP_FLAGS_AT];
	} else if (p->net.proto == IPPROTO_SCTP) {
		if (bpf_skb_load_bytes(skb, p->net.l4, &h, SCTP_CHUNK_AT + 1))
			return false;
		p->flags = sctp_flags(h.byte[SCTP_CHUNK_AT]);
	} else if (bpf_skb_load_bytes(skb, p->net.l4, &h, sizeof(h.udp))) {
		return false;
	}
	p->tuple.sport = h.port[0];
	p->tuple.dport = h.port[1];
	return true;
}

/* The first packet of a connection. */
static __always_inline bool opens(const struct packet *p)
{
	if (p->inner || p->net.part == LATER_FRAGMENT)
		return false;
	return p->tuple.proto == IPPROTO_UDP || (p->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}
