package service

import (
	"errors"
	"maps"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"pgregory.net/rapid"
)

// conflicts says whether host ports must be refused to a pod: a Service serves one of them, there or on all addresses of
// the node, or another pod was granted it, or it and all addresses meet.
func (m *fakeMaps) conflicts(pod netip.Addr, want []Port, granted map[cluster.Name][]Port) bool {
	for _, p := range want {
		f := p.Frontends[0].Frontend
		for _, at := range []bpf.Frontend{f, anyAddress(f)} {
			if e, ok := m.frontends[at]; ok && e.kind != bpf.HostPort {
				return true
			}
		}
		for name, ports := range granted {
			for _, q := range ports {
				g := q.Frontends[0].Frontend
				if name != podName(pod) && (f == g || f == anyAddress(g) || g == anyAddress(f)) {
					return true
				}
			}
		}
	}
	return false
}

// TestReconcilerHostPortProperties changes Services and host ports at random, with writes that fail: a call that fails
// changes nothing, and after a sync that did not fail everything is as wanted.
func TestReconcilerHostPortProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m, store := newFakeMaps(), nodePortWorld()
		r, pods, said := idle(t, m), map[cluster.Name][]Port{}, map[netip.Addr][]HostPort{}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			m.fail = rapid.IntRange(0, 12).Draw(rt, "fail")
			switch rapid.SampledFrom([]string{"set", "service", "sync"}).Draw(rt, "step") {
			case "set":
				pod := netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(rt, "pod")%3 + 1})
				ports := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) HostPort {
					return tcpPort(rapid.SampledFrom([]string{"", "127.0.0.1"}).Draw(rt, "at"), rapid.Uint16Range(30079, 30082).Draw(rt, "port"), 80)
				}), 0, 3).Draw(rt, "ports")
				want, err := hostPorts(pod, ports)
				if err != nil {
					rt.Fatal(err)
				}
				expected := m.conflicts(pod, want, pods)
				failing := m.fail
				switch err := r.SetHostPorts(t.Context(), []netip.Addr{pod}, ports); {
				case err == nil && expected:
					rt.Fatalf("%v for %s is granted, want a conflict", ports, pod)
				case err == nil:
					pods[podName(pod)], said[pod] = want, ports
				case failing > 0 && m.fail == 0: // a write has failed
				case !expected || !errors.Is(err, ErrConflict):
					rt.Fatalf("%v for %s: error %v, want a conflict: %v", ports, pod, err, expected)
				}
			case "service":
				store.Update(func(e *cluster.Edit) {
					e.PutService(webService(nodePort(rapid.Uint16Range(30079, 30082).Draw(rt, "nodePort"))))
				})
			}
			r.sync(cluster.Change{Snapshot: store.Snapshot(), Services: []cluster.Name{web}})
			m.fail = 0
			for pod, ports := range said {
				wantHas(t, r, []netip.Addr{pod}, ports, true)
			}
			if o := r.sync(cluster.Change{Snapshot: store.Snapshot(), Services: []cluster.Name{web}}); o.failure() != nil {
				rt.Fatal(o.failure())
			}
			want := map[cluster.Name][]Port{web: Select(store.Snapshot().Service(web), store.Snapshot().Slices(web), thisNode)}
			maps.Copy(want, pods)
			if diff := cmp.Diff(wanted(want), m.serves()); diff != "" {
				rt.Fatalf("served differs (-want +got):\n%s", diff)
			}
			if len(m.blocks) != countPorts(want) {
				rt.Fatalf("%d blocks for %d ports", len(m.blocks), countPorts(want))
			}
		}
	})
}
