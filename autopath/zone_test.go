package autopath

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/miekg/dns"
)

// A zone is all that a server knows: what it does for a name and type. It stands behind the Handler as the next plugin,
// and counts what it is asked.
type zone struct {
	names map[string]entry // folded, with final dot; others are NXDOMAIN

	mu    sync.Mutex // guards asked
	asked []string   // "A name."
}

// An entry says what is at a name.
type entry struct {
	a, aaaa Status
	cname   string // records are at this name, when set
}

const zoneTTL = 7

// ServeDNS implements plugin.Handler.
func (z *zone) ServeDNS(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	m := z.answer(r)
	if m == nil {
		return dns.RcodeServerFailure, nil
	}
	return m.Rcode, w.WriteMsg(m)
}

// Name implements plugin.Handler.
func (z *zone) Name() string { return "zone" }

// answer returns nil for SERVFAIL, which plugins leave to the server to write.
func (z *zone) answer(r *dns.Msg) *dns.Msg {
	q := r.Question[0]
	z.mu.Lock()
	z.asked = append(z.asked, dns.TypeToString[q.Qtype]+" "+q.Name)
	e, exists := z.names[lower(q.Name)]
	z.mu.Unlock()
	m := new(dns.Msg).SetReply(r)
	m.RecursionAvailable = true
	status := e.a
	if q.Qtype == dns.TypeAAAA {
		status = e.aaaa
	}
	if !exists {
		status = NoName
	}
	switch status {
	case Unknown:
		return nil
	case NoName:
		m.Rcode = dns.RcodeNameError
		fallthrough
	case NoData:
		m.Ns = []dns.RR{test.SOA("test. 60 IN SOA ns.test. hostmaster.test. 1 60 60 60 9")}
	case Data:
		m.Answer = e.records(q)
	}
	if status == NoData && e.cname != "" {
		m.Answer = e.records(q)[:1]
	}
	return m
}

func (e entry) records(q dns.Question) []dns.RR {
	owner := q.Name
	var rrs []dns.RR
	if e.cname != "" {
		rrs = append(rrs, &dns.CNAME{
			Hdr:    dns.RR_Header{Name: owner, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: zoneTTL},
			Target: e.cname,
		})
		owner = e.cname
	}
	h := dns.RR_Header{Name: owner, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: zoneTTL}
	addr := zoneAddr(lower(q.Name), q.Qtype)
	if q.Qtype == dns.TypeA {
		return append(rrs, &dns.A{Hdr: h, A: addr.AsSlice()})
	}
	return append(rrs, &dns.AAAA{Hdr: h, AAAA: addr.AsSlice()})
}

// zoneAddr is another address for every name and type.
func zoneAddr(name string, qtype uint16) netip.Addr {
	h := uint32(2166136261)
	for _, c := range []byte(name) {
		h = (h ^ uint32(c)) * 16777619
	}
	b := [16]byte{0xfd, 12: byte(h >> 24), 13: byte(h >> 16), 14: byte(h >> 8), 15: byte(h)}
	if qtype == dns.TypeA {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}

// takeAsked returns the questions since the last call, in no order.
func (z *zone) takeAsked() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	asked := z.asked
	z.asked = nil
	slices.Sort(asked)
	return asked
}

// scopeOf gives every client the same Scope.
type scopeOf struct{ scope Scope }

func (s scopeOf) Scope(context.Context, netip.Addr) (Scope, bool) { return s.scope, s.scope != Scope{} }

func newScope(t *testing.T, ndots int, domain string, search ...string) Scope {
	t.Helper()
	s, err := NewScope(search, ndots, domain)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// shopScope is what a pod of the namespace shop has.
func shopScope(t *testing.T, more ...string) Scope {
	t.Helper()
	search := append([]string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}, more...)
	return newScope(t, ClusterNdots, "cluster.local", search...)
}

func newHandler(scope Scope, z *zone) *Handler {
	h := New(Config{Scopes: scopeOf{scope}})
	h.Next = z
	return h
}

// ask sends one question through a Handler as a server does, SERVFAIL written by the server included.
func ask(t *testing.T, h *Handler, name string, qtype uint16) *dns.Msg {
	t.Helper()
	return askMsg(t, h, new(dns.Msg).SetQuestion(name, qtype))
}

func askMsg(t *testing.T, h *Handler, r *dns.Msg) *dns.Msg {
	t.Helper()
	w := dnstest.NewRecorder(&test.ResponseWriter{})
	code, err := h.ServeDNS(t.Context(), w, r)
	if err != nil {
		t.Fatal(err)
	}
	if w.Msg == nil {
		return new(dns.Msg).SetRcode(r, code)
	}
	if w.Msg.Id != r.Id || !w.Msg.Response || len(w.Msg.Question) != 1 || w.Msg.Question[0] != r.Question[0] {
		t.Fatalf("question %v answered by\n%v", r.Question, w.Msg)
	}
	return w.Msg
}

// brief spells an answer: the status, then its records.
func brief(m *dns.Msg) string {
	words := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.CNAME:
			words = append(words, rr.Hdr.Name+">"+rr.Target)
		default:
			words = append(words, rr.Header().Name+"="+dns.TypeToString[rr.Header().Rrtype])
		}
	}
	return strings.Join(words, " ")
}
