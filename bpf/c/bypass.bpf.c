// SPDX-License-Identifier: Dual MIT/GPL
/* What would let a pod's raw sockets send past the programs of its own links, in its own namespace: packet(7) without queueing
 * disciplines, and with them without the hook behind which our programs are, and XDP sockets, which have a way to the device of their own.
 * Pods whose programs are on the node need none of this. */
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "maps.h"

/* linux/socket.h is the kernel's own. */
#define SOL_PACKET 263
#define SOL_XDP 283

#define ALLOW 1
#define REFUSE 0

/* bpf_get_netns_cookie is there for programs of this kind (5.15). */
const volatile __u8 have_netns_cookie;

/* What is read of the kernel's own structs without it, relocated at load. Before 5.12 the cookie is made when somebody first asks. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct net {
	__u64 net_cookie;
};

struct net___lazy {
	struct {
		long long counter;
	} net_cookie;
};

struct sock_common {
	struct {
		struct net *net;
	} skc_net;
};

struct sock {
	struct sock_common __sk_common;
};

#pragma clang attribute pop

/* The pointer of a socket as a number: a program may hand it on and may not reckon with it. */
static __always_inline __u64 cookie_of(struct bpf_sockopt *ctx)
{
	const void *held = ctx->sk;
	const struct sock *sk = NULL;
	const struct net *net;

	bpf_probe_read_kernel(&sk, sizeof(sk), &held);
	net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
	if (bpf_core_field_exists(net->net_cookie))
		return BPF_CORE_READ(net, net_cookie);
	return BPF_CORE_READ((const struct net___lazy *)net, net_cookie.counter);
}

SEC("cgroup/setsockopt")
int refuse_bypass(struct bpf_sockopt *ctx)
{
	struct pod_key key = {};
	const struct pod *pod;

	/* Of what is longer than a page the program sees the beginning, and the kernel would believe that this is all: 0 is for what was given. */
	if (ctx->optlen > ctx->optval_end - ctx->optval)
		ctx->optlen = 0;
	if (ctx->level != SOL_XDP && (ctx->level != SOL_PACKET || ctx->optname != PACKET_QDISC_BYPASS))
		return ALLOW;
	key.netns_cookie = have_netns_cookie ? bpf_get_netns_cookie(ctx) : cookie_of(ctx);
	pod = bpf_map_lookup_elem(&pods, &key);
	return pod && (pod->flags & POD_GUARDED) ? REFUSE : ALLOW;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
