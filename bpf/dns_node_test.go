//go:build node

package bpf

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// dnsServers are where pods of these tests ask for names.
var dnsServers = []string{"10.96.0.10", "fd00:96::10"}

// TestAnswersLive has a pod ask its DNS over the link: the answers come from the program, for there is no server.
func TestAnswersLive(t *testing.T) {
	w := newWorld(t, node(t))
	for i := range podAddrs {
		err := errors.Join(w.Answers.Beat(), w.Answers.SetServers(addrs(dnsServers)),
			w.Answers.Put(AnswerKey{Name: "cart.shop.svc.cluster.local", Type: dns.TypeA}, packed(t, "cart.shop.svc.cluster.local. 5 IN A 10.96.0.7"), AnswerLife{}))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := w.pod.dial(t, udp, netip.AddrPortFrom(netip.MustParseAddr(dnsServers[i]), 53), patience)
		if err != nil {
			t.Fatal(err)
		}
		c := dns.Conn{Conn: conn}
		_ = c.SetDeadline(time.Now().Add(patience))
		if err := c.WriteMsg(new(dns.Msg).SetQuestion("Cart.shop.svc.cluster.local.", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		m, err := c.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		if got := texts(m.Answer); !slices.Equal(got, []string{"Cart.shop.svc.cluster.local.\t5\tIN\tA\t10.96.0.7"}) {
			t.Errorf("got %q", got)
		}
		c.Close()
	}
}

// loadAnswers loads the datapath with a pod whose link is the loopback, on which Ask runs programs, and no scope.
func loadAnswers(t testing.TB) *Datapath {
	t.Helper()
	d, err := Load(node(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	err = errors.Join(d.Answers.Beat(), d.Answers.SetServers(addrs(dnsServers)), d.Pods.Put(Pod{Addrs: addrs(podAddrs), Link: 1, Slot: 1}))
	if err != nil {
		t.Fatal(err)
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
func packed(t testing.TB, records ...string) []byte {
	t.Helper()
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}, Compress: true}
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	h := m.Answer[0].Header()
	m.Question = []dns.Question{{Name: h.Name, Qtype: h.Rrtype, Qclass: dns.ClassINET}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func texts(rrs []dns.RR) (out []string) {
	for _, rr := range rrs {
		out = append(out, rr.String())
	}
	return out
}
