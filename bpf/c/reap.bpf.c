// SPDX-License-Identifier: Dual MIT/GPL
/* Finds sockets that talk to nobody: connected UDP sockets whose backend serves their Service no more. Their datagrams
 * meet no hook, so nothing else can bring them to another backend; ending them makes their owners connect again.
 *
 * One walk over the storage of all sockets that ever had a pin, in every network namespace. Sockets that are not
 * connected pick anew by themselves. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "lb.h"
#include "steer.h"

#define AF_INET 2
#define AF_INET6 10
#define ESTABLISHED 1 /* TCP_ESTABLISHED, which connected UDP sockets are in, too */

/* What is read of the kernel's own structs, which are relocated at load. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

struct sock_common {
	__be32 skc_rcv_saddr;
	__be32 skc_daddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	unsigned char skc_state;
	int skc_bound_dev_if;
	struct {
		struct net *net;
	} skc_net;
	struct {
		struct {
			__be32 u6_addr32[4];
		} in6_u;
	} skc_v6_daddr, skc_v6_rcv_saddr;
	struct {
		long long counter;
	} skc_cookie;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	struct socket *sk_socket; /* NULL: closed, and not freed yet */
};

struct bpf_iter_meta {
	struct seq_file *seq;
};

#pragma clang attribute pop

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};

static __always_inline void read_peer(const struct sock *sk, __be32 *addr)
{
	const struct sock_common *c = &sk->__sk_common;

	if (c->skc_family == AF_INET) {
		addr[0] = addr[1] = 0;
		addr[2] = bpf_htonl(0xffff);
		addr[3] = c->skc_daddr;
		return;
	}
	addr[0] = c->skc_v6_daddr.in6_u.u6_addr32[0];
	addr[1] = c->skc_v6_daddr.in6_u.u6_addr32[1];
	addr[2] = c->skc_v6_daddr.in6_u.u6_addr32[2];
	addr[3] = c->skc_v6_daddr.in6_u.u6_addr32[3];
}

static __always_inline void read_own(const struct sock *sk, __be32 *addr)
{
	const struct sock_common *c = &sk->__sk_common;

	if (c->skc_family == AF_INET) {
		addr[0] = addr[1] = 0;
		addr[2] = bpf_htonl(0xffff);
		addr[3] = c->skc_rcv_saddr;
		return;
	}
	addr[0] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[0];
	addr[1] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[1];
	addr[2] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[2];
	addr[3] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[3];
}

static __always_inline bool pin_serves(const struct pin *pin)
{
	__be32 vip[4] = { pin->vip[0], pin->vip[1], pin->vip[2], pin->vip[3] };
	__be32 backend[4] = { pin->backend[0], pin->backend[1], pin->backend[2], pin->backend[3] };
	struct service svc;

	if (!find_service(vip, pin->vip_port, IPPROTO_UDP, &svc))
		return false;
	if ((svc.policy.flags & BLOCK_NODE_DNS) && is_node_dns(backend, pin->backend_port))
		return true;
	return serves(&svc, backend, pin->backend_port);
}

SEC("iter/bpf_sk_storage_map")
int stranded(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	const struct pins *pins = ctx->value;
	struct stranded_socket out = {};
	struct sock *sk = ctx->sk;
	bool lost = false;

	if (!sk || !pins)
		return 0;
	if (!sk->sk_socket || sk->sk_protocol != IPPROTO_UDP || sk->__sk_common.skc_state != ESTABLISHED)
		return 0;
	read_peer(sk, out.backend);
	out.backend_port = sk->__sk_common.skc_dport;
	for (__u32 i = 0; i < PINS_PER_SOCKET; i++) {
		const struct pin *pin = &pins->pin[i];

		if (i + 1 == pins->peer && pin->vip_port && pin->backend_port == out.backend_port &&
		    same_address(pin->backend, out.backend))
			lost = !pin_serves(pin);
	}
	if (!lost)
		return 0;
	read_own(sk, out.own);
	out.own_port = bpf_htons(sk->__sk_common.skc_num);
	out.link = sk->__sk_common.skc_bound_dev_if;
	out.netns = sk->__sk_common.skc_net.net->ns.inum;
	out.cookie = sk->__sk_common.skc_cookie.counter;
	bpf_seq_write(ctx->meta->seq, &out, sizeof(out));
	return 0;
}

const struct stranded_socket *go_stranded_socket __attribute__((unused));

char LICENSE[] SEC("license") = "Dual MIT/GPL";
