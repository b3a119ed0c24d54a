package service

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

func proxyName(name string) func(*cluster.Service) {
	return func(s *cluster.Service) { s.NamesProxy, s.ProxyName = true, name }
}

func protocol(p cluster.Protocol) func(*cluster.Service) {
	return func(s *cluster.Service) { s.Ports[0].Protocol = p }
}

func forZones(zones ...string) func(*cluster.Endpoint) {
	return func(e *cluster.Endpoint) { e.ForZones = zones }
}

// rendered is all that Select says of a Service, a line for each frontend and one for each block.
func rendered(svc *cluster.Service, slices []*cluster.EndpointSlice, node Node) (lines []string) {
	for _, p := range Select(svc, slices, node) {
		for _, f := range p.Frontends {
			lines = append(lines, fmt.Sprintf("%s %s", f, f.Kind))
		}
		lines = append(lines, describe(p.Block))
	}
	return lines
}

// TestRowsWithoutFrontends: whose Services are served.
func TestRowsWithoutFrontends(t *testing.T) {
	t.Parallel()
	mine := Node{Name: "node-a", ProxyName: "mine"}
	for name, tt := range map[string]struct {
		svc    *cluster.Service
		node   Node
		served bool
	}{
		"A1 no label":                           {webService(), thisNode, true},
		"A1 another proxy's":                    {webService(proxyName("other")), thisNode, false},
		"A1 a label without a value":            {webService(proxyName("")), thisNode, false},
		"A1 ours by name":                       {webService(proxyName("mine")), mine, true},
		"A1 by name, those of no name are not":  {webService(), mine, false},
		"A1 by name, another's":                 {webService(proxyName("other")), mine, false},
		"A1 by name, a label without a value":   {webService(proxyName("")), mine, false},
		"A1 headless":                           {webService(func(s *cluster.Service) { s.Headless, s.ClusterIPs = true, nil }), thisNode, false},
		"A1 external name":                      {webService(func(s *cluster.Service) { s.ExternalName, s.ClusterIPs = "x.example", nil }), thisNode, false},
		"A1 no cluster IP":                      {webService(nodePort(30080), func(s *cluster.Service) { s.ClusterIPs = nil }), thisNode, false},
		"A9 fields that DNS alone reads change": {webService(func(s *cluster.Service) { s.PublishNotReady = true }), thisNode, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := len(Select(tt.svc, nil, tt.node)) > 0; got != tt.served {
				t.Errorf("served: %t, want %t", got, tt.served)
			}
		})
	}
}

// TestRows holds frontends and blocks together against the rows that have both.
func TestRows(t *testing.T) {
	t.Parallel()
	node := thisNode
	node.Zone, node.Addrs = "z1", addrs("192.168.0.7", "fd00:7::7")
	gated := node
	gated.NoExternalIPs = true
	const cip, addr = "10.96.0.1:80/6 ClusterIP", "10.96.0.1:0/0 address"
	ready := endpoint("10.0.0.1")
	for name, tt := range map[string]struct {
		svc    *cluster.Service
		slices []*cluster.EndpointSlice
		node   Node
		want   []string
	}{
		"A2 all slices of a Service": {
			webService(), []*cluster.EndpointSlice{slice(endpoint("10.0.0.2")), slice(endpoint("10.0.0.1"), endpoint("10.0.0.2"))}, node,
			[]string{cip, addr, "cluster [10.0.0.1:8080 10.0.0.2:8080]"},
		},
		"A4 the one that does not terminate, though it is not ready": {
			webService(), []*cluster.EndpointSlice{
				slice(endpoint("10.0.0.1", func(e *cluster.Endpoint) { e.Terminating = true })), slice(endpoint("10.0.0.1", dead)), slice(endpoint("10.0.0.2")),
			}, node,
			[]string{cip, addr, "cluster [10.0.0.2:8080]"},
		},
		"A4 port names that lead to one address": {
			webService(func(s *cluster.Service) {
				s.Ports = append(s.Ports, cluster.ServicePort{Name: "admin", Protocol: cluster.TCP, Port: 81})
			}),
			[]*cluster.EndpointSlice{{
				Service: web, Endpoints: []cluster.Endpoint{ready},
				Ports: []cluster.EndpointPort{{Name: "http", Protocol: cluster.TCP, Port: 8080}, {Name: "admin", Protocol: cluster.TCP, Port: 8080}},
			}}, node,
			[]string{cip, addr, "cluster [10.0.0.1:8080]", "10.96.0.1:81/6 ClusterIP", "cluster [10.0.0.1:8080]"},
		},
		"A5 ready counts, also of one that terminates": {
			webService(), []*cluster.EndpointSlice{slice(endpoint("10.0.0.1", func(e *cluster.Endpoint) { e.Terminating, e.Serving = true, false }), endpoint("10.0.0.2", draining))}, node,
			[]string{cip, addr, "cluster [10.0.0.1:8080]"},
		},
		"A6 local is by the node's name": {
			webService(internalLocal), []*cluster.EndpointSlice{slice(ready, endpoint("10.0.0.9", local))}, node,
			[]string{cip, addr, "cluster [], local [10.0.0.9:8080], local from inside"},
		},
		"A6 no name, nothing is local": {
			webService(internalLocal), []*cluster.EndpointSlice{slice(ready, endpoint("10.0.0.9", func(e *cluster.Endpoint) { e.NodeName = "" }))}, Node{},
			[]string{cip, addr, "cluster [], local [], dropped from inside"},
		},
		"A7 families apart": {
			webService(dualStack), []*cluster.EndpointSlice{slice(ready)}, node,
			[]string{cip, addr, "cluster [10.0.0.1:8080]", "[fd00:96::1]:80/6 ClusterIP", "[fd00:96::1]:0/0 address", "cluster []"},
		},
		"A11 one address frontend per cluster IP, whatever the number of ports": {
			webService(func(s *cluster.Service) {
				s.Ports = append(s.Ports, cluster.ServicePort{Name: "dns", Protocol: cluster.UDP, Port: 53})
			}), nil, node,
			[]string{"10.96.0.1:53/17 ClusterIP", addr, "cluster []", cip, "cluster []"},
		},
		"B2 gate off": {
			webService(externalIPs("203.0.113.8")), nil, gated, []string{cip, addr, "cluster []"},
		},
		"B2 gate off, the load balancer stays": {
			webService(externalIPs("203.0.113.8"), loadBalancer("203.0.113.7")), nil, gated,
			[]string{cip, "203.0.113.7:80/6 LoadBalancer", addr, "cluster []"},
		},
		"B9 protocols apart": {
			webService(func(s *cluster.Service) {
				s.Ports = append(s.Ports, cluster.ServicePort{Name: "http", Protocol: cluster.UDP, Port: 80})
			}), []*cluster.EndpointSlice{slice(ready)}, node,
			[]string{cip, addr, "cluster [10.0.0.1:8080]", "10.96.0.1:80/17 ClusterIP", "cluster []"},
		},
		"C3 hints leave terminating ones and the local list alone": {
			webService(nodePort(30080), externalLocal), []*cluster.EndpointSlice{slice(
				endpoint("10.0.0.1", forZones("z1")), endpoint("10.0.0.2", forZones("z2")), endpoint("10.0.0.3", local, forZones("z2")), endpoint("10.0.0.4", draining),
			)}, node,
			[]string{cip, "0.0.0.0:30080/6 NodePort", addr, "cluster [10.0.0.1:8080], local [10.0.0.3:8080], local from outside"},
		},
		"C5 an external policy Local that only a refused short cut could use": {
			webService(loadBalancer("203.0.113.7"), externalLocal, func(s *cluster.Service) { s.Ports[0].NoShortcut = true }), []*cluster.EndpointSlice{slice(ready)}, node,
			[]string{cip, addr, "cluster [10.0.0.1:8080]"},
		},
		"K24 no short cut past a listener that ends TLS": {
			webService(loadBalancer("203.0.113.7"), externalIPs("203.0.113.8"), nodePort(30080), func(s *cluster.Service) { s.Ports[0].NoShortcut = true }), nil, node,
			[]string{cip, "0.0.0.0:30080/6 NodePort", "203.0.113.8:80/6 ExternalIP", addr, "cluster []"},
		},
		"E8 ranges of the family": {
			webService(loadBalancer("203.0.113.7", "2001:db8::7"), dualStack, sources("10.8.0.0/16", "10.1.0.0/16", "10.1.0.0/16")), nil, node,
			[]string{
				cip, "203.0.113.7:80/6 LoadBalancer", addr, "cluster [], from [10.1.0.0/16 10.8.0.0/16]",
				"[fd00:96::1]:80/6 ClusterIP", "[2001:db8::7]:80/6 LoadBalancer", "[fd00:96::1]:0/0 address", "cluster []",
			},
		},
		"E8 a range that holds everything": {
			webService(loadBalancer("203.0.113.7"), sources("10.1.0.0/16", "0.0.0.0/0")), nil, node,
			[]string{cip, "203.0.113.7:80/6 LoadBalancer", addr, "cluster []"},
		},
		"E8 a range with the node admits the load balancer's own address": {
			webService(loadBalancer("203.0.113.7"), sources("192.168.0.0/24")), nil, node,
			[]string{cip, "203.0.113.7:80/6 LoadBalancer", addr, "cluster [], from [192.168.0.0/24 203.0.113.7/32]"},
		},
		"E8 ranges bind nothing but load balancers": {
			webService(nodePort(30080), externalIPs("203.0.113.8"), sources("10.1.0.0/16")), nil, node,
			[]string{cip, "0.0.0.0:30080/6 NodePort", "203.0.113.8:80/6 ExternalIP", addr, "cluster []"},
		},
		"E8 an address that is both is bound": {
			webService(loadBalancer("203.0.113.7"), externalIPs("203.0.113.7"), sources("10.1.0.0/16")), nil, node,
			[]string{cip, "203.0.113.7:80/6 LoadBalancer", addr, "cluster [], from [10.1.0.0/16]"},
		},
		"F1 affinity shared by all frontends of a port": {
			webService(nodePort(30080), loadBalancer("203.0.113.7"), func(s *cluster.Service) { s.Affinity = 3 * time.Hour }), nil, node,
			[]string{cip, "0.0.0.0:30080/6 NodePort", "203.0.113.7:80/6 LoadBalancer", addr, "cluster [], affinity 3h0m0s"},
		},
		"G1 SCTP": {
			webService(nodePort(30080), protocol(cluster.SCTP)), []*cluster.EndpointSlice{{
				Service: web, Endpoints: []cluster.Endpoint{ready}, Ports: []cluster.EndpointPort{{Name: "http", Protocol: cluster.SCTP, Port: 8080}},
			}}, node,
			[]string{"10.96.0.1:80/132 ClusterIP", "0.0.0.0:30080/132 NodePort", addr, "cluster [10.0.0.1:8080]"},
		},
		"G2 a UDP flow stays with what serves": {
			webService(protocol(cluster.UDP)), []*cluster.EndpointSlice{{
				Service: web, Ports: []cluster.EndpointPort{{Name: "http", Protocol: cluster.UDP, Port: 8080}},
				Endpoints: []cluster.Endpoint{
					endpoint("10.0.0.1", forZones("z1")), endpoint("10.0.0.2", forZones("z2")), endpoint("10.0.0.3", draining), endpoint("10.0.0.4", dead),
				},
			}}, node,
			[]string{"10.96.0.1:80/17 ClusterIP", addr, "cluster [10.0.0.1:8080], draining [10.0.0.2:8080 10.0.0.3:8080]"},
		},
		"G2 with the internal policy Local it stays with endpoints elsewhere": {
			webService(protocol(cluster.UDP), internalLocal), []*cluster.EndpointSlice{{
				Service: web, Ports: []cluster.EndpointPort{{Name: "http", Protocol: cluster.UDP, Port: 8080}}, Endpoints: []cluster.Endpoint{ready},
			}}, node,
			[]string{"10.96.0.1:80/17 ClusterIP", addr, "cluster [], local [], dropped from inside, draining [10.0.0.1:8080]"},
		},
		"G3 TCP needs no draining: its flows stay anyway": {
			webService(), []*cluster.EndpointSlice{slice(ready, endpoint("10.0.0.3", draining))}, node,
			[]string{cip, addr, "cluster [10.0.0.1:8080]"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, rendered(tt.svc, tt.slices, tt.node)); diff != "" {
				t.Errorf("selected differs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRowH1LocalReady: addresses count once, ready ones only, of this node, in any slice a proxy sees.
func TestRowH1LocalReady(t *testing.T) {
	t.Parallel()
	headless := slice(endpoint("10.0.0.6", local))
	headless.Headless = true
	v4, v6 := LocalReady([]*cluster.EndpointSlice{
		slice(endpoint("10.0.0.1", local), endpoint("10.0.0.2", local, draining), endpoint("10.0.0.3"), endpoint("10.0.0.4", local)),
		slice(endpoint("10.0.0.1", local), endpoint("fd00::1", local)), headless,
	}, thisNode)
	if v4 != 2 || v6 != 1 {
		t.Errorf("%d IPv4 and %d IPv6 addresses, want 2 and 1", v4, v6)
	}
}

// TestServiceAddresses: the address of a Service stays refused-for as long as one of its ports is left, and two Services
// that claim one address have no conflict about that beside the one about the port.
func TestServiceAddresses(t *testing.T) {
	t.Parallel()
	m := newFakeMaps()
	tab := must(adopt(m))
	two := webService(func(s *cluster.Service) {
		s.Ports = append(s.Ports, cluster.ServicePort{Name: "dns", Protocol: cluster.UDP, Port: 53})
	})
	step := func(want map[cluster.Name][]Port, conflicts int) {
		t.Helper()
		plan, refused := tab.plan(want, false)
		if len(refused) != conflicts {
			t.Fatalf("refused %v, want %d", refused, conflicts)
		}
		for _, op := range append(slices.Concat(plan.Grow...), plan.Shrink...) {
			if err := op.apply(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	address := bpf.Frontend{Addr: netip.MustParseAddrPort("10.96.0.1:0")}
	has := func(want bool) {
		t.Helper()
		if e, ok := m.frontends[address]; ok != want || ok && e.kind != bpf.ServiceAddress {
			t.Errorf("A11 the address is there: %t (%s), want %t", ok, e.kind, want)
		}
	}
	step(map[cluster.Name][]Port{web: Select(two, nil, thisNode)}, 0)
	has(true)
	step(map[cluster.Name][]Port{web: Select(webService(), nil, thisNode)}, 0) // port 53 goes, which came first
	has(true)
	rival := cluster.Name{Namespace: "shop", Name: "rival"}
	ports := Select(webService(func(s *cluster.Service) { s.Name, s.Created = rival, time.Unix(1, 0) }), nil, thisNode)
	step(map[cluster.Name][]Port{rival: ports}, 1)
	step(map[cluster.Name][]Port{web: nil}, 0)
	has(true)
	step(map[cluster.Name][]Port{rival: nil}, 0)
	has(false)
}

// TestRowA11Networks: what Services get cluster IPs from is told when it changes, by Snapshot or configuration, and other
// proxies' addresses are spared.
func TestRowA11Networks(t *testing.T) {
	t.Parallel()
	store, m := world(), newFakeMaps()
	store.Update(func(e *cluster.Edit) {
		e.PutServiceCIDR(&cluster.ServiceCIDR{Name: "kubernetes", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}})
	})
	told := make(chan string, 10)
	_, _ = reconcileWith(t, store, m, func(c *Config) {
		c.Networks = func(services, spared []netip.Prefix) { told <- fmt.Sprint(services, spared) }
	})
	expect := func(want string) {
		t.Helper()
		if got := <-told; got != want {
			t.Errorf("told %s, want %s", got, want)
		}
	}
	expect("[10.96.0.0/12] []")
	mesh := cluster.Name{Namespace: "shop", Name: "mesh"}
	store.Update(func(e *cluster.Edit) {
		e.PutService(webService(proxyName("mesh"), func(s *cluster.Service) { s.Name, s.ClusterIPs = mesh, addrs("10.96.0.5") }))
	})
	expect("[10.96.0.0/12] [10.96.0.5/32]")
	store.Update(func(e *cluster.Edit) {
		e.PutServiceCIDR(&cluster.ServiceCIDR{Name: "more", CIDRs: []netip.Prefix{netip.MustParsePrefix("172.21.0.0/16")}})
	})
	expect("[10.96.0.0/12 172.21.0.0/16] [10.96.0.5/32]")
	store.Update(func(e *cluster.Edit) { e.DeleteService(mesh) })
	expect("[10.96.0.0/12 172.21.0.0/16] []")
	crowd := func(edit func(*cluster.Edit, *cluster.Service)) {
		store.Update(func(e *cluster.Edit) {
			for i := range maxSpared + 1 {
				edit(e, webService(proxyName("mesh"), func(s *cluster.Service) {
					s.Name.Name, s.ClusterIPs = fmt.Sprint("mesh", i), []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(4 + i>>8), byte(i)})}
				}))
			}
		})
	}
	crowd((*cluster.Edit).PutService)
	expect("[] [10.96.0.0/12 172.21.0.0/16]")
	crowd(func(e *cluster.Edit, s *cluster.Service) { e.DeleteService(s.Name) })
	expect("[10.96.0.0/12 172.21.0.0/16] []")

	_, _ = reconcileWith(t, store, newFakeMaps(), func(c *Config) {
		c.CIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		c.Networks = func(services, spared []netip.Prefix) { told <- fmt.Sprint(services, spared) }
	})
	expect("[10.0.0.0/8] []")
}

// TestConflictsAreSeen: the Service that loses an address has an event, once as long as it loses it, and the winner is
// served: "malformed objects never disturb other Services".
func TestConflictsAreSeen(t *testing.T) {
	t.Parallel()
	store, m := world(), newFakeMaps()
	younger := webService(nodePort(30080), func(s *cluster.Service) {
		s.Name, s.UID, s.Created = cluster.Name{Namespace: "shop", Name: "younger"}, "u2", time.Unix(2, 0)
		s.ClusterIPs = addrs("10.96.0.2")
	})
	store.Update(func(e *cluster.Edit) {
		e.PutService(webService(nodePort(30080)))
		e.PutService(younger)
	})
	told := make(chan string, 10)
	synced := make(chan Sync, 10)
	_, _ = reconcileWith(t, store, m, func(c *Config) {
		c.Warn = func(about cluster.Object, reason, message string) {
			told <- fmt.Sprintf("%s %s %s: %s: %s", about.Kind, about.Name, about.UID, reason, message)
		}
		c.Synced = func(s Sync) { synced <- s }
	})
	want := "Service shop/younger u2: PortConflict: serve shop/younger:80/TCP IPv4 at 0.0.0.0:30080/6: shop/web:80/TCP IPv4 has it and is older"
	if got := <-told; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	<-synced
	store.Update(func(e *cluster.Edit) { e.PutSlice(slice(endpoint("10.0.0.7"))) })
	if s := <-synced; s.Err != nil || s.Change.Full || !slices.Equal(s.Change.Services, []cluster.Name{web}) {
		t.Errorf("synced %+v, want the web Service's change and no error", s)
	}
	if len(told) > 0 {
		t.Errorf("told again: %q", <-told)
	}
	for f, want := range map[string]string{
		"0.0.0.0:30080/6": "NodePort, cluster [10.0.0.7:8080]", "10.96.0.2:80/6": "ClusterIP, cluster []",
	} {
		if got := m.serves()[f]; got != want {
			t.Errorf("%s serves %q, want %q", f, got, want)
		}
	}
}
