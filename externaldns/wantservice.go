package externaldns

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nearpath/nearpath/internal/cluster"
)

// srvPriority and srvWeight are what external-dns writes for NodePorts.
const srvPriority, srvWeight = 0, 50

// askService: what a name leads to depends on the type of the Service, and on which annotation asks for it.
func (r *wantRules) askService(s *cluster.Snapshot, name cluster.Name) *asker {
	svc := s.Service(name)
	if svc == nil || svc.Exposure == nil || r.silent(svc.Exposure.Annotations) {
		return nil
	}
	x := svc.Exposure
	a := r.asker(s, cluster.Services, cluster.Meta{
		Name: svc.Name, UID: svc.UID, Created: svc.Created, Labels: x.Labels, Annotations: x.Annotations,
	})
	if !a.admitted() {
		return nil
	}
	annotated, inner := a.annotated("hostname"), a.annotated("internal-hostname")
	outer := append(annotated, a.templated(a.asks("hostname", "internal-hostname"))...)
	if len(outer)+len(inner) == 0 || a.leadToTargets(slices.Concat(outer, inner)) {
		return a
	}
	switch {
	case svc.Headless:
		a.leadToEndpoints(slices.Concat(outer, inner), svc)
	case x.Type == corev1.ServiceTypeExternalName:
		a.leadToExternalName(slices.Concat(outer, inner), svc)
	case x.Type == corev1.ServiceTypeLoadBalancer:
		a.lead(inner, svc.ClusterIPs)
		a.leadToLoadBalancer(outer, x)
	case x.Type == corev1.ServiceTypeNodePort:
		a.lead(inner, svc.ClusterIPs)
		a.leadToNodePorts(outer, svc)
		a.servicePorts(inner, svc, func(p cluster.ServicePort) uint16 { return p.Port })
	default:
		a.lead(inner, svc.ClusterIPs)
		if r.PublishInternal {
			a.lead(outer, svc.ClusterIPs)
		} else if len(annotated) > 0 {
			a.problem(reasonInternal, "%s: a Service of type ClusterIP is published by the annotation internal-hostname, or by hostname when publishing of internal Services is on",
				strings.Join(annotated, ", "))
		}
	}
	return a
}

func (a *asker) leadToExternalName(names []string, svc *cluster.Service) {
	if addrs := svc.Exposure.ExternalIPs; len(addrs) > 0 {
		a.lead(names, addrs)
		return
	}
	a.leadTo(names, []string{svc.ExternalName}, "spec.externalName")
}

func (a *asker) leadToLoadBalancer(names []string, x *cluster.Exposure) {
	if len(x.ExternalIPs) > 0 {
		a.lead(names, x.ExternalIPs)
		return
	}
	a.leadToBalancer(names, x.LoadBalancer)
}

// leadToNodePorts publishes addresses of nodes, and where on them the ports are.
func (a *asker) leadToNodePorts(names []string, svc *cluster.Service) {
	if len(names) == 0 {
		return
	}
	a.need(cluster.Nodes, cluster.Name{})
	a.lead(names, a.nodeAddrs(a.portNodes(svc)))
	a.servicePorts(names, svc, func(p cluster.ServicePort) uint16 { return p.NodePort })
}

// servicePorts adds an SRV record for each port with a number, leading to the name itself: RFC 2782. The label is the
// port's name, or the Service's where the port has none.
func (a *asker) servicePorts(names []string, svc *cluster.Service, number func(cluster.ServicePort) uint16) {
	for _, p := range svc.Ports {
		n := number(p)
		if n == 0 {
			continue
		}
		label := p.Name
		if label == "" {
			label = svc.Name.Name
		}
		for _, name := range names {
			srv := fmt.Sprintf("_%s._%s.%s", label, strings.ToLower(p.Protocol.String()), name)
			if strings.HasPrefix(name, "*") {
				continue // the wildcard would not be the first label any more
			}
			if err := checkWantName(srv); err != nil {
				a.problem(reasonName, "port %s: %q is not a name that can be published: %v", label, srv, err)
				continue
			}
			a.want(srv, typeSRV, fmt.Sprintf("%d %d %d %s", srvPriority, srvWeight, n, name))
		}
	}
}

// portNodes are the nodes that take traffic for a NodePort: with the Local policy those with endpoints. Cordoned nodes are
// on their way out, and left out while there are others.
func (a *asker) portNodes(svc *cluster.Service) []*cluster.Node {
	var nodes []*cluster.Node
	if svc.ExternalLocal {
		nodes = a.endpointNodes(svc)
	} else {
		nodes = slices.Collect(a.snapshot.Nodes())
	}
	open := slices.DeleteFunc(slices.Clone(nodes), func(n *cluster.Node) bool { return n.Unschedulable })
	if len(open) > 0 {
		return open
	}
	return nodes
}

// endpointNodes are those with ready endpoints; if there are none, those whose endpoints still serve while they terminate.
func (a *asker) endpointNodes(svc *cluster.Service) []*cluster.Node {
	for _, usable := range []func(*cluster.Endpoint) bool{
		func(e *cluster.Endpoint) bool { return e.Ready && !e.Terminating },
		func(e *cluster.Endpoint) bool { return e.Serving && e.Terminating },
	} {
		var nodes []*cluster.Node
		for _, slice := range a.snapshot.Slices(svc.Name) {
			for i := range slice.Endpoints {
				e := &slice.Endpoints[i]
				if node := a.snapshot.Node(e.NodeName); node != nil && usable(e) && !slices.Contains(nodes, node) {
					nodes = append(nodes, node)
				}
			}
		}
		if len(nodes) > 0 {
			return nodes
		}
	}
	return nil
}
