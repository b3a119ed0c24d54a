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
			for kind, names := range map[Kind][2][]Name{
				Pods: {differing(before.pods, after.pods, same), c.Pods}, Ingresses: {differing(before.ingresses, after.ingresses, same), c.Ingresses},
				HTTPRoutes:   {differing(before.routes, after.routes, same), c.HTTPRoutes},
				Gateways:     {differing(before.gateways, after.gateways, same), c.Gateways},
				DNSEndpoints: {differing(before.endpoints, after.endpoints, same), c.DNSEndpoints},
			} {
				for _, name := range names[0] {
					if !slices.Contains(names[1], name) {
						t.Fatalf("%s: %s is different and not named in %v", kind, name, names[1])
					}
				}
			}
			for _, name := range differing(before.serviceCIDRs, after.serviceCIDRs, same) {
				if !slices.Contains(c.ServiceCIDRs, name.Name) {
					t.Fatalf("ServiceCIDR %s is different and not named in %v", name.Name, c.ServiceCIDRs)
				}
			}
			for _, name := range differing(before.nodes, after.nodes, same) {
				if !slices.Contains(c.Nodes, name.Name) {
					t.Fatalf("node %s is different and not named in %v", name.Name, c.Nodes)
				}
			}
			if sameSpace := before.HasNamespace("ns") == after.HasNamespace("ns") && maps.Equal(before.NamespaceLabels("ns"), after.NamespaceLabels("ns")); !sameSpace && !slices.Contains(c.Namespaces, "ns") {
				t.Fatalf("the namespace is different and not named in %v", c.Namespaces)
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
	if n := len(sub.seen[Services]); n > 1100 {
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
