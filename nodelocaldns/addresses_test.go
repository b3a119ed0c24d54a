package nodelocaldns

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	at := func(name string, seconds int, texts ...string) NameAddrs {
		n := NameAddrs{Name: name, TTL: time.Duration(seconds) * time.Second}
		for _, text := range texts {
			n.Addrs = append(n.Addrs, netip.MustParseAddr(text))
		}
		return n
	}
	for name, test := range map[string]struct {
		records []string
		want    []NameAddrs
	}{
		"addresses": {
			[]string{"WWW.example.com. 60 IN A 192.0.2.1", "www.example.com. 30 IN A 192.0.2.2", "www.example.com. 90 IN AAAA 2001:db8::1"},
			[]NameAddrs{at("www.example.com.", 30, "192.0.2.1", "192.0.2.2", "2001:db8::1")},
		},
		"chain, in any order": {
			[]string{"c.example. 90 IN A 192.0.2.1", "b.example. 5 IN CNAME C.example.", "www.example.com. 60 IN CNAME b.example."},
			[]NameAddrs{at("www.example.com.", 5, "192.0.2.1"), at("b.example.", 5, "192.0.2.1"), at("c.example.", 90, "192.0.2.1")},
		},
		"other names":  {[]string{"www.example.com. 60 IN A 192.0.2.1", "evil.example. 60 IN A 192.0.2.2"}, []NameAddrs{at("www.example.com.", 60, "192.0.2.1")}},
		"only a CNAME": {[]string{"www.example.com. 60 IN CNAME b.example.", "c.example. 60 IN A 192.0.2.1"}, nil},
		"a loop":       {[]string{"www.example.com. 60 IN CNAME b.example.", "b.example. 60 IN CNAME www.example.com."}, nil},
		"nothing":      {nil, nil},
	} {
		m := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("www.Example.com.", dns.TypeA))
		for _, text := range test.records {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		equal := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
		if diff := cmp.Diff(test.want, Addresses(m), equal); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		m.Rcode = dns.RcodeNameError
		if Addresses(m) != nil {
			t.Errorf("%s: a name that does not exist has addresses", name)
		}
	}
	if got := Addresses(new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)); got != nil {
		t.Errorf("a question gives %v", got)
	}
}
