package externaldns

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/cluster"
)

// An edit puts an object, or deletes it.
type edit struct {
	key  string
	make func(*cluster.Edit)
	undo func(*cluster.Edit)
}

func drawIP(t *rapid.T) netip.Addr {
	n := rapid.ByteRange(1, 6).Draw(t, "address")
	if rapid.Bool().Draw(t, "v6") {
		return netip.AddrFrom16([16]byte{0xfd, 15: n})
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, n})
}

func drawIPs(t *rapid.T, most int) []netip.Addr {
	addrs := make([]netip.Addr, rapid.IntRange(0, most).Draw(t, "addresses"))
	for i := range addrs {
		addrs[i] = drawIP(t)
	}
	return addrs
}

func drawHost(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a.corp", "b.corp", "*.corp", "c.org", "bad..corp", ""}).Draw(t, "host")
}

func drawTarget(t *rapid.T) string {
	if rapid.Bool().Draw(t, "a name") {
		return rapid.SampledFrom([]string{"x.corp", "y.corp", "a.corp", "bad name!"}).Draw(t, "target")
	}
	return drawIP(t).String()
}

func drawMeta(t *rapid.T, name string) cluster.Meta {
	m := shopMeta(name)
	m.Created = time.Unix(rapid.Int64Range(1, 4).Draw(t, "created"), 0)
	m.Labels = map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app")}
	maybe := func(key string, draw func(*rapid.T) string) {
		if rapid.IntRange(0, 2).Draw(t, key) == 0 {
			m.Annotations[rapid.SampledFrom([]string{prefixNow, prefixBefore}).Draw(t, "prefix")+key] = draw(t)
		}
	}
	one := func(of ...string) func(*rapid.T) string {
		return func(t *rapid.T) string { return rapid.SampledFrom(of).Draw(t, "value") }
	}
	maybe("hostname", func(t *rapid.T) string { return drawHost(t) + "," + drawHost(t) })
	maybe("internal-hostname", drawHost)
	if rapid.IntRange(0, 3).Draw(t, "with target") == 0 {
		maybe("target", drawTarget)
	}
	maybe("ttl", one("5", "1m", "300", "x"))
	maybe("access", one("public", "private", "x"))
	maybe("endpoints-type", one("HostIP", "NodeExternalIP"))
	maybe("record-type", one("ptr", "a"))
	if rapid.IntRange(0, 9).Draw(t, "of another") == 0 {
		maybe("controller", one("dns-controller", "x"))
	}
	return m
}

func drawService(t *rapid.T, m cluster.Meta) edit {
	svc := &cluster.Service{
		Name: m.Name, UID: m.UID, Created: m.Created, ClusterIPs: drawIPs(t, 2), PublishNotReady: rapid.Bool().Draw(t, "not ready too"),
		ExternalLocal: rapid.Bool().Draw(t, "local"), Ports: []cluster.ServicePort{{Protocol: cluster.TCP, Port: 80, NodePort: 30080}},
		Exposure: &cluster.Exposure{
			Type:   rapid.SampledFrom([]corev1.ServiceType{"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"}).Draw(t, "type"),
			Labels: m.Labels, Annotations: m.Annotations,
			LoadBalancer: cluster.LoadBalancer{Addrs: drawIPs(t, 2), Hostnames: []string{"lb.corp"}[:rapid.IntRange(0, 1).Draw(t, "hostnames")]},
		},
	}
	svc.Headless = svc.Exposure.Type == "ClusterIP" && rapid.Bool().Draw(t, "headless")
	if svc.Exposure.Type == "ExternalName" {
		svc.ExternalName = drawTarget(t)
	}
	return edit{"service " + m.Name.Name, func(e *cluster.Edit) { e.PutService(svc) }, func(e *cluster.Edit) { e.DeleteService(svc.Name) }}
}

func drawSlice(t *rapid.T, m cluster.Meta) edit {
	slice := &cluster.EndpointSlice{Name: m.Name, Service: cluster.Name{Namespace: "shop", Name: rapid.SampledFrom([]string{"s0", "s1", "s2"}).Draw(t, "of")}}
	for range rapid.IntRange(0, 3).Draw(t, "endpoints") {
		slice.Endpoints = append(slice.Endpoints, cluster.Endpoint{
			Addr: drawIP(t), Hostname: rapid.SampledFrom([]string{"", "h"}).Draw(t, "hostname"), NodeName: rapid.SampledFrom([]string{"n0", "n1"}).Draw(t, "node"),
			Ready: rapid.Bool().Draw(t, "ready"), Serving: rapid.Bool().Draw(t, "serving"), Terminating: rapid.Bool().Draw(t, "terminating"),
		})
	}
	return edit{"slice " + m.Name.Name, func(e *cluster.Edit) { e.PutSlice(slice) }, func(e *cluster.Edit) { e.DeleteSlice(slice.Name) }}
}

func drawPod(t *rapid.T, m cluster.Meta) edit {
	pod := &cluster.Pod{
		Name: m.Name, UID: m.UID, Created: m.Created, Labels: m.Labels, Annotations: m.Annotations, Addrs: drawIPs(t, 2), Phase: cluster.PodRunning,
		Node: rapid.SampledFrom([]string{"n0", "n1"}).Draw(t, "node"), HostNetwork: rapid.Bool().Draw(t, "host network"),
		Ready: rapid.IntRange(0, 3).Draw(t, "ready") > 0, Terminating: rapid.IntRange(0, 3).Draw(t, "terminating") == 0,
	}
	return edit{"pod " + m.Name.Name, func(e *cluster.Edit) { e.PutPod(pod) }, func(e *cluster.Edit) { e.DeletePod(pod.Name) }}
}

func drawNode(t *rapid.T, m cluster.Meta) edit {
	m.Name.Namespace = ""
	node := &cluster.Node{Meta: m, InternalIPs: drawIPs(t, 2), ExternalIPs: drawIPs(t, 1), Unschedulable: rapid.Bool().Draw(t, "cordoned")}
	return edit{"node " + m.Name.Name, func(e *cluster.Edit) { e.PutNode(node) }, func(e *cluster.Edit) { e.DeleteNode(m.Name.Name) }}
}

func drawRoute(t *rapid.T, m cluster.Meta) edit {
	route := &cluster.HTTPRoute{Meta: m}
	for range rapid.IntRange(0, 2).Draw(t, "hosts") {
		route.Hostnames = append(route.Hostnames, drawHost(t))
	}
	for range rapid.IntRange(0, 2).Draw(t, "parents") {
		route.Parents = append(route.Parents, cluster.ParentRef{
			Gateway: cluster.Name{Namespace: "shop", Name: rapid.SampledFrom([]string{"g0", "g1"}).Draw(t, "gateway")},
			Section: rapid.SampledFrom([]string{"", "l"}).Draw(t, "section"),
		})
	}
	return edit{"route " + m.Name.Name, func(e *cluster.Edit) { e.PutHTTPRoute(route) }, func(e *cluster.Edit) { e.DeleteHTTPRoute(m.Name) }}
}

func drawGateway(t *rapid.T, m cluster.Meta) edit {
	gateway := &cluster.Gateway{Meta: m, Addresses: []string{drawTarget(t)}, Listeners: []cluster.Listener{{
		Name: rapid.SampledFrom([]string{"l", "m"}).Draw(t, "listener"), Hostname: drawHost(t), From: rapid.SampledFrom([]string{"All", "Same", "Selector", "x"}).Draw(t, "from"),
		Selector: labels.SelectorFromSet(labels.Set{"team": "a"}),
	}}}
	return edit{"gateway " + m.Name.Name, func(e *cluster.Edit) { e.PutGateway(gateway) }, func(e *cluster.Edit) { e.DeleteGateway(m.Name) }}
}

// drawEdit draws an object; few names, so that objects meet.
func drawEdit(t *rapid.T) edit {
	name := func(prefix string) string {
		return prefix + fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "number"))
	}
	switch rapid.IntRange(0, 8).Draw(t, "kind") {
	case 0:
		return drawService(t, drawMeta(t, name("s")))
	case 1:
		return drawSlice(t, drawMeta(t, name("e")))
	case 2:
		return drawPod(t, drawMeta(t, name("p")))
	case 3:
		return drawNode(t, drawMeta(t, name("n")))
	case 4:
		ingress := &cluster.Ingress{Meta: drawMeta(t, name("i")), Hosts: []string{drawHost(t)}, LoadBalancer: cluster.LoadBalancer{Addrs: drawIPs(t, 2)}}
		return edit{"ingress " + ingress.Name.Name, func(e *cluster.Edit) { e.PutIngress(ingress) }, func(e *cluster.Edit) { e.DeleteIngress(ingress.Name) }}
	case 5:
		return drawRoute(t, drawMeta(t, name("r")))
	case 6:
		return drawGateway(t, drawMeta(t, name("g")))
	case 7:
		endpoint := &cluster.DNSEndpoint{Meta: drawMeta(t, name("d")), Records: []cluster.RecordSet{{
			Name: drawHost(t), Type: rapid.SampledFrom([]string{"A", "CNAME", "TXT", "MX", "PTR"}).Draw(t, "type"), Targets: []string{drawTarget(t), drawTarget(t)},
		}}}
		return edit{"endpoint " + endpoint.Name.Name, func(e *cluster.Edit) { e.PutDNSEndpoint(endpoint) }, func(e *cluster.Edit) { e.DeleteDNSEndpoint(endpoint.Name) }}
	default:
		team := map[string]string{"team": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "team")}
		return edit{"namespace", func(e *cluster.Edit) { e.LabelNamespace("shop", team) }, func(e *cluster.Edit) { e.DeleteNamespace("shop") }}
	}
}

func drawRules(t *rapid.T) Rules {
	r := Rules{
		Sources: allSources(), PTR: rapid.Bool().Draw(t, "PTR"), Combine: rapid.Bool().Draw(t, "combine"), PublishInternal: rapid.Bool().Draw(t, "internal"),
		Access: rapid.SampledFrom([]string{"", "public", "private"}).Draw(t, "access of nodes"),
	}
	if rapid.Bool().Draw(t, "templates") {
		r.Templates = []string{"{{.Labels.app}}.corp", "{{.Name}}.{{.Kind}}.corp"}
	}
	if rapid.Bool().Draw(t, "domains") {
		r.Domains = []string{"corp"}
	}
	if rapid.Bool().Draw(t, "labels") {
		r.Labels = "app=a"
	}
	return r
}

// A follower applies what a Store's Subscription tells.
type follower struct {
	store *cluster.Store
	sub   *cluster.Subscription
	wants *Wants
}

func newFollower(t *rapid.T, r Rules) *follower {
	w, err := NewWants(r)
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{store: cluster.NewNameStore(), wants: w}
	f.sub = f.store.Subscribe()
	f.store.Update((*cluster.Edit).MarkSynced)
	f.follow(t)
	return f
}

// follow checks that the names said to be touched are those that are different.
func (f *follower) follow(t *rapid.T) {
	c, err := f.sub.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before, known := maps.Collect(f.wants.All()), f.wants.Problems()
	touched, problems := f.wants.Apply(c)
	after := maps.Collect(f.wants.All())
	var differ []string
	for name, wants := range after {
		if !slices.Equal(wants, before[name]) {
			differ = append(differ, name)
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			differ = append(differ, name)
		}
	}
	slices.Sort(differ)
	for _, name := range differ {
		if !slices.Contains(touched, name) {
			t.Fatalf("%s is different and not among %q", name, touched)
		}
	}
	for _, p := range f.wants.Problems() {
		if !slices.Contains(known, p) && !slices.Contains(problems, p) {
			t.Fatalf("%s is new and not among %v", p, problems)
		}
	}
}

func (f *follower) update(t *rapid.T, change func(*cluster.Edit)) {
	before := f.store.Snapshot()
	f.store.Update(change)
	if f.store.Snapshot() != before {
		f.follow(t)
	}
}

func TestWantsFollowChanges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rules := drawRules(t)
		objects := make(map[string]edit)
		for range rapid.IntRange(0, 25).Draw(t, "objects") {
			e := drawEdit(t)
			objects[e.key] = e
		}
		var followers []*follower
		for range 2 { // two histories that end at the same objects
			f := newFollower(t, rules)
			defer f.sub.Close()
			followers = append(followers, f)
			extra := make(map[string]edit)
			for range rapid.IntRange(0, 10).Draw(t, "former objects") {
				e := drawEdit(t)
				extra[e.key] = e
				f.update(t, e.make)
			}
			for _, key := range rapid.Permutation(slices.Sorted(maps.Keys(objects))).Draw(t, "order") {
				f.update(t, objects[key].make)
				delete(extra, key)
			}
			f.update(t, func(e *cluster.Edit) {
				for _, former := range extra {
					former.undo(e)
				}
			})
		}
		fresh, err := NewWants(rules)
		if err != nil {
			t.Fatal(err)
		}
		fresh.Apply(cluster.Change{Snapshot: followers[0].store.Snapshot(), Full: true})
		for i, f := range followers {
			if diff := cmp.Diff(maps.Collect(fresh.All()), maps.Collect(f.wants.All())); diff != "" {
				t.Fatalf("history %d (+) is not what a full reading (-) is:\n%s", i, diff)
			}
			if diff := cmp.Diff(fresh.Problems(), f.wants.Problems()); diff != "" {
				t.Fatalf("problems of history %d (+) are not those of a full reading (-):\n%s", i, diff)
			}
		}
		checkWants(t, fresh)
		last := followers[0]
		last.update(t, func(e *cluster.Edit) {
			for _, o := range objects {
				o.undo(e)
			}
		})
		if w := last.wants; len(w.objects)+len(w.names)+len(w.dependents) != 0 {
			t.Fatalf("without objects there are still %d objects, %d names, %d dependents", len(w.objects), len(w.names), len(w.dependents))
		}
	})
}

// checkWants holds what is wanted against the rules of DNS and PrivateZone.
func checkWants(t interface{ Fatalf(string, ...any) }, w *Wants) {
	for name, wants := range w.All() {
		ttls := make(map[string]int)
		for i, want := range wants {
			if want.Name != name || checkWantName(name) != nil {
				t.Fatalf("%v at %q", want, name)
			}
			if canonical(want.Type, want.Value) != want.Value {
				t.Fatalf("%v is not written as PrivateZone shows it", want)
			}
			if value, err := wantValue(want.Type, want.Value); err != nil || want.Type != typeTXT && value != want.Value {
				t.Fatalf("%v: value %q, %v", want, value, err)
			}
			if want.Type == typeCNAME && len(wants) > 1 {
				t.Fatalf("a CNAME beside others: %v", wants)
			}
			if i > 0 && (wants[i-1].Type > want.Type || wants[i-1].Type == want.Type && wants[i-1].Value >= want.Value) {
				t.Fatalf("not sorted or twice: %v", wants)
			}
			if _, exact := snapTTL(int64(want.TTL)); !exact {
				t.Fatalf("%v: PrivateZone does not take the TTL", want)
			}
			if ttl, ok := ttls[want.Type]; ok && ttl != want.TTL {
				t.Fatalf("two TTLs: %v", wants)
			}
			ttls[want.Type] = want.TTL
			if want.Object.Kind == "" || want.Object.Name == "" {
				t.Fatalf("%v is nobody's", want)
			}
		}
	}
}

// What an object depends on changes, and the object does not.
func TestWantsFollowWhatIsLookedAt(t *testing.T) {
	t.Parallel()
	node := testNode("node-a", ips("192.168.0.1"), nil)
	gateway := cluster.Name{Namespace: "infra", Name: "gw"}
	objects := cluster.Objects{
		Services: []*cluster.Service{
			testService(corev1.ServiceTypeNodePort, "hostname", "web.corp"), headlessServiceNamed("db", "hostname", "db.corp", "endpoints-type", "HostIP"),
		},
		Slices: []*cluster.EndpointSlice{{
			Name: cluster.Name{Namespace: "shop", Name: "db-1"}, Service: cluster.Name{Namespace: "shop", Name: "db"},
			Endpoints: []cluster.Endpoint{readyEndpoint("10.0.0.1", "", "node-a")},
		}},
		Nodes: []*cluster.Node{node}, Namespaces: []string{"shop"}, NamespaceLabels: map[string]map[string]string{"shop": {"team": "a"}},
		HTTPRoutes: []*cluster.HTTPRoute{{Meta: shopMeta("r"), Hostnames: []string{"r.corp"}, Parents: []cluster.ParentRef{{Gateway: gateway}}}},
		Gateways: []*cluster.Gateway{{
			Meta: cluster.Meta{Name: gateway}, Addresses: []string{"10.1.1.1"},
			Listeners: []cluster.Listener{{From: "Selector", Selector: labels.SelectorFromSet(labels.Set{"team": "a"})}},
		}},
	}
	host := readyPod("host", "hostname", "h.corp")
	host.HostNetwork = true
	objects.Pods = []*cluster.Pod{host}
	for name, tt := range map[string]struct {
		change func(*cluster.Edit)
		want   []string
	}{
		"a node's address": {func(e *cluster.Edit) { e.PutNode(testNode("node-a", ips("192.168.0.9"), nil)) }, []string{"db.corp", "h.corp", "web.corp"}},
		"another node":     {func(e *cluster.Edit) { e.PutNode(testNode("node-b", ips("192.168.0.9"), nil)) }, []string{"web.corp"}},
		"a node's labels":  {func(e *cluster.Edit) { n := *node; n.Labels = nil; e.PutNode(&n) }, nil},
		"a Gateway": {func(e *cluster.Edit) {
			e.PutGateway(&cluster.Gateway{Meta: cluster.Meta{Name: gateway}, Addresses: []string{"10.1.1.2"}, Listeners: objects.Gateways[0].Listeners})
		}, []string{"r.corp"}},
		"labels of the namespace": {func(e *cluster.Edit) { e.LabelNamespace("shop", nil) }, []string{"r.corp"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := cluster.NewNameStore()
			store.Replace(objects)
			sub := store.Subscribe()
			defer sub.Close()
			w := newTestWants(t, Rules{})
			var touched []string
			for _, change := range []func(*cluster.Edit){func(*cluster.Edit) {}, tt.change} {
				store.Update(change)
				c, err := sub.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				touched, _ = w.Apply(c)
			}
			if !slices.Equal(touched, tt.want) {
				t.Errorf("touched %q, want %q", touched, tt.want)
			}
		})
	}
}

func headlessServiceNamed(name string, pairs ...string) *cluster.Service {
	svc := headlessService(pairs...)
	svc.Name.Name = name
	return svc
}

// One endpoint of many changes, in a cluster of 50,000 pods and 10,000 Services that are published.
func BenchmarkWantsOfALargeCluster(b *testing.B) {
	store := cluster.NewNameStore()
	store.Update(func(e *cluster.Edit) {
		for i := range 10_000 {
			svc := testService(corev1.ServiceTypeClusterIP, "internal-hostname", fmt.Sprintf("app-%d.corp", i))
			svc.Name.Name, svc.ClusterIPs = fmt.Sprintf("app-%d", i), []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})}
			e.PutService(svc)
		}
		for i := range 50_000 {
			pod := readyPod(fmt.Sprintf("pod-%d", i))
			pod.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}
			e.PutPod(pod)
		}
		e.MarkSynced()
	})
	w := newTestWants(b, Rules{})
	b.Run("full", func(b *testing.B) {
		for b.Loop() {
			w.Apply(cluster.Change{Snapshot: store.Snapshot(), Full: true})
		}
	})
	b.Run("change", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			svc := *store.Snapshot().Service(cluster.Name{Namespace: "shop", Name: "app-7"})
			svc.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{172, 17, byte(i >> 8), byte(i)})}
			store.Update(func(e *cluster.Edit) { e.PutService(&svc) })
			w.Apply(cluster.Change{Snapshot: store.Snapshot(), Services: []cluster.Name{svc.Name}})
		}
	})
}

// The zone's side reads while the cluster changes.
func TestWantsAreReadWhileTheyChange(t *testing.T) {
	t.Parallel()
	w := newTestWants(t, Rules{PTR: true})
	stop, read := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		for {
			for name, wants := range w.All() {
				if len(wants) == 0 || wants[0].Name != name {
					t.Errorf("%v at %q", wants, name)
				}
				w.For(name)
				w.Problems()
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for i := range 200 {
		w.Apply(fullChange(services(testService(corev1.ServiceTypeClusterIP, "internal-hostname", fmt.Sprintf("web.corp,x%d.corp", i%3)))))
	}
	close(stop)
	<-read
}
