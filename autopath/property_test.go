package autopath

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

var resolvers = map[string]resolver{"glibc": glibc, "musl": musl, "go": golang}

// A world is a server, a client's configuration and what its program asks for.
type world struct {
	zone   *zone
	search []string
	ndots  int
	types  []uint16
	names  []string // one after the other, through one Handler
	domain string
	noAAAA bool // a template denies that any name of the cluster exists, to whoever asks for AAAA
}

var (
	labels  = []string{"db", "shop", "web", "WEB", "svc", "x"}
	domains = []string{
		"shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", "web.svc.cluster.local.", "corp.test.", "test.",
		"db.corp.test.", "svc.", strings.Repeat("long.", 48),
	}
	usual  = []string{"shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local."}
	tails  = []string{"", "", "", ".", ".svc", ".shop.svc.cluster.local", ".shop.svc.cluster.local.", ".cluster.local", ".corp.test"}
	family = [][]uint16{{dns.TypeA, dns.TypeAAAA}, {dns.TypeA, dns.TypeAAAA}, {dns.TypeA}, {dns.TypeAAAA}}
)

func drawWorld(rt *rapid.T) world {
	w := world{ndots: rapid.SampledFrom([]int{5, 5, 5, 1, 2, 3, 0}).Draw(rt, "ndots"), domain: "cluster.local."}
	w.noAAAA = rapid.IntRange(0, 4).Draw(rt, "no AAAA") == 0
	w.search = append(w.search, usual...)
	if rapid.Bool().Draw(rt, "unusual") {
		w.search = rapid.SliceOfN(rapid.SampledFrom(append([]string{"."}, domains...)), 1, 5).Draw(rt, "search")
	} else {
		w.search = append(w.search, rapid.SliceOfN(rapid.SampledFrom(domains[4:]), 0, 2).Draw(rt, "host search")...)
	}
	w.types = rapid.SampledFrom(family).Draw(rt, "types")
	for range rapid.IntRange(1, 3).Draw(rt, "questions") {
		name := strings.Join(rapid.SliceOfN(rapid.SampledFrom(labels), 1, 3).Draw(rt, "labels"), ".")
		w.names = append(w.names, name+rapid.SampledFrom(tails).Draw(rt, "tail"))
	}
	w.zone = &zone{names: drawEntries(rt, w)}
	return w
}

// drawEntries puts something at some of the names that the searches lead to, and at names nobody should ask for.
func drawEntries(rt *rapid.T, w world) map[string]entry {
	entries := make(map[string]entry)
	var names []string
	for _, name := range w.names {
		absolute := lower(strings.TrimSuffix(name, ".")) + "."
		names = append(names, absolute)
		for base := absolute; strings.Contains(base, "."); { // what could be taken for the base of a name typed in full
			base = base[:strings.LastIndexByte(base[:len(base)-1], '.')+1]
			names = append(names, base)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if name == "" {
			continue
		}
		for _, domain := range append([]string{"."}, w.search...) {
			full := name + strings.TrimPrefix(domain, ".")
			if rapid.IntRange(0, 2).Draw(rt, "at "+full) == 0 {
				entries[full] = drawEntry(rt)
				if e := entries[full]; w.noAAAA && below(full, w.domain) {
					e.aaaa = NoName
					entries[full] = e
				}
			}
		}
	}
	return entries
}

func drawEntry(rt *rapid.T) entry {
	statuses := []Status{Data, Data, Data, NoData, NoData, Unknown}
	s := rapid.SampledFrom(statuses)
	e := entry{a: s.Draw(rt, "A"), aaaa: s.Draw(rt, "AAAA")}
	if rapid.IntRange(0, 4).Draw(rt, "cname") == 0 {
		e.cname = "elsewhere.test."
	}
	return e
}

// asked is what a program gets, with the server asked directly or through a Handler.
func (w world) ask(t *testing.T, r resolver, name string, through *Handler) result {
	t.Helper()
	c := resolverConf{search: w.search, ndots: w.ndots, types: w.types}
	return r(c, func(name string, qtype uint16) *dns.Msg {
		if through != nil {
			return ask(t, through, name, qtype)
		}
		m := new(dns.Msg).SetQuestion(name, qtype)
		if reply := w.zone.answer(m); reply != nil {
			return reply
		}
		return new(dns.Msg).SetRcode(m, dns.RcodeServerFailure)
	}, name)
}

// typedInFull is whether a name that is asked for as it is, first, looks like the first question of a search. Nobody can
// tell these apart.
func (w world) typedInFull(name string) bool {
	if !strings.HasSuffix(name, ".") && strings.Count(name, ".") < w.ndots {
		return false
	}
	absolute, first := lower(strings.TrimSuffix(name, "."))+".", w.search[0]
	return absolute != first && below(absolute, first)
}

func (w world) String() string {
	return fmt.Sprintf("search %q ndots %d types %v names %q, zone %v", w.search, w.ndots, w.types, w.names, w.zone.names)
}

// Whatever server, configuration and name: with autopath a program gets what it gets without. musl, which gives up on
// NODATA and on a type that is denied, may get what glibc does.
func TestAnswerIsThatOfTheClientsSearch(t *testing.T) {
	t.Parallel()
	for resolverName, r := range resolvers {
		t.Run(resolverName, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) {
				for range worlds {
					w := drawWorld(rt)
					w.check(t, rt, resolverName, r)
				}
			})
		})
	}
}

// worlds is how many are drawn for one check: most searches end early, and the rare ones matter.
const worlds = 20

func (w world) check(t *testing.T, rt *rapid.T, resolverName string, r resolver) {
	t.Helper()
	h := newHandler(newScope(t, w.ndots, w.domain, w.search...), w.zone)
	for _, name := range w.names {
		if w.typedInFull(name) {
			continue
		}
		want, got := w.ask(t, r, name, nil), w.ask(t, r, name, h)
		if w.noAAAA && got.err != "" && want.err != "" {
			continue // a server that contradicts itself and fails besides: which error it is may differ
		}
		if got.equal(want) || resolverName == "musl" && want.err != "" && got.equal(w.ask(t, glibc, name, nil)) {
			continue
		}
		rt.Fatalf("%s: %q got %v, want %v\n%v", resolverName, name, got, want, w)
	}
}
