package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// Node is what selection must know of the node it selects for, and how Services are configured there.
type Node struct {
	// Name is the node's name in the cluster, lower case; endpoints that carry it are local.
	Name string
	// Zone is where the node is, for topology hints; empty when nobody has said.
	Zone string
	// Addrs are the node's own addresses in the cluster: source ranges that hold one admit the load balancer's address.
	Addrs []netip.Addr
	// DNS names the Service whose port 53 goes to the node's DNS listener while that one listens.
	DNS cluster.Name
	// DNSListener are the listener's addresses, one of each family at most.
	DNSListener []netip.Addr
	// ProxyName is the value of the label service.kubernetes.io/service-proxy-name of the Services that are served; empty for
	// those without the label.
	ProxyName string
	// NoExternalIPs leaves spec.externalIPs alone, as kube-proxy does without the feature gate AllowServiceExternalIPs.
	NoExternalIPs bool
}

// serves reports whether a Service is this proxy's (row A1).
func (n Node) serves(svc *cluster.Service) bool {
	return svc.NamesProxy == (n.ProxyName != "") && svc.ProxyName == n.ProxyName
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
	if svc == nil || svc.Headless || svc.ExternalName != "" || !node.serves(svc) {
		return nil
	}
	var ports []Port
	for _, sp := range svc.Ports {
		for _, v6 := range []bool{false, true} {
			if p := selectPort(svc, sp, v6, endpoints, node); len(p.Frontends) > 0 {
				ports = append(ports, p)
			}
		}
	}
	slices.SortFunc(ports, func(a, b Port) int { return compareID(a.ID, b.ID) })
	addAddresses(ports)
	return ports
}

// addAddresses adds to the first port of each family the Service's cluster IP itself, which makes ports that nobody serves
// refuse (row A11).
func addAddresses(ports []Port) {
	var done [2]bool
	for i := range ports {
		p := &ports[i]
		family := 0
		if p.ID.IPv6 {
			family = 1
		}
		if done[family] {
			continue
		}
		done[family] = true
		for _, f := range p.Frontends {
			if f.Kind == bpf.ClusterIP {
				address := bpf.Frontend{Addr: netip.AddrPortFrom(f.Addr.Addr(), 0)}
				p.Frontends = append(p.Frontends, Frontend{address, bpf.ServiceAddress})
			}
		}
	}
}

// dnsPort is what a listener of DNS is asked at.
const dnsPort = 53

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

func selectPort(svc *cluster.Service, sp cluster.ServicePort, v6 bool, endpoints []*cluster.EndpointSlice, node Node) Port {
	p := Port{ID: PortID{Service: svc.Name, Protocol: sp.Protocol, Port: sp.Port, IPv6: v6}, Created: svc.Created}
	p.Frontends = frontends(svc, sp, v6, node)
	if len(p.Frontends) == 0 {
		return p
	}
	candidates := collect(endpoints, sp, v6, node.Name)
	near := nearby(candidates, node)
	p.Block = selectBackends(candidates, near, svc.InternalLocal, svc.ExternalLocal, external(p.Frontends))
	if sp.Protocol == cluster.UDP {
		p.Block.Draining = stillServing(candidates, p.Block)
	}
	p.Block.Affinity = svc.Affinity
	p.Block.SourceRanges = admitted(svc.SourceRanges, p.Frontends, v6, node)
	p.Block.NodeDNS = slices.ContainsFunc(p.Frontends, func(f Frontend) bool { return f.Kind == bpf.NodeDNS })
	return p
}

// listeners are where the node's DNS listens for a Service port in one family.
func (n Node) listeners(svc *cluster.Service, sp cluster.ServicePort, v6 bool) []netip.Addr {
	if svc.Name != n.DNS || sp.Port != dnsPort {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(n.DNSListener), func(a netip.Addr) bool { return a.Is6() != v6 })
}

// frontends are where a Service port is reached in one family. The Service's families are those of its cluster IPs.
//
// An address that is both the load balancer's and an external IP is the load balancer's, whose source ranges bind it, as
// for kube-proxy with nftables.
func frontends(svc *cluster.Service, sp cluster.ServicePort, v6 bool, node Node) (out []Frontend) {
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
	for _, listener := range node.listeners(svc, sp, v6) {
		add(bpf.NodeDNS, listener, dnsPort)
	}
	if sp.NodePort != 0 {
		add(bpf.NodePort, wildcard(v6), sp.NodePort)
	}
	if !sp.NoShortcut {
		for _, ip := range externalAddrs(svc.LoadBalancerIPs, v6) {
			add(bpf.LoadBalancer, ip, sp.Port)
		}
	}
	if !node.NoExternalIPs {
		for _, ip := range externalAddrs(svc.ExternalIPs, v6) {
			add(bpf.ExternalIP, ip, sp.Port)
		}
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

// admitted are the clients that may use the load balancer's addresses of a family, nil for all: when no range is of the
// family, or one holds everything (row E8). Where a load balancer's address is on the node itself, the node's own clients
// come from that address: it is admitted when the node is.
func admitted(ranges []netip.Prefix, frontends []Frontend, v6 bool, node Node) (out []netip.Prefix) {
	if len(ranges) == 0 || !slices.ContainsFunc(frontends, isBalancer) {
		return nil
	}
	nodeToo := false
	for _, r := range ranges {
		if r.Addr().Is6() != v6 {
			continue
		}
		if r.Bits() == 0 {
			return nil
		}
		out = append(out, r)
		nodeToo = nodeToo || slices.ContainsFunc(node.Addrs, r.Contains)
	}
	if nodeToo {
		for _, f := range frontends {
			if isBalancer(f) {
				out = append(out, netip.PrefixFrom(f.Addr.Addr(), f.Addr.Addr().BitLen()))
			}
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

func isBalancer(f Frontend) bool { return f.Kind == bpf.LoadBalancer }

// external reports whether clients outside the cluster are to reach one of the frontends.
func external(frontends []Frontend) bool {
	return slices.ContainsFunc(frontends, func(f Frontend) bool { return f.Kind != bpf.ClusterIP && f.Kind != bpf.NodeDNS })
}
