package service

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

var (
	web      = cluster.Name{Namespace: "shop", Name: "web"}
	thisNode = Node{Name: "node-a", DNS: cluster.Name{Namespace: "kube-system", Name: "kube-dns"}}
	equal    = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{})}
)

func webService(change ...func(*cluster.Service)) *cluster.Service {
	svc := &cluster.Service{
		Name: web, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
		Ports: []cluster.ServicePort{{Name: "http", Protocol: cluster.TCP, Port: 80}},
	}
	for _, f := range change {
		f(svc)
	}
	return svc
}

// endpoint is ready on node-b unless changed.
func endpoint(addr string, change ...func(*cluster.Endpoint)) cluster.Endpoint {
	e := cluster.Endpoint{Addr: netip.MustParseAddr(addr), NodeName: "node-b", Ready: true, Serving: true}
	for _, f := range change {
		f(&e)
	}
	return e
}

func dualStack(s *cluster.Service) {
	s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr("fd00:96::1"))
}

func nodePort(port uint16) func(*cluster.Service) {
	return func(s *cluster.Service) { s.Ports[0].NodePort = port }
}

func externalIPs(list ...string) func(*cluster.Service) {
	return func(s *cluster.Service) { s.ExternalIPs = addrs(list...) }
}

func loadBalancer(list ...string) func(*cluster.Service) {
	return func(s *cluster.Service) { s.LoadBalancerIPs = addrs(list...) }
}

func sources(list ...string) func(*cluster.Service) {
	return func(s *cluster.Service) {
		for _, r := range list {
			s.SourceRanges = append(s.SourceRanges, netip.MustParsePrefix(r))
		}
	}
}

func internalLocal(s *cluster.Service) { s.InternalLocal = true }
func externalLocal(s *cluster.Service) { s.ExternalLocal = true }

func local(e *cluster.Endpoint)    { e.NodeName = "node-a" }
func draining(e *cluster.Endpoint) { e.Ready, e.Terminating = false, true }
func dead(e *cluster.Endpoint)     { e.Ready, e.Serving = false, false }

func slice(endpoints ...cluster.Endpoint) *cluster.EndpointSlice {
	return &cluster.EndpointSlice{
		Service: web, Ports: []cluster.EndpointPort{{Name: "http", Protocol: cluster.TCP, Port: 8080}}, Endpoints: endpoints,
	}
}

func backends(addrs ...string) (out []netip.AddrPort) {
	for _, a := range addrs {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

func TestSelectBackends(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		svc    *cluster.Service
		slices []*cluster.EndpointSlice
		want   bpf.Block
	}{
		"no endpoints are rejected": {webService(), nil, bpf.Block{}},
		"ready ones": {
			webService(), []*cluster.EndpointSlice{slice(endpoint("10.0.0.2"), endpoint("10.0.0.9", local)), slice(endpoint("10.0.0.1"))},
			bpf.Block{Cluster: backends("10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.9:8080")},
		},
		"terminating ones only when nothing is ready": {
			webService(), []*cluster.EndpointSlice{slice(endpoint("10.0.0.1", draining), endpoint("10.0.0.2"), endpoint("10.0.0.3", dead))},
			bpf.Block{Cluster: backends("10.0.0.2:8080")},
		},
		"terminating fallback": {
			webService(), []*cluster.EndpointSlice{slice(endpoint("10.0.0.1", draining), endpoint("10.0.0.3", dead))},
			bpf.Block{Cluster: backends("10.0.0.1:8080")},
		},
		"one address in two slices, the live copy wins": {
			webService(), []*cluster.EndpointSlice{slice(endpoint("10.0.0.1", draining)), slice(endpoint("10.0.0.1"))},
			bpf.Block{Cluster: backends("10.0.0.1:8080")},
		},
		"one address in two slices, the ready copy wins": {
			webService(), []*cluster.EndpointSlice{slice(endpoint("10.0.0.1", dead)), slice(endpoint("10.0.0.1"))},
			bpf.Block{Cluster: backends("10.0.0.1:8080")},
		},
		"the other family does not count": {
			webService(), []*cluster.EndpointSlice{slice(endpoint("fd00::1"))}, bpf.Block{},
		},
		"slices marked headless belong to DNS": {
			webService(), []*cluster.EndpointSlice{{
				Service: web, Headless: true, Endpoints: []cluster.Endpoint{endpoint("10.0.0.1")},
				Ports: []cluster.EndpointPort{{Name: "http", Protocol: cluster.TCP, Port: 8080}},
			}}, bpf.Block{},
		},
		"ports match by name and protocol": {
			webService(), []*cluster.EndpointSlice{{
				Service: web, Endpoints: []cluster.Endpoint{endpoint("10.0.0.1")},
				Ports: []cluster.EndpointPort{{Name: "https", Protocol: cluster.TCP, Port: 1}, {Name: "http", Protocol: cluster.UDP, Port: 2}},
			}}, bpf.Block{},
		},
		"local policy": {
			webService(internalLocal), []*cluster.EndpointSlice{slice(endpoint("10.0.0.1"), endpoint("10.0.0.2", local))},
			bpf.Block{Local: backends("10.0.0.2:8080"), InternalLocal: true},
		},
		"local policy without local endpoints drops": {
			webService(internalLocal), []*cluster.EndpointSlice{slice(endpoint("10.0.0.1"))},
			bpf.Block{InternalLocal: true, InternalDrop: true},
		},
		"local policy without any endpoints rejects": {
			webService(internalLocal), nil, bpf.Block{InternalLocal: true},
		},
		"local policy falls back on its own": {
			webService(internalLocal), []*cluster.EndpointSlice{slice(endpoint("10.0.0.1"), endpoint("10.0.0.2", local, draining))},
			bpf.Block{Local: backends("10.0.0.2:8080"), InternalLocal: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ports := Select(tt.svc, tt.slices, thisNode)
			if len(ports) != 1 {
				t.Fatalf("selected %d ports, want 1", len(ports))
			}
			if diff := cmp.Diff(tt.want, ports[0].Block, equal); diff != "" {
				t.Errorf("block differs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSelect holds the lists and verdicts of every combination against kube-proxy's rows (pkg/proxy/topology.go,
// CategorizeEndpoints); the names are those of the reference.
func TestSelect(t *testing.T) {
	t.Parallel()
	here, there := endpoint("10.0.0.9", local), endpoint("10.0.0.1")
	hereDrains, thereDrains := endpoint("10.0.0.9", local, draining), endpoint("10.0.0.1", draining)
	node := nodePort(30080)
	for name, tt := range map[string]struct {
		svc       *cluster.Service
		endpoints []cluster.Endpoint
		want      bpf.Block
	}{
		"C1/cluster list": {
			webService(node), []cluster.Endpoint{here, there, endpoint("10.0.0.2", draining)},
			bpf.Block{Cluster: backends("10.0.0.1:8080", "10.0.0.9:8080")},
		},
		"C1/cluster list falls back": {
			webService(node), []cluster.Endpoint{thereDrains, endpoint("10.0.0.2", dead)},
			bpf.Block{Cluster: backends("10.0.0.1:8080")},
		},
		"C1/local list": {
			webService(node, externalLocal), []cluster.Endpoint{here, there, endpoint("10.0.0.8", local, draining)},
			bpf.Block{Cluster: backends("10.0.0.1:8080", "10.0.0.9:8080"), Local: backends("10.0.0.9:8080"), ExternalLocal: true},
		},
		"C2/local falls back alone": {
			webService(node, externalLocal), []cluster.Endpoint{hereDrains, there},
			bpf.Block{Cluster: backends("10.0.0.1:8080"), Local: backends("10.0.0.9:8080"), ExternalLocal: true},
		},
		"C2/cluster does not fall back for it": {
			webService(node, externalLocal), []cluster.Endpoint{hereDrains, here, thereDrains},
			bpf.Block{Cluster: backends("10.0.0.9:8080"), Local: backends("10.0.0.9:8080"), ExternalLocal: true},
		},
		"C5/no local list without a Local policy": {
			webService(node), []cluster.Endpoint{here}, bpf.Block{Cluster: backends("10.0.0.9:8080")},
		},
		"C5/no local list for a policy nobody can use": {
			webService(externalLocal), []cluster.Endpoint{here, there},
			bpf.Block{Cluster: backends("10.0.0.1:8080", "10.0.0.9:8080")},
		},
		"C5/no cluster list when only local clients come": {
			webService(internalLocal), []cluster.Endpoint{here, there},
			bpf.Block{Local: backends("10.0.0.9:8080"), InternalLocal: true},
		},
		"C5/cluster list for clients outside": {
			webService(node, internalLocal), []cluster.Endpoint{here, there},
			bpf.Block{Cluster: backends("10.0.0.1:8080", "10.0.0.9:8080"), Local: backends("10.0.0.9:8080"), InternalLocal: true},
		},
		"C5/both policies Local": {
			webService(node, internalLocal, externalLocal), []cluster.Endpoint{here, there},
			bpf.Block{
				Cluster: backends("10.0.0.1:8080", "10.0.0.9:8080"), Local: backends("10.0.0.9:8080"),
				InternalLocal: true, ExternalLocal: true,
			},
		},
		"E4/a load balancer's VIP short-circuits to all": {
			webService(loadBalancer("203.0.113.7"), internalLocal, externalLocal), []cluster.Endpoint{here, there},
			bpf.Block{
				Cluster: backends("10.0.0.1:8080", "10.0.0.9:8080"), Local: backends("10.0.0.9:8080"),
				InternalLocal: true, ExternalLocal: true,
			},
		},
		"D1/nobody anywhere": {
			webService(node, internalLocal, externalLocal), []cluster.Endpoint{endpoint("10.0.0.1", dead)},
			bpf.Block{InternalLocal: true, ExternalLocal: true},
		},
		"D2/internal Local, nobody here": {
			webService(node, internalLocal), []cluster.Endpoint{there},
			bpf.Block{Cluster: backends("10.0.0.1:8080"), InternalLocal: true, InternalDrop: true},
		},
		"D3/external Local, nobody here": {
			webService(node, externalLocal), []cluster.Endpoint{there},
			bpf.Block{Cluster: backends("10.0.0.1:8080"), ExternalLocal: true, ExternalDrop: true},
		},
		"D3/external Local, one terminates elsewhere": {
			webService(node, externalLocal), []cluster.Endpoint{thereDrains},
			bpf.Block{Cluster: backends("10.0.0.1:8080"), ExternalLocal: true, ExternalDrop: true},
		},
		"E3/internal Local does not bind clients outside": {
			webService(node, internalLocal), []cluster.Endpoint{here},
			bpf.Block{Cluster: backends("10.0.0.9:8080"), Local: backends("10.0.0.9:8080"), InternalLocal: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ports := Select(tt.svc, []*cluster.EndpointSlice{slice(tt.endpoints...)}, thisNode)
			if len(ports) != 1 {
				t.Fatalf("selected %d ports, want 1", len(ports))
			}
			if diff := cmp.Diff(tt.want, ports[0].Block, equal); diff != "" {
				t.Errorf("block differs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSelectFrontends: rows A7, A10, B1 to B3, B5 and E8.
func TestSelectFrontends(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		svc  *cluster.Service
		want map[string][]string // by port
	}{
		"B1/cluster IP alone": {webService(), map[string][]string{"shop/web:80/TCP IPv4": {"10.96.0.1:80/6 ClusterIP"}}},
		"B3/node port": {
			webService(nodePort(30080)),
			map[string][]string{"shop/web:80/TCP IPv4": {"10.96.0.1:80/6 ClusterIP", "0.0.0.0:30080/6 NodePort"}},
		},
		"A7/node port of each family of the Service": {
			webService(nodePort(30080), dualStack), map[string][]string{
				"shop/web:80/TCP IPv4": {"10.96.0.1:80/6 ClusterIP", "0.0.0.0:30080/6 NodePort"},
				"shop/web:80/TCP IPv6": {"[fd00:96::1]:80/6 ClusterIP", "[::]:30080/6 NodePort"},
			},
		},
		"B3/each port has its own": {
			webService(nodePort(30080), func(s *cluster.Service) {
				s.Ports = append(s.Ports, cluster.ServicePort{Name: "dns", Protocol: cluster.UDP, Port: 53, NodePort: 30053})
			}),
			map[string][]string{
				"shop/web:53/UDP IPv4": {"10.96.0.1:53/17 ClusterIP", "0.0.0.0:30053/17 NodePort"},
				"shop/web:80/TCP IPv4": {"10.96.0.1:80/6 ClusterIP", "0.0.0.0:30080/6 NodePort"},
			},
		},
		"B2/external IPs of the Service's families": {
			webService(externalIPs("203.0.113.7", "2001:db8::7")),
			map[string][]string{"shop/web:80/TCP IPv4": {"10.96.0.1:80/6 ClusterIP", "203.0.113.7:80/6 ExternalIP"}},
		},
		"B2/addresses that are nobody's": {
			webService(externalIPs("0.0.0.0", "127.0.0.1", "169.254.20.10", "224.0.0.1")),
			map[string][]string{"shop/web:80/TCP IPv4": {"10.96.0.1:80/6 ClusterIP"}},
		},
		"B5/load balancer": {
			webService(loadBalancer("203.0.113.7", "2001:db8::7"), dualStack), map[string][]string{
				"shop/web:80/TCP IPv4": {"10.96.0.1:80/6 ClusterIP", "203.0.113.7:80/6 LoadBalancer"},
				"shop/web:80/TCP IPv6": {"[fd00:96::1]:80/6 ClusterIP", "[2001:db8::7]:80/6 LoadBalancer"},
			},
		},
		"A10/load balancer without node port": {
			webService(loadBalancer("203.0.113.7"), nodePort(0)),
			map[string][]string{"shop/web:80/TCP IPv4": {"10.96.0.1:80/6 ClusterIP", "203.0.113.7:80/6 LoadBalancer"}},
		},
		"B2/one address twice": {
			webService(loadBalancer("203.0.113.7"), externalIPs("203.0.113.7", "10.96.0.1", "203.0.113.7")),
			map[string][]string{"shop/web:80/TCP IPv4": {"10.96.0.1:80/6 ClusterIP", "203.0.113.7:80/6 LoadBalancer"}},
		},
		"E8/source ranges bind clients, not frontends": {
			webService(loadBalancer("203.0.113.7", "2001:db8::7"), externalIPs("203.0.113.8"), dualStack, sources("192.168.0.0/16")),
			map[string][]string{
				"shop/web:80/TCP IPv4": {"10.96.0.1:80/6 ClusterIP", "203.0.113.7:80/6 LoadBalancer", "203.0.113.8:80/6 ExternalIP"},
				"shop/web:80/TCP IPv6": {"[fd00:96::1]:80/6 ClusterIP", "[2001:db8::7]:80/6 LoadBalancer"},
			},
		},
		"E8/a range that holds everything": {
			webService(loadBalancer("203.0.113.7"), sources("192.168.0.0/16", "0.0.0.0/0")),
			map[string][]string{"shop/web:80/TCP IPv4": {"10.96.0.1:80/6 ClusterIP", "203.0.113.7:80/6 LoadBalancer"}},
		},
		"headless": {webService(nodePort(30080), func(s *cluster.Service) { s.Headless, s.ClusterIPs = true, nil }), map[string][]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := map[string][]string{}
			for _, p := range Select(tt.svc, nil, thisNode) {
				for _, f := range p.Frontends {
					if f.Kind == bpf.ServiceAddress {
						continue // see TestServiceAddresses
					}
					got[p.ID.String()] = append(got[p.ID.String()], fmt.Sprint(f, " ", f.Kind))
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("frontends differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSelectPorts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		svc  *cluster.Service
		want []string
	}{
		"gone":          {nil, nil},
		"headless":      {webService(func(s *cluster.Service) { s.Headless, s.ClusterIPs = true, nil }), nil},
		"external name": {webService(func(s *cluster.Service) { s.ExternalName = "example.org" }), nil},
		"foreign proxy": {webService(func(s *cluster.Service) { s.NamesProxy, s.ProxyName = true, "other" }), nil},
		"single stack":  {webService(), []string{"shop/web:80/TCP IPv4"}},
		"dual stack, two ports": {
			webService(func(s *cluster.Service) {
				s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr("fd00:96::1"))
				s.Ports = append(s.Ports, cluster.ServicePort{Name: "dns", Protocol: cluster.UDP, Port: 53})
			}),
			[]string{"shop/web:53/UDP IPv4", "shop/web:53/UDP IPv6", "shop/web:80/TCP IPv4", "shop/web:80/TCP IPv6"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range Select(tt.svc, nil, thisNode) {
				got = append(got, p.ID.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("ports differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSelectNodeDNS(t *testing.T) {
	t.Parallel()
	svc := webService(func(s *cluster.Service) {
		s.Name = thisNode.DNS
		s.Ports = []cluster.ServicePort{{Name: "dns", Protocol: cluster.UDP, Port: 53}, {Name: "metrics", Protocol: cluster.TCP, Port: 9153}}
	})
	svc.ClusterIPs = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::10")}
	node := thisNode
	for _, listener := range []string{"169.254.20.10", "fd6e::53"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(listener), 53)
		node.DNSListener = []netip.Addr{at.Addr()}
		for _, p := range Select(svc, nil, node) {
			want := p.ID.Port == 53 && p.ID.IPv6 == at.Addr().Is6()
			has := slices.Contains(p.Frontends, Frontend{bpf.Frontend{Addr: at, Protocol: uint8(p.ID.Protocol)}, bpf.NodeDNS})
			if p.Block.NodeDNS != want || has != want {
				t.Errorf("%s, listener %s: NodeDNS is %v, its frontend %v, want %v", p.ID, at, p.Block.NodeDNS, has, want)
			}
		}
	}
}
