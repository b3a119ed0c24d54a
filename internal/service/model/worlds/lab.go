// Package worlds draws random worlds for the model of Service rows, and the probes that tell what a proxy makes of them.
package worlds

import (
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/service/model"
	corev1 "k8s.io/api/core/v1"
)

// A Lab is what worlds may be made of: addresses that exist wherever the probes are sent.
type Lab struct {
	// Node is the node under test with its addresses and pods; what is drawn is added to a copy of it.
	Node model.Node
	// Zones are the labels that the node may have; endpoints are hinted for these.
	Zones []string
	// Clients are who sends probes, each only to its own family.
	Clients []model.Client
	// Backends are where endpoints may be. At most Endpoints of them, of each family, are behind one Service.
	Backends []Backend
	// TargetPorts are the ports that backends serve.
	TargetPorts []int32
	// ServiceCIDRs are where cluster IPs come from, one per family.
	ServiceCIDRs []netip.Prefix
	// VIPs are external addresses: of load balancers, or externalIPs.
	VIPs []netip.Addr
	// Ports are those of Services, and NodePorts of nodes. UnusedPort is none of them.
	Ports, NodePorts []int32
	UnusedPort       uint16
	Protocols        []corev1.Protocol
	// Services and Endpoints bound what is drawn.
	Services, Endpoints int
	// NodePortAddresses are the settings to choose from, nil for none.
	NodePortAddresses [][]string
	// Certain leaves out what kube-proxy leaves to chance: two Services that claim one address or node port.
	Certain bool
}

// A Backend is a place for an endpoint, and the node it is really on.
type Backend struct {
	Addr netip.Addr
	Node string
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

// Paper is a Lab of addresses that nobody has, for what only computes.
func Paper() Lab {
	node := model.Node{
		Name:      "here",
		Addresses: addrs("192.0.2.1", "2001:db8::1", "192.0.2.9", "2001:db8::9"),
		Pods:      addrs("10.0.1.1", "10.0.1.2", "fd00:1::1", "fd00:1::2"), RemotePods: addrs("10.0.2.1", "fd00:2::1"),
		OtherNodes: addrs("192.0.2.2", "2001:db8::2"),
	}
	lab := Lab{
		Node: node, Zones: []string{"", "a", "b"},
		TargetPorts:  []int32{8080, 8081},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd96::/112")},
		VIPs:         addrs("203.0.113.1", "203.0.113.2", "2001:db8:1::1", "2001:db8:1::2"),
		Ports:        []int32{80, 53}, NodePorts: []int32{30080, 30053, 30081}, UnusedPort: 9,
		Protocols: []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP},
		Services:  4, Endpoints: 5,
		NodePortAddresses: [][]string{nil, nil, {"primary"}, {"192.0.2.9/32"}, {"192.0.2.0/24", "127.0.0.0/8", "2001:db8::9/128"}, {"0.0.0.0/0", "::/0"}},
	}
	for _, v6 := range []bool{false, true} {
		lab.Clients = append(lab.Clients, model.Client{Kind: model.NodeItself, Addr: node.Primary(v6)})
	}
	// A VIP that is assigned to the node is the source of what the node sends there.
	lab.Clients = append(lab.Clients, model.Client{Kind: model.NodeItself, Addr: lab.VIPs[0]})
	for _, a := range node.Pods {
		lab.Clients = append(lab.Clients, model.Client{Kind: model.LocalPod, Addr: a})
		lab.Backends = append(lab.Backends, Backend{a, node.Name})
	}
	for _, a := range slices.Concat(node.RemotePods, node.OtherNodes, addrs("198.51.100.1", "2001:db8:2::1")) {
		lab.Clients = append(lab.Clients, model.Client{Addr: a})
	}
	for _, a := range addrs("10.0.2.1", "10.0.2.2", "10.0.2.3", "fd00:2::1", "fd00:2::2", "fd00:2::3") {
		lab.Backends = append(lab.Backends, Backend{a, "there"})
	}
	lab.Backends = append(lab.Backends, Backend{node.Primary(false), node.Name}, Backend{node.Primary(true), node.Name})
	return lab
}
