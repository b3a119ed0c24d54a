package nodelocaldns

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/nodelocaldns/answerstest"
)

// A world is userspace: an upstream whose answers change, and a cache that prefetches and serves stale.
type world struct {
	ttl uint32

	mu        sync.Mutex // guards what follows
	version   map[bpf.AnswerKey]int
	changed   map[bpf.AnswerKey][]time.Time // when each version ended
	cache     map[bpf.AnswerKey]*worldItem
	down      bool
	refuses   map[bpf.AnswerKey]bool // as if down for these
	upstream  int                    // questions
	forgotten []string
}

type worldItem struct {
	version int
	stored  time.Time
}

func newWorld(ttl uint32) *world {
	return &world{ttl: ttl, version: map[bpf.AnswerKey]int{}, changed: map[bpf.AnswerKey][]time.Time{}, cache: map[bpf.AnswerKey]*worldItem{}}
}

func (w *world) change(key bpf.AnswerKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.version[key]++
	w.changed[key] = append(w.changed[key], time.Now())
}

// fetch asks the upstream, with mu held.
func (w *world) fetch(key bpf.AnswerKey) bool {
	if w.down || w.refuses[key] {
		return false
	}
	w.upstream++
	w.cache[key] = &worldItem{w.version[key], time.Now()}
	return true
}

// Ask implements ExternalChain.
func (w *world) Ask(_ context.Context, key bpf.AnswerKey) (ExternalReply, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	item, ttl, stale := w.cache[key], int(w.ttl), false
	switch age := 0; {
	case item != nil:
		if age = int(time.Since(item.stored) / time.Second); age < ttl {
			if ttl -= age; ttl <= int(w.ttl)/5 {
				w.fetch(key)
			}
			break
		}
		fallthrough
	default:
		if !w.fetch(key) {
			if item == nil {
				return ExternalReply{}, errors.New("the upstream is down")
			}
			stale = true
		}
	}
	if ttl == int(w.ttl) {
		item = w.cache[key]
	}
	m := new(dns.Msg).SetQuestion(key.Name, key.Type)
	m.Response = true
	m.Answer = []dns.RR{addressRecord(key.Name, versionAddr(key.Scope, item.version), uint32(ttl))}
	return ExternalReply{Msg: m, Scope: key.Scope, Stale: stale}, nil
}

// versionAddr and its inverse put into an address for whom an answer is, and which one it is.
func versionAddr(scope uint32, version int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(scope), byte(version >> 8), byte(version)})
}

func addrVersion(m *dns.Msg) (scope uint32, version int) {
	a := m.Answer[0].(*dns.A).A.To4()
	return uint32(a[1]), int(a[2])<<8 | int(a[3])
}

// Forget implements ExternalChain.
func (w *world) Forget(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forgotten = append(w.forgotten, name)
	for key := range w.cache {
		if key.Name == name {
			delete(w.cache, key)
		}
	}
}

// A node is a world, a kernel and what is between.
type externalNode struct {
	world    *world
	kernel   *answerstest.Map
	external *External
}

// runNode runs an External until the test ends; it must be called within a bubble.
func runNode(t *testing.T, w *world, kernel *answerstest.Map, c ExternalConfig) externalNode {
	t.Helper()
	c.Answers = kernel
	n := externalNode{w, kernel, NewExternal(c)}
	t.Cleanup(n.external.Attach([]string{"."}, w))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- n.external.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-n.external.Ready()
	return n
}

// ask is a pod's question. It returns nil when there is no answer, and whether the kernel gave it.
func (n externalNode) ask(key bpf.AnswerKey) (*dns.Msg, bool) {
	if m := n.kernel.Ask(key.Name, key.Type, key.Scope); m != nil {
		return m, true
	}
	era := n.external.Era()
	r, err := n.world.Ask(context.Background(), key)
	if err != nil {
		return nil, false
	}
	n.external.Observe(era, bpf.AnswerKey{Name: key.Name, Type: key.Type}, r)
	return r.Msg, false
}

func asksA(name string, scope uint32) bpf.AnswerKey {
	return bpf.AnswerKey{Name: name, Type: dns.TypeA, Scope: scope}
}

func TestExternalAnswersFromTheKernelWithoutAGap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, newWorld(30), new(answerstest.Map), ExternalConfig{})
		key := asksA("www.example.com.", 0)
		inKernel := 0
		const asks = 10_000 // one each 100 ms: 1,000 s, 33 TTLs
		for range asks {
			if _, ok := n.ask(key); ok {
				inKernel++
			}
			time.Sleep(100 * time.Millisecond)
		}
		if inKernel != asks-2 {
			t.Errorf("%d of %d questions were answered in the kernel, want all but the first two", inKernel, asks)
		}
		// The cache prefetches in the last fifth of a TTL of 30 s: once each 24 s.
		n.world.mu.Lock()
		upstream := n.world.upstream
		n.world.mu.Unlock()
		if upstream < 33 || upstream > 43 {
			t.Errorf("%d upstream questions in 33 TTLs", upstream)
		}
		time.Sleep(5 * time.Minute)
		if keys := n.kernel.Keys(); len(keys) > 0 {
			t.Errorf("%v are in the kernel after five minutes without a question", keys)
		}
		if c := n.external.Counts(); c.Published != 1 || c.Refreshed < 33 || c.Ended != 1 || c.Held != 0 {
			t.Errorf("counts %+v", c)
		}
	})
}

// Every answer of the kernel is one that userspace gave to that scope, not longer ago than its TTL, and not before a Flush.
func TestExternalAnswersAreUserspacesOwn(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			n := runNode(t, newWorld([]uint32{2, 5, 30, 300}[rnd.IntN(4)]), &answerstest.Map{Room: 4 + rnd.IntN(8)},
				ExternalConfig{Room: 1 + rnd.IntN(12), PerScope: 1 + rnd.IntN(4)})
			notBefore := map[bpf.AnswerKey]int{}
			inKernel := 0
			for range 4000 {
				key := asksA(fmt.Sprintf("n%d.example.com.", rnd.IntN(8)), uint32(rnd.IntN(3)))
				if rnd.IntN(2) > 0 {
					key = asksA("n0.example.com.", 0)
				}
				switch rnd.IntN(40) {
				case 0:
					n.world.change(key)
				case 1:
					n.external.Flush(key.Name)
					n.world.mu.Lock()
					for scope := range uint32(3) {
						at := asksA(key.Name, scope)
						notBefore[at] = n.world.version[at]
					}
					n.world.mu.Unlock()
				case 2:
					n.external.DropNames(key.Scope, []string{key.Name})
				}
				before := n.kernel.Ask(key.Name, key.Type, key.Scope)
				if before != nil {
					inKernel++
					n.check(t, seed, key, before, notBefore)
				} else {
					n.ask(key)
				}
				time.Sleep(time.Duration(rnd.IntN(400)) * time.Millisecond)
			}
			if inKernel < 500 {
				t.Errorf("seed %d: the kernel answered only %d", seed, inKernel)
			}
		})
	}
}

func (n externalNode) check(t *testing.T, seed uint64, asked bpf.AnswerKey, m *dns.Msg, notBefore map[bpf.AnswerKey]int) {
	t.Helper()
	scope, version := addrVersion(m)
	if scope != 0 && scope != asked.Scope {
		t.Fatalf("seed %d: scope %d is given an answer of scope %d", seed, asked.Scope, scope)
	}
	from := asksA(asked.Name, scope)
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	if version < notBefore[from] {
		t.Fatalf("seed %d: %v: version %d is from before the flush of %d", seed, from, version, notBefore[from])
	}
	if version == n.world.version[from] {
		return
	}
	// The cache may have taken it just before it ended, and its TTLs are whole seconds.
	if old := time.Since(n.world.changed[from][version]); old > time.Duration(n.world.ttl+1)*time.Second {
		t.Fatalf("seed %d: %v: version %d is given %v after its end, with a TTL of %d s", seed, from, version, old, n.world.ttl)
	}
}

func TestExternalServesStaleAsLongAsUserspaceDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, newWorld(30), new(answerstest.Map), ExternalConfig{})
		key := asksA("www.example.com.", 0)
		ask := func(asks int) (inKernel int, last *dns.Msg) {
			for range asks {
				m, ok := n.ask(key)
				if last = m; ok {
					inKernel++
				}
				time.Sleep(100 * time.Millisecond)
			}
			return inKernel, last
		}
		ask(10)
		n.world.mu.Lock()
		n.world.down = true
		n.world.mu.Unlock()
		inKernel, last := ask(3000) // five minutes
		if inKernel < 2990 || last == nil || last.Answer[0].Header().Ttl != 30 {
			t.Errorf("with the upstream down, %d of 3000 questions were answered in the kernel, the last one with\n%v", inKernel, last)
		}
		if n.external.Counts().Stale != 1 {
			t.Errorf("counts %+v", n.external.Counts())
		}
		n.world.mu.Lock()
		n.world.down = false
		n.world.mu.Unlock()
		n.world.change(key)
		time.Sleep(staleLease)
		if m, _ := n.ask(key); m == nil || n.external.Counts().Stale != 0 {
			t.Errorf("with the upstream back, counts are %+v", n.external.Counts())
		} else if _, version := addrVersion(m); version != 1 {
			t.Errorf("with the upstream back, pods are given\n%v", m)
		}
		n.world.mu.Lock()
		n.world.down = true
		n.world.mu.Unlock()
		time.Sleep(30 * time.Second)
		ask(10)
		n.world.mu.Lock()
		clear(n.world.cache) // userspace does not serve it any more
		n.world.mu.Unlock()
		time.Sleep(staleLease - staleLead)
		if c := n.external.Counts(); c.Held != 0 {
			t.Errorf("counts %+v: pods are given what userspace has not any more", c)
		}
	})
}

func TestExternalFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, newWorld(300), new(answerstest.Map), ExternalConfig{})
		for _, key := range []bpf.AnswerKey{
			asksA("www.example.com.", 0), asksA("www.example.com.", 3), asksA("web.example.com.", 0),
			{Name: "www.example.com.", Type: dns.TypeAAAA},
		} {
			m := new(dns.Msg).SetQuestion(key.Name, key.Type)
			m.Response = true
			m.Answer = parseRRs(t, key.Name+" 300 IN "+dns.TypeToString[key.Type]+map[uint16]string{dns.TypeA: " 192.0.2.1", dns.TypeAAAA: " 2001:db8::1"}[key.Type])
			for range 2 {
				n.external.Observe(n.external.Era(), key, ExternalReply{Msg: m, Scope: key.Scope})
			}
		}
		searched := new(dns.Msg).SetQuestion("www.example.com.shop.svc.cluster.local.", dns.TypeA)
		searched.Response = true
		searched.Answer = parseRRs(t, "www.example.com.shop.svc.cluster.local. 30 IN CNAME www.example.com.", "www.example.com. 300 IN A 192.0.2.1")
		for range 2 {
			n.external.Observe(n.external.Era(), asksA("www.example.com.shop.svc.cluster.local.", 0), ExternalReply{Msg: searched, Scope: 3})
		}
		if keys := n.kernel.Keys(); len(keys) != 5 {
			t.Fatalf("%v are in the kernel", keys)
		}
		era := n.external.Era()
		if removed := n.external.Flush("WWW.example.com"); removed != 4 {
			t.Errorf("%d removed, want 4", removed)
		}
		for range 3 { // answers that were under way
			n.external.Observe(era, asksA("www.example.com.shop.svc.cluster.local.", 0), ExternalReply{Msg: searched, Scope: 3})
		}
		if keys := n.kernel.Keys(); len(keys) != 1 || keys[0].Name != "web.example.com." {
			t.Errorf("%v are in the kernel", keys)
		}
		if len(n.world.forgotten) != 1 || n.world.forgotten[0] != "www.example.com." {
			t.Errorf("userspace was told to forget %q", n.world.forgotten)
		}
		n.external.Observe(n.external.Era(), asksA("www.example.com.shop.svc.cluster.local.", 0), ExternalReply{Msg: searched, Scope: 3})
		n.external.DropNames(3, []string{"www.example.com.shop.svc.cluster.local."})
		era = n.external.Era() - 1
		for range 3 {
			n.external.Observe(era, asksA("www.example.com.shop.svc.cluster.local.", 0), ExternalReply{Msg: searched, Scope: 3})
		}
		if keys := n.kernel.Keys(); len(keys) != 1 {
			t.Errorf("%v are in the kernel", keys)
		}
	})
}

func TestExternalLeavesTheZoneAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, newWorld(30), new(answerstest.Map), ExternalConfig{
			Domains:  []string{"Cluster.local"},
			Searched: func(name string, qtype uint16) bool { return name == "www.corp.example." && qtype == dns.TypeA },
		})
		for range 3 {
			n.ask(asksA("cart.shop.svc.cluster.local.", 0))
			n.ask(asksA("www.shop.svc.cluster.local.", 2))
			for _, name := range []string{"www.corp.example.", "ftp.corp.example."} {
				m := new(dns.Msg).SetQuestion(name, dns.TypeA)
				m.Response, m.Rcode = true, dns.RcodeNameError
				m.Ns = parseRRs(t, "example. 300 IN SOA ns.example. root.example. 1 2 3 4 60")
				n.external.Observe(n.external.Era(), asksA(name, 0), ExternalReply{Msg: m})
			}
		}
		want := map[bpf.AnswerKey]bool{asksA("www.shop.svc.cluster.local.", 2): true, asksA("ftp.corp.example.", 0): true}
		keys := n.kernel.Keys()
		for _, key := range keys {
			if !want[key] {
				t.Errorf("%v is in the kernel", key)
			}
		}
		if len(keys) != len(want) {
			t.Errorf("%v are in the kernel", keys)
		}
	})
}

func TestExternalAdopts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kernel := new(answerstest.Map)
		before := newWorld(30)
		put := func(key bpf.AnswerKey, aged bool, expires time.Duration) {
			r, _ := before.Ask(t.Context(), key)
			packed, err := r.Msg.Pack()
			if err != nil || kernel.Put(key, packed, bpf.AnswerLife{Aged: aged, Expires: expires}) != nil {
				t.Fatal(err)
			}
		}
		put(asksA("www.example.com.", 0), true, 30*time.Second)
		put(asksA("www.example.com.", 5), true, 30*time.Second)
		put(asksA("old.example.com.", 0), true, time.Second)
		put(asksA("cart.shop.svc.cluster.local.", 0), false, 0)
		put(asksA("stale.example.com.", 0), false, 30*time.Second)
		put(asksA("stale.shop.svc.cluster.local.", 0), false, 30*time.Second)
		put(asksA("aged.shop.svc.cluster.local.", 0), true, 30*time.Second)
		time.Sleep(5 * time.Second)
		n := runNode(t, newWorld(30), kernel, ExternalConfig{Domains: []string{"cluster.local"}})
		if keys := kernel.Keys(); len(keys) != 2 || n.external.Counts().Held != 1 {
			t.Errorf("%v are in the kernel, and %+v", keys, n.external.Counts())
		}
		for range 400 { // 40 s
			if _, ok := n.ask(asksA("www.example.com.", 0)); !ok {
				t.Fatal("what was adopted is not kept fresh")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if top := n.external.Top(10); len(top) != 1 || top[0].Name != "www.example.com." || top[0].Heat < 100 {
			t.Errorf("top %+v", top)
		}
	})
}

func TestExternalSurvivesAMapThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kernel := &answerstest.Map{MaxSize: 60}
		n := runNode(t, newWorld(30), kernel, ExternalConfig{})
		key := asksA("www.example.com.", 0)
		kernel.Break(errors.New("broken"))
		for range 5 {
			n.ask(key)
		}
		if c := n.external.Counts(); c.Failed == 0 || c.Held != 0 {
			t.Errorf("counts %+v", c)
		}
		kernel.Break(nil)
		n.ask(key)
		if c := n.external.Counts(); c.Held != 1 {
			t.Errorf("counts %+v when the map works again", c)
		}
		kernel.Break(errors.New("broken"))
		time.Sleep(5 * time.Minute)
		if c := n.external.Counts(); c.Held != 1 || len(kernel.Keys()) != 1 {
			t.Errorf("counts %+v: forgotten, though it could not be removed", c)
		}
		kernel.Break(nil)
		time.Sleep(5 * time.Second)
		if c := n.external.Counts(); c.Held != 0 || len(kernel.Keys()) != 0 {
			t.Errorf("counts %+v, %v are in the kernel", c, kernel.Keys())
		}
		long := asksA("a-name-that-is-too-long-for-such-a-small-map.example.com.", 0)
		for range 3 {
			n.ask(long)
		}
		if c := n.external.Counts(); c.Held != 0 || c.Unfit[UnfitSize] == 0 {
			t.Errorf("counts %+v for what is too large", c)
		}
	})
}

func TestExternalPublishesTheShortOneWhereTheWholeDoesNotFit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kernel := &answerstest.Map{MaxSize: 60}
		n := runNode(t, newWorld(30), kernel, ExternalConfig{})
		key := asksA("www.example.com.", 0)
		m := new(dns.Msg).SetQuestion(key.Name, key.Type)
		m.Response = true
		m.Answer = parseRRs(t, "www.example.com. 30 IN A 192.0.2.1")
		m.Ns = parseRRs(t, "example.com. 30 IN NS ns1.example.com.")
		for range 2 {
			n.external.Observe(n.external.Era(), key, ExternalReply{Msg: m})
		}
		if got := kernel.Ask(key.Name, key.Type, 0); got == nil || len(got.Answer) != 1 || len(got.Ns) != 0 {
			t.Errorf("the kernel gives\n%v", got)
		}
	})
}

// Whoever shares the map may remove what is here, and a name that is asked for is then published again.
func TestExternalForgetsWhatOthersRemove(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, newWorld(30), new(answerstest.Map), ExternalConfig{})
		key := asksA("www.example.com.", 0)
		for range 3 {
			n.ask(key)
		}
		if err := n.kernel.Delete(key); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if c := n.external.Counts(); c.Held != 0 {
			t.Errorf("counts %+v", c)
		}
		for range 2 {
			n.ask(key)
		}
		if _, ok := n.ask(key); !ok {
			t.Error("not published again")
		}
	})
}

func TestExternalAsksTheChainOfTheLongestZone(t *testing.T) {
	t.Parallel()
	e := NewExternal(ExternalConfig{})
	chains := map[string]*world{}
	detach := map[string]func(){}
	attach := func(name string, zones ...string) {
		chains[name] = newWorld(30)
		detach[name] = e.Attach(zones, chains[name])
	}
	attach("root", ".")
	attach("corp", "Corp.Example.", "192.in-addr.arpa.")
	check := func(name, want string) {
		t.Helper()
		if got := e.chainOf(name); want == "" && got != nil || want != "" && got != ExternalChain(chains[want]) {
			t.Errorf("%s is not asked of %q", name, want)
		}
	}
	check("www.corp.example.", "corp")
	check("www.example.", "root")
	attach("corp, reloaded", "corp.example.")
	check("www.corp.example.", "corp, reloaded")
	detach["corp"]()
	check("www.corp.example.", "corp, reloaded")
	detach["corp, reloaded"]()
	check("www.corp.example.", "root")
	detach["root"]()
	check("www.corp.example.", "")
}

// turncoat answers what it is asked under a scope for everybody.
type turncoat struct{ *world }

// Ask implements ExternalChain.
func (c turncoat) Ask(ctx context.Context, key bpf.AnswerKey) (ExternalReply, error) {
	r, err := c.world.Ask(ctx, key)
	r.Scope = 0
	return r, err
}

// A name that a search began with and that exists by now has the same answer for everybody.
func TestExternalRemovesWhatIsNotOfTheScopeAnyMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, newWorld(30), new(answerstest.Map), ExternalConfig{Domains: []string{"cluster.local"}})
		defer n.external.Attach([]string{"."}, turncoat{n.world})()
		key := asksA("www.shop.svc.cluster.local.", 3)
		for range 200 { // 20 s
			n.ask(key)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		if keys := n.kernel.Keys(); len(keys) > 0 {
			t.Errorf("%v are in the kernel, %+v", keys, n.external.Counts())
		}
	})
}

func TestExternalAsksAgainWhenTheConfigurationChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := runNode(t, newWorld(300), new(answerstest.Map), ExternalConfig{})
		old := newWorld(300)
		detach := n.external.Attach([]string{"."}, old)
		hot, cold, lost := asksA("hot.example.com.", 0), asksA("cold.example.com.", 0), asksA("lost.example.com.", 0)
		for _, key := range []bpf.AnswerKey{cold, lost, hot} {
			for range 2 {
				n.ask(key)
			}
		}
		time.Sleep(2 * time.Minute)
		n.ask(hot)
		n.ask(lost)
		time.Sleep(10 * time.Second) // until hits are read
		n.world.change(hot)
		n.world.Forget(hot.Name)
		n.world.Forget(lost.Name)
		n.world.mu.Lock()
		n.world.refuses = map[bpf.AnswerKey]bool{lost: true}
		n.world.mu.Unlock()
		detach()
		time.Sleep(100 * time.Millisecond)
		if m := n.kernel.Ask(hot.Name, hot.Type, 0); m == nil {
			t.Error("the hot one is not there")
		} else if _, version := addrVersion(m); version != 1 {
			t.Errorf("version %d of the hot one is there", version)
		}
		if n.kernel.Ask(cold.Name, cold.Type, 0) != nil {
			t.Error("the cold one is there still")
		}
		if n.kernel.Ask(lost.Name, lost.Type, 0) == nil {
			t.Error("what the upstream has no word of is gone")
		}
	})
}
