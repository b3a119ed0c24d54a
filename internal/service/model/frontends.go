package model

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	netutils "k8s.io/utils/net"
)

// labelProxyName hands a Service to another proxy.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// A kind is what a Service is reached by. The order is that of their claims to an address (B8).
type kind int

const (
	clusterIP kind = iota
	loadBalancer
	externalIP
	nodePort
)

// A frontend is one way to reach a port of a Service.
type frontend struct {
	kind kind
	svc  *corev1.Service
	port *corev1.ServicePort
	rows []string
	// refusesOnly is a node port at an address that nodePortAddresses leave out: in iptables mode what has no endpoint is
	// refused or dropped there all the same, by rules for all local addresses.
	refusesOnly bool
}

// find is the frontend that answers a probe. An address of its own comes before all addresses of the node, a cluster IP
// before external ones, and of one kind the older Service counts (B8).
func (r Rules) find(w *World, p Probe) (best frontend, ok bool) {
	for _, svc := range w.Services {
		for i := range svc.Spec.Ports {
			f, answers := r.answers(w, p, svc, &svc.Spec.Ports[i])
			if !answers {
				continue
			}
			if ok && !r.before(f, best) {
				best.rows = append(best.rows, "B8")
				continue
			}
			if ok {
				f.rows = append(f.rows, "B8")
			}
			best, ok = f, true
		}
	}
	return best, ok
}

func (r Rules) before(a, b frontend) bool {
	class := func(k kind) int {
		if k == loadBalancer || r.Breaks("B8 kind") && k != nodePort {
			return int(externalIP)
		}
		return int(k)
	}
	age := a.svc.CreationTimestamp.Compare(b.svc.CreationTimestamp.Time)
	if r.Breaks("B8") {
		age = -age
	}
	return cmp.Or(class(a.kind)-class(b.kind), age,
		strings.Compare(a.svc.Namespace, b.svc.Namespace), strings.Compare(a.svc.Name, b.svc.Name)) < 0
}

// answers says whether a port of a Service is reached where a probe goes, and as what.
func (r Rules) answers(w *World, p Probe, svc *corev1.Service, port *corev1.ServicePort) (frontend, bool) {
	f := frontend{svc: svc, port: port}
	protocol := cmp.Or(port.Protocol, corev1.ProtocolTCP)
	if !r.watches(w, svc) || !hasFamily(svc, p.v6()) || protocol != p.Protocol && !r.Breaks("B9") {
		return f, false
	}
	number := int32(p.To.Port())
	if number == port.Port {
		var ok bool
		if f.kind, f.rows, ok = r.at(w, p, svc, port); ok {
			return f, true
		}
	}
	if number == port.NodePort && number != 0 {
		here, row := r.isLocalPort(w, p)
		f.kind, f.rows = nodePort, []string{row}
		f.refusesOnly = !here && r.Dialect == IPTables && w.Node.has(p)
		return f, here || f.refusesOnly
	}
	return f, false
}

// has says whether an address is the node's, to the client of a probe.
func (n *Node) has(p Probe) bool {
	addr := p.To.Addr()
	return slices.Contains(n.Addresses, addr) || addr.IsLoopback() && p.Client.Kind == NodeItself
}

// at says whether a Service is reached at the address a probe goes to, by whatever but a node port (B1, B2, B5).
func (r Rules) at(w *World, p Probe, svc *corev1.Service, port *corev1.ServicePort) (kind, []string, bool) {
	addr := p.To.Addr()
	switch {
	case slices.Contains(clusterIPs(svc), addr):
		return clusterIP, []string{"B1"}, !r.Breaks("B1") || p.Client.Kind != Outside
	case slices.Contains(r.loadBalancerIPs(svc), addr):
		return loadBalancer, []string{"B5"}, port.NodePort != 0 || !r.Breaks("A10")
	case !slices.Contains(parseAddrs(svc.Spec.ExternalIPs), addr), w.NoExternalIPs && !r.Breaks("B2 gate"):
		return 0, nil, false
	case r.Breaks("E8 kind"): // then ranges apply to what is no load balancer's
		return loadBalancer, nil, true
	default:
		return externalIP, []string{"B2"}, !r.Breaks("B2")
	}
}

// watches says whether the proxy sees a Service at all (A1).
func (r Rules) watches(w *World, svc *corev1.Service) bool {
	name, labelled := svc.Labels[labelProxyName]
	if (name != w.ProxyName || labelled != (w.ProxyName != "")) && !r.Breaks("A1") {
		return false
	}
	return svc.Spec.Type != corev1.ServiceTypeExternalName || r.Breaks("A1 name")
}

// foreign says whether another proxy has the Service.
func (r Rules) foreign(w *World, svc *corev1.Service) bool {
	return !r.watches(w, svc) && svc.Spec.Type != corev1.ServiceTypeExternalName
}

// clusterIPs are those of a Service that has some: headless ones have the word None there.
func clusterIPs(svc *corev1.Service) []netip.Addr {
	if len(svc.Spec.ClusterIPs) == 0 {
		return parseAddrs([]string{svc.Spec.ClusterIP})
	}
	return parseAddrs(svc.Spec.ClusterIPs)
}

// hasFamily says whether a Service is of a family: whether it has a cluster IP there (A7).
func hasFamily(svc *corev1.Service, v6 bool) bool {
	return slices.ContainsFunc(clusterIPs(svc), func(a netip.Addr) bool { return a.Is6() == v6 })
}

// loadBalancerIPs are the addresses of load balancers that a proxy may answer in their place (B5).
func (r Rules) loadBalancerIPs(svc *corev1.Service) (out []netip.Addr) {
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP || r.Breaks("B5") {
			out = append(out, parseAddrs([]string{ingress.IP})...)
		}
	}
	if r.Breaks("A9 loadBalancerIP") {
		out = append(out, parseAddrs([]string{svc.Spec.LoadBalancerIP})...)
	}
	return out
}

// vips are a Service's addresses of load balancers and external ones.
func vips(svc *corev1.Service) []netip.Addr {
	return slices.Concat(Rules{}.loadBalancerIPs(svc), parseAddrs(svc.Spec.ExternalIPs))
}

// parseAddrs leaves out what is no address: "", "None".
func parseAddrs(texts []string) (out []netip.Addr) {
	for _, text := range texts {
		if addr, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(text)); ok {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

// parseRange reads a source range, which may have blanks around it (E8).
func parseRange(text string) netip.Prefix {
	return netip.MustParsePrefix(strings.TrimSpace(text)).Masked()
}
