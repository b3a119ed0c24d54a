package dnslab

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The client's three ways to ask, against the upstream, which counts.
func TestClientAsksUpstream(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("127.53.53.1:35353")
	u := &upstream{asked: map[string]int{}}
	if err := u.listen(at); err != nil {
		t.Fatal(err)
	}
	names := []string{"a.example", "b.example"}
	if times, err := (Loop{Server: at, Names: names, Times: 3}).do(); err != nil || len(times) != 3 {
		t.Errorf("%d times, %v, want 3", len(times), err)
	}
	if a, b := u.count("a.example"), u.count("b.example"); a != 2 || b != 1 {
		t.Errorf("asked %d and %d times, want 2 and 1", a, b)
	}
	if answered, err := (Rate{Server: at, Name: "c.example", Window: 4, For: 20 * time.Millisecond}).do(); err != nil || answered == 0 {
		t.Errorf("%d answers, %v", answered, err)
	}
	if answered, err := (Burst{Server: at, Name: "d.example", Sockets: 20}).do(); err != nil || answered != 20 {
		t.Errorf("%d sockets of 20 got an answer, %v", answered, err)
	}
	if n := u.count("d.example"); n < 20 {
		t.Errorf("asked %d times, want 20 at least", n)
	}
	if _, err := (Loop{Server: netip.MustParseAddrPort("127.53.53.1:35354"), Names: names, Times: 1}).do(); err == nil {
		t.Error("nobody answers, and that is no error")
	}
}

// A C library asks for the domains in order and stops at the first with records.
func TestCandidates(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		want []string
	}{
		{"www.example.com", []string{"www.example.com.a.b.", "www.example.com.b.", "www.example.com."}},
		{"db", []string{"db.a.b.", "db.b.", "db."}},
		{"a.b.c.d.e.f", []string{"a.b.c.d.e.f.", "a.b.c.d.e.f.a.b.", "a.b.c.d.e.f.b."}},
	} {
		if got := candidates(c.name, []string{"a.b", "b"}, 5); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// Against a server that knows one name, a search asks two questions of each domain up to that one.
func TestSearchesAskUpTo(t *testing.T) {
	t.Parallel()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		switch name := q.Question[0].Name; {
		case name == "fails.one.":
			m.SetRcode(q, dns.RcodeServerFailure)
		case name == "www.two." && q.Question[0].Qtype == dns.TypeAAAA:
			m.SetReply(q)
			m.Answer = (&upstream{}).records(q.Question[0])
		case name == "www.one.":
			m.SetReply(q) // the name is there, without addresses
		default:
			m.SetRcode(q, dns.RcodeNameError)
		}
		_ = w.WriteMsg(m) // the client does not wait for what follows a failure
	})}
	go func() { _ = server.ActivateAndServe() }() // until the connection is closed
	t.Cleanup(func() { conn.Close() })
	s := Searches{
		Server: netip.MustParseAddrPort(conn.LocalAddr().String()), Search: []string{"one", "two", "three"}, Ndots: 5, Names: []string{"www"}, Times: 3,
	}
	if got, err := s.do(); err != nil || got != (Searched{Lookups: 3, Questions: 12}) {
		t.Errorf("%+v, %v, want 3 lookups of 4 questions", got, err)
	}
	for _, name := range []string{"absent", "fails"} {
		s.Names = []string{name}
		if got, err := s.do(); err == nil {
			t.Errorf("%s: %+v, want an error", name, got)
		}
	}
}

func TestAddressIn(t *testing.T) {
	t.Parallel()
	if got, err := addressIn(`{"ips":[{"address":"10.1.2.3/24"},{"address":"fd00::1/64"}]}`); err != nil || got.String() != "10.1.2.3" {
		t.Errorf("%s, %v", got, err)
	}
	for _, text := range []string{`{"ips":[]}`, `no`} {
		if got, err := addressIn(text); err == nil {
			t.Errorf("%s: %s, want an error", text, got)
		}
	}
}
