package autopath

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// Until the shortest negative reply of the search ends, one lookup does, for either type.
func TestMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		z := shop()
		h := newHandler(shopScope(t), z)
		const name = "www.example.test.shop.svc.cluster.local."
		ask(t, h, name, dns.TypeA)
		z.takeAsked()
		time.Sleep(6 * time.Second)
		m := ask(t, h, strings.ToUpper(name), dns.TypeAAAA)
		if asked := z.takeAsked(); len(asked) != 1 || m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
			t.Errorf("from memory, %q were asked for\n%v", asked, m)
		}
		if m = ask(t, h, name, dns.TypeA); m.Answer[0].Header().Ttl != 1 {
			t.Errorf("TTL of the CNAME %d", m.Answer[0].Header().Ttl)
		}
		z.names["www.example.test.svc.cluster.local."] = entry{a: Data, aaaa: Data}
		time.Sleep(time.Second)
		if m = ask(t, h, name, dns.TypeA); !strings.Contains(brief(m), ">www.example.test.svc.cluster.local.") {
			t.Errorf("a name earlier in the search is not found after the TTL: %s", brief(m))
		}
	})
}

func TestForget(t *testing.T) {
	t.Parallel()
	z := shop()
	h := newHandler(shopScope(t), z)
	const name = "www.example.test.shop.svc.cluster.local."
	ask(t, h, name, dns.TypeA)
	z.names["www.example.test.svc.cluster.local."] = entry{a: Data, aaaa: Data}
	h.Forget()
	if m := ask(t, h, name, dns.TypeA); !strings.Contains(brief(m), ">www.example.test.svc.cluster.local.") {
		t.Errorf("answer %s", brief(m))
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	m := memory{limit: 10}
	now := time.Now()
	for i := range 1000 {
		m.keep(searched{name: strings.Repeat("x", i)}, 1, now.Add(time.Duration(i)*time.Second), 20*time.Second, 0)
		if len(m.ends) > 10 {
			t.Fatalf("%d entries", len(m.ends))
		}
	}
	if _, _, ok := m.recall(searched{name: strings.Repeat("x", 999)}, now.Add(999*time.Second)); !ok {
		t.Error("the newest is gone")
	}
}
