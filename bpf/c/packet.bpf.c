// SPDX-License-Identifier: Dual MIT/GPL
/* The packet path: what a socket hook cannot do. Programs of the links of the node and of its pods. */
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "dns.h"
#include "flow.h"
#include "maps.h"
#include "nat.h"
#include "open.h"
#include "own.h"
#include "parse.h"
#include "policy.h"
#include "reject.h"

/* What becomes of a packet that does not go to a backend. */
static __always_inline int refuse(struct __sk_buff *skb, enum decision d, __u64 way)
{
	if (d == DECIDE_REJECT)
		return reject(skb, way);
	return d == DECIDE_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Ingress of the node's uplink: clients outside, and backends on other nodes. */
SEC("tc")
int from_outside(struct __sk_buff *skb)
{
	struct moment *m = this_moment();
	enum decision d;

	/* What from_pod says to have come by here has the MAC of another link. */
	if (skb->pkt_type == PACKET_OTHERHOST && skb->mark == POD_MARK) {
		bpf_skb_change_type(skb, PACKET_HOST);
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	if (skb->pkt_type != PACKET_HOST || !m || !parse_network(skb, &m->p) || !parse_transport(skb, &m->p))
		return TC_ACT_UNSPEC;
	d = find_or_begin(skb, m, CLIENT_OUTSIDE, NULL);
	return d == DECIDE_BACKEND ? forward(skb) : refuse(skb, d, 0);
}

/* Egress of the node's uplink: the node's own sockets, as servers and as clients. */
SEC("tc")
int to_outside(struct __sk_buff *skb)
{
	struct moment *m = this_moment();
	enum decision d;
	int verdict;

	if (skb->ingress_ifindex || !m || !parse_network(skb, &m->p) || !parse_transport(skb, &m->p))
		return TC_ACT_UNSPEC;
	d = find_or_begin(skb, m, CLIENT_NODE, NULL);
	if (d != DECIDE_BACKEND)
		return refuse(skb, d, BPF_F_INGRESS);
	if (m->to.link == skb->ifindex)
		m->to.link = 0;
	verdict = forward(skb);
	if (verdict != TC_ACT_UNSPEC || !of_this_node(m->to.daddr))
		return verdict;
	return turn_frame(skb) ? bpf_redirect(skb->ifindex, BPF_F_INGRESS) : lose();
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

/* Ingress of an ENI of pods: backends on other nodes. */
SEC("tc")
int from_vpc(struct __sk_buff *skb)
{
	struct moment *m = this_moment();

	if (skb->pkt_type != PACKET_HOST || !m || !parse_network(skb, &m->p) || !parse_transport(skb, &m->p) || !answers(&m->p, &m->to))
		return TC_ACT_UNSPEC;
	return forward(skb);
}

/* What a pod sends. An error is about what was sent to that pod: others' clients are not its business. */
static __always_inline bool parse_pods(struct __sk_buff *skb, struct packet *p)
{
	return parse_transport(skb, p) && same_address(p->tuple.saddr, p->net.saddr);
}

/* Answers the node itself, as if by the link that it asked by. */
static __always_inline int to_node(struct __sk_buff *skb, const struct packet *p, const struct flow *to)
{
	if (!rewrite(skb, p, to))
		return lose();
	remember_fragment(p);
	skb->mark = POD_MARK;
	return bpf_redirect(to->link, BPF_F_INGRESS);
}

/* Whether somebody is asked for names, and the answer may be at hand. */
static __always_inline bool asks_names(const struct packet *p)
{
	return p->tuple.proto == IPPROTO_UDP && p->tuple.dport == bpf_htons(DNS_PORT) && p->net.part == WHOLE && !p->inner;
}

/* Ingress of the link that leads to a pod: what the pod sends. It may not send with an address that is not its own. The mark
 * is the node's to give: by ipvlan, that of the pod's socket would come here. */
SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	const struct pod_address *pod;
	bool turned = skb->pkt_type == PACKET_OTHERHOST;
	struct moment *m = this_moment();
	enum decision d;
	enum dns_judged dns;
	bool here; /* ipvlan's are judged where they come from, but for what is translated here */
	int verdict;

	if (!m || !parse_network(skb, &m->p))
		return unread(skb, false);
	pod = sender(m);
	if (!pod)
		return stray(skb);
	if (pod->link != skb->ifindex)
		return TC_ACT_SHOT;
	here = !pod->parent || pod->parent == pod->link;
	/* Frames that to_vpc and leave_pod turn around, when they have no answer, still have the gateway's MAC. */
	if (turned)
		bpf_skb_change_type(skb, PACKET_HOST);
	skb->mark = POD_MARK | (pod->slot & POD_MARK_SLOT);
	if (!parse_pods(skb, &m->p))
		return !here || passes(skb, pod->number, 0) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
	dns = asks_names(&m->p) && !turned ? judge_dns(pod->number) : DNS_MAY_GO_ON;
	if (dns == DNS_REFUSED)
		return TC_ACT_SHOT;
	if (dns == DNS_MAY_ANSWER) {
		verdict = answer_dns(skb, pod->scope, pod->number, pod->parent == pod->link ? TO_PEER : 0);
		if (verdict != TC_ACT_UNSPEC)
			return verdict;
	}
	d = find_or_begin(skb, m, CLIENT_POD, pod);
	if (d == DECIDE_BACKEND ? !passes(skb, pod->number, JUDGE_PORTS | JUDGE_TRANSLATED) :
				  d == DECIDE_PASS && here && !passes(skb, pod->number, JUDGE_PORTS))
		return TC_ACT_SHOT;
	if (d != DECIDE_BACKEND)
		return refuse(skb, d, 0);
	if ((m->to.flags & (FLOW_NODE | FLOW_REPLY)) == (FLOW_NODE | FLOW_REPLY))
		return to_node(skb, &m->p, &m->to);
	if (m->to.link)
		skb->mark = 0; /* it does not leave by the pod's ENI */
	return forward(skb);
}

/* Egress of the link that leads to a pod: what the node's own sockets answer and what the stack has changed on its way is translated.
 * What other pods send is marked, and has been. */
SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	__u32 how = JUDGE_IN | (skb->ingress_ifindex ? 0 : JUDGE_NODE_PATH), link = skb->ifindex;
	struct moment *m = this_moment();
	const struct pod_link *l;

	if ((skb->mark & ANSWER_MARK) == ANSWER_MARK)
		return TC_ACT_UNSPEC;
	if (!m || !parse_network(skb, &m->p))
		return odd_passes(skb) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
	if (parse_transport(skb, &m->p)) {
		how |= JUDGE_PORTS;
		if (!(skb->mark & POD_MARK) && answers(&m->p, &m->to) && (m->to.flags & FLOW_POD) && (!m->to.link || m->to.link == link))
			how |= JUDGE_TRANSLATED;
	}
	l = policy_off ? NULL : bpf_map_lookup_elem(&pod_links, &link);
	if (l && l->link == link && !passes(skb, l->number, how))
		return TC_ACT_SHOT;
	if (!(how & JUDGE_TRANSLATED))
		return TC_ACT_UNSPEC;
	m->to.link = 0;
	return forward(skb);
}

/* By the node, though an ENI would do: what is on the node, and what is said to be its business. */
static __always_inline bool by_node(const __be32 *addr)
{
	return !stays_on_link(addr) && (of_this_node(addr) || way_to(addr) == WAY_NODE);
}

/* What a program of an ENI answers itself comes in by it, and policy has nothing to do with it. */
static __always_inline int answered(struct __sk_buff *skb, int verdict)
{
	if (verdict == TC_ACT_REDIRECT)
		skb->mark = ANSWER_MARK;
	return verdict;
}

/* Answers a pod that has an ENI under it. */
static __always_inline int ask_by_eni(struct __sk_buff *skb, const struct moment *m, const struct pod_address *pod)
{
	enum dns_judged dns = asks_names(&m->p) ? judge_dns(pod->number) : DNS_MAY_GO_ON;

	if (dns == DNS_REFUSED)
		return TC_ACT_SHOT;
	return dns == DNS_MAY_ANSWER ? answered(skb, answer_dns(skb, pod->scope, pod->number, BPF_F_INGRESS)) : TC_ACT_UNSPEC;
}

/* Whether what was decided of a packet is what the pod's policy allows. */
static __always_inline bool passes_to_eni(struct __sk_buff *skb, const struct pod_address *pod, enum decision d, bool ports)
{
	__u32 how = JUDGE_LINK | (ports ? JUDGE_PORTS : 0) | (d == DECIDE_BACKEND ? JUDGE_TRANSLATED : 0);

	return (d != DECIDE_PASS && d != DECIDE_BACKEND) || passes(skb, pod->number, how);
}

/* Egress of an ENI with ipvlan slaves, on the node: what their pods send, and what has come through the node's stack
 * and must go out now. The latter is marked. */
SEC("tc")
int to_vpc(struct __sk_buff *skb)
{
	const struct pod_address *pod, *peer;
	struct moment *m = this_moment();
	enum decision d = DECIDE_PASS;
	bool ports;
	int verdict;

	if ((skb->mark & POD_MARK) || !m || !parse_network(skb, &m->p))
		return TC_ACT_UNSPEC;
	pod = sender(m);
	if (!pod)
		return TC_ACT_UNSPEC;
	/* Somebody else's address; and what leaves the node by its stack is marked. */
	if (pod->parent && pod->parent != skb->ifindex)
		return TC_ACT_SHOT;
	ports = parse_pods(skb, &m->p);
	if (ports) {
		verdict = ask_by_eni(skb, m, pod);
		if (verdict != TC_ACT_UNSPEC)
			return verdict;
		d = find_or_begin(skb, m, CLIENT_ENI_POD, pod);
	}
	if (!passes_to_eni(skb, pod, d, ports))
		return TC_ACT_SHOT;
	if (d == DECIDE_BACKEND) {
		if (m->to.flags & FLOW_NODE) {
			remember_fragment(&m->p); /* an answer to the node, that from_pod gives */
			return bpf_redirect(pod->link, BPF_F_INGRESS);
		}
		verdict = forward(skb);
		return verdict == TC_ACT_UNSPEC && by_node(m->to.daddr) ? bpf_redirect(pod->link, BPF_F_INGRESS) : verdict;
	}
	if (d != DECIDE_PASS)
		return answered(skb, refuse(skb, d, BPF_F_INGRESS));
	peer = pod_at(m->p.net.daddr);
	if (peer)
		return bpf_redirect_neigh(peer->link, NULL, 0, 0);
	if (by_node(m->p.net.daddr))
		return bpf_redirect(pod->link, BPF_F_INGRESS);
	return TC_ACT_UNSPEC;
}

/* Egress of an ENI that is a pod's, in the pod's namespace. What must not leave by it goes to the node as it is, where
 * from_pod sees to it. It may not send with an address that is not its own, neither here nor there. */
SEC("tc")
int leave_pod(struct __sk_buff *skb)
{
	const struct pod_address *pod;
	struct moment *m = this_moment();
	enum decision d = DECIDE_PASS;
	bool ports;
	int verdict;

	if (!m || !parse_network(skb, &m->p))
		return unread(skb, true);
	pod = sender(m);
	if (!pod)
		return stray(skb);
	if (!pod->side || another(skb, pod))
		return TC_ACT_SHOT;
	ports = parse_pods(skb, &m->p);
	if (ports) {
		verdict = ask_by_eni(skb, m, pod);
		if (verdict != TC_ACT_UNSPEC)
			return verdict;
		d = find_or_begin(skb, m, CLIENT_ENI_POD, pod);
	}
	if (d == DECIDE_PASS && (pod_at(m->p.net.daddr) || by_node(m->p.net.daddr)))
		return bpf_redirect(pod->side, 0);
	if (d == DECIDE_BACKEND && (m->to.link || (m->to.flags & FLOW_REPLY))) {
		remember_fragment(&m->p);
		return bpf_redirect(pod->side, 0);
	}
	if (!passes_to_eni(skb, pod, d, ports))
		return TC_ACT_SHOT;
	if (d == DECIDE_PASS)
		return TC_ACT_UNSPEC;
	if (d != DECIDE_BACKEND)
		return answered(skb, refuse(skb, d, BPF_F_INGRESS));
	verdict = forward(skb);
	return verdict == TC_ACT_UNSPEC && by_node(m->to.daddr) ? bpf_redirect(pod->side, 0) : verdict;
}

/* Whether policy lets a packet in by a link of a pod's own namespace: how is what is known of it. */
static __always_inline bool passes_in(struct __sk_buff *skb, __u32 how)
{
	__u32 number = whose(skb);

	if (!number)
		return policy_off;
	return passes(skb, number, JUDGE_IN | how);
}

/* The same of a frame of which no address can be told. */
static __always_inline int enter_unread(const struct __sk_buff *skb)
{
	__u32 number = whose(skb);

	if (policy_off || (!skb->vlan_present && skb->protocol == bpf_htons(ETH_P_ARP)))
		return TC_ACT_UNSPEC;
	if (number && !isolated(number, JUDGE_IN))
		return TC_ACT_UNSPEC;
	account_policy(number, JUDGE_IN, POLICY_UNKNOWN);
	return TC_ACT_SHOT;
}

/* Ingress of an ENI that is a pod's, in the pod's namespace: what backends on other nodes answer is translated, and all is judged. */
SEC("tc")
int enter_pod(struct __sk_buff *skb)
{
	struct moment *m = this_moment();
	__u32 how = 0;

	if (skb->pkt_type == PACKET_OTHERHOST)
		return TC_ACT_UNSPEC; /* nobody's */
	if ((skb->mark & ANSWER_MARK) == ANSWER_MARK) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	if (!m || !parse_network(skb, &m->p))
		return enter_unread(skb);
	if (parse_transport(skb, &m->p))
		how = JUDGE_PORTS | (skb->pkt_type == PACKET_HOST && answers(&m->p, &m->to) ? JUDGE_TRANSLATED : 0);
	if (!passes_in(skb, how))
		return TC_ACT_SHOT;
	return how & JUDGE_TRANSLATED ? forward(skb) : TC_ACT_UNSPEC;
}

/* Whether a frame from an ipvlan link stays among those of its parent, though it be multicast and leave, too: as in
 * ipvlan_xmit_mode_l2 (drivers/net/ipvlan/ipvlan_core.c). */
static __always_inline bool stays_on_eni(struct __sk_buff *skb)
{
	struct ethhdr eth;

	return bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) || (eth.h_dest[0] & 1) || !__builtin_memcmp(eth.h_dest, eth.h_source, ETH_ALEN);
}

/* Egress of a pod's ipvlan link, in the pod's namespace. All links on an ENI have its MAC address, so nobody behind could tell whose
 * a packet is. What leaves by the ENI is judged there, where a Service's backend is known. The mark is the node's to give: packets that
 * have come through its stack are told by it. */
SEC("tc")
int leave_slave(struct __sk_buff *skb)
{
	const struct pod_address *pod;
	struct moment *m = this_moment();

	skb->mark = 0;
	if (!m || !parse_network(skb, &m->p))
		return unread(skb, true);
	pod = sender(m);
	if (!pod)
		return stray(skb);
	if (another(skb, pod))
		return TC_ACT_SHOT;
	return !stays_on_eni(skb) || passes(skb, pod->number, JUDGE_LINK | (parse_pods(skb, &m->p) ? JUDGE_PORTS : 0)) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

/* Ingress of a pod's ipvlan link, in the pod's namespace: what comes by the ENI, from the node, and from other pods on the ENI. */
SEC("tc")
int enter_slave(struct __sk_buff *skb)
{
	struct moment *m = this_moment();

	if ((skb->mark & ANSWER_MARK) == ANSWER_MARK) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	if (!m || !parse_network(skb, &m->p))
		return enter_unread(skb);
	return passes_in(skb, JUDGE_NODE_ADDRESS | (parse_transport(skb, &m->p) ? JUDGE_PORTS : 0)) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

/* Ingress of the node's loopback link: what its own sockets ask its DNS. New ones go elsewhere when nobody listens. One that asked
 * before is not told so, as that ends a resolver's work: it hears nothing, and asks again by another. */
SEC("tc")
int to_self(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__be32 to[4] = { 0, 0, bpf_htonl(0xffff), 0 };
	const struct ipv6hdr *ip6 = data + ETH_HLEN;
	const struct iphdr *ip = data + ETH_HLEN;
	const struct udphdr *udp;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		udp = (const void *)(ip + 1);
		if ((const void *)(udp + 1) > end || ip->ihl != sizeof(*ip) / 4 || ip->protocol != IPPROTO_UDP || (ip->frag_off & bpf_htons(V4_OFFSET)))
			return TC_ACT_UNSPEC;
		to[3] = ip->daddr;
	} else {
		udp = (const void *)(ip6 + 1);
		if (skb->protocol != bpf_htons(ETH_P_IPV6) || (const void *)(udp + 1) > end || ip6->nexthdr != IPPROTO_UDP)
			return TC_ACT_UNSPEC;
		__builtin_memcpy(to, &ip6->daddr, sizeof(to));
	}
	return is_node_dns(to, udp->dest) && !agent_alive() ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Nothing here uses these types by value; naming them puts them into BTF, from which Go's come. */
const enum flow_flags *go_flow_flags __attribute__((unused));
const enum way *go_way __attribute__((unused));
const enum node_address_flags *go_node_address_flags __attribute__((unused));
const enum packet_count *go_packet_count __attribute__((unused));
const enum answer_flags *go_answer_flags __attribute__((unused));
const enum dns_outcome *go_dns_outcome __attribute__((unused));
const struct dns_event *go_dns_event __attribute__((unused));
const struct policy_event *go_policy_event __attribute__((unused));
const struct interval *go_interval __attribute__((unused));
const enum interval_flags *go_interval_flags __attribute__((unused));
const enum policy_word *go_policy_word __attribute__((unused));
const enum policy_outcome *go_policy_outcome __attribute__((unused));
const enum tracked_flags *go_tracked_flags __attribute__((unused));
const enum tracked_end *go_tracked_end __attribute__((unused));

char LICENSE[] SEC("license") = "Dual MIT/GPL";
