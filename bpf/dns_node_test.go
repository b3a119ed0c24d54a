//go:build node

package bpf

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// dnsServers are where pods of these tests ask for names.
var dnsServers = []string{"10.96.0.10", "fd00:96::10"}

// An asking is a question, and what a pod gets of a program.
type asking struct {
	name   string
	rrtype uint16
	edns   bool
	want   string // status, answers, authority
}

var askings = []asking{
	{"Cart.shop.svc.cluster.local.", dns.TypeA, false, "NOERROR Cart.shop.svc.cluster.local. 5 IN A 10.96.0.7"},
	{"cart.shop.svc.cluster.local.", dns.TypeA, true, "NOERROR cart.shop.svc.cluster.local. 5 IN A 10.96.0.7"},
	{"cart.shop.svc.cluster.local.", dns.TypeAAAA, false, "NOERROR " + soaText},
	{"no.shop.svc.cluster.local.", dns.TypeA, true, "NXDOMAIN " + soaText},
	{longName, dns.TypeTXT, true, `NOERROR ` + longName + ` 9 IN TXT "` + strings.Repeat("x", 250) + `" "` + strings.Repeat("y", 250) + `"`},
}

const soaText = "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5"

// publishAskings puts what askings want.
func publishAskings(tb testing.TB, a *Answers) {
	tb.Helper()
	var errs []error
	for _, q := range askings {
		if text, ok := strings.CutPrefix(q.want, "NOERROR "+q.name); ok {
			errs = append(errs, a.Put(AnswerKey{Name: q.name, Type: q.rrtype}, packed(tb, q.name+text), AnswerLife{}))
		}
	}
	errs = append(errs, a.Beat(), a.PutName("cart.shop.svc.cluster.local", NameAddresses), a.SetZone(AnswerZone{
		Domain: "cluster.local", NS: "ns.dns.cluster.local", Mailbox: "hostmaster.cluster.local", Complete: true,
		TTL: 5, Serial: 7, Refresh: 7200, Retry: 1800, Expire: 86400, MinTTL: 5,
	}))
	if err := errors.Join(errs...); err != nil {
		tb.Fatal(err)
	}
}

// asks has a pod ask the server all askings.
func (n *netns) asks(t *testing.T, server netip.Addr) {
	t.Helper()
	conn, err := n.dial(t, udp, netip.AddrPortFrom(server, 53), patience)
	if err != nil {
		t.Fatal(err)
	}
	c := dns.Conn{Conn: conn, UDPSize: 1232}
	defer c.Close()
	for _, q := range askings {
		m := new(dns.Msg).SetQuestion(q.name, q.rrtype)
		if q.edns {
			m.SetEdns0(1232, false)
		}
		r, err := exchangeDNS(&c, m)
		if err != nil {
			t.Fatalf("%s of %s: %v", q.name, server, err)
		}
		if got := verdictText(r); got != q.want || r.Id != m.Id || !r.Authoritative || (r.IsEdns0() != nil) != q.edns {
			t.Errorf("%s of %s: %v, want %s", q.name, server, r, q.want)
		}
	}
}

// exchangeDNS asks until there is an answer, as a resolver would: of what programs cannot tell the sum of, one in 65,536, there is
// none.
func exchangeDNS(c *dns.Conn, m *dns.Msg) (r *dns.Msg, err error) {
	for range 5 {
		m.Id = dns.Id()
		_ = c.SetDeadline(time.Now().Add(patience / 10))
		if err = c.WriteMsg(m); err != nil {
			return nil, err
		}
		if r, err = c.ReadMsg(); err == nil {
			return r, nil
		}
	}
	return nil, err
}

func verdictText(m *dns.Msg) string {
	return strings.ReplaceAll(strings.Join(append([]string{dns.RcodeToString[m.Rcode]}, texts(append(m.Answer, m.Ns...))...), " "), "\t", " ")
}

// misses has a pod ask the node what no program knows.
func (n *netns) misses(t *testing.T, server netip.Addr) {
	t.Helper()
	conn, err := n.dial(t, udp, netip.AddrPortFrom(server, 53), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b, err := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA).Pack()
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = conn.Write(b)
	}
	reply := make([]byte, 512)
	if err == nil {
		var got int
		got, err = conn.Read(reply)
		reply = reply[:got]
	}
	if err != nil || !strings.HasPrefix(string(reply), "node ") {
		t.Errorf("a miss of %s: %q, %v, want the node's words", server, reply, err)
	}
}

// TestAnswersLive has a pod ask its DNS over its link, and then by an ENI of its own: the answers come from the program, for there
// is no server. What it does not know goes on to whom it was for, and is counted once.
func TestAnswersLive(t *testing.T) {
	c := newCluster(t)
	if err := c.Answers.SetServers(addrs(append(dnsServers, nodeAddrs...))); err != nil {
		t.Fatal(err)
	}
	publishAskings(t, c.Answers)
	for i := range nodeAddrs {
		c.node.serve(t, at(nodeAddrs[i], 53), "node")
	}
	rounds := uint64(0)
	all := func() {
		for i := range nodeAddrs {
			c.pod.asks(t, addrs(dnsServers)[i])
			c.pod.misses(t, addrs(nodeAddrs)[i])
			rounds++
		}
	}
	all()
	// Of a link that is known to be what the pod's packets come by first there is a shorter way back.
	if err := c.Pods.Put(Pod{Addrs: addrs(podAddrs), Link: c.podLink, Parent: c.podLink, Slot: 1}); err != nil {
		t.Fatal(err)
	}
	all()
	c.pod.do(t, func() error { return sumBySoftware("eth0") })
	all()
	wantRounds(t, c.Answers, addrs(podAddrs)[0], rounds)
	c.giveENI(t) // another pod, by its namespace's cookie
	rounds = 0
	all()
	wantRounds(t, c.Answers, addrs(podAddrs)[0], rounds)
}

// wantRounds compares what was counted of a pod with so many rounds of askings and a miss, for which exchangeDNS may have asked once
// or twice more.
func wantRounds(t *testing.T, a *Answers, pod netip.Addr, n uint64) {
	t.Helper()
	counts, err := a.Counts()
	if got := counts[pod]; err != nil || got.Hit != 3*n || got.Negative != 2*n || got.Miss > n || got.Miss+got.Punt < n || got.Miss+got.Punt > n+2 {
		t.Errorf("counted %+v, %v, of %d rounds", got, err, n)
	}
}

// loadAnswers loads the datapath with a pod whose link is the loopback, on which Ask runs programs, and no scope.
func loadAnswers(tb testing.TB) *Datapath {
	tb.Helper()
	return loadAnswersOn(tb, node(tb))
}

func loadAnswersOn(tb testing.TB, cfg Config) *Datapath {
	tb.Helper()
	d, err := Load(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Error(err)
		}
	})
	err = errors.Join(d.Answers.Beat(), d.Answers.SetServers(addrs(dnsServers)), d.Pods.Put(Pod{Addrs: addrs(podAddrs), Link: 1, Slot: 1}))
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func TestAsk(t *testing.T) {
	d := loadAnswers(t)
	cart := AnswerKey{Name: "cart.shop.svc.cluster.local", Type: dns.TypeA}
	if err := d.Answers.Put(cart, packed(t, "cart.shop.svc.cluster.local. 5 IN A 10.96.0.7"), AnswerLife{}); err != nil {
		t.Fatal(err)
	}
	for i := range podAddrs {
		for name, want := range map[string]string{"CART.shop.svc.cluster.local.": "CART.shop.svc.cluster.local.\t5\tIN\tA\t10.96.0.7", "cart.shop.": ""} {
			query, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
			if err != nil {
				t.Fatal(err)
			}
			reply, err := d.Ask(addrs(podAddrs)[i], addrs(dnsServers)[i], query)
			if err != nil {
				t.Fatal(err)
			}
			var m dns.Msg
			if reply != nil {
				err = m.Unpack(reply)
			}
			if got := strings.Join(texts(m.Answer), "\n"); err != nil || got != want {
				t.Errorf("%s of %s: %q, %v, want %q", name, podAddrs[i], got, err, want)
			}
		}
	}
}

// packed is a response with the records, to a question for the first one's owner and type.
func packed(tb testing.TB, records ...string) []byte {
	tb.Helper()
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}, Compress: true}
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			tb.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	h := m.Answer[0].Header()
	m.Question = []dns.Question{{Name: h.Name, Qtype: h.Rrtype, Qclass: dns.ClassINET}}
	b, err := m.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func texts(rrs []dns.RR) (out []string) {
	for _, rr := range rrs {
		out = append(out, rr.String())
	}
	return out
}
