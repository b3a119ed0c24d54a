package upstream

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/cluster"
	_ "github.com/nearpath/nearpath/plugins/nearpath"
)

// A resolver answers every question with one address, over UDP and TCP.
type resolver struct {
	at       netip.AddrPort
	queries  atomic.Int64
	accepted atomic.Int64 // connections
}

type countingListener struct {
	net.Listener
	accepted *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return conn, err
}

func startResolver(t *testing.T, addr string) *resolver {
	t.Helper()
	r := &resolver{}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r.queries.Add(1)
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(addr)}}
		_ = w.WriteMsg(m)
	})
	tcp, udp := listen(t)
	r.at = tcp.Addr().(*net.TCPAddr).AddrPort()
	for _, s := range []*dns.Server{{Listener: countingListener{tcp, &r.accepted}, Handler: handler}, {PacketConn: udp, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		var running sync.WaitGroup
		running.Go(func() { _ = s.ActivateAndServe() })
		<-started
		t.Cleanup(func() {
			_ = s.Shutdown()
			running.Wait()
		})
	}
	return r
}

// listen returns two sockets of one port.
func listen(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 20 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return tcp, udp
		}
		tcp.Close()
	}
	t.Fatal("no port is free for UDP and TCP")
	return nil, nil
}

// A coredns is a server that runs, and whose configuration may be changed.
type coredns struct {
	at       string
	instance *caddy.Instance
}

func (c *coredns) input(body string) caddy.CaddyfileInput {
	_, port, _ := net.SplitHostPort(c.at)
	text := fmt.Sprintf(".:%s {\n bind 127.0.0.1\n%s\n}\n", port, strings.ReplaceAll(body, "SELF", c.at))
	return caddy.CaddyfileInput{Contents: []byte(text), Filepath: "Corefile", ServerTypeName: "dns"}
}

// startCoreDNS starts a server; SELF in its Corefile is its own address.
func startCoreDNS(t *testing.T, body string) *coredns {
	t.Helper()
	dnsserver.Quiet, caddy.Quiet = true, true
	tcp, udp := listen(t)
	c := &coredns{at: tcp.Addr().String()}
	tcp.Close()
	udp.Close()
	instance, err := caddy.Start(c.input(body))
	if err != nil {
		t.Fatal(err)
	}
	c.instance = instance
	t.Cleanup(func() {
		if err := c.instance.Stop(); err != nil {
			t.Error(err)
		}
		for _, err := range c.instance.ShutdownCallbacks() {
			t.Error(err)
		}
		pool.Wait()
	})
	return c
}

// ask returns the address, or the code and what the server says about it.
func (c *coredns) ask(t *testing.T, name string, edns bool) string {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, dns.TypeA)
	if edns {
		q.SetEdns0(1232, false)
	}
	reply, _, err := (&dns.Client{Timeout: 10 * time.Second}).Exchange(q, c.at)
	if err != nil {
		t.Fatal(err)
	}
	if len(reply.Answer) == 1 {
		return reply.Answer[0].(*dns.A).A.String()
	}
	said := []string{dns.RcodeToString[reply.Rcode]}
	if opt := reply.IsEdns0(); opt != nil {
		for _, option := range opt.Option {
			said = append(said, option.String())
		}
	}
	return strings.Join(said, ": ")
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// The plugin in a server: each zone is asked of its own servers, names without a line are the next plugin's, and a new
// configuration keeps the connections that the old one had made.
func TestServer(t *testing.T) {
	world, corp := startResolver(t, "192.0.2.1"), startResolver(t, "192.0.2.2")
	store := cluster.NewStore()
	Provide(store.Snapshot)
	name := cluster.Name{Namespace: "kube-system", Name: "kube-dns"}
	inCluster := startResolver(t, "192.0.2.3")
	store.Replace(cluster.Objects{
		Services: []*cluster.Service{{Name: name, Ports: []cluster.ServicePort{{Name: "dns-tcp", Protocol: cluster.TCP, Port: 53}}}},
		Slices: []*cluster.EndpointSlice{{
			Name: name, Service: name, Ports: []cluster.EndpointPort{{Name: "dns-tcp", Protocol: cluster.TCP, Port: inCluster.at.Port()}},
			Endpoints: []cluster.Endpoint{{Addr: inCluster.at.Addr(), Ready: true, Serving: true}},
		}},
	})
	body := fmt.Sprintf("upstream . %s {\n except example.net\n loop off\n}\nupstream corp.example %s {\n force_tcp\n}\n"+
		"upstream cluster.local service kube-system/kube-dns", world.at, corp.at)
	c := startCoreDNS(t, body)
	ask := func() {
		t.Helper()
		for name, want := range map[string]string{
			"www.example.": "192.0.2.1", "WWW.Corp.example.": "192.0.2.2", "cart.shop.svc.cluster.local.": "192.0.2.3", "example.net.": "SERVFAIL",
		} {
			if got := c.ask(t, name, false); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	}
	ask()
	before := corp.accepted.Load()
	instance, err := c.instance.Restart(c.input(body + "\ncache"))
	if err != nil {
		t.Fatal(err)
	}
	c.instance = instance
	ask()
	if n := corp.accepted.Load(); n != before || before != 1 {
		t.Errorf("%d connections before the reload, %d after it", before, n)
	}
}

// An upstream that leads back to the server is found, told of, and not asked; the server goes on.
func TestLoop(t *testing.T) {
	var mu sync.Mutex
	var events []string
	Notify(func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, fmt.Sprintf("%s %s %v", e.Zone, e.Target, e.Looped))
	})
	t.Cleanup(func() { notified.Store(nil) })
	world := startResolver(t, "192.0.2.1")
	c := startCoreDNS(t, fmt.Sprintf("upstream . SELF %s {\n loop 20ms\n}\nupstream corp.example SELF {\n loop 20ms\n}", world.at))
	eventually(t, "both lines have found the loop", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(events) == 2
	})
	for range 5 {
		if got := c.ask(t, "www.example.", false); got != "192.0.2.1" {
			t.Errorf("www.example.: %s", got)
		}
	}
	if got := c.ask(t, "www.corp.example.", true); !strings.HasPrefix(got, "SERVFAIL: 22 (No Reachable Authority): ") || !strings.Contains(got, "leads back") {
		t.Errorf("www.corp.example.: %s", got)
	}
	if got := c.ask(t, "x.corp.example.", false); got != "SERVFAIL" {
		t.Errorf("x.corp.example.: %s", got)
	}
}

func TestServerRefuses(t *testing.T) {
	dnsserver.Quiet, caddy.Quiet = true, true
	provided.Store(nil)
	instance, err := caddy.Start((&coredns{at: "127.0.0.1:0"}).input("upstream . service kube-system/kube-dns"))
	if err == nil {
		_ = instance.Stop()
	}
	if err == nil || !strings.Contains(err.Error(), "service kube-system/kube-dns: there is no source of Services") {
		t.Errorf("error %v", err)
	}
	pool.Wait()
}
