package externaldns

import (
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/nearpath/nearpath/internal/cluster"
)

// askHTTPRoute: a route has the names that it and a listener of a Gateway agree on, and they lead to that Gateway.
func (r *wantRules) askHTTPRoute(s *cluster.Snapshot, name cluster.Name) *asker {
	route := s.HTTPRoute(name)
	if route == nil {
		return nil
	}
	a := r.asker(s, cluster.HTTPRoutes, route.Meta)
	if !a.admitted() {
		return nil
	}
	hosts := a.routeHosts(route)
	for _, parent := range route.Parents {
		a.need(cluster.Gateways, parent.Gateway)
		gateway := s.Gateway(parent.Gateway)
		if gateway == nil || !isOurs(gateway.Annotations) {
			continue
		}
		for _, listener := range gateway.Listeners {
			if a.attached(parent, listener) {
				a.leadToGateway(agreed(listener.Hostname, hosts), gateway)
			}
		}
	}
	return a
}

// routeHosts are the hosts a route asks for; an empty one is whatever a listener has.
func (a *asker) routeHosts(route *cluster.HTTPRoute) []string {
	defined, annotated := a.hostSources("gateway-hostname-source")
	var hosts []string
	if defined {
		hosts = append(hosts, a.goodHosts(route.Hostnames, "spec.hostnames")...)
		hosts = append(hosts, a.templated(len(route.Hostnames) > 0)...)
	}
	if annotated {
		hosts = append(hosts, a.goodHosts(splitNames(a.annotation("hostname")), "annotation hostname")...)
	}
	if defined && annotated && len(route.Hostnames) == 0 {
		hosts = append(hosts, "")
	}
	return hosts
}

// goodHosts are the hosts that are names. They may be out of scope: a wildcard may have names in scope below it.
func (a *asker) goodHosts(list []string, from string) (hosts []string) {
	for _, text := range list {
		name := canonicalName(text)
		if err := checkWantName(name); err != nil {
			a.problem(reasonName, "%s: %q is not a name that can be published: %v", from, text, err)
			continue
		}
		hosts = append(hosts, name)
	}
	return hosts
}

// attached reports whether the reference is to this listener and the listener takes routes of the namespace.
func (a *asker) attached(parent cluster.ParentRef, l cluster.Listener) bool {
	if parent.Section != "" && parent.Section != l.Name || parent.Port != 0 && parent.Port != l.Port {
		return false
	}
	switch l.From {
	case "All":
		return true
	case "Same":
		return parent.Gateway.Namespace == a.object.Namespace
	case "Selector":
		a.need(cluster.Namespaces, cluster.Name{Name: a.object.Namespace})
		return a.snapshot.HasNamespace(a.object.Namespace) && l.Selector.Matches(labels.Set(a.snapshot.NamespaceLabels(a.object.Namespace)))
	}
	return false
}

// agreed are the hosts that a listener and a route both have; where one is a wildcard for the other, the other.
func agreed(listener string, hosts []string) (names []string) {
	listener = canonicalName(listener)
	for _, host := range hosts {
		switch {
		case listener == "" || listener == host || covers(listener, host):
			names = append(names, host)
		case host == "" || covers(host, listener):
			names = append(names, listener)
		}
	}
	return names
}

// covers reports whether a wildcard stands for a host. Unlike in DNS, it stands for several labels.
func covers(wildcard, host string) bool {
	suffix, ok := strings.CutPrefix(wildcard, "*")
	return ok && strings.HasSuffix(host, suffix) && len(host) > len(suffix)
}

// leadToGateway makes names lead to the Gateway, which may name its targets by an annotation of its own.
func (a *asker) leadToGateway(hosts []string, gateway *cluster.Gateway) {
	var names []string
	for _, host := range hosts {
		if host != "" { // neither side has one: the route is for any host
			names = append(names, a.names([]string{host}, "host")...)
		}
	}
	from, targets := "annotation target of the Gateway", []string(nil)
	if text, ok := annotationOf(gateway.Annotations, "target"); ok {
		targets = splitNames(text)
	}
	if len(targets) == 0 {
		from, targets = "status.addresses of the Gateway", gateway.Addresses
	}
	a.leadTo(names, targets, from)
}
