package policy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var noon = time.Date(2025, 1, 2, 12, 0, 0, 0, time.UTC)

func addrs(texts ...string) []netip.Addr {
	list := make([]netip.Addr, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParseAddr(text)
	}
	return list
}

func answer(name string, ttl time.Duration, texts ...string) []Learned {
	return []Learned{{Name: name, Addrs: addrs(texts...), TTL: ttl}}
}

func expectAddrs(t *testing.T, n *Names, pattern string, want ...string) {
	t.Helper()
	if got := n.Addrs(pattern); !slices.Equal(got, addrs(want...)) {
		t.Errorf("%s: %v, want %v", pattern, got, want)
	}
}

func TestMatchName(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, name string
		want          bool
	}{
		{"kubernetes.io", "kubernetes.io", true},
		{"kubernetes.io", "www.kubernetes.io", false},
		{"kubernetes.io", "my-kubernetes.io", false},
		{"*.kubernetes.io", "www.kubernetes.io", true},
		{"*.kubernetes.io", "latest.blog.kubernetes.io", true},
		{"*.kubernetes.io", "kubernetes.io", false},
		{"*.kubernetes.io", ".kubernetes.io", false},
		{"*.kubernetes.io", "my-kubernetes.io", false},
		{"*.kubernetes.io", "wikipedia.org", false},
	} {
		if got := MatchName(test.pattern, test.name); got != test.want {
			t.Errorf("%s means %s: %v", test.pattern, test.name, got)
		}
		n := NewNames(NamesConfig{})
		n.SetPatterns([]string{test.pattern})
		if got := len(n.matching(test.name)) == 1; got != test.want && test.name[0] != '.' {
			t.Errorf("%s is found for %s: %v", test.pattern, test.name, got)
		}
	}
}

func TestNamesLearn(t *testing.T) {
	t.Parallel()
	n := NewNames(NamesConfig{})
	if n.Learn(noon, answer("a.example", time.Minute, "192.0.2.1")) != 0 || n.Counts() != (NameCounts{}) {
		t.Error("learned a name of no pattern")
	}
	if added := n.SetPatterns([]string{"A.Example.", "*.example", "a.example"}); !slices.Equal(added, []string{"*.example", "a.example"}) {
		t.Errorf("added %v", added)
	}
	serial := n.Learn(noon, answer("a.EXAMPLE.", time.Minute, "192.0.2.1", "::ffff:192.0.2.2", "2001:db8::1"))
	if serial == 0 {
		t.Error("new addresses need no wait")
	}
	if n.Learn(noon, answer("a.example", time.Minute, "192.0.2.2")) == 0 {
		t.Error("the next client would get addresses that the kernel does not know yet")
	}
	expectAddrs(t, n, "a.example", "192.0.2.1", "192.0.2.2", "2001:db8::1")
	expectAddrs(t, n, "*.Example.", "192.0.2.1", "192.0.2.2", "2001:db8::1")
	changed, all := n.Changed()
	if !slices.Equal(changed, []string{"*.example", "a.example"}) {
		t.Errorf("changed: %v", changed)
	}
	n.Applied(all)
	if n.Learn(noon, answer("a.example", time.Minute, "192.0.2.2")) != 0 {
		t.Error("waits for what the kernel knows")
	}
	if n.Learn(noon, answer("b.example", time.Minute, "192.0.2.2")) != 0 {
		t.Error("waits for what the pattern has by another name")
	}
	if again, _ := n.Changed(); again != nil {
		t.Errorf("changed again: %v", again)
	}
	if n.SetPatterns([]string{"b.example"}); n.Counts() != (NameCounts{Patterns: 1, Names: 1, Pairs: 1}) {
		t.Errorf("holds %+v", n.Counts())
	}
	expectAddrs(t, n, "b.example", "192.0.2.2")
	expectAddrs(t, n, "a.example")
	if changed, _ := n.Changed(); !slices.Equal(changed, []string{"b.example"}) {
		t.Errorf("a new pattern has addresses, but changed: %v", changed)
	}
}

// The TTL is for new connections: an address that is in use stays.
func TestNamesExpire(t *testing.T) {
	t.Parallel()
	n := NewNames(NamesConfig{})
	n.SetPatterns([]string{"*.example"})
	n.Learn(noon, answer("a.example", time.Minute, "192.0.2.1", "192.0.2.2"))
	n.Learn(noon, answer("b.example", time.Hour, "192.0.2.2"))
	n.Learn(noon.Add(30*time.Second), answer("a.example", time.Second, "192.0.2.1"))
	n.Changed()
	used := map[netip.Addr]bool{}
	expire := func(after time.Duration) bool {
		return n.Expire(noon.Add(after), func(addr netip.Addr) bool { return used[addr] })
	}
	if n.Overdue(noon.Add(time.Minute+nameGrace-1)) || !n.Overdue(noon.Add(time.Minute+nameGrace)) {
		t.Error("overdue at another time")
	}
	if expire(time.Minute + nameGrace - 1) {
		t.Error("expired before its time")
	}
	used[netip.MustParseAddr("192.0.2.1")] = true
	if expire(time.Minute + nameGrace) {
		t.Error("expired though in use, or though another name has it")
	}
	expectAddrs(t, n, "*.example", "192.0.2.1", "192.0.2.2")
	clear(used)
	if !expire(2 * time.Minute) {
		t.Error("did not expire")
	}
	expectAddrs(t, n, "*.example", "192.0.2.2")
	if changed, _ := n.Changed(); !slices.Equal(changed, []string{"*.example"}) {
		t.Errorf("changed: %v", changed)
	}
	if !expire(2*time.Hour) || n.Counts() != (NameCounts{Patterns: 1}) {
		t.Errorf("holds %+v", n.Counts())
	}
}

func TestNamesBounds(t *testing.T) {
	t.Parallel()
	n := NewNames(NamesConfig{Room: 250, PerName: 120})
	n.SetPatterns([]string{"*.example"})
	for name := range 3 {
		for i := range 125 {
			n.Learn(noon, answer(fmt.Sprintf("n%d.example", name), time.Minute, fmt.Sprintf("192.0.%d.%d", name, i)))
		}
	}
	if got, want := n.Counts(), (NameCounts{Patterns: 1, Names: 3, Pairs: 250, Refused: 125}); got != want {
		t.Errorf("holds %+v, want %+v", got, want)
	}
	_, serial := n.Changed()
	n.Applied(serial)
	if n.Learn(noon, answer("n2.example", time.Minute, "192.0.2.99")) != 0 {
		t.Error("waits for an address that was refused")
	}
}

func TestNamesWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := NewNames(NamesConfig{})
		n.SetPatterns([]string{"a.example"})
		first := n.Learn(noon, answer("a.example", time.Minute, "192.0.2.1"))
		_, serial := n.Changed()
		second := n.Learn(noon, answer("a.example", time.Minute, "192.0.2.2"))
		waited := make(chan uint64, 2)
		for _, s := range []uint64{first, second} {
			go func() {
				if n.Wait(t.Context(), s) == nil {
					waited <- s
				}
			}()
		}
		synctest.Wait()
		n.Applied(serial)
		synctest.Wait()
		if len(waited) != 1 || <-waited != first {
			t.Error("who waits for the first addition does not go on with it, or the other one does")
		}
		_, serial = n.Changed()
		n.Applied(serial)
		synctest.Wait()
		if len(waited) != 1 {
			t.Error("the second one still waits")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if n.Wait(ctx, serial+1) == nil {
			t.Error("waited for nothing")
		}
	})
}

func TestNamesImport(t *testing.T) {
	t.Parallel()
	old, n := NewNames(NamesConfig{}), NewNames(NamesConfig{})
	old.SetPatterns([]string{"*.example"})
	old.Learn(noon, append(answer("a.example", time.Minute, "192.0.2.1"), answer("b.example", time.Hour, "2001:db8::1", "192.0.2.2")...))
	exported := old.Export(noon.Add(10 * time.Second))
	n.Import(noon.Add(20*time.Second), 10*time.Second, exported)
	n.SetPatterns([]string{"*.example"})
	if diff := cmp.Diff(old.Export(noon), n.Export(noon), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-exported +imported):\n%s", diff)
	}
	expectAddrs(t, n, "*.example", "192.0.2.1", "192.0.2.2", "2001:db8::1")
	if changed, _ := n.Changed(); len(changed) != 1 {
		t.Error("the compiler is not told of what was imported")
	}
}

// TestNamesModel holds Names against what was learned, kept as a list.
func TestNamesModel(t *testing.T) {
	t.Parallel()
	type fact struct {
		name  string
		addr  netip.Addr
		until time.Time
	}
	names := rapid.SampledFrom([]string{"a.example", "b.example", "x.b.example", "example", "other"})
	patterns := rapid.SampledFrom([]string{"a.example", "*.example", "*.b.example", "example", "*.other"})
	rapid.Check(t, func(t *rapid.T) {
		n, now := NewNames(NamesConfig{}), noon
		var facts []fact
		var wanted []string
		told := map[string][]netip.Addr{} // what Changed told of
		used := map[netip.Addr]bool{}
		relevant := func(name string) bool {
			return slices.ContainsFunc(wanted, func(p string) bool { return MatchName(p, name) })
		}
		t.Repeat(map[string]func(*rapid.T){
			"patterns": func(t *rapid.T) {
				wanted = rapid.SliceOfN(patterns, 0, 4).Draw(t, "patterns")
				n.SetPatterns(wanted)
				facts = slices.DeleteFunc(facts, func(f fact) bool { return !relevant(f.name) })
				maps.DeleteFunc(told, func(p string, _ []netip.Addr) bool { return !slices.Contains(wanted, p) })
			},
			"learn": func(t *rapid.T) {
				name := names.Draw(t, "name")
				addr := netip.AddrFrom4([4]byte{192, 0, 2, rapid.ByteRange(1, 4).Draw(t, "addr")})
				ttl := time.Duration(rapid.IntRange(0, 100).Draw(t, "ttl")) * time.Second
				n.Learn(now, []Learned{{name, []netip.Addr{addr}, ttl}})
				if relevant(name) {
					facts = append(facts, fact{name, addr, now.Add(ttl + nameGrace)})
				}
			},
			"expire": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "later")) * time.Second)
				used = map[netip.Addr]bool{netip.AddrFrom4([4]byte{192, 0, 2, rapid.ByteRange(1, 4).Draw(t, "used")}): true}
				n.Expire(now, func(addr netip.Addr) bool { return used[addr] })
				facts = slices.DeleteFunc(facts, func(f fact) bool { return !now.Before(f.until) && !used[f.addr] })
			},
			"": func(t *rapid.T) {
				changed, _ := n.Changed()
				for _, p := range changed {
					told[p] = n.Addrs(p)
				}
				for _, p := range wanted {
					want := map[netip.Addr]bool{}
					for _, f := range facts {
						if MatchName(p, f.name) {
							want[f.addr] = true
						}
					}
					sorted := slices.SortedFunc(maps.Keys(want), netip.Addr.Compare)
					if got := n.Addrs(p); !slices.Equal(got, sorted) || !slices.Equal(told[p], sorted) {
						t.Fatalf("%s has %v, was last told to have %v, want %v", p, got, told[p], sorted)
					}
				}
			},
		})
	})
}
