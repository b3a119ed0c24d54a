package answers

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/autopath"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/nodelocaldns"
	"github.com/nearpath/nearpath/nodelocaldns/answerstest"
	pathplugin "github.com/nearpath/nearpath/plugins/autopath"
	"github.com/nearpath/nearpath/plugins/nearpath"
	_ "github.com/nearpath/nearpath/plugins/upstream"
)

// An upstream answers www.* with one address and everything else with NXDOMAIN.
type upstream struct {
	addr string

	mu    sync.Mutex // guards what follows
	ttl   uint32
	a     string
	down  bool
	asked map[string]int
	zone  map[string][]string // records of a name and a type, "name TYPE", beside www.*
}

func startUpstream(t *testing.T, ttl uint32) *upstream {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: conn.LocalAddr().String(), ttl: ttl, a: "192.0.2.1", asked: map[string]int{}}
	started := make(chan struct{})
	s := &dns.Server{PacketConn: conn, Handler: u, NotifyStartedFunc: func() { close(started) }}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.ActivateAndServe() })
	<-started
	t.Cleanup(func() {
		_ = s.Shutdown()
		serving.Wait()
	})
	return u
}

// ServeDNS implements dns.Handler.
func (u *upstream) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	u.mu.Lock()
	defer u.mu.Unlock()
	name := strings.ToLower(r.Question[0].Name)
	u.asked[name]++
	m := new(dns.Msg).SetReply(r)
	m.RecursionAvailable = true
	records, ok := u.zone[name+" "+dns.TypeToString[r.Question[0].Qtype]]
	switch {
	case u.down:
		m.Rcode = dns.RcodeServerFailure
	case ok:
		for _, record := range records {
			rr, _ := dns.NewRR(record)
			m.Answer = append(m.Answer, rr)
		}
	case strings.HasPrefix(name, "www.") && r.Question[0].Qtype == dns.TypeA:
		rr, _ := dns.NewRR(fmt.Sprintf("%s %d IN A %s", name, u.ttl, u.a))
		m.Answer = append(m.Answer, rr)
	default:
		if !strings.HasPrefix(name, "www.") {
			m.Rcode = dns.RcodeNameError
		}
		rr, _ := dns.NewRR(fmt.Sprintf("com. %d IN SOA ns.com. root.com. 1 2 3 4 %d", u.ttl, u.ttl))
		m.Ns = append(m.Ns, rr)
	}
	_ = w.WriteMsg(m)
}

func (u *upstream) set(change func(*upstream)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change(u)
}

func (u *upstream) count(name string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[name]
}

// A kernel holds answers and gives them; Keys are what it holds of ours.
type kernel interface {
	nodelocaldns.ExternalAnswers
	Ask(name string, qtype uint16, scope uint32) *dns.Msg
	Keys() []bpf.AnswerKey
}

// A node is a server, a kernel and what is between.
type node struct {
	t        *testing.T
	server   string
	kernel   kernel
	external *nodelocaldns.External
	instance *caddy.Instance
}

const cacheBody = "cache {\n success 1000 3600 1\n denial 1000 3600 1\n prefetch 1 1h 20%\n serve_stale 1h verify 100ms 30s 1s\n servfail 1s\n}\n"

func corefile(body string) caddy.CaddyfileInput {
	return caddy.CaddyfileInput{Contents: []byte(".:0 {\n bind 127.0.0.1\n" + body + "}\n"), Filepath: "Corefile", ServerTypeName: "dns"}
}

func startNode(t *testing.T, body string, n Node, c nodelocaldns.ExternalConfig) *node {
	t.Helper()
	return startNodeOn(t, new(answerstest.Map), body, n, c)
}

// run runs an External until the test ends, or until it is told to stop.
func run(t *testing.T, e *nodelocaldns.External) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func startNodeOn(t *testing.T, k kernel, body string, n Node, c nodelocaldns.ExternalConfig) *node {
	t.Helper()
	c.Answers = k
	n.External = nodelocaldns.NewExternal(c)
	Provide(n)
	run(t, n.External)
	dnsserver.Quiet, caddy.Quiet = true, true
	instance, err := caddy.Start(corefile(body))
	if err != nil {
		t.Fatal(err)
	}
	got := &node{t: t, server: instance.Servers()[0].LocalAddr().String(), kernel: k, external: n.External, instance: instance}
	t.Cleanup(func() {
		for _, err := range got.instance.ShutdownCallbacks() {
			t.Error(err)
		}
		if err := got.instance.Stop(); err != nil {
			t.Error(err)
		}
	})
	return got
}

// exchange asks the server.
func (n *node) exchange(m *dns.Msg) *dns.Msg {
	n.t.Helper()
	reply, _, err := (&dns.Client{Timeout: 10 * time.Second}).Exchange(m, n.server)
	if err != nil {
		n.t.Fatal(err)
	}
	return reply
}

// ask asks as a pod of a scope does, and returns what it gets and whether the kernel gave it.
func (n *node) ask(name string, qtype uint16, scope uint32) (*dns.Msg, bool) {
	n.t.Helper()
	if m := n.kernel.Ask(name, qtype, scope); m != nil {
		return m, true
	}
	return n.exchange(new(dns.Msg).SetQuestion(name, qtype)), false
}

func (n *node) until(what string, ok func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: not within 30 s; %+v", what, n.external.Counts())
		}
	}
}

func addressOf(m *dns.Msg) string {
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			return a.A.String()
		}
	}
	return dns.RcodeToString[m.Rcode]
}

const www = "www.example.com."

func TestHotNameStaysInTheKernel(t *testing.T) { checkHotName(t, new(answerstest.Map), 2, 600) }

// checkHotName shows one upstream question for each TTL, whatever pods ask, and a new answer in its place before the old
// one ends.
func checkHotName(t *testing.T, k kernel, ttl uint32, asks int) {
	t.Helper()
	up := startUpstream(t, ttl)
	n := startNodeOn(t, k, "answers\nloadbalance\n"+cacheBody+"forward . "+up.addr+" {\n prefer_udp\n}\n", Node{}, nodelocaldns.ExternalConfig{})
	inKernel, late := 0, 0
	start := time.Now()
	for last := start; inKernel < asks; time.Sleep(5 * time.Millisecond) {
		m, ok := n.ask(www, dns.TypeA, 0)
		if got := addressOf(m); got != "192.0.2.1" {
			t.Fatal(got)
		}
		if now := time.Now(); ok {
			inKernel++
			last = now
		} else if now.Sub(last) > 300*time.Millisecond {
			late++ // this machine stood still, and the refresh with it
		}
	}
	took := time.Since(start)
	c := n.external.Counts()
	// The refresher may stand still when this goroutine does not; that there is no gap in time that stands still is shown by the
	// tests of External.
	if gaps := int(c.Published) - 1; gaps > late+2 {
		t.Errorf("%d gaps, %d of them on a machine that stood still: %+v", gaps, late, c)
	}
	// The cache fetches it when a fifth is left, and a second at least.
	life := time.Duration(ttl)*time.Second - max(time.Duration(ttl)*time.Second/5, time.Second)
	if asked, most := up.count(www), int(took/life)+1+late+2; asked > most || c.Refreshed == 0 {
		t.Errorf("%d upstream questions within %v, want %d at most; %+v", asked, took, most, c)
	}
	t.Logf("%d answers in the kernel within %v with a TTL of %d s: %d upstream questions, %d gaps", inKernel, took, ttl, up.count(www), c.Published-1)
}

func TestStaleAnswers(t *testing.T) {
	up := startUpstream(t, 1)
	n := startNode(t, "answers\n"+cacheBody+"upstream . "+up.addr+"\n", Node{}, nodelocaldns.ExternalConfig{})
	n.until("published", func() bool { _, ok := n.ask(www, dns.TypeA, 0); return ok })
	up.set(func(u *upstream) { u.down = true })
	n.until("a stale answer in the kernel", func() bool {
		m, ok := n.ask(www, dns.TypeA, 0)
		if got := addressOf(m); got != "192.0.2.1" {
			t.Fatalf("with the upstream down: %s", got)
		}
		return ok && n.external.Counts().Stale == 1 && m.Answer[0].Header().Ttl == 30
	})
	up.set(func(u *upstream) { u.down, u.a = false, "192.0.2.2" })
	n.until("the new answer in the kernel", func() bool {
		m, ok := n.ask(www, dns.TypeA, 0)
		return ok && addressOf(m) == "192.0.2.2" && n.external.Counts().Stale == 0
	})
}

func TestFlushGoesThroughTheCache(t *testing.T) {
	up := startUpstream(t, 300)
	n := startNode(t, "answers\n"+cacheBody+"upstream . "+up.addr+"\n", Node{}, nodelocaldns.ExternalConfig{})
	for range 3 {
		n.ask(www, dns.TypeA, 0)
		n.ask("www.example.net.", dns.TypeA, 0)
	}
	up.set(func(u *upstream) { u.a = "192.0.2.2" })
	if n.external.Flush("WWW.Example.com") != 1 {
		t.Error("the kernel did not hold it")
	}
	for i, want := range []bool{false, false, true} {
		if m, ok := n.ask(www, dns.TypeA, 0); ok != want || addressOf(m) != "192.0.2.2" {
			t.Errorf("question %d after the flush: %s, in the kernel %t", i, addressOf(m), ok)
		}
	}
	if m, ok := n.ask("www.example.net.", dns.TypeA, 0); !ok || addressOf(m) != "192.0.2.1" {
		t.Errorf("another name: %s, in the kernel %t", addressOf(m), ok)
	}
	if m := n.exchange(new(dns.Msg).SetQuestion("www.example.net.", dns.TypeA)); addressOf(m) != "192.0.2.1" || up.count("www.example.net.") != 1 {
		t.Errorf("another name has left the cache: %s", addressOf(m))
	}
}

func TestOnlyPlainQuestionsPublish(t *testing.T) {
	up := startUpstream(t, 300)
	n := startNode(t, "answers\n"+cacheBody+"upstream . "+up.addr+"\n", Node{}, nodelocaldns.ExternalConfig{})
	for range 3 {
		n.exchange(new(dns.Msg).SetQuestion(www, dns.TypeA).SetEdns0(1232, true))
		checking := new(dns.Msg).SetQuestion(www, dns.TypeA)
		checking.CheckingDisabled = true
		n.exchange(checking)
		n.exchange(new(dns.Msg).SetQuestion("7.2.0.192.in-addr.arpa.", dns.TypePTR))
	}
	if keys := n.kernel.Keys(); len(keys) > 0 {
		t.Errorf("%v are in the kernel", keys)
	}
	for range 2 {
		n.exchange(new(dns.Msg).SetQuestion("WWW.example.COM.", dns.TypeA).SetEdns0(1232, false))
		n.exchange(new(dns.Msg).SetQuestion(www, dns.TypeAAAA))
		n.exchange(new(dns.Msg).SetQuestion("no.example.com.", dns.TypeHTTPS))
	}
	for key, want := range map[bpf.AnswerKey]string{
		{Name: www, Type: dns.TypeA}: "192.0.2.1", {Name: www, Type: dns.TypeAAAA}: "NOERROR",
		{Name: "no.example.com.", Type: dns.TypeHTTPS}: "NXDOMAIN",
	} {
		if m := n.kernel.Ask(key.Name, key.Type, 0); m == nil || addressOf(m) != want {
			t.Errorf("%v: the kernel gives\n%v", key, m)
		}
	}
}

// everyone is one pod, at 127.0.0.1.
type everyone struct{ scope autopath.Scope }

func (e everyone) Scope(context.Context, netip.Addr) (autopath.Scope, bool) { return e.scope, true }

func TestSearchesArePublishedUnderTheirScope(t *testing.T) { checkSearches(t, new(answerstest.Map)) }

func checkSearches(t *testing.T, k kernel) {
	t.Helper()
	up := startUpstream(t, 2)
	store := cluster.NewStore()
	store.Replace(cluster.Objects{Namespaces: []string{"shop"}, Services: []*cluster.Service{
		{Name: cluster.Name{Namespace: "shop", Name: "cart"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.7")}},
	}})
	nearpath.Provide(store.Snapshot)
	scope, err := autopath.NewScope([]string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}, 5, "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	pathplugin.Provide(pathplugin.Node{Scopes: everyone{scope}})
	n := startNodeOn(t, k, "answers\nautopath @nearpath\nnearpath cluster.local\n"+cacheBody+"upstream . "+up.addr+"\n", Node{
		ScopeID: func(s autopath.Scope) uint32 {
			if s == scope {
				return 7
			}
			return 0
		},
		ScopeOf: func(id uint32) (autopath.Scope, bool) { return scope, id == 7 },
	}, nodelocaldns.ExternalConfig{Domains: []string{"cluster.local"}})
	searched := www + "shop.svc.cluster.local."
	n.until("the search in the kernel", func() bool { _, ok := n.ask(searched, dns.TypeA, 7); return ok })
	if n.kernel.Ask(searched, dns.TypeA, 0) != nil || n.kernel.Ask(searched, dns.TypeA, 8) != nil {
		t.Error("other scopes are given it too")
	}
	start := n.external.Counts().Refreshed
	n.until("the search refreshed in the kernel", func() bool {
		m, _ := n.ask(searched, dns.TypeA, 7)
		if got := addressOf(m); got != "192.0.2.1" {
			t.Fatal(got)
		}
		return n.external.Counts().Refreshed > start
	})
	for range 3 {
		n.ask("cart.shop.svc.cluster.local.", dns.TypeA, 7)
	}
	for _, key := range n.kernel.Keys() {
		if key.Scope != 7 || key.Name != searched {
			t.Errorf("%v is in the kernel", key)
		}
	}
	n.external.DropNames(7, []string{searched})
	if keys := n.kernel.Keys(); len(keys) > 0 {
		t.Errorf("%v are in the kernel", keys)
	}
}

func TestReload(t *testing.T) {
	up := startUpstream(t, 2)
	body := "answers\n" + cacheBody + "upstream . " + up.addr + "\n"
	n := startNode(t, body, Node{}, nodelocaldns.ExternalConfig{})
	n.until("published", func() bool { _, ok := n.ask(www, dns.TypeA, 0); return ok })
	for range 2 {
		instance, err := n.instance.Restart(corefile(body))
		if err != nil {
			t.Fatal(err)
		}
		n.instance, n.server = instance, instance.Servers()[0].LocalAddr().String()
		before := n.external.Counts().Refreshed
		n.until("refreshed through the new chain", func() bool {
			n.kernel.Ask(www, dns.TypeA, 0)
			return n.external.Counts().Refreshed > before
		})
	}
}
