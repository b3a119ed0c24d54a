package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// What get shows of Services, from the kernel's maps. Names are the agent's: without one there are only records.

// A frontendView is where a Service port is reached in one address family, or a pod's host port.
type frontendView struct {
	Frontend string   `json:"frontend"` // of an unspecified address: on all addresses of the node; without a port: the rest of the address
	Protocol string   `json:"protocol,omitempty"`
	Kind     string   `json:"kind"`             // ClusterIP, NodePort, ExternalIP, LoadBalancer, HostPort or address
	Policy   string   `json:"policy,omitempty"` // the traffic policy that chose the backends: a ClusterIP's internal one, else the external one
	Record   uint32   `json:"record"`
	Service  string   `json:"service,omitempty"`
	Backends []string `json:"backends"`
	NodeDNS  bool     `json:"nodeDNS,omitempty"`
}

// A serviceView is a record: a Service port in one address family, or a pod's host port.
type serviceView struct {
	Record          uint32   `json:"record"`
	Service         string   `json:"service,omitempty"`
	Frontends       []string `json:"frontends"` // kind, address and protocol
	InternalPolicy  string   `json:"internalPolicy"`
	ExternalPolicy  string   `json:"externalPolicy"`
	AffinitySeconds int      `json:"affinitySeconds,omitempty"`
	Clients         int      `json:"clients,omitempty"` // that affinity remembers
	SourceRanges    []string `json:"sourceRanges,omitempty"`
	Cluster         []string `json:"cluster"`
	Local           []string `json:"local"`
	Draining        []string `json:"draining,omitempty"` // serve those who are there still
	NodeDNS         bool     `json:"nodeDNS,omitempty"`
}

// A backendView is an address and port that records lead to.
type backendView struct {
	Backend  string `json:"backend"`
	Protocol string `json:"protocol,omitempty"`
	Local    bool   `json:"local"`              // on this node
	Draining bool   `json:"draining,omitempty"` // in no list that new connections choose from
	// Users are the records that lead there.
	Users []userView `json:"users"`
}

// A userView is a record and what it is called.
type userView struct {
	Record  uint32 `json:"record"`
	Service string `json:"service,omitempty"`
}

// recordNames are the Service ports of records, as far as they are known.
type recordNames map[uint32]string

// in is what a list calls a record.
func (n recordNames) in(record uint32) string {
	return cmp.Or(n[record], fmt.Sprintf("(record %d)", record))
}

func frontendViews(t *bpf.Tables, names recordNames) []frontendView {
	views := []frontendView{}
	for _, f := range frontendsInOrder(t) {
		target := t.Frontends[f]
		if target.Kind == bpf.ServiceAddress {
			views = append(views, frontendView{Frontend: f.Addr.Addr().String(), Kind: target.Kind.String(), Backends: []string{}})
			continue
		}
		block := t.Blocks[target.Record]
		backends, policy := servedBackends(target.Kind, block)
		views = append(views, frontendView{
			Frontend: f.Addr.String(), Protocol: protocolName(f.Protocol), Kind: target.Kind.String(), Policy: policy,
			Record: target.Record, Service: names[target.Record], Backends: backends, NodeDNS: block.NodeDNS,
		})
	}
	return views
}

// frontendsInOrder are in the order of their addresses, so that two outputs can be compared.
func frontendsInOrder(t *bpf.Tables) []bpf.Frontend {
	all := make([]bpf.Frontend, 0, len(t.Frontends))
	for f := range t.Frontends {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b bpf.Frontend) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol))
	})
	return all
}

func protocolName(number uint8) string { return fmt.Sprint(cluster.Protocol(number)) }

// servedBackends are those that the traffic policy leaves to clients of a frontend of that kind, and that policy. Clients
// inside the cluster get the cluster list of all but cluster IPs.
func servedBackends(kind bpf.FrontendKind, b bpf.Block) (backends []string, policy string) {
	list, policy := b.Cluster, "Cluster"
	if kind == bpf.ClusterIP && b.InternalLocal || kind != bpf.ClusterIP && b.ExternalLocal {
		list, policy = b.Local, "Local"
	}
	return addrTexts(list), policy
}

// addrTexts are sorted by address.
func addrTexts(list []netip.AddrPort) []string {
	out := make([]string, 0, len(list))
	for _, a := range slices.SortedFunc(slices.Values(list), netip.AddrPort.Compare) {
		out = append(out, a.String())
	}
	return out
}

func serviceViews(t *bpf.Tables, names recordNames) []serviceView {
	views := map[uint32]*serviceView{}
	for record, b := range t.Blocks {
		views[record] = &serviceView{
			Record: record, Service: names[record], Frontends: []string{}, NodeDNS: b.NodeDNS,
			InternalPolicy: policyName(b.InternalLocal), ExternalPolicy: policyName(b.ExternalLocal),
			AffinitySeconds: int(b.Affinity.Seconds()),
			Cluster:         addrTexts(b.Cluster), Local: addrTexts(b.Local), Draining: addrTexts(b.Draining),
		}
		for _, r := range b.SourceRanges {
			views[record].SourceRanges = append(views[record].SourceRanges, r.String())
		}
	}
	for _, f := range frontendsInOrder(t) {
		target := t.Frontends[f]
		if v, ok := views[target.Record]; ok && target.Kind != bpf.ServiceAddress {
			v.Frontends = append(v.Frontends, fmt.Sprintf("%s %s/%s", target.Kind, f.Addr, protocolName(f.Protocol)))
		}
	}
	for _, e := range t.Affinity {
		if v, ok := views[e.Record]; ok {
			v.Clients++
		}
	}
	out := []serviceView{}
	for _, v := range views {
		out = append(out, *v)
	}
	slices.SortFunc(out, func(a, b serviceView) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Record, b.Record))
	})
	return out
}

func policyName(local bool) string {
	if local {
		return "Local"
	}
	return "Cluster"
}

// A servedAt is an address and port of a protocol.
type servedAt struct {
	addr     netip.AddrPort
	protocol string
}

func backendViews(t *bpf.Tables, names recordNames) []backendView {
	protocols := map[uint32]string{}
	for f, target := range t.Frontends {
		if target.Kind != bpf.ServiceAddress {
			protocols[target.Record] = protocolName(f.Protocol)
		}
	}
	views := map[servedAt]*backendView{}
	add := func(record uint32, list []netip.AddrPort, draining bool) {
		for _, addr := range list {
			key := servedAt{addr, protocols[record]}
			v := views[key]
			if v == nil {
				v = &backendView{Backend: addr.String(), Protocol: key.protocol, Local: isOfNode(t, addr.Addr()), Draining: true}
				views[key] = v
			}
			v.Draining = v.Draining && draining
			if user := (userView{record, names[record]}); !slices.Contains(v.Users, user) {
				v.Users = append(v.Users, user)
			}
		}
	}
	for record, b := range t.Blocks {
		add(record, b.Cluster, false)
		add(record, b.Local, false)
		add(record, b.Draining, true)
	}
	out := []backendView{}
	for _, key := range slices.SortedFunc(maps.Keys(views), func(a, b servedAt) int {
		return cmp.Or(a.addr.Compare(b.addr), strings.Compare(a.protocol, b.protocol))
	}) {
		v := views[key]
		slices.SortFunc(v.Users, func(a, b userView) int { return cmp.Compare(a.Record, b.Record) })
		out = append(out, *v)
	}
	return out
}

// isOfNode says whether an address is a pod's of this node, or the node's.
func isOfNode(t *bpf.Tables, addr netip.Addr) bool {
	return slices.ContainsFunc(t.Pods, func(p bpf.Pod) bool { return slices.Contains(p.Addrs, addr) }) ||
		slices.ContainsFunc(t.NodeAddresses, func(n bpf.NodeAddress) bool { return n.Addr == addr })
}
