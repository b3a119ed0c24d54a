package model

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// An endpoint is what slices say of one address and port.
type endpoint struct {
	addr                        netip.AddrPort
	ready, serving, terminating bool
	local                       bool
	zone                        string
	nodeHints, zoneHints        []string
}

// draining is what a list may fall back to (C1).
func (e endpoint) draining() bool { return e.serving && e.terminating }

// A choice is the two lists of a Service port in one family, and the rows that made them.
type choice struct {
	cluster, local         []netip.AddrPort
	clusterRows, localRows []string
	any                    bool // some endpoint is usable somewhere
}

// lists makes the cluster list and the local list (C1 to C5).
func (r Rules) lists(w *World, svc *corev1.Service, port *corev1.ServicePort, v6 bool) (c choice) {
	all := r.endpoints(w, svc, port, v6)
	usable := func(e endpoint) bool { return e.ready || e.draining() }
	c.any = slices.ContainsFunc(all, usable)
	c.any = c.any || r.Breaks("A7") && slices.ContainsFunc(r.endpoints(w, svc, port, !v6), usable)
	near, row := r.near(w, svc, all)
	c.cluster, c.clusterRows = r.usable(all, near, func(e endpoint) bool { return !r.Breaks("C1 topology") || near(e) })
	if row != "" && len(c.cluster) > 0 && !slices.Contains(c.clusterRows, "C1") {
		c.clusterRows = append(c.clusterRows, row)
	}
	local := func(e endpoint) bool { return e.local }
	if r.Breaks("C4") {
		local = func(e endpoint) bool { return e.local && near(e) }
	}
	c.local, c.localRows = r.usable(all, local, local)
	if alone := slices.Contains(c.localRows, "C1") && !slices.Contains(c.clusterRows, "C1"); alone && r.Breaks("C2") {
		c.local = nil
	} else if alone {
		c.localRows = []string{"C2"}
	}
	if len(c.local) > 0 && row != "" {
		c.localRows = append(c.localRows, "C4")
	}
	return c
}

// usable are the ready endpoints of a set, or else those of another that terminate and still serve (C1).
func (r Rules) usable(all []endpoint, in, fallback func(endpoint) bool) (out []netip.AddrPort, rows []string) {
	for _, e := range all {
		if e.ready && in(e) {
			out = append(out, e.addr)
		}
	}
	if len(out) > 0 || r.Breaks("C1") {
		return out, nil
	}
	for _, e := range all {
		if e.draining() && !e.ready && fallback(e) {
			out = append(out, e.addr)
		}
	}
	if len(out) > 0 {
		rows = []string{"C1"}
	}
	return out, rows
}

// near says which endpoints the topology hints leave to this node (C3), and by which row.
func (r Rules) near(w *World, svc *corev1.Service, all []endpoint) (func(endpoint) bool, string) {
	zone := w.Node.Labels[corev1.LabelTopologyZone]
	if r.Breaks("A9 trafficDistribution") && svc.Spec.TrafficDistribution != nil {
		return func(e endpoint) bool { return e.zone == zone }, ""
	}
	if internal, _ := isLocal(svc); internal && r.Breaks("C5") {
		return func(e endpoint) bool { return e.local }, ""
	}
	byNode := func(e endpoint) []string { return e.nodeHints }
	byZone := func(e endpoint) []string { return e.zoneHints }
	type hint struct {
		of   func(endpoint) []string
		here string
	}
	hints := []hint{{byNode, w.Node.Name}, {byZone, zone}}
	if r.Breaks("C3 order") {
		slices.Reverse(hints)
	}
	for _, h := range hints {
		if r.counts(all, h.of, h.here) {
			return func(e endpoint) bool { return slices.Contains(h.of(e), h.here) }, "C3"
		}
	}
	return func(endpoint) bool { return true }, ""
}

// counts says whether every ready endpoint has a hint of one kind, and one of them names this place (C3).
func (r Rules) counts(all []endpoint, of func(endpoint) []string, here string) bool {
	every, some := true, false
	for _, e := range all {
		if e.ready || r.Breaks("C3 ready") || r.Breaks("C1 topology") && e.draining() {
			every = every && len(of(e)) > 0
			some = some || slices.Contains(of(e), here)
		}
	}
	return (every || r.Breaks("C3 every")) && (some || r.Breaks("C3 some") && every) && !r.Breaks("C3")
}

// endpoints merges the slices of a Service (A2) for one port and family, in the order of addresses.
func (r Rules) endpoints(w *World, svc *corev1.Service, port *corev1.ServicePort, v6 bool) (out []endpoint) {
	for _, slice := range w.Slices {
		number := r.targetPort(slice, port)
		if !r.isOf(slice, svc, v6) || number == 0 {
			continue
		}
		for i := range slice.Endpoints {
			if addr, ok := r.address(&slice.Endpoints[i]); ok {
				out = r.merge(out, r.endpoint(w, &slice.Endpoints[i], netip.AddrPortFrom(addr, uint16(number))))
			}
		}
		if r.Breaks("A2") {
			break
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	return out
}

// isOf says whether a slice is of a Service and family, and one that proxies watch: of no headless Service (A2), and not
// of names (A7).
func (r Rules) isOf(slice *discoveryv1.EndpointSlice, svc *corev1.Service, v6 bool) bool {
	family := discoveryv1.AddressTypeIPv4
	if v6 {
		family = discoveryv1.AddressTypeIPv6
	}
	_, headless := slice.Labels[corev1.IsHeadlessService]
	return slice.Namespace == svc.Namespace && slice.Labels[discoveryv1.LabelServiceName] == svc.Name &&
		slice.AddressType == family && (!headless || r.Breaks("A2 headless"))
}

// targetPort is what a slice offers under the port's name and protocol; those without a number or a name offer nothing (A3).
func (r Rules) targetPort(slice *discoveryv1.EndpointSlice, port *corev1.ServicePort) int32 {
	for _, p := range slice.Ports {
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if p.Port == nil || *p.Port == 0 || p.Name == nil && !r.Breaks("A3 port") || protocol != cmp.Or(port.Protocol, corev1.ProtocolTCP) {
			continue
		}
		if p.Name == nil || *p.Name == port.Name || r.Breaks("A4 names") {
			if r.Breaks("A9 targetPort") && port.TargetPort.IntVal != 0 {
				return port.TargetPort.IntVal
			}
			return *p.Port
		}
	}
	return 0
}

// address is the one that counts of an endpoint's: the first (A3).
func (r Rules) address(e *discoveryv1.Endpoint) (netip.Addr, bool) {
	addrs := parseAddrs(e.Addresses)
	if len(addrs) == 0 {
		return netip.Addr{}, false
	}
	if r.Breaks("A3 address") {
		return addrs[len(addrs)-1], true
	}
	return addrs[0], true
}

// endpoint reads what a slice says of one, with the defaults of A3.
func (r Rules) endpoint(w *World, in *discoveryv1.Endpoint, addr netip.AddrPort) endpoint {
	or := func(v *bool, otherwise bool) bool {
		if v == nil {
			return otherwise
		}
		return *v
	}
	e := endpoint{
		addr:        addr,
		ready:       or(in.Conditions.Ready, !r.Breaks("A3 ready")),
		serving:     or(in.Conditions.Serving, !r.Breaks("A3 serving")),
		terminating: or(in.Conditions.Terminating, r.Breaks("A3 terminating")),
	}
	if in.NodeName != nil {
		e.local = strings.EqualFold(*in.NodeName, w.Node.Name)
	}
	if r.Breaks("A6") {
		e.local = slices.Contains(w.Node.Pods, addr.Addr())
	}
	if r.Breaks("A5") {
		e.ready = e.ready && !e.terminating
	}
	if in.Zone != nil {
		e.zone = *in.Zone
	}
	if in.Hints != nil {
		for _, h := range in.Hints.ForNodes {
			e.nodeHints = append(e.nodeHints, h.Name)
		}
		for _, h := range in.Hints.ForZones {
			e.zoneHints = append(e.zoneHints, h.Name)
		}
	}
	return e
}

// merge adds a copy of an endpoint that another slice may have, too: the one that does not terminate counts (A4). Of copies
// that are alike in that, kube-proxy leaves the choice open; here it is the better one.
func (r Rules) merge(all []endpoint, e endpoint) []endpoint {
	worth := func(e endpoint) (n int) {
		if !e.terminating != r.Breaks("A4") {
			n += 4
		}
		if e.ready {
			n += 2
		}
		if e.serving {
			n++
		}
		return n
	}
	for i := range all {
		if all[i].addr != e.addr {
			continue
		}
		if worth(e) > worth(all[i]) {
			all[i] = e
		}
		return all
	}
	return append(all, e)
}
