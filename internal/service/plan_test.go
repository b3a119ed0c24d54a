package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"
)

func shown(kind bpf.FrontendKind, b bpf.Block) string {
	return fmt.Sprintf("%s, %s", kind, describe(b))
}

// wanted renders what clients should see: of Services that claim one frontend, the one with a cluster IP there has it,
// then the oldest, and what a Service has, a pod has not.
func wanted(want map[cluster.Name][]Port) map[string]string {
	out := map[string]string{}
	for _, kinds := range [][]bpf.FrontendKind{{bpf.ClusterIP}, {bpf.NodePort}, {bpf.ExternalIP, bpf.LoadBalancer}, {bpf.HostPort}} {
		for _, name := range inOrder(want) {
			for _, p := range want[name] {
				for _, f := range p.Frontends {
					_, taken := out[f.String()]
					if isPod(name) {
						taken = taken || strings.HasPrefix(out[anyAddress(f.Frontend).String()], bpf.NodePort.String())
					}
					if !taken && slices.Contains(kinds, f.Kind) {
						out[f.String()] = shown(f.Kind, p.Block)
					}
				}
			}
		}
	}
	return out
}

// drawServices makes a small world in which names, addresses and ports collide often, also within one world.
func drawServices(t *rapid.T) map[cluster.Name][]Port {
	want := map[cluster.Name][]Port{}
	for range rapid.IntRange(0, 4).Draw(t, "services") {
		name := cluster.Name{Namespace: "ns", Name: fmt.Sprint("svc", rapid.IntRange(0, 4).Draw(t, "name"))}
		if _, ok := want[name]; ok {
			continue
		}
		created := time.Unix(int64(rapid.IntRange(1, 3).Draw(t, "created")), 0)
		ip := netip.MustParseAddr(rapid.SampledFrom([]string{"10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00:96::1"}).Draw(t, "address"))
		nodePorts := map[uint16]bool{}
		for _, port := range rapid.SliceOfNDistinct(rapid.Uint16Range(80, 83), 1, 3, rapid.ID).Draw(t, "ports") {
			p := Port{
				ID:        PortID{Service: name, Protocol: cluster.TCP, Port: port, IPv6: ip.Is6()},
				Created:   created,
				Frontends: []Frontend{{bpf.Frontend{Addr: netip.AddrPortFrom(ip, port), Protocol: 6}, bpf.ClusterIP}},
				Block:     bpf.Block{Cluster: backends(fmt.Sprintf("10.0.0.%d:80", rapid.IntRange(1, 3).Draw(t, "backend")))},
			}
			at := rapid.Uint16Range(30000, 30005).Draw(t, "nodePort")
			if at < 30004 && !nodePorts[at] { // one Service does not claim one twice
				nodePorts[at] = true
				f := bpf.Frontend{Addr: netip.AddrPortFrom(wildcard(ip.Is6()), at), Protocol: 6}
				p.Frontends = append(p.Frontends, Frontend{f, bpf.NodePort})
			}
			other := netip.MustParseAddr(rapid.SampledFrom([]string{"10.96.0.1", "10.96.0.2", "fd00:96::1", "203.0.113.1"}).Draw(t, "external"))
			if other.Is6() == ip.Is6() && other != ip {
				kind := rapid.SampledFrom([]bpf.FrontendKind{bpf.ExternalIP, bpf.LoadBalancer}).Draw(t, "kind")
				p.Frontends = append(p.Frontends, Frontend{bpf.Frontend{Addr: netip.AddrPortFrom(other, port), Protocol: 6}, kind})
			}
			want[name] = append(want[name], p)
		}
	}
	return want
}

// drawPods makes pods whose host ports collide with Services' frontends and not with each other's, as SetHostPorts
// allows them.
func drawPods(t *rapid.T) map[cluster.Name][]Port {
	want := map[cluster.Name][]Port{}
	for _, n := range rapid.SliceOfNDistinct(rapid.Uint16Range(1, 3), 0, 3, rapid.ID).Draw(t, "pods") {
		pod := netip.MustParseAddr(fmt.Sprintf(rapid.SampledFrom([]string{"10.0.1.%d", "fd00:1::%d"}).Draw(t, "pod"), n))
		at := rapid.SampledFrom([]string{"", "127.0.0.1", "10.96.0.1", "fd00:96::1", "::1"})
		ports := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) HostPort {
			h := HostPort{HostPort: rapid.SampledFrom([]uint16{80, 30000}).Draw(t, "port") + n, ContainerPort: 8080, Protocol: 6}
			h.HostIP, _ = netip.ParseAddr(at.Draw(t, "hostIP"))
			return h
		}), 1, 3, rapid.ID).Draw(t, "hostPorts")
		list, err := hostPorts(pod, ports)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) > 0 {
			want[podName(pod)] = list
		}
	}
	return want
}

// TestPlanProperties: applied plans lead where they should, every prefix is safe, nothing is planned twice, and the
// incremental plan serves what a plan from scratch serves, conflicts and their end included.
func TestPlanProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newFakeMaps()
		tab := must(adopt(m))
		world := map[cluster.Name][]Port{}
		full := true
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "restart") {
				tab, full = must(adopt(m)), true
			}
			next := drawServices(t)
			maps.Copy(next, drawPods(t))
			changed := maps.Clone(next)
			for _, name := range inOrder(world) { // an incremental plan is not told what stays
				if rapid.Bool().Draw(t, "stays") {
					next[name] = world[name]
					delete(changed, name)
				}
			}
			if full {
				changed = maps.Clone(next)
			}
			for _, old := range []map[cluster.Name][]Port{world, tab.pods()} {
				for name := range old {
					if _, ok := next[name]; !ok {
						changed[name] = nil
					}
				}
			}
			world = next
			refused := apply(t, m, tab, changed, world, full)
			full = false
			if diff := cmp.Diff(wanted(world), m.serves()); diff != "" {
				t.Fatalf("served differs (-want +got):\n%s", diff)
			}
			if got, want := len(refused), countFrontends(world)-len(m.frontends); got != want {
				t.Fatalf("%d conflicts reported, want %d: %v", got, want, refused)
			}
			if len(m.blocks) != countPorts(world) {
				t.Fatalf("%d blocks for %d ports", len(m.blocks), countPorts(world))
			}
			if again, _ := tab.plan(world, rapid.Bool().Draw(t, "full")); len(again.Grow)+len(again.Shrink) > 0 {
				t.Fatalf("planned again: %v", again)
			}
		}
	})
}

// apply checks after each op that every frontend serves what it served before, what it is to serve, or the new
// backends of the port it still belongs to.
func apply(t *rapid.T, m *fakeMaps, tab *table, changed, world map[cluster.Name][]Port, full bool) (refused []error) {
	before, after := m.serves(), wanted(world)
	moved := map[string]string{}
	for name, old := range tab.services {
		for _, p := range old {
			for _, q := range world[name] {
				for _, f := range p.Frontends {
					if p.ID == q.ID && tab.owners[f.Frontend] == p.ID { // another may have been refused the frontend
						moved[f.String()] = shown(f.Kind, q.Block)
					}
				}
			}
		}
	}
	plan, refused := tab.plan(changed, full)
	for _, op := range append(slices.Concat(plan.Grow...), plan.Shrink...) {
		if err := op.apply(m); err != nil {
			t.Fatal(err)
		}
		for f, now := range m.serves() {
			if now != before[f] && now != after[f] && now != moved[f] {
				t.Fatalf("after %q, %s serves %s: neither before (%s) nor after (%s)", op, f, now, before[f], after[f])
			}
		}
	}
	return refused
}

func countFrontends(want map[cluster.Name][]Port) (n int) {
	for _, ports := range want {
		for _, p := range ports {
			n += len(p.Frontends)
		}
	}
	return n
}

func countPorts(want map[cluster.Name][]Port) (n int) {
	for _, p := range want {
		n += len(p)
	}
	return n
}

func must(t *table, err error) *table {
	if err != nil {
		panic(err)
	}
	return t
}

func TestPlanText(t *testing.T) {
	t.Parallel()
	tab := newTable(8)
	ports := Select(webService(), []*cluster.EndpointSlice{slice(endpoint("10.0.0.1"))}, thisNode)
	up, _ := tab.plan(map[cluster.Name][]Port{web: ports}, false)
	down, _ := tab.plan(map[cluster.Name][]Port{web: nil}, false)
	var got strings.Builder
	for _, op := range append(slices.Concat(up.Grow...), down.Shrink...) {
		fmt.Fprintln(&got, op)
	}
	want := `publish record 0 (shop/web:80/TCP IPv4): cluster [10.0.0.1:8080]
put frontend 10.96.0.1:80/6 (ClusterIP) -> record 0
put frontend 10.96.0.1:0/0 (address) -> record 0
delete frontend 10.96.0.1:80/6
delete frontend 10.96.0.1:0/0
retire record 0
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("ops differ (-want +got):\n%s", diff)
	}
}

func TestPlanRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	tab := newTable(1)
	svc := webService(func(s *cluster.Service) {
		s.Ports = append(s.Ports, cluster.ServicePort{Name: "admin", Protocol: cluster.TCP, Port: 8080})
	})
	plan, refused := tab.plan(map[cluster.Name][]Port{web: Select(svc, nil, thisNode)}, true)
	if len(refused) != 1 || !errors.Is(refused[0], bpf.ErrFull) || !strings.Contains(refused[0].Error(), "shop/web:8080/TCP IPv4") {
		t.Errorf("refused %v, want one that is ErrFull and names the port", refused)
	}
	if len(plan.Grow) != 1 {
		t.Errorf("plan is %v, want the port that fits", plan.Grow)
	}
}

// world is a store with the web Service and one endpoint.
func world() *cluster.Store {
	store := cluster.NewStore()
	store.Update(func(e *cluster.Edit) {
		e.PutService(webService())
		e.PutSlice(slice(endpoint("10.0.0.1")))
		e.MarkSynced()
	})
	return store
}

// reconcile runs a Reconciler of store on m until the test ends.
func reconcile(t *testing.T, store *cluster.Store, m *fakeMaps) (r *Reconciler, served <-chan *cluster.Snapshot) {
	t.Helper()
	return reconcileWith(t, store, m, func(*Config) {})
}

// reconcileWith is reconcile with another configuration.
func reconcileWith(t *testing.T, store *cluster.Store, m *fakeMaps, change func(*Config)) (r *Reconciler, served <-chan *cluster.Snapshot) {
	t.Helper()
	sub := store.Subscribe()
	snapshots := make(chan *cluster.Snapshot, 100)
	c := Config{
		Maps: m, Changes: sub, Node: thisNode, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Served: func(c cluster.Change) { snapshots <- c.Snapshot },
	}
	change(&c)
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	start(t, r, sub)
	return r, snapshots
}

// start runs a Reconciler until the test ends.
func start(tb testing.TB, r *Reconciler, sub *cluster.Subscription) {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
		sub.Close()
	})
}

// TestReconcilerRetries fails each write in turn: what is served in the end is what was wanted.
func TestReconcilerRetries(t *testing.T) {
	t.Parallel()
	for fail := 1; fail <= 4; fail++ {
		t.Run(fmt.Sprint("write ", fail), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newFakeMaps()
				m.fail = fail
				r, served := reconcile(t, world(), m)
				<-r.Ready()
				<-served
				synctest.Wait()
				want := map[string]string{"10.96.0.1:80/6": "ClusterIP, cluster [10.0.0.1:8080]"}
				if diff := cmp.Diff(want, m.serves()); diff != "" {
					t.Errorf("served differs (-want +got):\n%s", diff)
				}
				if m.fail != 0 {
					t.Errorf("no write failed: %d more would have had to come", m.fail)
				}
			})
		})
	}
}

// TestReconcilerFullMap: a Service that does not fit keeps nothing else from changing, DNS included, and is served once
// another one has made room.
func TestReconcilerFullMap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, m := world(), newFakeMaps()
		m.room = 2 // a cluster IP and its port
		r, served := reconcile(t, store, m)
		<-r.Ready()
		late := cluster.Name{Namespace: "shop", Name: "late"}
		store.Update(func(e *cluster.Edit) {
			e.PutService(webService(func(s *cluster.Service) {
				s.Name, s.ClusterIPs = late, []netip.Addr{netip.MustParseAddr("10.96.0.2")}
			}))
			e.PutSlice(slice(endpoint("10.0.0.7")))
		})
		for s := range served {
			if s.Service(late) != nil {
				break
			}
		}
		synctest.Wait()
		want := map[string]string{"10.96.0.1:80/6": "ClusterIP, cluster [10.0.0.7:8080]"}
		if diff := cmp.Diff(want, m.serves()); diff != "" {
			t.Errorf("with a full map, served differs (-want +got):\n%s", diff)
		}
		time.Sleep(10 * time.Minute) // of the bubble's time: many tries later
		if len(m.Records()) > 2 {
			t.Errorf("tries leak records: %v", m.Records())
		}
		store.Update(func(e *cluster.Edit) { e.DeleteService(web) })
		time.Sleep(lastRetry)
		synctest.Wait()
		if diff := cmp.Diff(map[string]string{"10.96.0.2:80/6": "ClusterIP, cluster []"}, m.serves()); diff != "" {
			t.Errorf("with room again, served differs (-want +got):\n%s", diff)
		}
	})
}

// TestPlanOldestHasTheAddress: of two Services with one address the older has it, whatever their names and whoever came
// first, and the younger gets it when it is free.
func TestPlanOldestHasTheAddress(t *testing.T) {
	t.Parallel()
	claim := func(name string, created int64, backend string) (cluster.Name, []Port) {
		svc := webService(func(s *cluster.Service) {
			s.Name, s.Created = cluster.Name{Namespace: "shop", Name: name}, time.Unix(created, 0)
		})
		return svc.Name, Select(svc, []*cluster.EndpointSlice{slice(endpoint(backend))}, thisNode)
	}
	young, youngPorts := claim("a-young", 2, "10.0.0.2")
	old, oldPorts := claim("b-old", 1, "10.0.0.1")
	m := newFakeMaps()
	tab := must(adopt(m))
	do := func(want map[cluster.Name][]Port, full bool) []error {
		plan, refused := tab.plan(want, full)
		for _, op := range append(slices.Concat(plan.Grow...), plan.Shrink...) {
			if err := op.apply(m); err != nil {
				t.Fatal(err)
			}
		}
		return refused
	}
	serves := func(when, backend string) {
		t.Helper()
		if got := m.serves()["10.96.0.1:80/6"]; got != "ClusterIP, cluster ["+backend+":8080]" {
			t.Errorf("%s: the address serves %s, want %s", when, got, backend)
		}
	}
	do(map[cluster.Name][]Port{young: youngPorts}, false)
	serves("alone", "10.0.0.2")
	refused := do(map[cluster.Name][]Port{young: youngPorts, old: oldPorts}, true)
	serves("with an older claim", "10.0.0.1")
	if len(refused) != 1 || !strings.Contains(refused[0].Error(), "a-young") || !strings.Contains(refused[0].Error(), "b-old") {
		t.Errorf("refused %v, want the young Service, because of the old one", refused)
	}
	do(map[cluster.Name][]Port{young: youngPorts}, true)
	serves("after the old one is gone", "10.0.0.2")
}

// TestPlanClusterIPComesFirst: nobody can take a Service's cluster IP by asking for it as an external address, however
// old the asking one is, and whether both are new or one is there.
func TestPlanClusterIPComesFirst(t *testing.T) {
	t.Parallel()
	at := func(name string, created int64, backend string, ip string, external ...string) (cluster.Name, []Port) {
		svc := webService(func(s *cluster.Service) {
			s.Name, s.Created = cluster.Name{Namespace: "shop", Name: name}, time.Unix(created, 0)
			s.ClusterIPs, s.ExternalIPs = addrs(ip), addrs(external...)
		})
		return svc.Name, Select(svc, []*cluster.EndpointSlice{slice(endpoint(backend))}, thisNode)
	}
	thief, thiefPorts := at("a-thief", 1, "10.0.0.66", "10.96.0.6", "10.96.0.1")
	owner, ownerPorts := at("owner", 2, "10.0.0.1", "10.96.0.1")
	for name, steps := range map[string][]map[cluster.Name][]Port{
		"at once":          {{thief: thiefPorts, owner: ownerPorts}},
		"the older first":  {{thief: thiefPorts}, {owner: ownerPorts}},
		"the owner first":  {{owner: ownerPorts}, {thief: thiefPorts}},
		"the older again":  {{owner: ownerPorts}, {thief: thiefPorts}, {thief: thiefPorts}},
		"the owner is new": {{thief: thiefPorts}, {owner: nil}, {owner: ownerPorts}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newFakeMaps()
			tab := must(adopt(m))
			var refused []error
			for _, want := range steps {
				var plan Plan
				plan, refused = tab.plan(want, false)
				for _, op := range append(slices.Concat(plan.Grow...), plan.Shrink...) {
					if err := op.apply(m); err != nil {
						t.Fatal(err)
					}
				}
			}
			want := map[string]string{
				"10.96.0.1:80/6": "ClusterIP, cluster [10.0.0.1:8080]", "10.96.0.6:80/6": "ClusterIP, cluster [10.0.0.66:8080]",
			}
			if diff := cmp.Diff(want, m.serves()); diff != "" {
				t.Errorf("served differs (-want +got):\n%s", diff)
			}
			const told = "serve shop/a-thief:80/TCP IPv4 at 10.96.0.1:80/6: shop/owner:80/TCP IPv4 has it as another kind of address, which comes first"
			if len(refused) != 1 || refused[0].Error() != told {
				t.Errorf("refused %v, want %s", refused, told)
			}
		})
	}
}

// TestPlanWithoutRecordClaimsNothing: a port that no record is left for keeps no frontend from one that has a record.
func TestPlanWithoutRecordClaimsNothing(t *testing.T) {
	t.Parallel()
	m := newFakeMaps()
	m.records = 1
	tab := must(adopt(m))
	young := Select(webService(func(s *cluster.Service) { s.Created = time.Unix(2, 0) }), nil, thisNode)
	if _, refused := tab.plan(map[cluster.Name][]Port{web: young}, false); len(refused) > 0 {
		t.Fatal(refused)
	}
	old := cluster.Name{Namespace: "shop", Name: "old"}
	ports := Select(webService(func(s *cluster.Service) { s.Name, s.Created = old, time.Unix(1, 0) }), nil, thisNode)
	plan, refused := tab.plan(map[cluster.Name][]Port{old: ports}, false)
	if len(plan.Grow)+len(plan.Shrink) > 0 || len(refused) != 1 || !errors.Is(refused[0], bpf.ErrFull) {
		t.Errorf("planned %v and refused %v, want nothing but the old one's refusal", plan, refused)
	}
}

// TestPlanKeepsRecords: a new agent goes on with the records it finds, so that nothing is written that is right already.
func TestPlanKeepsRecords(t *testing.T) {
	t.Parallel()
	m := newFakeMaps()
	want := map[cluster.Name][]Port{web: Select(webService(), []*cluster.EndpointSlice{slice(endpoint("10.0.0.1"))}, thisNode)}
	for _, f := range want[web][0].Frontends {
		m.frontends[f.Frontend] = entry{5, f.Kind}
	}
	m.blocks[5] = want[web][0].Block
	if plan, refused := must(adopt(m)).plan(want, true); len(plan.Grow)+len(plan.Shrink)+len(refused) > 0 {
		t.Errorf("a new agent plans %v and refuses %v, want nothing", plan, refused)
	}
}
