package autopath

import (
	"slices"
	"testing"

	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

// A keeper stands before a Handler and keeps what it may for as long as it can, as a node's kernel does: an answer for
// everybody, or for those of a Scope, whose own come first.
type keeper struct {
	h      *Handler
	domain string
	scopes []Scope // of all clients
	kept   map[keptKey]*dns.Msg
}

type keptKey struct {
	scope Scope // the zero Scope: for everybody
	name  string
	qtype uint16
}

func newKeeper(z *zone, domain string, scopes []Scope) *keeper {
	k := &keeper{domain: domain, scopes: scopes, kept: make(map[keptKey]*dns.Msg)}
	k.h = New(Config{Told: true, Left: func(scope Scope, names []string) {
		for _, name := range names {
			delete(k.kept, keptKey{scope, name, dns.TypeA})
			delete(k.kept, keptKey{scope, name, dns.TypeAAAA})
		}
	}})
	k.h.Next = z
	return k
}

func (k *keeper) ask(t *testing.T, scope Scope, name string, qtype uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, qtype)
	for _, of := range []Scope{scope, {}} {
		if m := k.kept[keptKey{of, lower(name), qtype}]; m != nil {
			reply := m.Copy()
			reply.Id, reply.Question = q.Id, q.Question
			return reply
		}
	}
	ctx, n := WithNote(t.Context())
	w := dnstest.NewRecorder(&test.ResponseWriter{})
	code, err := k.h.ServeScope(ctx, w, q, scope)
	if err != nil {
		t.Fatal(err)
	}
	if w.Msg == nil {
		return new(dns.Msg).SetRcode(q, code)
	}
	k.keep(w.Msg, *n)
	return w.Msg
}

// keep does what the Note says. An answer without records is not for everybody where somebody searches from the name, and
// the cluster's names are not kept but for a Scope: they are answered as they are.
func (k *keeper) keep(m *dns.Msg, n Note) {
	name, qtype := lower(m.Question[0].Name), m.Question[0].Qtype
	of := keptKey{name: name, qtype: qtype}
	switch n.Keep {
	case KeepNot:
		return
	case KeepForScope:
		of.scope = n.Scope
	case KeepForAll:
		searched := slices.ContainsFunc(k.scopes, func(s Scope) bool { return s.Searches(name, qtype) })
		if below(name, k.domain) || searched && !answers(m, qtype) {
			return
		}
	}
	k.kept[of] = m.Copy()
}

// Whoever keeps answers as their Notes say gives every client what it would find by itself, whatever was asked before and
// by whom.
func TestKeptAnswersAreThoseOfEachClientsSearch(t *testing.T) {
	t.Parallel()
	for resolverName, r := range resolvers {
		t.Run(resolverName, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) {
				for range worlds {
					checkKept(t, rt, resolverName, r)
				}
			})
		})
	}
}

func checkKept(t *testing.T, rt *rapid.T, resolverName string, r resolver) {
	t.Helper()
	w := drawWorld(rt)
	clients := []world{w, w}
	if clients[1].ndots = 1; rapid.Bool().Draw(rt, "another namespace") {
		clients[1].search = []string{"web.svc.cluster.local.", "svc.cluster.local.", "cluster.local."}
		clients[1].ndots = ClusterNdots
	}
	clients[1].types = rapid.SampledFrom(family).Draw(rt, "types of the other")
	var scopes []Scope
	for _, c := range clients {
		scopes = append(scopes, newScope(t, c.ndots, c.domain, c.search...))
	}
	k := newKeeper(w.zone, w.domain, scopes)
	for range rapid.IntRange(2, 8).Draw(rt, "lookups") {
		who := rapid.IntRange(0, len(clients)-1).Draw(rt, "client")
		c, name := clients[who], rapid.SampledFrom(w.names).Draw(rt, "name")
		if clients[0].typedInFull(name) || clients[1].typedInFull(name) {
			continue
		}
		conf := resolverConf{search: c.search, ndots: c.ndots, types: c.types}
		got := r(conf, func(name string, qtype uint16) *dns.Msg { return k.ask(t, scopes[who], name, qtype) }, name)
		want := c.ask(t, r, name, nil)
		if w.noAAAA && got.err != "" && want.err != "" {
			continue // as in check
		}
		if got.equal(want) || resolverName == "musl" && want.err != "" && got.equal(c.ask(t, glibc, name, nil)) {
			continue
		}
		rt.Fatalf("%s: client %d: %q got %v, want %v\n%v", resolverName, who, name, got, want, c)
	}
}
