package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"
)

// fakeMaps is a working Maps without a kernel.
type fakeMaps struct {
	frontends map[bpf.Frontend]uint32
	blocks    map[uint32]bpf.Block
	records   uint32
	fail      int // how many writes from now on the first failure comes; 0: never
}

func newFakeMaps() *fakeMaps {
	return &fakeMaps{frontends: map[bpf.Frontend]uint32{}, blocks: map[uint32]bpf.Block{}, records: 64}
}

var errInjected = errors.New("injected")

func (m *fakeMaps) write() error {
	if m.fail > 0 {
		if m.fail--; m.fail == 0 {
			return errInjected
		}
	}
	return nil
}

func (m *fakeMaps) Publish(r uint32, b bpf.Block) error {
	if err := m.write(); err != nil {
		return err
	}
	m.blocks[r] = b
	return nil
}

func (m *fakeMaps) PutFrontend(f bpf.Frontend, r uint32) error {
	if err := m.write(); err != nil {
		return err
	}
	m.frontends[f] = r
	return nil
}

func (m *fakeMaps) DeleteFrontend(f bpf.Frontend) error {
	if err := m.write(); err != nil {
		return err
	}
	delete(m.frontends, f)
	return nil
}

func (m *fakeMaps) Retire(r uint32)                       { delete(m.blocks, r) }
func (m *fakeMaps) Reclaim() error                        { return m.write() }
func (m *fakeMaps) MaxRecords() uint32                    { return m.records }
func (m *fakeMaps) Block(r uint32) (b bpf.Block, ok bool) { b, ok = m.blocks[r]; return b, ok }

func (m *fakeMaps) Entries() (out []bpf.Entry, err error) {
	for f, r := range m.frontends {
		out = append(out, bpf.Entry{Frontend: f, Record: r})
	}
	return out, nil
}

func (m *fakeMaps) Records() (out []uint32) {
	for r := range m.blocks {
		out = append(out, r)
	}
	return out
}

// serves renders what clients see: every frontend with the block behind it.
func (m *fakeMaps) serves() map[string]string {
	out := map[string]string{}
	for f, r := range m.frontends {
		b, ok := m.blocks[r]
		if !ok {
			out[f.String()] = "nothing"
			continue
		}
		out[f.String()] = describe(b)
	}
	return out
}

func wanted(want map[cluster.Name][]Port) map[string]string {
	out := map[string]string{}
	for _, ports := range want {
		for _, p := range ports {
			for _, f := range p.Frontends {
				out[f.String()] = describe(p.Block)
			}
		}
	}
	return out
}

// drawServices makes a small world in which names, addresses and ports collide often across draws, but no frontend
// belongs to two Services at once.
func drawServices(t *rapid.T, label string) map[cluster.Name][]Port {
	want := map[cluster.Name][]Port{}
	free := []string{"10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00:96::1"}
	for i := range rapid.IntRange(0, 3).Draw(t, label+" services") {
		name := cluster.Name{Namespace: "ns", Name: fmt.Sprint("svc", rapid.IntRange(0, 3).Draw(t, label+" name"))}
		if _, ok := want[name]; ok {
			continue
		}
		ip := netip.MustParseAddr(free[i])
		for _, port := range rapid.SliceOfNDistinct(rapid.Uint16Range(80, 83), 1, 3, rapid.ID).Draw(t, label+" ports") {
			want[name] = append(want[name], Port{
				ID:        PortID{Service: name, Protocol: cluster.TCP, Port: port, IPv6: ip.Is6()},
				Frontends: []bpf.Frontend{{Addr: netip.AddrPortFrom(ip, port), Protocol: 6}},
				Block:     bpf.Block{Cluster: backends(fmt.Sprintf("10.0.0.%d:80", rapid.IntRange(1, 3).Draw(t, label+" backend")))},
			})
		}
	}
	return want
}

// TestPlanProperties: applied plans lead where they should, every prefix is safe, nothing is planned twice, and the
// incremental plan serves what a plan from scratch serves.
func TestPlanProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newFakeMaps()
		tab := must(adopt(m))
		world := map[cluster.Name][]Port{}
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "restart") {
				tab = must(adopt(m))
				apply(t, m, tab, world, true)
			}
			next := drawServices(t, "world")
			changed := maps.Clone(next)
			for name := range world {
				if _, ok := next[name]; !ok {
					changed[name] = nil
				}
			}
			apply(t, m, tab, changed, rapid.Bool().Draw(t, "full"))
			world = next
			if diff := cmp.Diff(wanted(world), m.serves()); diff != "" {
				t.Fatalf("served differs (-want +got):\n%s", diff)
			}
			if len(m.blocks) != countPorts(world) {
				t.Fatalf("%d blocks for %d ports", len(m.blocks), countPorts(world))
			}
			if again, err := tab.plan(world, true); err != nil || len(again.Grow)+len(again.Shrink) > 0 {
				t.Fatalf("planned again: %v, %v", again, err)
			}
		}
	})
}

// apply checks after each op that every frontend serves what it served before, what it is to serve, or the new
// backends of the port it still belongs to.
func apply(t *rapid.T, m *fakeMaps, tab *table, want map[cluster.Name][]Port, full bool) {
	before, after := m.serves(), wanted(want)
	moved := map[string]string{}
	for name, old := range tab.services {
		for _, p := range old {
			for _, q := range want[name] {
				if p.ID == q.ID {
					moved[p.Frontends[0].String()] = describe(q.Block)
				}
			}
		}
	}
	plan, err := tab.plan(want, full)
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range append(plan.Grow, plan.Shrink...) {
		if err := op.apply(m); err != nil {
			t.Fatal(err)
		}
		for f, now := range m.serves() {
			if now != before[f] && now != after[f] && now != moved[f] {
				t.Fatalf("after %q, %s serves %s: neither before (%s) nor after (%s)", op, f, now, before[f], after[f])
			}
		}
	}
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
	up, err := tab.plan(map[cluster.Name][]Port{web: ports}, false)
	if err != nil {
		t.Fatal(err)
	}
	down, err := tab.plan(map[cluster.Name][]Port{web: nil}, false)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, op := range append(up.Grow, down.Shrink...) {
		fmt.Fprintln(&got, op)
	}
	want := `publish record 0 (shop/web:80/TCP IPv4): cluster [10.0.0.1:8080]
put frontend 10.96.0.1:80/6 -> record 0
delete frontend 10.96.0.1:80/6
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
	plan, err := tab.plan(map[cluster.Name][]Port{web: Select(svc, nil, thisNode)}, true)
	if !errors.Is(err, bpf.ErrFull) || !strings.Contains(err.Error(), "shop/web:8080/TCP IPv4") {
		t.Errorf("error is %v, want one that is ErrFull and names the port", err)
	}
	if len(plan.Grow) != 2 {
		t.Errorf("plan is %v, want the port that fits", plan.Grow)
	}
}

// TestReconcilerRetries fails each write in turn: what is served in the end is what was wanted.
func TestReconcilerRetries(t *testing.T) {
	t.Parallel()
	for fail := 1; fail <= 4; fail++ {
		t.Run(fmt.Sprint("write ", fail), func(t *testing.T) {
			t.Parallel()
			store := cluster.NewStore()
			store.Update(func(e *cluster.Edit) {
				e.PutService(webService())
				e.PutSlice(slice(endpoint("10.0.0.1")))
				e.MarkSynced()
			})
			m := newFakeMaps()
			m.fail = fail
			sub := store.Subscribe()
			defer sub.Close()
			served := make(chan *cluster.Snapshot, 10)
			r, err := New(Config{
				Maps: m, Changes: sub, Node: thisNode, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
				Served: func(s *cluster.Snapshot) { served <- s },
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			<-r.Ready()
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"10.96.0.1:80/6": "cluster [10.0.0.1:8080]"}
			if diff := cmp.Diff(want, m.serves()); diff != "" {
				t.Errorf("served differs (-want +got):\n%s", diff)
			}
			if len(served) == 0 {
				t.Error("Served was never called")
			}
		})
	}
}
