package externaldns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/nearpath/nearpath/internal/cluster"
)

func ips(texts ...string) (addrs []netip.Addr) {
	for _, text := range texts {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

// noted are annotations under the prefix of today, from keys and values in turn.
func noted(pairs ...string) map[string]string {
	annotations := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		annotations[prefixNow+pairs[i]] = pairs[i+1]
	}
	return annotations
}

func shopMeta(name string, pairs ...string) cluster.Meta {
	return cluster.Meta{Name: cluster.Name{Namespace: "shop", Name: name}, UID: "u-" + name, Created: time.Unix(100, 0), Annotations: noted(pairs...)}
}

func testService(kind corev1.ServiceType, pairs ...string) *cluster.Service {
	m := shopMeta("web", pairs...)
	svc := &cluster.Service{
		Name: m.Name, UID: m.UID, Created: m.Created, ClusterIPs: ips("10.96.0.7", "fd00::7"),
		Ports:    []cluster.ServicePort{{Name: "http", Protocol: cluster.TCP, Port: 80, NodePort: 30080}, {Name: "dns", Protocol: cluster.UDP, Port: 53}},
		Exposure: &cluster.Exposure{Type: kind, Annotations: m.Annotations},
	}
	return svc
}

func headlessService(pairs ...string) *cluster.Service {
	svc := testService(corev1.ServiceTypeClusterIP, pairs...)
	svc.ClusterIPs, svc.Headless = nil, true
	return svc
}

func testSlice(endpoints ...cluster.Endpoint) *cluster.EndpointSlice {
	return &cluster.EndpointSlice{Name: cluster.Name{Namespace: "shop", Name: "web-1"}, Service: cluster.Name{Namespace: "shop", Name: "web"}, Endpoints: endpoints}
}

func readyEndpoint(addr, hostname, node string) cluster.Endpoint {
	return cluster.Endpoint{Addr: netip.MustParseAddr(addr), Hostname: hostname, NodeName: node, Ready: true, Serving: true}
}

func testNode(name string, internal, external []netip.Addr, pairs ...string) *cluster.Node {
	m := shopMeta(name, pairs...)
	m.Name.Namespace = ""
	m.Labels = map[string]string{"zone": "h"}
	return &cluster.Node{Meta: m, InternalIPs: internal, ExternalIPs: external}
}

func readyPod(name string, pairs ...string) *cluster.Pod {
	m := shopMeta(name, pairs...)
	return &cluster.Pod{
		Name: m.Name, UID: m.UID, Created: m.Created, Annotations: m.Annotations, Labels: map[string]string{"app": "web"}, Node: "node-a",
		Addrs: ips("10.0.0.5", "fd00::5"), Phase: cluster.PodRunning, Ready: true,
	}
}

func allSources() []Source {
	return []Source{SourceService, SourcePod, SourceNode, SourceIngress, SourceHTTPRoute, SourceDNSEndpoint}
}

// fullChange is what the first Change of a Subscription would be.
func fullChange(objects cluster.Objects) cluster.Change {
	store := cluster.NewNameStore()
	store.Replace(objects)
	return cluster.Change{Snapshot: store.Snapshot(), Full: true}
}

func newTestWants(tb testing.TB, r Rules) *Wants {
	tb.Helper()
	if r.Sources == nil {
		r.Sources = allSources()
	}
	w, err := NewWants(r)
	if err != nil {
		tb.Fatal(err)
	}
	return w
}

func wantLines(w *Wants) (lines []string) {
	for _, wants := range w.All() {
		for _, want := range wants {
			lines = append(lines, want.String())
		}
	}
	return lines
}

func problemReasons(problems []Problem) (reasons []string) {
	for _, p := range problems {
		reasons = append(reasons, p.Object.Kind+" "+p.Object.Name+" "+p.Reason)
	}
	return reasons
}

// A wantCase is what comes of some objects.
type wantCase struct {
	rules    Rules
	objects  cluster.Objects
	want     []string
	problems []string // object and reason
	message  string   // part of some problem's
}

func (tt wantCase) run(t *testing.T) {
	t.Helper()
	w := newTestWants(t, tt.rules)
	touched, problems := w.Apply(fullChange(tt.objects))
	if diff := cmp.Diff(tt.want, wantLines(w)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(tt.problems, problemReasons(problems)); diff != "" {
		t.Errorf("problems -want +got:\n%s\n%v", diff, problems)
	}
	if !slices.ContainsFunc(problems, func(p Problem) bool { return strings.Contains(p.Message, tt.message) }) && tt.message != "" {
		t.Errorf("problems %v, none says %q", problems, tt.message)
	}
	var names []string
	for name := range w.All() {
		names = append(names, name)
	}
	if !slices.Equal(touched, names) {
		t.Errorf("touched %q, want %q", touched, names)
	}
	if !slices.Equal(problems, w.Problems()) {
		t.Errorf("problems are %v, reported were %v", w.Problems(), problems)
	}
}

func services(list ...*cluster.Service) cluster.Objects { return cluster.Objects{Services: list} }

func TestWantsOfServices(t *testing.T) {
	t.Parallel()
	twoNodes := []*cluster.Node{
		testNode("node-a", ips("192.168.0.1", "fd00:1::1"), ips("47.0.0.1")), testNode("node-b", ips("192.168.0.2"), nil),
	}
	balanced := func(external []netip.Addr, lb cluster.LoadBalancer, pairs ...string) cluster.Objects {
		svc := testService(corev1.ServiceTypeLoadBalancer, pairs...)
		svc.Exposure.ExternalIPs, svc.Exposure.LoadBalancer = external, lb
		return services(svc)
	}
	external := func(name string, addrs []netip.Addr) cluster.Objects {
		svc := testService(corev1.ServiceTypeExternalName, "hostname", "db.corp")
		svc.ClusterIPs, svc.ExternalName, svc.Exposure.ExternalIPs = nil, name, addrs
		return services(svc)
	}
	nodePort := func(change func(*cluster.Service), pairs ...string) cluster.Objects {
		svc := testService(corev1.ServiceTypeNodePort, pairs...)
		if change != nil {
			change(svc)
		}
		terminating := readyEndpoint("10.0.0.2", "", "node-a")
		terminating.Terminating = true
		return cluster.Objects{Services: []*cluster.Service{svc}, Nodes: twoNodes, Slices: []*cluster.EndpointSlice{testSlice(readyEndpoint("10.0.0.1", "", "node-b"), terminating)}}
	}
	for name, tt := range map[string]wantCase{
		"nothing asked": {objects: services(testService(corev1.ServiceTypeClusterIP))},
		"both families": {
			objects: services(testService(corev1.ServiceTypeClusterIP, "internal-hostname", "Web.Corp., b.corp ,,web.corp")),
			want:    []string{"b.corp 60 A 10.96.0.7", "b.corp 60 AAAA fd00::7", "web.corp 60 A 10.96.0.7", "web.corp 60 AAAA fd00::7"},
		},
		"hostname of an internal Service": {
			objects:  services(testService(corev1.ServiceTypeClusterIP, "hostname", "web.corp")),
			problems: []string{"Service web InternalNotPublished"}, message: "internal-hostname",
		},
		"hostname of an internal Service, published": {
			rules:   Rules{PublishInternal: true},
			objects: services(testService(corev1.ServiceTypeClusterIP, "hostname", "web.corp")),
			want:    []string{"web.corp 60 A 10.96.0.7", "web.corp 60 AAAA fd00::7"},
		},
		"target, whatever the type": {
			objects: services(testService(corev1.ServiceTypeClusterIP, "hostname", "web.corp", "target", "10.9.9.9, fd00::9", "ttl", "30s")),
			want:    []string{"web.corp 30 A 10.9.9.9", "web.corp 30 AAAA fd00::9"},
		},
		"a bad target": {
			objects:  services(testService(corev1.ServiceTypeClusterIP, "hostname", "web.corp", "target", "10.9.9.9,a b!")),
			want:     []string{"web.corp 60 A 10.9.9.9"},
			problems: []string{"Service web InvalidValue"}, message: `annotation target: "ab!" cannot be published`,
		},
		"load balancer": {
			objects: balanced(nil, cluster.LoadBalancer{Addrs: ips("10.1.1.1", "fd00::1")}, "hostname", "web.corp", "internal-hostname", "in.corp"),
			want:    []string{"in.corp 60 A 10.96.0.7", "in.corp 60 AAAA fd00::7", "web.corp 60 A 10.1.1.1", "web.corp 60 AAAA fd00::1"},
		},
		"load balancer with a hostname": {
			objects: balanced(nil, cluster.LoadBalancer{Hostnames: []string{"lb.example.com."}}, "hostname", "web.corp"),
			want:    []string{"web.corp 60 CNAME lb.example.com"},
		},
		"load balancer with both: addresses go first": {
			objects:  balanced(nil, cluster.LoadBalancer{Addrs: ips("10.1.1.1"), Hostnames: []string{"lb.example.com"}}, "hostname", "web.corp"),
			want:     []string{"web.corp 60 A 10.1.1.1"},
			problems: []string{"Service web NameConflict"},
		},
		"load balancer not there yet": {objects: balanced(nil, cluster.LoadBalancer{}, "hostname", "web.corp")},
		"external addresses go first": {
			objects: balanced(ips("1.2.3.4"), cluster.LoadBalancer{Addrs: ips("10.1.1.1")}, "hostname", "web.corp"),
			want:    []string{"web.corp 60 A 1.2.3.4"},
		},
		"external name":               {objects: external("db.example.com", nil), want: []string{"db.corp 60 CNAME db.example.com"}},
		"external name, an address":   {objects: external("10.8.0.1", nil), want: []string{"db.corp 60 A 10.8.0.1"}},
		"external name and addresses": {objects: external("db.example.com", ips("10.8.0.2")), want: []string{"db.corp 60 A 10.8.0.2"}},
		"external name of itself":     {objects: external("DB.corp", nil), problems: []string{"Service web InvalidValue"}},
		"node port": {
			objects: nodePort(nil, "hostname", "web.corp"),
			want: []string{
				"_http._tcp.web.corp 60 SRV 0 50 30080 web.corp", "web.corp 60 A 47.0.0.1", "web.corp 60 AAAA fd00:1::1",
			},
		},
		"node port, private": {
			objects: nodePort(nil, "hostname", "web.corp", "access", "private"),
			want: []string{
				"_http._tcp.web.corp 60 SRV 0 50 30080 web.corp", "web.corp 60 A 192.168.0.1", "web.corp 60 A 192.168.0.2", "web.corp 60 AAAA fd00:1::1",
			},
		},
		"node port inside: the Service's own port": {
			objects: nodePort(nil, "internal-hostname", "web.corp"),
			want: []string{
				"_dns._udp.web.corp 60 SRV 0 50 53 web.corp", "_http._tcp.web.corp 60 SRV 0 50 80 web.corp", "web.corp 60 A 10.96.0.7", "web.corp 60 AAAA fd00::7",
			},
		},
		"node port, local": {
			rules:   Rules{Access: "private"},
			objects: nodePort(func(svc *cluster.Service) { svc.ExternalLocal = true }, "hostname", "web.corp"),
			want:    []string{"_http._tcp.web.corp 60 SRV 0 50 30080 web.corp", "web.corp 60 A 192.168.0.2"},
		},
		"node port, a wildcard and a port without a name": {
			rules: Rules{Access: "private"},
			objects: nodePort(func(svc *cluster.Service) {
				svc.ExternalLocal, svc.Ports = true, []cluster.ServicePort{{Protocol: cluster.TCP, Port: 80, NodePort: 30080}}
			}, "hostname", "*.web.corp,web.corp"),
			want: []string{"*.web.corp 60 A 192.168.0.2", "_web._tcp.web.corp 60 SRV 0 50 30080 web.corp", "web.corp 60 A 192.168.0.2"},
		},
		"unknown access": {
			objects:  nodePort(nil, "hostname", "web.corp", "access", "all", "ttl", "5"),
			want:     []string{"_http._tcp.web.corp 5 SRV 0 50 30080 web.corp", "web.corp 5 A 47.0.0.1", "web.corp 5 AAAA fd00:1::1"},
			problems: []string{"Service web UnknownAnnotationValue"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.run(t)
		})
	}
}

func TestWantsOfHeadlessServices(t *testing.T) {
	t.Parallel()
	down := readyEndpoint("10.0.0.2", "web-1", "node-a")
	down.Ready = false
	leaving := readyEndpoint("10.0.0.3", "", "node-a")
	leaving.Terminating = true
	endpoints := testSlice(readyEndpoint("10.0.0.1", "web-0", "node-a"), down, leaving, readyEndpoint("fd00::4", "", "node-b"))
	nodes := []*cluster.Node{testNode("node-a", ips("192.168.0.1", "fd00:1::1"), ips("47.0.0.1"))}
	with := func(svc *cluster.Service) cluster.Objects {
		return cluster.Objects{Services: []*cluster.Service{svc}, Slices: []*cluster.EndpointSlice{endpoints}, Nodes: nodes}
	}
	early := headlessService("hostname", "web.corp")
	early.PublishNotReady = true
	for name, tt := range map[string]wantCase{
		"ready ones, and their names": {
			objects: with(headlessService("hostname", "web.corp")),
			want:    []string{"web-0.web.corp 60 A 10.0.0.1", "web.corp 60 A 10.0.0.1", "web.corp 60 AAAA fd00::4"},
		},
		"ready or not": {
			objects: with(early),
			want: []string{
				"web-0.web.corp 60 A 10.0.0.1", "web-1.web.corp 60 A 10.0.0.2", "web.corp 60 A 10.0.0.1", "web.corp 60 A 10.0.0.2", "web.corp 60 A 10.0.0.3",
				"web.corp 60 AAAA fd00::4",
			},
		},
		"a wildcard has no names below": {
			objects: with(headlessService("internal-hostname", "*.web.corp")),
			want:    []string{"*.web.corp 60 A 10.0.0.1", "*.web.corp 60 AAAA fd00::4"},
		},
		"addresses of nodes": {
			objects: with(headlessService("hostname", "web.corp", "endpoints-type", "HostIP")),
			want:    []string{"web-0.web.corp 60 A 192.168.0.1", "web.corp 60 A 192.168.0.1"},
		},
		"outer addresses of nodes": {
			objects: with(headlessService("hostname", "web.corp", "endpoints-type", "NodeExternalIP")),
			want: []string{
				"web-0.web.corp 60 A 47.0.0.1", "web-0.web.corp 60 AAAA fd00:1::1", "web.corp 60 A 47.0.0.1", "web.corp 60 AAAA fd00:1::1",
			},
		},
		"an unknown type of endpoints": {
			objects:  with(headlessService("hostname", "web.corp", "endpoints-type", "x")),
			want:     []string{"web-0.web.corp 60 A 10.0.0.1", "web.corp 60 A 10.0.0.1", "web.corp 60 AAAA fd00::4"},
			problems: []string{"Service web UnknownAnnotationValue"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.run(t)
		})
	}
	w := newTestWants(t, Rules{})
	w.Apply(fullChange(with(headlessService("hostname", "web.corp"))))
	if wants := w.For("web.corp"); !wants[0].Urgent {
		t.Error("addresses of pods are not urgent")
	}
}

func TestWantsOfPods(t *testing.T) {
	t.Parallel()
	pod := func(change func(*cluster.Pod), pairs ...string) cluster.Objects {
		p := readyPod("web-0", pairs...)
		if change != nil {
			change(p)
		}
		return cluster.Objects{Pods: []*cluster.Pod{p}, Nodes: []*cluster.Node{testNode("node-a", ips("192.168.0.1"), ips("47.0.0.1"))}}
	}
	hostNetwork := func(p *cluster.Pod) { p.HostNetwork, p.Addrs = true, ips("192.168.0.1") }
	for name, tt := range map[string]wantCase{
		"both families": {objects: pod(nil, "hostname", "p.corp"), want: []string{"p.corp 60 A 10.0.0.5", "p.corp 60 AAAA fd00::5"}},
		"not ready":     {objects: pod(func(p *cluster.Pod) { p.Ready = false }, "hostname", "p.corp")},
		"terminating":   {objects: pod(func(p *cluster.Pod) { p.Terminating = true }, "hostname", "p.corp", "target", "10.9.9.9")},
		"ended":         {objects: pod(func(p *cluster.Pod) { p.Phase = cluster.PodFailed }, "hostname", "p.corp")},
		"no address":    {objects: pod(func(p *cluster.Pod) { p.Addrs = nil }, "hostname", "p.corp")},
		"host network": {
			objects: pod(hostNetwork, "hostname", "p.corp", "internal-hostname", "in.corp"),
			want:    []string{"in.corp 60 A 192.168.0.1", "p.corp 60 A 47.0.0.1"},
		},
		"host network, private": {objects: pod(hostNetwork, "hostname", "p.corp", "access", "private"), want: []string{"p.corp 60 A 192.168.0.1"}},
		"target":                {objects: pod(nil, "hostname", "p.corp", "target", "x.example.com"), want: []string{"p.corp 60 CNAME x.example.com"}},
		"template": {
			rules: Rules{Templates: []string{"{{.Name}}.{{.Labels.app}}.corp"}, Sources: []Source{SourcePod}}, objects: pod(nil),
			want: []string{"web-0.web.corp 60 A 10.0.0.5", "web-0.web.corp 60 AAAA fd00::5"},
		},
		"of another source": {rules: Rules{Sources: []Source{SourceService}}, objects: pod(nil, "hostname", "p.corp")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.run(t)
		})
	}
}

func TestWantsOfNodes(t *testing.T) {
	t.Parallel()
	nodes := func(pairs ...string) cluster.Objects {
		return cluster.Objects{Nodes: []*cluster.Node{testNode("node-a", ips("192.168.0.1", "fd00:1::1"), nil, pairs...)}}
	}
	for name, tt := range map[string]wantCase{
		"nothing asked": {objects: nodes()},
		"template": {
			rules: Rules{Templates: []string{"{{.Name}}.nodes.corp"}}, objects: nodes("ttl", "1h"),
			want: []string{"node-a.nodes.corp 3600 A 192.168.0.1", "node-a.nodes.corp 3600 AAAA fd00:1::1"},
		},
		"annotation": {objects: nodes("hostname", "n.corp", "access", "public"), want: []string{"n.corp 60 AAAA fd00:1::1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.run(t)
		})
	}
}
