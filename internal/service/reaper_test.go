package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"
)

// asUDP makes UDP ports of some.
func asUDP(world map[cluster.Name][]Port) map[cluster.Name][]Port {
	out := map[cluster.Name][]Port{}
	for name, ports := range world {
		for _, p := range ports {
			p.ID.Protocol, p.Frontends = cluster.UDP, slices.Clone(p.Frontends)
			for i := range p.Frontends {
				p.Frontends[i].Protocol = uint8(cluster.UDP)
			}
			out[name] = append(out[name], p)
		}
	}
	return out
}

// behind is what each frontend leads to.
func (m *fakeMaps) behind() map[bpf.Frontend][]netip.AddrPort {
	out := map[bpf.Frontend][]netip.AddrPort{}
	for f, e := range m.frontends {
		out[f] = slices.Concat(m.blocks[e.record].Cluster, m.blocks[e.record].Local)
	}
	return out
}

// TestG2WithdrawnBackendsAreTold: no UDP backend stops to serve a frontend without Plan.Withdrawn, whatever becomes of its
// Service, and TCP is no reason for it (G3).
func TestG2WithdrawnBackendsAreTold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newFakeMaps()
		tab := must(adopt(m))
		full, udp := true, rapid.Bool().Draw(t, "udp")
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "restart") {
				tab, full = must(adopt(m)), true
			}
			next := drawServices(t)
			if udp {
				next = asUDP(next)
			}
			for name := range tab.services {
				if _, ok := next[name]; !ok && !full && rapid.Bool().Draw(t, "gone") {
					next[name] = nil
				}
			}
			before := m.behind()
			plan, _ := tab.plan(next, full)
			full = false
			for _, op := range append(slices.Concat(plan.Grow...), plan.Shrink...) {
				if err := op.apply(m); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.Reclaim(); err != nil {
				t.Fatal(err)
			}
			after := m.behind()
			for f, had := range before {
				gone := slices.ContainsFunc(had, func(a netip.AddrPort) bool { return !slices.Contains(after[f], a) })
				if udp && gone && !plan.Withdrawn {
					t.Fatalf("%s had %v and has %v, and the plan does not say so: %v", f, had, after[f], plan)
				}
			}
			if !udp && plan.Withdrawn {
				t.Fatalf("a plan about TCP withdraws: %v", plan)
			}
		}
	})
}

// fakeSockets counts passes and leaves what it is told to.
type fakeSockets struct {
	mu     sync.Mutex
	passes []time.Time
	ended  int
	left   []netip.AddrPort
	err    error
}

func (f *fakeSockets) Reap() (bpf.Reaped, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passes = append(f.passes, time.Now())
	return bpf.Reaped{Ended: f.ended, Left: f.left}, f.err
}

func (f *fakeSockets) Close() error { return nil }

func (f *fakeSockets) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeSockets) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.passes)
}

// A reaping is a Reaper on fakes, in a synctest bubble.
type reaping struct {
	*Reaper
	sockets *fakeSockets
	mu      sync.Mutex
	named   map[netip.Addr]bool
}

func (w *reaping) name(a netip.Addr, is bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.named[a] = is
}

func newReaping(t *testing.T, open func() error) *reaping {
	t.Helper()
	w := &reaping{sockets: &fakeSockets{}, named: map[netip.Addr]bool{}}
	synced := make(chan struct{})
	close(synced)
	var err error
	w.Reaper, err = NewReaper(ReaperConfig{
		Open: func() (Sockets, error) { return w.sockets, open() }, Synced: synced,
		Named: func(ask []netip.Addr) map[netip.Addr]bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return maps.Clone(w.named)
		},
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func opens() error { return nil }

// settles asks every 10 ms for a time.
func (w *reaping) settles(a netip.Addr, within time.Duration) bool {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if w.Settled(a) {
			return true
		}
	}
	return false
}

var lease = netip.MustParseAddr("10.0.0.7")

func TestReaperMakesOnePassForABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newReaping(t, opens)
		time.Sleep(time.Minute) // the pass for what an earlier agent left, and the one after
		before := w.sockets.count()
		if before == 0 || before > 2 {
			t.Errorf("%d passes at the start", before)
		}
		began := time.Now()
		w.Withdrawn()
		synctest.Wait() // the pass for the first of them is over, and the next one must wait
		for range 50 {
			w.Withdrawn()
		}
		time.Sleep(time.Minute)
		var passes []time.Duration
		w.sockets.set(func() {
			for _, at := range w.sockets.passes[before:] {
				passes = append(passes, at.Sub(began))
			}
		})
		// The last one is for connects that were under way.
		if want := []time.Duration{0, reapPause, reapPause + inFlight}; !slices.Equal(passes, want) {
			t.Errorf("passes after %v, want them after %v", passes, want)
		}
	})
}

func TestReaperBoundsItsPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newReaping(t, opens)
		for range 1000 {
			w.Withdrawn()
			time.Sleep(10 * time.Millisecond)
		}
		if n := w.sockets.count(); n > int(10*time.Second/reapPause)+1 || n < 50 {
			t.Errorf("%d passes in 10 seconds of changes", n)
		}
	})
}

// An address is settled when a pass has looked for its sockets after the last Service had it (reference row K28).
func TestK28Settled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newReaping(t, opens)
		w.name(lease, true)
		if w.settles(lease, time.Minute) {
			t.Fatal("settled while a Service has it")
		}
		w.name(lease, false)
		gone := time.Now()
		if !w.settles(lease, 2*inFlight+reapPause) {
			t.Fatal("not settled")
		}
		w.sockets.set(func() {
			if last := w.sockets.passes[len(w.sockets.passes)-1]; last.Sub(gone) < inFlight {
				t.Errorf("settled by a pass %s after the Service let go of it", last.Sub(gone))
			}
		})
		if w.Settled(lease) {
			t.Error("a yes was given twice")
		}
	})
}

func TestK28NotSettledWithSocketsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newReaping(t, opens)
		other := netip.MustParseAddr("10.0.0.8")
		w.sockets.set(func() { w.sockets.left = []netip.AddrPort{netip.AddrPortFrom(lease, 53)} })
		if w.settles(lease, time.Minute) {
			t.Error("settled with a socket that could not be ended")
		}
		if !w.settles(other, time.Minute) {
			t.Error("another address has to wait for it")
		}
		w.sockets.set(func() { w.sockets.left, w.sockets.err = nil, errors.New("no look at sockets") })
		if w.settles(lease, time.Minute) {
			t.Error("settled without a look at sockets")
		}
		w.sockets.set(func() { w.sockets.err = nil })
		if !w.settles(lease, reapRetry+time.Second) {
			t.Error("not settled")
		}
	})
}

// Who asks for an address whose sockets could not be ended gets no more passes than those for what is left.
func TestReaperDoesNotHurryForWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newReaping(t, opens)
		w.sockets.set(func() { w.sockets.left = []netip.AddrPort{netip.AddrPortFrom(lease, 53)} })
		w.Withdrawn()
		if w.settles(lease, time.Minute) {
			t.Error("settled with a socket that could not be ended")
		}
		if n := w.sockets.count(); n < 5 || n > 10 {
			t.Errorf("%d passes in a minute of questions", n)
		}
		if !w.settles(netip.MustParseAddr("10.0.0.8"), inFlight+2*reapPause) {
			t.Error("another address has to wait for the next try")
		}
	})
}

func TestReaperTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newReaping(t, opens)
		w.sockets.set(func() { w.sockets.err = errors.New("no look at sockets") })
		w.Withdrawn()
		time.Sleep(time.Minute)
		if n := w.sockets.count(); n < 5 || n > 10 {
			t.Errorf("%d passes in a minute of failures", n)
		}
	})
}

func TestReaperOnAKernelThatCannot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		w := newReaping(t, func() error { asked++; return fmt.Errorf("no BTF: %w", bpf.ErrNotSupported) })
		w.Withdrawn()
		w.name(lease, true)
		if w.settles(lease, time.Minute) {
			t.Error("settled while a Service has it")
		}
		w.name(lease, false)
		if !w.settles(lease, time.Minute) {
			t.Error("not settled")
		}
		if n := w.sockets.count(); n != 0 || asked != 1 {
			t.Errorf("%d passes; %d times asked for sockets", n, asked)
		}
	})
}

// What keeps sockets from being had may pass.
func TestReaperAsksAgainForSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		w := newReaping(t, func() error {
			if asked++; asked <= 3 {
				return errors.New("no memory")
			}
			return nil
		})
		if !w.settles(lease, time.Minute) {
			t.Error("an address has to wait for what may never come")
		}
		time.Sleep(4 * openRetry)
		if n := w.sockets.count(); asked != 4 || n == 0 || n > 2 {
			t.Errorf("asked %d times for sockets, %d passes", asked, n)
		}
	})
}

// What only leaves a list, or comes, is no reason for a pass.
func TestG2WhatWithdraws(t *testing.T) {
	t.Parallel()
	a, b := backends("10.0.0.1:53"), backends("10.0.0.1:53", "10.0.0.2:53")
	for name, tt := range map[string]struct {
		from, to bpf.Block
		protocol cluster.Protocol
		want     bool
	}{
		"gone":                     {bpf.Block{Cluster: b}, bpf.Block{Cluster: a}, cluster.UDP, true},
		"gone from the local list": {bpf.Block{Cluster: a, Local: b}, bpf.Block{Cluster: a}, cluster.UDP, true},
		"gone, after it drained":   {bpf.Block{Draining: b}, bpf.Block{Draining: a}, cluster.UDP, true},
		"drains":                   {bpf.Block{Cluster: b}, bpf.Block{Cluster: a, Draining: b}, cluster.UDP, false},
		"comes":                    {bpf.Block{Cluster: a}, bpf.Block{Cluster: b}, cluster.UDP, false},
		"TCP":                      {bpf.Block{Cluster: b}, bpf.Block{Cluster: a}, cluster.TCP, false},
	} {
		tab, port := newTable(8), Port{ID: PortID{Service: web, Protocol: tt.protocol, Port: 53}}
		for i, block := range []bpf.Block{tt.from, tt.to} {
			port.Block = block
			plan, _ := tab.plan(map[cluster.Name][]Port{web: {port}}, false)
			if want := i == 1 && tt.want; plan.Withdrawn != want {
				t.Errorf("%s: withdrawn %t, want %t", name, plan.Withdrawn, want)
			}
		}
	}
}

// A pass for another reason settles nothing too early.
func TestK28ConnectsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newReaping(t, opens)
		time.Sleep(time.Minute)
		before := w.sockets.count()
		w.Withdrawn()
		if w.settles(lease, inFlight/2) {
			t.Error("settled while a connect may be under way")
		}
		if w.sockets.count() == before {
			t.Error("there was no pass")
		}
	})
}
