package nodelocaldns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A target is something a Service name leads to: a cluster IP under the name of the Service, or an endpoint under its own.
type target struct {
	host  string
	label string // of an endpoint, the first one of host
	addr  netip.Addr
	ports []uint16 // that the question asks for
}

// A portFilter selects ports by the labels _port._protocol; an empty field means any.
type portFilter struct{ port, protocol string }

// service takes the labels left of the Service's name.
func (l lookup) service(svc *cluster.Service, left []string) Result {
	if svc.ExternalName != "" {
		return l.externalName(svc, left)
	}
	switch len(left) {
	case 0:
		if svc.Headless {
			return l.targets(l.endpoints(svc, "", portFilter{}))
		}
		return l.serviceTargets(l.clusterIPs(svc, portFilter{}))
	case 1: // endpoints have names below ClusterIP Services too
		return l.targets(l.endpoints(svc, left[0], portFilter{}))
	case 2:
		return l.port(svc, left[0], left[1])
	}
	return l.nxdomain()
}

// externalName answers with a CNAME, unless nothing could follow it.
func (l lookup) externalName(svc *cluster.Service, left []string) Result {
	_, err := netip.ParseAddr(svc.ExternalName)
	if _, valid := dns.IsDomainName(svc.ExternalName); len(left) > 0 || err == nil || !valid {
		return l.nxdomain()
	}
	target := dns.Fqdn(svc.ExternalName)
	if dns.CanonicalName(target) == dns.CanonicalName(l.question.Name) {
		return l.nodata()
	}
	r := l.records(&dns.CNAME{Hdr: l.header(dns.TypeCNAME), Target: target})
	if l.question.Qtype != dns.TypeCNAME {
		r.Chase = target
	}
	return r
}

// port answers for _port._protocol, where a lone underscore means any. Such a name has SRV records only.
func (l lookup) port(svc *cluster.Service, port, protocol string) Result {
	var f portFilter
	var isPort, isProtocol bool
	f.port, isPort = strings.CutPrefix(port, "_")
	f.protocol, isProtocol = strings.CutPrefix(protocol, "_")
	if !isPort || !isProtocol {
		return l.nxdomain()
	}
	all := l.clusterIPs(svc, f)
	if svc.Headless {
		all = l.endpoints(svc, "", f)
	}
	served := all[:0]
	for _, t := range all {
		if len(t.ports) > 0 {
			served = append(served, t)
		}
	}
	if len(served) == 0 {
		return l.nxdomain()
	}
	if l.question.Qtype != dns.TypeSRV {
		return l.nodata()
	}
	return l.srv(served)
}

// targets answers for endpoints; without any, the name does not exist.
func (l lookup) targets(all []target) Result {
	if len(all) == 0 {
		return l.nxdomain()
	}
	return l.serviceTargets(all)
}

func (l lookup) serviceTargets(all []target) Result {
	if l.question.Qtype == dns.TypeSRV {
		return l.srv(all)
	}
	addrs := make([]netip.Addr, len(all))
	for i := range all {
		addrs[i] = all[i].addr
	}
	return l.addresses(addrs)
}

// srv gives every target and port the same share of 100 as weight, at least 1.
func (l lookup) srv(all []target) Result {
	count := 0
	for _, t := range all {
		count += len(t.ports)
	}
	if count == 0 {
		return l.nodata()
	}
	type key struct {
		host string
		port uint16
	}
	weight := uint16(max(1, 100/count))
	seen := make(map[key]struct{}, count)
	var r Result
	for _, t := range all {
		for _, port := range t.ports {
			if _, again := seen[key{t.host, port}]; again {
				continue
			}
			seen[key{t.host, port}] = struct{}{}
			r.Answer = append(r.Answer, &dns.SRV{Hdr: l.header(dns.TypeSRV), Weight: weight, Port: port, Target: t.host})
		}
		if len(t.ports) > 0 {
			r.Extra = append(r.Extra, addressRecord(t.host, t.addr, l.zone.TTL))
		}
	}
	r.Ours, r.Authoritative = true, true
	return r
}

func (l lookup) clusterIPs(svc *cluster.Service, f portFilter) []target {
	var ports []uint16
	for _, p := range svc.Ports {
		if f.matches(p.Name, p.Protocol) {
			ports = append(ports, p.Port)
		}
	}
	host := serviceHost(svc.Name, l.domain)
	targets := make([]target, len(svc.ClusterIPs))
	for i, addr := range svc.ClusterIPs {
		targets[i] = target{host: host, addr: addr, ports: ports}
	}
	return targets
}

// endpoints returns the ready endpoints of all slices, of those with a label if one is given. One address under one name is
// one target, with the ports of every slice it is in: the control plane moves endpoints between slices, and has one slice
// per set of ports.
func (l lookup) endpoints(svc *cluster.Service, label string, f portFilter) []target {
	if l.ready != nil && f == (portFilter{}) {
		return l.ready[label]
	}
	type key struct {
		label string
		addr  netip.Addr
	}
	at := make(map[key]int)
	host := serviceHost(svc.Name, l.domain)
	var targets []target
	for _, slice := range l.snapshot.Slices(svc.Name) {
		ports := slicePorts(slice, f)
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			k := key{endpointLabel(e), e.Addr}
			if !isReady(svc, e) || label != "" && label != k.label {
				continue
			}
			if first, again := at[k]; again {
				targets[first].ports = union(targets[first].ports, ports)
				continue
			}
			at[k] = len(targets)
			targets = append(targets, target{k.label + "." + host, k.label, e.Addr, ports})
		}
	}
	return targets
}

// union leaves both lists as they are: targets share them.
func union(a, b []uint16) []uint16 {
	all := slices.Clone(a)
	for _, port := range b {
		if !slices.Contains(a, port) {
			all = append(all, port)
		}
	}
	return all
}

func slicePorts(slice *cluster.EndpointSlice, f portFilter) []uint16 {
	var ports []uint16
	for _, p := range slice.Ports {
		if f.matches(p.Name, p.Protocol) {
			ports = append(ports, p.Port)
		}
	}
	return ports
}

func (f portFilter) matches(name string, protocol cluster.Protocol) bool {
	return (f.port == "" || strings.EqualFold(f.port, name)) &&
		(f.protocol == "" || strings.EqualFold(f.protocol, protocol.String()))
}

func isReady(svc *cluster.Service, e *cluster.Endpoint) bool { return e.Ready || svc.PublishNotReady }

// serviceHost is the name of a Service, with the final dot.
func serviceHost(name cluster.Name, domain string) string {
	return name.Name + "." + name.Namespace + ".svc." + domain
}

// endpointLabel is the first label of an endpoint's name: its hostname, or its address as CoreDNS spells it.
func endpointLabel(e *cluster.Endpoint) string {
	if e.Hostname != "" {
		return strings.ToLower(e.Hostname)
	}
	if e.Addr.Is4() {
		return strings.ReplaceAll(e.Addr.String(), ".", "-")
	}
	label := strings.ReplaceAll(e.Addr.String(), ":", "-")
	if strings.HasSuffix(label, "-") {
		return label + "0"
	}
	return label
}

// dashedAddr reads an address spelled with dashes. Three single dashes make it IPv4, as for CoreDNS.
func dashedAddr(label string) (netip.Addr, bool) {
	separator := ":"
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		separator = "."
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", separator))
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}
