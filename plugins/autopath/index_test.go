package autopath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/autopath"
)

var testCluster = autopath.Cluster{Domain: "cluster.local", Host: []string{"corp.test"}, Ndots: 5}

func plainPod(uid, namespace string, since time.Time, addrs ...string) pod {
	p := pod{uid: uid, namespace: namespace, since: since, search: autopath.Own{Ndots: -1}}
	for _, addr := range addrs {
		p.addrs = append(p.addrs, netip.MustParseAddr(addr))
	}
	return p
}

func put(t *testing.T, x *index, p pod) {
	t.Helper()
	if err := x.put(p); err != nil {
		t.Fatal(err)
	}
}

// firstOf is the first element of the search of the client at an address, "" for none.
func firstOf(x *index, addr string, now time.Time) string {
	scope, ok := x.scope(netip.MustParseAddr(addr), now)
	if !ok {
		return ""
	}
	return scope.Search()[0]
}

func TestIndexScope(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	x := newIndex(testCluster)
	put(t, x, plainPod("a", "shop", now, "10.0.0.1", "fd00::1"))
	for _, addr := range []string{"10.0.0.1", "fd00::1"} {
		scope, ok := x.scope(netip.MustParseAddr(addr), now)
		want, err := autopath.NewScope([]string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.test"}, 5, "cluster.local")
		if err != nil || !ok || scope != want && scope.String() != want.String() {
			t.Errorf("%s: %v %t, want %v", addr, scope, ok, want)
		}
	}
	if got := firstOf(x, "10.0.0.2", now); got != "" {
		t.Errorf("an address of nobody searches %s", got)
	}
}

// A pod that has gone, or given up its address, and the one that has it now: no moment at which the new one has the old
// one's search, in whatever order we hear of them.
func TestIPReuse(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	old := plainPod("old", "blue", now, "10.0.0.1")
	ended := plainPod("old", "blue", now)
	moved := plainPod("old", "blue", now, "10.0.0.2")
	fresh := plainPod("fresh", "green", now, "10.0.0.1")
	const blue, green = "blue.svc.cluster.local.", "green.svc.cluster.local."
	for name, tt := range map[string]struct {
		steps []func(*testing.T, *index)
		want  []string
	}{
		"deleted, then the other":       {[]func(*testing.T, *index){with(old), without("old"), with(fresh)}, []string{blue, "", green}},
		"completed, then the other":     {[]func(*testing.T, *index){with(old), with(ended), with(fresh)}, []string{blue, "", green}},
		"completed after the other":     {[]func(*testing.T, *index){with(old), with(fresh), with(ended)}, []string{blue, "", green}},
		"deleted after the other":       {[]func(*testing.T, *index){with(old), with(fresh), without("old")}, []string{blue, "", green}},
		"another address, other first":  {[]func(*testing.T, *index){with(old), with(fresh), with(moved)}, []string{blue, "", green}},
		"another address":               {[]func(*testing.T, *index){with(old), with(moved), with(fresh)}, []string{blue, "", green}},
		"old one again after it ended":  {[]func(*testing.T, *index){with(fresh), with(ended), with(old)}, []string{green, green, ""}},
		"deletion of one long replaced": {[]func(*testing.T, *index){with(fresh), without("old"), without("old")}, []string{green, green, green}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newIndex(testCluster)
			for i, step := range tt.steps {
				step(t, x)
				if got := firstOf(x, "10.0.0.1", now); got != tt.want[i] {
					t.Errorf("after step %d the search begins with %q, want %q", i+1, got, tt.want[i])
				}
			}
		})
	}
}

func with(p pod) func(*testing.T, *index) {
	return func(t *testing.T, x *index) { t.Helper(); put(t, x, p) }
}

func without(uid string) func(*testing.T, *index) {
	return func(_ *testing.T, x *index) { x.delete(uid) }
}

// Replicas hear of a pod at different times, and begin to search for it at the same.
func TestReplicasBeginTogether(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_000_000, 0)
	early, late := newIndex(testCluster), newIndex(testCluster)
	p := plainPod("a", "shop", start.Add(settle), "10.0.0.1")
	put(t, early, p)
	if got := firstOf(early, "10.0.0.1", start.Add(settle-time.Second)); got != "" {
		t.Errorf("before the pod settled: %s", got)
	}
	put(t, late, p)
	for _, x := range []*index{early, late} {
		if got := firstOf(x, "10.0.0.1", start.Add(settle)); got != "shop.svc.cluster.local." {
			t.Errorf("after it settled: %q", got)
		}
	}
}

func TestCustomSearch(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	x := newIndex(testCluster)
	p := plainPod("a", "shop", now, "10.0.0.1")
	p.search = autopath.Own{Search: []string{"own.test", "corp.test"}, Ndots: 2}
	put(t, x, p)
	p = plainPod("b", "shop", now, "10.0.0.2")
	p.search = autopath.Own{None: true, Search: []string{"own.test"}, Ndots: -1}
	put(t, x, p)
	p = plainPod("c", "shop", now, "10.0.0.3")
	p.search = autopath.Own{None: true, Ndots: -1}
	put(t, x, p)
	for addr, want := range map[string]string{
		"10.0.0.1": "search shop.svc.cluster.local.(local) svc.cluster.local.(local) cluster.local.(local) corp.test. own.test. ndots 2",
		"10.0.0.2": "search own.test. ndots 1",
		"10.0.0.3": "no search",
	} {
		if scope, _ := x.scope(netip.MustParseAddr(addr), now); scope.String() != want {
			t.Errorf("%s: %s, want %s", addr, scope, want)
		}
	}
	p.search.Search = []string{"a..b"}
	if err := x.put(p); err == nil || firstOf(x, "10.0.0.3", now) != "" {
		t.Errorf("a search that cannot be: %v", err)
	}
	x.delete("a")
	x.delete("b")
	if len(x.scopes.byKey) != 0 || len(x.scopes.free) != len(x.scopes.all) {
		t.Errorf("scopes nobody has: %+v", x.scopes)
	}
}

// Whatever comes and goes, the index says what a list of the pods would.
func TestIndexIsWhatItWasTold(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	addrs := []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"}
	rapid.Check(t, func(rt *rapid.T) {
		x, model := newIndex(testCluster), make(map[string]pod)
		for range rapid.IntRange(1, 200).Draw(rt, "steps") {
			uid := fmt.Sprint(rapid.IntRange(0, 60).Draw(rt, "uid"))
			if rapid.Bool().Draw(rt, "delete") {
				x.delete(uid)
				delete(model, uid)
			} else {
				has := rapid.SliceOfNDistinct(rapid.SampledFrom(addrs), 0, 2, rapid.ID).Draw(rt, "addresses")
				p := plainPod(uid, rapid.SampledFrom([]string{"x", "y", "z"}).Draw(rt, "namespace"), now, has...)
				put(t, x, p)
				model[uid] = p
			}
			for _, addr := range addrs {
				if got, want := firstOf(x, addr, now), firstIn(model, addr); got != want {
					rt.Fatalf("%s searches %q, want %q of %v", addr, got, want, model)
				}
			}
		}
	})
}

func firstIn(model map[string]pod, addr string) string {
	first := ""
	for _, p := range model {
		if slices.Contains(p.addrs, netip.MustParseAddr(addr)) {
			if first != "" {
				return "" // two claim it
			}
			first = p.namespace + ".svc.cluster.local."
		}
	}
	return first
}

// The budget: 100 bytes for a pod, both families, whatever the number of pods.
func TestBytesPerPod(t *testing.T) {
	for _, pods := range []int{10_000, 13_000, 50_000, 100_000} {
		for _, families := range []int{1, 2} {
			if got := bytesPerPod(t, pods, families); got > 100 {
				t.Errorf("%d pods of %d families: %d bytes each", pods, families, got)
			} else {
				t.Logf("%d pods of %d families: %d bytes each", pods, families, got)
			}
		}
	}
}

func bytesPerPod(t *testing.T, pods, families int) int64 {
	t.Helper()
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	x := newIndex(testCluster)
	for i := range pods {
		var v6 [16]byte
		v6[0] = 0xfd
		binary.BigEndian.PutUint32(v6[12:], uint32(i))
		p := pod{
			uid:       fmt.Sprintf("6ba7b810-9dad-11d1-80b4-%012d", i),
			namespace: fmt.Sprintf("namespace-%d", i%200),
			since:     time.Unix(1_000_000, 0),
			search:    autopath.Own{Ndots: -1},
			addrs:     []netip.Addr{netip.AddrFrom4([4]byte(v6[12:])), netip.AddrFrom16(v6)}[:families],
		}
		put(t, x, p)
	}
	used := heap() - before
	if x.pods() != pods {
		t.Errorf("%d pods, want %d", x.pods(), pods)
	}
	runtime.KeepAlive(x)
	return used / int64(pods)
}

func BenchmarkScope(b *testing.B) {
	x := newIndex(testCluster)
	for i := range 100_000 {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if err := x.put(pod{uid: fmt.Sprint(i), namespace: "shop", addrs: []netip.Addr{addr}, search: autopath.Own{Ndots: -1}}); err != nil {
			b.Fatal(err)
		}
	}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := x.scope(netip.AddrFrom4([4]byte{10, 0, 77, 7}), now); !ok {
			b.Fatal("not found")
		}
	}
}
