/* SPDX-License-Identifier: Dual MIT/GPL */
/* What the maps of NetworkPolicy hold: see types.h. */
#pragma once

#include <linux/types.h>

#include "types.h"

/* policy_pods: the policy sets that a pod is isolated by, ids that the agent has given; 0: it is not isolated in that direction. */
struct policy_pod {
	__u64 ingress;
	__u64 egress;
};
_Static_assert(sizeof(struct policy_pod) == 16, "policy_pod");

/* policy_peers: the class of an address, an id that the agent has given. Which rules name the address depends on it only. */
struct policy_peer {
	__u64 class;
	__u32 echo; /* as in struct flow */
	__u32 pad;
};
_Static_assert(sizeof(struct policy_peer) == 16, "policy_peer");

/* policy_cidrs: the class of the addresses that have no class of their own, by longest prefix. */
struct policy_cidr {
	__u64 class;
	__u32 prefix_bits; /* of the key */
	__u32 echo;	   /* exclusive or of the address words of the key, which has no bits but those of the prefix */
};
_Static_assert(sizeof(struct policy_cidr) == 16, "policy_cidr");

/* policy_verdicts: what a policy set allows peers of a class. Class 0 is that of addresses without one, and what counts for
 * classes that have no verdict of their own. Without either nothing is allowed. */
struct verdict_key {
	__u64 set;
	__u64 class;
};
_Static_assert(sizeof(struct verdict_key) == 16, "verdict_key");

/* Points that are allowed, in host order. A point is protocol << 16 | port of TCP, UDP and SCTP, protocol << 16 | type << 8 | code of
 * ICMP, and protocol << 16 of others. */
struct interval {
	__u32 lo; /* and, in the upper byte, enum interval_flags */
	__u32 hi;
};
_Static_assert(sizeof(struct interval) == 8, "interval");

enum interval_flags {
	INTERVAL_LOG = 1 << 0, /* an event is sent when a connection by it begins */
};

struct verdict {
	__u32 at;    /* of more than one interval, the cell of the first */
	__u32 count; /* 0: nothing is allowed; 1: the interval is the one below */
	struct interval one;
	__u32 echo; /* exclusive or of the key's words, for the reason given at struct frontend */
	__u32 pad;
};
_Static_assert(sizeof(struct verdict) == 24, "verdict");

enum policy_word {
	POLICY_GENERATION, /* 32 bits: grows after each completed change, and what was judged before is judged anew */
	POLICY_SECRET0,	   /* of the hashes that ids are */
	POLICY_SECRET1,
	POLICY_WORDS,
};

enum tracked_flags {
	TRACKED_IN = 1 << 0,	 /* the peer has begun it */
	TRACKED_DENIED = 1 << 1, /* it was allowed once, and is no more */
};

/* What one side of a tracked connection has done. */
enum tracked_end {
	END_SEEN = 1 << 0, /* it has sent */
	END_FIN = 1 << 1,
	END_RST = 1 << 2, /* the last packet of it was a reset */
};

/* tracked: the connections of the node's pods. The key is what the pod's packets look like on its own device. */
struct tracked {
	__be32 peer[4];	  /* whom policy has judged: a Service's backend, and not its address; a client, and not who stands for it */
	__u32 point;	  /* and for what, see struct interval */
	__u32 generation; /* in which it was */
	__u64 last_seen;  /* CLOCK_MONOTONIC, nanoseconds, exact to a second */
	__u32 ticks;	  /* the lower half of the kernel's tick counter at that time */
	__u32 echo;	  /* exclusive or of the key's words, for the reason given at struct frontend */
	__u16 number;	  /* of the pod */
	__u8 flags;	  /* enum tracked_flags; a change of these replaces the element */
	__u8 end[2];	  /* enum tracked_end, of the pod and of the peer; each is written by packets of that side only */
	__u8 pad[3];
};
_Static_assert(sizeof(struct tracked) == 48, "tracked");

/* policy_shares: by the pod's number. */
struct policy_share {
	__u64 tracked;	  /* entries that the pod has, about: the agent puts it right */
	__u64 since;	  /* CLOCK_MONOTONIC, nanoseconds: when a second of events began */
	__u64 events;	  /* sent in that second */
	__u64 suppressed; /* events that were not sent, of all time */
};
_Static_assert(sizeof(struct policy_share) == 32, "policy_share");

/* policy_counts: by the pod's number and CPU, ingress and egress. */
enum policy_outcome {
	POLICY_ALLOWED, /* connections that began, and packets that are not of one */
	POLICY_DENIED,	/* packets that no rule allows */
	POLICY_UNKNOWN, /* packets that cannot be judged: fragments of unknown datagrams, headers that are cut off or not known */
	POLICY_FULL,	/* connections that were refused because tracked, or the pod's part of it, is full */
	POLICY_LOGGED,	/* of events only: a connection that began by a rule that says so */
	POLICY_OUTCOMES = POLICY_LOGGED,
};

struct policy_counts {
	__u64 ingress[POLICY_OUTCOMES];
	__u64 egress[POLICY_OUTCOMES];
};
_Static_assert(sizeof(struct policy_counts) == 64, "policy_counts");

struct pod_link {
	__u32 link; /* the key, for the reason given at struct frontend */
	__u32 number;
};
_Static_assert(sizeof(struct pod_link) == 8, "pod_link");

/* policy_events: packets that were dropped, and connections that rules want to be told of. */
struct policy_event {
	__u64 time; /* CLOCK_MONOTONIC, nanoseconds */
	__u64 set;
	__u64 class;
	__u64 suppressed; /* see struct policy_share */
	__be32 pod[4];
	__be32 peer[4]; /* whom policy has judged, see struct tracked */
	__u32 point;
	__u32 generation;
	__be16 pod_port; /* as on the pod's device; of ICMP's echo the id */
	__be16 peer_port;
	__u16 number; /* of the pod */
	__u8 ingress; /* direction of what was judged */
	__u8 outcome; /* enum policy_outcome */
};
_Static_assert(sizeof(struct policy_event) == 80, "policy_event");
