package nodelocaldns_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin/pkg/reuseport"
	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/nodelocaldns"
	_ "github.com/nearpath/nearpath/plugins/answers"
	_ "github.com/nearpath/nearpath/plugins/metrics"
	"github.com/nearpath/nearpath/plugins/nearpath"
	_ "github.com/nearpath/nearpath/plugins/upstream"
)

// The tests of this file do not run in parallel: CoreDNS is configured for a whole process.

func TestMain(m *testing.M) {
	const pkg = "github.com/coredns/coredns/plugin/pkg/"
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction(pkg+"proxy.(*Transport).connManager"), // ends when its owner is garbage
		goleak.IgnoreAnyFunction(pkg+"up.(*Probe).Do.func1"),           // ends after its pause of half a second
	)
}

const deadline = time.Minute

// An upstream answers every A question under example.com with 192.0.2.1, and counts.
type upstream struct {
	addr      string
	mu        sync.Mutex
	questions []string
	hang      chan struct{} // questions for hang.example.com wait for its end
	hanging   chan struct{} // closed when the first one waits
	once      sync.Once
	release   func() // ends the wait
}

func (u *upstream) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	q := r.Question[0]
	u.mu.Lock()
	u.questions = append(u.questions, strings.ToLower(q.Name)+" "+w.RemoteAddr().Network())
	u.mu.Unlock()
	if q.Name == "hang.example.com." {
		u.once.Do(func() { close(u.hanging) })
		<-u.hang
	}
	m := new(dns.Msg)
	m.SetReply(r)
	if q.Qtype == dns.TypeA && dns.IsSubDomain("example.com.", q.Name) {
		rr := dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}
		m.Answer = append(m.Answer, &rr)
	} else {
		m.Rcode = dns.RcodeNameError
	}
	_ = w.WriteMsg(m)
}

func (u *upstream) count(question string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(u.questions), func(q string) bool { return q != question }))
}

// startUpstream serves UDP and TCP on one port.
func startUpstream(tb testing.TB) *upstream {
	tb.Helper()
	u := &upstream{hang: make(chan struct{}), hanging: make(chan struct{})}
	tcp, udp := bindBoth(tb)
	u.addr = tcp.Addr().String()
	for _, server := range []*dns.Server{
		{Listener: tcp, Handler: u},
		{PacketConn: udp, Handler: u},
	} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		done := make(chan error)
		go func() { done <- server.ActivateAndServe() }()
		<-started
		tb.Cleanup(func() {
			if err := server.Shutdown(); err != nil {
				tb.Error(err)
			}
			<-done
		})
	}
	u.release = sync.OnceFunc(func() { close(u.hang) })
	tb.Cleanup(u.release)
	return u
}

// bindBoth binds one port of 127.0.0.1 for TCP and UDP.
func bindBoth(tb testing.TB) (net.Listener, net.PacketConn) {
	tb.Helper()
	for range 20 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return tcp, udp
		}
		_ = tcp.Close()
	}
	tb.Fatal("no port is free for both TCP and UDP")
	return nil, nil
}

func freeAddr(tb testing.TB) netip.AddrPort {
	tb.Helper()
	tcp, udp := bindBoth(tb)
	defer udp.Close()
	defer tcp.Close()
	return netip.MustParseAddrPort(tcp.Addr().String())
}

// startServer runs a Server until the test ends and returns its address and a function that stops it.
func startServer(t *testing.T, store *cluster.Store, upstreams ...string) (addr string, stop func() time.Duration) {
	t.Helper()
	nearpath.Provide(store.Snapshot)
	at := freeAddr(t)
	corefile, err := nodelocaldns.Config{Listen: []netip.AddrPort{at}, TTL: 5, Upstreams: upstreams}.Corefile()
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, corefile, at)
	if err := s.outcome(); err != nil {
		t.Fatal(err)
	}
	return at.String(), s.stop
}

// A running is a Server that runs until the test ends.
type running struct {
	*nodelocaldns.Server
	corefile atomic.Pointer[[]byte]
	refused  chan error
	stop     func() time.Duration
}

// outcome waits until the Server is ready, or tells why it is not.
func (r *running) outcome() error {
	select {
	case <-r.Ready():
		return nil
	case err := <-r.refused:
		return err
	}
}

func run(tb testing.TB, corefile []byte, required ...netip.AddrPort) *running {
	tb.Helper()
	r := &running{refused: make(chan error, 100)}
	r.corefile.Store(&corefile)
	r.Server = nodelocaldns.NewServer(nodelocaldns.ServerConfig{
		Corefile: func() ([]byte, error) { return *r.corefile.Load(), nil }, Required: required,
		Refused: func(err error) { r.refused <- err }, Every: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceValue(func() time.Duration {
		start := time.Now()
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
		return time.Since(start)
	})
	tb.Cleanup(func() { r.stop() })
	return r
}

// ask returns the status and the answers, without their TTL, as one line.
func ask(t *testing.T, network, server, name string, qtype uint16) string {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	client := dns.Client{Net: network, Timeout: deadline}
	reply, _, err := client.Exchange(m, server)
	if err != nil {
		t.Fatalf("ask %s over %s: %v", name, network, err)
	}
	line := []string{dns.RcodeToString[reply.Rcode]}
	for _, rr := range reply.Answer {
		line = append(line, dns.TypeToString[rr.Header().Rrtype]+" "+strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(line, " ")
}

func objects(clusterIP string) cluster.Objects {
	name := func(name string) cluster.Name { return cluster.Name{Namespace: "shop", Name: name} }
	return cluster.Objects{
		Namespaces: []string{"shop"},
		Services: []*cluster.Service{
			{Name: name("cart"), ClusterIPs: []netip.Addr{netip.MustParseAddr(clusterIP)}},
			{Name: name("ext"), ExternalName: "www.example.com"},
			{Name: name("missing"), ExternalName: "no.example.org"},
		},
	}
}

func TestServerAnswersTheClusterZone(t *testing.T) {
	store := cluster.NewStore()
	addr, _ := startServer(t, store, startUpstream(t).addr)
	const cart = "cart.shop.svc.cluster.local."
	for _, network := range []string{"udp", "tcp"} {
		if got := ask(t, network, addr, cart, dns.TypeA); got != "SERVFAIL" {
			t.Errorf("before sync, over %s: %s", network, got)
		}
	}
	store.Replace(objects("10.96.0.7"))
	for _, network := range []string{"udp", "tcp"} {
		if got := ask(t, network, addr, cart, dns.TypeA); got != "NOERROR A 10.96.0.7" {
			t.Errorf("over %s: %s", network, got)
		}
	}
	store.Replace(objects("10.96.0.8"))
	if got := ask(t, "udp", addr, cart, dns.TypeA); got != "NOERROR A 10.96.0.8" {
		t.Errorf("an answer of the zone was cached: %s", got)
	}
	if got := ask(t, "udp", addr, "8.0.96.10.in-addr.arpa.", dns.TypePTR); got != "NOERROR PTR "+cart {
		t.Errorf("reverse: %s", got)
	}
	if got := ask(t, "udp", addr, "nobody.shop.svc.cluster.local.", dns.TypeA); got != "NXDOMAIN" {
		t.Errorf("unknown service: %s", got)
	}
}

func TestServerWithoutUpstreams(t *testing.T) {
	store := cluster.NewStore()
	store.Replace(objects("10.96.0.7"))
	addr, _ := startServer(t, store)
	if got := ask(t, "udp", addr, "www.example.com.", dns.TypeA); got != "SERVFAIL" {
		t.Errorf("another zone, without upstreams: %s", got)
	}
}

func TestServerForwardsAndCaches(t *testing.T) {
	up := startUpstream(t)
	store := cluster.NewStore()
	store.Replace(objects("10.96.0.7"))
	addr, _ := startServer(t, store, up.addr)

	names := []string{"a.example.com.", "b.example.com.", "c.example.com."}
	for range 3 {
		for _, name := range names {
			if got := ask(t, "udp", addr, name, dns.TypeA); got != "NOERROR A 192.0.2.1" {
				t.Errorf("%s: %s", name, got)
			}
		}
	}
	for _, name := range names {
		if n := up.count(name+" udp") + up.count(name+" tcp"); n != 1 {
			t.Errorf("%s was asked %d times, want 1", name, n)
		}
	}
	if got := ask(t, "udp", addr, "9.9.9.9.in-addr.arpa.", dns.TypePTR); got != "NXDOMAIN" || up.count("9.9.9.9.in-addr.arpa. udp") != 1 {
		t.Errorf("reverse name of somebody else: %s", got)
	}
}

func TestServerFollowsExternalNames(t *testing.T) {
	up := startUpstream(t)
	store := cluster.NewStore()
	store.Replace(objects("10.96.0.7"))
	addr, _ := startServer(t, store, up.addr)
	for range 2 {
		if got := ask(t, "udp", addr, "ext.shop.svc.cluster.local.", dns.TypeA); got != "NOERROR CNAME www.example.com. A 192.0.2.1" {
			t.Errorf("external name: %s", got)
		}
	}
	if got := up.count("www.example.com. udp"); got != 1 {
		t.Errorf("the target was asked %d times, want 1: it belongs into the cache", got)
	}
	if got := ask(t, "udp", addr, "missing.shop.svc.cluster.local.", dns.TypeA); got != "NOERROR CNAME no.example.org." {
		t.Errorf("external name that does not exist: %s", got)
	}
}

func TestServerStopsInTime(t *testing.T) {
	up := startUpstream(t)
	store := cluster.NewStore()
	addr, stop := startServer(t, store, up.addr)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		client := dns.Client{Net: "udp", Timeout: 3 * deadline}
		_, _, _ = client.Exchange(new(dns.Msg).SetQuestion("hang.example.com.", dns.TypeA), addr)
	}()
	<-up.hanging
	// The query hangs for longer than this, until the test ends; a busy machine adds to the 2 s.
	if took := stop(); took > 10*time.Second {
		t.Errorf("stopping took %s with a query in flight, want about 2 s", took)
	}
	<-asked
	// What was left stopping is still in caddy's list, which the next test reads.
	stacks := make([]byte, 1<<20)
	eventually(t, "the end of what was left", func() bool {
		return !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("nodelocaldns.(*Server).stop."))
	})
}

// Until the Server is ready the kernel drops what the node itself asks its listeners.
func TestServerIsReadyBeforeItAsksItself(t *testing.T) {
	nearpath.Provide(cluster.NewStore().Snapshot)
	at := freeAddr(t)
	corefile, err := nodelocaldns.Config{Listen: []netip.AddrPort{at}}.Corefile()
	if err != nil {
		t.Fatal(err)
	}
	// So many share the port that nearly every question comes to one of these.
	deaf := make([]net.PacketConn, 64)
	for i := range deaf {
		if deaf[i], err = reuseport.ListenPacket("udp", at.String()); err != nil {
			t.Fatal(err)
		}
		defer deaf[i].Close()
	}
	s := run(t, corefile, at)
	var reading sync.WaitGroup
	for _, conn := range deaf {
		reading.Go(func() {
			if _, _, err := conn.ReadFrom(make([]byte, dns.MinMsgSize)); err != nil {
				return // closed
			}
			select {
			case <-s.Ready():
			default:
				t.Error("a listener is asked that nothing is sent to yet")
			}
		})
	}
	if err := s.outcome(); err != nil {
		t.Error(err)
	}
	for _, conn := range deaf {
		_ = conn.Close()
	}
	reading.Wait()
}

func TestServerNamesTheAddressItCannotBind(t *testing.T) {
	nearpath.Provide(cluster.NewStore().Snapshot)
	tcp, udp := bindBoth(t)
	defer udp.Close()
	defer tcp.Close()
	at := netip.MustParseAddrPort(tcp.Addr().String())
	corefile, err := nodelocaldns.Config{Listen: []netip.AddrPort{at}}.Corefile()
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, corefile, at)
	if err := s.outcome(); err == nil || !strings.Contains(err.Error(), at.String()) {
		t.Errorf("error %v, want one that names %s", err, at)
	}
	// It is served once nothing is in the way.
	_, _ = udp.Close(), tcp.Close()
	if err := s.outcome(); err != nil {
		t.Error(err)
	}
}

func TestServerNamesTheLineOfABadCorefile(t *testing.T) {
	s := run(t, []byte(".:5300 {\n\tnearpath cluster.local {\n\t\tttl forever\n\t}\n}\n"))
	if err := s.outcome(); err == nil || !strings.Contains(err.Error(), "Corefile:3") {
		t.Errorf("error %v, want one that names line 3", err)
	}
}

// TestServerChangesItsCorefile asks all the while: no change costs an answer, and a bad one changes nothing.
func TestServerChangesItsCorefile(t *testing.T) {
	at := freeAddr(t)
	host := func(addr string) []byte {
		return fmt.Appendf(nil, ".:%d {\n\tbind 127.0.0.1\n\thosts {\n\t\t%s a.example\n\t}\n}\n", at.Port(), addr)
	}
	s := run(t, host("192.0.2.1"), at)
	if err := s.outcome(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	var asked atomic.Int32
	for range 4 {
		asking.Go(func() {
			client := dns.Client{Net: "udp", Timeout: deadline}
			for ctx.Err() == nil {
				reply, _, err := client.Exchange(new(dns.Msg).SetQuestion("a.example.", dns.TypeA), at.String())
				if err != nil || len(reply.Answer) != 1 {
					t.Errorf("no answer: %v", err)
				}
				asked.Add(1)
			}
		})
	}
	defer func() { cancel(); asking.Wait() }()
	await := func(addr string) { t.Helper(); awaitAnswer(t, at.String(), addr) }
	for i := range 5 {
		next := fmt.Sprintf("192.0.2.%d", 10+i)
		s.set(host(next))
		await(next)
	}
	for _, bad := range [][]byte{
		[]byte(".:53 {\n\tno_such_plugin\n}\n"),
		bytes.ReplaceAll(host("192.0.2.66"), []byte("bind 127.0.0.1"), []byte("bind 127.0.0.2")),
	} {
		s.set(bad)
		if err := <-s.refused; err == nil {
			t.Error("served")
		}
		await("192.0.2.14")
		s.set(host("192.0.2.14"))
		if err := <-s.refused; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d answers meanwhile", asked.Load())
}

// awaitAnswer waits until a server says that a.example has an address.
func awaitAnswer(t *testing.T, server, addr string) {
	t.Helper()
	for start := time.Now(); ask(t, "udp", server, "a.example.", dns.TypeA) != "NOERROR A "+addr; {
		if time.Since(start) > deadline {
			t.Fatalf("%s is not served", addr)
		}
	}
}

func (r *running) set(corefile []byte) { r.corefile.Store(&corefile) }
