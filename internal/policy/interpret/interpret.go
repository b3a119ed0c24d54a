// Package interpret says what policies mean for one packet, by looking at every object of the cluster for each question:
// NetworkPolicy, ClusterNetworkPolicy and Calico's. It is as plain as can be, and shares nothing with the compiler but the
// matching of selectors: the compiler is tested against it, and an operator is told its reasons.
//
// The order of all three APIs is Calico's: ClusterNetworkPolicies of tier Admin are a tier of order 1,000, NetworkPolicies are
// policies of order 1,000 in the tier "default" of order 1,000,000, and ClusterNetworkPolicies of tier Baseline are a tier of order
// 10,000,000. Without Calico that is what the other two APIs say themselves.
package interpret

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/cluster"
)

// Protocols beside those of package cluster.
const (
	ICMP   cluster.Protocol = 1
	ICMPv6 cluster.Protocol = 58
)

// A World is what verdicts depend on. It is safe for concurrent use.
type World struct {
	Snapshot *cluster.Snapshot
	// Local is who has the addresses of this node's pods, also such as the API does not know yet. What an object says of one of
	// them is not believed.
	Local map[netip.Addr]cluster.Name
	// Node are the addresses of this node: it and its pods reach each other whatever policies say, as other nodes and theirs do.
	Node []netip.Addr
	// Listeners are the addresses of the node's DNS, and DNS the Service whose backends it stands for: what goes there to port
	// 53 counts as going to any of them, and as going there.
	Listeners []netip.Addr
	DNS       cluster.Name
	// Domain returns the addresses that a name led to, which may begin with "*."; nil for a cluster without such rules.
	Domain func(name string) []netip.Addr
}

// A Question is about what opens a connection, or a packet without one.
type Question struct {
	Pod      cluster.Name // whose policies are asked
	Ingress  bool         // the packet is for the pod, else it is the pod's
	Peer     netip.Addr   // the other end; of a Service, the backend
	Protocol cluster.Protocol
	// Port is that of the packet's destination, in host order; of ICMP and ICMPv6, type<<8 | code; of protocols without ports, 0.
	Port uint16
}

// A Reason is what has decided.
type Reason uint8

// The reasons.
const (
	NotIsolated Reason = iota // no rule matched, and no policy wants another end
	ByRule
	DefaultDeny // no rule of the policies matched
	OwnNode     // the node and its pods
	Itself      // the pod's own address
	NoNetwork   // there is no such pod, it is of the host network, or it has ended
)

// A Policy names an object.
type Policy struct {
	// Kind is NetworkPolicy, ClusterNetworkPolicy, or, of Calico, crd.NetworkPolicy or crd.GlobalNetworkPolicy.
	Kind string
	Name cluster.Name
}

func (p Policy) String() string {
	return p.Kind + " " + strings.TrimPrefix(p.Name.String(), "/")
}

// A Verdict is an answer. Its String is for people.
type Verdict struct {
	Allowed bool
	// Logged says that a rule with that action matched on the way.
	Logged bool
	Reason Reason
	// Policies are the one whose rule decided, or those that deny by default, in the order in which they were asked.
	Policies []Policy
	// Rule is the index of the rule that decided, from 0, in the list of the direction; with Reason ByRule only.
	Rule int

	direction string
}

func (v Verdict) String() string {
	word := "denied"
	if v.Allowed {
		word = "allowed"
	}
	switch v.Reason {
	case ByRule:
		return fmt.Sprintf("%s by %s, %s rule %d", word, v.Policies[0], v.direction, v.Rule)
	case DefaultDeny:
		names := make([]string, len(v.Policies))
		for i, p := range v.Policies {
			names[i] = p.String()
		}
		return word + " by default for " + v.direction + " of " + strings.Join(names, ", ")
	case OwnNode:
		return word + ": the pod's own node"
	case Itself:
		return word + ": the pod itself"
	case NoNetwork:
		return word + ": no pod that has a network of its own"
	}
	return word + ": not isolated for " + v.direction
}

// Verdict answers for the pod's link: policies, and what is beyond them.
func (w *World) Verdict(q Question) Verdict {
	switch {
	case w.isOwnNode(q) && !w.isDNS(q):
		return Verdict{Allowed: true, Reason: OwnNode, direction: q.direction()}
	case w.owner(q.Peer) != nil && w.owner(q.Peer).Name == q.Pod:
		return Verdict{Allowed: true, Reason: Itself, direction: q.direction()}
	}
	return w.Policies(q)
}

// isOwnNode reports whether the peer is the node that the pod is on: of another node, what the API says of its addresses.
func (w *World) isOwnNode(q Question) bool {
	pod := w.Snapshot.PolicyPod(q.Pod)
	if pod == nil || pod.Local {
		return slices.Contains(w.Node, q.Peer)
	}
	node := w.Snapshot.PolicyNode(pod.Node)
	return node != nil && slices.Contains(node.Addrs, q.Peer)
}

// Policies answers by policies alone.
func (w *World) Policies(q Question) Verdict {
	v := Verdict{Allowed: true, Reason: NotIsolated, direction: q.direction()}
	pod := w.Snapshot.PolicyPod(q.Pod)
	if pod == nil || !pod.HasNetwork() {
		v.Reason = NoNetwork
		return v
	}
	c := packet{World: w, Question: q, pod: pod, faces: w.faces(q)}
	for _, t := range w.tiers() {
		if t.decide(&c, &v) {
			break
		}
	}
	return v
}

func (q *Question) direction() string {
	if q.Ingress {
		return "ingress"
	}
	return "egress"
}

// A packet is a question and what belongs to it.
type packet struct {
	*World
	Question
	pod   *cluster.PolicyPod
	faces []face
}

// A face is a peer as a rule may see it. There is one but for the node's DNS.
type face struct {
	addr netip.Addr
	pod  *cluster.PolicyPod // that has the address, nil for none
	port uint16
}

func (w *World) face(addr netip.Addr, port uint16) face {
	return face{addr, w.owner(addr), port}
}

// owner is the pod that has the address for its own, nil for none.
func (w *World) owner(addr netip.Addr) *cluster.PolicyPod {
	if name, ok := w.Local[addr]; ok {
		if pod := w.Snapshot.PolicyPod(name); pod != nil && pod.HasNetwork() {
			return pod
		}
		return nil
	}
	return w.Snapshot.PolicyPodByIP(addr)
}

func (w *World) isDNS(q Question) bool {
	return !q.Ingress && q.Port == 53 && (q.Protocol == cluster.UDP || q.Protocol == cluster.TCP) && slices.Contains(w.Listeners, q.Peer)
}

func (w *World) faces(q Question) []face {
	faces := []face{w.face(q.Peer, q.Port)}
	if !w.isDNS(q) {
		return faces
	}
	var same, others []face
	for _, backend := range w.backends(q.Protocol) {
		f := w.face(backend.Addr(), backend.Port())
		if f.addr.Is4() == q.Peer.Is4() {
			same = append(same, f)
		} else {
			others = append(others, f)
		}
	}
	if len(same) == 0 {
		same = others
	}
	return append(faces, same...)
}

// backends are where the DNS Service's port 53 of a protocol leads.
func (w *World) backends(protocol cluster.Protocol) []netip.AddrPort {
	var list []netip.AddrPort
	service := w.Snapshot.Service(w.DNS)
	if service == nil {
		return nil
	}
	for _, port := range service.Ports {
		if port.Port != 53 || port.Protocol != protocol {
			continue
		}
		for _, slice := range w.Snapshot.Slices(w.DNS) {
			list = append(list, targets(slice, port)...)
		}
	}
	return list
}

func targets(slice *cluster.EndpointSlice, port cluster.ServicePort) (list []netip.AddrPort) {
	for _, target := range slice.Ports {
		if target.Name != port.Name || target.Protocol != port.Protocol {
			continue
		}
		for i := range slice.Endpoints {
			list = append(list, netip.AddrPortFrom(slice.Endpoints[i].Addr, target.Port))
		}
	}
	return list
}

// destination is the pod that the packet is for, nil for none, and the port there.
func (c *packet) destination(f face) (*cluster.PolicyPod, uint16) {
	if c.Ingress {
		return c.pod, c.Port
	}
	return f.pod, f.port
}

// named reports whether the packet is for the port of that name.
func (c *packet) named(f face, name string) bool {
	pod, port := c.destination(f)
	return pod != nil && slices.Contains(pod.Ports, cluster.NamedPort{Name: name, Protocol: c.Protocol, Port: port})
}
