package service

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/prometheus/client_golang/prometheus"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func tcpPort(hostIP string, host, container uint16) HostPort {
	h := HostPort{HostPort: host, ContainerPort: container, Protocol: 6}
	if hostIP != "" {
		h.HostIP = netip.MustParseAddr(hostIP)
	}
	return h
}

// toPod is how a host port shows.
func toPod(addr string) string {
	return fmt.Sprintf("HostPort, cluster [%s], local [%s], local from outside", addr, addr)
}

// idle is a Reconciler that is not run: the test syncs it.
func idle(t *testing.T, m *fakeMaps) *Reconciler {
	t.Helper()
	r, err := New(Config{Maps: m, Node: thisNode, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func syncFull(r *Reconciler, store *cluster.Store) outcome {
	return r.sync(cluster.Change{Snapshot: store.Snapshot(), Full: true})
}

func wantServed(t *testing.T, when string, m *fakeMaps, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, m.serves()); diff != "" {
		t.Errorf("%s, served differs (-want +got):\n%s", when, diff)
	}
}

func wantHas(t *testing.T, r *Reconciler, pod []netip.Addr, ports []HostPort, want bool) {
	t.Helper()
	if has, err := r.HasHostPorts(pod, ports); err != nil || has != want {
		t.Errorf("pod %v has %v: %v, %v, want %v", pod, ports, has, err, want)
	}
}

func TestSetHostPorts(t *testing.T) {
	t.Parallel()
	dual := addrs("10.0.0.5", "fd00::5")
	for name, tt := range map[string]struct {
		pod   []netip.Addr
		ports []HostPort
		want  map[string]string
	}{
		"any address, both families": {
			dual, []HostPort{tcpPort("", 8080, 80)},
			map[string]string{"0.0.0.0:8080/6": toPod("10.0.0.5:80"), "[::]:8080/6": toPod("[fd00::5]:80")},
		},
		"any address of one family": {
			dual, []HostPort{tcpPort("0.0.0.0", 8080, 80), tcpPort("::", 8081, 80)},
			map[string]string{"0.0.0.0:8080/6": toPod("10.0.0.5:80"), "[::]:8081/6": toPod("[fd00::5]:80")},
		},
		"an address restricts the family": {
			dual, []HostPort{tcpPort("192.168.0.2", 8080, 80), tcpPort("fd00:1::2", 8080, 80)},
			map[string]string{"192.168.0.2:8080/6": toPod("10.0.0.5:80"), "[fd00:1::2]:8080/6": toPod("[fd00::5]:80")},
		},
		"the loopback": {
			dual, []HostPort{tcpPort("127.0.0.1", 8080, 80), tcpPort("::1", 8080, 80)},
			map[string]string{"127.0.0.1:8080/6": toPod("10.0.0.5:80"), "[::1]:8080/6": toPod("[fd00::5]:80")},
		},
		"a family the pod does not have": {
			addrs("10.0.0.5"), []HostPort{tcpPort("", 8080, 80), tcpPort("::1", 8080, 80)},
			map[string]string{"0.0.0.0:8080/6": toPod("10.0.0.5:80")},
		},
		"v4-mapped addresses are IPv4": {
			addrs("::ffff:10.0.0.5"), []HostPort{tcpPort("::ffff:127.0.0.1", 8080, 80)},
			map[string]string{"127.0.0.1:8080/6": toPod("10.0.0.5:80")},
		},
		"protocols apart": {
			addrs("10.0.0.5"), []HostPort{
				tcpPort("", 53, 5353), {HostPort: 53, ContainerPort: 5300, Protocol: 17}, {HostPort: 53, ContainerPort: 3868, Protocol: 132},
			},
			map[string]string{"0.0.0.0:53/6": toPod("10.0.0.5:5353"), "0.0.0.0:53/17": toPod("10.0.0.5:5300"), "0.0.0.0:53/132": toPod("10.0.0.5:3868")},
		},
		"said twice": {
			addrs("10.0.0.5"), []HostPort{tcpPort("", 8080, 80), tcpPort("0.0.0.0", 8080, 80)},
			map[string]string{"0.0.0.0:8080/6": toPod("10.0.0.5:80")},
		},
		"of one pod, an address and all others": {
			addrs("10.0.0.5"), []HostPort{tcpPort("", 8080, 80), tcpPort("127.0.0.1", 8080, 81)},
			map[string]string{"0.0.0.0:8080/6": toPod("10.0.0.5:80"), "127.0.0.1:8080/6": toPod("10.0.0.5:81")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newFakeMaps()
			r := idle(t, m)
			for range 2 { // it may be said again
				if err := r.SetHostPorts(t.Context(), tt.pod, tt.ports); err != nil {
					t.Fatal(err)
				}
				wantServed(t, "set", m, tt.want)
			}
			for _, r := range []*Reconciler{r, idle(t, m)} {
				wantHas(t, r, tt.pod, tt.ports, true)
				wantHas(t, r, tt.pod, nil, false)
				wantHas(t, r, tt.pod, append([]HostPort{tcpPort("", 1, 1)}, tt.ports...), false)
				wantHas(t, r, addrs("10.0.0.99"), tt.ports[:1], false)
				wantHas(t, r, addrs("10.0.0.99"), nil, true)
			}
			if err := r.RemoveHostPorts(t.Context(), tt.pod); err != nil {
				t.Fatal(err)
			}
			wantServed(t, "removed", m, map[string]string{})
			if len(m.blocks) > 0 {
				t.Errorf("left over: %v", m.blocks)
			}
		})
	}
}

func TestSetHostPortsRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		ports []HostPort
		want  string
	}{
		"port 0":               {[]HostPort{tcpPort("", 0, 80)}, "host port *:0/TCP to port 80: 0 is not a port"},
		"container port 0":     {[]HostPort{tcpPort("", 80, 0)}, "host port *:80/TCP to port 0: 0 is not a port"},
		"no protocol of ports": {[]HostPort{{HostPort: 80, ContainerPort: 80, Protocol: 1}}, "host port *:80/protocol 1: host ports are TCP, UDP or SCTP"},
		"two ways":             {[]HostPort{tcpPort("", 80, 80), tcpPort("0.0.0.0", 80, 81)}, "host port 0.0.0.0:80/TCP: leads to the container's ports 80 and 81"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newFakeMaps()
			err := idle(t, m).SetHostPorts(t.Context(), addrs("10.0.0.5"), append([]HostPort{tcpPort("", 9999, 1)}, tt.ports...))
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			wantServed(t, "refused", m, map[string]string{})
		})
	}
}

// nodePortWorld has the web Service with node port 30080 on both families.
func nodePortWorld() *cluster.Store {
	store := cluster.NewStore()
	store.Update(func(e *cluster.Edit) {
		e.PutService(webService(dualStack, nodePort(30080)))
		e.PutSlice(slice(endpoint("10.0.0.1")))
		e.MarkSynced()
	})
	return store
}

func TestHostPortConflicts(t *testing.T) {
	t.Parallel()
	const first, web4 = "host port 0.0.0.0:8080/TCP of pod 10.0.0.5", "shop/web:80/TCP IPv4"
	for name, tt := range map[string]struct {
		pod   string
		port  HostPort
		owner string // "" for none
	}{
		"another pod's":                         {"10.0.0.6", tcpPort("", 8080, 80), first},
		"another pod's, on one address":         {"10.0.0.6", tcpPort("127.0.0.1", 8080, 80), first},
		"another pod's address, from all":       {"10.0.0.6", tcpPort("", 9090, 80), "host port 127.0.0.1:9090/TCP of pod 10.0.0.5"},
		"another pod's address, the same":       {"10.0.0.6", tcpPort("127.0.0.1", 9090, 80), "host port 127.0.0.1:9090/TCP of pod 10.0.0.5"},
		"another address beside it":             {"10.0.0.6", tcpPort("127.0.0.2", 9090, 80), ""},
		"a node port":                           {"10.0.0.6", tcpPort("", 30080, 80), web4},
		"a node port, on one address":           {"10.0.0.6", tcpPort("192.168.0.2", 30080, 80), web4},
		"a node port of the other family":       {"fd00::6", tcpPort("", 30080, 80), "shop/web:80/TCP IPv6"},
		"a cluster IP as the host's":            {"10.0.0.6", tcpPort("10.96.0.1", 80, 80), web4},
		"the port of a cluster IP, on the node": {"10.0.0.6", tcpPort("", 80, 80), ""},
		"the other family":                      {"fd00::6", tcpPort("", 8080, 80), ""},
		"the other protocol":                    {"10.0.0.6", HostPort{HostPort: 8080, ContainerPort: 80, Protocol: 17}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newFakeMaps()
			r := idle(t, m)
			if o := syncFull(r, nodePortWorld()); o.failure() != nil {
				t.Fatal(o)
			}
			if err := r.SetHostPorts(t.Context(), addrs("10.0.0.5"), []HostPort{tcpPort("", 8080, 80), tcpPort("127.0.0.1", 9090, 80)}); err != nil {
				t.Fatal(err)
			}
			before := m.serves()
			// A port without a conflict goes with it, and must not be served alone.
			err := r.SetHostPorts(t.Context(), addrs(tt.pod), []HostPort{tcpPort("", 7070, 80), tt.port})
			var conflict *ConflictError
			switch {
			case tt.owner == "":
				if err != nil {
					t.Error(err)
				}
				return
			case !errors.As(err, &conflict) || !errors.Is(err, ErrConflict):
				t.Fatalf("error %v, want a ConflictError", err)
			case conflict.Owner.String() != tt.owner || !strings.Contains(err.Error(), tt.owner):
				t.Errorf("owner is %s and the error %q, want %s", conflict.Owner, err, tt.owner)
			}
			wantServed(t, "after a conflict", m, before)
		})
	}
}

// TestServiceTakesHostPort: a Service has a node port whoever came first, on all addresses of the node, and gives it back
// to the pod when it goes.
func TestServiceTakesHostPort(t *testing.T) {
	t.Parallel()
	m, store := newFakeMaps(), cluster.NewStore()
	store.Update(func(e *cluster.Edit) { e.MarkSynced() })
	r := idle(t, m)
	if o := syncFull(r, store); o.failure() != nil {
		t.Fatal(o)
	}
	ports := []HostPort{tcpPort("", 30080, 80), tcpPort("127.0.0.1", 30080, 81), tcpPort("", 8080, 80)}
	if err := r.SetHostPorts(t.Context(), addrs("10.0.0.5"), ports); err != nil {
		t.Fatal(err)
	}
	before := m.serves()
	step := func(when string, edit func(*cluster.Edit), conflicts int, want map[string]string) {
		t.Helper()
		store.Update(edit)
		o := r.sync(cluster.Change{Snapshot: store.Snapshot(), Services: []cluster.Name{web}})
		if o.failure() != nil || len(o.conflicts) != conflicts {
			t.Fatalf("%s: %+v, want %d conflicts", when, o, conflicts)
		}
		wantServed(t, when, m, want)
	}
	took := map[string]string{
		"0.0.0.0:8080/6": toPod("10.0.0.5:80"), "10.96.0.1:80/6": "ClusterIP, cluster []", "0.0.0.0:30080/6": "NodePort, cluster []",
	}
	step("with the Service", func(e *cluster.Edit) { e.PutService(webService(nodePort(30080))) }, 2, took)
	wantHas(t, r, addrs("10.0.0.5"), ports, true) // two of them wait
	other := func(e *cluster.Edit) {
		e.PutService(webService(func(s *cluster.Service) { s.Name.Name, s.ClusterIPs = "other", addrs("10.96.0.9") }))
	}
	step("after another change", other, 2, took)
	if o := syncFull(r, store); len(o.conflicts) != 2 {
		t.Errorf("a full plan finds conflicts %v, want 2", o.conflicts)
	}
	before["10.96.0.9:80/6"] = "ClusterIP, cluster []"
	delete(took, "10.96.0.1:80/6")
	step("after the Service", func(e *cluster.Edit) { e.DeleteService(web) }, 0, before)
}

// TestHostPortsSurviveRestart: a new agent knows the host ports from the maps, before and after it has seen the Services,
// and can remove them.
func TestHostPortsSurviveRestart(t *testing.T) {
	t.Parallel()
	m, store := newFakeMaps(), nodePortWorld()
	old := idle(t, m)
	if o := syncFull(old, store); o.failure() != nil {
		t.Fatal(o)
	}
	pod := addrs("10.0.0.5", "fd00::5")
	if err := old.SetHostPorts(t.Context(), pod, []HostPort{tcpPort("", 8080, 80), tcpPort("127.0.0.1", 9090, 90)}); err != nil {
		t.Fatal(err)
	}
	before, plain := m.serves(), map[string]string{}
	for f, served := range before {
		if !strings.HasPrefix(served, "HostPort") {
			plain[f] = served
		}
	}

	r := idle(t, m)
	for _, port := range []HostPort{tcpPort("", 8080, 1), tcpPort("", 30080, 1)} {
		if err := r.SetHostPorts(t.Context(), addrs("10.0.0.6"), []HostPort{port}); !errors.Is(err, ErrConflict) {
			t.Errorf("%s before the first sync: error %v, want a conflict", port, err)
		}
	}
	wantServed(t, "before the first sync", m, before)
	if o := syncFull(r, store); o.failure() != nil || len(o.conflicts) > 0 {
		t.Fatal(o)
	}
	wantServed(t, "after the first sync", m, before)
	if err := r.RemoveHostPorts(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	wantServed(t, "removed", m, plain)
	if len(m.blocks) != 2 {
		t.Errorf("%d blocks, want those of the Service", len(m.blocks))
	}
}

// TestTakenHostPortsSurviveRestart: a port that a Service has taken is in no map. A new agent knows that its pod waits for
// it once it has been asked, before and after it has seen the Services, and serves it when the Service goes.
func TestTakenHostPortsSurviveRestart(t *testing.T) {
	t.Parallel()
	m, store := newFakeMaps(), cluster.NewStore()
	store.Update(func(e *cluster.Edit) { e.MarkSynced() })
	old := idle(t, m)
	pod, ports := addrs("10.0.0.5"), []HostPort{tcpPort("", 30080, 80), tcpPort("127.0.0.1", 30080, 81), tcpPort("", 8080, 80)}
	if err := old.SetHostPorts(t.Context(), pod, ports); err != nil {
		t.Fatal(err)
	}
	alone := m.serves()
	store.Update(func(e *cluster.Edit) { e.PutService(webService(nodePort(30080))) })
	if o := syncFull(old, store); o.failure() != nil || len(o.conflicts) != 2 {
		t.Fatal(o)
	}
	beside := m.serves()

	r := idle(t, m)
	wantHas(t, r, pod, ports, true)
	wantHas(t, r, pod, append([]HostPort{tcpPort("", 7070, 80)}, ports...), false) // nobody has that one
	wantHas(t, r, pod, ports[:2], false)                                           // it has another
	wantServed(t, "before the first sync", m, beside)
	if o := syncFull(r, store); o.failure() != nil || len(o.conflicts) > 0 {
		t.Fatalf("%+v", o)
	}
	wantHas(t, r, pod, ports, true)
	wantServed(t, "after the first sync", m, beside)
	if err := r.SetHostPorts(t.Context(), addrs("10.0.0.6"), ports[:1]); !errors.Is(err, ErrConflict) {
		t.Errorf("for another pod: error %v, want a conflict", err)
	}
	store.Update(func(e *cluster.Edit) { e.DeleteService(web) })
	if o := r.sync(cluster.Change{Snapshot: store.Snapshot(), Services: []cluster.Name{web}}); o.failure() != nil {
		t.Fatal(o)
	}
	wantServed(t, "after the Service", m, alone)
}

// TestHostPortsOfBrokenBlocks: what does not look like a host port of ours is removed at the first sync.
func TestHostPortsOfBrokenBlocks(t *testing.T) {
	t.Parallel()
	m := newFakeMaps()
	f := func(port uint16) bpf.Frontend {
		return bpf.Frontend{Addr: netip.AddrPortFrom(wildcard(false), port), Protocol: 6}
	}
	m.frontends[f(1)] = entry{1, bpf.HostPort} // nothing published
	m.frontends[f(2)] = entry{2, bpf.HostPort}
	m.blocks[2] = bpf.Block{Cluster: backends("10.0.0.1:80", "10.0.0.2:80")}
	m.frontends[f(3)] = entry{3, bpf.HostPort}
	m.blocks[3] = bpf.Block{Cluster: backends("[fd00::1]:80")}
	r := idle(t, m)
	if err := r.SetHostPorts(t.Context(), addrs("10.0.0.5"), []HostPort{tcpPort("", 2, 80)}); err != nil {
		t.Errorf("over one of them: %v", err)
	}
	if o := syncFull(r, cluster.NewStore()); o.failure() != nil {
		t.Fatal(o)
	}
	wantServed(t, "after a sync", m, map[string]string{"0.0.0.0:2/6": toPod("10.0.0.5:80")})
}

// TestSetHostPortsFull: what does not fit is refused whole, with ErrFull, and leaves nothing behind the next sync.
func TestSetHostPortsFull(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*fakeMaps){
		"frontends": func(m *fakeMaps) { m.room = 1 },
		"records":   func(m *fakeMaps) { m.records = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newFakeMaps()
			limit(m)
			r := idle(t, m)
			err := r.SetHostPorts(t.Context(), addrs("10.0.0.5"), []HostPort{tcpPort("", 1, 1), tcpPort("", 2, 2)})
			if !errors.Is(err, bpf.ErrFull) {
				t.Errorf("error %v, want ErrFull", err)
			}
			wantServed(t, "with too little room", m, map[string]string{})
			if o := syncFull(r, cluster.NewStore()); o.failure() != nil {
				t.Error(o)
			}
			if len(m.blocks) > 0 {
				t.Errorf("left over: %v", m.blocks)
			}
			if err := r.SetHostPorts(t.Context(), addrs("10.0.0.5"), []HostPort{tcpPort("", 1, 1)}); err != nil {
				t.Error(err)
			}
			wantServed(t, "with just enough", m, map[string]string{"0.0.0.0:1/6": toPod("10.0.0.5:1")})
		})
	}
}

// TestSetHostPortsWithoutPortsDoesNotWait: most pods have none, and their ADD must not wait for a sync.
func TestSetHostPortsWithoutPortsDoesNotWait(t *testing.T) {
	t.Parallel()
	m := newFakeMaps()
	r := idle(t, m)
	if err := r.SetHostPorts(t.Context(), addrs("10.0.0.5"), []HostPort{tcpPort("", 8080, 80)}); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock() // as a sync does
	done := make(chan error, 1)
	go func() { done <- r.SetHostPorts(t.Context(), addrs("10.0.0.6"), nil) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("a pod without host ports waits for the maps")
	}
	r.mu.Unlock()
	// The address of a pod that went without a word: its host ports go when the next one has none.
	if err := r.SetHostPorts(t.Context(), addrs("10.0.0.5"), nil); err != nil {
		t.Fatal(err)
	}
	wantServed(t, "after the address was used again", m, map[string]string{})
}
