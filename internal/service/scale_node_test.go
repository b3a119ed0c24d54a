//go:build node

package service

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/bpf/bpftest"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/prometheus/client_golang/prometheus"
)

// The size that the budgets are for.
const (
	manyServices   = 10_000
	manyEndpoints  = 10 // of each Service
	manyBackground = 100
)

// many is a Store with a large cluster in it, synced.
func many() *cluster.Store {
	store := cluster.NewStore()
	store.Update(func(e *cluster.Edit) {
		for i := range manyServices {
			e.PutService(&cluster.Service{
				Name: nameOf(i), UID: fmt.Sprintf("0b1c5c1e-7b5e-4b9a-9d7f-%012d", i), Created: time.Unix(1700000000, 0),
				ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
				Ports:      []cluster.ServicePort{{Name: "http", Protocol: cluster.TCP, Port: 80}},
			})
			e.PutSlice(manySlice(i, 0))
		}
		e.MarkSynced()
	})
	return store
}

func nameOf(i int) cluster.Name {
	return cluster.Name{Namespace: fmt.Sprintf("team-%d", i/100), Name: fmt.Sprintf("app-%d", i)}
}

// manySlice is the slice of Service i in one of its states.
func manySlice(i, state int) *cluster.EndpointSlice {
	name := nameOf(i)
	s := &cluster.EndpointSlice{
		Name: cluster.Name{Namespace: name.Namespace, Name: name.Name + "-x7k2p"}, Service: name,
		Ports: []cluster.EndpointPort{{Name: "http", Protocol: cluster.TCP, Port: 8080}},
	}
	for k := range manyEndpoints {
		n := i*manyEndpoints + k
		if k == 0 {
			n += state % 2 * manyServices * manyEndpoints
		}
		s.Endpoints = append(s.Endpoints, cluster.Endpoint{
			Addr: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), NodeName: fmt.Sprintf("node-%d", n%100), Ready: true, Serving: true,
		})
	}
	return s
}

// measured is a Reconciler of a large cluster on real maps that has synced once.
type measured struct {
	store    *cluster.Store
	datapath *bpf.Datapath
	synced   chan Sync
	first    Sync
}

func measure(tb testing.TB, store *cluster.Store) *measured {
	tb.Helper()
	m := &measured{store: store, datapath: bpftest.Load(tb), synced: make(chan Sync, 1000)}
	sub := store.Subscribe(cluster.Services, cluster.Namespaces, cluster.Nodes, cluster.ServiceCIDRs)
	r, err := New(Config{
		Maps: m.datapath.Services, Changes: sub, Node: Node{Name: "node-1"}, Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), Synced: func(s Sync) { m.synced <- s },
	})
	if err != nil {
		tb.Fatal(err)
	}
	start(tb, r, sub)
	if m.first = <-m.synced; m.first.Err != nil {
		tb.Fatal(m.first.Err)
	}
	return m
}

// BenchmarkFullSync is a first sync with the caches loaded, into empty maps: s/sync is the budget's figure.
func BenchmarkFullSync(b *testing.B) {
	store := many()
	var all []time.Duration
	for b.Loop() {
		m := measure(b, store)
		all = append(all, m.first.Done.Sub(m.first.Started))
	}
	b.ReportMetric(slices.Min(all).Seconds(), "min-s/sync")
	b.ReportMetric(slices.Max(all).Seconds(), "max-s/sync")
}

// BenchmarkEndpointChange is one endpoint's change in a large cluster, from the Store to the record in the kernel, at 50 a
// second beside background changes of as many Services at once.
func BenchmarkEndpointChange(b *testing.B) {
	m := measure(b, many())
	target := manyServices / 2
	var took []time.Duration
	state := 0
	for b.Loop() {
		state++
		m.store.Update(func(e *cluster.Edit) {
			for i := range manyBackground {
				e.PutSlice(manySlice((state*manyBackground+i)%target, state))
			}
		})
		started := time.Now()
		m.store.Update(func(e *cluster.Edit) { e.PutSlice(manySlice(target, state)) })
		for {
			s := <-m.synced
			if s.Err != nil {
				b.Fatal(s.Err)
			}
			if slices.Contains(s.Change.Services, nameOf(target)) {
				break
			}
		}
		took = append(took, time.Since(started))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}

// BenchmarkMemory is what the Store and the Reconciler keep of a large cluster.
func BenchmarkMemory(b *testing.B) {
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return float64(s.HeapAlloc) / (1 << 20)
	}
	for b.Loop() {
		before := heap()
		store := many()
		stored := heap()
		m := measure(b, store)
		b.ReportMetric(stored-before, "MiB-store")
		b.ReportMetric(heap()-stored, "MiB-reconciler")
		runtime.KeepAlive(m)
	}
}
