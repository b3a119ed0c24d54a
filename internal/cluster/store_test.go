package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A dump is a Snapshot in a form that cmp can compare: whatever the shape of its shards.
type dump struct {
	Synced        bool
	Services      map[Name]*Service
	ServiceSlices map[Name][]*EndpointSlice
	Namespaces    []string
	ByClusterIP   map[netip.Addr]Name
	ByEndpointIP  map[netip.Addr][]ServiceEndpoint
	Pods          map[Name]*Pod
	ByPodIP       map[netip.Addr]*Pod
	Sizes         []int
}

func dumpOf(s *Snapshot) dump {
	d := dump{
		Synced:        s.Synced(),
		Services:      maps.Collect(s.services.all()),
		ServiceSlices: maps.Collect(s.serviceSlices.all()),
		Namespaces:    slices.Sorted(s.Namespaces()),
		ByClusterIP:   make(map[netip.Addr]Name),
		ByEndpointIP:  make(map[netip.Addr][]ServiceEndpoint),
		Pods:          make(map[Name]*Pod),
		ByPodIP:       make(map[netip.Addr]*Pod),
		Sizes: []int{
			s.services.len(), s.slices.len(), s.serviceSlices.len(), s.namespaces.len(), s.clusterIPs.len(), s.endpointIPs.len(),
			s.pods.len(), s.podIPs.len(),
		},
	}
	for addr := range s.clusterIPs.all() {
		d.ByClusterIP[addr] = s.ServiceByIP(addr).Name
	}
	for addr := range s.endpointIPs.all() {
		d.ByEndpointIP[addr] = s.EndpointsByIP(addr)
	}
	for pod := range s.Pods() {
		d.Pods[pod.Name] = pod
	}
	for addr := range s.podIPs.all() {
		d.ByPodIP[addr] = s.PodByIP(addr)
	}
	return d
}

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func drawAddr(t *rapid.T) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "address") % 32})
}

func drawService(t *rapid.T) *Service {
	return &Service{
		Name:       Name{"ns", rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "service")},
		ClusterIPs: []netip.Addr{drawAddr(t)},
		Created:    time.Unix(rapid.Int64Range(0, 3).Draw(t, "created"), 0),
	}
}

func drawSlice(t *rapid.T) *EndpointSlice {
	slice := &EndpointSlice{
		Name:    Name{"ns", fmt.Sprintf("slice-%d", rapid.IntRange(0, 40).Draw(t, "slice"))},
		Service: Name{"ns", rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "of")},
	}
	for range rapid.IntRange(0, 4).Draw(t, "endpoints") {
		slice.Endpoints = append(slice.Endpoints, Endpoint{Addr: drawAddr(t), Ready: rapid.Bool().Draw(t, "ready")})
	}
	return slice
}

func drawPod(t *rapid.T) *Pod {
	pod := &Pod{
		Name:        Name{"ns", rapid.SampledFrom([]string{"p", "q", "r", "s"}).Draw(t, "pod")},
		Created:     time.Unix(rapid.Int64Range(0, 3).Draw(t, "created"), 0),
		HostNetwork: rapid.IntRange(0, 4).Draw(t, "host network") == 0,
		Labels:      map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "label")},
		Phase:       rapid.SampledFrom([]PodPhase{PodPending, PodRunning, PodSucceeded}).Draw(t, "phase"),
		Terminating: rapid.Bool().Draw(t, "terminating"),
	}
	for range rapid.IntRange(0, 2).Draw(t, "addresses") {
		pod.Addrs = append(pod.Addrs, drawAddr(t))
	}
	return pod
}

// A model is the plainest store there is.
type model struct {
	services   map[Name]*Service
	slices     map[Name]*EndpointSlice
	namespaces map[string]struct{}
	pods       map[Name]*Pod
}

func newModel() model {
	return model{make(map[Name]*Service), make(map[Name]*EndpointSlice), make(map[string]struct{}), make(map[Name]*Pod)}
}

// step makes one random change to the model and the same one to the edit.
func (m model) step(t *rapid.T, e *Edit) {
	switch rapid.IntRange(0, 7).Draw(t, "step") {
	case 0:
		svc := drawService(t)
		m.services[svc.Name] = svc
		e.PutService(svc)
	case 1:
		name := drawService(t).Name
		delete(m.services, name)
		e.DeleteService(name)
	case 2:
		slice := drawSlice(t)
		m.slices[slice.Name] = slice
		e.PutSlice(slice)
	case 3:
		name := drawSlice(t).Name
		delete(m.slices, name)
		e.DeleteSlice(name)
	case 4:
		m.namespaces["ns"] = struct{}{}
		e.PutNamespace("ns")
	case 5:
		delete(m.namespaces, "ns")
		e.DeleteNamespace("ns")
	case 6:
		pod := drawPod(t)
		m.pods[pod.Name] = pod
		e.PutPod(pod)
	case 7:
		name := drawPod(t).Name
		delete(m.pods, name)
		e.DeletePod(name)
	}
}

func (m model) objects() Objects {
	return Objects{
		Services:   slices.Collect(maps.Values(m.services)),
		Slices:     slices.Collect(maps.Values(m.slices)),
		Namespaces: slices.Collect(maps.Keys(m.namespaces)),
		Pods:       slices.Collect(maps.Values(m.pods)),
	}
}

func TestEditsEqualFreshBuild(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		edited := NewStore()
		m := newModel()
		var frozen *Snapshot
		var frozenDump dump
		for i := range rapid.IntRange(1, 80).Draw(t, "updates") {
			edited.Update(func(e *Edit) {
				for range rapid.IntRange(1, 3).Draw(t, "steps") {
					m.step(t, e)
				}
			})
			if i == 10 {
				frozen = edited.Snapshot()
				frozenDump = dumpOf(frozen)
			}
		}
		edited.Update((*Edit).MarkSynced)

		fresh := NewStore()
		fresh.Replace(m.objects())
		if diff := cmp.Diff(dumpOf(fresh.Snapshot()), dumpOf(edited.Snapshot()), compareAddrs); diff != "" {
			t.Fatalf("edited step by step (+) is not what a fresh build (-) is:\n%s", diff)
		}
		if frozen != nil {
			if diff := cmp.Diff(frozenDump, dumpOf(frozen), compareAddrs); diff != "" {
				t.Fatalf("a Snapshot changed after it was made:\n%s", diff)
			}
		}
	})
}

func TestChangeNamesWhatDiffers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		store := NewStore()
		store.Update((*Edit).MarkSynced)
		sub := store.Subscribe()
		defer sub.Close()
		if c, _ := sub.Next(t.Context()); !c.Full {
			t.Fatal("the first change is not full")
		}
		m := newModel()
		for range 5 {
			before := store.Snapshot()
			store.Update(func(e *Edit) {
				for range rapid.IntRange(0, 4).Draw(t, "steps") {
					m.step(t, e)
				}
			})
			after := store.Snapshot()
			if before == after {
				continue
			}
			c, err := sub.Next(t.Context())
			if err != nil || c.Snapshot != after {
				t.Fatalf("next: %v, snapshot %d, want %d", err, c.Snapshot.Version(), after.Version())
			}
			for _, name := range []Name{{"ns", "a"}, {"ns", "b"}, {"ns", "c"}, {"ns", "d"}} {
				same := before.Service(name) == after.Service(name) && slices.Equal(before.Slices(name), after.Slices(name))
				if !same && !slices.Contains(c.Services, name) {
					t.Fatalf("%s is different and not named in %v", name, c.Services)
				}
			}
			for _, name := range []Name{{"ns", "p"}, {"ns", "q"}, {"ns", "r"}, {"ns", "s"}} {
				if before.Pod(name) != after.Pod(name) && !slices.Contains(c.Pods, name) {
					t.Fatalf("pod %s is different and not named in %v", name, c.Pods)
				}
			}
		}
	})
}

func TestReplaceTouchesOnlyWhatDiffers(t *testing.T) {
	t.Parallel()
	store := NewStore()
	build := func(aReady bool) Objects {
		return Objects{
			Services: []*Service{{Name: Name{"ns", "a"}}, {Name: Name{"ns", "b"}}},
			Slices: []*EndpointSlice{
				{Name: Name{"ns", "a-1"}, Service: Name{"ns", "a"}, Endpoints: []Endpoint{{Addr: netip.MustParseAddr("10.0.0.1"), Ready: aReady}}},
				{Name: Name{"ns", "b-1"}, Service: Name{"ns", "b"}},
			},
			Namespaces: []string{"ns"},
		}
	}
	sub := store.Subscribe()
	defer sub.Close()
	store.Replace(build(true))
	if c, _ := sub.Next(t.Context()); !c.Full || !c.Snapshot.Synced() {
		t.Fatalf("first change: full %t, synced %t", c.Full, c.Snapshot.Synced())
	}
	version := store.Snapshot().Version()
	store.Replace(build(true))
	if got := store.Snapshot().Version(); got != version {
		t.Errorf("the same objects again made version %d of %d", got, version)
	}
	store.Replace(build(false))
	c, err := sub.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := []Name{{"ns", "a"}}; !slices.Equal(c.Services, want) || c.Full || c.Namespaces != nil {
		t.Errorf("change %v full %t namespaces %v, want %v", c.Services, c.Full, c.Namespaces, want)
	}
}

func TestNextWaitsForSync(t *testing.T) {
	t.Parallel()
	store := NewStore()
	sub := store.Subscribe()
	defer sub.Close()
	store.Update(func(e *Edit) { e.PutService(&Service{Name: Name{"ns", "a"}}) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := sub.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("next before sync: %+v, %v", c, err)
	}
	store.Update((*Edit).MarkSynced)
	if c, err := sub.Next(t.Context()); err != nil || !c.Full || c.Snapshot.Service(Name{"ns", "a"}) == nil {
		t.Fatalf("next after sync: %+v, %v", c, err)
	}
}

func TestSubscriptionCoalescesAndStaysBounded(t *testing.T) {
	t.Parallel()
	store := NewStore()
	store.Update((*Edit).MarkSynced)
	sub := store.Subscribe()
	defer sub.Close()
	if _, err := sub.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	comeAndGo := func(from, to int) {
		for i := from; i < to; i++ {
			name := Name{"ns", fmt.Sprint(i)}
			store.Update(func(e *Edit) { e.PutService(&Service{Name: name}) })
			store.Update(func(e *Edit) { e.DeleteService(name) })
		}
	}
	comeAndGo(0, 10)
	if c, _ := sub.Next(t.Context()); c.Full || len(c.Services) != 10 {
		t.Errorf("full %t with %d services, want 10 services", c.Full, len(c.Services))
	}
	comeAndGo(0, 5000)
	if n := len(sub.services); n > 1100 {
		t.Errorf("%d keys kept for an empty cluster", n)
	}
	if c, _ := sub.Next(t.Context()); !c.Full || c.Services != nil {
		t.Errorf("full %t with %d services, want full", c.Full, len(c.Services))
	}
}

func TestSubscriptionSleepsThroughOtherKinds(t *testing.T) {
	t.Parallel()
	store := NewStore()
	services, pods := store.Subscribe(Services, Namespaces), store.Subscribe(Pods)
	defer services.Close()
	defer pods.Close()
	store.Update((*Edit).MarkSynced) // touches nothing, and is news to everybody
	for _, sub := range []*Subscription{services, pods} {
		if c, err := sub.Next(t.Context()); err != nil || !c.Full {
			t.Fatalf("first change: %+v, %v", c, err)
		}
	}
	pod, svc := Name{"ns", "p"}, Name{"ns", "a"}
	store.Update(func(e *Edit) { e.PutPod(&Pod{Name: pod}) })
	if len(services.signal) != 0 {
		t.Error("a pod woke who follows Services")
	}
	if c, err := pods.Next(t.Context()); err != nil || !slices.Equal(c.Pods, []Name{pod}) || c.Snapshot.Pod(pod) == nil {
		t.Errorf("change %+v, %v, want pod %s", c, err, pod)
	}
	store.Update(func(e *Edit) { e.PutService(&Service{Name: svc}); e.PutNamespace("ns") })
	if len(pods.signal) != 0 {
		t.Error("a Service woke who follows pods")
	}
	c, err := services.Next(t.Context())
	if err != nil || !slices.Equal(c.Services, []Name{svc}) || c.Pods != nil || c.Snapshot.Pod(pod) == nil {
		t.Errorf("change %+v, %v, want Service %s only", c, err, svc)
	}
}

func TestServiceByIPPrefersTheOlder(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr("10.96.0.1")
	store := NewStore()
	store.Replace(Objects{Services: []*Service{
		{Name: Name{"ns", "a"}, ClusterIPs: []netip.Addr{addr}, Created: time.Unix(2, 0)},
		{Name: Name{"ns", "b"}, ClusterIPs: []netip.Addr{addr}, Created: time.Unix(1, 0)},
	}})
	if got := store.Snapshot().ServiceByIP(addr).Name.Name; got != "b" {
		t.Errorf("the address belongs to %s", got)
	}
}

func BenchmarkEndpointChange(b *testing.B) {
	store, slice := NewStore(), func(service, endpoint int, ready bool) *EndpointSlice {
		s := &EndpointSlice{Name: Name{"ns", fmt.Sprintf("s%d-1", service)}, Service: Name{"ns", fmt.Sprintf("s%d", service)}}
		for i := range 10 {
			s.Endpoints = append(s.Endpoints, Endpoint{
				Addr:  netip.AddrFrom4([4]byte{10, byte(service >> 8), byte(service), byte(i)}),
				Ready: i != endpoint || ready,
			})
		}
		return s
	}
	store.Update(func(e *Edit) {
		for i := range 10_000 {
			e.PutSlice(slice(i, 0, true))
		}
	})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		store.Update(func(e *Edit) { e.PutSlice(slice(i%10_000, 3, i/10_000%2 == 1)) })
	}
}
