package model

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// A Dialect is whose reading of the rows counts where there is more than one.
type Dialect int

// The dialects: nearpath's own, and those of kube-proxy's modes. Every place that asks for the dialect is a documented
// difference.
const (
	Nearpath Dialect = iota
	NFTables
	IPTables
)

func (d Dialect) String() string { return [...]string{"nearpath", "nftables", "iptables"}[d] }

// Rules are a reading of the rows; the zero value is nearpath's.
type Rules struct {
	Dialect Dialect
	// broken is the mutation that makes one row wrong, for tests of tests.
	broken string
}

// Decide is what becomes of a probe by nearpath's rules.
func Decide(w *World, p Probe) Verdict { return Rules{}.Decide(w, p) }

// Decide is what becomes of a probe, session affinity left aside.
func (r Rules) Decide(w *World, p Probe) Verdict {
	v, _ := r.decide(w, p)
	return v
}

// decide also returns the Service that decided.
func (r Rules) decide(w *World, p Probe) (Verdict, *corev1.Service) {
	if r.Breaks("E9") && slices.Contains(w.Node.RemotePods, p.Client.Addr) {
		p.Client.Kind = LocalPod
	}
	if r.Breaks("G1") && p.Protocol == corev1.ProtocolSCTP {
		return Verdict{Outcome: Pass, Rows: []string{"G1"}}, nil
	}
	f, ok := r.find(w, p)
	if !ok {
		return r.unclaimed(w, p), nil
	}
	v := r.serve(w, p, f)
	v.Port = PortRef{f.svc.Namespace, f.svc.Name, f.port.Port, f.port.Protocol}
	return v, f.svc
}

// unclaimed is what becomes of a probe that no frontend answers (A11, B6, D5, B9).
func (r Rules) unclaimed(w *World, p Probe) Verdict {
	addr := p.To.Addr()
	has := func(of func(*corev1.Service) []netip.Addr) func(*corev1.Service) bool {
		return func(svc *corev1.Service) bool { return slices.Contains(of(svc), addr) }
	}
	known := w.Services
	if r.Breaks("D5") {
		known = slices.Concat(known, w.Deleted)
	}
	ours := func(svc *corev1.Service) bool { return r.watches(w, svc) && has(clusterIPs)(svc) }
	foreign := func(svc *corev1.Service) bool { return r.foreign(w, svc) && has(clusterIPs)(svc) }
	reserved := slices.ContainsFunc(w.ServiceCIDRs, func(cidr netip.Prefix) bool { return cidr.Contains(addr) })
	switch {
	case r.Dialect == IPTables: // which has no rules for what is nobody's
		return Verdict{Outcome: Pass, Rows: []string{"A11"}}
	case slices.ContainsFunc(known, ours):
		if r.Breaks("A11 port") {
			return Verdict{Outcome: Drop}
		}
		return Verdict{Outcome: Reject, Rows: []string{"A11"}}
	// A difference of nearpath: what another proxy serves is left to it. kube-proxy drops it like what is nobody's.
	case r.Dialect == Nearpath && slices.ContainsFunc(w.Services, foreign):
		return Verdict{Outcome: Pass, Rows: []string{"A1"}}
	// Another: a proxy that serves only Services of its name leaves the rest of the network to the proxy that serves the others.
	case reserved && !r.Breaks("A11") && (r.Dialect != Nearpath || w.ProxyName == ""):
		return Verdict{Outcome: Drop, Rows: []string{"A11"}}
	case r.Breaks("B6") && slices.ContainsFunc(w.Services, has(vips)):
		return Verdict{Outcome: Reject}
	default:
		return Verdict{Outcome: Pass, Rows: []string{"B6"}}
	}
}

// serve is what becomes of a probe that a frontend answers.
func (r Rules) serve(w *World, p Probe, f frontend) (v Verdict) {
	if f.refusesOnly {
		p.Client.Kind = Outside
	}
	local, rows := r.usesLocal(p, f)
	v.Rows, v.local = slices.Concat(f.rows, rows), local
	lists := r.lists(w, f.svc, f.port, p.v6())
	if f.kind == loadBalancer && !r.admits(w, p, f) && (r.Dialect != IPTables || lists.any) {
		return Verdict{Outcome: Drop, Rows: append(v.Rows, "E8")}
	}
	list, why := lists.cluster, lists.clusterRows
	if local {
		list, why = lists.local, lists.localRows
	}
	if len(list) == 0 {
		var why []string
		v.Outcome, why = r.refuse(p, f, lists.any)
		v.Rows = append(v.Rows, why...)
		return v
	}
	if f.refusesOnly {
		return Verdict{Outcome: Pass, Rows: v.Rows}
	}
	masquerade, rows := r.masquerades(p, f)
	v.Outcome, v.Rows = Forward, slices.Concat(v.Rows, why, rows)
	for _, addr := range list {
		b := Backend{Addr: addr}
		switch {
		case addr.Addr() == p.Client.Addr && p.Client.Kind == LocalPod:
			b.Source, v.Rows = r.hairpin(p), append(v.Rows, "E6")
		// What stays on the node is not masqueraded, in any dialect: it does not leave by a link.
		case masquerade && (p.Client.Kind == NodeItself || !slices.Contains(w.Node.Addresses, addr.Addr())):
			b.Source = AsNode
		}
		v.Backends = append(v.Backends, b)
	}
	return v
}

// refuse is what becomes of a probe whose list is empty, by whether there are endpoints elsewhere (D1 to D4).
func (r Rules) refuse(p Probe, f frontend, elsewhere bool) (Outcome, []string) {
	outside := p.Client.Kind == Outside
	switch {
	// Its rules for external addresses are not in the chain OUTPUT.
	case r.Dialect == IPTables && p.Client.Kind == NodeItself && (f.kind == externalIP || f.kind == loadBalancer):
		return Pass, nil
	case !elsewhere && r.Breaks("D1"):
		return Drop, nil
	case !elsewhere && outside && r.Breaks("D4"):
		return Pass, nil
	case !elsewhere && outside:
		return Reject, []string{"D1", "D4"}
	case !elsewhere:
		return Reject, []string{"D1"}
	case f.kind == clusterIP && r.Breaks("D2"), f.kind != clusterIP && r.Breaks("D3"):
		return Reject, nil
	case f.kind == clusterIP:
		return Drop, []string{"D2"}
	default:
		return Drop, []string{"D3"}
	}
}

// isLocal are the Local policies of a Service.
func isLocal(svc *corev1.Service) (internal, external bool) {
	policy := svc.Spec.InternalTrafficPolicy
	return policy != nil && *policy == corev1.ServiceInternalTrafficPolicyLocal,
		svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// usesLocal says whether a client chooses from the local list (B1, E2, E3, E4).
func (r Rules) usesLocal(p Probe, f frontend) (local bool, rows []string) {
	internal, external := isLocal(f.svc)
	switch {
	case f.kind == clusterIP && r.Breaks("B1 policy") && p.Client.Kind == Outside:
		return external, nil
	case f.kind == clusterIP && r.Breaks("E3 cluster IP"):
		return internal || external, nil
	case f.kind == clusterIP && (internal || external):
		return internal, []string{"E3"}
	case f.kind == clusterIP:
		return false, nil
	case r.Breaks("E3 external") && internal:
		return true, nil
	case !external || r.Breaks("E2 list") && !p.Client.inside():
		return false, nil
	case p.Client.inside() && !r.Breaks("E4"):
		return false, []string{"E4"}
	default:
		return true, []string{"E2"}
	}
}

// masquerades says whether backends see the node (B1, E1, E2, E4), and by which row if that is not said yet.
func (r Rules) masquerades(p Probe, f frontend) (bool, []string) {
	_, external := isLocal(f.svc)
	switch {
	case p.Client.Kind == NodeItself:
		return true, nil
	case p.Client.Kind == LocalPod:
		// A difference of nearpath: kube-proxy masquerades pods, too, as it cannot tell whether the answer comes back by it.
		if r.Dialect != Nearpath && f.kind != clusterIP && !external {
			return true, []string{"E1"}
		}
		return r.Breaks("E4 source"), nil
	case f.kind == clusterIP:
		return !r.Breaks("B1 source"), nil
	case external:
		return r.Breaks("E2"), nil
	default:
		return !r.Breaks("E1"), []string{"E1"}
	}
}

// hairpin is what a pod sees that reaches itself (E6). A difference of nearpath: a socket that is told the pod's own
// address never leaves the pod.
func (r Rules) hairpin(p Probe) Source {
	if r.Dialect == Nearpath && !p.Packets || r.Breaks("E6") {
		return AsClient
	}
	return AsNode
}

// admits says whether the load balancer's source ranges let the client in (E8).
func (r Rules) admits(w *World, p Probe, f frontend) bool {
	if r.Breaks("E8") || r.Breaks("E8 pods") && p.Client.Kind == LocalPod {
		return true
	}
	var cidrs []netip.Prefix
	for _, text := range f.svc.Spec.LoadBalancerSourceRanges {
		cidr := parseRange(text)
		if cidr.Addr().Is6() != p.v6() && !r.Breaks("E8 family") {
			continue
		}
		if cidr.Bits() == 0 && !r.Breaks("E8 open") {
			return true
		}
		if cidr.Bits() == 0 {
			cidr = netip.PrefixFrom(cidr.Addr(), cidr.Addr().BitLen())
		}
		cidrs = append(cidrs, cidr)
	}
	in := func(addr netip.Addr) bool {
		return slices.ContainsFunc(cidrs, func(c netip.Prefix) bool { return c.Contains(addr) })
	}
	// The node's own packets to a VIP that is assigned to it have the VIP for a source.
	if in(w.Node.Primary(p.v6())) && slices.Contains(r.loadBalancerIPs(f.svc), p.Client.Addr) && !r.Breaks("E8 node") {
		return true
	}
	return len(cidrs) == 0 || in(p.Client.Addr)
}

// isLocalPort says whether a node port is answered at an address (B3, B4, E5).
func (r Rules) isLocalPort(w *World, p Probe) (bool, string) {
	addr := p.To.Addr()
	var cidrs []netip.Prefix
	primary := r.Dialect == NFTables && len(w.Node.NodePortAddresses) == 0
	for _, text := range w.Node.NodePortAddresses {
		if text == "primary" {
			primary = true
		} else if cidr := netip.MustParsePrefix(text); cidr.Addr().Is6() == addr.Is6() {
			cidrs = append(cidrs, cidr)
		}
	}
	listed := slices.ContainsFunc(cidrs, func(c netip.Prefix) bool { return c.Contains(addr) })
	if addr.IsLoopback() {
		return r.isLocalhost(p, len(cidrs) == 0 && !primary || listed && r.hasLink(addr, cidrs)), "B4"
	}
	if r.Breaks("E5") && slices.Contains(w.Node.OtherNodes, addr) {
		return true, "E5"
	}
	if !slices.Contains(w.Node.Addresses, addr) {
		return false, "E5"
	}
	switch {
	case primary || r.Breaks("B3"):
		return addr == w.Node.Primary(addr.Is6()), "B3"
	case r.Breaks("B3 filter"):
		return true, "B3"
	default:
		return len(cidrs) == 0 || listed, "B3"
	}
}

// hasLink says whether a loopback address is one that is looked for: with networks that are not all there is, iptables mode
// looks for addresses of links, and of 127.0.0.0/8 finds one.
func (r Rules) hasLink(addr netip.Addr, cidrs []netip.Prefix) bool {
	return r.Dialect != IPTables || addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) ||
		slices.ContainsFunc(cidrs, func(c netip.Prefix) bool { return c.Bits() == 0 })
}

// isLocalhost says whether a node port is answered at a loopback address: to the node's own processes. kube-proxy has no
// IPv6 there, and in nftables mode nothing.
func (r Rules) isLocalhost(p Probe, allowed bool) bool {
	switch {
	case r.Breaks("B4"):
		return false
	case r.Dialect == NFTables, r.Dialect == IPTables && p.v6():
		return false
	case p.Client.Kind != NodeItself && !r.Breaks("B4 pods"):
		return false
	}
	return allowed
}
