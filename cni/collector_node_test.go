//go:build node

package cni

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/test/netlab"
)

// await looks until the condition holds.
func await(t *testing.T, atMost time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !holds() {
		if time.Since(start) > atMost {
			t.Fatalf("not after %s: %s", atMost, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

// awaitENIs waits until the VPC has plugged ENIs again whose links went with a namespace, and until the kernel has taken
// away the node's ends of pairs.
func (w *world) awaitENIs(t *testing.T) {
	t.Helper()
	await(t, patience, "ENIs are back on the node", func() bool {
		back := 0
		check0(t, w.node.Do(func() error {
			for i := 1; i <= wholeENIs; i++ {
				hardware := must[net.HardwareAddr](t)(net.ParseMAC(mac(i)))
				if l := must[netlink.Link](t)(findENI(hardware, 0)); l != nil {
					back++
				}
			}
			return nil
		}))
		return back == wholeENIs
	})
}

// run runs a Collector whose interval plays no part, and returns what it reports.
func (w *world) run(t *testing.T) func() []string {
	t.Helper()
	var mu sync.Mutex
	var reports []string
	w.server.config.Report = func(reason, message string) {
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, reason+": "+message)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	c := NewCollector(w.server, time.Hour)
	go func() { done <- c.Run(ctx) }()
	<-c.Ready()
	t.Cleanup(func() {
		cancel()
		check0(t, <-done)
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(reports)
	}
}

// TestCollectorPutsBack: what somebody deletes of a pod on the node is back, by the event that tells of it, in both
// families, and it is reported. The figures are printed; a second is promised.
func TestCollectorPutsBack(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			w.addresses.dual = true
			pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
			w.mustServe(t, on(datapath, request("ADD", "a", pod)))
			reports := w.run(t)
			known, _ := w.server.attachedAs(Key{"net", "a", "eth0"})
			ops := onHost(Plan(known.wiring))
			whole := func() bool { return namespaces{host: w.server.host}.verify(ops) == nil }
			await(t, patience, "the pod is whole at first", whole)
			for i, op := range ops {
				check0(t, w.node.Do(func() error { return breakOne(op) }))
				took := await(t, patience, op.String(), whole)
				t.Logf("%s: back after %s", op, took)
				if got := reports(); len(got) <= i || !strings.HasPrefix(got[len(got)-1], "PodRoutesRestored: ") || !strings.Contains(got[len(got)-1], "default/a") {
					await(t, patience, fmt.Sprintf("%s is reported: %v", op, got), func() bool { return len(reports()) > i })
				}
			}
			if _, err := talk(t, pod, w.node, uplinkAddr); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCollectorAsserts: the datapath is told of pods that it does not know. At first these are those of an older agent;
// later it is reported.
func TestCollectorAsserts(t *testing.T) {
	w := newWorld(t)
	_, addr := w.add(t, "a")
	entry := w.pods.entry(addr)
	var reports []string
	w.server.config.Report = func(reason, _ string) { reports = append(reports, reason) }
	c, now := NewCollector(w.server, 0), time.Now()
	for i, later := range []time.Duration{0, assertEvery} {
		check0(t, w.pods.Remove(t.Context(), entry))
		check0(t, c.Sweep(t.Context(), now.Add(later)))
		if known := must[bool](t)(w.pods.Has(t.Context(), entry)); !known {
			t.Error("the datapath does not know the pod")
		}
		if len(reports) != i {
			t.Errorf("after %s reports are %v", later, reports)
		}
	}
}

// TestPodsFollowTheNode: a new address of the node is reached by pods that are there, and a former one is forgotten.
func TestPodsFollowTheNode(t *testing.T) {
	for _, datapath := range onThisKernel {
		if datapath == Veth {
			continue // everything goes through the node anyway
		}
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			fake := &fakeENIs{ENIs: w.host, addrs: w.host.Addrs()}
			w.config.ENIs = fake
			w.config.HostNetworks = func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")} }
			w.serve(t)
			pod, addr := w.addOn(t, datapath, "a")
			const next = "10.8.0.77"
			check0(t, w.node.Do(func() error {
				return withLink("eth0", func(l netlink.Link) error { return netlink.AddrAdd(l, address(t, next+"/24")) })
			}))
			fake.addrs = []netip.Addr{netip.MustParseAddr(next)}
			check0(t, NewCollector(w.server, 0).Sweep(t.Context(), time.Now()))
			if source, err := talk(t, pod, w.node, next); err != nil || source != addr {
				t.Errorf("source %s, want %s (%v)", source, addr, err)
			}
			check0(t, pod.Do(func() error {
				routes := must[[]netlink.Route](t)(netlink.RouteList(nil, netlink.FAMILY_V4))
				for _, r := range routes {
					if prefixOf(r.Dst).Addr().String() == uplinkAddr {
						t.Errorf("the pod still has %s", r)
					}
				}
				return nil
			}))
			known, _ := w.server.attachedAs(Key{"net", "a", "eth0"})
			inside, err := openPod(pod.Path(), w.server.host)
			check0(t, err)
			defer inside.Close()
			check0(t, namespaces{w.server.host, inside}.verify(Plan(known.wiring)))
		})
	}
}

// fakeENIs has other addresses of the node.
type fakeENIs struct {
	ENIs
	addrs []netip.Addr
}

func (f *fakeENIs) Addrs() []netip.Addr { return f.addrs }

// TestGCAndCollector: GC deletes what the runtime does not name, and the Collector what vanished with its namespace, once
// it has been gone for a while.
func TestGCAndCollector(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			a, _ := w.addOn(t, datapath, "a")
			_, _ = w.addOn(t, datapath, "b")
			r := request("GC", "", nil)
			w.mustFail(t, r) // no list is not an empty list
			r.Config = config("1.1.0", `,"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]`)
			w.mustServe(t, r)
			if _, routes := w.traces(t); routes != 1 || w.pods.count() != 1 || len(w.addresses.List()) != 1 {
				t.Errorf("after GC: %d routes, %d entries, %d leases", routes, w.pods.count(), len(w.addresses.List()))
			}
			check0(t, a.Close()) // the pod vanishes without a DEL
			w.awaitENIs(t)
			await(t, 5*time.Second, "the link goes with the namespace", func() bool { links, _ := w.traces(t); return links == 0 })
			collector := NewCollector(w.server, 0)
			now := time.Now()
			for _, later := range []time.Duration{0, secondLook - 1} {
				check0(t, collector.Sweep(t.Context(), now.Add(later)))
				if len(w.addresses.List()) != 1 {
					t.Fatalf("collected after %s", later)
				}
			}
			check0(t, collector.Sweep(t.Context(), now.Add(secondLook)))
			w.wantNothingLeft(t)
		})
	}
}

// GC also deletes what has no lease, but a record; and what has a link alone.
func TestGCWithoutLease(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			_, _ = w.addOn(t, datapath, "recorded")
			_, _ = w.add(t, "linked")
			check0(t, w.addresses.Release(t.Context(), Key{"net", "recorded", "eth0"}))
			check0(t, w.addresses.Release(t.Context(), Key{"net", "linked", "eth0"}))
			check0(t, w.server.records.remove(Key{"net", "linked", "eth0"}))
			r := request("GC", "", nil)
			r.Config = config("1.1.0", `,"cni.dev/valid-attachments":[]`)
			w.mustServe(t, r)
			w.wantNothingLeft(t)
		})
	}
}

// A device of a pod whose namespace ended comes back to the node as the kernel leaves it, with the pod's alias and name.
func TestCollectorTidiesReturnedENI(t *testing.T) {
	w := newWorld(t)
	hardware := must[net.HardwareAddr](t)(net.ParseMAC(mac(1)))
	check0(t, w.node.Do(func() error {
		return withENI(hardware, 0, func(l netlink.Link) error {
			check0(t, netlink.LinkSetAlias(l, Key{"net", "gone", "eth0"}.Alias()))
			check0(t, netlink.LinkSetName(l, "dev7"))
			return netlink.LinkSetUp(l)
		})
	}))
	check0(t, NewCollector(w.server, 0).Sweep(t.Context(), time.Now()))
	w.wantENIsBack(t)
	check0(t, w.node.Do(func() error {
		return withLink(nameOnHost(hardware), func(netlink.Link) error { return nil })
	}))
}

// held is a world with a pod whose namespace has no path any more, and which a process holds until release is called.
func held(t *testing.T) (w *world, k Key, reports func() []string, release func()) {
	t.Helper()
	w = newWorld(t)
	pod, _ := w.addOn(t, Exclusive, "a")
	open := must[ns.NetNS](t)(ns.GetNS(pod.Path()))
	release = sync.OnceFunc(func() { check0(t, open.Close()) })
	t.Cleanup(release)
	check0(t, pod.Close())
	var told []string
	w.server.config.Report = func(reason, message string) { told = append(told, reason+": "+message) }
	return w, Key{"net", "a", "eth0"}, func() []string { return told }, release
}

// A lease of an ENI is not given up before the ENI is on the node again, and that is told once.
func TestDelWaitsForENI(t *testing.T) {
	w, k, reports, release := held(t)
	w.mustServe(t, request("DEL", "a", nil))
	w.mustServe(t, request("DEL", "a", nil))
	collector, now := NewCollector(w.server, 0), time.Now()
	for _, later := range []time.Duration{0, secondLook, 2 * secondLook, 3 * secondLook} {
		check0(t, collector.Sweep(t.Context(), now.Add(later)))
		if _, leased := w.addresses.Lookup(k); !leased || w.pods.count() != 0 {
			t.Fatalf("after %s: leased %v, %d entries", later, leased, w.pods.count())
		}
	}
	if got := reports(); len(got) != 1 || !strings.HasPrefix(got[0], "ENINotReturned: ENI "+mac(1)) {
		t.Errorf("reports are %v", got)
	}
	release()
	w.awaitENIs(t)
	check0(t, collector.Sweep(t.Context(), now.Add(3*secondLook)))
	w.wantNothingLeft(t)
	if got := reports(); len(got) != 1 {
		t.Errorf("reports are %v", got)
	}
}

// An ENI that does not come back, because it was detached by hand, does not keep its lease for ever.
func TestDelGivesENIUp(t *testing.T) {
	w, k, reports, release := held(t)
	w.mustServe(t, request("DEL", "a", nil))
	collector, now := NewCollector(w.server, 0), time.Now()
	check0(t, collector.Sweep(t.Context(), now.Add(eniReturn-time.Second)))
	if _, leased := w.addresses.Lookup(k); !leased {
		t.Error("given up too early")
	}
	check0(t, collector.Sweep(t.Context(), now.Add(eniReturn)))
	if got := reports(); len(got) != 2 || !strings.Contains(got[1], "is given up") {
		t.Errorf("reports are %v", got)
	}
	release()
	w.awaitENIs(t)
	w.wantNothingLeft(t)
}

// A pod that is there keeps its address, and its ENI, when somebody deletes its link on the node.
func TestCollectorKeepsUnlinked(t *testing.T) {
	for _, datapath := range []Datapath{Veth, Exclusive} {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			pod, _ := w.addOn(t, datapath, "a")
			k := Key{"net", "a", "eth0"}
			var reports []string
			w.server.config.Report = func(reason, _ string) { reports = append(reports, reason) }
			check0(t, w.node.Do(func() error { return withLink(k.HostLink(), netlink.LinkDel) }))
			collector, now := NewCollector(w.server, 0), time.Now()
			for _, later := range []time.Duration{0, secondLook, 2 * secondLook} {
				check0(t, collector.Sweep(t.Context(), now.Add(later)))
			}
			if _, leased := w.addresses.Lookup(k); !leased || w.pods.count() != 1 || !slices.Equal(reports, []string{"PodLinkDeleted"}) {
				t.Errorf("leased %v, %d entries, reports %v", leased, w.pods.count(), reports)
			}
			w.mustServe(t, request("DEL", "a", pod))
			w.wantNothingLeft(t)
		})
	}
}

// A pod may make a link with the address of its ENI: it is not taken for the ENI.
func TestDelReturnsTheRightLink(t *testing.T) {
	w := newWorld(t)
	pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
	mine := func(i int) *netlink.Veth {
		a := netlink.NewLinkAttrs()
		a.Name, a.HardwareAddr = fmt.Sprint("mine", i), must[net.HardwareAddr](t)(net.ParseMAC(mac(1)))
		return &netlink.Veth{LinkAttrs: a, PeerName: fmt.Sprint("peer", i)}
	}
	// One before the ENI and one after it, in whichever order the kernel lists them.
	check0(t, pod.Do(func() error { return netlink.LinkAdd(mine(0)) }))
	w.mustServe(t, on(Exclusive, request("ADD", "a", pod)))
	check0(t, pod.Do(func() error { return netlink.LinkAdd(mine(1)) }))
	w.mustServe(t, request("DEL", "a", pod))
	w.wantNothingLeft(t)
	check0(t, pod.Do(func() error { return withLink("mine0", func(netlink.Link) error { return nil }) }))
	check0(t, pod.Do(func() error { return withLink("mine1", func(netlink.Link) error { return nil }) }))
}
