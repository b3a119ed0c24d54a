package bpf

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// A Target is what a frontend leads to.
type Target struct {
	Kind   FrontendKind
	Record uint32
}

// A NodeAddress is an address of the node, where wildcard frontends answer.
type NodeAddress struct {
	Addr netip.Addr
	// NodePorts says that those of the kind NodePort do.
	NodePorts bool
}

// Tables are what the programs decide by, as plain values. Nothing in them is of the kernel: they can be made up.
type Tables struct {
	Frontends     map[Frontend]Target
	Blocks        map[uint32]Block
	NodeAddresses []NodeAddress
	Networks      []HostNetwork
	// Affinity are the entries that count: of the epochs that the Blocks are of.
	Affinity []AffinityEntry
	// Pods are those of this node, one for each address.
	Pods []Pod
	// Host are the addresses that the node's own sockets use.
	Host []netip.Addr
	// Now is when the Tables were read, on the clock of the Affinity.
	Now time.Duration
}

// A Question is who connects to what. Protocol is an IP protocol number.
type Question struct {
	Client   netip.Addr
	To       netip.AddrPort
	Protocol uint8
	// Inside says that the client is a pod of this node, or the node itself, which Host says.
	Inside, Host bool
}

// A Decision is what becomes of a connection.
type Decision uint8

// The decisions.
const (
	Pass    Decision = iota // goes where it is addressed to
	Forward                 // to one of the backends
	Reject                  // is refused
	Drop                    // gets no answer
)

func (d Decision) String() string { return [...]string{"pass", "forward", "reject", "drop"}[d] }

// A Verdict is a decision and what it came from.
type Verdict struct {
	Decision Decision
	// Frontend is the entry that answered, with the unspecified address for a wildcard; the zero value is none.
	Frontend Frontend
	Target   Target
	// Local says that the local list counts, and not the cluster list.
	Local bool
	// Backends are those that may be chosen, one only if the client has been remembered, which Remembered says.
	Backends   []netip.AddrPort
	Remembered bool
	// NotInRanges says that it is dropped for who the client is.
	NotInRanges bool
	// AsNode says that backends see an address of the node instead of the client's: those of them that are pods of this node,
	// or elsewhere. Processes of the node see the client.
	AsNode bool
}

// Decide does what decide does in bpf/c/lb.h, but for chance, and for the node's DNS.
func (t *Tables) Decide(q Question) Verdict {
	v, ok := t.find(q)
	if !ok {
		return t.unclaimed(q)
	}
	b := t.Blocks[v.Target.Record]
	internal := q.Inside || v.Target.Kind == ClusterIP
	drop := false
	switch {
	case internal && v.Target.Kind == ClusterIP:
		v.Local, drop = b.InternalLocal, b.InternalDrop
	case !internal:
		v.Local, drop = b.ExternalLocal, b.ExternalDrop
	}
	if v.Target.Kind == LoadBalancer && len(b.SourceRanges) > 0 && !admits(b.SourceRanges, q.Client) {
		v.Decision, v.NotInRanges = Drop, true
		return v
	}
	list := b.Cluster
	if v.Local {
		list = b.Local
	}
	if v.Decision = Forward; len(list) == 0 {
		if v.Decision = Reject; drop {
			v.Decision = Drop
		}
		return v
	}
	v.Backends = slices.SortedFunc(slices.Values(list), netip.AddrPort.Compare)
	v.AsNode = q.Host || !q.Inside && (v.Target.Kind == ClusterIP || !b.ExternalLocal)
	if had, ok := t.remembered(q.Client, v.Target.Record, v.Local, list); ok {
		v.Backends, v.Remembered = []netip.AddrPort{had}, true
	}
	return v
}

// Sees reports whether a backend of a verdict sees the node instead of the client.
func (t *Tables) Sees(q Question, v Verdict, backend netip.Addr) (node bool) {
	_, here := t.nodeAddress(backend)
	return v.AsNode && (q.Host || !here)
}

// find is find_service. A pod's loopback is its own.
func (t *Tables) find(q Question) (v Verdict, ok bool) {
	addr := q.To.Addr()
	if addr.IsUnspecified() || addr.IsLoopback() && !q.Host {
		return v, false
	}
	v.Frontend = Frontend{Addr: q.To, Protocol: q.Protocol}
	node, here := t.nodeAddress(addr)
	if v.Target, ok = t.target(v.Frontend); ok {
		return v, v.Target.Kind != HostPort || addr.IsLoopback() || here
	}
	if !here {
		return Verdict{}, false
	}
	v.Frontend.Addr = netip.AddrPortFrom(netip.IPv4Unspecified(), q.To.Port())
	if addr.Is6() {
		v.Frontend.Addr = netip.AddrPortFrom(netip.IPv6Unspecified(), q.To.Port())
	}
	v.Target, ok = t.target(v.Frontend)
	return v, ok && (v.Target.Kind != NodePort || node.NodePorts)
}

// target leaves out what points to nothing.
func (t *Tables) target(f Frontend) (Target, bool) {
	target, ok := t.Frontends[f]
	if !ok {
		return Target{}, false
	}
	_, ok = t.Blocks[target.Record]
	return target, ok
}

// nodeAddress finds a node's address; who has 127.0.0.1 has 127.0.0.0/8.
func (t *Tables) nodeAddress(addr netip.Addr) (NodeAddress, bool) {
	if addr.Is4() && addr.IsLoopback() {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	i := slices.IndexFunc(t.NodeAddresses, func(n NodeAddress) bool { return n.Addr == addr })
	if i < 0 {
		return NodeAddress{}, false
	}
	return t.NodeAddresses[i], true
}

// unclaimed is what becomes of what no frontend answers.
func (t *Tables) unclaimed(q Question) Verdict {
	addr := Frontend{Addr: netip.AddrPortFrom(q.To.Addr(), 0)}
	if target, ok := t.Frontends[addr]; ok && target.Kind == ServiceAddress {
		return Verdict{Decision: Reject, Frontend: addr, Target: target}
	}
	longest := HostNetwork{Prefix: netip.PrefixFrom(q.To.Addr(), -1)}
	for _, n := range t.Networks {
		if n.Prefix.Contains(q.To.Addr()) && cmp.Compare(n.Prefix.Bits(), longest.Prefix.Bits()) > 0 {
			longest = n
		}
	}
	if longest.Prefix.IsValid() && longest.Way == WayService {
		return Verdict{Decision: Drop}
	}
	return Verdict{}
}

// remembered is the backend of a list that a client had last, by that list or else by the other one.
func (t *Tables) remembered(client netip.Addr, record uint32, local bool, list []netip.AddrPort) (had netip.AddrPort, ok bool) {
	timeout := t.Blocks[record].Affinity
	for _, e := range t.Affinity {
		if e.Client != client || e.Record != record || t.Now-e.LastUsed >= timeout || !slices.Contains(list, e.Backend) {
			continue
		}
		if e.Local == local {
			return e.Backend, true
		}
		had, ok = e.Backend, true
	}
	return had, ok
}

func admits(ranges []netip.Prefix, client netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(client) })
}
