package answers

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/nodelocaldns"
	"github.com/nearpath/nearpath/nodelocaldns/answerstest"
)

// A gate knows which addresses were told of, and is a kernel that takes no others.
type gate struct {
	answerstest.Map
	t *testing.T

	mu     sync.Mutex // guards what follows
	opened map[string]bool
	puts   int
}

func (g *gate) open(m *dns.Msg) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened[addressOf(m)] = true
}

// check is whether the address of an answer was told of.
func (g *gate) check(m *dns.Msg, who string) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if address := addressOf(m); !g.opened[address] {
		g.t.Errorf("%s has %s before anybody was told", who, address)
	}
}

// Put implements nodelocaldns.ExternalAnswers.
func (g *gate) Put(key bpf.AnswerKey, answer []byte, life bpf.AnswerLife) error {
	m := new(dns.Msg)
	if err := m.Unpack(answer); err != nil {
		g.t.Error(err)
	}
	g.check(m, "the kernel")
	g.mu.Lock()
	g.puts++
	g.mu.Unlock()
	return g.Map.Put(key, answer, life)
}

func TestBeforeReply(t *testing.T) {
	up := startUpstream(t, 1)
	g := &gate{t: t, opened: map[string]bool{}}
	n := startNodeOn(t, g, "answers\n"+cacheBody+"upstream . "+up.addr+"\n", Node{BeforeReply: g.open}, nodelocaldns.ExternalConfig{})
	plain, secure := new(dns.Msg).SetQuestion(www, dns.TypeA), new(dns.Msg).SetQuestion("www.example.net.", dns.TypeA).SetEdns0(1232, true)
	for _, question := range []*dns.Msg{secure, plain} {
		g.check(n.exchange(question), "a client")
	}
	g.mu.Lock()
	clear(g.opened) // the second question publishes
	g.mu.Unlock()
	n.until("published", func() bool { _, ok := n.ask(www, dns.TypeA, 0); return ok })
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.puts == 0 {
		t.Error("the kernel was given nothing")
	}
}

func TestBeforeRefresh(t *testing.T) {
	t.Parallel()
	g := &gate{t: t, opened: map[string]bool{}}
	a := &Answers{
		node: &Node{External: nodelocaldns.NewExternal(nodelocaldns.ExternalConfig{Answers: g}), BeforeReply: g.open},
		Next: plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			m := new(dns.Msg).SetReply(r)
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: www, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 7)})
			return dns.RcodeSuccess, w.WriteMsg(m)
		}),
	}
	reply, err := a.Ask(t.Context(), bpf.AnswerKey{Name: www, Type: dns.TypeA})
	if err != nil {
		t.Fatal(err)
	}
	g.check(reply.Msg, "who refreshes the kernel's answer")
}
