package service

import (
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// selectBackends makes the two lists and says who uses which. Each falls back to terminating endpoints that still serve
// on its own (KEP-1669): the local list may do so while the cluster list does not. Clients inside the cluster use the
// cluster list of what is reachable from outside, whatever the policies, as kube-proxy short-circuits them; only on the
// cluster IP the internal policy binds them.
func selectBackends(candidates []candidate, near func(candidate) bool, internalLocal, externalLocal, external bool) (b bpf.Block) {
	cluster := usable(candidates, near)
	b.InternalLocal, b.ExternalLocal = internalLocal, externalLocal && external
	if !internalLocal || external {
		b.Cluster = cluster
	}
	if b.InternalLocal || b.ExternalLocal {
		b.Local = usable(candidates, func(c candidate) bool { return c.local })
	}
	// Traffic that a Local policy cannot serve is lost, not refused, as long as somebody could have served it.
	lost := len(b.Local) == 0 && len(cluster) > 0
	b.InternalDrop, b.ExternalDrop = b.InternalLocal && lost, b.ExternalLocal && lost
	return b
}

// usable lists the ready candidates of a set, or else those that terminate and still serve.
func usable(candidates []candidate, in func(candidate) bool) []netip.AddrPort {
	ready := list(candidates, func(c candidate) bool { return c.e.Ready && in(c) })
	if len(ready) > 0 {
		return ready
	}
	return list(candidates, func(c candidate) bool { return !c.e.Ready && c.draining() && in(c) })
}

// stillServing lists what serves and is in neither list: a UDP flow ends only when its endpoint no longer serves,
// whatever policies, hints and its termination say (row G2; kube-proxy's conntrack cleanup).
func stillServing(candidates []candidate, b bpf.Block) []netip.AddrPort {
	listed := make(map[netip.AddrPort]bool, len(b.Cluster)+len(b.Local))
	for _, a := range b.Cluster {
		listed[a] = true
	}
	for _, a := range b.Local {
		listed[a] = true
	}
	return list(candidates, func(c candidate) bool { return c.e.Serving && !listed[c.addr] })
}

// list is the addresses of a set, nil for an empty one. Its memory is kept as long as the port: there is no room to spare.
func list(candidates []candidate, in func(candidate) bool) []netip.AddrPort {
	n := 0
	for _, c := range candidates {
		if in(c) {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	out := make([]netip.AddrPort, 0, n)
	for _, c := range candidates {
		if in(c) {
			out = append(out, c.addr)
		}
	}
	return out
}

// A candidate is one address and port that some slice offers for a Service port.
type candidate struct {
	addr  netip.AddrPort
	e     *cluster.Endpoint
	local bool
}

// draining reports whether it terminates and still serves.
func (c candidate) draining() bool { return c.e.Terminating && c.e.Serving }

// rank orders copies of one candidate (row A4): those that do not terminate come first, as for kube-proxy, where the rest is
// up to chance.
func (c candidate) rank() (r int) {
	for _, bad := range []bool{!c.local, !c.e.Serving, !c.e.Ready, c.e.Terminating} {
		r >>= 1
		if bad {
			r |= 8
		}
	}
	return r
}

// collect merges all slices of a Service, by address. One address may stand in several slices while endpoints move between
// them; the copy that is good for most wins, of equal ones that of the first slice by name.
func collect(endpoints []*cluster.EndpointSlice, sp cluster.ServicePort, v6 bool, node string) []candidate {
	n := 0
	for _, slice := range endpoints {
		n += len(slice.Endpoints)
	}
	all := make([]candidate, 0, n)
	for _, slice := range endpoints {
		all = offered(all, slice, sp, v6, node)
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		if c := a.addr.Compare(b.addr); c != 0 {
			return c
		}
		return a.rank() - b.rank()
	})
	return slices.CompactFunc(all, func(a, b candidate) bool { return a.addr == b.addr })
}

// offered appends what one slice offers for a Service port in one family.
func offered(to []candidate, slice *cluster.EndpointSlice, sp cluster.ServicePort, v6 bool, node string) []candidate {
	target := targetPort(slice, sp)
	if target == 0 {
		return to
	}
	for i := range slice.Endpoints {
		if e := &slice.Endpoints[i]; e.Addr.Is6() == v6 {
			to = append(to, candidate{netip.AddrPortFrom(e.Addr, target), e, node != "" && e.NodeName == node})
		}
	}
	return to
}

// targetPort is the port number a slice offers under the Service port's name, 0 for none.
func targetPort(slice *cluster.EndpointSlice, sp cluster.ServicePort) uint16 {
	if slice.Headless {
		return 0
	}
	for _, p := range slice.Ports {
		if p.Name == sp.Name && p.Protocol == sp.Protocol {
			return p.Port
		}
	}
	return 0
}

// LocalReady counts the addresses of this node's ready endpoints in each family: what health checks of a Service's node
// are told (row H1).
func LocalReady(endpoints []*cluster.EndpointSlice, node Node) (v4, v6 int) {
	seen := map[netip.Addr]bool{}
	for _, slice := range endpoints {
		if slice.Headless || len(slice.Ports) == 0 {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if !e.Ready || node.Name == "" || e.NodeName != node.Name || seen[e.Addr] {
				continue
			}
			seen[e.Addr] = true
			if e.Addr.Is6() {
				v6++
			} else {
				v4++
			}
		}
	}
	return v4, v6
}
