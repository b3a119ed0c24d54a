package service

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// Node is what selection must know of the node it selects for.
type Node struct {
	// Name is the node's name in the cluster, lower case; endpoints that carry it are local.
	Name string
	// Zone is where the node is, for topology hints; empty when nobody has said.
	Zone string
	// DNS names the Service whose port 53 goes to the node's DNS listener while that one listens.
	DNS cluster.Name
}

// A PortID identifies a Service port in one address family: the unit that has a record of its own. Families are
// independent, so a dual-stack Service without IPv6 endpoints rejects IPv6 and serves IPv4.
type PortID struct {
	Service  cluster.Name // of a host port: podName
	Protocol cluster.Protocol
	Port     uint16 // host order
	IPv6     bool
	// Host is where a host port is reached, unspecified for the whole node; the zero value for ports of Services.
	Host netip.Addr
}

func (id PortID) String() string {
	if id.Host.IsValid() {
		return fmt.Sprintf("host port %s/%s of pod %s", netip.AddrPortFrom(id.Host, id.Port), id.Protocol, id.Service.Name)
	}
	family := "IPv4"
	if id.IPv6 {
		family = "IPv6"
	}
	return fmt.Sprintf("%s:%d/%s %s", id.Service, id.Port, id.Protocol, family)
}

// A Port is what a record serves.
type Port struct {
	ID        PortID
	Created   time.Time // of the Service: of two that claim one frontend the older has it
	Frontends []Frontend
	Block     bpf.Block
}

// A Frontend is where a Port is reached, and as what.
type Frontend struct {
	bpf.Frontend
	Kind bpf.FrontendKind
}

// Select computes the Ports of a Service, ordered by port, protocol and family. A nil, headless, ExternalName or
// foreign-proxy Service has none. Of its own slices it must be given all.
func Select(svc *cluster.Service, endpoints []*cluster.EndpointSlice, node Node) []Port {
	if svc == nil || svc.Headless || svc.ExternalName != "" || svc.NamesProxy {
		return nil
	}
	var ports []Port
	for _, sp := range svc.Ports {
		if sp.Protocol != cluster.TCP && sp.Protocol != cluster.UDP {
			continue
		}
		for _, v6 := range []bool{false, true} {
			if p := selectPort(svc, sp, v6, endpoints, node); len(p.Frontends) > 0 {
				ports = append(ports, p)
			}
		}
	}
	slices.SortFunc(ports, func(a, b Port) int { return compareID(a.ID, b.ID) })
	return ports
}

func compareID(a, b PortID) int {
	v6 := func(id PortID) int {
		if id.IPv6 {
			return 1
		}
		return 0
	}
	return cmp.Or(
		compareNames(a.Service, b.Service),
		cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(v6(a), v6(b)),
		a.Host.Compare(b.Host))
}

func selectPort(svc *cluster.Service, sp cluster.ServicePort, v6 bool, slices []*cluster.EndpointSlice, node Node) Port {
	p := Port{ID: PortID{Service: svc.Name, Protocol: sp.Protocol, Port: sp.Port, IPv6: v6}, Created: svc.Created}
	p.Frontends = frontends(svc, sp, v6)
	if len(p.Frontends) == 0 {
		return p
	}
	candidates := collect(slices, sp, v6, node.Name)
	near := nearby(candidates, node)
	p.Block = selectBackends(candidates, near, svc.InternalLocal, svc.ExternalLocal, external(p.Frontends))
	p.Block.NodeDNS = svc.Name == node.DNS && sp.Port == 53 && !v6
	return p
}

// frontends are where a Service port is reached in one family. The Service's families are those of its cluster IPs.
func frontends(svc *cluster.Service, sp cluster.ServicePort, v6 bool) (out []Frontend) {
	add := func(kind bpf.FrontendKind, addr netip.Addr, port uint16) {
		f := bpf.Frontend{Addr: netip.AddrPortFrom(addr, port), Protocol: uint8(sp.Protocol)}
		if !slices.ContainsFunc(out, func(have Frontend) bool { return have.Frontend == f }) {
			out = append(out, Frontend{f, kind})
		}
	}
	for _, ip := range svc.ClusterIPs {
		if ip.Is6() == v6 {
			add(bpf.ClusterIP, ip, sp.Port)
		}
	}
	if len(out) == 0 {
		return nil
	}
	if sp.NodePort != 0 {
		add(bpf.NodePort, wildcard(v6), sp.NodePort)
	}
	for _, ip := range externalAddrs(svc.ExternalIPs, v6) {
		add(bpf.ExternalIP, ip, sp.Port)
	}
	if restricted(svc.SourceRanges, v6) {
		return out
	}
	for _, ip := range externalAddrs(svc.LoadBalancerIPs, v6) {
		add(bpf.LoadBalancer, ip, sp.Port)
	}
	return out
}

// externalAddrs are those of one family that can be somebody's in a network. What the API server lets nobody write may
// still stand in a manifest or a status: an unspecified address would be a wildcard, a loopback one that of every pod.
func externalAddrs(addrs []netip.Addr, v6 bool) (out []netip.Addr) {
	for _, a := range addrs {
		if a.Is6() == v6 && a.IsGlobalUnicast() {
			out = append(out, a)
		}
	}
	return out
}

// restricted reports whether not every client may use the load balancer's addresses of a family. No ranges of the family
// are no restriction, and one that holds everything is none.
func restricted(ranges []netip.Prefix, v6 bool) bool {
	some := false
	for _, r := range ranges {
		if r.Addr().Is6() != v6 {
			continue
		}
		if r.Bits() == 0 {
			return false
		}
		some = true
	}
	return some
}

// external reports whether clients outside the cluster are to reach one of the frontends.
func external(frontends []Frontend) bool {
	return slices.ContainsFunc(frontends, func(f Frontend) bool { return f.Kind != bpf.ClusterIP })
}

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

// usable lists the ready candidates of a set, or else those that terminate and still serve, local ones first.
func usable(candidates []candidate, in func(candidate) bool) []netip.AddrPort {
	var ready, draining []netip.AddrPort
	for _, c := range candidates {
		switch {
		case !in(c):
		case c.ready:
			ready = append(ready, c.addr)
		case c.draining:
			draining = append(draining, c.addr)
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return draining
}

// A candidate is one address and port that some slice offers for a Service port.
type candidate struct {
	addr            netip.AddrPort
	local           bool
	ready, draining bool // draining: terminating and still serving
	// forNodes and forZones are the topology hints.
	forNodes, forZones []string
}

// rank orders copies of one candidate: ready, draining, neither.
func (c candidate) rank() int {
	switch {
	case c.ready:
		return 2
	case c.draining:
		return 1
	default:
		return 0
	}
}

// collect merges all slices of a Service, local candidates first: a local list is then a run of the cluster list and
// takes no cells of its own. One address may stand in several slices while endpoints move between them; the copy that
// is good for most wins.
func collect(endpoints []*cluster.EndpointSlice, sp cluster.ServicePort, v6 bool, node string) []candidate {
	best := map[netip.AddrPort]candidate{}
	for _, slice := range endpoints {
		for _, c := range offered(slice, sp, v6, node) {
			if have, ok := best[c.addr]; !ok || c.rank() > have.rank() {
				best[c.addr] = c
			}
		}
	}
	return slices.SortedFunc(maps.Values(best), func(a, b candidate) int {
		switch {
		case a.local == b.local:
			return a.addr.Compare(b.addr)
		case a.local:
			return -1
		default:
			return 1
		}
	})
}

// offered is what one slice offers for a Service port in one family.
func offered(slice *cluster.EndpointSlice, sp cluster.ServicePort, v6 bool, node string) (out []candidate) {
	target := targetPort(slice, sp)
	if target == 0 {
		return nil
	}
	for _, e := range slice.Endpoints {
		if e.Addr.Is6() == v6 {
			out = append(out, candidate{
				addr: netip.AddrPortFrom(e.Addr, target), local: node != "" && e.NodeName == node,
				ready: e.Ready, draining: e.Serving && e.Terminating, forNodes: e.ForNodes, forZones: e.ForZones,
			})
		}
	}
	return out
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
