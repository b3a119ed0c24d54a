/* SPDX-License-Identifier: Dual MIT/GPL */
#pragma once

#define SECOND 1000000000ULL

/* Default map sizes; Go may enlarge them at load. */
#define MAX_FRONTENDS 65536
#define MAX_RECORDS 65536
#define MAX_BLOCK_CELLS (1 << 19)
#define MAX_PODS 1024
#define MAX_FLOWS (1 << 18)
#define MAX_FRAGMENTED 8192
#define MAX_NODE_ADDRESSES 4096
#define MAX_LINK_ADDRESSES 256
#define MAX_HOST_NETWORKS 1024
#define MAX_AFFINITY (1 << 17)
#define MAX_SOURCE_RANGES 65536
#define MAX_GUARDED_SOURCES 65536
#define MAX_GUARDED_PORTS 4096
#define MAX_POLICY_PEERS (1 << 17)
#define MAX_POLICY_CIDRS (1 << 16)
#define MAX_POLICY_VERDICTS (1 << 18)
#define MAX_POLICY_PORTS (1 << 15)
#define MAX_TRACKED (1 << 18)
#define POLICY_EVENT_BYTES (1 << 18)

#define BLOCK_HEADER_CELLS 3
#define BLOCK_RUNS 4 /* of sorted backends */
#define BACKEND_CELLS_V4 1
#define BACKEND_CELLS_V6 3

/* Halvings that find one of twice 65535 backends, the most that a block has. */
#define SEARCH_STEPS 17

/* How long a UDP socket may be silent before its next datagram may go to another backend: what
 * net.netfilter.nf_conntrack_udp_timeout_stream is under kube-proxy. */
#define PIN_SECONDS 120

/* Where a rejected connection goes when the kernel has no bpf_set_retval (before 5.18): a port nobody listens on
 * answers ECONNREFUSED, while a plain refusal by the hook would be EPERM. tcpmux, RFC 1078. */
#define CLOSED_PORT 1

#define DNS_PORT 53

/* Answers: at most so many, of which so many large. An element of dns_answers is 256 bytes with what the kernel adds, one of
 * dns_large 1024: a word more, and the kernel would take twice that. See ELEMENT_BYTES. */
#define MAX_ANSWERS (1 << 17)
#define MAX_LARGE_ANSWERS 8192
#define ANSWER_BYTES 104
#define LARGE_ANSWER_BYTES 872
#define ANSWER_RECORDS 16

/* Addresses that DNS is asked at. */
#define MAX_DNS_SERVERS 8

/* How long after its last sign of life the agent is believed: what it has published, and that there is nothing else. The
 * cluster changes without an agent, too, and absence is what its clients would remember. */
#define ANSWER_SECONDS 3600
#define ABSENCE_SECONDS 30

/* What a UDP datagram with a question may have at most, with its header. Questions that are longer are rare. */
#define MAX_QUESTION_BYTES 512

/* RFC 1035, 2.3.4, and what every link takes in one piece: https://dnsflagday.net/2020. */
#define MAX_NAME_BYTES 255
#define MAX_LABEL_BYTES 63
#define MAX_LABELS 127
#define PLAIN_ANSWER_BYTES 512
#define EDNS_BYTES 1232

/* How long the fragments of a datagram may take to arrive: net.ipv4.ipfrag_time. */
#define FRAGMENT_SECONDS 30

/* Ports that stand for clients outside when the backend is to see the node's address. They are above those that Linux
 * gives to sockets by itself (net.ipv4.ip_local_port_range ends at 60999). */
#define FIRST_CLAIMED_PORT 61000
#define CLAIMED_PORTS (65536 - FIRST_CLAIMED_PORT)
#define CLAIM_TRIES 16

/* How long a connection without an answer has its port for sure when there is no other one: clients ask again after one
 * second and after three (RFC 6298, 2.1 and 5.5). */
#define CLAIM_SECONDS 3

/* Packets of pods carry the slot of their ENI in skb->mark, by which the node's rules choose the ENI's table. The bits
 * are those of internal/hostnet, and cmd/nearpath holds the two equal. */
#define POD_MARK 0x0800
#define POD_MARK_SLOT 0x00ff
#define POD_MARK_MASK (POD_MARK | POD_MARK_SLOT)

/* What from_pod answers itself has this mark on its way back: no pod's packet has. */
#define ANSWER_MARK (POD_MARK | 0x1000)

/* The largest point of struct interval. */
#define MAX_POINT 0xffffff

/* Halvings that find one of the intervals of a verdict, of which there are 65535 at most. */
#define INTERVAL_STEPS 16

/* How many drops of a pod are told in a second. All are counted. */
#define POLICY_EVENTS_PER_SECOND 10

/* One pod may have one in so many of the entries of tracked. */
#define TRACKED_SHARES 4

/* Ticks of the kernel's clock, of which there are 100 to 1000 in a second, that may pass before last_seen is written anew. */
#define TRACKED_TICKS 100

/* Extension headers before a packet's transport header. The standard has each once but one twice (RFC 8200, 4.1). */
#define MAX_EXTENSIONS 8
