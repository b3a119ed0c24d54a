package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// fill adds records given as "host type [ttl=N] [off] value" to the zone.
func fill(tb testing.TB, p *PrivateZone, zone string, lines ...string) {
	tb.Helper()
	for _, line := range lines {
		f := strings.SplitN(line, " ", 3)
		r := aliyun.ZoneRecord{ZoneID: zone, RR: f[0], Type: f[1], Value: f[2], Enabled: true}
		if rest, ok := strings.CutPrefix(r.Value, "ttl="); ok {
			if _, err := fmt.Sscanf(rest, "%d %s", &r.TTL, &r.Value); err != nil {
				tb.Fatal(err)
			}
		}
		value, off := strings.CutPrefix(r.Value, "off ")
		r.Value = value
		id, err := p.Add(r)
		if err != nil {
			tb.Fatalf("add %s: %v", line, err)
		}
		if off {
			r.ID, r.Enabled = id, false
			if err := p.Update(r); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// show renders an answer: code, flags, then a line for each record.
func show(m *dns.Msg) string {
	var b strings.Builder
	b.WriteString(dns.RcodeToString[m.Rcode])
	if m.Authoritative {
		b.WriteString(" aa")
	}
	for _, rr := range m.Answer {
		b.WriteString("\n" + strings.Join(strings.Fields(rr.String()), " "))
	}
	for _, rr := range m.Ns {
		b.WriteString("\nauthority " + rr.Header().Name + " " + dns.TypeToString[rr.Header().Rrtype])
	}
	return b.String()
}

func query(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

func TestDNSAnswers(t *testing.T) {
	t.Parallel()
	p := newZones(t, func(c *PrivateZoneConfig) {
		c.Zones = append(c.Zones,
			NewZone{ID: "sub", Name: "sub.example.internal", VPCs: []string{DefaultVPC}},
			NewZone{ID: "recursive", Name: "example.com", VPCs: []string{DefaultVPC}, Recursive: true},
			NewZone{ID: "unbound", Name: "unbound.internal"},
			NewZone{ID: "elsewhere", Name: "elsewhere.internal", VPCs: []string{otherVPC}},
		)
	}).PrivateZone()
	fill(t, p, forwardZone,
		"@ A 10.0.0.1", "@ MX mail.example.internal", "www A 10.0.0.2", "www A ttl=5 10.0.0.3", "www AAAA 2001:db8::1",
		"www TXT a\\b \"c\"", "alias CNAME WWW.example.internal.", "chain CNAME alias.example.internal", "out CNAME a.example.org",
		"into CNAME host.sub.example.internal", "loop CNAME pool.example.internal", "pool CNAME loop.example.internal",
		"dangling CNAME none.example.internal", "_http._tcp.www SRV 1 2 80 www.example.internal", "*.apps A 10.0.0.9", "a.b.apps A 10.0.0.10",
		"off A off 10.0.0.4", "half A 10.0.0.5", "half A off 10.0.0.6", "deep.empty A 10.0.0.7",
	)
	fill(t, p, "sub", "host A 10.1.0.1", "* TXT any")
	fill(t, p, reverseZone, "2.0 PTR www.example.internal")
	fill(t, p, "recursive", "here A 10.2.0.1")
	fill(t, p, "unbound", "www A 10.3.0.1")
	fill(t, p, "elsewhere", "www A 10.3.0.2")
	const soa = "\nauthority example.internal. SOA"
	for _, tc := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"example.internal.", dns.TypeA, "NOERROR aa\nexample.internal. 60 IN A 10.0.0.1"},
		{"example.internal.", dns.TypeMX, "NOERROR aa\nexample.internal. 60 IN MX 10 mail.example.internal."},
		{"example.internal.", dns.TypeAAAA, "NOERROR aa" + soa},
		{"WwW.Example.Internal.", dns.TypeA, "NOERROR aa\nWwW.Example.Internal. 5 IN A 10.0.0.2\nWwW.Example.Internal. 5 IN A 10.0.0.3"},
		{"www.example.internal.", dns.TypeAAAA, "NOERROR aa\nwww.example.internal. 60 IN AAAA 2001:db8::1"},
		{"www.example.internal.", dns.TypeTXT, `NOERROR aa` + "\n" + `www.example.internal. 60 IN TXT "a\\b \"c\""`},
		{"www.example.internal.", dns.TypeSRV, "NOERROR aa" + soa},
		{"_http._tcp.www.example.internal.", dns.TypeSRV, "NOERROR aa\n_http._tcp.www.example.internal. 60 IN SRV 1 2 80 www.example.internal."},
		{"_tcp.www.example.internal.", dns.TypeSRV, "NOERROR aa" + soa},
		{"none.example.internal.", dns.TypeA, "NXDOMAIN aa" + soa},
		{"x.www.example.internal.", dns.TypeA, "NXDOMAIN aa" + soa},
		{"alias.example.internal.", dns.TypeAAAA, "NOERROR aa\nalias.example.internal. 60 IN CNAME WWW.example.internal.\nWWW.example.internal. 60 IN AAAA 2001:db8::1"},
		{"alias.example.internal.", dns.TypeCNAME, "NOERROR aa\nalias.example.internal. 60 IN CNAME WWW.example.internal."},
		{"chain.example.internal.", dns.TypeSRV, "NOERROR aa\nchain.example.internal. 60 IN CNAME alias.example.internal.\nalias.example.internal. 60 IN CNAME WWW.example.internal." + soa},
		{"dangling.example.internal.", dns.TypeA, "NXDOMAIN aa\ndangling.example.internal. 60 IN CNAME none.example.internal." + soa},
		{"out.example.internal.", dns.TypeA, "NOERROR aa\nout.example.internal. 60 IN CNAME a.example.org."},
		{"into.example.internal.", dns.TypeA, "NOERROR aa\ninto.example.internal. 60 IN CNAME host.sub.example.internal.\nhost.sub.example.internal. 60 IN A 10.1.0.1"},
		{"x.apps.example.internal.", dns.TypeA, "NOERROR aa\nx.apps.example.internal. 60 IN A 10.0.0.9"},
		{"y.x.apps.example.internal.", dns.TypeA, "NOERROR aa\ny.x.apps.example.internal. 60 IN A 10.0.0.9"},
		{"x.apps.example.internal.", dns.TypeTXT, "NOERROR aa" + soa},
		{"apps.example.internal.", dns.TypeA, "NOERROR aa" + soa},
		{"b.apps.example.internal.", dns.TypeA, "NOERROR aa" + soa}, // exists, without records: no wildcard
		{"c.b.apps.example.internal.", dns.TypeA, "NXDOMAIN aa" + soa},
		{"off.example.internal.", dns.TypeA, "NXDOMAIN aa" + soa},
		{"half.example.internal.", dns.TypeA, "NOERROR aa\nhalf.example.internal. 60 IN A 10.0.0.5"},
		{"empty.example.internal.", dns.TypeA, "NOERROR aa" + soa},
		{"x.sub.example.internal.", dns.TypeTXT, "NOERROR aa\nx.sub.example.internal. 60 IN TXT \"any\""},
		{"sub.example.internal.", dns.TypeA, "NOERROR aa\nauthority sub.example.internal. SOA"},
		{"2.0.0.10.in-addr.arpa.", dns.TypePTR, "NOERROR aa\n2.0.0.10.in-addr.arpa. 60 IN PTR www.example.internal."},
		{"here.example.com.", dns.TypeA, "NOERROR aa\nhere.example.com. 60 IN A 10.2.0.1"},
		{"www.example.com.", dns.TypeA, "REFUSED"},
		{"www.unbound.internal.", dns.TypeA, "REFUSED"},
		{"www.elsewhere.internal.", dns.TypeA, "REFUSED"},
		{"www.example.org.", dns.TypeA, "REFUSED"},
		{"notexample.internal.", dns.TypeA, "REFUSED"},
	} {
		if got := show(p.Resolver(DefaultVPC).Answer(query(tc.name, tc.qtype))); got != tc.want {
			t.Errorf("%s %s:\n%s\nwant\n%s", tc.name, dns.TypeToString[tc.qtype], got, tc.want)
		}
	}
	if m := p.Resolver(DefaultVPC).Answer(query("loop.example.internal.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("a loop of CNAMEs: %v", m)
	}
	if m := p.Resolver(DefaultVPC).Answer(query("example.internal.", dns.TypeSOA)); len(m.Answer) != 1 {
		t.Errorf("SOA: %v", m)
	}
	if m := p.Resolver(DefaultVPC).Answer(query("www.example.internal.", dns.TypeANY)); len(m.Answer) != 4 {
		t.Errorf("ANY: %v", m)
	}
	chaos := query("www.example.internal.", dns.TypeA)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	if m := p.Resolver(DefaultVPC).Answer(chaos); m.Rcode != dns.RcodeRefused {
		t.Errorf("class CHAOS: %v", m)
	}
	if m := p.Resolver(DefaultVPC).Answer(new(dns.Msg)); m.Rcode != dns.RcodeNotImplemented {
		t.Errorf("no question: %v", m)
	}
	if got := show(p.Resolver(otherVPC).Answer(query("www.elsewhere.internal.", dns.TypeA))); !strings.HasPrefix(got, "NOERROR") {
		t.Errorf("the other VPC: %s", got)
	}
}

// serveDNS runs a server and returns its address.
func serveDNS(tb testing.TB, p *PrivateZone, network string) string {
	tb.Helper()
	s, err := p.Resolver(DefaultVPC).Listen(context.Background(), network, "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	<-s.Ready()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
	return s.Addr().String()
}

// The same store answers over both protocols; what does not fit is cut, and comes over TCP.
func TestDNSServer(t *testing.T) {
	t.Parallel()
	p := newZones(t, nil).PrivateZone()
	for i := range 100 {
		fill(t, p, forwardZone, fmt.Sprintf("many A 10.0.1.%d", i))
	}
	addr := serveDNS(t, p, "dns")
	for _, tc := range []struct {
		network string
		edns    uint16
		whole   bool
	}{{"udp", 0, false}, {"udp", 1232, false}, {"udp", 4096, true}, {"tcp", 0, true}} {
		q := query("many.example.internal.", dns.TypeA)
		if tc.edns > 0 {
			q.SetEdns0(tc.edns, false)
		}
		m, _, err := (&dns.Client{Net: tc.network}).ExchangeContext(t.Context(), q, addr)
		if err != nil {
			t.Errorf("%s with %d bytes: %v", tc.network, tc.edns, err)
			continue
		}
		if whole := !m.Truncated && len(m.Answer) == 100; whole != tc.whole || (m.IsEdns0() != nil) != (tc.edns > 0) {
			t.Errorf("%s with %d bytes: truncated %v, %d records, EDNS %v", tc.network, tc.edns, m.Truncated, len(m.Answer), m.IsEdns0())
		}
	}
	for _, network := range []string{"udp", "tcp"} {
		addr := serveDNS(t, p, network)
		if _, _, err := (&dns.Client{Net: network}).ExchangeContext(t.Context(), query("x.example.internal.", dns.TypeA), addr); err != nil {
			t.Errorf("%s alone: %v", network, err)
		}
	}
	if _, err := p.Resolver(DefaultVPC).Listen(t.Context(), "unix", "x"); err == nil {
		t.Error("a network that is none was accepted")
	}
	for _, network := range []string{"udp", "tcp", "dns"} {
		if _, err := p.Resolver(DefaultVPC).Listen(t.Context(), network, "192.0.2.1:53"); err == nil {
			t.Errorf("%s: an address of somebody else was accepted", network)
		}
	}
}

// Who waits for a change resolves once for each, and sees it in the very next answer.
func TestTimeToPublish(t *testing.T) {
	t.Parallel()
	p := newZones(t, nil).PrivateZone()
	addr := serveDNS(t, p, "udp")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	resolves := func() bool {
		m, _, err := new(dns.Client).ExchangeContext(ctx, query("new.example.internal.", dns.TypeA), addr)
		return err == nil && len(m.Answer) == 1
	}
	go func() {
		_, _ = p.Add(aliyun.ZoneRecord{ZoneID: forwardZone, RR: "other", Type: "A", Value: "10.0.0.1"})
		_, _ = p.Add(aliyun.ZoneRecord{ZoneID: forwardZone, RR: "new", Type: "A", Value: "10.0.0.2"})
	}()
	looked := 0
	for changed := p.Changed(); !resolves(); changed = p.Changed() {
		if looked++; looked > 3 {
			t.Fatal("more looks than changes")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("the name never came")
		}
	}
}

// Whatever the rules let in can be answered, and nothing else comes out.
func FuzzRecordIsAnswered(f *testing.F) {
	for _, s := range [][3]string{
		{"www", "A", "10.0.0.1"}, {"@", "AAAA", "::ffff:10.0.0.1"}, {"*.a", "CNAME", "b."}, {"_x._tcp", "SRV", "1 2 3 a.b"},
		{"a", "TXT", "\\255\"\x00é"}, {"A_b", "MX", "m"}, {"a", "TXT", strings.Repeat("中", 255)},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, rr, rrtype, value string) {
		p := newZones(t, nil).PrivateZone()
		if _, err := p.Add(aliyun.ZoneRecord{ZoneID: forwardZone, RR: rr, Type: rrtype, Value: value}); err != nil {
			return
		}
		name := strings.TrimPrefix(rr+".example.internal.", "@.")
		m := p.Resolver(DefaultVPC).Answer(query(name, dns.StringToType[rrtype]))
		if len(m.Answer) != 1 {
			t.Fatalf("%s %s %q is not answered: %v", rr, rrtype, value, m)
		}
		wire, err := m.Pack()
		if err != nil {
			t.Fatalf("%s %s %q: %v", rr, rrtype, value, err)
		}
		var back dns.Msg
		if err := back.Unpack(wire); err != nil {
			t.Fatalf("%s %s %q: %v", rr, rrtype, value, err)
		}
		if txt, ok := back.Answer[0].(*dns.TXT); ok && slices.ContainsFunc(txt.Txt, func(s string) bool { return s == "" }) {
			t.Errorf("%q has an empty string: %q", value, txt.Txt)
		}
	})
}
