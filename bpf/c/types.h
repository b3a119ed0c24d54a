/* SPDX-License-Identifier: Dual MIT/GPL */
/* The contract between the programs and Go: every struct that lives in a map. Go sees them through bpf2go only.
 * Addresses are 16 bytes in network order, IPv4 as v4-mapped IPv6 (RFC 4291, 2.5.5.2); ports are in network order.
 * A layout never changes its meaning: a new layout gets a new map name and a new pin directory (LAYOUT_VERSION). */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <stddef.h>

struct frontend_key {
	__be32 addr[4];
	__be16 port;
	__u8 proto; /* IPPROTO_* */
	__u8 pad;
};
_Static_assert(sizeof(struct frontend_key) == 20, "frontend_key");

enum frontend_kind {
	FRONTEND_CLUSTER_IP = 1,
	FRONTEND_NODE_PORT = 2,
	FRONTEND_HOST_PORT = 3,
	FRONTEND_EXTERNAL_IP = 4,
	FRONTEND_LOAD_BALANCER = 5,
	FRONTEND_NODE_DNS = 7, /* the node's DNS listener: the cluster's DNS while that one does not serve */
	FRONTEND_ADDRESS = 6, /* with port 0 and protocol 0: the address is a Service's, whose other ports refuse */
};

/* A key with the unspecified address of its family is a wildcard: it answers on every address in node_addresses that
 * no other key has.
 *
 * The kernel may hand a deleted hash element to another key while a reader still looks at it, so the value repeats
 * what tells its key from the others: a reader that finds a mismatch looks again. */
struct frontend {
	__u32 record;     /* index into records, shared by all frontends of one Service port and family */
	__be32 addr_fold; /* exclusive or of the key's four address words */
	__be16 port;      /* of the key */
	__u8 proto;       /* of the key */
	__u8 kind;        /* enum frontend_kind */
};
_Static_assert(sizeof(struct frontend) == 12, "frontend");

/* records: one aligned 64-bit word per Service port and family. The store of this word is the only publish
 * operation: whoever reads it sees the whole old block or the whole new one. */
struct record {
	__u32 block;    /* cell index of the block header; 0: nothing is published */
	__u32 sequence; /* grows by one with every publish, so that a reused block index is told apart */
};
_Static_assert(sizeof(struct record) == 8, "record");

enum block_flags {
	BLOCK_INTERNAL_LOCAL = 1 << 0, /* clients inside the cluster use the local list */
	BLOCK_INTERNAL_DROP = 1 << 1,  /* an empty list drops instead of rejecting: endpoints exist elsewhere */
	BLOCK_NODE_DNS = 1 << 2,       /* the cluster's DNS: pods and the node ask the node's listener while that one serves */
	BLOCK_EXTERNAL_LOCAL = 1 << 3, /* clients outside the cluster use the local list and keep their address */
	BLOCK_EXTERNAL_DROP = 1 << 4,  /* for them, an empty list drops instead of rejecting */
	BLOCK_SOURCE_RANGES = 1 << 5,  /* a load balancer's address serves only who is in source_ranges */
};

/* blocks: 8-byte cells. A block is a header of three cells and four runs of backends, each sorted by address and port:
 * those in the cluster list only, in both lists, in the local list only, and those that drain. So each list is one
 * run of cells, too. Immutable once published. */
struct block_head {
	__u32 record; /* who owns the block: a mismatch means the block was reused under the reader */
	__u16 cluster_count;
	__u16 local_count;
};
_Static_assert(sizeof(struct block_head) == 8, "block_head");

struct block_policy {
	__u32 affinity_seconds; /* 0: none */
	__u16 local_at;         /* index of the first local backend, counted in backends from the list start */
	__u8 backend_cells;     /* cells per backend: BACKEND_CELLS_V4 or BACKEND_CELLS_V6 */
	__u8 flags;             /* enum block_flags */
};
_Static_assert(sizeof(struct block_policy) == 8, "block_policy");

/* What few readers need. */
struct block_more {
	__u32 epoch;          /* the record's sequence when its affinity was switched on: older entries are void */
	__u16 draining_count; /* backends in no list that still serve: who talks to them goes on */
	__u16 pad;
};
_Static_assert(sizeof(struct block_more) == 8, "block_more");

/* One IPv4 backend is one cell. An IPv6 backend is three: 16 bytes of address, then this struct with addr 0. */
struct backend_cell {
	__be32 addr;
	__be16 port;
	__u16 pad;
};
_Static_assert(sizeof(struct backend_cell) == 8, "backend_cell");

struct pod_key {
	__u64 netns_cookie;
};

enum pod_flags {
	POD_BY_PACKETS = 1 << 0, /* its sockets are left alone, and its packets are translated instead */
	POD_GUARDED = 1 << 1, /* programs that judge its packets are in its own namespace, and its raw sockets may not pass them */
};

/* pods: who is behind a socket, by the cookie of its network namespace. Written by CNI ADD. The node has an entry, too,
 * with the addresses that its sockets use unless they say otherwise. */
struct pod {
	__u32 flags;     /* enum pod_flags */
	__be32 addr4;    /* 0: none */
	__be32 addr6[4]; /* all 0: none */
};
_Static_assert(sizeof(struct pod) == 24, "pod");

/* affinity: which backend of a list a client of a Service port had last. The address of a client that is not known is the
 * cookie of its network namespace, in the last eight bytes. */
struct affinity_key {
	__be32 client[4];
	__u32 record;
	__u32 local; /* 1: the client chose from the local list, 0: from the cluster's */
};
_Static_assert(sizeof(struct affinity_key) == 24, "affinity_key");

struct affinity {
	__be32 backend[4];
	__u64 last_used; /* CLOCK_MONOTONIC, nanoseconds: when the client last opened a connection */
	__u32 epoch;     /* of the block that it was chosen from */
	__u32 place;     /* where the backend was in the block: looked at first */
	__be16 port;
	__u16 pad;
	__u32 echo; /* exclusive or of the key's words, for the reason given at struct frontend */
};
_Static_assert(sizeof(struct affinity) == 40, "affinity");

/* source_ranges: who may use a load balancer's address, by longest prefix. */
struct source_range {
	__u32 prefix_bits; /* of record and address: 32 more than IPv6 counts, 128 more than IPv4 */
	__u32 record;
	__be32 addr[4];
};
_Static_assert(sizeof(struct source_range) == 24, "source_range");

/* pod_addresses: the pods of this node by address. Links are interface indexes. */
struct pod_address {
	__u32 echo; /* exclusive or of the key's words, for the reason given at struct frontend; first, as the kernel writes it first */
	__u32 link;         /* on the node: the link that leads to the pod */
	__u64 netns_cookie; /* key into pods; 0: unknown */
	__u32 side;         /* in the pod's namespace: the link that leads to the node, for a pod with an ENI of its own */
	__u16 slot;         /* of the ENI that has the address */
	__u16 number;       /* of the pod, into dns_counts; 0: none */
	__u32 parent; /* on the node: what the pod's packets come by first, its link or that one's ipvlan parent; 0: unknown */
	__u32 scope;  /* the search list that its names may be answered by; 0: none */
};
_Static_assert(sizeof(struct pod_address) == 32, "pod_address");

/* link_addresses: what a link of the node stands for toward backends, when clients outside asked by it. By interface index. */
struct link_address {
	__be32 addr4;    /* 0: none */
	__be32 addr6[4]; /* all 0: none */
};
_Static_assert(sizeof(struct link_address) == 20, "link_address");

/* host_networks: what a pod must send through its node, and where Services have their addresses, by longest prefix. */
struct network {
	__u32 prefix_bits; /* of the 16-byte address: 96 more than IPv4 counts */
	__be32 addr[4];
};
_Static_assert(sizeof(struct network) == 20, "network");

enum way {
	WAY_ENI = 0,     /* out by the pod's ENI */
	WAY_NODE = 1,    /* through the node's stack */
	WAY_SERVICE = 2, /* nowhere: what no frontend has is dropped */
};

/* node_addresses: the value, of each address that the node has. */
enum node_address_flags {
	NODE_ADDRESS_PORTS = 1 << 0, /* node ports are served there */
};

/* flows: the packets of NATed connections, by what they look like when they come. A connection has two entries,
 * request and reply, each the other's rewritten tuple turned around. */
struct flow_key {
	__be32 saddr[4];
	__be32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u8 proto; /* IPPROTO_* */
	__u8 pad[3];
};
_Static_assert(sizeof(struct flow_key) == 40, "flow_key");

enum flow_flags {
	FLOW_REPLY = 1 << 0, /* the entry of the backend's packets */
	FLOW_SEEN = 1 << 1,  /* a packet has matched the entry */
	FLOW_FIN = 1 << 2,   /* this side has sent FIN */
	FLOW_RST = 1 << 3,   /* the last packet of this side was RST */
	FLOW_POD = 1 << 4,   /* the client is a pod of this node */
	FLOW_NODE = 1 << 5,  /* the client is the node */
	FLOW_TO_POD = 1 << 6, /* the link leads to the pod that the packet is rewritten to */
	FLOW_DNS = 1 << 7, /* a pod asks the cluster's DNS, which the node's listener serves while it lives */
	FLOW_LISTENER = 1 << 8, /* and that one is the backend */
};

struct flow {
	__be32 saddr[4]; /* what the packet is rewritten to */
	__be32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u32 link;              /* interface index to leave by; 0: the node's stack has it */
	__u64 last_seen;         /* CLOCK_MONOTONIC, nanoseconds, exact to a second */
	struct record published; /* the record's word when the backend was last seen in its block */
	__u32 record;
	__u32 flags; /* enum flow_flags */
	__u32 echo;  /* exclusive or of the key's words, for the reason given at struct frontend */
	__u32 pad;
};
_Static_assert(sizeof(struct flow) == 72, "flow");

/* fragments: the ports of datagrams that are being translated, which only their first fragment has. */
struct fragment_key {
	__be32 saddr[4];
	__be32 daddr[4];
	__be32 id; /* of IPv4: 16 bits */
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct fragment_key) == 40, "fragment_key");

struct fragment {
	__u64 seen; /* CLOCK_MONOTONIC, nanoseconds */
	__be16 sport;
	__be16 dport;
	__u32 echo; /* as in struct flow */
};
_Static_assert(sizeof(struct fragment) == 16, "fragment");

/* packet_counts: what could not be done, by reason and CPU. */
enum packet_count {
	COUNT_FLOWS_FULL, /* connections refused because flows has no room */
	COUNT_NO_PORT,	  /* connections refused because the node has no port left to the backend */
	COUNT_LOST_FLOW,  /* packets dropped because they could not be translated */
	COUNT_AFFINITY_FULL, /* clients that were not remembered: affinity has no room */
	PACKET_COUNTS,
};

/* lifeline: one futex word (linux/futex.h) that the agent holds by a robust list while its DNS listener serves. The
 * kernel clears the thread id and sets FUTEX_OWNER_DIED first thing when the agent dies, several milliseconds before
 * it closes the listening socket. */
struct lifeline {
	__u32 holder; /* thread id; 0 or FUTEX_OWNER_DIED: nobody serves */
	__u32 pad;
};
_Static_assert(sizeof(struct lifeline) == 8, "lifeline");

/* dns_answers: what the agent has published, by question. The hash is of the name as it is on the wire, with letters folded to
 * lower case, and of a secret, so that nobody can choose names that meet. */
struct answer_key {
	__u64 hash[2];
	__u16 type; /* in host order; 0: the entry is about the name itself */
	__u16 pad;
	__u32 scope;
};
_Static_assert(sizeof(struct answer_key) == 24, "answer_key");

enum answer_flags {
	/* Of a name (type 0): types that are not entered are punted, because userspace has more. All others have no data. */
	NAME_ASK_A = 1 << 0,
	NAME_ASK_AAAA = 1 << 1,
	NAME_ASK_SRV = 1 << 2,
	NAME_ASK_ALL = 1 << 3,
	NAME_ASK_BELOW = 1 << 4, /* names below that are not entered are punted, too */
	NAME_ADDRESSES = 1 << 5, /* it has A or AAAA */
	/* Of any other. */
	ANSWER_AGED = 1 << 6, /* TTLs count down */
	/* Of both. */
	ANSWER_LARGE = 1 << 7, /* the entry is in dns_large */
};

/* What an answer begins with. Behind it are the name, folded, up to a multiple of 8, and the records as they follow the
 * question on the wire: names in them may point into it, or into them.
 *
 * The kernel may hand a deleted hash element to another key while a reader still looks at it, so the value repeats its key,
 * and it begins and ends with the same stamp, which no other value has: a reader that finds two stamps has seen two values. */
struct dns_answer {
	__u64 stamp;
	__u64 born;    /* CLOCK_MONOTONIC, nanoseconds: when the TTLs were as they are here */
	__u64 expires; /* in the same time; 0: never */
	__u32 hits;
	__u32 scope; /* of the key */
	__u16 type;  /* of the key */
	__be16 header;     /* AA, RA and the status, where a DNS header has its flags */
	__u16 bytes;	   /* of the records */
	__u16 rotate_at;   /* where, in them, those begin that may have any order */
	__u8 flags;	   /* enum answer_flags */
	__u8 name_bytes;
	__u8 ttls;	   /* how many TTLs there are to count down */
	__u8 count[3];	   /* of the records: answer, authority, additional */
	__u8 rotate_bytes; /* one of those that may have any order */
	__u8 rotate_count; /* below 2: none may */
	__u8 ttl_step[ANSWER_RECORDS]; /* where the TTLs are: how far from the records' begin, or from the TTL before */
};
_Static_assert(sizeof(struct dns_answer) == 64, "dns_answer");

struct small_answer {
	struct dns_answer head;
	__u64 data[ANSWER_BYTES / 8];
	__u64 stamp;
};
_Static_assert(sizeof(struct small_answer) == 176, "small_answer");

struct large_answer {
	struct dns_answer head;
	__u64 data[LARGE_ANSWER_BYTES / 8];
	__u64 stamp;
};
_Static_assert(sizeof(struct large_answer) == 944, "large_answer");

/* What an element of a hash takes: struct htab_elem, key and value, and since Linux 6.1 a word of bpf_mem_alloc. */
#define ELEMENT_BYTES(value) (48 + sizeof(struct answer_key) + sizeof(value) + 8)
_Static_assert(ELEMENT_BYTES(struct small_answer) <= 256, "small_answer");
_Static_assert(ELEMENT_BYTES(struct large_answer) <= 1024, "large_answer");

#define SOA_BYTES 128

/* What names the agent has all of, and who is asked for them. */
struct dns_view {
	__u64 hash[2]; /* of the domain, as of any name */
	__u64 soa[SOA_BYTES / 8]; /* the record of negative answers. Three names in it end with the domain, so with a pointer */
	__be32 server[MAX_DNS_SERVERS][4];
	__u32 servers;
	__u16 domain_bytes; /* 0: no domain */
	__u8 domain_labels;
	__u8 complete; /* what has no entry does not exist */
	__u8 soa_bytes;
	__u8 soa_ns_at;	     /* where in the record the pointer of the name server's name is */
	__u8 soa_mailbox_at; /* and that of the mailbox's */
	__u8 pad[5];
};
_Static_assert(sizeof(struct dns_view) == 288, "dns_view");

/* dns_zone: one element. The view that is not current is being written, or waits for programs that still read it. */
struct dns_zone {
	__u64 secret[4];  /* of the hashes: two to begin with, two odd ones to multiply with */
	__u64 alive;	  /* CLOCK_MONOTONIC, nanoseconds: the agent's last sign of life */
	__u32 current;	  /* 0 or 1 */
	__u32 pad;
	struct dns_view view[2];
};
_Static_assert(sizeof(struct dns_zone) == 624, "dns_zone");

/* dns_counts: what became of a pod's questions, by pod and CPU. */
enum dns_outcome {
	DNS_HIT,      /* answered */
	DNS_NEGATIVE, /* answered: there is no such name, or no such record */
	DNS_MISS,     /* not entered */
	DNS_PUNT,     /* not for a program to answer, or longer than the client takes */
	DNS_EXPIRED,  /* entered, but too old */
	DNS_OUTCOMES,
};

struct dns_counts {
	__u64 count[DNS_OUTCOMES];
};
_Static_assert(sizeof(struct dns_counts) == 40, "dns_counts");

struct address {
	__be32 addr[4];
};
_Static_assert(sizeof(struct address) == 16, "address");

/* A pin remembers where a UDP socket's datagrams for one frontend go. */
struct pin {
	__be32 vip[4];
	__be32 backend[4];
	__be16 vip_port; /* 0: the slot is free */
	__be16 backend_port;
	__u32 record;
	struct record published; /* the record's word when the backend was last seen in its block */
	__u64 last_sent;         /* CLOCK_MONOTONIC, nanoseconds */
};
_Static_assert(sizeof(struct pin) == 56, "pin");

#define PINS_PER_SOCKET 4

struct pins {
	struct pin pin[PINS_PER_SOCKET];
	__u32 next; /* slot the next new pin takes */
	__u32 last; /* slot that was used last: of two frontends with one backend, it is the one a reply answers */
	__u32 peer; /* one more than the slot of the frontend that the socket is connected to, 0: none */
	__u32 pad;
};
_Static_assert(sizeof(struct pins) == 240, "pins");

/* A socket that the reaper is to end, as its iterator writes it: see reap.bpf.c. */
struct stranded_socket {
	__u64 cookie; /* 0: none, the socket was pinned by other programs */
	__be32 own[4];
	__be32 backend[4];
	__be16 own_port;
	__be16 backend_port;
	__u32 netns; /* inode of its network namespace */
	__u32 link;  /* interface index it is bound to, 0: none */
	__u32 pad;
};
_Static_assert(sizeof(struct stranded_socket) == 56, "stranded_socket");
