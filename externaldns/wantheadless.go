package externaldns

import (
	"net/netip"
	"strings"

	"github.com/nearpath/nearpath/internal/cluster"
)

// The values of the annotation endpoints-type.
const (
	endpointsNodeExternal = "NodeExternalIP"
	endpointsHost         = "HostIP"
)

// leadToEndpoints publishes the endpoints of a headless Service under the Service's names, and those that have a hostname
// under hostname.name too.
func (a *asker) leadToEndpoints(names []string, svc *cluster.Service) {
	kind := a.annotation("endpoints-type")
	switch kind {
	case "", endpointsNodeExternal, endpointsHost:
	default:
		a.problem(reasonUnknown, "annotation endpoints-type: %q is unknown: use NodeExternalIP or HostIP", kind)
		kind = ""
	}
	a.urgent = kind == ""
	for _, slice := range a.snapshot.Slices(svc.Name) {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if !svc.PublishNotReady && (!e.Ready || e.Terminating) {
				continue
			}
			a.lead(append(a.endpointNames(e.Hostname, names), names...), a.endpointAddrs(e, kind))
		}
	}
}

func (a *asker) endpointNames(hostname string, names []string) (own []string) {
	if hostname == "" {
		return nil
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "*") {
			own = append(own, a.names([]string{hostname + "." + name}, "hostname of an endpoint")...)
		}
	}
	return own
}

func (a *asker) endpointAddrs(e *cluster.Endpoint, kind string) []netip.Addr {
	if kind == "" {
		return []netip.Addr{e.Addr}
	}
	a.need(cluster.Nodes, cluster.Name{Name: e.NodeName})
	node := a.snapshot.Node(e.NodeName)
	if node == nil {
		return nil
	}
	var addrs []netip.Addr
	if kind == endpointsNodeExternal {
		addrs = append(addrs, node.ExternalIPs...)
	}
	for _, addr := range node.InternalIPs {
		if kind == endpointsNodeExternal && addr.Is6() || kind == endpointsHost && addr.Is4() == e.Addr.Is4() {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
