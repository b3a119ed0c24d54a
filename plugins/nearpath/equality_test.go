package nearpath

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind" // in the servers' Corefile
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/kubernetes" // what we are compared with
	_ "github.com/coredns/coredns/plugin/loadbalance"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/nearpath/nearpath/internal/cluster"
)

// equalityPatience is for what takes a moment on an idle machine.
const equalityPatience = time.Minute

// startOutside is the rest of the world: www.example.com has an address, nothing else is there.
func startOutside(t *testing.T) (addr string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetRcode(r, dns.RcodeNameError)
		if q := r.Question[0]; dns.CanonicalName(q.Name) == "www.example.com." {
			m.Rcode = dns.RcodeSuccess
			if q.Qtype == dns.TypeA {
				m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
			}
		}
		_ = w.WriteMsg(m)
	})}
	started, done := make(chan struct{}), make(chan error, 1)
	server.NotifyStartedFunc = func() { close(started) }
	go func() { done <- server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return conn.LocalAddr().String()
}

// servers are ours and CoreDNS's, of one API.
type servers struct {
	api   *apiServer
	store *cluster.Store
	ours  netip.AddrPort
	other netip.AddrPort
}

// A deviation from CoreDNS is meant: see the package comment of nodelocaldns.
type deviation struct {
	why  string
	is   func(q dns.Question, ours, other *dns.Msg) bool
	used int
}

func startServers(t *testing.T) *servers {
	t.Helper()
	s := &servers{api: startAPIServer(t), store: cluster.NewStore(), ours: freePort(t), other: freePort(t)}
	source, err := cluster.NewAPISource(cluster.APIConfig{REST: &rest.Config{Host: s.api.url}, Store: s.store, NodeName: "node", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	Provide(s.store.Snapshot)
	t.Cleanup(func() { provided.Store(nil) })
	corefile := fmt.Sprintf(`.:%[1]d {
	bind 127.0.0.1
	loadbalance
	nearpath cluster.local in-addr.arpa ip6.arpa
	forward . %[4]s
}
.:%[2]d {
	bind 127.0.0.1
	loadbalance
	kubernetes cluster.local in-addr.arpa ip6.arpa {
		endpoint %[3]s
		pods insecure
		fallthrough in-addr.arpa ip6.arpa
		ttl 5
	}
	forward . %[4]s
}
`, s.ours.Port(), s.other.Port(), s.api.url, startOutside(t))
	dnsserver.Quiet, caddy.Quiet = true, true
	instance, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(corefile), Filepath: "Corefile", ServerTypeName: "dns"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		instance.ShutdownCallbacks()
		if err := instance.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// freePort is one of 127.0.0.1 that nobody has for UDP or TCP.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	for range 20 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		_ = tcp.Close()
		if err == nil {
			_ = udp.Close()
			return netip.MustParseAddrPort(tcp.Addr().String())
		}
	}
	t.Fatal("no port is free for both TCP and UDP")
	return netip.AddrPort{}
}

// become makes the API that of a world, and waits until both servers have all of it: each kind of object comes by a watch
// of its own, which a mark comes by last.
func (s *servers) become(t *testing.T, w *world, mark int) {
	t.Helper()
	s.api.become(t, w.objects)
	ns := fmt.Sprintf("mark-%d", mark)
	name := metav1.ObjectMeta{Namespace: ns, Name: "mark", Labels: map[string]string{discoveryv1.LabelServiceName: "mark"}}
	s.api.become(t, append(slices.Clone(w.objects), namespaceObject(ns),
		&corev1.Service{ObjectMeta: name, Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}}},
		&discoveryv1.EndpointSlice{ObjectMeta: name, AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.9.9.9"}}}}))
	q := dns.Question{Name: "mark." + ns + ".svc.cluster.local.", Qtype: dns.TypeA, Qclass: dns.ClassINET}
	for _, at := range []netip.AddrPort{s.ours, s.other} {
		a := newAsker(t, at)
		for deadline := time.Now().Add(equalityPatience); ; {
			if m := a.ask(t, q, way{}); m.Rcode == dns.RcodeSuccess && len(m.Answer) == 1 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s does not follow the API: %s", at, says(a.ask(t, q, way{})))
			}
		}
	}
}

// A way to ask.
type way struct{ tcp, edns bool }

func (w way) String() string {
	text := "UDP"
	if w.tcp {
		text = "TCP"
	}
	if w.edns {
		text += " with EDNS"
	}
	return text
}

// An asker asks one server, over connections that stay.
type asker struct {
	at       netip.AddrPort
	udp, tcp *dns.Conn
}

func newAsker(t *testing.T, at netip.AddrPort) *asker {
	t.Helper()
	a := &asker{at: at}
	for network, conn := range map[string]**dns.Conn{"udp": &a.udp, "tcp": &a.tcp} {
		c, err := (&dns.Client{Net: network, Timeout: equalityPatience}).Dial(at.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		*conn = c
	}
	return a
}

func newQuery(q dns.Question, edns bool) *dns.Msg {
	m := new(dns.Msg)
	m.Id, m.RecursionDesired, m.Question = dns.Id(), true, []dns.Question{q}
	if edns {
		m.SetEdns0(1232, false)
	}
	return m
}

func (a *asker) ask(t *testing.T, q dns.Question, w way) *dns.Msg {
	t.Helper()
	m := newQuery(q, w.edns)
	network, conn := "udp", a.udp
	if w.tcp {
		network, conn = "tcp", a.tcp
	}
	reply, _, err := (&dns.Client{Net: network, Timeout: equalityPatience}).ExchangeWithConn(m, conn)
	if err != nil {
		t.Fatalf("ask %s for %s %s by %s: %v", a.at, q.Name, dns.TypeToString[q.Qtype], w, err)
	}
	return reply
}

// says is what a response says, however it orders it. SOA serials are the time.
func says(m *dns.Msg) string {
	lines := []string{fmt.Sprintf("%s aa=%t tc=%t ra=%t", dns.RcodeToString[m.Rcode], m.Authoritative, m.Truncated, m.RecursionAvailable)}
	for section, rrs := range map[string][]dns.RR{"": m.Answer, "ns ": m.Ns, "+ ": m.Extra} {
		for _, rr := range rrs {
			switch rr := rr.(type) {
			case *dns.SOA:
				rr.Serial = 1
			case *dns.OPT:
				lines = append(lines, fmt.Sprintf("opt %d %t", rr.UDPSize(), rr.Do()))
				continue
			}
			if m.Truncated { // which ones are left is chance
				continue
			}
			line := strings.ReplaceAll(rr.String(), "\t", " ")
			owner := rr.Header().Name
			if section != "" { // only the question's own name must be spelled as the question does
				owner = strings.ToLower(owner)
			}
			lines = append(lines, section+owner+strings.ToLower(line[len(owner):]))
		}
	}
	slices.Sort(lines[1:])
	return strings.Join(lines, "\n")
}

// deviations are all that are allowed, each as the package comment of nodelocaldns has it.
func deviations() []*deviation {
	labels := func(q dns.Question) []string { return dns.SplitDomainName(dns.CanonicalName(q.Name)) }
	inService := func(q dns.Question, count int) bool { l := labels(q); return len(l) == count && l[count-3] == "svc" }
	return []*deviation{
		{why: "dns-version has no data for other types", is: func(q dns.Question, ours, _ *dns.Msg) bool {
			return labels(q)[0] == "dns-version" && q.Qtype != dns.TypeTXT && ours.Rcode == dns.RcodeSuccess && len(ours.Answer) == 0
		}},
		{why: "the name server is the DNS Service", is: func(q dns.Question, _, _ *dns.Msg) bool {
			return strings.EqualFold(q.Name, "ns.dns.cluster.local.")
		}},
		{why: "the labels of a port begin with an underscore, and have SRV records only", is: func(q dns.Question, ours, _ *dns.Msg) bool {
			l := labels(q)
			return inService(q, 7) && (q.Qtype != dns.TypeSRV || l[0][0] != '_' || l[1][0] != '_') && len(ours.Answer) == 0
		}},
		{why: "a pod name has addresses only", is: func(q dns.Question, ours, _ *dns.Msg) bool {
			l := labels(q)
			return len(l) > 4 && l[len(l)-3] == "pod" && (len(l) > 5 || q.Qtype == dns.TypeSRV) && len(ours.Answer) == 0
		}},
		{why: "a name that does not exist has no SOA either", is: func(q dns.Question, ours, other *dns.Msg) bool {
			return q.Qtype == dns.TypeSOA && ours.Rcode == dns.RcodeNameError && len(other.Answer) == 0
		}},
		{why: "namespaces and what is above them exist for TXT, too", is: func(q dns.Question, ours, other *dns.Msg) bool {
			return q.Qtype == dns.TypeTXT && len(labels(q)) < 5 && ours.Rcode == dns.RcodeSuccess && len(ours.Answer)+len(other.Answer) == 0
		}},
		{why: "an ExternalName answers every type with its CNAME, whatever the target has", is: func(q dns.Question, ours, other *dns.Msg) bool {
			return inService(q, 5) && len(ours.Answer) > 0 && ours.Answer[0].Header().Rrtype == dns.TypeCNAME && len(other.Answer) == 0
		}},
	}
}

// TestEqualToCoreDNS asks this plugin and the kubernetes plugin of CoreDNS, that follow the same API, for every record of random
// clusters and for many names beside them.
func TestEqualToCoreDNS(t *testing.T) {
	s := startServers(t)
	ours, other := newAsker(t, s.ours), newAsker(t, s.other)
	known := deviations()
	asked := 0
	for seed := range uint64(4) {
		w := newWorld(seed)
		s.become(t, w, int(seed))
		for i, q := range w.questions() {
			by := way{tcp: i%4 == 3, edns: i%2 == 1}
			compare(t, known, q, by, ours.ask(t, q, by), other.ask(t, q, by))
			asked++
		}
	}
	for _, d := range known {
		t.Logf("%4d times: %s", d.used, d.why)
		if d.used == 0 {
			t.Errorf("nothing deviates in that %s: take it off the list", d.why)
		}
	}
	t.Logf("%d questions", asked)
}

func compare(t *testing.T, known []*deviation, q dns.Question, by way, ours, other *dns.Msg) {
	t.Helper()
	for _, d := range known {
		if says(ours) != says(other) && d.is(q, ours, other) {
			d.used++
			return
		}
	}
	if our, their := says(ours), says(other); our != their {
		t.Errorf("%s %s by %s: ours is\n%s\nand CoreDNS's\n%s", q.Name, dns.TypeToString[q.Qtype], by, our, their)
	}
}
