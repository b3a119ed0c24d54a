package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/cluster"
)

// A scopesRig is dnsScopes with a kernel and a runtime of which everything is known.
type scopesRig struct {
	*dnsScopes
	kernel map[netip.Addr]uint32
	pods   map[string]*cluster.Pod // by name
	ended  []uint32
	dir    string
}

func newScopesRig(t *testing.T) *scopesRig {
	t.Helper()
	r := &scopesRig{kernel: map[netip.Addr]uint32{}, pods: map[string]*cluster.Pod{}, dir: t.TempDir()}
	r.dnsScopes = newDNSScopes(dnsScopesConfig{
		Domain: "cluster.local", Host: func() []string { return []string{"corp.test"} }, Log: slog.New(slog.DiscardHandler), Last: 41,
		Pod:   func(ref cni.PodRef) *cluster.Pod { return r.pods[ref.Name] },
		Files: []string{filepath.Join(r.dir, "none", "%s"), filepath.Join(r.dir, "%s")},
		Kernel: func(addrs []netip.Addr, id uint32) error {
			for _, a := range addrs {
				if _, ok := r.kernel[a]; ok {
					r.kernel[a] = id
				}
			}
			return nil
		},
		Ended: func(id uint32) { r.ended = append(r.ended, id) },
	})
	return r
}

// add does what an ADD does, and del what a DEL does.
func (r *scopesRig) add(e cni.PodEntry) uint32 {
	id := r.Bind(e)
	for _, a := range e.Addrs {
		r.kernel[a] = id
	}
	r.Mapped(e)
	return id
}

func (r *scopesRig) del(e cni.PodEntry) {
	r.Unbind(e)
	for _, a := range e.Addrs {
		delete(r.kernel, a)
	}
}

func (r *scopesRig) search(addr netip.Addr) string {
	scope, ok := r.Scope(context.Background(), addr)
	if !ok {
		return "unknown"
	}
	return fmt.Sprint(strings.Join(scope.Search(), " "), " ", scope.Ndots())
}

var scopedAddr, scopedAddr6 = netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")

func scopedEntry(container, namespace string, search ...string) cni.PodEntry {
	e := cni.PodEntry{
		Addrs: []netip.Addr{scopedAddr, scopedAddr6}, ContainerID: container, Pod: cni.PodRef{Namespace: namespace, Name: container},
	}
	if search != nil {
		e.Scope = cni.DNSScope{Servers: []string{"10.96.0.10"}, Search: search, Options: []string{"ndots:5"}}
	}
	return e
}

const shopSearch, blueSearch = "shop.svc.cluster.local. svc.cluster.local. 5", "blue.svc.cluster.local. svc.cluster.local. 5"

// What the runtime told at the ADD is what a pod searches, until its DEL. Another pod at the same address, of which nothing
// is known, searches nothing; one of another namespace searches its own. No number is given twice.
func TestAddressesChangeHands(t *testing.T) {
	t.Parallel()
	r := newScopesRig(t)
	shop, blue := scopedEntry("a", "shop", "shop.svc.cluster.local", "svc.cluster.local"), scopedEntry("b", "blue", "blue.svc.cluster.local", "svc.cluster.local")
	want := func(when, search string, id uint32) {
		t.Helper()
		for _, a := range shop.Addrs {
			if got := r.search(a); got != search || r.kernel[a] != id {
				t.Errorf("%s: %s searches %q with number %d, want %q with %d", when, a, got, r.kernel[a], search, id)
			}
		}
	}
	want("before", "unknown", 0)
	r.add(shop)
	want("shop", shopSearch, 42)
	r.del(shop)
	want("shop is gone", "unknown", 0)
	r.add(blue)
	want("blue", blueSearch, 43)
	r.Unbind(shop)
	want("DEL of shop is repeated", blueSearch, 43)
	r.add(scopedEntry("c", "green"))
	want("nothing is known of green", "unknown", 0)
	r.add(shop)
	want("shop again", shopSearch, 44)
	if _, ok := r.ScopeOf(42); ok || r.ScopeID(r.byAddr[scopedAddr].scope) != 44 {
		t.Error("a number that ended has a Scope")
	}
}

// A runtime that tells nothing writes the pod's resolv.conf after the ADD; without that file a pod searches as kubelet has
// pods like it do. The kernel hears of it then.
func TestSearchOfPodsThatTheRuntimeDoesNotTellOf(t *testing.T) {
	t.Parallel()
	own := func(policy string, search ...string) *cluster.Pod {
		return &cluster.Pod{Name: cluster.Name{Namespace: "shop"}, DNS: &cluster.PodDNS{Policy: policy, Search: search, Ndots: new("2")}}
	}
	const usual = "shop.svc.cluster.local. svc.cluster.local. cluster.local. corp.test."
	for name, tt := range map[string]struct {
		file string
		pod  *cluster.Pod
		want string
	}{
		"a file":                       {"search blue.svc.cluster.local svc.cluster.local\noptions ndots:5\n", nil, blueSearch},
		"a file before what is usual":  {"search blue.svc.cluster.local svc.cluster.local\noptions ndots:5\n", own("None"), blueSearch},
		"a file that searches nothing": {"nameserver 10.96.0.10\n", own("ClusterFirst"), "unknown"},
		"a file that is none":          {"search a..b\n", own("ClusterFirst"), "unknown"},
		"a file that is too large":     {strings.Repeat("#", maxResolvConf+1), own("ClusterFirst"), "unknown"},
		"ClusterFirst":                 {"", &cluster.Pod{Name: cluster.Name{Namespace: "shop"}}, usual + " 5"},
		"dnsConfig":                    {"", own("ClusterFirst", "own.test"), usual + " own.test. 2"},
		"None":                         {"", own("None", "own.test"), "own.test. 2"},
		"Default":                      {"", own("Default"), "unknown"},
		"host network":                 {"", &cluster.Pod{HostNetwork: true}, "unknown"},
		"no object":                    {"", nil, "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newScopesRig(t)
			e := scopedEntry("a", "shop")
			r.Bind(e)
			if got := r.search(scopedAddr); got != "unknown" {
				t.Errorf("before the kernel has it: %s", got)
			}
			if tt.file != "" {
				if err := os.WriteFile(filepath.Join(r.dir, "a"), []byte(tt.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if tt.pod != nil {
				r.pods["a"] = tt.pod
			}
			if r.add(e) != 0 {
				t.Error("a number for what is not known")
			}
			wantID := uint32(42)
			if tt.want == "unknown" {
				wantID = 0
			}
			for _, a := range e.Addrs {
				if got := r.search(a); got != tt.want || r.kernel[scopedAddr6] != wantID {
					t.Errorf("%s searches %q with number %d, want %q with %d", a, got, r.kernel[scopedAddr6], tt.want, wantID)
				}
			}
			if id := r.add(e); id != wantID { // the collector found the datapath without it
				t.Errorf("again with number %d, want %d", id, wantID)
			}
		})
	}
}

// A file that appears later is found, and looked for once a second at most, however often the pod asks.
func TestFileThatComesLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newScopesRig(t)
		looks := 0
		r.config.Pod = func(cni.PodRef) *cluster.Pod { looks++; return nil }
		r.add(scopedEntry("a", "shop"))
		for range 100 {
			r.search(scopedAddr)
		}
		if err := os.WriteFile(filepath.Join(r.dir, "a"), []byte("search shop.svc.cluster.local svc.cluster.local\noptions ndots:5\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookAgain)
		if got := r.search(scopedAddr); got != shopSearch || looks != 1 {
			t.Errorf("%q after %d looks", got, looks)
		}
	})
}

// What is found out about a pod whose DEL came meanwhile is not told of the pod that has the address now.
func TestDeletedWhileLooking(t *testing.T) {
	t.Parallel()
	r := newScopesRig(t)
	shop, next := scopedEntry("a", "shop"), scopedEntry("b", "blue", "blue.svc.cluster.local", "svc.cluster.local")
	r.config.Pod = func(cni.PodRef) *cluster.Pod {
		r.del(shop)
		r.add(next)
		return &cluster.Pod{Name: cluster.Name{Namespace: "shop"}}
	}
	r.add(shop)
	if got := r.search(scopedAddr); got != "unknown" {
		t.Errorf("the question of the pod that is gone: %s", got)
	}
	if got := r.search(scopedAddr); got != blueSearch || r.kernel[scopedAddr] != r.ScopeID(r.byAddr[scopedAddr].scope) {
		t.Errorf("the next pod searches %s with number %d", got, r.kernel[scopedAddr])
	}
}

// A number ends with the last pod that has it.
func TestNumbersEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newScopesRig(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		a, b := scopedEntry("a", "shop", "shop.svc.cluster.local"), scopedEntry("b", "shop", "shop.svc.cluster.local")
		b.Addrs = []netip.Addr{netip.MustParseAddr("10.0.0.10")}
		if first, second := r.add(a), r.add(b); first != second {
			t.Errorf("one Scope has the numbers %d and %d", first, second)
		}
		r.del(a)
		synctest.Wait()
		if len(r.ended) != 0 {
			t.Errorf("%d ended while a pod has it", r.ended)
		}
		r.del(b)
		synctest.Wait()
		if !slices.Equal(r.ended, []uint32{42}) {
			t.Errorf("ended %d", r.ended)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestHasScope(t *testing.T) {
	t.Parallel()
	r := newScopesRig(t)
	a := scopedEntry("a", "shop")
	if r.Has(a) {
		t.Error("before the ADD")
	}
	r.Bind(a)
	if r.Has(a) {
		t.Error("before the kernel has it")
	}
	r.Mapped(a)
	if b := scopedEntry("b", "shop"); !r.Has(a) || r.Has(b) {
		t.Error("after the ADD")
	}
}

// What is kept of a search is no longer true when a name on its way comes or goes.
func TestPassing(t *testing.T) {
	t.Parallel()
	r := newScopesRig(t)
	id := r.add(scopedEntry("a", "shop", "shop.svc.cluster.local", "svc.cluster.local", "cluster.local"))
	for _, tt := range []struct {
		changed, question string
		want              bool
	}{
		{"db.other.svc.cluster.local.", "db.other.shop.svc.cluster.local.", true},
		{"db.other.svc.cluster.local.", "0.DB.other.shop.svc.cluster.local.", true},
		{"db.other.svc.cluster.local.", "web.other.shop.svc.cluster.local.", false},
		{"web.shop.svc.cluster.local.", "web.shop.svc.cluster.local.", true},
		{"web.shop.svc.cluster.local.", "www.example.com.shop.svc.cluster.local.", false},
		{"example.com.svc.cluster.local.", "www.example.com.shop.svc.cluster.local.", true},
		{"db.other.svc.cluster.local.", "www.example.com.", false},
	} {
		if got := r.passing([]string{"x.y.", tt.changed})(id, tt.question); got != tt.want {
			t.Errorf("%s with %s changed: %v", tt.question, tt.changed, got)
		}
	}
	if !r.passing(nil)(id+1, "www.example.com.") {
		t.Error("what is kept for nobody stays")
	}
	if !r.Searched("www.example.com.shop.svc.cluster.local.", dns.TypeA) || r.Searched("www.example.com.", dns.TypeA) {
		t.Error("what pods search for is not known")
	}
}
