package bpf

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// longName has the most bytes that a name may have, and is in the domain.
var longName = strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("b", 46) + ".cluster.local."

// FuzzNames holds the two forms of a name to miekg's, and to each other.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{
		".", "a.", "Cart.shop.svc.cluster.local.", `a\.b.c.`, `\200\000\@\[.x.`, "a..b", ".a", "", `a\`, `a\25`, "a b", strings.Repeat("a", 64),
		strings.Repeat(strings.Repeat("a", 63)+".", 4), longName,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		wire, err := packName(text)
		if err != nil {
			return
		}
		theirs := make([]byte, 256)
		n, err := dns.PackDomainName(dns.Fqdn(text), theirs, 0, nil, false)
		if err == nil && !bytes.Equal([]byte(foldWire(theirs[:n])), wire) {
			t.Errorf("%q is %x, and %x of miekg", text, wire, theirs[:n])
		}
		shown := nameText(wire)
		again, err := packName(shown)
		if err != nil || !bytes.Equal(again, wire) {
			t.Errorf("%q is %x, which is shown as %q, which is %x, %v", text, wire, shown, again, err)
		}
		if unpacked, _, err := dns.UnpackDomainName(wire, 0); err != nil || unpacked != shown {
			t.Errorf("%x is shown as %q, and as %q by miekg: %v", wire, shown, unpacked, err)
		}
	})
}

// FuzzResponse wants of whatever response is taken that it is given back as it is, but for OPT and what a header loses.
func FuzzResponse(f *testing.F) {
	m := answerTo("many.example.", dns.TypeA, "many.example. 5 IN A 192.0.2.1", "many.example. 5 IN A 192.0.2.2")
	for _, edns := range []bool{false, true} {
		if edns {
			m.SetEdns0(1232, false)
		}
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		parsed, err := parseResponse(b)
		if err != nil {
			return
		}
		k := AnswerKey{Name: nameText(parsed.name), Type: parsed.rrtype}
		stored, err := StoredAnswer(k, b)
		if err != nil {
			return
		}
		again, err := StoredAnswer(k, stored)
		if err != nil || !bytes.Equal(again, stored) {
			t.Errorf("%x is stored as %x, and that as %x, %v", b, stored, again, err)
		}
		if _, err := newEntry(k, b, true); err != nil && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%x: %v", b, err)
		}
	})
}

func answerTo(name string, rrtype uint16, records ...string) *dns.Msg {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Compress: true}
	m.Question = []dns.Question{{Name: name, Qtype: rrtype, Qclass: dns.ClassINET}}
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	return m
}

func TestAnswersThatDoNotFit(t *testing.T) {
	t.Parallel()
	key := AnswerKey{Name: "a.example.", Type: dns.TypeA}
	for name, tt := range map[string]struct {
		key    AnswerKey
		change func(*dns.Msg)
		large  bool
		want   string
	}{
		"fits":                 {key, func(*dns.Msg) {}, false, ""},
		"another name":         {AnswerKey{Name: "b.example.", Type: dns.TypeA}, func(*dns.Msg) {}, false, "the response is to a.example. type 1"},
		"another type":         {AnswerKey{Name: "a.example.", Type: dns.TypeTXT}, func(*dns.Msg) {}, false, "the response is to a.example. type 1"},
		"any type":             {AnswerKey{Name: "a.example.", Type: dns.TypeANY}, func(*dns.Msg) {}, true, "type 255"},
		"no type":              {AnswerKey{Name: "a.example."}, func(*dns.Msg) {}, true, "type 0"},
		"a bad name":           {AnswerKey{Name: "a..example.", Type: dns.TypeA}, func(*dns.Msg) {}, false, "empty label"},
		"a question":           {key, func(m *dns.Msg) { m.Response = false }, false, "is a question"},
		"truncated":            {key, func(m *dns.Msg) { m.Truncated = true }, false, "truncated"},
		"another class":        {key, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, false, "class IN"},
		"two questions":        {key, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, false, "one question"},
		"OPT before the end":   {key, func(m *dns.Msg) { m.SetEdns0(512, false); m.Extra = append(m.Extra, m.Answer[0]) }, true, "OPT is not the last"},
		"more bytes than room": {key, func(m *dns.Msg) { m.Answer = append(m.Answer, text(4, 255)) }, true, "of 872"},
	} {
		m := answerTo("a.example.", dns.TypeA, "a.example. 5 IN A 192.0.2.1")
		tt.change(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		err = AnswerFits(tt.key, b)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrTooLarge) != tt.large {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	m := answerTo("a.example.", dns.TypeA)
	for range 17 {
		m.Answer = append(m.Answer, answerTo("a.example.", dns.TypeA, "a.example. 5 IN A 192.0.2.1").Answer...)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newEntry(key, b, true); !errors.Is(err, ErrTooLarge) {
		t.Errorf("17 records that age: %v", err)
	}
	if _, err := newEntry(key, b, false); err != nil {
		t.Errorf("17 records that do not age: %v", err)
	}
}

// text is a TXT record of so many strings of so many bytes.
func text(n, bytes int) dns.RR {
	rr := &dns.TXT{Hdr: dns.RR_Header{Name: "a.example.", Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 5}}
	for range n {
		rr.Txt = append(rr.Txt, strings.Repeat("x", bytes))
	}
	return rr
}

// TestRotation: of what is in an answer only addresses of one owner may change places.
func TestRotation(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		records         []string
		at, each, count int
	}{
		"one":                {[]string{"A 192.0.2.1"}, 0, 0, 0},
		"three":              {[]string{"A 192.0.2.1", "A 192.0.2.2", "A 192.0.2.3"}, 0, 16, 3},
		"two behind a name":  {[]string{"CNAME b.example.", "b A 192.0.2.1", "b A 192.0.2.2"}, 16, 16, 2},
		"the longer of two":  {[]string{"A 192.0.2.1", "A 192.0.2.2", "b A 192.0.2.1", "b A 192.0.2.2", "b A 192.0.2.3", "b A 192.0.2.4"}, 50, 16, 3},
		"others":             {[]string{"MX 1 b.example.", "MX 1 c.example."}, 0, 0, 0},
		"addresses of IPv6":  {[]string{"AAAA fd00::1", "AAAA fd00::2"}, 0, 28, 2},
		"of different owner": {[]string{"A 192.0.2.1", "b A 192.0.2.2"}, 0, 0, 0},
	} {
		var records []string
		for _, r := range tt.records {
			owner := "a.example."
			if rest, ok := strings.CutPrefix(r, "b "); ok {
				owner, r = "b.example.", rest
			}
			records = append(records, owner+" 5 IN "+r)
		}
		b, err := answerTo("a.example.", dns.TypeA, records...).Pack()
		if err != nil {
			t.Fatal(err)
		}
		e, err := newEntry(AnswerKey{Name: "a.example.", Type: dns.TypeA}, b, false)
		if err != nil {
			t.Fatal(err)
		}
		if h := e.head; int(h.RotateCount) != tt.count || int(h.RotateBytes) != tt.each || tt.count > 0 && int(h.RotateAt) != tt.at {
			t.Errorf("%s: %d of %d bytes from %d on, want %+v", name, h.RotateCount, h.RotateBytes, h.RotateAt, tt)
		}
	}
}

func TestZonesThatAreNone(t *testing.T) {
	t.Parallel()
	good := AnswerZone{Domain: "cluster.local", NS: "ns.dns.cluster.local", Mailbox: "hostmaster.cluster.local"}
	for name, change := range map[string]func(*AnswerZone){
		"domain":             func(z *AnswerZone) { z.Domain = "cluster..local" },
		"mailbox elsewhere":  func(z *AnswerZone) { z.Mailbox = "hostmaster.example" },
		"server elsewhere":   func(z *AnswerZone) { z.NS = "dns.example" },
		"half a label of it": func(z *AnswerZone) { z.NS = "xcluster.local" },
		"a long mailbox":     func(z *AnswerZone) { z.Mailbox = longName },
	} {
		z := good
		change(&z)
		if _, err := z.view(&[4]uint64{1, 2, 3, 5}); err == nil {
			t.Errorf("%s: %+v was taken", name, z)
		}
	}
	if _, err := good.view(&[4]uint64{1, 2, 3, 5}); err != nil {
		t.Error(err)
	}
}
