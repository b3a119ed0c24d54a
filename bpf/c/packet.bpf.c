// SPDX-License-Identifier: Dual MIT/GPL
/* The packet path: what a socket hook cannot do. Programs of the links of the node and of its pods. */
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "flow.h"
#include "maps.h"
#include "nat.h"
#include "parse.h"

static __always_inline struct pod_address *pod_at(const __be32 *addr)
{
	struct address key = { .addr = { addr[0], addr[1], addr[2], addr[3] } };

	return bpf_map_lookup_elem(&pod_addresses, &key);
}

/* A frontend for clients outside. ClusterIPs are not for them (reference row B1), a load balancer's address is not this
 * node's to answer from, and nobody outside has a loopback. */
static __always_inline bool find_external(const struct packet *p, struct service *svc)
{
	struct frontend_key key = {
		.addr = { p->tuple.daddr[0], p->tuple.daddr[1], p->tuple.daddr[2], p->tuple.daddr[3] },
		.port = p->tuple.dport,
		.proto = p->tuple.proto,
	};

	if (is_loopback(key.addr) || !find_service(&key, svc))
		return false;
	if (svc->kind != FRONTEND_NODE_PORT && svc->kind != FRONTEND_HOST_PORT)
		return false;
	use_external(svc);
	return true;
}

/* Where the connection goes: its first entry but for the source, and whether the client's address stays. */
static __always_inline bool choose(const struct __sk_buff *skb, const struct service *svc, struct flow *to, bool *keep)
{
	const struct pod_address *pod;
	struct backend b = {};
	__u32 place;

	if (!pick(svc, &place, &b))
		return false;
	__builtin_memcpy(to->daddr, b.addr, sizeof(to->daddr));
	to->dport = b.port;
	*keep = svc->policy.flags & BLOCK_EXTERNAL_LOCAL;
	pod = pod_at(b.addr);
	if (pod) {
		to->link = pod->link;
		return to->link;
	}
	if (of_this_node(b.addr)) {
		/* The stack would not believe a client that has the node's address. */
		*keep = true;
		return true;
	}
	to->link = skb->ifindex;
	return !*keep; /* the answers of another node would not come by here */
}

static __always_inline void entry_of_reply(const struct __sk_buff *skb, const struct packet *p, const struct flow *request,
					   struct flow *reply)
{
	*reply = *request;
	__builtin_memcpy(reply->saddr, p->tuple.daddr, sizeof(reply->saddr));
	__builtin_memcpy(reply->daddr, p->tuple.saddr, sizeof(reply->daddr));
	reply->sport = p->tuple.dport;
	reply->dport = p->tuple.sport;
	reply->link = skb->ifindex;
	reply->flags = FLOW_REPLY;
}

/* Adds both entries, and fills in the first one's source. The second one is first: whoever adds it has the port. */
static __always_inline bool connect_flow(const struct __sk_buff *skb, const struct packet *p, struct flow *to, bool keep)
{
	const __be32 *source = keep ? p->tuple.saddr : p->tuple.daddr;
	struct flow_key key;
	struct flow reply;
	int err;

	__builtin_memcpy(to->saddr, source, sizeof(to->saddr));
	to->sport = p->tuple.sport;
	to->last_seen = bpf_ktime_get_ns();
	to->flags = FLOW_SEEN;
	turn(to, &p->tuple, &key);
	entry_of_reply(skb, p, to, &reply);
	if (!to->link)
		reply.link = 0;
	err = claim(&key, &reply, keep);
	if (err) {
		count(err == -EEXIST ? COUNT_NO_PORT : COUNT_FLOWS_FULL);
		return false;
	}
	to->sport = key.dport;
	to->echo = fold_key(&p->tuple);
	err = add_flow(&p->tuple, to);
	if (!err)
		return true;
	bpf_map_delete_elem(&flows, &key);
	/* The same packet came twice, and another processor had it first. */
	if (err == -EEXIST)
		return find_flow(&p->tuple, to);
	count(COUNT_FLOWS_FULL);
	return false;
}

/* Ingress of the node's uplink: clients outside, and backends on other nodes. */
SEC("tc")
int from_outside(struct __sk_buff *skb)
{
	struct packet p = {};
	struct service svc = {};
	struct flow to = {};
	struct flow *f;
	bool keep;

	if (skb->pkt_type != PACKET_HOST || !parse_network(skb, &p) || !parse_transport(skb, &p))
		return TC_ACT_UNSPEC;
	f = find_flow(&p.tuple, &to);
	if (f && !outlived(f, &to, &p)) {
		touch(f, &p);
		return forward(skb, &p, &to);
	}
	forget_fragment(&p);
	if (!opens(&p) || !find_external(&p, &svc))
		return TC_ACT_UNSPEC;
	/* The stack refuses what nobody listens for, as is meant. */
	if (!svc.count)
		return svc.policy.flags & BLOCK_EXTERNAL_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
	__builtin_memset(&to, 0, sizeof(to));
	to.record = svc.record;
	to.published = svc.published;
	if (!choose(skb, &svc, &to, &keep) || !connect_flow(skb, &p, &to, keep))
		return TC_ACT_SHOT;
	return forward(skb, &p, &to);
}

/* The flow of a packet that answers a client. */
static __always_inline bool answers(const struct packet *p, struct flow *to)
{
	struct flow *f = find_flow(&p->tuple, to);

	if (!f) {
		forget_fragment(p);
		return false;
	}
	touch(f, p);
	return true;
}

/* Egress of the node's uplink: the answers of the node's own sockets. */
SEC("tc")
int to_outside(struct __sk_buff *skb)
{
	struct packet p = {};
	struct flow to;

	if (!parse_network(skb, &p) || !parse_transport(skb, &p) || !answers(&p, &to) || to.link)
		return TC_ACT_UNSPEC;
	return forward(skb, &p, &to);
}

/* The same of a pod. An error that a pod sends is about what was sent to that pod: others' clients are not its business. */
static __always_inline bool pod_answers(struct __sk_buff *skb, struct packet *p, struct flow *to)
{
	return parse_transport(skb, p) && same_address(p->tuple.saddr, p->net.saddr) && answers(p, to);
}

/* Ingress of the link that leads to a pod: what the pod sends. It may not send with the address of another pod. The mark
 * is the node's to give: by ipvlan, that of the pod's socket would come here. */
SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	const struct pod_address *pod;
	struct packet p = {};
	struct flow to;

	if (!parse_network(skb, &p))
		return TC_ACT_UNSPEC;
	pod = pod_at(p.net.saddr);
	if (!pod)
		return TC_ACT_UNSPEC;
	if (pod->link != skb->ifindex)
		return TC_ACT_SHOT;
	/* Frames that to_vpc and leave_pod turn around still have the gateway's MAC. */
	if (skb->pkt_type == PACKET_OTHERHOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	skb->mark = POD_MARK | (pod->slot & POD_MARK_SLOT);
	if (pod_answers(skb, &p, &to)) {
		skb->mark = 0; /* it leaves by the link that the client came by */
		return forward(skb, &p, &to);
	}
	return TC_ACT_UNSPEC;
}

/* What no router passes on: multicast, broadcast, and IPv6's link-local addresses, by which neighbours are found. */
static __always_inline bool stays_on_link(const __be32 *addr)
{
	__u32 high = bpf_ntohl(addr[0]);

	if (is_v4(addr))
		return bpf_ntohl(addr[3]) >= 0xe0000000; /* 224.0.0.0/4 and 255.255.255.255 */
	return high >> 24 == 0xff || high >> 22 == 0xfe80 >> 6;
}

/* By the node, though an ENI would do: what is on the node, and what is said to be its business. */
static __always_inline bool by_node(const __be32 *addr)
{
	struct network net = { .prefix_bits = 128, .addr = { addr[0], addr[1], addr[2], addr[3] } };
	const __u8 *way;

	if (stays_on_link(addr))
		return false;
	if (of_this_node(addr))
		return true;
	way = bpf_map_lookup_elem(&host_networks, &net);
	return way && *way == WAY_NODE;
}

/* Egress of an ENI with ipvlan slaves, on the node: what their pods send, and what has come through the node's stack
 * and must go out now. The latter is marked. */
SEC("tc")
int to_vpc(struct __sk_buff *skb)
{
	const struct pod_address *pod, *peer;
	struct packet p = {};
	struct flow to;

	if ((skb->mark & POD_MARK) || !parse_network(skb, &p))
		return TC_ACT_UNSPEC;
	pod = pod_at(p.net.saddr);
	if (!pod)
		return TC_ACT_UNSPEC;
	/* Somebody else's address; and what leaves the node by its stack is marked. */
	if (pod->parent && pod->parent != skb->ifindex)
		return TC_ACT_SHOT;
	if (pod_answers(skb, &p, &to))
		return forward(skb, &p, &to);
	peer = pod_at(p.net.daddr);
	if (peer)
		return bpf_redirect_neigh(peer->link, NULL, 0, 0);
	if (by_node(p.net.daddr))
		return bpf_redirect(pod->link, BPF_F_INGRESS);
	return TC_ACT_UNSPEC;
}

/* Egress of an ENI that is a pod's, in the pod's namespace: what must not leave by it goes to the node as it is, where
 * from_pod sees to it. */
SEC("tc")
int leave_pod(struct __sk_buff *skb)
{
	const struct pod_address *pod;
	struct packet p = {};

	if (!parse_network(skb, &p))
		return TC_ACT_UNSPEC;
	pod = pod_at(p.net.saddr);
	if (!pod || !pod->side)
		return TC_ACT_UNSPEC;
	if (pod_at(p.net.daddr) || by_node(p.net.daddr))
		return bpf_redirect(pod->side, 0);
	if (!parse_transport(skb, &p))
		return TC_ACT_UNSPEC;
	if (!bpf_map_lookup_elem(&flows, &p.tuple)) {
		forget_fragment(&p);
		return TC_ACT_UNSPEC;
	}
	remember_fragment(&p);
	return bpf_redirect(pod->side, 0);
}

/* Nothing here uses these types by value; naming them puts them into BTF, from which Go's come. */
const enum flow_flags *go_flow_flags __attribute__((unused));
const enum way *go_way __attribute__((unused));
const enum node_address_flags *go_node_address_flags __attribute__((unused));
const enum packet_count *go_packet_count __attribute__((unused));

char LICENSE[] SEC("license") = "Dual MIT/GPL";
