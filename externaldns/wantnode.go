package externaldns

import (
	"net/netip"

	"github.com/nearpath/nearpath/internal/cluster"
)

// askNode: names come from templates and from the annotation hostname, never from the node's own name alone.
func (r *wantRules) askNode(s *cluster.Snapshot, name cluster.Name) *asker {
	node := s.Node(name.Name)
	if node == nil || r.silent(node.Annotations) {
		return nil
	}
	a := r.asker(s, cluster.Nodes, node.Meta)
	if !a.admitted() {
		return nil
	}
	names := append(a.annotated("hostname"), a.templated(a.asks("hostname"))...)
	if !a.leadToTargets(names) {
		a.lead(names, a.nodeAddrs([]*cluster.Node{node}))
	}
	return a
}

// nodeAddrs are the addresses of nodes that shall be published.
func (a *asker) nodeAddrs(nodes []*cluster.Node) []netip.Addr {
	var internal, external, internal6 []netip.Addr
	for _, node := range nodes {
		internal = append(internal, node.InternalIPs...)
		external = append(external, node.ExternalIPs...)
		for _, addr := range node.InternalIPs {
			if addr.Is6() {
				internal6 = append(internal6, addr)
			}
		}
	}
	access := a.annotation("access")
	switch access {
	case accessPublic, accessPrivate:
	default:
		if access != "" {
			a.problem(reasonUnknown, "annotation access: %q is unknown: use public or private", access)
		}
		access = a.rules.Access
	}
	if access == accessPublic || access == "" && len(external) > 0 {
		return append(external, internal6...) // nodes have no ExternalIP of IPv6: the internal one is routed
	}
	return internal
}
