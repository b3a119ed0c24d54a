package autopath

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// shop has a name at every place of the search that the cases need.
func shop() *zone {
	return &zone{names: map[string]entry{
		"db.shop.svc.cluster.local.":            {a: Data, aaaa: NoData},
		"shop.svc.cluster.local.":               {a: NoData, aaaa: NoData},
		"cart.other.svc.cluster.local.":         {a: Data, aaaa: Data},
		"v4.other.svc.cluster.local.":           {a: Data, aaaa: NoData},
		"v4.other.":                             {a: Data, aaaa: Data},
		"ghost.test.svc.cluster.local.":         {a: NoData, aaaa: NoData},
		"ghost.test.":                           {a: Data, aaaa: Data},
		"ghost6.test.svc.cluster.local.":        {a: NoData, aaaa: NoData},
		"ghost6.test.":                          {a: NoData, aaaa: Data},
		"empty.test.svc.cluster.local.":         {a: NoData, aaaa: NoData},
		"broken.test.cluster.local.":            {},
		"broken.test.":                          {a: Data, aaaa: Data},
		"www.example.test.":                     {a: Data, aaaa: NoData},
		"alias.example.test.":                   {a: Data, aaaa: NoData, cname: "cdn.test."},
		"_http.example.test.":                   {a: Data, aaaa: Data},
		"a.b.c.d.e.f.":                          {a: Data, aaaa: Data},
		"com.":                                  {a: Data, aaaa: Data},
		"db.corp.test.":                         {a: Data, aaaa: Data},
		"wiki.team.corp.test.":                  {a: Data, aaaa: Data},
		"wiki.team.":                            {a: Data, aaaa: Data},
		"www.example.test.shop.svc.cluster.loc": {},
	}}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	const in = ".shop.svc.cluster.local."
	for name, tt := range map[string]struct {
		name string
		a    string
		aaaa string
	}{
		"first element": {
			"db" + in,
			"NOERROR db.shop.svc.cluster.local.=A",
			"NOERROR",
		},
		"second element": {
			"cart.other" + in,
			"NOERROR cart.other.shop.svc.cluster.local.>cart.other.svc.cluster.local. cart.other.svc.cluster.local.=A",
			"NOERROR cart.other.shop.svc.cluster.local.>cart.other.svc.cluster.local. cart.other.svc.cluster.local.=AAAA",
		},
		"as it is, spelled as asked": {
			"WWW.example.Test.shop.SVC.cluster.local.",
			"NOERROR WWW.example.Test.shop.SVC.cluster.local.>WWW.example.Test. WWW.example.Test.=A",
			"NOERROR",
		},
		"an alias": {
			"alias.example.test" + in,
			"NOERROR alias.example.test.shop.svc.cluster.local.>alias.example.test. alias.example.test.>cdn.test. cdn.test.=A",
			"NOERROR",
		},
		"one element for both types": { // as it is, v4.other. has AAAA
			"v4.other" + in,
			"NOERROR v4.other.shop.svc.cluster.local.>v4.other.svc.cluster.local. v4.other.svc.cluster.local.=A",
			"NOERROR",
		},
		"no data keeps searching": {
			"ghost.test" + in,
			"NOERROR ghost.test.shop.svc.cluster.local.>ghost.test. ghost.test.=A",
			"NOERROR ghost.test.shop.svc.cluster.local.>ghost.test. ghost.test.=AAAA",
		},
		"no data keeps searching, for the other type": {
			"ghost6.test" + in,
			"NOERROR",
			"NOERROR ghost6.test.shop.svc.cluster.local.>ghost6.test. ghost6.test.=AAAA",
		},
		"no data and nothing better":     {"empty.test" + in, "NOERROR", "NOERROR"},
		"an element fails":               {"broken.test" + in, "NXDOMAIN", "NXDOMAIN"},
		"nothing":                        {"nothing.test" + in, "NXDOMAIN", "NXDOMAIN"},
		"a host element":                 {"wiki.team" + in, "NOERROR wiki.team.shop.svc.cluster.local.>wiki.team.corp.test. wiki.team.corp.test.=A", "NOERROR wiki.team.shop.svc.cluster.local.>wiki.team.corp.test. wiki.team.corp.test.=AAAA"},
		"one label is not asked further": {"com" + in, "NXDOMAIN", "NXDOMAIN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHandler(shopScope(t, "corp.test"), shop())
			for range 2 { // the second time from memory
				if got := brief(ask(t, h, tt.name, dns.TypeA)); got != tt.a {
					t.Errorf("A: %s, want %s", got, tt.a)
				}
				if got := brief(ask(t, h, tt.name, dns.TypeAAAA)); got != tt.aaaa {
					t.Errorf("AAAA: %s, want %s", got, tt.aaaa)
				}
			}
		})
	}
}

// Each of these is answered as it was asked, with one question to the plugins behind.
func TestMustNotAct(t *testing.T) {
	t.Parallel()
	const name = "www.example.test.shop.svc.cluster.local."
	question := func(change func(*dns.Msg)) *dns.Msg {
		m := new(dns.Msg).SetQuestion(name, dns.TypeA)
		change(m)
		return m
	}
	named := func(name string) *dns.Msg { return question(func(m *dns.Msg) { m.Question[0].Name = name }) }
	typed := func(qtype uint16) *dns.Msg { return question(func(m *dns.Msg) { m.Question[0].Qtype = qtype }) }
	of := shopScope(t)
	for title, tt := range map[string]struct {
		scope  Scope
		msg    *dns.Msg
		reason Reason
	}{
		"client unknown":          {Scope{}, question(func(*dns.Msg) {}), NoScope},
		"client does not search":  {newScope(t, 5, ""), question(func(*dns.Msg) {}), NoScope},
		"ndots dots":              {of, named("a.b.c.d.e.f.shop.svc.cluster.local."), EnoughDots},
		"ndots 1":                 {newScope(t, 1, "cluster.local", of.Search()...), question(func(*dns.Msg) {}), EnoughDots},
		"ndots 0":                 {newScope(t, 0, "cluster.local", of.Search()...), named("db.shop.svc.cluster.local."), EnoughDots},
		"SRV":                     {of, typed(dns.TypeSRV), NotAddress},
		"TXT":                     {of, typed(dns.TypeTXT), NotAddress},
		"PTR":                     {of, typed(dns.TypePTR), NotAddress},
		"HTTPS":                   {of, typed(dns.TypeHTTPS), NotAddress},
		"ANY":                     {of, typed(dns.TypeANY), NotAddress},
		"CNAME":                   {of, typed(dns.TypeCNAME), NotAddress},
		"underscore label":        {of, named("_http.example.test.shop.svc.cluster.local."), NotHost},
		"inner underscore label":  {of, named("a._tcp.example.shop.svc.cluster.local."), NotHost},
		"escaped dot":             {of, named(`www\.example.shop.svc.cluster.local.`), NotHost},
		"escaped dot at the edge": {of, named(`www\.shop.svc.cluster.local.`), NotHost},
		"escaped byte":            {of, named(`w\000w.example.shop.svc.cluster.local.`), NotHost},
		"opcode UPDATE":           {of, question(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), NotQuery},
		"opcode NOTIFY":           {of, question(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), NotQuery},
		"a response":              {of, question(func(m *dns.Msg) { m.Response = true }), NotQuery},
		"CD":                      {of, question(func(m *dns.Msg) { m.CheckingDisabled = true }), NotQuery},
		"class CHAOS":             {of, question(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), NotQuery},
		"class ANY":               {of, question(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), NotQuery},
		"no question":             {of, question(func(m *dns.Msg) { m.Question = nil }), NotQuery},
		"two questions":           {of, question(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), NotQuery},
		"another namespace":       {of, named("www.example.test.other.svc.cluster.local."), NotSearched},
		"the element itself":      {of, named("shop.svc.cluster.local."), NotSearched},
		"part of a label":         {of, named("workshop.svc.cluster.local."), NotSearched},
		"as it is":                {of, named("www.example.test."), NotSearched},
		"the root first":          {newScope(t, 5, "", ".", "test"), named("www.example.test."), NotSearched},
		"below two elements": {
			newScope(t, 5, "", "cluster.local", "svc.cluster.local"), named("a.b.svc.cluster.local."), Ambiguous,
		},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			asked := 0
			var events []Event
			h := New(Config{Scopes: scopeOf{tt.scope}, Observe: func(_ context.Context, e Event) { events = append(events, e) }})
			want := tt.msg.Copy()
			h.Next = plugin.HandlerFunc(func(_ context.Context, _ dns.ResponseWriter, r *dns.Msg) (int, error) {
				asked++
				if diff := cmp.Diff(want.String(), r.String()); diff != "" {
					t.Errorf("the question was changed: %s", diff)
				}
				return dns.RcodeRefused, nil
			})
			code, err := h.ServeDNS(t.Context(), dnstest.NewRecorder(&test.ResponseWriter{}), tt.msg)
			if code != dns.RcodeRefused || err != nil || asked != 1 {
				t.Errorf("status %d, %v after %d questions", code, err, asked)
			}
			if diff := cmp.Diff([]Event{{Reason: tt.reason}}, events); diff != "" {
				t.Errorf("events: %s", diff)
			}
		})
	}
}

// The full name exists: it is the answer, however much else there is.
func TestFullNameExists(t *testing.T) {
	t.Parallel()
	z := shop()
	z.names["www.example.test.shop.svc.cluster.local."] = entry{a: Data, aaaa: NoData}
	h := newHandler(shopScope(t), z)
	got := brief(ask(t, h, "www.example.test.shop.svc.cluster.local.", dns.TypeA))
	if want := "NOERROR www.example.test.shop.svc.cluster.local.=A"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if asked := z.takeAsked(); len(asked) != 1 {
		t.Errorf("asked %q", asked)
	}
}

// A zone that has not synced answers SERVFAIL, and nothing of the cluster is asked outside.
func TestUnsyncedZone(t *testing.T) {
	t.Parallel()
	z := &zone{names: map[string]entry{"db.shop.shop.svc.cluster.local.": {}, "db.shop.svc.cluster.local.": {}, "db.shop.": {a: Data, aaaa: Data}}}
	h := newHandler(shopScope(t), z)
	if got := brief(ask(t, h, "db.shop.shop.svc.cluster.local.", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("answer %s", got)
	}
	if asked := z.takeAsked(); slices.Contains(asked, "A db.shop.") {
		t.Errorf("asked %q", asked)
	}
}

// Questions that leave the server for one lookup of A and AAAA.
func TestWhatIsAsked(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		more []string
		base string
		want []string // outside the cluster
	}{
		"external":             {nil, "www.example.test", []string{"A www.example.test.", "AAAA www.example.test."}},
		"host element":         {[]string{"corp.test"}, "www.example.test", []string{"A www.example.test.", "A www.example.test.corp.test.", "AAAA www.example.test."}},
		"another namespace":    {[]string{"corp.test"}, "cart.other", nil},
		"one label":            {[]string{"corp.test"}, "db2", nil},
		"nothing has the name": {nil, "no.such", []string{"A no.such.", "AAAA no.such."}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			z := shop()
			h := newHandler(shopScope(t, tt.more...), z)
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
				ask(t, h, tt.base+".shop.svc.cluster.local.", qtype)
			}
			outside := slices.DeleteFunc(z.takeAsked(), func(q string) bool { return strings.HasSuffix(q, "cluster.local.") })
			if diff := cmp.Diff(tt.want, slices.Clip(outside), cmp.Transformer("nil", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
				t.Errorf("asked outside: %s", diff)
			}
		})
	}
}

// What answers look like beyond their records.
func TestMessage(t *testing.T) {
	t.Parallel()
	h := newHandler(shopScope(t), shop())
	inner := h.Next
	h.Next = plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		if o := r.IsEdns0(); o == nil || !o.Do() || o.UDPSize() != 1400 || !r.RecursionDesired {
			t.Errorf("a lookup lost EDNS: %v", r)
		}
		rec := dnstest.NewRecorder(&test.ResponseWriter{})
		code, err := inner.ServeDNS(ctx, rec, r)
		if rec.Msg == nil {
			return code, err
		}
		rec.Msg.AuthenticatedData, rec.Msg.Authoritative = true, true
		rec.Msg.Ns = append(rec.Msg.Ns, test.NS("test. 9 IN NS ns.test."))
		rec.Msg.Extra = append(rec.Msg.Extra, test.A("ns.test. 9 IN A 192.0.2.1"))
		rec.Msg.SetEdns0(1232, true)
		return code, w.WriteMsg(rec.Msg)
	})
	r := new(dns.Msg).SetQuestion("www.example.test.shop.svc.cluster.local.", dns.TypeA)
	r.SetEdns0(1400, true)
	m := askMsg(t, h, r)
	if m.AuthenticatedData || !m.Authoritative || !m.RecursionAvailable || !m.RecursionDesired {
		t.Errorf("flags %+v", m.MsgHdr)
	}
	if len(m.Ns) != 0 || len(m.Extra) != 1 || m.IsEdns0() == nil || !m.IsEdns0().Do() {
		t.Errorf("the answer is not minimal:\n%v", m)
	}
	if ttl := m.Answer[0].Header().Ttl; ttl != 7 { // of the answer, shorter than the negative 9
		t.Errorf("TTL of the CNAME %d", ttl)
	}
	r = new(dns.Msg).SetQuestion("www.example.test.shop.svc.cluster.local.", dns.TypeAAAA)
	r.SetEdns0(1400, true)
	if m = askMsg(t, h, r); len(m.Answer) != 0 || len(m.Ns) != 2 {
		t.Errorf("no data as\n%v", m)
	}
}

// A reply that does not fit becomes a truncated answer, so that the client asks again over TCP.
func TestTruncated(t *testing.T) {
	t.Parallel()
	h := newHandler(shopScope(t), nil)
	h.Next = plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg).SetReply(r)
		if m.Rcode = dns.RcodeNameError; r.Question[0].Name == "big.test." {
			m.Rcode, m.Truncated = dns.RcodeSuccess, true
		}
		return m.Rcode, w.WriteMsg(m)
	})
	m := ask(t, h, "big.test.shop.svc.cluster.local.", dns.TypeA)
	if !m.Truncated || m.Rcode != dns.RcodeSuccess {
		t.Errorf("answer\n%v", m)
	}
}

// UDP, TCP and both families of the client's address are one to us.
func TestTransports(t *testing.T) {
	t.Parallel()
	of := shopScope(t)
	for name, w := range map[string]*test.ResponseWriter{
		"UDP": {}, "TCP": {TCP: true}, "IPv6": {RemoteIP: "fd00::9"}, "mapped": {RemoteIP: "::ffff:10.240.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHandler(of, shop())
			h.config.Scopes = scopesFunc(func(client netip.Addr) (Scope, bool) {
				return of, client == netip.MustParseAddr("10.240.0.1") || client == netip.MustParseAddr("fd00::9")
			})
			rec := dnstest.NewRecorder(w)
			if _, err := h.ServeDNS(t.Context(), rec, new(dns.Msg).SetQuestion("www.example.test.shop.svc.cluster.local.", dns.TypeA)); err != nil {
				t.Fatal(err)
			}
			if len(rec.Msg.Answer) != 2 {
				t.Errorf("answer\n%v", rec.Msg)
			}
		})
	}
}

type scopesFunc func(netip.Addr) (Scope, bool)

func (f scopesFunc) Scope(_ context.Context, client netip.Addr) (Scope, bool) { return f(client) }

// Two clients, one cache: what one of them found under its search is not what another gets who asks for that name, with
// a search of its own or without any.
func TestNothingLeaksThroughTheCache(t *testing.T) {
	t.Parallel()
	c := cache.New()
	c.Next = shop()
	scope := shopScope(t)
	h := New(Config{Scopes: scopesFunc(func(netip.Addr) (Scope, bool) { return scope, scope != Scope{} })})
	h.Next = c
	const name = "cart.other.shop.svc.cluster.local."
	for range 2 {
		if got := ask(t, h, name, dns.TypeA); len(got.Answer) != 2 {
			t.Fatalf("the client that searches got\n%v", got)
		}
	}
	for _, other := range []Scope{{}, newScope(t, 5, "cluster.local", "other.svc.cluster.local", "svc.cluster.local", "cluster.local")} {
		scope = other
		if got := brief(ask(t, h, name, dns.TypeA)); got != "NXDOMAIN" {
			t.Errorf("scope %v: %s", other, got)
		}
	}
}

// Names outside the cluster are asked for at once, and their order decides nevertheless.
func TestParallelOrdered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(shopScope(t, "slow.test", "slower.test"), nil)
		took := map[string]time.Duration{"x.y.slow.test.": 2 * time.Second, "x.y.slower.test.": 3 * time.Second}
		h.Next = plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			z := &zone{names: map[string]entry{"x.y.slower.test.": {a: Data}, "x.y.": {a: Data}}}
			time.Sleep(took[r.Question[0].Name])
			return z.ServeDNS(context.Background(), w, r)
		})
		start := time.Now()
		m := ask(t, h, "x.y.shop.svc.cluster.local.", dns.TypeA)
		if !strings.Contains(brief(m), ">x.y.slower.test.") || time.Since(start) != 3*time.Second {
			t.Errorf("after %v: %s", time.Since(start), brief(m))
		}
	})
}

// A panic behind us is the server's to deal with, as without us.
func TestPanicReachesTheServer(t *testing.T) {
	t.Parallel()
	h := newHandler(shopScope(t, "corp.test"), nil)
	h.Next = plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		if r.Question[0].Name == "x.y.corp.test." {
			panic("out of order")
		}
		return (&zone{}).ServeDNS(ctx, w, r)
	})
	defer func() {
		if recover() == nil {
			t.Error("the panic was lost")
		}
	}()
	ask(t, h, "x.y.shop.svc.cluster.local.", dns.TypeA)
}

// Plugins write metadata while lookups run at once, and the chosen lookup's is seen by the plugins before us.
func TestMetadata(t *testing.T) {
	t.Parallel()
	h := newHandler(shopScope(t, "corp.test", "corp2.test"), nil)
	h.Next = plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		name := r.Question[0].Name
		metadata.SetValueFunc(ctx, "forward/upstream", func() string { return name })
		return (&zone{names: map[string]entry{"x.y.": {a: Data}}}).ServeDNS(ctx, w, r)
	})
	ctx := metadata.ContextWithMetadata(t.Context())
	metadata.SetValueFunc(ctx, "test/before", func() string { return "kept" })
	w := dnstest.NewRecorder(&test.ResponseWriter{})
	if _, err := h.ServeDNS(ctx, w, new(dns.Msg).SetQuestion("x.y.shop.svc.cluster.local.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	for label, want := range map[string]string{"forward/upstream": "x.y.", "test/before": "kept"} {
		if f := metadata.ValueFunc(ctx, label); f == nil || f() != want {
			t.Errorf("%s is not %q", label, want)
		}
	}
}

// A plugin that drops the question, or that fails, has its way.
func TestDropAndError(t *testing.T) {
	t.Parallel()
	h := newHandler(shopScope(t), nil)
	h.Next = plugin.HandlerFunc(func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { return dns.RcodeSuccess, nil })
	w := dnstest.NewRecorder(&test.ResponseWriter{})
	r := new(dns.Msg).SetQuestion("x.y.shop.svc.cluster.local.", dns.TypeA)
	if code, err := h.ServeDNS(t.Context(), w, r); code != dns.RcodeSuccess || err != nil || w.Msg != nil {
		t.Errorf("dropped: %d %v %v", code, err, w.Msg)
	}
	h.Next = plugin.HandlerFunc(func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) {
		return dns.RcodeServerFailure, context.DeadlineExceeded
	})
	if code, err := h.ServeDNS(t.Context(), w, r); code != dns.RcodeServerFailure || err == nil || w.Msg != nil {
		t.Errorf("failed: %d %v %v", code, err, w.Msg)
	}
}

// Replies may be a cache's own.
func TestRepliesAreNotChanged(t *testing.T) {
	t.Parallel()
	h := newHandler(shopScope(t), nil)
	kept := new(dns.Msg).SetQuestion("www.test.", dns.TypeA)
	kept.Response, kept.AuthenticatedData = true, true
	kept.Answer = append(make([]dns.RR, 0, 8), test.A("www.test. 9 IN A 192.0.2.1"))
	before := kept.Copy()
	h.Next = plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		if r.Question[0].Name == "www.test." {
			return dns.RcodeSuccess, w.WriteMsg(kept)
		}
		return (&zone{}).ServeDNS(ctx, w, r)
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { ask(t, h, "www.test.shop.svc.cluster.local.", dns.TypeA) })
	}
	wg.Wait()
	if diff := cmp.Diff(before.String(), kept.String()); diff != "" {
		t.Errorf("changed: %s", diff)
	}
	if kept.Answer[:2][1] != nil {
		t.Error("written beyond the answer")
	}
}
