package autopath

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/miekg/dns"
)

// noted asks a Handler and returns what it says of its answer at the time of writing.
func noted(t *testing.T, h *Handler, name string, qtype uint16) Note {
	t.Helper()
	return notedIn(context.Background(), t, h, name, qtype)
}

func notedIn(ctx context.Context, t *testing.T, h *Handler, name string, qtype uint16) Note {
	t.Helper()
	ctx, n := WithNote(ctx)
	var written Note
	w := &writing{ResponseWriter: &test.ResponseWriter{}, do: func() { written = *n }}
	if _, err := h.ServeDNS(ctx, w, new(dns.Msg).SetQuestion(name, qtype)); err != nil {
		t.Fatal(err)
	}
	if written != *n {
		t.Errorf("%s: note %+v was %+v when the answer was written", name, *n, written)
	}
	return *n
}

type writing struct {
	dns.ResponseWriter
	do func()
}

func (w *writing) WriteMsg(*dns.Msg) error {
	w.do()
	return nil
}

func TestNote(t *testing.T) {
	t.Parallel()
	scope := shopScope(t)
	const in = ".shop.svc.cluster.local."
	for name, tt := range map[string]struct {
		name  string
		qtype uint16
		want  Note
	}{
		"found elsewhere":              {"www.example.test" + in, dns.TypeA, Note{KeepForScope, scope, 7 * time.Second}},
		"found here":                   {"db" + in, dns.TypeA, Note{}},
		"the other type here":          {"db" + in, dns.TypeAAAA, Note{KeepForScope, scope, 7 * time.Second}},
		"the other type elsewhere":     {"www.example.test" + in, dns.TypeAAAA, Note{KeepForScope, scope, 9 * time.Second}},
		"nothing":                      {"no.example.test" + in, dns.TypeA, Note{KeepForScope, scope, 9 * time.Second}},
		"a lookup failed":              {"broken.test" + in, dns.TypeA, Note{Keep: KeepNot}},
		"not searched":                 {"www.example.test.", dns.TypeA, Note{}},
		"another type than an address": {"www.example.test" + in, dns.TypeTXT, Note{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := New(Config{Scopes: scopeOf{scope}})
			h.Next = shop()
			for range 2 { // the second time from memory
				if got := noted(t, h, tt.name, tt.qtype); got.Keep != tt.want.Keep || got.Scope != tt.want.Scope || got.TTL > tt.want.TTL || got.TTL < tt.want.TTL-time.Second {
					t.Errorf("%+v, want %+v", got, tt.want)
				}
			}
		})
	}
}

// Who is told of the cluster's names need not ask whether they are still missing, until it is told.
func TestTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		z := shop()
		h := New(Config{Scopes: scopeOf{shopScope(t)}, Told: true})
		h.Next = &longer{z}
		const name = "www.example.test.shop.svc.cluster.local."
		if got := noted(t, h, name, dns.TypeA); got.TTL != maxTTL {
			t.Errorf("%+v", got)
		}
		z.takeAsked()
		time.Sleep(maxTTL - time.Second)
		if noted(t, h, name, dns.TypeA); len(z.takeAsked()) != 1 {
			t.Error("asked again for what the cluster does not have")
		}
		z.names["www.example.test.svc.cluster.local."] = entry{a: Data, aaaa: Data}
		h.Forget()
		if noted(t, h, name, dns.TypeA); !slices.Contains(z.takeAsked(), "A www.example.test.svc.cluster.local.") {
			t.Error("a new name is not asked for")
		}
	})
}

// longer is a zone whose records hold for an hour; its negative answers are as they were.
type longer struct{ *zone }

func (l *longer) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	recorder := dnstest.NewRecorder(w)
	m := l.answer(r)
	for _, rr := range m.Answer {
		rr.Header().Ttl = 3600
	}
	return m.Rcode, recorder.WriteMsg(m)
}

// A search that was under way when names came into being is answered, but kept by nobody.
func TestForgetDuringASearch(t *testing.T) {
	t.Parallel()
	z := shop()
	h := New(Config{Scopes: scopeOf{shopScope(t)}, Told: true})
	h.Next = interrupted{z, h.Forget}
	const name = "www.example.test.shop.svc.cluster.local."
	if got := noted(t, h, name, dns.TypeA); got != (Note{Keep: KeepNot}) {
		t.Errorf("%+v", got)
	}
	h.Next = z
	z.takeAsked()
	if noted(t, h, name, dns.TypeA); len(z.takeAsked()) == 1 {
		t.Error("the end of the search was remembered")
	}
}

type interrupted struct {
	*zone
	by func()
}

func (i interrupted) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	i.by()
	return i.zone.ServeDNS(ctx, w, r)
}

// Whoever keeps answers is told of the names that a client asks for after a search that failed.
func TestLeft(t *testing.T) {
	t.Parallel()
	var left []string
	h := New(Config{Scopes: scopeOf{shopScope(t)}, Left: func(_ Scope, names []string) { left = append(left, names...) }})
	h.Next = shop()
	for _, tt := range []struct {
		name string
		want []string
	}{
		{"www.example.test", nil},
		{"web.shop", []string{"web.shop.svc.cluster.local."}},
		{"a.b.c.d.e.shop", []string{"a.b.c.d.e.shop.svc.cluster.local."}},
	} {
		left = nil
		noted(t, h, tt.name+".shop.svc.cluster.local.", dns.TypeA)
		if !slices.Equal(left, tt.want) {
			t.Errorf("after %s: left %q, want %q", tt.name, left, tt.want)
		}
	}
}

// A question without a client is searched for as one of its Scope would search, and as if nobody had before.
func TestWithScope(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := New(Config{Scopes: scopeOf{}})
		h.Next = shop()
		ctx := WithScope(t.Context(), shopScope(t))
		const name = "www.example.test.shop.svc.cluster.local."
		for range 2 {
			if got := notedIn(ctx, t, h, name, dns.TypeA); got != (Note{KeepForScope, shopScope(t), 7 * time.Second}) {
				t.Errorf("%+v", got)
			}
			time.Sleep(time.Second)
		}
	})
}
