// SPDX-License-Identifier: Dual MIT/GPL
/* Service translation at the socket: connect, sendmsg, recvmsg and getpeername of every process under the node's
 * cgroup root. A connection is translated once, before its first packet exists; packets then cost nothing. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/errno.h>
#include <linux/futex.h>
#include <stdbool.h>

#include "lb.h"

#define ALLOW 1
#define REFUSE 0

const volatile __u64 host_netns_cookie;
const volatile __be32 node_dns_v4; /* address of the node's DNS listener, 0: none */
const volatile __u8 have_set_retval;

enum verdict {
	PASS,      /* not a Service, or a Service whose traffic must look lost: leave the address alone */
	TRANSLATE, /* the backend is filled in */
	REJECT,    /* ECONNREFUSED */
};

/* The peer of a socket call, in the form of the maps. */
struct peer {
	__be32 addr[4];
	__be16 port;
};

static __always_inline bool listens(struct bpf_sock_addr *ctx, __u64 netns)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;

	tuple.ipv4.daddr = node_dns_v4;
	tuple.ipv4.dport = bpf_htons(DNS_PORT);
	if (ctx->protocol == IPPROTO_UDP)
		sk = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv4), netns, 0);
	else
		sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), netns, 0);
	if (!sk)
		return false;
	bpf_sk_release(sk);
	return true;
}

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

/* Steering to the node's DNS is decided anew for every call, by the agent's lifeline and by looking for the listening
 * socket itself: when either is gone, the very next query goes to the cluster's DNS. */
static __always_inline bool node_dns(struct bpf_sock_addr *ctx, struct backend *b)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);
	__u64 netns = BPF_F_CURRENT_NETNS;

	if (!node_dns_v4 || !agent_alive())
		return false;
	if (cookie != host_netns_cookie) {
		struct pod_key key = { .netns_cookie = cookie };
		struct pod *pod = bpf_map_lookup_elem(&pods, &key);

		if (!pod || pod->host_nsid < 0)
			return false;
		netns = pod->host_nsid;
	}
	if (!listens(ctx, netns))
		return false;
	b->addr[0] = 0;
	b->addr[1] = 0;
	b->addr[2] = bpf_htonl(0xffff);
	b->addr[3] = node_dns_v4;
	b->port = bpf_htons(DNS_PORT);
	return true;
}

static __always_inline bool find(struct bpf_sock_addr *ctx, const struct peer *peer, struct service *svc)
{
	struct frontend_key key = {
		.addr = { peer->addr[0], peer->addr[1], peer->addr[2], peer->addr[3] },
		.port = peer->port,
		.proto = ctx->protocol,
	};

	/* A pod's loopback is its own, though the node answers on one, too. */
	if (is_loopback(key.addr) && bpf_get_netns_cookie(ctx) != host_netns_cookie)
		return false;
	if (!find_service(&key, svc))
		return false;
	use_internal(svc);
	return true;
}

static __always_inline enum verdict choose(struct bpf_sock_addr *ctx, const struct service *svc, struct backend *b)
{
	if ((svc->policy.flags & BLOCK_NODE_DNS) && svc->policy.backend_cells == BACKEND_CELLS_V4 && node_dns(ctx, b))
		return TRANSLATE;
	if (pick(svc, b))
		return TRANSLATE;
	return svc->kind == FRONTEND_CLUSTER_IP && (svc->policy.flags & BLOCK_INTERNAL_DROP) ? PASS : REJECT;
}

/* The slot of the socket's pin for this frontend, or PINS_PER_SOCKET. */
static __always_inline __u32 find_pin(const struct pins *pins, const struct peer *vip)
{
	for (__u32 i = 0; i < PINS_PER_SOCKET; i++)
		if (pins->pin[i].vip_port == vip->port && same_address(pins->pin[i].vip, vip->addr))
			return i;
	return PINS_PER_SOCKET;
}

static __always_inline bool pins_backend(const struct pin *pin, const struct peer *backend)
{
	return pin->vip_port && pin->backend_port == backend->port && same_address(pin->backend, backend->addr);
}

/* A datagram that goes to a pod under its own address gets its answer under that, too. */
static __always_inline void forget(struct bpf_sock_addr *ctx, const struct peer *backend)
{
	struct pins *pins = bpf_sk_storage_get(&socket_pins, ctx->sk, 0, 0);

	if (!pins)
		return;
	for (__u32 i = 0; i < PINS_PER_SOCKET; i++)
		if (pins_backend(&pins->pin[i], backend))
			pins->pin[i].vip_port = 0;
}

static __always_inline void write_pin(struct pin *pin, const struct peer *vip, const struct service *svc,
				      const struct backend *b)
{
	__builtin_memcpy(pin->vip, vip->addr, sizeof(pin->vip));
	__builtin_memcpy(pin->backend, b->addr, sizeof(pin->backend));
	pin->vip_port = vip->port;
	pin->backend_port = b->port;
	pin->record = svc->record;
	pin->published = svc->published;
}

/* A pin holds while its backend is in the block; one comparison tells when nothing was published since. */
static __always_inline bool pin_holds(struct pin *pin, const struct service *svc)
{
	if (pin->record != svc->record)
		return false;
	if (pin->published.block == svc->published.block && pin->published.sequence == svc->published.sequence)
		return true;
	if (!offers(svc, pin->backend, pin->backend_port))
		return false;
	pin->published = svc->published;
	return true;
}

/* Datagrams of one socket to one frontend stay on one backend while it is offered. */
static __always_inline enum verdict choose_pinned(struct bpf_sock_addr *ctx, const struct peer *vip,
						  const struct service *svc, struct backend *b)
{
	struct pins *pins = bpf_sk_storage_get(&socket_pins, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	enum verdict v;
	struct pin *pin;
	__u32 slot;

	if (!pins)
		return choose(ctx, svc, b);
	slot = find_pin(pins, vip);
	if (slot < PINS_PER_SOCKET && !(svc->policy.flags & BLOCK_NODE_DNS)) {
		pin = &pins->pin[slot];
		if (pin_holds(pin, svc)) {
			__builtin_memcpy(b->addr, pin->backend, sizeof(b->addr));
			b->port = pin->backend_port;
			pins->last = slot;
			return TRANSLATE;
		}
	}
	v = choose(ctx, svc, b);
	if (v != TRANSLATE)
		return v;
	if (slot >= PINS_PER_SOCKET) {
		slot = pins->next++ % PINS_PER_SOCKET;
		bpf_get_socket_cookie(ctx); /* gives it one, by which the reaper tells it from others */
	}
	write_pin(&pins->pin[slot], vip, svc, b);
	pins->last = slot;
	return TRANSLATE;
}

static __always_inline enum verdict translate(struct bpf_sock_addr *ctx, struct peer *peer)
{
	struct service svc;
	struct backend b = {};
	enum verdict v;

	if (!find(ctx, peer, &svc)) {
		if (ctx->protocol == IPPROTO_UDP)
			forget(ctx, peer);
		return PASS;
	}
	if (ctx->protocol == IPPROTO_UDP)
		v = choose_pinned(ctx, peer, &svc, &b);
	else
		v = choose(ctx, &svc, &b);
	if (v == TRANSLATE) {
		__builtin_memcpy(peer->addr, b.addr, sizeof(peer->addr));
		peer->port = b.port;
	}
	return v;
}

/* What the socket's owner must see instead of a backend: the frontend it talked to, if the socket has a pin that
 * says so. */
static __always_inline bool untranslate(struct bpf_sock_addr *ctx, struct peer *peer)
{
	struct pins *pins = bpf_sk_storage_get(&socket_pins, ctx->sk, 0, 0);

	if (!pins)
		return false;
	for (__u32 i = 0; i < PINS_PER_SOCKET; i++) {
		struct pin *pin = &pins->pin[(pins->last + i) % PINS_PER_SOCKET];

		if (!pins_backend(pin, peer))
			continue;
		__builtin_memcpy(peer->addr, pin->vip, sizeof(peer->addr));
		peer->port = pin->vip_port;
		return true;
	}
	return false;
}

/* A hook serves one family, which the compiler knows: the accesses of the other one are not in the program. */
static __always_inline struct peer get_peer(const struct bpf_sock_addr *ctx, bool v6)
{
	struct peer p = { .port = (__be16)ctx->user_port };

	if (v6) {
		p.addr[0] = ctx->user_ip6[0];
		p.addr[1] = ctx->user_ip6[1];
		p.addr[2] = ctx->user_ip6[2];
		p.addr[3] = ctx->user_ip6[3];
	} else {
		p.addr[2] = bpf_htonl(0xffff);
		p.addr[3] = ctx->user_ip4;
	}
	return p;
}

static __always_inline void set_peer(struct bpf_sock_addr *ctx, const struct peer *p, bool v6)
{
	if (v6) {
		ctx->user_ip6[0] = p->addr[0];
		ctx->user_ip6[1] = p->addr[1];
		ctx->user_ip6[2] = p->addr[2];
		ctx->user_ip6[3] = p->addr[3];
	} else {
		ctx->user_ip4 = p->addr[3];
	}
	ctx->user_port = p->port;
}

/* kube-proxy rejects a Service without endpoints with ECONNREFUSED. A v6 hook also serves v4-mapped peers, so the
 * closed port is looked for on the loopback of the family in use. */
static __always_inline bool refuse(struct peer *peer)
{
	if (have_set_retval) {
		bpf_set_retval(-ECONNREFUSED);
		return true;
	}
	if (is_v4(peer->addr)) {
		peer->addr[3] = bpf_htonl(INADDR_LOOPBACK);
	} else {
		peer->addr[0] = peer->addr[1] = peer->addr[2] = 0;
		peer->addr[3] = bpf_htonl(1);
	}
	peer->port = bpf_htons(CLOSED_PORT);
	return false;
}

static __always_inline int to_backend(struct bpf_sock_addr *ctx, bool v6)
{
	struct peer peer = get_peer(ctx, v6);

	switch (translate(ctx, &peer)) {
	case PASS:
		return ALLOW;
	case REJECT:
		if (refuse(&peer))
			return REFUSE;
		break;
	case TRANSLATE:
		break;
	}
	set_peer(ctx, &peer, v6);
	return ALLOW;
}

static __always_inline int to_frontend(struct bpf_sock_addr *ctx, bool v6)
{
	struct peer peer = get_peer(ctx, v6);

	if (untranslate(ctx, &peer))
		set_peer(ctx, &peer, v6);
	return ALLOW;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, false);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, true);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return to_frontend(ctx, false);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return to_frontend(ctx, true);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return to_frontend(ctx, false);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return to_frontend(ctx, true);
}

/* Nothing here uses these types by value; naming them puts them into BTF, from which Go's come. */
const enum frontend_kind *go_frontend_kind __attribute__((unused));
const enum block_flags *go_block_flags __attribute__((unused));
const struct block_head *go_block_head __attribute__((unused));
const struct block_policy *go_block_policy __attribute__((unused));
const struct backend_cell *go_backend_cell __attribute__((unused));

char LICENSE[] SEC("license") = "Dual MIT/GPL";
