// SPDX-License-Identifier: Dual MIT/GPL
/* Service translation at the socket: connect, sendmsg, recvmsg and getpeername of every process under the node's
 * cgroup root. A connection is translated once, before its first packet exists; packets then cost nothing. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/errno.h>
#include <stdbool.h>

#include "lb.h"
#include "listen.h"
#include "steer.h"

#define ALLOW 1
#define REFUSE 0

const volatile __u64 host_netns_cookie;
const volatile __u8 have_set_retval;

/* The peer of a socket call, in the form of the maps. */
struct peer {
	__be32 addr[4];
	__be16 port;
};

/* Who calls. */
struct caller {
	__u64 cookie; /* of the network namespace */
	const struct pod *pod;
};

static __always_inline struct caller get_caller(struct bpf_sock_addr *ctx)
{
	struct pod_key key = { .netns_cookie = bpf_get_netns_cookie(ctx) };

	return (struct caller){ .cookie = key.netns_cookie, .pod = bpf_map_lookup_elem(&pods, &key) };
}

static __always_inline bool by_packets(const struct caller *who)
{
	return who->pod && (who->pod->flags & POD_BY_PACKETS);
}

/* The cluster's DNS is the node's listener. Packets of pods are looked at again on their way: of a pod, the packet path decides
 * whether the listener serves. For the node's own sockets it is decided here, anew for every call, by the agent's lifeline
 * and by looking for the listening socket itself: when either is gone, the very next query goes to the cluster's DNS. */
static __always_inline bool node_dns(struct bpf_sock_addr *ctx, const struct caller *who, bool v4, struct backend *b)
{
	if (!get_node_dns(v4, b))
		return false;
	if (who->cookie != host_netns_cookie)
		return who->pod;
	return agent_alive() && listens(ctx, v4);
}

/* The address that the socket is bound to; false if to none. A v6 hook serves v4-mapped addresses, too. */
static __always_inline bool bound_to(struct bpf_sock_addr *ctx, bool v6, __be32 *addr)
{
	struct bpf_sock *sk = ctx->sk;

	if (v6) {
		addr[0] = sk->src_ip6[0];
		addr[1] = sk->src_ip6[1];
		addr[2] = sk->src_ip6[2];
		addr[3] = sk->src_ip6[3];
	} else {
		addr[0] = addr[1] = 0;
		addr[2] = bpf_htonl(0xffff);
		addr[3] = sk->src_ip4;
	}
	return !is_unspecified(addr);
}

/* Anybody may bind a socket to anybody's address (IP_FREEBIND in ip(7)). */
static __always_inline bool has_address(const struct caller *who, const __be32 *addr)
{
	struct address key = { .addr = { addr[0], addr[1], addr[2], addr[3] } };
	const struct pod_address *pod;

	if (who->cookie == host_netns_cookie)
		return of_this_node(addr);
	pod = bpf_map_lookup_elem(&pod_addresses, &key);
	return pod && pod->netns_cookie == who->cookie;
}

/* The address that packets of the caller would have. Of a caller that nobody has told us about it is not known: then the
 * result is false, and the address is one that tells it from the others. */
static __always_inline bool client_address(struct bpf_sock_addr *ctx, const struct caller *who, bool v4, bool v6, __be32 *addr)
{
	const struct pod *pod = who->pod;

	if (bound_to(ctx, v6, addr) && is_v4(addr) == v4 && !is_loopback(addr) && has_address(who, addr))
		return true;
	addr[0] = addr[1] = 0;
	addr[2] = bpf_htonl(0xffff);
	if (pod && v4) {
		addr[3] = pod->addr4;
		if (addr[3])
			return true;
	}
	if (pod && !v4) {
		__builtin_memcpy(addr, pod->addr6, sizeof(pod->addr6));
		if (addr[0] | addr[1] | addr[2] | addr[3])
			return true;
	}
	addr[0] = addr[1] = 0;
	addr[2] = who->cookie >> 32;
	addr[3] = who->cookie;
	return false;
}

static __always_inline bool on_loopback(struct bpf_sock_addr *ctx, bool v6)
{
	const __be32 v4_loopback = bpf_htonl(0x7f000000), v4_mask = bpf_htonl(0xff000000);
	struct bpf_sock *sk = ctx->sk;

	if (!v6)
		return (sk->src_ip4 & v4_mask) == v4_loopback;
	if (sk->src_ip6[0] || sk->src_ip6[1])
		return false;
	if (sk->src_ip6[2])
		return sk->src_ip6[2] == bpf_htonl(0xffff) && (sk->src_ip6[3] & v4_mask) == v4_loopback;
	return sk->src_ip6[3] == bpf_htonl(1);
}

/* From a loopback address no packet gets off the node, nor to a pod (reference row K16). */
static __always_inline bool cannot_reach(struct bpf_sock_addr *ctx, bool v6, const struct backend *b)
{
	return on_loopback(ctx, v6) && !is_loopback(b->addr) && !of_this_node(b->addr);
}

#define PLACE_V6 8 /* beside what is in policy for affine_place */
#define PLACE_RESTRICTED 16
#define LOST -4 /* beside NOBODY */

/* The place of a backend where it depends on who asks, or NOBODY or LOST. A global function, see compare; its numbers are those of
 * affine_place. */
__attribute__((noinline)) int place_for(struct bpf_sock_addr *ctx, __u64 record_and_block, __u64 first_and_count, __u64 policy)
{
	const struct service svc = AFFINE_SERVICE;
	struct caller who = get_caller(ctx);
	__be32 client[4];
	bool known = client_address(ctx, &who, svc.policy.backend_cells == BACKEND_CELLS_V4, policy & PLACE_V6, client);

	/* Packets show whose they are. */
	if ((policy & PLACE_RESTRICTED) && (!known || !admits(&svc, client)))
		return LOST;
	return svc.policy.affinity_seconds ? pick_affine(&svc, client) : pick(&svc);
}

static __always_inline int place_of_client(struct bpf_sock_addr *ctx, const struct service *svc, bool v6)
{
	const struct block_policy *p = &svc->policy;

	if (!p->affinity_seconds && !restricted(svc))
		return pick(svc);
	return place_for(ctx, (__u64)svc->record << 32 | svc->published.block, (__u64)svc->first << 32 | svc->count,
			 (__u64)p->affinity_seconds << 32 | (__u32)p->backend_cells << 8 | svc->local | (v6 ? PLACE_V6 : 0) |
				 (restricted(svc) ? PLACE_RESTRICTED : 0));
}

static __always_inline enum decision choose(struct bpf_sock_addr *ctx, const struct caller *who, const struct service *svc,
					    bool v6, struct backend *b)
{
	int place;

	if ((svc->policy.flags & BLOCK_NODE_DNS) && node_dns(ctx, who, svc->policy.backend_cells == BACKEND_CELLS_V4, b))
		return DECIDE_BACKEND;
	place = place_of_client(ctx, svc, v6);
	if (place == LOST)
		return DECIDE_DROP;
	if (place < 0 || !read_backend(svc, place, b))
		return svc->drop ? DECIDE_DROP : DECIDE_REJECT;
	return cannot_reach(ctx, v6, b) ? DECIDE_PASS : DECIDE_BACKEND;
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
static __always_inline void forget(struct bpf_sock_addr *ctx, const struct peer *backend, bool connects)
{
	struct pins *pins = bpf_sk_storage_get(&socket_pins, ctx->sk, 0, 0);

	if (!pins)
		return;
	if (connects)
		pins->peer = 0;
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

/* A pin holds while its backend serves and the socket is not silent for long; one comparison tells when nothing was
 * published since. */
static __always_inline bool pin_holds(struct pin *pin, const struct service *svc, __u64 now)
{
	if (pin->record != svc->record || now - pin->last_sent > PIN_SECONDS * SECOND)
		return false;
	if (pin->published.block == svc->published.block && pin->published.sequence == svc->published.sequence)
		return true;
	if (!serves(svc, pin->backend, pin->backend_port))
		return false;
	pin->published = svc->published;
	return true;
}

/* The slot of the frontend that the socket is connected to is not taken for others. */
static __always_inline __u32 new_slot(struct pins *pins)
{
	__u32 slot = pins->next++ % PINS_PER_SOCKET;

	if (slot + 1 == pins->peer)
		slot = pins->next++ % PINS_PER_SOCKET;
	return slot;
}

/* A socket that connects starts anew: what it sent before to other frontends is not its business any more. */
static __always_inline void keep_only(struct pins *pins, __u32 slot)
{
	for (__u32 i = 0; i < PINS_PER_SOCKET; i++)
		if (i != slot)
			pins->pin[i].vip_port = 0;
	pins->peer = slot + 1;
}

/* Datagrams of one socket to one frontend stay on one backend, by the socket's pins. TCP has none. */
static __always_inline enum decision choose_pinned(struct bpf_sock_addr *ctx, const struct caller *who, const struct peer *vip,
						   const struct service *svc, bool v6, bool connects, struct backend *b)
{
	struct pins *pins = NULL;
	__u32 slot = PINS_PER_SOCKET;
	__u64 now = 0;

	if (ctx->protocol == IPPROTO_UDP)
		pins = bpf_sk_storage_get(&socket_pins, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (pins) {
		now = bpf_ktime_get_ns();
		slot = find_pin(pins, vip);
	}
	if (pins && slot < PINS_PER_SOCKET && !(svc->policy.flags & BLOCK_NODE_DNS) && pin_holds(&pins->pin[slot], svc, now)) {
		__builtin_memcpy(b->addr, pins->pin[slot].backend, sizeof(b->addr));
		b->port = pins->pin[slot].backend_port;
	} else {
		enum decision d = choose(ctx, who, svc, v6, b);

		if (d != DECIDE_BACKEND || !pins)
			return d;
		if (slot >= PINS_PER_SOCKET) {
			slot = new_slot(pins);
			bpf_get_socket_cookie(ctx); /* gives it one, by which the reaper tells it from others */
		}
		write_pin(&pins->pin[slot], vip, svc, b);
	}
	pins->pin[slot].last_sent = now;
	pins->last = slot;
	if (connects)
		keep_only(pins, slot);
	return DECIDE_BACKEND;
}

/* What has no frontend. connect() of UDP sends nothing, and programs use it to ask for their own address: such a socket
 * hears of a closed port when it sends, as under kube-proxy, by the packet path. So does whom nobody may answer. */
static __always_inline enum decision no_service(struct bpf_sock_addr *ctx, const struct peer *peer, bool connects)
{
	struct caller who;

	if (ctx->protocol == IPPROTO_UDP)
		forget(ctx, peer, connects);
	if (ctx->protocol != IPPROTO_TCP || !is_service_address(peer->addr))
		return DECIDE_PASS;
	who = get_caller(ctx);
	return by_packets(&who) ? DECIDE_PASS : DECIDE_REJECT;
}

static __always_inline enum decision translate(struct bpf_sock_addr *ctx, struct peer *peer, bool v6, bool connects)
{
	struct service svc = {};
	struct backend b = {};
	struct caller who;
	enum decision d;

	/* A pod's loopback is its own, though the node answers on one, too. */
	if ((is_loopback(peer->addr) && bpf_get_netns_cookie(ctx) != host_netns_cookie) ||
	    !find_service(peer->addr, peer->port, ctx->protocol, &svc))
		return no_service(ctx, peer, connects);
	who = get_caller(ctx);
	if (by_packets(&who))
		return DECIDE_PASS;
	use_internal(&svc);
	d = choose_pinned(ctx, &who, peer, &svc, v6, connects, &b);
	if (d == DECIDE_BACKEND) {
		__builtin_memcpy(peer->addr, b.addr, sizeof(peer->addr));
		peer->port = b.port;
	}
	return d;
}

/* What the socket's owner must see instead of a backend: the frontend it talked to, if the socket has a pin that
 * says so. */
static __always_inline bool untranslate(struct bpf_sock_addr *ctx, struct peer *peer, bool connected)
{
	struct pins *pins = bpf_sk_storage_get(&socket_pins, ctx->sk, 0, 0);
	__u32 first;

	if (!pins)
		return false;
	first = connected && pins->peer ? pins->peer - 1 : pins->last;
	for (__u32 i = 0; i < PINS_PER_SOCKET; i++) {
		struct pin *pin = &pins->pin[(first + i) % PINS_PER_SOCKET];

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

static __always_inline int to_backend(struct bpf_sock_addr *ctx, bool v6, bool connects)
{
	struct peer peer = get_peer(ctx, v6);

	asm volatile("" : : "r"(&peer) : "memory"); /* it is to be kept as it is, and not each word for itself: the stack is short */
	switch (translate(ctx, &peer, v6, connects)) {
	case DECIDE_PASS:
	case DECIDE_DROP: /* no errno says "lost": the packet path drops what is sent (reference row D6) */
		return ALLOW;
	case DECIDE_REJECT:
		if (refuse(&peer))
			return REFUSE;
		break;
	case DECIDE_BACKEND:
		break;
	}
	set_peer(ctx, &peer, v6);
	return ALLOW;
}

static __always_inline int to_frontend(struct bpf_sock_addr *ctx, bool v6, bool connected)
{
	struct peer peer = get_peer(ctx, v6);

	if (untranslate(ctx, &peer, connected))
		set_peer(ctx, &peer, v6);
	return ALLOW;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, false, true);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, true, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, false, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, true, false);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return to_frontend(ctx, false, false);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return to_frontend(ctx, true, false);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return to_frontend(ctx, false, true);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return to_frontend(ctx, true, true);
}

/* Nothing here uses these types by value; naming them puts them into BTF, from which Go's come. */
const enum frontend_kind *go_frontend_kind __attribute__((unused));
const enum block_flags *go_block_flags __attribute__((unused));
const struct block_head *go_block_head __attribute__((unused));
const struct block_policy *go_block_policy __attribute__((unused));
const struct block_more *go_block_more __attribute__((unused));
const enum pod_flags *go_pod_flags __attribute__((unused));
const struct backend_cell *go_backend_cell __attribute__((unused));
const struct dns_answer *go_dns_answer __attribute__((unused));
const struct dns_view *go_dns_view __attribute__((unused));

char LICENSE[] SEC("license") = "Dual MIT/GPL";
